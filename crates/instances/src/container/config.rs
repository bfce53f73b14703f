//! How containers run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How functions run that are container images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerConfig {
    /// What makes containers: `native`, the platform itself, or `oci`, a runtime of the Open
    /// Container Initiative.
    pub runtime: ContainerRuntime,
    /// The command of that runtime, as for `runc run`: a name in the `PATH` of the platform or a
    /// path. Used with `oci` only.
    pub oci_command: PathBuf,
    /// How long a container without an initializer timeout may take until its port 8000 takes
    /// connections, in seconds.
    pub start_seconds: u64,
    /// So many containers are prepared ahead of need, for each kind of network. Each is a process
    /// of about a megabyte.
    pub prepared: usize,
    /// Makes the root of containers read-only; only `/tmp` and mounts are written to then.
    pub read_only: bool,
    /// Directories of this machine that functions may mount, by the names that they use for them.
    pub mounts: BTreeMap<String, HostDirectory>,
    /// How long a connection to a container is kept for the next call, in milliseconds. Less than
    /// the servers' own limit, so that no call meets a connection that is just being closed.
    pub idle_connection_millis: u64,
    /// Adds every request to a server and the head of its answer to the function's log, for whoever
    /// writes that server.
    pub show_exchanges: bool,
    /// The size of the private `/dev/shm`, in MB; what is in it counts as memory of the instance.
    pub shared_memory_mb: u64,
    /// How often it is looked at how much a container has written, in milliseconds.
    pub disk_check_millis: u64,
    /// The longest log line, in bytes; longer ones are cut.
    pub log_line_bytes: usize,
    /// The most log lines of one instance in a second; more are dropped and counted.
    pub log_lines_per_second: u32,
}

/// What makes containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerRuntime {
    /// The platform.
    #[default]
    Native,
    /// A command such as `runc` or `crun`.
    Oci,
}

/// A directory of the machine that functions may see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostDirectory {
    /// Where it is; absolute.
    pub path: PathBuf,
    /// Whether functions may write to it.
    pub writable: bool,
}

impl Default for ContainerConfig {
    fn default() -> Self {
        Self {
            runtime: ContainerRuntime::Native,
            oci_command: "runc".into(),
            start_seconds: 60,
            prepared: 2,
            read_only: false,
            mounts: BTreeMap::new(),
            idle_connection_millis: 1000,
            show_exchanges: false,
            shared_memory_mb: 64,
            disk_check_millis: 1000,
            log_line_bytes: 16 * 1024,
            log_lines_per_second: 5000,
        }
    }
}
