//! A function in use, as the shell sees it: its core with the calls and the instances behind the
//! core's numbers.
//!
//! Everything here happens under the function's lock. What must not, because it runs code of others
//! or takes another lock, comes out as an [`Effect`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{Instance, InstanceId, StartRequest};
use bugle_types::FunctionSpec;
use bugle_types::pool::PoolChoice;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Metrics;
use crate::core::{Action, Core, Key, Rejection, Ticket};
use crate::function::{AcquireError, Inner};
use crate::lease::{ColdStart, Ending, Lease};
use crate::scheduler::Shared;
use crate::status::{InstanceStatus, Status};

/// A function that is in use.
pub(crate) struct Live {
    pub(crate) core: Core,
    pub(crate) waiting: BTreeMap<Ticket, Waiter>,
    pub(crate) instances: BTreeMap<Key, LiveInstance>,
    pub(crate) next_ticket: u64,
    /// The timer that is set.
    pub(crate) armed: Option<Instant>,
    counted: Counted,
}

/// A call that waits.
pub(crate) struct Waiter {
    pub(crate) since: Instant,
    pub(crate) answer: oneshot::Sender<Result<Lease, AcquireError>>,
}

/// An instance that runs or comes up.
pub(crate) struct LiveInstance {
    id: InstanceId,
    spec: Arc<FunctionSpec>,
    started: Instant,
    pub(crate) state: Up,
    /// Abandons its start.
    pub(crate) abandon: CancellationToken,
}

pub(crate) enum Up {
    Coming,
    Here {
        instance: Arc<dyn Instance>,
        cold: ColdStart,
    },
}

/// What the gauges know of this function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    queued: usize,
    starting: usize,
    ready: usize,
    draining: usize,
}

/// What is left to do when the lock is released.
pub(crate) enum Effect {
    Answer(
        oneshot::Sender<Result<Lease, AcquireError>>,
        Result<Lease, AcquireError>,
    ),
    Start(Key, StartRequest, CancellationToken),
    Stop(Arc<dyn Instance>, Duration),
    /// For whoever schedules the function now; stopped if that cannot be.
    HandOver(Arc<dyn Instance>, Duration),
    Kill(Arc<dyn Instance>),
    Arm(Instant),
}

impl Live {
    pub(crate) fn new(spec: Arc<FunctionSpec>, shared: &Shared) -> Self {
        Self {
            core: Core::new(spec, Arc::clone(&shared.config)),
            waiting: BTreeMap::new(),
            instances: BTreeMap::new(),
            next_ticket: 0,
            armed: None,
            counted: Counted::default(),
        }
    }

    /// Notes an instance that comes up.
    pub(crate) fn come_up(
        &mut self,
        key: Key,
        id: InstanceId,
        spec: Arc<FunctionSpec>,
        abandon: CancellationToken,
    ) {
        let entry = LiveInstance {
            id,
            spec,
            started: Instant::now(),
            state: Up::Coming,
            abandon,
        };
        self.instances.insert(key, entry);
    }

    /// A lease for a slot that the core has given.
    pub(crate) fn lease(
        &self,
        function: &Arc<Inner>,
        key: Key,
        queued: Duration,
        since: Option<Instant>,
    ) -> Option<Lease> {
        let entry = self.instances.get(&key)?;
        let Up::Here { instance, cold } = &entry.state else {
            return None;
        };
        // A call that came after the decision to start waited for a part of it only; a call that
        // came before it waited for all of it.
        let waited_for_start = since.is_some_and(|since| since < entry.started + cold.total);
        Some(Lease {
            function: Arc::clone(function),
            key,
            instance: Arc::clone(instance),
            spec: Arc::clone(&entry.spec),
            queued,
            cold: waited_for_start.then_some(*cold),
            ending: Ending::Answered,
        })
    }

