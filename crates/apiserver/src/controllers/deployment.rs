//! Deployments and their `ReplicaSets`.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Value, json};

use crate::deletion::{self, Options, is_ready};
use crate::failure::Failure;
use crate::objects::{self, Owners, Write, controller_of, is_terminating, now, uid};
use crate::resources::Resource;
use crate::selector::object_matches;
use crate::store::{Key, Object, Store};

const REVISION: &str = "deployment.kubernetes.io/revision";
const MANAGER: &str = "kube-controller-manager";

/// Brings every Deployment and every `ReplicaSet` one step on.
pub(super) fn step(store: &mut Store) {
    for (key, object) in snapshot(store, "deployments") {
        if !is_terminating(&object) {
            roll_out(store, &key, &object);
        }
        tell_deployment(store, &key);
    }
    for (key, object) in snapshot(store, "replicasets") {
        release(store, &key, &object);
        let failure = if is_terminating(&object) {
            None
        } else {
            scale(store, &key, &object).err()
        };
        tell_replica_set(store, &key, failure.as_ref());
    }
}

pub(super) fn snapshot(store: &Store, plural: &str) -> Vec<(Key, Object)> {
    store
        .list(Resource::of(plural), None)
        .map(|(key, object)| (key.clone(), Object::clone(object)))
        .collect()
}

/// The live objects of a kind that this one controls.
fn controlled(store: &Store, plural: &str, owner: &Value) -> Vec<(Key, Object)> {
    let namespace = owner["metadata"]["namespace"].as_str().unwrap_or_default();
    let owned =
        |object: &Value| controller_of(object).is_some_and(|(_, known)| known == uid(owner));
    store
        .list(Resource::of(plural), Some(namespace))
        .filter(|(_, object)| owned(object))
        .map(|(key, object)| (key.clone(), Object::clone(object)))
        .collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn template_hash(template: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    format!("{:010x}", hasher.finish() & 0xff_ffff_ffff)
}

fn roll_out(store: &mut Store, key: &Key, deployment: &Value) {
    let hash = template_hash(&deployment["spec"]["template"]);
    let name = format!("{}-{hash}", key.name);
    let sets = controlled(store, "replicasets", deployment);
    let wanted = number(&deployment["spec"]["replicas"]);
    let Some((_, current)) = sets.iter().find(|(set, _)| set.name == name) else {
        create_set(store, key, deployment, &name, &hash, sets.len() + 1);
        return;
    };
    revision(store, key, deployment, current);
    let available = number(&current["status"]["availableReplicas"]);
    let recreate = deployment["spec"]["strategy"]["type"] == "Recreate";
    let old: u64 = sets
        .iter()
        .filter(|(set, _)| set.name != name)
        .map(|(_, set)| number(&set["status"]["replicas"]))
        .sum();
    let new = if recreate && old > 0 { 0 } else { wanted };
    let mut room = if recreate {
        0
    } else {
        wanted.saturating_sub(available)
    };
    for (set_key, set) in &sets {
        let size = if set_key.name == name {
            new
        } else {
            let kept = room.min(number(&set["spec"]["replicas"]));
            room -= kept;
            kept
        };
        if number(&set["spec"]["replicas"]) != size {
            resize(store, set_key, size);
        }
    }
}

fn create_set(
    store: &mut Store,
    key: &Key,
    deployment: &Value,
    name: &str,
    hash: &str,
    revision: usize,
) {
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"]["pod-template-hash"] = json!(hash);
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "labels": template["metadata"]["labels"],
            "annotations": {REVISION: revision.to_string()},
            "ownerReferences": [owner("apps/v1", deployment)],
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
    });
    let write = Write::of_controller(MANAGER, "");
    // A namespace that goes away refuses it, which is the end of the matter.
    let _refused = objects::create(
        store,
        Resource::of("replicasets"),
        &key.namespace,
        set,
        &write,
    );
}

