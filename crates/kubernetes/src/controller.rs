//! The shell around the decision: follows records and cluster, decides, carries out, and begins again.

mod handle;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bugle_types::pool::{Pool, PoolId, PoolState};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::caches::Caches;
use crate::cluster::{Cluster, ConnectError};
use crate::config::Config;
use crate::decide::{self, Digests, Memory, Operation, Setback, Wanted};
use crate::execute::{Executor, Failure};
use crate::leader::{Candidate, Leadership};
use crate::manifest;
use crate::metrics::Metrics;
use crate::names;
use crate::workers::Workers;
use handle::Shared;

pub use handle::{GrowError, Handle};

/// How many requests are under way at once: all Pods of a common pool, as a second round would have to wait for what
/// the cluster makes of the first. An API server takes 200 writes at once by default, from everybody.
const AT_ONCE: usize = 64;

/// Everything is looked at again after this time, whatever happened. Alarms and idle times are due by it.
const AGAIN: Duration = Duration::from_secs(1);

/// The first and the longest wait after a failure of a pool.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// All pools by id.
pub type PoolMap = BTreeMap<PoolId, Arc<Pool>>;

/// The records of pools, wherever they are kept. A write names the revision that it is based on, and nothing
/// happens if the record has changed since; the change comes out at [`Records::pools`].
pub trait Records: Send + Sync + 'static {
    /// All pools as they change; none before they were read for the first time.
    fn pools(&self) -> watch::Receiver<Option<Arc<PoolMap>>>;

    /// Writes how far a pool has come.
    ///
    /// # Errors
    /// Why it could not be written; it is tried again.
    fn report(
        &self,
        id: PoolId,
        revision: u64,
        state: PoolState,
    ) -> BoxFuture<'_, Result<(), String>>;

    /// Takes the record of a deleted pool away.
    ///
    /// # Errors
    /// Why it could not be taken away; it is tried again.
    fn remove(&self, id: PoolId, revision: u64) -> BoxFuture<'_, Result<(), String>>;
}

