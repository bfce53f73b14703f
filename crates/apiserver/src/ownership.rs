//! Who set which field: `metadata.managedFields`, and server-side apply on top of it.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::fields;
use crate::resources::Resource;
use crate::schema::{Type, below, is_leaf, root};

/// Who writes.
#[derive(Debug, Clone)]
pub(crate) struct Manager {
    /// Its name.
    pub(crate) name: String,
    /// What it writes through; empty for the object itself.
    pub(crate) subresource: &'static str,
    /// The time of the write.
    pub(crate) time: String,
}

/// Whether an apply may take fields of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    /// It takes them.
    Yes,
    /// It is refused.
    No,
}

/// The parts of an object that have owners.
fn owned_part(object: &Value) -> Value {
    let mut part = object.clone();
    if let Some(fields) = part.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            const OWNED: [&str; 5] = [
                "annotations",
                "finalizers",
                "generateName",
                "labels",
                "ownerReferences",
            ];
            metadata.retain(|key, _| OWNED.contains(&key.as_str()));
            if metadata.is_empty() {
                fields.remove("metadata");
            }
        }
    }
    part
}

fn entries(object: &Value) -> Vec<Value> {
    let entries = object["metadata"]["managedFields"].as_array();
    entries.cloned().unwrap_or_default()
}

fn set_entries(object: &mut Value, entries: Vec<Value>) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), Value::Array(entries));
        }
    }
}

fn is(entry: &Value, manager: &Manager, operation: &str) -> bool {
    entry["manager"] == manager.name.as_str()
        && entry["operation"] == operation
        && entry["subresource"].as_str().unwrap_or_default() == manager.subresource
}

fn entry(resource: &Resource, manager: &Manager, operation: &str, set: &Value) -> Value {
    let mut entry = json!({
        "manager": manager.name,
        "operation": operation,
        "apiVersion": resource.api_version(),
        "time": manager.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": set,
    });
    if !manager.subresource.is_empty() {
        entry["subresource"] = json!(manager.subresource);
    }
    entry
}

/// Writes into `new` who owns what after `manager` has turned `old` into it by anything but apply.
pub(crate) fn after_update(
    resource: &Resource,
    manager: &Manager,
    old: Option<&Value>,
    new: &mut Value,
) {
    let kind = root(resource.kind);
    let before = old.map(owned_part);
    let after = owned_part(new);
    let changed = fields::changed(&kind, before.as_ref(), &after);
    let mut kept = Vec::new();
    let mut own = json!({});
    for mut entry in old.map(entries).unwrap_or_default() {
        let mut set = entry["fieldsV1"].take();
        set = existing(&kind, &after, &set);
        let mine = is(&entry, manager, "Update");
        if mine {
            own = set;
            continue;
        }
        if !changed.is_null() {
            set = fields::without(&set, &changed);
        }
        if !set.is_null() {
            entry["fieldsV1"] = set;
            kept.push(entry);
        }
    }
    let previous = old.map(entries).unwrap_or_default();
    let previous = previous.iter().find(|entry| is(entry, manager, "Update"));
    if !changed.is_null() {
        fields::union(&mut own, &changed);
    }
    if own.as_object().is_some_and(|own| !own.is_empty()) {
        let mut mine = entry(resource, manager, "Update", &own);
        if let Some(previous) = previous
            && previous["fieldsV1"] == own
            && changed.is_null()
        {
            mine["time"] = previous["time"].clone();
        }
        kept.push(mine);
    }
    set_entries(new, kept);
}

/// The part of the set that the object still has.
fn existing(kind: &Type, object: &Value, set: &Value) -> Value {
    let mut rest = set.clone();
    for path in fields::leaves(set) {
        if fields::at(kind, object, &path).is_none() {
            let mut gone = json!({});
            for step in path.iter().rev() {
                gone = json!({ step: gone });
            }
            rest = fields::without(&rest, &gone);
            if rest.is_null() {
                return json!({});
            }
        }
    }
    rest
}

/// The object after an apply of `config` to `live`, with its owners.
///
/// # Errors
/// Conflicts with others, unless forced.
pub(crate) fn apply(
    resource: &Resource,
    manager: &Manager,
    force: Force,
    live: Option<&Value>,
    config: &Value,
) -> Result<Value, Failure> {
    let kind = root(resource.kind);
    let wanted = owned_part(config);
    let set = fields::of(&kind, &wanted);
    let Some(live) = live else {
        let mut object = config.clone();
        let own = entry(resource, manager, "Apply", &set);
        set_entries(&mut object, vec![own]);
        return Ok(object);
    };
    let (mut others, mut previous) = (Vec::new(), None);
    for known in entries(live) {
        if is(&known, manager, "Apply") {
            previous = Some(known);
        } else {
            others.push(known);
        }
    }
    let conflicts = conflicts(&kind, &set, &wanted, live, &others);
    if !conflicts.is_empty() {
        if force == Force::No {
            return Err(Failure::apply_conflict(&conflicts_of(&conflicts)));
        }
        for (_, path) in &conflicts {
            let mut lost = json!({});
            for step in path.iter().rev() {
                lost = json!({ step: lost });
            }
            for other in &mut others {
                other["fieldsV1"] = fields::without(&other["fieldsV1"], &lost);
            }
        }
        others.retain(|other| !other["fieldsV1"].is_null());
    }
    let mut merged = live.clone();
    if let Some(previous) = &previous {
        withdraw(&kind, &mut merged, &previous["fieldsV1"], &set, &others);
    }
    merge(&kind, &mut merged, &wanted);
    let mut own = entry(resource, manager, "Apply", &set);
    if let Some(previous) = &previous
        && previous["fieldsV1"] == set
    {
        own["time"] = previous["time"].clone();
    }
    // Owners by apply come first, as the server sorts them.
    let at = others
        .iter()
        .position(|other| other["operation"] != "Apply")
        .unwrap_or(others.len());
    others.insert(at, own);
    set_entries(&mut merged, others);
    Ok(merged)
}

