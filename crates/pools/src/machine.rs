//! Pools on one machine, without Kubernetes.
//!
//! A worker is a share of the machine: the pool's requests are set aside for it, and instances on it
//! have its limits to divide among them. Beside that it has a *prepared process*, forked and waiting
//! ([`Prepared`]), which the next instance on it becomes. A process that dies is noticed and
//! replaced; until then its worker is not ready.
//!
//! [`Core`](core) decides, with no clock and no I/O; [`Machine`] carries out. [`PooledDriver`] stands
//! before the drivers of instances: an instance of a function that names a pool or group is placed on
//! a worker first. What names neither is not touched.

mod amounts;
mod core;
mod driver;
mod workers;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bugle_instances::{BoxFuture, Driver, Instance, InstanceId};
use bugle_types::Runtime;
use bugle_types::pool::PoolId;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use self::core::{Core, Step};
use self::workers::WorkerId;
use crate::{Config, Pools, Room};

pub use driver::PooledDriver;

/// How many processes are prepared at once: the machine has calls to serve meanwhile.
const AT_ONCE: usize = 8;

/// The pause after the store failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes what workers have ready.
pub trait Workshop: Send + Sync {
    /// Makes a process; none where nothing can be prepared, which is no failure.
    ///
    /// # Errors
    ///
    /// Why there is none, for people; it is tried again.
    fn prepare(&self) -> BoxFuture<'_, Result<Option<Box<dyn Prepared>>, String>>;
}

/// A process that waits to become an instance. It ends when it is dropped.
pub trait Prepared: Send + Sync + fmt::Debug {
    /// Waits until it has ended; does not keep it from being dropped.
    fn ended(&self) -> BoxFuture<'static, ()>;

    /// Lets the next instance of this runtime be the process, which is not ended any more when this
    /// is dropped; false if it cannot be one.
    fn lend(&self, runtime: &Runtime) -> bool;
}

/// Which pools this machine keeps, where several machines share the records.
pub trait Keeper: Send + Sync {
    /// Whether it keeps this one: makes its size real and writes its record. No two machines that know
    /// the same of each other both do.
    fn keeps(&self, pool: &PoolId) -> bool;

    /// Tells when it may keep others.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// The back end of one machine.
pub struct Machine {
    config: Config,
    workshop: Arc<dyn Workshop>,
    runtime: Handle,
    state: Mutex<State>,
    /// Lets so many processes be prepared at once.
    turns: Semaphore,
    /// Counts what happened, for those who wait for room and for the one that acts.
    news: watch::Sender<u64>,
}

struct State {
    core: Core,
    prepared: BTreeMap<WorkerId, Waiting>,
    instances: BTreeMap<InstanceId, Arc<dyn Instance>>,
    /// The number of the last process.
    last: u64,
}

/// A process that waits on a worker.
struct Waiting {
    number: u64,
    process: Box<dyn Prepared>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// A machine that has `room`, less if the configuration says so. Its tasks run on `runtime`.
    pub fn new(
        config: Config,
        room: Room,
        workshop: Arc<dyn Workshop>,
        runtime: Handle,
    ) -> Arc<Self> {
        let room = config.room(room);
        let core = Core::new(room, config.most_workers(room), config.drain());
        Arc::new(Self {
            config,
            workshop,
            runtime,
            state: Mutex::new(State {
                core,
                prepared: BTreeMap::new(),
                instances: BTreeMap::new(),
                last: 0,
            }),
            turns: Semaphore::new(AT_ONCE),
            news: watch::Sender::new(0),
        })
    }

    /// Puts the workers before a driver of instances.
    pub fn driver(self: &Arc<Self>, inner: Arc<dyn Driver>) -> PooledDriver {
        PooledDriver::new(Arc::clone(self), inner)
    }

