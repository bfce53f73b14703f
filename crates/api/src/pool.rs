//! Pod pools on the wire (contract 5), and how a pool is read out of it.
//!
//! The quirks: labels may be numbers; what is read-only is passed over on input, whatever it holds;
//! lists and objects of Kubernetes come as JSON inside a text. A record of the store has the shape
//! of [`PoolInfo`] as well, so that what an openYuanrong cluster keeps there can be read here.

mod spec;

pub use spec::SCALES_TWICE;

use std::collections::BTreeMap;

use bugle_types::pool::{PoolState, PoolStatus};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::decode::{Below, Field, Shape};

/// Texts by name, as the wire has them: `null` when there are none.
pub type Texts = Option<BTreeMap<String, String>>;

/// A pool, as a client asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PoolRequest {
    /// Its name: 1 to 40 of `a-z 0-9 -`, no `-` at the ends.
    #[schema(required, pattern = "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
    pub id: String,
    /// Its group, which functions choose by: 1 to 40 of `A-Z a-z 0-9 -`; `default` when empty.
    pub group: String,
    /// How many workers it keeps.
    #[schema(minimum = 0)]
    pub size: i64,
    /// How many workers it grows to on demand; `size` when 0.
    #[schema(minimum = 0)]
    pub max_size: i64,
    /// Whether a worker that an instance has for itself still counts, so that the pool makes
    /// another only when that worker is gone.
    pub reuse: bool,
    /// The image of the worker, at most 200 bytes; the platform's when empty.
    pub image: String,
    /// The image that prepares a worker, at most 200 bytes; the platform's when empty.
    pub init_image: String,
    /// Labels of the workers. Numbers and booleans are taken as their text.
    #[serde(deserialize_with = "lenient")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Variables of the workers.
    pub environment: Option<BTreeMap<String, String>>,
    /// What a worker has.
    #[schema(required)]
    pub resources: ResourceAmounts,
    /// A JSON list of `Volume`.
    pub volumes: String,
    /// A JSON list of `VolumeMount`.
    pub volume_mounts: String,
    /// A JSON object, `Affinity`.
    pub affinities: String,
    /// The runtime class, at most 64 bytes.
    pub runtime_class_name: String,
    /// Labels that a node must have.
    #[serde(deserialize_with = "lenient")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// A JSON list of `Toleration`.
    pub tolerations: String,
    /// A JSON object, `HorizontalPodAutoscalerSpec` of `autoscaling/v2`; not with `max_size` above
    /// `size`.
    pub horizontal_pod_autoscaler_spec: String,
    /// A JSON list of `TopologySpreadConstraint`; not with `max_size` above `size`.
    pub topology_spread_constraints: String,
    /// Seconds after which a pending Pod is an alarm; 120 when 0.
    #[schema(minimum = 0)]
    pub pod_pending_duration_threshold: i64,
    /// When idle workers go, if `max_size` is above `size`.
    pub idle_recycle_time: IdleRecycleTime,
}

/// Amounts of resources by name, for instance `{"cpu": "600m", "memory": "512Mi"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ResourceAmounts {
    /// What a worker may use, at least its request.
    #[serde(deserialize_with = "lenient")]
    #[schema(required)]
    pub limits: Option<BTreeMap<String, String>>,
    /// What a worker is placed by.
    #[serde(deserialize_with = "lenient")]
    #[schema(required)]
    pub requests: Option<BTreeMap<String, String>>,
}

/// When idle workers go, in seconds: -1 never, 0 not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct IdleRecycleTime {
    /// Workers that the pool keeps.
    #[schema(minimum = -1)]
    pub reserved: i64,
    /// Workers made on demand.
    #[schema(minimum = -1)]
    pub scaled: i64,
}

/// A pool as it is recorded and shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PoolInfo {
    /// Its name.
    pub id: String,
    /// Its group.
    pub group: String,
    /// How many workers it keeps.
    pub size: i64,
    /// How many workers it grows to.
    pub max_size: i64,
    /// How many workers can run instances now.
    pub ready_count: i64,
    /// 0 Pending, 1 Creating, 2 Pending Update, 3 Updating, 4 Running, 5 Creation Failed, 6 Pending
    /// Deletion.
    #[schema(minimum = 0, maximum = 6)]
    pub status: i64,
    /// What is going on, what is wrong, and which fields are ignored.
    pub msg: String,
    /// The image of the worker.
    pub image: String,
    /// The image that prepares a worker.
    pub init_image: String,
    /// Whether a worker taken by one instance still counts.
    pub reuse: bool,
    /// Labels of the workers.
    pub labels: Option<BTreeMap<String, String>>,
    /// Variables of the workers.
    pub environment: Option<BTreeMap<String, String>>,
    /// What a worker has.
    pub resources: ResourceAmounts,
    /// A JSON list of `Volume`.
    pub volumes: String,
    /// A JSON list of `VolumeMount`.
    pub volume_mounts: String,
    /// A JSON object, `Affinity`.
    pub affinities: String,
    /// The runtime class.
    pub runtime_class_name: String,
    /// Labels that a node must have.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// A JSON list of `Toleration`.
    pub tolerations: String,
    /// A JSON object, `HorizontalPodAutoscalerSpec`.
    pub horizontal_pod_autoscaler_spec: String,
    /// A JSON list of `TopologySpreadConstraint`.
    pub topology_spread_constraints: String,
    /// Seconds after which a pending Pod is an alarm.
    pub pod_pending_duration_threshold: i64,
    /// When idle workers go.
    pub idle_recycle_time: IdleRecycleTime,
    /// Whether it grows on demand.
    pub scalable: bool,
}