    pub(crate) fn effect(
        &mut self,
        action: Action,
        function: &Arc<Inner>,
        now: Instant,
    ) -> Option<Effect> {
        let config = &function.shared.config;
        match action {
            Action::Assign { ticket, key } => {
                let Waiter { since, answer } = self.waiting.remove(&ticket)?;
                let queued = now.duration_since(since);
                let metrics = &function.shared.metrics;
                metrics.queue_seconds.observe(queued.as_secs_f64());
                let lease = self.lease(function, key, queued, Some(since))?;
                Some(Effect::Answer(answer, Ok(lease)))
            }
            Action::Reject(ticket, rejection) => {
                let Waiter { answer, .. } = self.waiting.remove(&ticket)?;
                Some(Effect::Answer(
                    answer,
                    Err(rejection.error(config.queue_limit())),
                ))
            }
            Action::Start(key, set, spec) => {
                let id = InstanceId(uuid::Uuid::now_v7().as_u128());
                let abandon = function.shared.kill.child_token();
                // Whoever places or prepares it looks at the specification alone.
                let spec = match &set.place {
                    None => spec,
                    Some(place) => Arc::new(FunctionSpec {
                        pool: PoolChoice::clone(place),
                        ..FunctionSpec::clone(&spec)
                    }),
                };
                self.come_up(key, id, Arc::clone(&spec), abandon.clone());
                let request = StartRequest {
                    id,
                    spec,
                    resources: set.resources,
                    label: set.label,
                };
                Some(Effect::Start(key, request, abandon))
            }
            Action::Stop(key) => {
                let entry = self.instances.get(&key)?;
                match &entry.state {
                    Up::Coming => {
                        entry.abandon.cancel();
                        None
                    }
                    Up::Here { instance, .. } => {
                        let pre_stop = entry.spec.pre_stop.as_ref().map(|hook| hook.timeout);
                        let grace = config.stop_grace(pre_stop);
                        let instance = Arc::clone(instance);
                        Some(if self.core.has_moved() {
                            Effect::HandOver(instance, grace)
                        } else {
                            Effect::Stop(instance, grace)
                        })
                    }
                }
            }
            Action::Kill(key) => {
                let entry = self.instances.get(&key)?;
                match &entry.state {
                    Up::Coming => {
                        entry.abandon.cancel();
                        None
                    }
                    Up::Here { instance, .. } => Some(Effect::Kill(Arc::clone(instance))),
                }
            }
        }
    }

    /// Brings the gauges up to date.
    pub(crate) fn count(&mut self, metrics: &Metrics) {
        let now = self.core.counts();
        let counted = Counted {
            queued: now.0,
            starting: now.1,
            ready: now.2,
            draining: now.3,
        };
        if counted == self.counted {
            return;
        }
        let before = std::mem::replace(&mut self.counted, counted);
        for (gauge, before, after) in [
            (&metrics.queued, before.queued, counted.queued),
            (&metrics.starting, before.starting, counted.starting),
            (&metrics.ready, before.ready, counted.ready),
            (&metrics.draining, before.draining, counted.draining),
        ] {
            #[expect(clippy::cast_possible_wrap, reason = "counts are small")]
            gauge.inc_by(after as i64 - before as i64);
        }
    }

    pub(crate) fn status(&self) -> Status {
        let mut instances = Vec::new();
        for (key, set, state, in_flight) in self.core.describe() {
            let Some(entry) = self.instances.get(&key) else {
                continue;
            };
            instances.push(InstanceStatus {
                id: entry.id,
                state,
                pid: match &entry.state {
                    Up::Coming => None,
                    Up::Here { instance, .. } => instance.pid(),
                },
                label: set.label,
                resources: set.resources,
                in_flight,
                age: entry.started.elapsed(),
            });
        }
        Status {
            instances,
            queued: self.core.counts().0,
            last_start_error: self.core.last_start_error().cloned(),
        }
    }
}

impl Rejection {
    fn error(self, queue_limit: usize) -> AcquireError {
        match self {
            Self::Disabled => AcquireError::Disabled,
            Self::UnknownLabel => AcquireError::UnknownLabel,
            Self::QueueFull => AcquireError::QueueFull { limit: queue_limit },
            Self::Timeout => AcquireError::Timeout,
            Self::Start(error) => AcquireError::Start(error),
            Self::Removed => AcquireError::Removed,
            Self::Moved => AcquireError::Moved,
            Self::ShuttingDown => AcquireError::ShuttingDown,
        }
    }
}