    /// Makes pools real until `stop`, or until the store closes: those that `keeper` says, or all
    /// without one.
    pub async fn run(
        self: Arc<Self>,
        pools: Pools,
        keeper: Option<Arc<dyn Keeper>>,
        stop: CancellationToken,
    ) {
        let mut wanted = pools.watch();
        let mut news = self.news.subscribe();
        let mut shares = keeper.as_ref().map(|keeper| keeper.changes());
        loop {
            news.mark_unchanged();
            if let Some(shares) = &mut shares {
                shares.mark_unchanged();
            }
            share(&mut self.state.lock().core, keeper.as_deref());
            self.pass(&pools).await;
            let due = self.state.lock().core.due();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = wanted.next() => match next {
                    Ok(next) => {
                        let mut state = self.state.lock();
                        state.core.want(next, Instant::now());
                        share(&mut state.core, keeper.as_deref());
                        drop(state);
                        self.announce();
                    }
                    Err(bugle_store::Error::Closed) => break,
                    Err(error) => {
                        let error = bugle_types::report(&error);
                        tracing::warn!(error, "the records of pools cannot be read");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                _ = news.changed() => {}
                () = changed(&mut shares) => {}
                () = until(due) => {}
            }
        }
    }

    /// Wakes those who wait for room, and the one that acts.
    fn announce(&self) {
        self.news
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Does everything that is to be done now.
    async fn pass(self: &Arc<Self>, pools: &Pools) {
        let steps = self.state.lock().core.steps(Instant::now());
        for step in steps {
            match step {
                Step::Make(worker) => self.make(worker),
                Step::End(worker) => {
                    let waiting = self.state.lock().prepared.remove(&worker);
                    drop(waiting);
                }
                Step::Kill(instance) => {
                    let instance = self.state.lock().instances.get(&instance).cloned();
                    if let Some(instance) = instance {
                        instance.kill();
                    }
                }
                Step::Report(id, revision, state) => {
                    // What is outdated is looked at again when the watch shows what there is now.
                    if let Err(error) = pools.report(&id, revision, state).await {
                        let error = bugle_types::report(&error);
                        tracing::warn!(pool = %id, error, "the status cannot be recorded");
                    }
                }
                Step::Remove(id, revision) => match pools.remove(&id, revision).await {
                    Ok(true) => tracing::info!(pool = %id, "the pool is gone"),
                    Ok(false) => {}
                    Err(error) => {
                        let error = bugle_types::report(&error);
                        tracing::warn!(pool = %id, error, "the record cannot be taken away");
                    }
                },
            }
        }
    }

    /// Prepares a worker, and watches what was prepared.
    fn make(self: &Arc<Self>, worker: WorkerId) {
        let machine = Arc::clone(self);
        self.runtime.spawn(async move {
            // Never closed.
            let turn = machine.turns.acquire().await;
            let prepared = machine.workshop.prepare().await;
            drop(turn);
            match prepared {
                Ok(prepared) => machine.made(worker, prepared),
                Err(reason) => {
                    let mut state = machine.state.lock();
                    state.core.failed(worker, reason, Instant::now());
                    drop(state);
                    machine.announce();
                }
            }
        });
    }

    fn made(self: &Arc<Self>, worker: WorkerId, process: Option<Box<dyn Prepared>>) {
        let mut state = self.state.lock();
        let wanted = state.core.made(worker, Instant::now());
        if let Some(process) = process.filter(|_| wanted) {
            state.last += 1;
            let (number, ended) = (state.last, process.ended());
            state.prepared.insert(worker, Waiting { number, process });
            let machine = Arc::downgrade(self);
            self.runtime.spawn(async move {
                ended.await;
                if let Some(machine) = machine.upgrade() {
                    machine.lost(worker, number);
                }
            });
        }
        drop(state);
        self.announce();
    }

    /// A process has ended: of itself, or because the platform let go of it or gave it away.
    fn lost(&self, worker: WorkerId, number: u64) {
        let mut state = self.state.lock();
        let waited = state.prepared.get(&worker);
        if waited.is_some_and(|waiting| waiting.number == number) {
            state.prepared.remove(&worker);
            state.core.spent(worker);
            drop(state);
            tracing::info!("the process of a pool's worker has ended and is replaced");
            self.announce();
        }
    }
}

/// Tells the core which pools are this machine's.
fn share(core: &mut Core, keeper: Option<&dyn Keeper>) {
    if let Some(keeper) = keeper {
        core.share(|pool| keeper.keeps(pool));
    }
}

/// Waits until other pools may be this machine's; for ever where it has all, or nobody tells any more.
async fn changed(shares: &mut Option<watch::Receiver<u64>>) {
    if let Some(told) = shares {
        if told.changed().await.is_ok() {
            return;
        }
        *shares = None;
    }
    std::future::pending::<()>().await;
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