impl From<PoolRequest> for PoolInfo {
    /// The record of a new pool, with the defaults of what was not given.
    fn from(request: PoolRequest) -> Self {
        let max_size = match request.max_size {
            0 => request.size,
            given => given,
        };
        let group = match request.group {
            group if group.is_empty() => bugle_types::pool::PoolGroup::default().into(),
            group => group,
        };
        let some = |texts: Texts| texts.filter(|texts| !texts.is_empty());
        Self {
            id: request.id,
            group,
            size: request.size,
            max_size,
            ready_count: 0,
            status: PoolStatus::Pending.number().into(),
            msg: String::new(),
            image: request.image,
            init_image: request.init_image,
            reuse: request.reuse,
            labels: some(request.labels),
            environment: some(request.environment),
            resources: request.resources,
            volumes: request.volumes,
            volume_mounts: request.volume_mounts,
            affinities: request.affinities,
            runtime_class_name: request.runtime_class_name,
            node_selector: some(request.node_selector),
            tolerations: request.tolerations,
            horizontal_pod_autoscaler_spec: request.horizontal_pod_autoscaler_spec,
            topology_spread_constraints: request.topology_spread_constraints,
            pod_pending_duration_threshold: request.pod_pending_duration_threshold,
            idle_recycle_time: request.idle_recycle_time,
            scalable: max_size > request.size,
        }
    }
}

impl PoolInfo {
    /// What is known of how far it has come. A status that there is none of is one that nobody has
    /// begun with.
    pub fn state(&self) -> PoolState {
        PoolState {
            status: PoolStatus::from_number(self.status).unwrap_or_default(),
            msg: self.msg.clone(),
            ready_count: u32::try_from(self.ready_count).unwrap_or_default(),
        }
    }
}

/// The body of P1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CreatePoolsRequest {
    /// The pools, at least one. Each is checked and stored by itself.
    pub pools: Vec<PoolRequest>,
}

/// The body of P3: what is absent stays as it is, one must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct UpdatePoolRequest {
    /// How many workers it keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub size: Option<i64>,
    /// How many workers it grows to; only of a pool that was made to grow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub max_size: Option<i64>,
    /// A JSON object, `HorizontalPodAutoscalerSpec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub horizontal_pod_autoscaler_spec: Option<String>,
}

/// The answer of P1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatePoolsAnswer {
    /// 0, or 4104 if a pool failed.
    pub code: u32,
    /// Empty, or why each of the pools failed.
    pub message: String,
    /// Which pools failed.
    pub result: FailedPools,
}

/// The pools that were not stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailedPools {
    /// Their names, in the order of the request; null when there are none.
    pub failed_pools: Option<Vec<String>>,
    /// Why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FailedPool>,
}

/// A pool that was not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailedPool {
    /// Its name, as it was given.
    pub id: String,
    /// Everything that is wrong with it.
    pub message: String,
}

/// The answer of P2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolsAnswer {
    /// 0.
    pub code: u32,
    /// Empty.
    pub message: String,
    /// The page.
    pub result: PoolList,
}

/// A page of pools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolList {
    /// How many pools match, on all pages.
    pub count: usize,
    /// Those of the page, the one changed last first; null for a page that cannot be.
    pub pools: Option<Vec<PoolInfo>>,
}

/// The answer of P3 and P4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolAnswer {
    /// 0.
    pub code: u32,
    /// Empty.
    pub message: String,
    /// Null.
    #[schema(value_type = Option<Object>)]
    pub result: (),
}

/// Texts, or numbers and booleans in their place: the documents' own example has a number as the
/// value of a label (D25).
fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text, a number or a boolean")]
    enum Scalar {
        Text(String),
        Bool(bool),
        Number(serde_json::Number),
    }
    let given = Option::<BTreeMap<String, Scalar>>::deserialize(deserializer)?;
    let text = |scalar| match scalar {
        Scalar::Text(text) => text,
        Scalar::Bool(truth) => truth.to_string(),
        Scalar::Number(number) => number.to_string(),
    };
    Ok(given.map(|given| {
        given
            .into_iter()
            .map(|(name, scalar)| (name, text(scalar)))
            .collect()
    }))
}

const fn value(name: &'static str) -> Field {
    Field(name, Below::Value)
}

/// What a client may set; everything else is passed over unread.
const POOL: &[Field] = &[
    value("id"),
    value("group"),
    value("size"),
    value("max_size"),
    value("reuse"),
    value("image"),
    value("init_image"),
    value("labels"),
    value("environment"),
    Field(
        "resources",
        Below::Object(&[value("limits"), value("requests")]),
    ),
    value("volumes"),
    value("volume_mounts"),
    value("affinities"),
    value("runtime_class_name"),
    value("node_selector"),
    value("tolerations"),
    value("horizontal_pod_autoscaler_spec"),
    value("topology_spread_constraints"),
    value("pod_pending_duration_threshold"),
    Field(
        "idle_recycle_time",
        Below::Object(&[value("reserved"), value("scaled")]),
    ),
];

impl Shape for CreatePoolsRequest {
    const FIELDS: &'static [Field] = &[Field("pools", Below::List(POOL))];
}

impl Shape for UpdatePoolRequest {
    const FIELDS: &'static [Field] = &[
        value("size"),
        value("max_size"),
        value("horizontal_pod_autoscaler_spec"),
    ];
}

#[cfg(test)]
mod tests;
