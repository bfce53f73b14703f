//! One function: its core behind a lock, its waiting calls, its live instances.
//!
//! The core decides under the lock; what it decided is carried out after the lock is released.
//! Locks are never held across an await, and no other lock is taken under this one.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{Instance, InstanceId, StartError, StartRequest, Started};
use bugle_types::{FunctionSpec, InstanceLabel, Resources};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::{Action, Core, Event, Key, Rejection, Set, Ticket};
use crate::lease::{ColdStart, Ending, Lease};
use crate::metrics::State;
use crate::scheduler::Shared;
use crate::status::{InstanceStatus, Status};
use crate::{CallMetrics, Metrics};

/// A function that can be called; clones are the same function.
#[derive(Clone, Debug)]
pub struct Function(pub(crate) Arc<Inner>);

/// What a call needs.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Other resources than the function's own.
    pub resources: Option<Resources>,
    /// The labelled set that must serve it.
    pub label: Option<InstanceLabel>,
    /// Until when it may wait.
    pub deadline: Instant,
}

/// Why a call got no slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The function's maximum is 0.
    #[error("the function is disabled: its maxInstance is 0")]
    Disabled,
    /// No reserved instances are configured under the label.
    #[error("instance label not found")]
    UnknownLabel,
    /// Too many calls wait already.
    #[error("{limit} calls of the function wait for an instance already (scheduler.queue_limit)")]
    QueueFull {
        /// How many may wait.
        limit: usize,
    },
    /// No instance became free in time.
    #[error("timed out waiting for an instance: all are busy and no more may be started")]
    Timeout,
    /// The instance that the call waited for did not come up.
    #[error(transparent)]
    Start(StartError),
    /// The function was deleted.
    #[error("function metadata not found")]
    Removed,
    /// The platform stops.
    #[error("the platform is stopping")]
    ShuttingDown,
}

impl Function {
    /// The newest specification.
    pub fn spec(&self) -> Arc<FunctionSpec> {
        Arc::clone(&self.0.lock().spec)
    }

    /// Takes a slot. At once, without waiting, when an instance has a free one; else the call waits
    /// in order of arrival and instances are started as its function's bounds allow.
    ///
    /// Cancel safe: dropping the future gives up the place, or the slot if it was just assigned.
    pub async fn acquire(&self, demand: Demand) -> Result<Lease, AcquireError> {
        let waiting = match self.0.request(demand) {
            Requested::Served(lease) => return Ok(*lease),
            Requested::Waiting(waiting) => waiting,
        };
        waiting.lease().await
    }

    /// The counters of this function.
    pub fn calls(&self) -> &CallMetrics {
        &self.0.calls
    }

    /// How it runs at this moment.
    pub fn status(&self) -> Status {
        self.0.lock().status()
    }
}

pub(crate) struct Inner {
    shared: Arc<Shared>,
    calls: CallMetrics,
    shell: Mutex<Shell>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("id", &self.lock().spec.id)
            .finish_non_exhaustive()
    }
}

struct Shell {
    spec: Arc<FunctionSpec>,
    /// None until it is needed: most functions are never called.
    live: Option<Box<Live>>,
}

/// A function that is in use.
struct Live {
    core: Core,
    waiting: HashMap<Ticket, Waiter>,
    instances: HashMap<Key, LiveInstance>,
    next_ticket: u64,
    /// The timer that is set.
    armed: Option<Instant>,
    counted: Counted,
}

/// A call that waits.
struct Waiter {
    since: Instant,
    answer: oneshot::Sender<Result<Lease, AcquireError>>,
}

/// An instance that runs or comes up.
struct LiveInstance {
    id: InstanceId,
    spec: Arc<FunctionSpec>,
    started: Instant,
    state: Up,
    /// Abandons its start.
    abandon: CancellationToken,
}