type Conflict = (String, Vec<String>);

fn conflicts(
    kind: &Type,
    set: &Value,
    wanted: &Value,
    live: &Value,
    others: &[Value],
) -> Vec<Conflict> {
    let mut found = Vec::new();
    for path in fields::leaves(set) {
        let new = fields::at(kind, wanted, &path);
        if fields::at(kind, live, &path) == new {
            continue;
        }
        for other in others {
            if fields::has(&other["fieldsV1"], &path) {
                let name = other["manager"].as_str().unwrap_or_default();
                found.push((name.to_owned(), path.clone()));
            }
        }
    }
    found
}

fn conflicts_of(conflicts: &[Conflict]) -> Vec<(String, String)> {
    conflicts
        .iter()
        .map(|(manager, path)| (manager.clone(), fields::show(path)))
        .collect()
}

/// Takes out what the manager applied before, no longer wants, and nobody else owns.
fn withdraw(kind: &Type, object: &mut Value, previous: &Value, set: &Value, others: &[Value]) {
    let owned = |path: &[String]| {
        fields::has(set, path)
            || others
                .iter()
                .any(|other| fields::has(&other["fieldsV1"], path))
    };
    for path in fields::leaves(previous) {
        if owned(&path) {
            continue;
        }
        // An item of a list goes as a whole if nothing of it is wanted any more.
        let whole = (1..=path.len())
            .find(|&length| path[length - 1].starts_with("k:") && !owned(&path[..length]))
            .unwrap_or(path.len());
        fields::remove(kind, object, &path[..whole]);
    }
}

/// Puts `config` over `into`: scalars and what has one owner are replaced, the rest is merged.
fn merge(kind: &Type, into: &mut Value, config: &Value) {
    match (kind, into, config) {
        (kind, into, config) if is_leaf(kind) => *into = config.clone(),
        (
            Type::List {
                list, keys, set, ..
            },
            Value::Array(items),
            Value::Array(wanted),
        ) => {
            for item in wanted {
                if *set {
                    if !items.contains(item) {
                        items.push(item.clone());
                    }
                    continue;
                }
                let name = fields::key_name(keys, item);
                match items
                    .iter_mut()
                    .find(|known| fields::key_name(keys, known) == name)
                {
                    Some(known) => merge(list, known, item),
                    None => items.push(item.clone()),
                }
            }
        }
        (_, Value::Object(entries), Value::Object(wanted)) => {
            for (key, value) in wanted {
                let known = entries.get_mut(key).filter(|known| !known.is_null());
                match (known, below(kind, key)) {
                    (Some(known), Some(kind)) => merge(kind, known, value),
                    _ => {
                        entries.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (_, into, config) => *into = config.clone(),
    }
}

/// The entries without their times, to see whether an apply changed anything.
pub(crate) fn without_times(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        if let Some(Value::Array(entries)) = metadata.get_mut("managedFields") {
            for fields in entries.iter_mut().filter_map(Value::as_object_mut) {
                fields.remove("time");
            }
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &str) -> Manager {
        Manager {
            name: name.to_owned(),
            subresource: "",
            time: "now".to_owned(),
        }
    }

    fn applied(
        name: &str,
        live: Option<&Value>,
        force: Force,
        config: &Value,
    ) -> Result<Value, Failure> {
        apply(
            Resource::of("deployments"),
            &manager(name),
            force,
            live,
            config,
        )
    }

    #[test]
    fn two_managers_of_one_field_are_in_conflict_until_one_forces() {
        let one = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1}});
        let two = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2}});
        let live = applied("a", None, Force::No, &one).unwrap();
        let refused = applied("b", Some(&live), Force::No, &two).unwrap_err();
        assert_eq!(
            refused.message,
            "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas"
        );
        let forced = applied("b", Some(&live), Force::Yes, &two).unwrap();
        assert_eq!(forced["spec"]["replicas"], 2);
        let owners = forced["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(owners.len(), 1);
        assert_eq!(owners[0]["manager"], "b");
    }

    #[test]
    fn what_a_manager_no_longer_applies_is_taken_out() {
        let env = |names: &[&str]| {
            let env: Vec<_> = names
                .iter()
                .map(|name| json!({"name": name, "value": "1"}))
                .collect();
            let container = json!({"name": "a", "env": env});
            json!({"spec": {"template": {"spec": {"containers": [container]}}}, "metadata": {"labels": {"l": "1"}}})
        };
        let live = applied("a", None, Force::No, &env(&["X", "Y"])).unwrap();
        let live = applied("a", Some(&live), Force::No, &env(&["Y"])).unwrap();
        let container = &live["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["env"], json!([{"name": "Y", "value": "1"}]));
    }

    #[test]
    fn an_update_takes_the_fields_that_it_changes() {
        let deployments = Resource::of("deployments");
        let live = applied(
            "a",
            None,
            Force::No,
            &json!({"metadata": {}, "spec": {"replicas": 1, "paused": true}}),
        )
        .unwrap();
        let mut new = live.clone();
        new["spec"]["replicas"] = json!(5);
        after_update(deployments, &manager("scaler"), Some(&live), &mut new);
        let owners = new["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(owners[0]["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
        assert_eq!(owners[1]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    }
}
