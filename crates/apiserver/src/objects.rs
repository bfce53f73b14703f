//! What happens to an object on its way into the store: shape, defaults, admission, rules, owners.

use std::collections::BTreeMap;

use jiff::{Timestamp, Unit};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::ownership::{self, Force, Manager};
use crate::resources::{Resource, Scope};
use crate::store::{Key, Object, Store};
use crate::{admission, defaults, schema, validation};

/// Who writes, and whether for real.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    /// Who owns what is written.
    pub(crate) manager: Manager,
    /// Everything is done but the storing.
    pub(crate) dry_run: bool,
}

/// What to do about fields that the kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Refuse the object.
    Strict,
    /// Drop them and warn.
    Warn,
    /// Drop them.
    Ignore,
}

impl Write {
    /// A write of one of the server's own controllers.
    pub(crate) fn of_controller(name: &str, subresource: &'static str) -> Self {
        Self {
            manager: Manager {
                name: name.to_owned(),
                subresource,
                time: now(),
            },
            dry_run: false,
        }
    }
}

/// The time as objects hold it: whole seconds.
pub(crate) fn now() -> String {
    let now = Timestamp::now().round(Unit::Second);
    now.unwrap_or_else(|_| Timestamp::now()).to_string()
}

/// Five random letters, as names that the server makes up end with.
pub(crate) fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4();
    let letters = random.as_bytes().iter().take(5);
    letters
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
        .collect()
}

/// Reads the object that a request brings; gives it with the warnings about it.
///
/// # Errors
/// When it is not an object of this kind.
pub(crate) fn decode(
    resource: &Resource,
    body: &[u8],
    unknown: Unknown,
) -> Result<(Value, Vec<String>), Failure> {
    let object: Value = serde_json::from_slice(body).map_err(|error| {
        Failure::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {error}",
            resource.kind
        ))
    })?;
    fit(resource, object, unknown)
}

/// Fits an object to its kind: no nulls, no unknown fields, the right types.
///
/// # Errors
/// When it is not an object of this kind.
pub(crate) fn fit(
    resource: &Resource,
    mut object: Value,
    unknown: Unknown,
) -> Result<(Value, Vec<String>), Failure> {
    let version = resource.version;
    let kind = object["kind"].as_str().unwrap_or(resource.kind).to_owned();
    let api_version = object["apiVersion"].as_str().map(str::to_owned);
    if kind != resource.kind {
        return Err(Failure::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {}",
            resource.kind
        )));
    }
    if api_version.is_some_and(|given| given != resource.api_version()) {
        return Err(Failure::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            object["apiVersion"].as_str().unwrap_or_default(),
            resource.api_version()
        )));
    }
    let refuse = |why: String| {
        Failure::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"
        ))
    };
    if !object.is_object() {
        return Err(refuse("it is not an object".to_owned()));
    }
    if object["metadata"].is_null() {
        object["metadata"] = json!({});
    }
    let found = schema::fit(resource.kind, &mut object).map_err(refuse)?;
    object["kind"] = json!(resource.kind);
    object["apiVersion"] = json!(resource.api_version());
    let sentences: Vec<_> = found
        .iter()
        .map(|field| format!("unknown field \"{field}\""))
        .collect();
    match unknown {
        Unknown::Strict if !sentences.is_empty() => Err(refuse(format!(
            "strict decoding error: {}",
            sentences.join(", ")
        ))),
        Unknown::Warn => Ok((object, sentences)),
        _ => Ok((object, Vec::new())),
    }
}

/// Stores a new object. `owners` says whether the object already has its managed fields.
///
/// # Errors
/// When a rule, the namespace or an object of that name is against it.
pub(crate) fn create(
    store: &mut Store,
    resource: &'static Resource,
    namespace: &str,
    mut object: Value,
    write: &Write,
) -> Result<Object, Failure> {
    let metadata = &mut object["metadata"];
    if metadata["resourceVersion"]
        .as_str()
        .is_some_and(|version| !version.is_empty())
    {
        return Err(Failure::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let elsewhere = metadata["namespace"]
        .as_str()
        .is_some_and(|given| given != namespace);
    if elsewhere && resource.scope == Scope::Namespaced {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if metadata["name"].as_str().is_none_or(str::is_empty)
        && let Some(prefix) = metadata["generateName"]
            .as_str()
            .filter(|prefix| !prefix.is_empty())
    {
        metadata["name"] = json!(format!("{prefix}{}", suffix()));
    }
    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
    admission::into_namespace(store, resource, namespace, &name)?;
    admission::born(resource, namespace, &mut object);
    defaults::fill(resource, &mut object);
    if resource.plural == "pods" {
        defaults::admit_pod(&mut object);
    }
    check(resource, None, &object, &name)?;
    let key = Key::new(resource, namespace, &name);
    if store.get(&key).is_some() {
        return Err(Failure::already_exists(resource, &name));
    }
    if resource.plural == "pods" {
        admission::admit(store, resource, namespace, &object)?;
    }
    if object["metadata"]["managedFields"].is_null() {
        let mut owned = object.clone();
        // What admission and the first status say has no owner.
        strip_unowned(resource, &mut owned);
        ownership::after_update(resource, &write.manager, None, &mut owned);
        object["metadata"]["managedFields"] = owned["metadata"]["managedFields"].take();
    }
    drop_null_metadata(&mut object);
    if write.dry_run {
        return Ok(object.into());
    }
    Ok(store.put(key, object))
}

fn strip_unowned(resource: &Resource, object: &mut Value) {
    if let Some(fields) = object.as_object_mut()
        && resource.has_status()
    {
        fields.remove("status");
    }
}

fn drop_null_metadata(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|_, value| !value.is_null());
    }
}

fn check(
    resource: &Resource,
    old: Option<&Value>,
    object: &Value,
    name: &str,
) -> Result<(), Failure> {
    let causes = validation::broken(resource, old, object);
    if causes.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid(
            resource.group,
            resource.kind,
            name,
            &causes,
        ))
    }
}

