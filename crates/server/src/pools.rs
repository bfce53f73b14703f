//! Pools on this machine: what their workers have ready, and what the machine has for them.

use std::sync::Arc;

use bugle_instances::{BoxFuture, PythonDriver, WaitingProcess};
use bugle_pools::{Keeper, Prepared, Workshop};
use bugle_types::pool::PoolId;
use bugle_types::{PythonVersion, Runtime};
use tokio::sync::{OnceCell, watch};

use crate::sharing::Sharing;

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

/// Before the name of a pool among the things that gateways share.
const POOLS: &str = "pool";

/// A pool's record is kept by one of several gateways.
impl Keeper for Sharing {
    fn keeps(&self, pool: &PoolId) -> bool {
        let view = self.cluster.view();
        view.me.is_some() && view.owner_of(&[POOLS, pool.as_str()]) == view.me.as_ref()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.cluster.changes()
    }
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
                crate::machine::room(),
                Arc::new(workshop),
                runtime,
            ))
        }
    }
}
