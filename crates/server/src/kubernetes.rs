//! Pools on Kubernetes: the controller, and the records of pools as it wants to see them.

mod elsewhere;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::InstanceId;
use bugle_kubernetes::{
    BoxFuture, Controller, GrowError, Handle, Metrics, PoolMap, Records, Use, Workers,
};
use bugle_node::Hub;
use bugle_pools::{Backend, PoolWatch, Pools};
use bugle_scheduler::{Fleet, Growth};
use bugle_types::pool::{Pool, PoolId, PoolSpec, PoolState, PoolStatus};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::sync::{SetOnce, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::nodes::Nodes;
use crate::sharing::Sharing;

use elsewhere::Elsewhere;

pub(crate) use elsewhere::Wish;

/// How often it is looked whether Pods of nodes are gone.
const LOOK: Duration = Duration::from_secs(2);

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

/// The cluster of the pools, as the rest of the platform sees it: makes pools grow, and knows Pods.
#[derive(Debug)]
pub(crate) struct Cluster {
    records: Arc<Stored>,
    /// Set when the configuration has led to a cluster.
    handle: SetOnce<Handle>,
    /// Where other gateways may be the ones that make Pods.
    elsewhere: Option<Elsewhere>,
}

impl Cluster {
    /// None where pools are not made on a cluster.
    pub(crate) fn new(
        config: &Config,
        pools: &Pools,
        sharing: Option<&Sharing>,
    ) -> Option<Arc<Self>> {
        if config.pools.backend != Backend::Kubernetes {
            return None;
        }
        let cluster = Arc::new(Self {
            records: Arc::new(Stored {
                pools: pools.clone(),
                current: watch::Sender::new(None),
            }),
            handle: SetOnce::new(),
            elsewhere: sharing.cloned().map(Elsewhere::new),
        });
        if let Some(sharing) = sharing {
            let asked = Arc::downgrade(&cluster);
            sharing.grow_with(Box::new(move |wishes| {
                let asked = asked.upgrade();
                asked.is_some_and(|cluster| cluster.grow_for_others(wishes))
            }));
        }
        Some(cluster)
    }

    /// Makes pools grow for another gateway, as far as they do; false if this one does not make Pods.
    fn grow_for_others(&self, wishes: &[Wish]) -> bool {
        let Some(handle) = self.handle.get().filter(|handle| handle.leads()) else {
            return false;
        };
        for (pool, request) in wishes {
            if let Err(refused) = handle.grow(pool, request) {
                // The other one sees the same Pods, and says why to whoever waits.
                tracing::debug!(%pool, %refused, "a pool does not grow for another gateway");
            }
        }
        true
    }

    /// The pool of a Pod, for whoever says that it is that Pod.
    ///
    /// # Errors
    /// Why the cluster cannot be asked, for people.
    pub(crate) async fn pool_of(&self, pod: &str, uid: &str) -> Result<Option<String>, String> {
        let connecting = || "the platform has no connection to its cluster".to_owned();
        let handle = self.handle.get().ok_or_else(connecting)?;
        handle.pool_of(pod, uid).await
    }

    fn leads(&self) -> bool {
        self.handle.get().is_some_and(Handle::leads)
    }

    fn pool(&self, id: &PoolId) -> Option<Arc<Pool>> {
        self.records
            .current
            .borrow()
            .as_ref()?
            .get(id)
            .map(Arc::clone)
    }
}

impl Growth for Cluster {
    fn has(&self, pool: &PoolId) -> bool {
        // While nobody knows, an instance waits rather than running where it should not.
        self.records
            .current
            .borrow()
            .as_ref()
            .is_none_or(|pools| pools.contains_key(pool))
    }

    fn grow(&self, pool: &PoolId, instance: InstanceId) -> Result<(), String> {
        use PoolStatus::{Creating, Pending, PendingUpdate, Updating};
        let Some(handle) = self.handle.get() else {
            return Err("the platform has no connection to its cluster".to_owned());
        };
        let request = instance.to_string();
        let error = match (handle.grow(pool, &request), &self.elsewhere) {
            (Ok(()), _) => return Ok(()),
            (Err(GrowError::Elsewhere(_)), Some(elsewhere)) => {
                elsewhere.tell(pool, &request);
                return Ok(());
            }
            (Err(error), _) => error,
        };
        let status = self.pool(pool).map(|pool| pool.state.status);
        let begins = matches!(status, Some(Pending | Creating | PendingUpdate | Updating));
        // A Pod that is on its way is nobody's in particular.
        if begins || handle.coming(pool) > 0 {
            return Ok(());
        }
        Err(error.to_string())
    }

    fn trouble(&self, pool: &PoolId) -> Option<String> {
        let state = &self.pool(pool)?.state;
        let well = state.msg.chars().all(char::is_alphabetic);
        let own = (!well || state.status == PoolStatus::Failed).then(|| state.msg.clone());
        let makes = self.elsewhere.as_ref();
        let makes = makes.filter(|_| !self.leads()).and_then(Elsewhere::trouble);
        let parts: Vec<String> = own.into_iter().chain(makes).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// The platform, as the controller sees it.
struct Hosting {
    hub: Hub,
    fleet: Fleet,
}

impl Workers for Hosting {
    fn token(&self, pool: &PoolId) -> String {
        self.hub.pool_token(pool.as_str()).to_string()
    }

    fn uses(&self) -> BTreeMap<String, Use> {
        let nodes = self.fleet.nodes().into_iter();
        let of_pools = nodes.filter(|node| node.view.pool.is_some());
        of_pools
            .map(|node| {
                let instances = u32::try_from(node.instances).unwrap_or(u32::MAX);
                let what = node.idle_since.map_or(Use::Busy(instances), Use::IdleSince);
                (node.view.id.to_string(), what)
            })
            .collect()
    }

    fn retire<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            match pod.parse() {
                Ok(node) => self.hub.close(&node).await,
                // What is no name of a node has never joined.
                Err(_) => false,
            }
        })
    }

    fn restore<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Ok(node) = pod.parse() {
                self.hub.open_again(&node).await;
            }
        })
    }
}