/// How the owners of fields are found on a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owners {
    /// From what differs.
    FromDifference,
    /// They are in the new object already.
    InObject,
}

/// Replaces an object by `new`.
///
/// # Errors
/// When a rule is against it, or somebody else was faster.
pub(crate) fn update(
    store: &mut Store,
    resource: &'static Resource,
    key: &Key,
    mut new: Value,
    write: &Write,
    owners: Owners,
) -> Result<Object, Failure> {
    let old = store.get(key).cloned();
    let old = old.ok_or_else(|| Failure::not_found(resource, &key.name))?;
    same_object(resource, &key.name, &old, &new)?;
    keep_system_fields(&old, &mut new);
    let status_only = write.manager.subresource == "status";
    if status_only {
        let status = new["status"].take();
        let managed = new["metadata"]["managedFields"].take();
        new = Value::clone(&old);
        new["status"] = status;
        if owners == Owners::InObject {
            new["metadata"]["managedFields"] = managed;
        }
    } else if resource.has_status() && !old["status"].is_null() {
        new["status"] = old["status"].clone();
    }
    if !status_only {
        defaults::fill(resource, &mut new);
        // The scheduler binds a Pod; nobody else may name its node.
        check(resource, Some(&old), &new, &key.name)?;
    }
    if resource.counts_generations && old["spec"] != new["spec"] {
        let generation = old["metadata"]["generation"].as_u64().unwrap_or_default();
        new["metadata"]["generation"] = json!(generation + 1);
    }
    if owners == Owners::FromDifference {
        ownership::after_update(resource, &write.manager, Some(&old), &mut new);
    }
    drop_null_metadata(&mut new);
    if ownership::without_times(&old) == ownership::without_times(&new) {
        return Ok(old);
    }
    if write.dry_run {
        return Ok(new.into());
    }
    let gone = is_released(&new);
    let stored = store.put(key.clone(), new);
    if gone {
        return Ok(store.remove(key).unwrap_or(stored));
    }
    Ok(stored)
}

/// Whether nothing holds a deleted object back any more.
fn is_released(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let held = metadata["finalizers"]
        .as_array()
        .is_some_and(|list| !list.is_empty());
    let waits = metadata["deletionGracePeriodSeconds"]
        .as_u64()
        .is_some_and(|seconds| seconds > 0);
    let spaces = object["kind"] == "Namespace";
    !metadata["deletionTimestamp"].is_null() && !held && !waits && !spaces
}

fn same_object(resource: &Resource, name: &str, old: &Value, new: &Value) -> Result<(), Failure> {
    let (before, after) = (&old["metadata"], &new["metadata"]);
    let differs = |field: &str| {
        after[field]
            .as_str()
            .is_some_and(|given| !given.is_empty() && before[field] != given)
    };
    if differs("uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            after["uid"].as_str().unwrap_or_default(),
            before["uid"].as_str().unwrap_or_default()
        );
        return Err(Failure::conflict(resource, name, &why));
    }
    if differs("resourceVersion") {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        return Err(Failure::conflict(resource, name, why));
    }
    Ok(())
}

fn keep_system_fields(old: &Value, new: &mut Value) {
    const SYSTEM: [&str; 8] = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    ];
    for field in SYSTEM {
        new["metadata"][field] = old["metadata"][field].clone();
    }
}

/// Changes an object in place.
///
/// # Errors
/// As [`update`], and what the change itself says.
pub(crate) fn modify(
    store: &mut Store,
    resource: &'static Resource,
    key: &Key,
    write: &Write,
    change: impl FnOnce(&mut Value) -> Result<(), Failure>,
) -> Result<Object, Failure> {
    let old = store
        .get(key)
        .ok_or_else(|| Failure::not_found(resource, &key.name))?;
    let mut new = Value::clone(old);
    change(&mut new)?;
    let (new, _) = fit(resource, new, Unknown::Ignore)?;
    update(store, resource, key, new, write, Owners::FromDifference)
}

/// Server-side apply; creates the object if there is none. Gives it, and whether it is new.
///
/// # Errors
/// Conflicts with other managers, and what [`create`] and [`update`] say.
pub(crate) fn apply(
    store: &mut Store,
    resource: &'static Resource,
    key: &Key,
    config: &Value,
    force: Force,
    write: &Write,
) -> Result<(Object, bool), Failure> {
    let live = store.get(key).cloned();
    let given = config["metadata"]["resourceVersion"].as_str();
    if live.is_none() && given.is_some() {
        return Err(Failure::not_found(resource, &key.name));
    }
    let merged = ownership::apply(resource, &write.manager, force, live.as_deref(), config)?;
    if live.is_none() {
        let created = create(store, resource, &key.namespace, merged, write);
        return created.map(|object| (object, true));
    }
    let mut merged = merged;
    if let Some(given) = given {
        merged["metadata"]["resourceVersion"] = json!(given);
    }
    let updated = update(store, resource, key, merged, write, Owners::InObject);
    updated.map(|object| (object, false))
}

/// The labels of an object.
pub(crate) fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten();
    labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// The reference of an object's controller: kind and uid.
pub(crate) fn controller_of(object: &Value) -> Option<(&str, &str)> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some((owner["kind"].as_str()?, owner["uid"].as_str()?))
}

/// The uid of an object.
pub(crate) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// Whether somebody has asked for its deletion.
pub(crate) fn is_terminating(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}
