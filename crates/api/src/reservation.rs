//! Reserved instances on the wire (contract 4).

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::decode::{Below, Field, Shape};

/// The body of R1 to R4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ReservationRequest {
    /// The function, `0@{service}@{name}`.
    pub func_name: String,
    /// The version, for instance `latest`.
    pub version: String,
    /// The label.
    pub instance_label: String,
    /// The bounds for each cluster.
    pub instance_config_infos: Vec<InstanceConfig>,
}

/// The bounds of a label in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct InstanceConfig {
    /// The cluster; `cluster001` when empty.
    pub cluster_id: String,
    /// The most instances, 0 to 1000.
    #[serde(deserialize_with = "integer")]
    pub max_instance: i64,
    /// Instances that are kept, 0 to 1000.
    #[serde(deserialize_with = "integer")]
    pub min_instance: i64,
}

/// An integer, or its text: the original's documents say one, its service the other (D19).
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an integer")]
    enum Either {
        Number(i64),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

const fn value(name: &'static str) -> Field {
    Field(name, Below::Value)
}

impl Shape for ReservationRequest {
    const FIELDS: &'static [Field] = &[
        value("funcName"),
        value("version"),
        value("instanceLabel"),
        Field(
            "instanceConfigInfos",
            Below::List(&[
                value("clusterId"),
                value("maxInstance"),
                value("minInstance"),
            ]),
        ),
    ];
}

/// The answer of R1 and R2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReservationAnswer {
    /// 0.
    pub code: u32,
    /// Empty.
    pub message: String,
    /// What is stored for the label, in all clusters.
    pub instance_config_infos: Option<Vec<InstanceConfig>>,
    /// Whose bounds they are.
    pub reserve_ins_base_info: ReservationId,
}

/// A label of a function version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReservationId {
    /// The function.
    pub func_name: String,
    /// The version.
    pub version: String,
    /// The label.
    pub instance_label: String,
}

/// The answer of R3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReservationList {
    /// How many labels.
    pub total: usize,
    /// The labels, newest first.
    pub results: Vec<Reservation>,
}

/// A label and its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// The label.
    pub instance_label: String,
    /// Its bounds, for each cluster.
    pub instance_config_infos: Vec<InstanceConfig>,
}
