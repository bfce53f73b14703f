//! All functions.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::Driver;
use bugle_types::{FunctionId, FunctionSpec};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::function::{Function, Inner};
use crate::timers::Timers;
use crate::{Config, Metrics};

/// The map of functions is split, so that no lock is shared by all calls.
const SHARDS: usize = 64;

type Shard = RwLock<HashMap<FunctionId, Function>>;

/// A handle to the scheduler; clones are the same scheduler.
#[derive(Clone)]
pub struct Scheduler {
    functions: Arc<Functions>,
    shared: Arc<Shared>,
}

struct Functions {
    shards: [Shard; SHARDS],
    hasher: RandomState,
}

/// What every function needs.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) metrics: Metrics,
    pub(crate) timers: Timers,
    /// Where starts, stops and watches run.
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
}

impl Scheduler {
    /// A scheduler without functions. Its tasks run on the runtime that is entered.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(config: Config, driver: Arc<dyn Driver>, metrics: Metrics) -> Self {
        let runtime = Handle::current();
        let shared = Arc::new(Shared {
            config: Arc::new(config),
            driver,
            metrics,
            timers: Timers::default(),
            runtime: runtime.clone(),
            tasks: TaskTracker::new(),
        });
        let timers = Arc::downgrade(&shared);
        runtime.spawn(async move {
            // The task keeps the scheduler alive no longer than its handles do.
            if let Some(shared) = timers.upgrade() {
                shared.timers.run().await;
            }
        });
        let functions = Functions {
            shards: std::array::from_fn(|_| RwLock::default()),
            hasher: RandomState::new(),
        };
        Self {
            functions: Arc::new(functions),
            shared,
        }
    }

    /// Adds a function or changes it. Its minimum of instances starts at once.
    pub fn upsert(&self, spec: FunctionSpec) {
        let spec = Arc::new(spec);
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

    /// Ends everything: calls that wait are told, calls that run finish, instances stop in order.
    /// Returns when all are gone; after `grace` what is left is killed.
    pub async fn shutdown(&self, grace: Duration) {
        self.each(Inner::shut_down);
        self.shared.tasks.close();
        if tokio::time::timeout(grace, self.shared.tasks.wait())
            .await
            .is_err()
        {
            self.each(Inner::kill_all);
            self.shared.tasks.wait().await;
        }
    }

    fn each(&self, visit: impl Fn(&Arc<Inner>)) {
        for shard in &self.functions.shards {
            let functions: Vec<Function> = shard.read().values().cloned().collect();
            for Function(inner) in &functions {
                visit(inner);
            }
        }
    }
}

impl Functions {
    fn shard(&self, id: &FunctionId) -> &Shard {
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