/// Makes pools real on the cluster until `stop`. It waits for a cluster that cannot be reached, and for a kubeconfig or
/// a service account that is not there yet, and says so. `address` is where nodes join.
pub(crate) fn controller(
    config: &Config,
    cluster: Arc<Cluster>,
    nodes: Nodes,
    address: Option<SocketAddr>,
    metrics: &mut Registry,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let metrics = Metrics::register(metrics);
    let mut config = config.kubernetes.clone();
    // Without a kubeconfig this is a Pod, which has its name for the name of its host.
    config.own_pod = config.kubeconfig.is_empty().then(host);
    if let Some(address) = address.filter(|_| config.join_address.is_empty()) {
        config.join_address = address.to_string();
    }
    let watch = cluster.records.pools.watch();
    async move {
        let makes = async {
            let Some((hub, fleet)) = stop.run_until_cancelled(nodes.opened()).await else {
                return;
            };
            let workers = Arc::new(Hosting {
                hub: hub.clone(),
                fleet,
            });
            let connected = connected(config, &cluster.records, workers, metrics);
            let Some(controller) = stop.run_until_cancelled(connected).await else {
                return;
            };
            let handle = controller.handle();
            _ = cluster.handle.set(handle.clone());
            let forget = stop.run_until_cancelled(forget_pods(&hub, &handle));
            tokio::join!(controller.run(stop.clone()), forget);
        };
        let follow = stop.run_until_cancelled(follow(watch, Arc::clone(&cluster.records)));
        let told = async {
            if let Some(elsewhere) = &cluster.elsewhere {
                stop.run_until_cancelled(elsewhere.run()).await;
            }
        };
        tokio::join!(makes, follow, told);
    }
}

/// Forgets nodes whose Pods are gone, for ever: their connections end, and their certificates are worth nothing.
async fn forget_pods(hub: &Hub, handle: &Handle) {
    loop {
        tokio::time::sleep(LOOK).await;
        if !handle.leads() {
            // One of several gateways does it for all.
            continue;
        }
        let Ok(members) = hub.list().await else {
            continue;
        };
        for member in members {
            let Some(pod) = member.pod else { continue };
            let found = handle.pool_of(member.node.as_str(), &pod.uid).await;
            if found != Ok(None) {
                continue;
            }
            tracing::info!(pod = %member.node, "the Pod is gone, and its node is forgotten");
            if let Err(error) = hub.remove(&member.node).await {
                let error = bugle_types::report(&error);
                tracing::warn!(pod = %member.node, error, "the node of a Pod cannot be forgotten");
            }
        }
    }
}

/// The objects that a pool would become, in the order in which they are applied.
///
/// # Errors
/// Why the pool cannot become any, for people.
pub fn pool_manifests(config: &Config, pool: &PoolSpec) -> Result<Vec<Value>, String> {
    let mut kubernetes = config.kubernetes.clone();
    if kubernetes.join_address.is_empty() {
        kubernetes.join_address.clone_from(&config.nodes.listen);
    }
    let rendered = bugle_kubernetes::manifest::rendered(&kubernetes, pool);
    rendered.map_err(|error| error.to_string())
}

async fn connected(
    config: bugle_kubernetes::Config,
    records: &Arc<Stored>,
    workers: Arc<Hosting>,
    metrics: Metrics,
) -> Controller {
    loop {
        let records = Arc::clone(records) as Arc<dyn Records>;
        let workers = Arc::clone(&workers) as Arc<dyn Workers>;
        let (config, metrics) = (config.clone(), metrics.clone());
        match Controller::new(config, records, Some(workers), identity(), metrics).await {
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
    format!("{}-{}", host(), uuid::Uuid::new_v4().simple())
}

fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim().to_owned()
}
