//! Wire shapes of the operator routes about nodes: `/bugle/v1/nodes`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /bugle/v1/nodes`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// The nodes, by name.
    pub nodes: Vec<NodeObject>,
}

/// A node at this moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeObject {
    /// Its name; `local` is the platform's own machine.
    pub name: String,
    /// `live`, `draining`, `gone` while it is not connected, or `unreadable` where its record in the store is damaged.
    pub state: String,
    /// When it joined, in seconds since 1970; 0 for the platform's own machine.
    pub joined: u64,
    /// Thousandths of a core that instances may use in all.
    pub cpu: u64,
    /// Thousandths of a core that its instances may use.
    pub cpu_used: u64,
    /// MiB that instances may use in all.
    pub memory: u64,
    /// MiB that its instances may use.
    pub memory_used: u64,
    /// Instances on it, those that come up included.
    pub instances: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The Pod pool that it is of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pool: Option<String>,
    /// The group of that pool.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
}

/// Body of `POST /bugle/v1/nodes/tokens`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTokenRequest {
    /// How long the token holds, in minutes: 1 to 1440; 15 when it is missing.
    pub minutes: Option<u32>,
}

/// A token with which one node may join once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeToken {
    /// The token. It is shown once and not kept.
    pub token: String,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
    /// Where the platform listens for nodes.
    pub address: String,
}