/// Makes pools real on a cluster.
pub struct Controller {
    executor: Executor,
    records: Arc<dyn Records>,
    handle: Handle,
    identity: String,
    /// Pods that may or may not have been created.
    uncertain: Vec<Operation>,
    digests: BTreeMap<PoolId, (u64, Result<Digests, String>)>,
    /// Why the Secret of the workers could not be written the last time.
    secret_trouble: Option<String>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Controller {
    /// A controller for the cluster of the configuration. `identity` tells this process from the others. Without
    /// `workers` no Pod joins anything, and none is ever idle.
    ///
    /// # Errors
    /// When the configuration leads to no cluster. That the cluster does not answer is no error.
    pub async fn new(
        config: Config,
        records: Arc<dyn Records>,
        workers: Option<Arc<dyn Workers>>,
        identity: String,
        metrics: Metrics,
    ) -> Result<Self, ConnectError> {
        let cluster = Cluster::new(&config).await?;
        let (caches, leadership) = (Caches::new(), Leadership::new());
        let shared = Shared {
            cluster: cluster.clone(),
            patience: config.request_time(),
            memory: Mutex::default(),
            caches: caches.clone(),
            leadership: leadership.clone(),
            pools: records.pools(),
            asked: watch::Sender::new(0),
        };
        let executor = Executor {
            cluster,
            config: Arc::new(config),
            caches,
            leadership,
            metrics,
            workers,
            secret: Arc::default(),
        };
        Ok(Self {
            executor,
            records,
            handle: Handle {
                shared: Arc::new(shared),
            },
            identity,
            uncertain: Vec::new(),
            digests: BTreeMap::new(),
            secret_trouble: None,
        })
    }

    /// What others may ask of it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Makes pools real until the token is cancelled. Only one process of all that share the Lease does.
    pub async fn run(self, stop: CancellationToken) {
        let Executor {
            cluster,
            config,
            caches,
            leadership,
            ..
        } = self.executor.clone();
        let identity = self.identity.clone();
        let candidate = Candidate::new(cluster.clone(), &config, identity, leadership);
        tokio::join!(
            candidate.run(stop.clone()),
            caches.follow(&cluster, &stop),
            self.work(stop.clone()),
        );
    }

    async fn work(mut self, stop: CancellationToken) {
        let mut pools = self.records.pools();
        let mut news = self.executor.caches.subscribe();
        let mut leader = self.executor.leadership.subscribe();
        let mut asked = self.handle.shared.asked.subscribe();
        loop {
            news.mark_unchanged();
            asked.mark_unchanged();
            let wanted = pools.borrow_and_update().clone();
            let leads = self.handle.leads();
            self.executor.metrics.leads(leads);
            let mut again = AGAIN;
            if let (Some(wanted), true) = (wanted, leads) {
                again = self.pass(&wanted).await;
            } else if !leads {
                // Whoever acts next starts from records and cluster.
                *self.handle.shared.memory.lock() = Memory::default();
                self.uncertain.clear();
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = pools.changed() => if changed.is_err() { return },
                _ = leader.changed() => {}
                _ = news.changed() => {}
                _ = asked.changed() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// Looks at everything once and does what is to be done; gives the longest wait until the next time.
    async fn pass(&mut self, pools: &Arc<PoolMap>) -> Duration {
        self.make_certain(pools).await;
        self.keep_secret(pools).await;
        let Some(observed) = self.executor.caches.observed() else {
            return AGAIN;
        };
        self.digest(pools);
        let now = Instant::now();
        let (idle, busy) = self.executor.uses();
        let (operations, next) = {
            let digests = self
                .digests
                .iter()
                .map(|(id, (_, digests))| (id.clone(), digests.clone()))
                .collect();
            let wanted = Wanted {
                pools,
                digests: &digests,
            };
            let mut memory = self.handle.shared.memory.lock();
            (memory.idle, memory.busy) = (idle, busy);
            let operations = decide::decide(now, wanted, &observed, &mut memory, &mut || {
                uuid::Uuid::new_v4().as_u128()
            });
            let next = memory
                .setbacks
                .values()
                .map(|setback| setback.until)
                .filter(|until| *until > now)
                .min();
            (operations, next)
        };
        self.carry_out(pools, operations).await;
        next.map_or(AGAIN, |next| (next - now).min(AGAIN))
    }

    /// Writes what workers join with; pools that need it and do not have it say so, too.
    async fn keep_secret(&mut self, pools: &PoolMap) {
        let kept = self.executor.keep_secret(pools).await;
        let trouble = kept.err().map(|error| error.to_string());
        if let Some(error) = trouble.as_ref().filter(|_| trouble != self.secret_trouble) {
            tracing::warn!(error, "what workers join with could not be written");
        }
        self.secret_trouble = trouble;
    }

    /// Digests of pools whose records have changed.
    fn digest(&mut self, pools: &PoolMap) {
        self.digests.retain(|id, _| pools.contains_key(id));
        for (id, pool) in pools {
            if self
                .digests
                .get(id)
                .is_some_and(|(revision, _)| *revision == pool.revision)
            {
                continue;
            }
            let digests = digests(&self.executor.config, pool).map_err(|error| error.to_string());
            self.digests.insert(id.clone(), (pool.revision, digests));
        }
    }

    /// Asks again for Pods of which nobody knows whether they are there, before others are made in their place.
    async fn make_certain(&mut self, pools: &PoolMap) {
        for operation in std::mem::take(&mut self.uncertain) {
            let outcome = self.executor.carry_out(pools, &operation).await;
            self.remember(&operation, outcome);
        }
    }

    /// First what a pool consists of, each pool in its order; then the rest; all pools at once.
    async fn carry_out(&mut self, pools: &Arc<PoolMap>, operations: Vec<Operation>) {
        let mut first: BTreeMap<PoolId, Vec<Operation>> = BTreeMap::new();
        let mut rest = Vec::new();
        for operation in operations {
            match &operation {
                Operation::ApplyAutoscaler(id) | Operation::ApplyDeployment(id) => {
                    first.entry(id.clone()).or_default().push(operation);
                }
                _ => rest.push(operation),
            }
        }
        let executor = &self.executor;
        let in_order = |operations: Vec<Operation>| async move {
            for operation in operations {
                let outcome = executor.carry_out(pools, &operation).await;
                if outcome.is_err() {
                    return Some((operation, outcome));
                }
            }
            None
        };
        let failed: Vec<_> = stream::iter(first.clone().into_values())
            .map(in_order)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let records = &self.records;
        let done: Vec<_> = stream::iter(rest)
            .map(|operation| async move {
                let outcome = match &operation {
                    Operation::Report(id, revision, state) => {
                        recorded(records.report(id.clone(), *revision, state.clone()).await);
                        Ok(())
                    }
                    Operation::Remove(id, revision) => {
                        recorded(records.remove(id.clone(), *revision).await);
                        Ok(())
                    }
                    other => executor.carry_out(pools, other).await,
                };
                (operation, outcome)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let failed: BTreeMap<_, _> = failed
            .into_iter()
            .flatten()
            .filter_map(|(operation, outcome)| Some((pool_of(&operation)?, (operation, outcome))))
            .collect();
        for (id, operations) in first {
            if !failed.contains_key(&id) && !operations.is_empty() {
                self.handle.shared.memory.lock().setbacks.remove(&id);
            }
        }
        for (operation, outcome) in failed.into_values().chain(done) {
            self.remember(&operation, outcome);
        }
    }

    /// Keeps what went wrong, so that its pool waits and says so.
    fn remember(&mut self, operation: &Operation, outcome: Result<(), Failure>) {
        let Some(id) = pool_of(operation) else {
            return;
        };
        let worker = matches!(
            operation,
            Operation::CreateWorker(..)
                | Operation::DeleteWorker { .. }
                | Operation::RecycleWorker { .. }
                | Operation::RankWorker { .. }
        );
        let mut memory = self.handle.shared.memory.lock();
        let former = memory.setbacks.get(&id);
        let error = match outcome {
            Ok(()) => {
                if let Operation::CreateWorker(id, plan, _) = operation
                    && let Some(request) = &plan.request
                {
                    memory.serve(id, request, Instant::now());
                }
                let former = memory.setbacks.get(&id);
                if former.is_some_and(|former| former.worker == worker) {
                    memory.setbacks.remove(&id);
                }
                return;
            }
            Err(Failure::Deposed(_)) => return,
            Err(error) => error,
        };
        let refused = matches!(error, Failure::Refused { .. });
        if !refused && matches!(operation, Operation::CreateWorker(..)) {
            self.uncertain.push(operation.clone());
        }
        let attempts = former.map_or(0, |former| former.attempts).saturating_add(1);
        let message = error.to_string();
        if former.is_none_or(|former| former.message != message) {
            tracing::warn!(pool = %id, error = message, "an operation for a pool has failed");
        }
        let wait = (WAITS.0 * 2_u32.saturating_pow(attempts.min(10) - 1)).min(WAITS.1);
        let until = Instant::now() + wait;
        let setback = Setback {
            message,
            refused,
            worker,
            until,
            attempts,
        };
        memory.setbacks.insert(id, setback);
    }
}

fn recorded(outcome: Result<(), String>) {
    if let Err(error) = outcome {
        tracing::warn!(error, "the record of a pool could not be written");
    }
}

/// The pool that an operation is for.
fn pool_of(operation: &Operation) -> Option<PoolId> {
    match operation {
        Operation::ApplyAutoscaler(id)
        | Operation::ApplyDeployment(id)
        | Operation::CreateWorker(id, ..) => Some(id.clone()),
        Operation::DeleteDeployment { pool, .. }
        | Operation::DeleteWorker { pool, .. }
        | Operation::RecycleWorker { pool, .. }
        | Operation::RankWorker { pool, .. }
        | Operation::DeleteAutoscaler { pool, .. } => pool.parse().ok(),
        Operation::Report(..) | Operation::Remove(..) | Operation::Alarm { .. } => None,
    }
}

fn digests(config: &Config, pool: &Pool) -> Result<Digests, manifest::Error> {
    let digest = |annotations: Option<BTreeMap<String, String>>| {
        annotations
            .and_then(|annotations| annotations.get(names::DIGEST).cloned())
            .unwrap_or_default()
    };
    let deployment = manifest::deployment(config, &pool.spec)?;
    let autoscaler = manifest::autoscaler(&pool.spec)?;
    Ok(Digests {
        deployment: digest(deployment.metadata.annotations),
        autoscaler: autoscaler.map(|object| digest(object.metadata.annotations)),
    })
}
