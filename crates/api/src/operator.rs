//! Wire shapes of Bugle's own operator routes under `/bugle/v1`: what the command line needs beyond
//! the contract.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /bugle/v1/info`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Info {
    /// Version of the platform.
    pub version: String,
    /// Base URL of the invocation gateway, for instance `http://127.0.0.1:8888`.
    pub gateway: String,
    /// The folders below which function code may live.
    #[schema(value_type = Vec<String>)]
    pub code_roots: Vec<PathBuf>,
    /// The runtimes that can run on this machine.
    pub runtimes: Vec<RuntimeInfo>,
    /// What instances are kept from.
    #[serde(default)]
    pub confinement: Vec<MeasureInfo>,
}

/// One thing that is done to confine instances, or is not.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MeasureInfo {
    /// What it is about, for instance `memory`.
    pub name: String,
    /// Whether it is taken.
    pub on: bool,
    /// What is done, or why it is not.
    pub detail: String,
}

/// A code package that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageInfo {
    /// What `sha512sum` prints of it.
    pub sha512: String,
    /// Its length.
    pub bytes: u64,
    /// What a function is registered with to run it, beside `"storageType": "s3"`.
    pub s3_code_path: crate::S3CodePath,
}

/// Answer of `GET /bugle/v1/packages`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackageList {
    /// The tenant's packages, at most 1,000, in order of their digests.
    pub packages: Vec<PackageInfo>,
}

/// A runtime that can run here.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RuntimeInfo {
    /// The name used at registration, for instance `python3.11`.
    pub name: String,
    /// The interpreter.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// What the interpreter says its version is.
    pub version: String,
}

/// Answer of `GET /bugle/v1/functions/{name}/status`: one function version, as it runs now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FunctionStatus {
    /// The URN with version.
    pub urn: String,
    /// The revision that new calls see.
    pub revision_id: String,
    /// The instances, oldest first.
    pub instances: Vec<InstanceStatus>,
    /// Calls that wait for an instance.
    pub queued: usize,
    /// Why the last start failed, if the last one did.
    pub last_start_error: Option<String>,
    /// How far the pull of its image is, while one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull: Option<crate::images::PullObject>,
    /// Calls answered since the platform started, by outcome.
    pub calls: Vec<CallCount>,
}

/// How many calls had an outcome.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CallCount {
    /// The outcome, as in the metrics.
    pub outcome: String,
    /// How many.
    pub count: u64,
}

/// One instance.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct InstanceStatus {
    /// Its identity.
    pub id: String,
    /// `starting`, `ready` or `draining`.
    pub state: String,
    /// Its process id.
    pub pid: Option<u32>,
    /// Its labelled set.
    pub label: Option<String>,
    /// CPU in thousandths of a core.
    pub cpu: u32,
    /// Memory in MB.
    pub memory: u64,
    /// Calls it runs now.
    pub in_flight: u32,
    /// Seconds since it was started.
    pub age_seconds: f64,
}

/// One line that a function wrote: an entry of `GET /bugle/v1/functions/{name}/logs`, one JSON object a
/// line, or the data of one server-sent event with `follow=true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// When the platform read it: UTC, `YYYY-MM-DD hh:mm:ss.mmm UTC`.
    pub time: String,
    /// The version of the function.
    pub version: String,
    /// The instance.
    pub instance: String,
    /// The call that wrote it, where that can be known.
    pub request: Option<String>,
    /// `stdout`, `stderr`, or `platform` for what the platform says of the instance.
    pub stream: String,
    /// The text.
    pub text: String,
}
