//! The section of the configuration.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who makes pools real, and with what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who makes pools real: `machine` for warm workers of this machine, `kubernetes` for Pods of the
    /// cluster that the section `kubernetes` names, `none` for nobody: pools are recorded and stay
    /// pending.
    pub backend: Backend,
    /// CPU that all workers of this machine may have together, in thousandths of a core; 0 takes
    /// what the machine has.
    pub cpu_millis: u64,
    /// Memory that all workers of this machine may have together, in MiB; 0 takes what the machine
    /// has.
    pub memory_mib: u64,
    /// The most workers that there may be on this machine, each with a process that waits; 0 takes 16 for
    /// each core that workers may have.
    pub max_workers: u32,
    /// The Python version of the processes that workers of this machine have ready, for instance
    /// `python3.11`; empty takes the newest that is there.
    pub runtime: String,
    /// How long an instance waits for a worker that is being made, in seconds.
    pub wait_seconds: u64,
    /// How long instances on workers of a deleted pool may go on, in seconds; then they are killed.
    pub drain_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: Backend::Machine,
            cpu_millis: 0,
            memory_mib: 0,
            max_workers: 0,
            runtime: String::new(),
            wait_seconds: 120,
            drain_seconds: 30,
        }
    }
}

impl Config {
    pub(crate) fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_seconds)
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    /// The most workers on a machine with that room.
    pub(crate) fn most_workers(&self, room: Room) -> usize {
        let most = match self.max_workers {
            0 => room.cpu_millis.div_ceil(1000).max(1).saturating_mul(16),
            given => given.into(),
        };
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// What workers may have, on a machine that has `machine`.
    pub fn room(&self, machine: Room) -> Room {
        let or = |configured, there| if configured == 0 { there } else { configured };
        Room {
            cpu_millis: or(self.cpu_millis, machine.cpu_millis),
            memory_mib: or(self.memory_mib, machine.memory_mib),
        }
    }
}

/// Who makes pools real.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Warm workers of this machine.
    #[default]
    Machine,
    /// Pods of a cluster.
    Kubernetes,
    /// Nobody: pools are recorded and stay pending, as on a host of the original.
    None,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "machine",
            Self::Kubernetes => "kubernetes",
            Self::None => "none",
        })
    }
}

/// What a machine has for its workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// CPU in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory in MiB.
    pub memory_mib: u64,
}
