//! Sets of fields, in the form in which `metadata.managedFields` holds them.
//!
//! A set is a tree: `f:NAME` leads into a field, `k:{…}` to the item of a list with these keys, `v:…` to
//! a scalar of a set. A leaf is an empty object; `.` stands for the field or item itself.

use serde_json::{Map, Value, json};

use crate::schema::{Type, below, is_leaf};

/// The set of all leaves of a value. With `Mark::Items`, items of lists are members themselves.
pub(crate) fn of(kind: &Type, value: &Value) -> Value {
    match (kind, value) {
        _ if is_leaf(kind) => json!({}),
        (
            Type::List {
                list, keys, set, ..
            },
            Value::Array(items),
        ) => {
            let mut tree = Map::new();
            for item in items {
                let name = if *set {
                    value_name(item)
                } else {
                    key_name(keys, item)
                };
                let mut below = if *set { json!({}) } else { of(list, item) };
                if !*set {
                    below["."] = json!({});
                }
                tree.insert(name, below);
            }
            Value::Object(tree)
        }
        (_, Value::Object(entries)) => {
            let tree = entries.iter().filter_map(|(key, entry)| {
                Some((format!("f:{key}"), of(below(kind, key)?, entry)))
            });
            Value::Object(tree.collect())
        }
        _ => json!({}),
    }
}

/// The leaves of `new` that differ from `old` or are new.
pub(crate) fn changed(kind: &Type, old: Option<&Value>, new: &Value) -> Value {
    let Some(old) = old else {
        return of(kind, new);
    };
    if old == new {
        return Value::Null;
    }
    let mut tree = Map::new();
    match (kind, old, new) {
        _ if is_leaf(kind) => return json!({}),
        (
            Type::List {
                list, keys, set, ..
            },
            Value::Array(before),
            Value::Array(after),
        ) => {
            for item in after {
                let (name, previous) = if *set {
                    let known = before.contains(item);
                    (value_name(item), known.then_some(item))
                } else {
                    let name = key_name(keys, item);
                    let known = before.iter().find(|old| key_name(keys, old) == name);
                    (name, known)
                };
                let mut difference = if *set && previous.is_some() {
                    Value::Null
                } else {
                    changed(list, previous, item)
                };
                if previous.is_none() && !*set {
                    difference["."] = json!({});
                }
                if !difference.is_null() {
                    tree.insert(name, difference);
                }
            }
        }
        (_, Value::Object(before), Value::Object(after)) => {
            for (key, entry) in after {
                let Some(kind) = below(kind, key) else {
                    continue;
                };
                let difference = changed(kind, before.get(key), entry);
                if !difference.is_null() {
                    tree.insert(format!("f:{key}"), difference);
                }
            }
        }
        _ => return json!({}),
    }
    if tree.is_empty() {
        Value::Null
    } else {
        Value::Object(tree)
    }
}

/// All of both.
pub(crate) fn union(into: &mut Value, other: &Value) {
    let (Value::Object(into), Value::Object(other)) = (into, other) else {
        return;
    };
    for (key, below) in other {
        match into.get_mut(key) {
            Some(known) => union(known, below),
            None => {
                into.insert(key.clone(), below.clone());
            }
        }
    }
}

/// What is left of the set without the leaves of the other; null if nothing is.
pub(crate) fn without(set: &Value, other: &Value) -> Value {
    let (Value::Object(entries), Value::Object(others)) = (set, other) else {
        return set.clone();
    };
    if others.is_empty() {
        return Value::Null;
    }
    let mut left = Map::new();
    for (key, below) in entries {
        let rest = match others.get(key) {
            Some(other) if is_end(other) => Value::Null,
            Some(other) => without(below, other),
            None => below.clone(),
        };
        if !rest.is_null() {
            left.insert(key.clone(), rest);
        }
    }
    let only_self = left.keys().all(|key| key == ".");
    if left.is_empty() || (only_self && !entries.keys().all(|key| key == ".")) {
        Value::Null
    } else {
        Value::Object(left)
    }
}

/// Whether the set ends here: a leaf.
fn is_end(set: &Value) -> bool {
    set.as_object().is_some_and(Map::is_empty)
}

/// Whether the set has the whole path as a leaf or as a prefix of leaves.
pub(crate) fn has(set: &Value, path: &[String]) -> bool {
    let mut at = set;
    for step in path {
        match at.get(step) {
            Some(below) => at = below,
            None => return false,
        }
    }
    true
}

/// The paths of all leaves of a set.
pub(crate) fn leaves(set: &Value) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    collect(set, &mut Vec::new(), &mut found);
    found
}

fn collect(set: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let Value::Object(entries) = set else { return };
    if entries.is_empty() {
        if path.last().is_none_or(|last| last != ".") {
            found.push(path.clone());
        }
        return;
    }
    for (key, below) in entries {
        path.push(key.clone());
        collect(below, path, found);
        path.pop();
    }
    if entries.keys().all(|key| key == ".") {
        found.push(path.clone());
    }
}