fn owner(api_version: &str, object: &Value) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": object["kind"],
        "name": object["metadata"]["name"],
        "uid": object["metadata"]["uid"],
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// The Deployment tells which of its revisions is the current one.
fn revision(store: &mut Store, key: &Key, deployment: &Value, set: &Value) {
    let current = &set["metadata"]["annotations"][REVISION];
    if deployment["metadata"]["annotations"][REVISION] == *current {
        return;
    }
    let mut new = deployment.clone();
    new["metadata"]["annotations"][REVISION] = current.clone();
    write(store, "deployments", key, new, "");
}

fn resize(store: &mut Store, key: &Key, size: u64) {
    if let Some(set) = store.get(key) {
        let mut new = Value::clone(set);
        new["spec"]["replicas"] = json!(size);
        write(store, "replicasets", key, new, "");
    }
}

fn write(store: &mut Store, plural: &str, key: &Key, new: Value, subresource: &'static str) {
    let write = Write::of_controller(MANAGER, subresource);
    // Nothing else can have written since the object was read: one step has the store for itself.
    let _unchanged = objects::update(
        store,
        Resource::of(plural),
        key,
        new,
        &write,
        Owners::FromDifference,
    );
}

/// Lets go of Pods whose labels do not fit any more.
fn release(store: &mut Store, key: &Key, set: &Value) {
    for (pod_key, pod) in controlled(store, "pods", set) {
        if object_matches(&set["spec"]["selector"], &pod["metadata"]["labels"])
            || is_terminating(&pod)
        {
            continue;
        }
        let mut new = Value::clone(&pod);
        if let Some(owners) = new["metadata"]["ownerReferences"].as_array_mut() {
            owners.retain(|owner| owner["uid"] != uid(set));
        }
        debug_assert_eq!(
            pod_key.namespace, key.namespace,
            "owners are of the same namespace"
        );
        write(store, "pods", &pod_key, new, "");
    }
}

fn is_active(pod: &Value) -> bool {
    !is_terminating(pod)
        && !matches!(
            pod["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        )
}

fn scale(store: &mut Store, key: &Key, set: &Value) -> Result<(), Failure> {
    let wanted = usize::try_from(number(&set["spec"]["replicas"])).unwrap_or(usize::MAX);
    let mut pods = controlled(store, "pods", set);
    pods.retain(|(_, pod)| is_active(pod));
    for _ in pods.len()..wanted {
        create_pod(store, key, set)?;
    }
    if pods.len() > wanted {
        // What is of least use goes first.
        pods.sort_by_key(|(_, pod)| {
            let bound = !pod["spec"]["nodeName"].is_null();
            (is_ready(pod), bound, deletion_cost(pod))
        });
        let surplus = pods.len() - wanted;
        for (pod, _) in pods.iter().take(surplus) {
            let _gone = deletion::delete(store, Resource::of("pods"), pod, &Options::default());
        }
    }
    Ok(())
}

/// What the Pod's owner would pay for its deletion.
fn deletion_cost(pod: &Value) -> i64 {
    let cost = &pod["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"];
    cost.as_str()
        .and_then(|cost| cost.parse().ok())
        .unwrap_or_default()
}

fn create_pod(store: &mut Store, key: &Key, set: &Value) -> Result<Object, Failure> {
    let template = &set["spec"]["template"];
    let prefix = format!("{}-", key.name);
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("{prefix}{}", objects::suffix()),
            "generateName": prefix,
            "labels": template["metadata"]["labels"],
            "ownerReferences": [owner("apps/v1", set)],
        },
        "spec": template["spec"],
    });
    if !template["metadata"]["annotations"].is_null() {
        pod["metadata"]["annotations"] = template["metadata"]["annotations"].clone();
    }
    let write = Write::of_controller(MANAGER, "");
    objects::create(store, Resource::of("pods"), &key.namespace, pod, &write)
}

