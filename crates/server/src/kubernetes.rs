//! Pools on Kubernetes: the controller, and the records of pools as it wants to see them.

use std::sync::Arc;
use std::time::Duration;

use bugle_kubernetes::{BoxFuture, Controller, Metrics, PoolMap, Records};
use bugle_pools::{Backend, PoolWatch, Pools};
use bugle_types::pool::{PoolId, PoolSpec, PoolState};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// The pause after the configuration led to no cluster.
const RETRY: Duration = Duration::from_secs(10);

/// The pause after the store could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// The store's records.
#[derive(Debug)]
struct Stored {
    pools: Pools,
    current: watch::Sender<Option<Arc<PoolMap>>>,
}

impl Records for Stored {
    fn pools(&self) -> watch::Receiver<Option<Arc<PoolMap>>> {
        self.current.subscribe()
    }

    fn report(
        &self,
        id: PoolId,
        revision: u64,
        state: PoolState,
    ) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            // An outdated report is none: the record's change is on its way to the controller.
            let reported = self.pools.report(&id, revision, state).await;
            reported
                .map(|_| ())
                .map_err(|error| bugle_types::report(&error))
        })
    }

    fn remove(&self, id: PoolId, revision: u64) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let removed = self.pools.remove(&id, revision).await;
            removed
                .map(|_| ())
                .map_err(|error| bugle_types::report(&error))
        })
    }
}

/// What makes pools real on a cluster, if the configuration says so. Nothing is connected otherwise. It waits for a
/// cluster that cannot be reached, and for a kubeconfig or a service account that is not there yet, and says so.
pub(crate) fn controller(
    config: &Config,
    pools: &Pools,
    metrics: &mut Registry,
    stop: CancellationToken,
) -> Option<impl Future<Output = ()> + Send + use<>> {
    if config.pools.backend != Backend::Kubernetes {
        return None;
    }
    let records = Arc::new(Stored {
        pools: pools.clone(),
        current: watch::Sender::new(None),
    });
    let (config, watch) = (config.kubernetes.clone(), pools.watch());
    let metrics = Metrics::register(metrics);
    Some(async move {
        let connected = connected(config, Arc::clone(&records), metrics);
        let Some(controller) = stop.run_until_cancelled(connected).await else {
            return;
        };
        let follow = stop.run_until_cancelled(follow(watch, records));
        tokio::join!(controller.run(stop.clone()), follow);
    })
}

/// The objects that a pool would become, in the order in which they are applied.
///
/// # Errors
/// Why the pool cannot become any, for people.
pub fn pool_manifests(config: &Config, pool: &PoolSpec) -> Result<Vec<Value>, String> {
    let rendered = bugle_kubernetes::manifest::rendered(&config.kubernetes, pool);
    rendered.map_err(|error| error.to_string())
}

async fn connected(
    config: bugle_kubernetes::Config,
    records: Arc<Stored>,
    metrics: Metrics,
) -> Controller {
    loop {
        let records = Arc::clone(&records) as Arc<dyn Records>;
        match Controller::new(config.clone(), records, identity(), metrics.clone()).await {
            Ok(controller) => return controller,
            Err(error) => {
                let error = bugle_types::report(&error);
                tracing::error!(error, "pools cannot be made on Kubernetes");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Keeps the controller's view of the records up to date, until the store closes.
async fn follow(mut watch: PoolWatch, records: Arc<Stored>) {
    loop {
        match watch.next().await {
            Ok(pools) => {
                records.current.send_replace(Some(Arc::new(pools.clone())));
            }
            Err(bugle_store::Error::Closed) => return,
            Err(error) => {
                let error = bugle_types::report(&error);
                tracing::warn!(error, "the records of pools cannot be read");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A name for this process that no other has, and that tells where it runs.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), uuid::Uuid::new_v4().simple())
}