/// The value at a path of a set.
pub(crate) fn at<'a>(kind: &Type, value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((step, rest)) = path.split_first() else {
        return Some(value);
    };
    if let Some(field) = step.strip_prefix("f:") {
        return at(below(kind, field)?, value.get(field)?, rest);
    }
    let Type::List {
        list, keys, set, ..
    } = kind
    else {
        return None;
    };
    let items = value.as_array()?;
    let name = |item: &Value| {
        if *set {
            value_name(item)
        } else {
            key_name(keys, item)
        }
    };
    let item = items.iter().find(|item| name(item) == *step)?;
    at(list, item, rest)
}

/// Takes the value at a path out. Parents stay unless they are items of lists that are meant themselves.
pub(crate) fn remove(kind: &Type, value: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    if let Some(field) = step.strip_prefix("f:") {
        let (Some(kind), Some(entries)) = (below(kind, field), value.as_object_mut()) else {
            return;
        };
        if rest.is_empty() {
            entries.remove(field);
        } else if let Some(entry) = entries.get_mut(field) {
            remove(kind, entry, rest);
            if entry.as_object().is_some_and(Map::is_empty)
                || entry.as_array().is_some_and(Vec::is_empty)
            {
                entries.remove(field);
            }
        }
        return;
    }
    let (
        Type::List {
            list, keys, set, ..
        },
        Some(items),
    ) = (kind, value.as_array_mut())
    else {
        return;
    };
    let name = |item: &Value| {
        if *set {
            value_name(item)
        } else {
            key_name(keys, item)
        }
    };
    let Some(index) = items.iter().position(|item| name(item) == *step) else {
        return;
    };
    if rest.is_empty() {
        items.remove(index);
    } else {
        remove(list, &mut items[index], rest);
    }
}

/// A path as errors show it: `.spec.containers[name="agent"].image`.
pub(crate) fn show(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        if let Some(field) = step.strip_prefix("f:") {
            text.push('.');
            text.push_str(field);
        } else if let Some(keys) = step.strip_prefix("k:") {
            let keys: Value = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<_> = keys
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            text.extend(["[", &pairs.join(","), "]"]);
        } else if let Some(value) = step.strip_prefix("v:") {
            text.extend(["[=", value, "]"]);
        }
    }
    text
}

/// The name of a list's item in a set. Keys that are absent have the default that the API gives them.
pub(crate) fn key_name(keys: &[String], item: &Value) -> String {
    let pairs = keys.iter().filter_map(|key| {
        let value = match item.get(key) {
            Some(value) => value.clone(),
            None if key == "protocol" => json!("TCP"),
            None => return None,
        };
        Some((key.clone(), value))
    });
    format!("k:{}", Value::Object(pairs.collect()))
}

fn value_name(item: &Value) -> String {
    format!("v:{item}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::root;

    fn deployment(image: &str, replicas: u32) -> Value {
        json!({"spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "a", "image": image}]}}}})
    }

    #[test]
    fn a_set_names_the_items_of_lists_by_their_keys() {
        let set = of(&root("Deployment"), &deployment("i", 1));
        let item = json!({".": {}, "f:image": {}, "f:name": {}});
        let containers = json!({"k:{\"name\":\"a\"}": item});
        assert_eq!(
            set,
            json!({"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": containers}}}})
        );
    }

    #[test]
    fn only_what_changed_is_in_the_difference() {
        let kind = root("Deployment");
        let old = deployment("i", 1);
        assert_eq!(
            changed(&kind, Some(&old), &deployment("i", 2)),
            json!({"f:spec": {"f:replicas": {}}})
        );
        let paths = leaves(&changed(&kind, Some(&old), &deployment("j", 1)));
        assert_eq!(paths.len(), 1);
        assert_eq!(
            show(&paths[0]),
            ".spec.template.spec.containers[name=\"a\"].image"
        );
        assert_eq!(at(&kind, &old, &paths[0]), Some(&json!("i")));
    }

    #[test]
    fn what_is_taken_out_of_a_set_is_gone_with_its_empty_parents() {
        let set = json!({"f:spec": {"f:replicas": {}}, "f:metadata": {"f:labels": {"f:a": {}}}});
        let rest = without(&set, &json!({"f:spec": {"f:replicas": {}}}));
        assert_eq!(rest, json!({"f:metadata": {"f:labels": {"f:a": {}}}}));
    }

    #[test]
    fn removing_a_field_leaves_its_siblings() {
        let mut value = deployment("i", 1);
        let kind = root("Deployment");
        remove(
            &kind,
            &mut value,
            &["f:spec".to_owned(), "f:replicas".to_owned()],
        );
        assert!(value["spec"].get("replicas").is_none());
        assert!(value["spec"]["template"].is_object());
    }
}
