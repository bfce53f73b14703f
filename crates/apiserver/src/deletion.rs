//! Deletion: grace, finalizers, propagation, preconditions, and eviction.

use jiff::{SignedDuration, Timestamp, Unit};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::objects::{self, Owners, Write, is_terminating, uid};
use crate::resources::Resource;
use crate::selector::object_matches;
use crate::store::{Key, Object, Store};

/// What a client asks for beside the deletion itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Options {
    /// Seconds that a Pod has to end.
    pub(crate) grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub(crate) propagation_policy: Option<String>,
    /// Which object is meant.
    #[serde(default)]
    pub(crate) preconditions: Preconditions,
    /// `All` for none of it.
    #[serde(default)]
    pub(crate) dry_run: Vec<String>,
}

/// What has to be true of the object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// It is gone.
    Gone(Object),
    /// It waits for its grace period or its finalizers.
    Waits(Object),
}

/// Deletes one object, or begins to.
///
/// # Errors
/// When there is none, or it is not the one that is meant.
pub(crate) fn delete(
    store: &mut Store,
    resource: &'static Resource,
    key: &Key,
    options: &Options,
) -> Result<Deleted, Failure> {
    let object = store.get(key).cloned();
    let object = object.ok_or_else(|| Failure::not_found(resource, &key.name))?;
    meant(resource, key, &object, options)?;
    let dry_run = options.dry_run.iter().any(|part| part == "All");
    let grace = grace(resource, &object, options);
    let finalizers = finalizers(&object, options);
    let waits = grace > 0 || !finalizers.is_empty() || resource.plural == "namespaces";
    if dry_run {
        return Ok(Deleted::Waits(object));
    }
    if !waits {
        let gone = store.remove(key);
        return Ok(Deleted::Gone(gone.unwrap_or(object)));
    }
    let before = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if is_terminating(&object) && before.is_some_and(|before| before <= grace) {
        return Ok(Deleted::Waits(object));
    }
    Ok(Deleted::Waits(mark(
        store,
        resource,
        key,
        &object,
        grace,
        &finalizers,
    )))
}

/// Writes into the object that it is to go.
fn mark(
    store: &mut Store,
    resource: &Resource,
    key: &Key,
    object: &Value,
    grace: i64,
    finalizers: &[String],
) -> Object {
    let mut marked = object.clone();
    let now = Timestamp::now().round(Unit::Second).unwrap_or_default();
    let end = now
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(now);
    let metadata = &mut marked["metadata"];
    metadata["deletionTimestamp"] = json!(end.to_string());
    if resource.plural == "namespaces" {
        marked["status"]["phase"] = json!("Terminating");
        return store.put(key.clone(), marked);
    }
    metadata["deletionGracePeriodSeconds"] = json!(grace);
    if !finalizers.is_empty() {
        metadata["finalizers"] = json!(finalizers);
    }
    if let Some(generation) = metadata["generation"].as_u64() {
        metadata["generation"] = json!(generation + 1);
    }
    store.put(key.clone(), marked)
}

fn meant(resource: &Resource, key: &Key, object: &Value, options: &Options) -> Result<(), Failure> {
    let found = uid(object);
    if let Some(wanted) = options
        .preconditions
        .uid
        .as_deref()
        .filter(|wanted| *wanted != found)
    {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({found}). The object \
             might have been deleted and then recreated"
        );
        return Err(Failure::precondition(resource, &key.name, &why));
    }
    let found = object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default();
    if let Some(wanted) = options
        .preconditions
        .resource_version
        .as_deref()
        .filter(|wanted| *wanted != found)
    {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({found})"
        );
        return Err(Failure::precondition(resource, &key.name, &why));
    }
    Ok(())
}

