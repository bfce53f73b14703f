//! Limits of functions (contract 2.10).

use serde::{Deserialize, Serialize};

/// Limits of functions and their versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The timeout of a function that names none, in seconds.
    pub default_timeout_seconds: i64,
    /// The least CPU, in thousandths of a core.
    pub min_cpu: i64,
    /// The most CPU, in thousandths of a core.
    pub max_cpu: i64,
    /// The least memory, in MB.
    pub min_memory: i64,
    /// The most memory, in MB.
    pub max_memory: i64,
    /// `minInstance` of a function that names none.
    pub default_min_instance: i64,
    /// `maxInstance` of a function that names none.
    pub default_max_instance: i64,
    /// `concurrentNum` of a function that names none.
    pub default_concurrent_num: i64,
    /// The largest `maxInstance`.
    pub max_instance_limit: i64,
    /// The largest `concurrentNum`.
    pub concurrent_num_limit: i64,
    /// Published versions of one function, beside its draft.
    pub max_versions: usize,
    /// Layers of one function.
    pub max_layers: usize,
    /// Labels of reserved instances of one function version.
    pub max_labels: usize,
    /// Clusters that reserved instances may name, beside `cluster001`.
    pub clusters: Vec<String>,
    /// How the variables of functions are published: `sealed`, for bugle alone, or `clear`, so that
    /// an openYuanrong cluster on the same etcd can run the functions. In clear, whoever may read
    /// etcd reads them.
    pub publish_environment: PublishedEnvironment,
    /// Runtimes that may be registered.
    pub runtimes: Vec<String>,
}

/// How the variables of functions are published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishedEnvironment {
    /// Encrypted with the key of this deployment.
    #[default]
    Sealed,
    /// As they are.
    Clear,
}

/// The cluster that always exists.
pub(crate) const CLUSTER: &str = "cluster001";

/// The largest timeout, 100 days in seconds (contract 2.10, fixed).
pub(crate) const MAX_TIMEOUT: i64 = 8_640_000;

const RUNTIMES: &[&str] = &[
    "cpp11",
    "cpp11-bin",
    "custom image",
    "custom runtime",
    "custom-runtime",
    "go1.13",
    "http",
    "java1.8",
    "java11",
    "java17",
    "java21",
    "java8",
    "nodejs10.15.2",
    "posix-custom-runtime",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "python3.6",
    "python3.7",
    "python3.8",
    "python3.9",
];

impl Default for Config {
    fn default() -> Self {
        Self {
            default_timeout_seconds: 900,
            min_cpu: 300,
            max_cpu: 16_000,
            min_memory: 128,
            max_memory: 1_073_741_824,
            default_min_instance: 0,
            default_max_instance: 100,
            default_concurrent_num: 100,
            max_instance_limit: 1000,
            concurrent_num_limit: 1000,
            max_versions: 8,
            max_layers: 1,
            max_labels: 100,
            clusters: Vec::new(),
            publish_environment: PublishedEnvironment::Sealed,
            runtimes: RUNTIMES.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

impl Config {
    /// All clusters, the built-in one first.
    pub(crate) fn all_clusters(&self) -> impl Iterator<Item = &str> {
        let configured = self
            .clusters
            .iter()
            .map(String::as_str)
            .filter(|name| *name != CLUSTER);
        std::iter::once(CLUSTER).chain(configured)
    }
}