enum Up {
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

enum Requested {
    Served(Box<Lease>),
    Waiting(Waiting),
}

/// What is left to do when the lock is released.
enum Effect {
    Answer(
        oneshot::Sender<Result<Lease, AcquireError>>,
        Result<Lease, AcquireError>,
    ),
    Start(Key, StartRequest, CancellationToken),
    Stop(Arc<dyn Instance>, Duration),
    Kill(Arc<dyn Instance>),
    Arm(Instant),
}

/// A place in the queue; given up when dropped.
struct Waiting {
    function: Arc<Inner>,
    ticket: Ticket,
    answer: oneshot::Receiver<Result<Lease, AcquireError>>,
}

impl Waiting {
    async fn lease(mut self) -> Result<Lease, AcquireError> {
        // A sender that is dropped belonged to a function that is gone.
        (&mut self.answer)
            .await
            .unwrap_or(Err(AcquireError::Removed))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answer.is_terminated() {
            self.function.cancel(self.ticket);
        }
    }
}

impl Inner {
    pub(crate) fn new(spec: Arc<FunctionSpec>, shared: Arc<Shared>) -> Arc<Self> {
        let calls = shared.metrics.function(&spec.id);
        Arc::new(Self {
            shared,
            calls,
            shell: Mutex::new(Shell { spec, live: None }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Shell> {
        self.shell.lock()
    }

    fn request(self: &Arc<Self>, demand: Demand) -> Requested {
        let mut shell = self.lock();
        let resources = demand
            .resources
            .unwrap_or_else(|| shell.spec.resources.clone());
        let set = Set {
            label: demand.label,
            resources,
        };
        let live = shell.live(&self.shared);
        if let Some(key) = live.core.take_slot(&set)
            && let Some(lease) = live.lease(self, key, Duration::ZERO, None)
        {
            return Requested::Served(Box::new(lease));
        }
        let ticket = Ticket(live.next_ticket);
        live.next_ticket += 1;
        let (sender, answer) = oneshot::channel();
        live.waiting.insert(
            ticket,
            Waiter {
                since: Instant::now(),
                answer: sender,
            },
        );
        let event = Event::Request {
            ticket,
            set,
            deadline: demand.deadline,
        };
        self.decide(shell, event);
        Requested::Waiting(Waiting {
            function: Arc::clone(self),
            ticket,
            answer,
        })
    }

    fn cancel(self: &Arc<Self>, ticket: Ticket) {
        let mut shell = self.lock();
        if let Some(live) = &mut shell.live {
            live.waiting.remove(&ticket);
            self.decide(shell, Event::Cancelled(ticket));
        }
    }

    /// Tells the core of an event.
    pub(crate) fn on(self: &Arc<Self>, event: Event) {
        self.decide(self.lock(), event);
    }

    /// The function was added or changed.
    pub(crate) fn change(self: &Arc<Self>, spec: Arc<FunctionSpec>) {
        let mut shell = self.lock();
        let reserves = spec.scale.min > 0 || spec.labels.iter().any(|label| label.scale.min > 0);
        shell.spec = Arc::clone(&spec);
        if reserves {
            shell.live(&self.shared);
        }
        self.decide(shell, Event::Changed(spec));
    }

    pub(crate) fn remove(self: &Arc<Self>) {
        self.on(Event::Removed);
    }

    pub(crate) fn shut_down(self: &Arc<Self>) {
        // Also a function that nobody called must refuse the calls that come now.
        let mut shell = self.lock();
        shell.live(&self.shared);
        self.decide(shell, Event::ShuttingDown);
    }

    pub(crate) fn kill_all(self: &Arc<Self>) {
        let shell = self.lock();
        let instances = shell.live.iter().flat_map(|live| live.instances.values());
        let (mut here, mut coming) = (Vec::new(), Vec::new());
        for instance in instances {
            match &instance.state {
                Up::Coming => coming.push(instance.abandon.clone()),
                Up::Here { instance, .. } => here.push(Arc::clone(instance)),
            }
        }
        drop(shell);
        for start in coming {
            start.cancel();
        }
        for instance in here {
            instance.kill();
        }
    }

    pub(crate) fn tick(self: &Arc<Self>) {
        let mut shell = self.lock();
        if let Some(live) = &mut shell.live {
            live.armed = None;
            self.decide(shell, Event::Tick);
        }
    }

    /// Lets the core decide and carries out what it decided.
    fn decide(self: &Arc<Self>, mut shell: MutexGuard<'_, Shell>, event: Event) {
        let Some(live) = &mut shell.live else { return };
        let now = Instant::now();
        let ends_a_call = matches!(event, Event::Answered(_));
        let mut actions = Vec::new();
        live.core.on(event, now, &mut actions);
        // The usual end of a call of a warm function changes nothing that is counted.
        let quiet = ends_a_call && actions.is_empty();
        let mut effects = Vec::new();
        for action in actions {
            effects.extend(live.effect(action, self, now));
        }
        if let Some(due) = live.core.due()
            && live.armed.is_none_or(|armed| due < armed)
        {
            live.armed = Some(due);
            effects.push(Effect::Arm(due));
        }
        if !quiet {
            live.count(&self.shared.metrics);
        }
        drop(shell);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(self: &Arc<Self>, effect: Effect) {
        match effect {
            // A receiver that is gone has been cancelled in this moment; the lease that comes back
            // is dropped here, which frees the slot.
            Effect::Answer(waiter, answer) => drop(waiter.send(answer)),
            Effect::Start(key, request, abandon) => {
                let start = Arc::clone(self).start(key, request, abandon);
                self.shared.tasks.spawn_on(start, &self.shared.runtime);
            }
            Effect::Stop(instance, grace) => {
                let stop = async move {
                    instance.stop(grace).await;
                };
                self.shared.tasks.spawn_on(stop, &self.shared.runtime);
            }
            Effect::Kill(instance) => instance.kill(),
            Effect::Arm(at) => self.shared.timers.arm(at, Arc::downgrade(self)),
        }
    }

    /// Starts an instance and watches it until it is gone.
    async fn start(self: Arc<Self>, key: Key, request: StartRequest, abandon: CancellationToken) {
        let begin = Instant::now();
        let (id, function) = (request.id, request.spec.id.clone());
        let started = tokio::select! {
            biased;
            () = abandon.cancelled() => None,
            started = self.shared.driver.start(request) => Some(started),
        };
        let Started { instance, phases } = match started {
            None => return self.on(Event::Exited(key)),
            Some(Err(error)) => {
                self.shared.metrics.start_failed();
                tracing::info!(%function, instance = %id, %error, "an instance did not start");
                return self.on(Event::StartFailed(key, error));
            }
            Some(Ok(started)) => started,
        };
        let total = begin.elapsed();
        self.shared.metrics.start_succeeded(total, &phases);
        tracing::debug!(%function, instance = %id, ?total, "an instance is ready");
        self.arrived(key, &instance, ColdStart { total, phases });
        let exit = instance.exited().await;
        self.shared.metrics.exited(&exit.cause);
        tracing::debug!(%function, instance = %id, cause = %exit.cause, "an instance is gone");
        self.gone(key);
    }

    fn arrived(self: &Arc<Self>, key: Key, instance: &Arc<dyn Instance>, cold: ColdStart) {
        let mut shell = self.lock();
        if let Some(live) = &mut shell.live
            && let Some(entry) = live.instances.get_mut(&key)
        {
            entry.state = Up::Here {
                instance: Arc::clone(instance),
                cold,
            };
            if entry.abandon.is_cancelled() {
                drop(shell);
                instance.kill();
                return;
            }
        }
        self.decide(shell, Event::Started(key));
    }

    fn gone(self: &Arc<Self>, key: Key) {
        self.on(Event::Exited(key));
    }
}

impl Shell {
    fn live(&mut self, shared: &Shared) -> &mut Live {
        self.live.get_or_insert_with(|| {
            Box::new(Live {
                core: Core::new(Arc::clone(&self.spec), Arc::clone(&shared.config)),
                waiting: HashMap::new(),
                instances: HashMap::new(),
                next_ticket: 0,
                armed: None,
                counted: Counted::default(),
            })
        })
    }

    fn status(&self) -> Status {
        self.live
            .as_ref()
            .map_or_else(Status::default, |live| live.status())
    }
}

impl Live {
    /// A lease for a slot that the core has given.
    fn lease(
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

    fn effect(&mut self, action: Action, function: &Arc<Inner>, now: Instant) -> Option<Effect> {
        let config = &function.shared.config;
        match action {
            Action::Assign { ticket, key } => {
                let Waiter { since, answer } = self.waiting.remove(&ticket)?;
                let queued = now.duration_since(since);
                function
                    .shared
                    .metrics
                    .queue_seconds
                    .observe(queued.as_secs_f64());
                let lease = self.lease(function, key, queued, Some(since))?;
                Some(Effect::Answer(answer, Ok(lease)))
            }
            Action::Reject(ticket, rejection) => {
                let Waiter { answer, .. } = self.waiting.remove(&ticket)?;
                Some(Effect::Answer(
                    answer,
                    Err(rejection.error(config.queue_limit)),
                ))
            }
            Action::Start(key, set, spec) => {
                let id = InstanceId(uuid::Uuid::now_v7().as_u128());
                let abandon = CancellationToken::new();
                let entry = LiveInstance {
                    id,
                    spec: Arc::clone(&spec),
                    started: now,
                    state: Up::Coming,
                    abandon: abandon.clone(),
                };
                self.instances.insert(key, entry);
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
                        Some(Effect::Stop(Arc::clone(instance), grace))
                    }
                }
            }
            Action::Kill(key) => match &self.instances.get(&key)?.state {
                Up::Coming => None,
                Up::Here { instance, .. } => Some(Effect::Kill(Arc::clone(instance))),
            },
        }
    }

    /// Brings the gauges up to date, and forgets the instances that the core has forgotten.
    fn count(&mut self, metrics: &Metrics) {
        if self.instances.len() != self.core.alive_count() {
            let core = &self.core;
            self.instances.retain(|key, _| core.knows(*key));
        }
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
        let change =
            |gauge: &prometheus_client::metrics::gauge::Gauge, before: usize, after: usize| {
                #[expect(clippy::cast_possible_wrap, reason = "counts are small")]
                gauge.inc_by(after as i64 - before as i64);
            };
        let before = std::mem::replace(&mut self.counted, counted);
        change(&metrics.queued, before.queued, counted.queued);
        change(
            &metrics.instances(State::starting),
            before.starting,
            counted.starting,
        );
        change(
            &metrics.instances(State::ready),
            before.ready,
            counted.ready,
        );
        change(
            &metrics.instances(State::draining),
            before.draining,
            counted.draining,
        );
    }

    fn status(&self) -> Status {
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
            Self::ShuttingDown => AcquireError::ShuttingDown,
        }
    }
}
