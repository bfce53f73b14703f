//! What is decided about a new object before its rules are looked at: where it goes, and what only the
//! server may say about it.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::objects::{is_terminating, now};
use crate::resources::{Resource, Scope};
use crate::store::{Key, Store};

/// Whether there is such a namespace and it takes new objects.
pub(crate) fn into_namespace(
    store: &Store,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<(), Failure> {
    if resource.scope == Scope::Cluster {
        return Ok(());
    }
    let namespaces = Resource::of("namespaces");
    let key = Key::new(namespaces, "", namespace);
    let found = store.get(&key);
    let found = found.ok_or_else(|| Failure::not_found(namespaces, namespace))?;
    if is_terminating(found) {
        Err(Failure::terminating(resource, name, namespace))
    } else {
        Ok(())
    }
}

/// What only the server writes at the birth of an object.
pub(crate) fn born(resource: &Resource, namespace: &str, object: &mut Value) {
    let metadata = &mut object["metadata"];
    for field in [
        "resourceVersion",
        "managedFields",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        let keep = field == "managedFields"
            && metadata[field]
                .as_array()
                .is_some_and(|list| !list.is_empty());
        if !keep && let Some(fields) = metadata.as_object_mut() {
            fields.remove(field);
        }
    }
    metadata["uid"] = json!(uuid::Uuid::new_v4().to_string());
    metadata["creationTimestamp"] = json!(now());
    if resource.scope == Scope::Namespaced {
        metadata["namespace"] = json!(namespace);
    }
    if resource.counts_generations {
        metadata["generation"] = json!(1);
    }
    if resource.has_status() {
        object["status"] = match resource.plural {
            "horizontalpodautoscalers" => json!({"desiredReplicas": 0, "currentMetrics": null}),
            "nodes" => object["status"].take(),
            "replicasets" => json!({"replicas": 0}),
            "poddisruptionbudgets" => {
                json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
            }
            _ => json!({}),
        };
    }
}

/// The service account has to be there, and the quota of the namespace has to have room.
pub(crate) fn admit(
    store: &Store,
    resource: &Resource,
    namespace: &str,
    pod: &Value,
) -> Result<(), Failure> {
    let name = pod["metadata"]["name"].as_str();
    let account = pod["spec"]["serviceAccountName"]
        .as_str()
        .unwrap_or("default");
    let key = Key::new(Resource::of("serviceaccounts"), namespace, account);
    if account != "default" && store.get(&key).is_none() {
        let why = format!(
            "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
        );
        return Err(Failure::forbidden(resource, name, &why));
    }
    let quotas = store.list(Resource::of("resourcequotas"), Some(namespace));
    for (key, quota) in quotas {
        let limit = quota["spec"]["hard"]["pods"]
            .as_str()
            .and_then(|limit| limit.parse::<usize>().ok());
        let Some(limit) = limit else { continue };
        let used = store.list(resource, Some(namespace)).filter(|(_, pod)| {
            !matches!(
                pod["status"]["phase"].as_str(),
                Some("Succeeded" | "Failed")
            )
        });
        let used = used.count();
        if used >= limit {
            let why = format!(
                "exceeded quota: {}, requested: pods=1, used: pods={used}, limited: pods={limit}",
                key.name
            );
            return Err(Failure::forbidden(resource, name, &why));
        }
    }
    Ok(())
}
