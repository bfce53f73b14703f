//! From a pool to the objects of the cluster. Pure: the same pool always becomes the same objects.
//!
//! Only the fields named here exist in what is sent: nothing that a user wrote is copied unseen. All Pods
//! keep the *restricted* profile of the Pod Security Standards, with the exception of directories of nodes that the
//! operator allows, and none has a service account's token.

mod join;
mod worker;

use std::collections::BTreeMap;

use bugle_types::pool::{IDLE_LABEL, Origin, PoolSpec};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::names;

pub(crate) use join::secret;

/// Why a pool cannot become objects; for the pool's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field holds what the API has no type for.
    #[error("{field} is not what Kubernetes takes: {why}")]
    Field {
        /// The field of the pool.
        field: &'static str,
        /// Where and why.
        why: String,
    },
    /// The platform does not allow it.
    #[error("{what} is not allowed: {why}")]
    Forbidden {
        /// What the pool asks for.
        what: String,
        /// Why not, and what would help.
        why: &'static str,
    },
}

/// The labels of everything that belongs to the pool.
fn labels(pool: &PoolSpec) -> BTreeMap<String, String> {
    BTreeMap::from([
        (names::APP.to_owned(), names::deployment(&pool.id)),
        (names::MANAGED_BY.to_owned(), names::MANAGER.to_owned()),
        (names::POOL.to_owned(), pool.id.to_string()),
    ])
}

/// Labels that the installed platform is selected by, and its workers must not be.
const OF_THE_PLATFORM: [&str; 2] = ["app.kubernetes.io/name", "app.kubernetes.io/instance"];

/// Refuses labels by which a Service or a policy of the platform would take a worker for the platform.
fn check_labels(pool: &PoolSpec) -> Result<(), Error> {
    let mut labels = pool.labels.keys();
    match labels.find(|label| OF_THE_PLATFORM.contains(&label.as_str())) {
        Some(label) => Err(Error::Forbidden {
            what: format!("the label {label}"),
            why: "Services and policies know the platform itself by it, take another",
        }),
        None => Ok(()),
    }
}

/// The labels of a worker: the platform's, then the user's, then the group's; earlier ones win.
fn worker_labels(pool: &PoolSpec) -> BTreeMap<String, String> {
    let mut all = labels(pool);
    if !pool.scalable {
        all.insert(names::REUSE.to_owned(), pool.reuse.to_string());
    }
    for (key, value) in pool.labels.iter().filter(|(key, _)| !key.is_empty()) {
        all.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let group = pool.group.to_string();
    all.entry(group.clone()).or_insert(group);
    all
}

fn worker_annotations(pool: &PoolSpec) -> BTreeMap<String, String> {
    let threshold = pool.pending_threshold.map(|threshold| {
        let seconds = threshold.as_secs().to_string();
        (names::PENDING_THRESHOLD.to_owned(), seconds)
    });
    threshold.into_iter().collect()
}

/// The Deployment of a pool. That of a scalable pool has no replicas: it is the owner of Pods that are
/// made one by one. An autoscaler's replicas are its own business.
///
/// # Errors
/// When the pool asks for what there is not or what is not allowed.
pub fn deployment(config: &Config, pool: &PoolSpec) -> Result<Deployment, Error> {
    check_labels(pool)?;
    let labels = labels(pool);
    let replicas = match pool.autoscaler {
        Some(_) => None,
        None if pool.scalable => Some(0),
        None => Some(i32::try_from(pool.size).unwrap_or(i32::MAX)),
    };
    let selector = LabelSelector {
        match_labels: Some(BTreeMap::from([(
            names::APP.to_owned(),
            names::deployment(&pool.id),
        )])),
        ..LabelSelector::default()
    };
    let spec = DeploymentSpec {
        replicas,
        selector,
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(worker_labels(pool)),
                annotations: filled(worker_annotations(pool)),
                ..ObjectMeta::default()
            }),
            spec: Some(worker::spec(config, pool)?),
        },
        ..DeploymentSpec::default()
    };
    let mut object = Deployment {
        metadata: metadata(names::deployment(&pool.id), labels),
        spec: Some(spec),
        status: None,
    };
    let digest = digest(&object);
    object.metadata.annotations = Some(BTreeMap::from([(names::DIGEST.to_owned(), digest)]));
    Ok(object)
}