fn tell_replica_set(store: &mut Store, key: &Key, failure: Option<&Failure>) {
    let Some(set) = store.get(key).cloned() else {
        return;
    };
    let pods = controlled(store, "pods", &set);
    let count = |fits: &dyn Fn(&Value) -> bool| pods.iter().filter(|(_, pod)| fits(pod)).count();
    let mut status = json!({
        "replicas": count(&is_active),
        "observedGeneration": set["metadata"]["generation"],
        "terminatingReplicas": count(&is_terminating),
    });
    let ready = count(&|pod| is_active(pod) && is_ready(pod));
    if ready > 0 {
        status["readyReplicas"] = json!(ready);
        status["availableReplicas"] = json!(ready);
    }
    let labelled = count(&is_active);
    if labelled > 0 {
        status["fullyLabeledReplicas"] = json!(labelled);
    }
    if let Some(failure) = failure {
        let known = &set["status"]["conditions"];
        let before = known.as_array().and_then(|list| list.first());
        let same = before.filter(|condition| condition["message"] == failure.message.as_str());
        status["conditions"] = json!([same.cloned().unwrap_or_else(|| json!({
            "type": "ReplicaFailure",
            "status": "True",
            "reason": "FailedCreate",
            "message": failure.message,
            "lastTransitionTime": now(),
        }))]);
    }
    let mut new = Value::clone(&set);
    new["status"] = status;
    write(store, "replicasets", key, new, "status");
}

fn tell_deployment(store: &mut Store, key: &Key) {
    let Some(deployment) = store.get(key).cloned() else {
        return;
    };
    let sets = controlled(store, "replicasets", &deployment);
    if sets.is_empty() && !is_terminating(&deployment) {
        return;
    }
    let sum = |field: &str| {
        sets.iter()
            .map(|(_, set)| number(&set["status"][field]))
            .sum::<u64>()
    };
    let hash = template_hash(&deployment["spec"]["template"]);
    let current = sets
        .iter()
        .find(|(set, _)| set.name == format!("{}-{hash}", key.name));
    let wanted = number(&deployment["spec"]["replicas"]);
    let available = sum("availableReplicas");
    let mut status = json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "terminatingReplicas": sum("terminatingReplicas"),
    });
    for (field, value) in [
        ("replicas", sum("replicas")),
        (
            "updatedReplicas",
            current.map_or(0, |(_, set)| number(&set["status"]["replicas"])),
        ),
        ("readyReplicas", sum("readyReplicas")),
        ("availableReplicas", available),
        (
            "unavailableReplicas",
            wanted.max(sum("replicas")).saturating_sub(available),
        ),
    ] {
        if value > 0 {
            status[field] = json!(value);
        }
    }
    let tolerated = wanted - (wanted / 4).min(wanted);
    let enough = available >= tolerated;
    let mut conditions = vec![
        condition(
            "Available",
            enough,
            if enough {
                "MinimumReplicasAvailable"
            } else {
                "MinimumReplicasUnavailable"
            },
            if enough {
                "Deployment has minimum availability."
            } else {
                "Deployment does not have minimum availability."
            },
        ),
        condition(
            "Progressing",
            true,
            if available >= wanted {
                "NewReplicaSetAvailable"
            } else {
                "ReplicaSetUpdated"
            },
            &format!("ReplicaSet \"{}-{hash}\" is progressing.", key.name),
        ),
    ];
    let failure = sets
        .iter()
        .find_map(|(_, set)| set["status"]["conditions"].as_array()?.first().cloned());
    conditions.extend(failure.map(|failure| {
        condition(
            "ReplicaFailure",
            true,
            "FailedCreate",
            failure["message"].as_str().unwrap_or_default(),
        )
    }));
    keep_times(&deployment["status"]["conditions"], &mut conditions);
    status["conditions"] = json!(conditions);
    let mut new = Value::clone(&deployment);
    new["status"] = status;
    write(store, "deployments", key, new, "status");
}

fn condition(kind: &str, holds: bool, reason: &str, message: &str) -> Value {
    json!({
        "type": kind,
        "status": if holds { "True" } else { "False" },
        "lastUpdateTime": now(),
        "lastTransitionTime": now(),
        "reason": reason,
        "message": message,
    })
}

/// A condition that still says the same has the times at which it began to.
fn keep_times(before: &Value, after: &mut [Value]) {
    for condition in after {
        let known = before.as_array().into_iter().flatten();
        let same = |known: &&Value| {
            ["type", "status", "reason", "message"]
                .iter()
                .all(|field| known[field] == condition[field])
        };
        if let Some(known) = known.clone().find(same) {
            *condition = known.clone();
        }
    }
}
