//! How instances are confined.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How instances are confined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether Python instances are confined. `false` is for functions that are trusted like the
    /// platform itself.
    pub enabled: bool,
    /// Starts no instance when a measure that this configuration asks for cannot be taken. Without
    /// it, what can be taken is, and the rest is told at the start and by `bugle doctor`.
    pub require: bool,
    /// The user that instances run as, where the platform may change users.
    pub uid: u32,
    /// The group that instances run as.
    pub gid: u32,
    /// What instances reach: `host`, the network of the machine, or `none`, only themselves.
    pub network: Network,
    /// Ports that instances may not connect to, at any address: those of what manages machines. The
    /// platform's own control port and the ports of programs are always refused.
    pub refused_ports: Vec<u16>,
    /// Paths that instances may read, beside the usual ones of the system and the interpreter.
    pub read_only_paths: Vec<PathBuf>,
    /// The most processes and threads of one instance.
    pub processes: u32,
    /// What a function's `cpu` means: `share`, its part of a busy machine, which it may exceed while
    /// others are idle, or `limit`, which it never exceeds once it has loaded.
    pub processor: Processor,
    /// The most open files of one process.
    pub open_files: u64,
    /// The size of the private `/tmp`, in MB; what is in it counts as memory of the instance.
    pub tmp_mb: u64,
    /// The size of the private `/dev/shm`, in MB; it counts as memory, too.
    pub shared_memory_mb: u64,
    /// The most files in each of the two.
    pub tmp_files: u64,
    /// The largest file that can be written, in MB.
    pub file_mb: u64,
}

/// What an instance reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The network of the machine.
    #[default]
    Host,
    /// Nothing but itself.
    None,
}

/// What a function's `cpu` means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Processor {
    /// Its part of a busy machine.
    #[default]
    Share,
    /// The most it gets.
    Limit,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            require: false,
            uid: 1003,
            gid: 1003,
            network: Network::Host,
            // Docker, etcd, the Kubernetes API and the kubelet.
            refused_ports: vec![2375, 2376, 2379, 2380, 6443, 10_250, 10_255],
            read_only_paths: Vec::new(),
            processes: 256,
            processor: Processor::Share,
            open_files: 4096,
            tmp_mb: 512,
            shared_memory_mb: 64,
            tmp_files: 65_536,
            file_mb: 1024,
        }
    }
}
