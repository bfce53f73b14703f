//! What there is in the cluster, as far as decisions need it.

use std::collections::BTreeMap;
use std::time::Duration;

use bugle_types::pool::{DEFAULT_PENDING_THRESHOLD, IDLE_LABEL, IdleTime};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use crate::names;

/// Everything that the controller made, by name.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Deployments.
    pub deployments: BTreeMap<String, Workload>,
    /// Autoscalers.
    pub autoscalers: BTreeMap<String, Scaler>,
    /// Pods.
    pub workers: BTreeMap<String, Worker>,
}

/// A Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The id of its pool.
    pub pool: String,
    /// Its uid.
    pub uid: String,
    /// What was applied.
    pub digest: String,
    /// Whether it is about to go.
    pub terminating: bool,
    /// Why Pods cannot be made, in the cluster's words.
    pub failure: Option<String>,
}

/// An autoscaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaler {
    /// The id of its pool.
    pub pool: String,
    /// What was applied.
    pub digest: String,
    /// Whether it is about to go.
    pub terminating: bool,
}

/// The phase of a Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers run.
    #[default]
    Pending,
    /// They run.
    Running,
    /// They have ended well.
    Succeeded,
    /// They have ended badly, or the node has thrown them out.
    Failed,
    /// The node has not told.
    Unknown,
}

/// Which Pods of a Deployment the cluster takes when there are to be fewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// Before others.
    #[default]
    First,
    /// After others.
    Last,
}

impl Turn {
    /// As the cluster has it.
    fn of(object: &ObjectMeta) -> Self {
        let cost = annotation(object, names::COST);
        match cost.and_then(|cost| cost.parse::<i32>().ok()) {
            Some(1..) => Self::Last,
            _ => Self::First,
        }
    }
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The id of its pool.
    pub pool: String,
    /// Its uid.
    pub uid: String,
    /// Its phase.
    pub phase: Phase,
    /// Whether it can take instances.
    pub ready: bool,
    /// Whether it is about to go.
    pub terminating: bool,
    /// Whether the pool's Deployment counts it.
    pub counted: bool,
    /// What is wrong with it, in the cluster's words.
    pub trouble: Option<String>,
    /// The request that it was made for.
    pub request: Option<String>,
    /// What its pool was when it was made, on Pods that are made one by one.
    pub digest: Option<String>,
    /// When the cluster takes it, if it has to take some.
    pub turn: Turn,
    /// How long it may idle.
    pub idle: IdleTime,
    /// How long it may be pending.
    pub threshold: Duration,
    /// When it was first seen here. The cluster's clock may be another.
    pub first_seen: Instant,
    /// When it was made, by the cluster's clock; for people.
    pub created: String,
}

impl Observed {
    /// Whether there is anything of a pool.
    pub fn has(&self, pool: &str) -> bool {
        self.of(pool).next().is_some()
            || self.deployments.values().any(|known| known.pool == pool)
            || self.autoscalers.values().any(|known| known.pool == pool)
    }

    /// The Pods of a pool.
    pub fn of<'a>(&'a self, pool: &'a str) -> impl Iterator<Item = (&'a String, &'a Worker)> {
        self.workers
            .iter()
            .filter(move |(_, worker)| worker.pool == pool)
    }
}

fn label(metadata: &ObjectMeta, key: &str) -> String {
    let value = metadata.labels.as_ref().and_then(|labels| labels.get(key));
    value.cloned().unwrap_or_default()
}

fn annotation(metadata: &ObjectMeta, key: &str) -> Option<String> {
    metadata.annotations.as_ref()?.get(key).cloned()
}