/// Seconds until the object may go. Only Pods that run somewhere get any.
fn grace(resource: &Resource, object: &Value, options: &Options) -> i64 {
    let ended = matches!(
        object["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    let placed = object["spec"]["nodeName"]
        .as_str()
        .is_some_and(|node| !node.is_empty());
    if resource.plural != "pods" || ended || !placed {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    options.grace_period_seconds.unwrap_or(own).max(0)
}

fn finalizers(object: &Value, options: &Options) -> Vec<String> {
    let list = object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten();
    let mut list: Vec<_> = list.filter_map(Value::as_str).map(str::to_owned).collect();
    let more = match options.propagation_policy.as_deref() {
        Some("Foreground") => "foregroundDeletion",
        Some("Orphan") => "orphan",
        _ => return list,
    };
    if !list.iter().any(|known| known == more) {
        list.push(more.to_owned());
    }
    list
}

/// What the answer to a deletion is.
pub(crate) fn answer(resource: &Resource, deleted: &Deleted) -> Value {
    match deleted {
        Deleted::Waits(object) => Value::clone(object),
        Deleted::Gone(object) if resource.plural == "pods" => Value::clone(object),
        Deleted::Gone(object) => {
            let mut details = json!({
                "name": object["metadata"]["name"],
                "kind": resource.plural,
                "uid": object["metadata"]["uid"],
            });
            if !resource.group.is_empty() {
                details["group"] = json!(resource.group);
            }
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
        }
    }
}

/// Deletes a Pod unless a disruption budget is against it.
///
/// # Errors
/// When it is.
pub(crate) fn evict(store: &mut Store, key: &Key, eviction: &Value) -> Result<Value, Failure> {
    let pods = Resource::of("pods");
    let pod = store.get(key).cloned();
    let pod = pod.ok_or_else(|| Failure::not_found(pods, &key.name))?;
    if let Some(why) = blocking_budget(store, key, &pod) {
        return Err(Failure::disruption(&why));
    }
    let options: Options =
        serde_json::from_value(eviction["deleteOptions"].clone()).unwrap_or_default();
    let mut marked = Value::clone(&pod);
    let conditions = &mut marked["status"]["conditions"];
    if conditions.is_null() {
        *conditions = json!([]);
    }
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|condition| condition["type"] != "DisruptionTarget");
        conditions.push(json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
            "lastProbeTime": null,
            "lastTransitionTime": objects::now(),
        }));
    }
    let write = Write::of_controller("kube-apiserver", "status");
    objects::update(store, pods, key, marked, &write, Owners::FromDifference)?;
    delete(store, pods, key, &options)?;
    Ok(
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    )
}

fn blocking_budget(store: &Store, key: &Key, pod: &Value) -> Option<String> {
    let pods: Vec<_> = store
        .list(Resource::of("pods"), Some(&key.namespace))
        .collect();
    if !is_ready(pod) {
        return None;
    }
    let budgets = store.list(Resource::of("poddisruptionbudgets"), Some(&key.namespace));
    for (budget_key, budget) in budgets {
        let selector = &budget["spec"]["selector"];
        if !object_matches(selector, &pod["metadata"]["labels"]) {
            continue;
        }
        let covered = pods
            .iter()
            .filter(|(_, pod)| object_matches(selector, &pod["metadata"]["labels"]));
        let (mut expected, mut healthy) = (0_i64, 0_i64);
        for (_, pod) in covered.filter(|(_, pod)| !is_terminating(pod)) {
            expected += 1;
            healthy += i64::from(is_ready(pod));
        }
        let needed = if budget["spec"]["maxUnavailable"].is_null() {
            amount(&budget["spec"]["minAvailable"], expected)
        } else {
            expected - amount(&budget["spec"]["maxUnavailable"], expected)
        };
        if healthy - 1 < needed {
            return Some(format!(
                "The disruption budget {} needs {needed} healthy pods and has {healthy} currently",
                budget_key.name
            ));
        }
    }
    None
}

/// A number, or a share of `whole`, rounded up.
fn amount(value: &Value, whole: i64) -> i64 {
    let percent = value
        .as_str()
        .and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok());
    percent.map_or_else(
        || value.as_i64().unwrap_or(0),
        |percent| (whole * percent + 99) / 100,
    )
}

/// Whether a Pod takes traffic.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
    ready.any(|condition| condition["status"] == "True")
}
