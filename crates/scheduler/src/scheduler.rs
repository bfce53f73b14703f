//! All functions.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::Driver;
use bugle_types::{FunctionId, FunctionSpec};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::function::{Function, Inner};
use crate::timers::Timers;
use crate::{Config, Metrics};

/// The map of functions is split, so that no lock is shared by all calls.
const SHARDS: usize = 64;

/// How long a killed instance may take to be gone. A process that is stuck in the kernel must not
/// keep the platform from ending.
const AFTER_KILL: Duration = Duration::from_secs(5);

type Shard = RwLock<HashMap<FunctionId, Function>>;

/// A handle to the scheduler; clones are the same scheduler.
#[derive(Clone)]
pub struct Scheduler {
    pub(crate) functions: Arc<Functions>,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Functions {
    pub(crate) shards: [Shard; SHARDS],
    hasher: RandomState,
    /// Functions that another scheduler has now, and of which instances are left here.
    pub(crate) moved: Mutex<HashMap<FunctionId, Function>>,
}

/// What every function needs.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) metrics: Metrics,
    pub(crate) timers: Arc<Timers>,
    /// Tells functions when their timers are due; ends with the last handle and the last task.
    _clock: AbortOnDropHandle<()>,
    /// Where starts, stops and watches run.
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the platform stops: no call is taken any more, nothing starts.
    pub(crate) closing: CancellationToken,
    /// Cancelled when the time for that is over: every instance is killed, every start abandoned.
    pub(crate) kill: CancellationToken,
    /// Told when something changes of a function that another scheduler has now.
    pub(crate) departed: Notify,
    /// Told when it becomes known what others have of a function.
    pub(crate) counted: Notify,
}

impl Scheduler {
    /// A scheduler without functions. Its tasks run on the runtime that is entered.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(config: Config, driver: Arc<dyn Driver>, metrics: Metrics) -> Self {
        let runtime = Handle::current();
        let timers = Arc::new(Timers::default());
        let clock = Arc::clone(&timers);
        let clock = runtime.spawn(async move { clock.run().await });
        let shared = Arc::new(Shared {
            config: Arc::new(config),
            driver,
            metrics,
            timers,
            _clock: AbortOnDropHandle::new(clock),
            runtime,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            kill: CancellationToken::new(),
            departed: Notify::new(),
            counted: Notify::new(),
        });
        let functions = Functions {
            shards: std::array::from_fn(|_| RwLock::default()),
            hasher: RandomState::new(),
            moved: Mutex::default(),
        };
        Self {
            functions: Arc::new(functions),
            shared,
        }
    }

    /// Adds a function or changes it. Its minimum of instances starts at once.
    pub fn upsert(&self, spec: impl Into<Arc<FunctionSpec>>) {
        let spec = spec.into();
        let function = match self
            .functions
            .shard(&spec.id)
            .write()
            .entry(spec.id.clone())
        {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => {
                let inner = Inner::new(Arc::clone(&spec), Arc::clone(&self.shared));
                entry.insert(Function(inner)).clone()
            }
        };
        function.0.change(spec);
    }

    /// Removes a function: calls that wait are told, calls that run finish, instances go.
    pub fn remove(&self, id: &FunctionId) {
        let removed = self.functions.shard(id).write().remove(id);
        if let Some(Function(inner)) = removed {
            inner.remove();
        }
    }

    /// The function version with this identity.
    pub fn find(&self, id: &FunctionId) -> Option<Function> {
        self.functions.shard(id).read().get(id).cloned()
    }

    /// Ends everything: calls that wait are told, calls that run finish, instances stop in order and
    /// all at once. Returns when all are gone; after `grace` what is left is killed, that of removed
    /// functions included. A function that is added later takes no calls.
    ///
    /// Cancel safe, and may be called again: dropping the future leaves what stops stopping.
    pub async fn shutdown(&self, grace: Duration) {
        self.shared.closing.cancel();
        self.each(Inner::shut_down);
        self.shared.tasks.close();
        if self.all_gone_within(grace).await {
            return;
        }
        self.shared.kill.cancel();
        if !self.all_gone_within(AFTER_KILL).await {
            tracing::error!(
                left = self.shared.tasks.len(),
                "instances that were killed are not gone; their processes may be left behind"
            );
        }
    }

    async fn all_gone_within(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.shared.tasks.wait())
            .await
            .is_ok()
    }

    fn each(&self, visit: impl Fn(&Arc<Inner>)) {
        for Function(inner) in self.functions.moved.lock().values() {
            visit(inner);
        }
        for shard in &self.functions.shards {
            let functions: Vec<Function> = shard.read().values().cloned().collect();
            for Function(inner) in &functions {
                visit(inner);
            }
        }
    }
}

impl Functions {
    pub(crate) fn shard(&self, id: &FunctionId) -> &Shard {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any bits of a hash will do"
        )]
        let hash = self.hasher.hash_one(id) as usize;
        &self.shards[hash % SHARDS]
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::Demand;
    use crate::testing::{SimDriver, spec};

    fn scheduler() -> Scheduler {
        let driver = SimDriver::new(
            Duration::ZERO,
            Arc::new(|_| (Duration::ZERO, String::new())),
        );
        Scheduler::new(Config::default(), driver, Metrics::default())
    }

    async fn acquire(function: &Function) -> crate::Lease {
        let demand = Demand {
            resources: None,
            label: None,
            place: None,
            deadline: Instant::now() + Duration::from_hours(1),
        };
        let lease = function.acquire(demand).await;
        lease.expect("simulated instances start")
    }

    #[tokio::test(start_paused = true)]
    async fn timers_do_not_pile_up_under_traffic_and_end_with_it() {
        let scheduler = scheduler();
        scheduler.upsert(spec("f", "1", 1, 0, 1));
        let function = scheduler.find(&spec("f", "1", 1, 0, 1).id).unwrap();
        for _ in 0..1000 {
            // One waits for the other, so that a deadline comes before the idle clock.
            let held = acquire(&function).await;
            let waiting = acquire(&function);
            let release = async {
                sleep(Duration::from_millis(1)).await;
                drop(held);
            };
            drop(tokio::join!(waiting, release));
            sleep(Duration::from_secs(5)).await;
            assert!(scheduler.shared.timers.len() < 10);
        }
        sleep(Duration::from_mins(5)).await;
        assert_eq!(scheduler.shared.timers.len(), 0, "an idle platform sleeps");
    }

    #[tokio::test(start_paused = true)]
    async fn a_scheduler_that_nobody_holds_is_gone() {
        let shared = Arc::downgrade(&scheduler().shared);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(shared.strong_count(), 0);
    }
}