impl From<&Deployment> for Workload {
    fn from(object: &Deployment) -> Self {
        let conditions = object
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let failure = conditions
            .filter(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")
            .find_map(|condition| condition.message.clone());
        Self {
            pool: label(&object.metadata, names::POOL),
            uid: object.metadata.uid.clone().unwrap_or_default(),
            digest: annotation(&object.metadata, names::DIGEST).unwrap_or_default(),
            terminating: object.metadata.deletion_timestamp.is_some(),
            failure,
        }
    }
}

impl From<&HorizontalPodAutoscaler> for Scaler {
    fn from(object: &HorizontalPodAutoscaler) -> Self {
        Self {
            pool: label(&object.metadata, names::POOL),
            digest: annotation(&object.metadata, names::DIGEST).unwrap_or_default(),
            terminating: object.metadata.deletion_timestamp.is_some(),
        }
    }
}

impl Worker {
    /// What is to be known about a Pod that was first seen at that time.
    pub fn new(object: &Pod, first_seen: Instant) -> Self {
        let metadata = &object.metadata;
        let pool = label(metadata, names::POOL);
        let status = object.status.as_ref();
        let phase = match status.and_then(|status| status.phase.as_deref()) {
            Some("Running") => Phase::Running,
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            Some("Unknown") => Phase::Unknown,
            _ => Phase::Pending,
        };
        let conditions = || {
            status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten())
        };
        let ready =
            conditions().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let seconds =
            annotation(metadata, names::PENDING_THRESHOLD).and_then(|text| text.parse().ok());
        Self {
            counted: label(metadata, names::APP) == format!("{}{pool}", names::PREFIX),
            pool,
            uid: metadata.uid.clone().unwrap_or_default(),
            phase,
            ready: ready && phase == Phase::Running,
            terminating: metadata.deletion_timestamp.is_some(),
            trouble: trouble(object),
            request: annotation(metadata, names::REQUEST),
            digest: annotation(metadata, names::DIGEST),
            turn: Turn::of(metadata),
            idle: IdleTime::from_label(&label(metadata, IDLE_LABEL)),
            threshold: seconds.map_or(DEFAULT_PENDING_THRESHOLD, Duration::from_secs),
            first_seen,
            created: metadata
                .creation_timestamp
                .as_ref()
                .map_or_else(String::new, |time| time.0.to_string()),
        }
    }

    /// Whether it is one of the pool's workers, now or soon.
    pub fn is_live(&self) -> bool {
        !self.terminating && matches!(self.phase, Phase::Pending | Phase::Running)
    }
}

/// What keeps a Pod from being ready, the plainest reason first.
fn trouble(object: &Pod) -> Option<String> {
    let status = object.status.as_ref()?;
    if let Some(reason) = &status.reason {
        return Some(sentence(reason, status.message.as_deref()));
    }
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses);
    if let Some(found) = containers.flatten().find_map(container_trouble) {
        return Some(found);
    }
    let mut conditions = status.conditions.iter().flatten();
    conditions.find_map(|condition| {
        let reason = condition.reason.as_deref()?;
        let bad = matches!(
            (condition.type_.as_str(), reason),
            ("PodScheduled", "Unschedulable") | ("Ready", "NodeNotReady") | ("DisruptionTarget", _)
        );
        bad.then(|| sentence(reason, condition.message.as_deref()))
    })
}

fn container_trouble(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref()?;
        let starting = matches!(reason, "ContainerCreating" | "PodInitializing");
        return (!starting).then(|| sentence(reason, waiting.message.as_deref()));
    }
    let ended = state.terminated.as_ref()?;
    let reason = ended.reason.as_deref().unwrap_or("Ended");
    let plain = ended.exit_code == 0;
    (!plain).then(|| {
        sentence(
            &format!("{reason} with exit code {}", ended.exit_code),
            ended.message.as_deref(),
        )
    })
}

/// A reason with its message, neither longer than a person reads.
fn sentence(reason: &str, message: Option<&str>) -> String {
    const LONGEST: usize = 300;
    let mut text = reason.to_owned();
    if let Some(message) = message.filter(|message| !message.is_empty()) {
        text.push_str(": ");
        text.extend(message.chars().take(LONGEST));
    }
    text
}
