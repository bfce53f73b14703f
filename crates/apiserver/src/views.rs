//! Other forms of objects: lists, tables, the scale of a workload, the older autoscaler.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::request::{Path, Query};
use crate::resources::group_version;
use crate::selector::{self, Selector};
use crate::store::{Object, Store};

/// A page of a list.
///
/// # Errors
/// For selectors and continue tokens that cannot be read.
pub(crate) fn list(store: &Store, path: &Path, query: &Query) -> Result<Value, Failure> {
    let resource = path.resource;
    let selector = Selector::parse(
        resource,
        query.get("labelSelector"),
        query.get("fieldSelector"),
    )?;
    let begin = start(store, query.get("continue"))?;
    let all = store.list(resource, path.namespace.as_deref());
    let mut items: Vec<(String, &Object)> = all
        .map(|(key, object)| (format!("{}/{}", key.namespace, key.name), object))
        .filter(|(at, object)| {
            begin.as_ref().is_none_or(|begin| at > begin) && selector.matches(object)
        })
        .collect();
    let limit = query.number("limit").filter(|limit| *limit > 0);
    let limit = limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX);
    let left = items.len().saturating_sub(limit);
    items.truncate(limit);
    let mut metadata = json!({"resourceVersion": store.revision().to_string()});
    if let (true, Some((last, _))) = (left > 0, items.last()) {
        metadata["continue"] = json!(token(store.revision(), last));
        if selector.is_empty() {
            metadata["remainingItemCount"] = json!(left);
        }
    }
    let items: Vec<_> = items.iter().map(|(_, object)| bare(path, object)).collect();
    Ok(json!({
        "kind": format!("{}List", resource.kind),
        "apiVersion": group_version(resource.group, &path.version),
        "metadata": metadata,
        "items": items,
    }))
}

/// An object inside a list does not repeat its kind.
fn bare(path: &Path, object: &Value) -> Value {
    let mut object = versioned(path, object);
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    object
}

fn token(revision: u64, last: &str) -> String {
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": last});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

/// The key after which a list goes on. The server has one state only, so a token lives as long as the
/// history since it was given out.
fn start(store: &Store, token: &str) -> Result<Option<String>, Failure> {
    if token.is_empty() {
        return Ok(None);
    }
    let broken = || Failure::bad_request("continue key is not valid");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| broken())?;
    let token: Value = serde_json::from_slice(&bytes).map_err(|_| broken())?;
    if token["rv"].as_u64().ok_or_else(broken)? < store.compacted() {
        return Err(Failure::expired(
            "The provided continue parameter is too old to display a consistent list result.",
        ));
    }
    token["start"]
        .as_str()
        .map(|start| Some(start.to_owned()))
        .ok_or_else(broken)
}

/// The object in the version that the path names.
pub(crate) fn versioned(path: &Path, object: &Value) -> Value {
    if path.resource.version == path.version {
        return object.clone();
    }
    let mut object = object.clone();
    object["apiVersion"] = json!("autoscaling/v1");
    let metrics = object["spec"]["metrics"].as_array().into_iter().flatten();
    let mut cpu = metrics.filter(|metric| metric["resource"]["name"] == "cpu");
    let target = cpu
        .next()
        .map(|metric| metric["resource"]["target"]["averageUtilization"].clone());
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("metrics");
        if let Some(target) = target {
            spec.insert("targetCPUUtilizationPercentage".to_owned(), target);
        }
    }
    let current = object["status"]["currentReplicas"]
        .as_u64()
        .unwrap_or_default();
    let desired = object["status"]["desiredReplicas"]
        .as_u64()
        .unwrap_or_default();
    object["status"] = json!({"currentReplicas": current, "desiredReplicas": desired});
    object
}

/// The scale of a workload.
pub(crate) fn scale(object: &Value) -> Value {
    let from = &object["metadata"];
    let mut metadata = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        metadata[field] = from[field].clone();
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {
            "replicas": object["status"]["replicas"].as_u64().unwrap_or_default(),
            "selector": selector::as_text(&object["spec"]["selector"]),
        },
    })
}

/// A list as `kubectl get` shows it.
pub(crate) fn table(path: &Path, list: &Value) -> Value {
    let columns: &[(&str, &str, u8)] = match path.resource.plural {
        "deployments" => &[
            ("Ready", "string", 0),
            ("Up-to-date", "string", 0),
            ("Available", "string", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        "pods" => &[
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            ("Age", "string", 0),
        ],
        _ => &[("Age", "string", 0)],
    };
    let definition = |name: &str, kind: &str, format: &str, priority: u8| json!({"name": name, "type": kind, "format": format, "description": name, "priority": priority});
    let mut definitions = vec![definition("Name", "string", "name", 0)];
    definitions.extend(
        columns
            .iter()
            .map(|(name, kind, priority)| definition(name, kind, "", *priority)),
    );
    let items = list["items"].as_array().into_iter().flatten();
    let rows: Vec<_> = items
        .map(|object| {
            let mut cells = vec![object["metadata"]["name"].clone()];
            cells.extend(columns.iter().map(|(name, _, _)| cell(path.resource.plural, name, object)));
            let metadata = &object["metadata"];
            let object = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
            json!({"cells": cells, "object": object})
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list["metadata"],
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

fn cell(plural: &str, column: &str, object: &Value) -> Value {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let (spec, status) = (&object["spec"], &object["status"]);
    let statuses = status["containerStatuses"].as_array();
    let containers = |field: &str| {
        let list = spec["template"]["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten();
        let names: Vec<_> = list
            .filter_map(|container| container[field].as_str())
            .collect();
        json!(names.join(","))
    };
    match (plural, column) {
        (_, "Age") => age(object),
        ("deployments", "Ready") => {
            json!(format!(
                "{}/{}",
                number(&status["readyReplicas"]),
                number(&spec["replicas"])
            ))
        }
        ("deployments", "Up-to-date") => json!(number(&status["updatedReplicas"])),
        ("deployments", "Available") => json!(number(&status["availableReplicas"])),
        ("deployments", "Containers") => containers("name"),
        ("deployments", "Images") => containers("image"),
        ("deployments", "Selector") => json!(selector::as_text(&spec["selector"])),
        ("pods", "Ready") => {
            let ready = statuses
                .into_iter()
                .flatten()
                .filter(|status| status["ready"] == true);
            let all = spec["containers"].as_array().map_or(0, Vec::len);
            json!(format!("{}/{all}", ready.count()))
        }
        ("pods", "Restarts") => {
            let restarts = statuses
                .into_iter()
                .flatten()
                .map(|status| number(&status["restartCount"]));
            json!(restarts.sum::<u64>())
        }
        ("pods", "Status") => {
            let waiting = statuses.into_iter().flatten();
            let mut reasons = waiting.map(|status| &status["state"]["waiting"]["reason"]);
            let reason = reasons.find(|reason| reason.is_string());
            reason.unwrap_or_else(|| &status["phase"]).clone()
        }
        _ => Value::Null,
    }
}

fn age(object: &Value) -> Value {
    let born = object["metadata"]["creationTimestamp"]
        .as_str()
        .unwrap_or_default();
    let seconds = born
        .parse::<Timestamp>()
        .map_or(0, |born| Timestamp::now().as_second() - born.as_second());
    json!(format!("{}s", seconds.max(0)))
}
