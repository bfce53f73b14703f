//! Pools on this machine: what their workers have ready, and what the machine has for them.

use std::sync::Arc;

use bugle_instances::{BoxFuture, PythonDriver, WaitingProcess};
use bugle_pools::{Prepared, Room, Workshop};
use bugle_types::{PythonVersion, Runtime};
use tokio::sync::OnceCell;

/// Makes Python processes that wait for a function.
pub(crate) struct PythonWorkshop {
    python: PythonDriver,
    config: bugle_instances::Config,
    /// The version that was asked for; empty for the newest.
    runtime: String,
    version: OnceCell<Option<PythonVersion>>,
}

impl PythonWorkshop {
    pub(crate) fn new(
        python: PythonDriver,
        config: bugle_instances::Config,
        runtime: String,
    ) -> Self {
        Self {
            python,
            config,
            runtime,
            version: OnceCell::new(),
        }
    }

    /// The version to prepare; none where there is no interpreter.
    async fn version(&self) -> Result<Option<PythonVersion>, String> {
        if !self.runtime.is_empty() {
            let version = self.runtime.parse().map(Some);
            return version.map_err(|error| format!("pools.runtime: {error}"));
        }
        let find = async || {
            let config = self.config.clone();
            let found = tokio::task::spawn_blocking(move || newest(&config)).await;
            found.map_err(|_| "looking for interpreters failed".to_owned())
        };
        self.version.get_or_try_init(find).await.copied()
    }
}

fn newest(config: &bugle_instances::Config) -> Option<PythonVersion> {
    PythonDriver::discover(config)
        .into_iter()
        .filter(|interpreter| interpreter.problem.is_none())
        .map(|interpreter| interpreter.version)
        .max()
}

impl Workshop for PythonWorkshop {
    fn prepare(&self) -> BoxFuture<'_, Result<Option<Box<dyn Prepared>>, String>> {
        Box::pin(async move {
            let Some(version) = self.version().await? else {
                return Ok(None);
            };
            let process = self.python.fork_waiting(version).await;
            let process = process.map_err(|error| error.to_string())?;
            let prepared: Box<dyn Prepared> = Box::new(Ready {
                python: self.python.clone(),
                process,
            });
            Ok(Some(prepared))
        })
    }
}

/// A process, and the driver that takes it back.
#[derive(Debug)]
struct Ready {
    python: PythonDriver,
    process: WaitingProcess,
}

impl Prepared for Ready {
    fn ended(&self) -> BoxFuture<'static, ()> {
        self.process.ended()
    }

    fn lend(&self, runtime: &Runtime) -> bool {
        self.python.take_back(&self.process, runtime)
    }
}

/// What this machine has.
pub(crate) fn room() -> Room {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Room {
        cpu_millis: u64::try_from(cores)
            .unwrap_or(u64::MAX)
            .saturating_mul(1000),
        memory_mib: total(&memory).unwrap_or_default() / 1024,
    }
}

/// The machine's memory in KiB, out of what the kernel says of it.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The back end that the configuration chooses.
pub(crate) fn machine(
    config: &crate::config::Config,
    python: &PythonDriver,
    runtime: tokio::runtime::Handle,
) -> Option<Arc<bugle_pools::Machine>> {
    match config.pools.backend {
        bugle_pools::Backend::None | bugle_pools::Backend::Kubernetes => None,
        bugle_pools::Backend::Machine => {
            let workshop = PythonWorkshop::new(
                python.clone(),
                config.python.clone(),
                config.pools.runtime.clone(),
            );
            Some(bugle_pools::Machine::new(
                config.pools.clone(),
                room(),
                Arc::new(workshop),
                runtime,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_machine_is_read() {
        let text = "MemTotal:       16384000 kB\nMemFree:   1 kB\n";
        assert_eq!(total(text), Some(16_384_000));
        assert_eq!(total("nothing"), None);
        assert!(room().cpu_millis >= 1000 && room().memory_mib > 0);
    }
}