/// The autoscaler of a pool, if it has one.
///
/// # Errors
/// When its specification is none.
pub fn autoscaler(pool: &PoolSpec) -> Result<Option<HorizontalPodAutoscaler>, Error> {
    let Some(given) = &pool.autoscaler else {
        return Ok(None);
    };
    let mut given = given.clone();
    given["scaleTargetRef"] = serde_json::json!({"kind": "Deployment", "name": ""});
    let mut spec: HorizontalPodAutoscalerSpec = typed("horizontal_pod_autoscaler_spec", given)?;
    spec.scale_target_ref = CrossVersionObjectReference {
        api_version: Some("apps/v1".to_owned()),
        kind: "Deployment".to_owned(),
        name: names::deployment(&pool.id),
    };
    let mut object = HorizontalPodAutoscaler {
        metadata: metadata(names::autoscaler(&pool.id), labels(pool)),
        spec: Some(spec),
        status: None,
    };
    let digest = digest(&object);
    object.metadata.annotations = Some(BTreeMap::from([(names::DIGEST.to_owned(), digest)]));
    Ok(Some(object))
}

/// What one Pod of a scalable pool is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPlan {
    /// Its name.
    pub name: String,
    /// Why it is made.
    pub origin: Origin,
    /// The request for an instance that it is made for.
    pub request: Option<String>,
}

/// A Pod of a scalable pool, owned by the pool's Deployment with that uid.
///
/// # Errors
/// When the pool asks for what there is not or what is not allowed.
pub fn pod(config: &Config, pool: &PoolSpec, plan: &PodPlan, owner: &str) -> Result<Pod, Error> {
    let mut labels = worker_labels(pool);
    labels.remove(names::REUSE);
    // The Deployment has no Pods of its own, and shall not think that these are.
    if let Some(idle) = pool.idle_time(plan.origin).label() {
        labels.insert(IDLE_LABEL.to_owned(), idle);
    }
    let mut annotations = worker_annotations(pool);
    annotations.insert(names::POD_POOL.to_owned(), pool.id.to_string());
    let made_as = deployment(config, pool)?.metadata.annotations;
    annotations.extend(made_as.unwrap_or_default());
    if let Some(request) = &plan.request {
        annotations.insert(names::REQUEST.to_owned(), request.clone());
    }
    let mut metadata = metadata(plan.name.clone(), labels);
    metadata.annotations = Some(annotations);
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: names::deployment(&pool.id),
        uid: owner.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]);
    Ok(Pod {
        metadata,
        spec: Some(worker::spec(config, pool)?),
        status: None,
    })
}

/// What a pool becomes, in the order in which it is applied, as `--dry-run` shows it. Of a scalable pool there is
/// one Pod as an example if it keeps any.
///
/// # Errors
/// When the pool asks for what there is not or what is not allowed.
pub fn rendered(config: &Config, pool: &PoolSpec) -> Result<Vec<Value>, Error> {
    let mut objects = Vec::new();
    objects.extend(autoscaler(pool)?.map(|object| json(&object)));
    objects.push(json(&deployment(config, pool)?));
    if pool.scalable && pool.size > 0 {
        let plan = PodPlan {
            name: names::pod(&pool.id, 0),
            origin: Origin::Reserved,
            request: None,
        };
        objects.push(json(&self::pod(
            config,
            pool,
            &plan,
            "uid-of-the-deployment",
        )?));
    }
    Ok(objects)
}

fn json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("objects of the API have a JSON form")
}

fn metadata(name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

/// Sixteen hexadecimal digits that tell whether an object is still what would be applied.
fn digest(object: &impl Serialize) -> String {
    let text = json(object).to_string();
    let digest = Sha256::digest(text.as_bytes());
    let first = digest.iter().take(8);
    let number = first.fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    format!("{number:016x}")
}

fn filled(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}

/// Takes a value over as what it is in the API.
fn typed<T: DeserializeOwned>(field: &'static str, value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|error| Error::Field {
        field,
        why: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
