//! One function, to be called: decisions under its lock, their effects after it.
//!
//! The core decides under the lock; what it decided is carried out after the lock is released.
//! Locks are never held across an await, and no other lock is taken under this one.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bugle_instances::{ExitCause, Instance, StartError, StartPhases, StartRequest, Started};
use bugle_types::pool::PoolChoice;
use bugle_types::{FunctionSpec, Generation, InstanceLabel, Resources};
use futures_util::FutureExt as _;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::CallMetrics;
use crate::core::{Census, Event, Key, Set, Ticket};
use crate::lease::{ColdStart, Lease};
use crate::live::{Effect, Live, Up, Waiter};
use crate::scheduler::Shared;
use crate::status::Status;

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
    /// Where its instance shall run, if that is not where the function says.
    pub place: Option<Arc<PoolChoice>>,
    /// Until when it may wait.
    pub deadline: Instant,
}

/// An instance that runs already.
#[derive(Debug)]
pub struct Adopted {
    /// The instance.
    pub instance: Arc<dyn Instance>,
    /// The code that it runs.
    pub generation: Generation,
    /// What it may use.
    pub resources: Resources,
    /// The labelled set it belongs to.
    pub label: Option<InstanceLabel>,
    /// Where it was chosen to run.
    pub place: PoolChoice,
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
    /// Another scheduler has the function now; the call was sent to no instance.
    #[error("the function is scheduled by another gateway now")]
    Moved,
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

    /// The counters of this function. Resolved once, when they are first asked for: a function that
    /// nobody calls has no series.
    pub fn calls(&self) -> &CallMetrics {
        self.0.calls.get_or_init(|| {
            let id = &self.spec().id;
            self.0.shared.metrics.function(id)
        })
    }

    /// Takes in an instance of this function that runs already, because the node that it runs on
    /// outlived the platform that started it. False if the function has no use for it: the code was
    /// changed, or there are as many as there may be; then it is the caller's to end.
    pub fn adopt(&self, adopted: Adopted) -> bool {
        self.0.adopt(adopted)
    }

    /// Tells how many instances of this function other schedulers have: they count against its
    /// bounds. Until it was told for the first time, a function that was taken over starts none.
    pub fn set_elsewhere(&self, census: Census) {
        self.0.on(Event::Elsewhere(census));
        self.0.shared.counted.notify_waiters();
    }

    /// Tells how many instances of this function run on nodes and are no scheduler's: they count
    /// against its bounds, until one of them is taken in ([`Function::adopt`]) or has ended.
    pub fn set_orphans(&self, census: Census) {
        self.0.on(Event::Orphans(census));
    }

    /// Holds starts back, so that instances which run already can be taken in first, or lets them go on.
    pub fn hold_starts(&self, held: bool) {
        self.0.on(Event::Hold(held));
    }

    /// Waits until it is known what other schedulers have of it, or it is not scheduled here. Until
    /// then it takes no instance in. Cancel safe.
    pub async fn counted(&self) {
        let shared = Arc::clone(&self.0.shared);
        loop {
            let counted = shared.counted.notified();
            let mut counted = std::pin::pin!(counted);
            counted.as_mut().enable();
            let knows = {
                let shell = self.0.lock();
                let live = shell.live.as_ref();
                live.is_none_or(|live| live.core.knows_others())
            };
            if knows {
                return;
            }
            counted.await;
        }
    }

    /// The instances of it that are here and not gone.
    pub fn census(&self) -> Census {
        let shell = self.0.lock();
        let live = shell.live.as_ref();
        live.map_or_else(Census::default, |live| live.core.census())
    }

    /// How it runs at this moment.
    pub fn status(&self) -> Status {
        self.0.lock().status()
    }
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    calls: OnceLock<CallMetrics>,
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

enum Requested {
    Served(Box<Lease>),
    Waiting(Waiting),
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
        Arc::new(Self {
            shared,
            calls: OnceLock::new(),
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
            place: demand.place.filter(|place| **place != shell.spec.pool),
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

    /// The function is scheduled here from now on, and what others have of it is yet to be told.
    pub(crate) fn open(self: &Arc<Self>, spec: Arc<FunctionSpec>) {
        let mut shell = self.lock();
        shell.live(&self.shared);
        self.decide(shell, Event::Opened);
        self.change(spec);
    }

    pub(crate) fn remove(self: &Arc<Self>) {
        self.on(Event::Removed);
    }

    /// Stops what is in use. Whatever comes into use later finds the platform closing.
    pub(crate) fn shut_down(self: &Arc<Self>) {
        self.on(Event::ShuttingDown);
    }

    /// The timer that was armed for `at` went off. It is stale if an earlier one was armed since.
    pub(crate) fn tick(self: &Arc<Self>, at: Instant) {
        let mut shell = self.lock();
        if let Some(live) = &mut shell.live
            && live.armed == Some(at)
        {
            live.armed = None;
            self.decide(shell, Event::Tick);
        }
    }

    /// Lets the core decide and carries out what it decided.
    fn decide(self: &Arc<Self>, mut shell: MutexGuard<'_, Shell>, event: Event) {
        let Some(live) = &mut shell.live else { return };
        let now = Instant::now();
        let ends_a_call = matches!(event, Event::Answered(_));
        let gone = match event {
            Event::StartFailed(key, _) | Event::Exited(key) | Event::Lost(key) => Some(key),
            _ => None,
        };
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
        if let Some(key) = gone {
            live.instances.remove(&key);
        }
        if !quiet {
            live.count(&self.shared.metrics);
        }
        let has_moved = live.core.has_moved();
        drop(shell);
        if has_moved {
            self.shared.departed.notify_waiters();
            self.shared.counted.notify_waiters();
        }
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
            Effect::HandOver(instance, grace) => {
                let hand_over = async move {
                    if !instance.hand_over().await {
                        instance.stop(grace).await;
                    }
                };
                self.shared.tasks.spawn_on(hand_over, &self.shared.runtime);
            }
            Effect::Kill(instance) => instance.kill(),
            Effect::Arm(at) => self.shared.timers.arm(at, Arc::downgrade(self)),
        }
    }

    /// Starts an instance and watches it until it is gone.
    async fn start(self: Arc<Self>, key: Key, request: StartRequest, abandon: CancellationToken) {
        let begin = Instant::now();
        let (id, function) = (request.id, request.spec.id.clone());
        let start = AssertUnwindSafe(self.shared.driver.start(request)).catch_unwind();
        let started = tokio::select! {
            biased;
            () = abandon.cancelled() => None,
            // A panic must not leave an instance behind that comes up for ever.
            started = start => Some(started.unwrap_or_else(|_| Err(panicked()))),
        };
        let Started { instance, phases } = match started {
            None => return self.on(Event::Exited(key)),
            Some(Err(error)) => {
                self.shared.metrics.start_failed();
                // Calls that wait are told of it in the end; meanwhile it is tried again and again.
                if matches!(error, StartError::NoRoom(_)) {
                    tracing::debug!(%function, instance = %id, %error, "an instance has no room yet");
                } else {
                    tracing::info!(%function, instance = %id, %error, "an instance did not start");
                }
                return self.on(Event::StartFailed(key, error));
            }
            Some(Ok(started)) => started,
        };
        let total = begin.elapsed();
        self.shared.metrics.start_succeeded(total, &phases);
        tracing::debug!(%function, instance = %id, ?total, "an instance is ready");
        self.arrived(key, &instance, ColdStart { total, phases });
        self.watch(key, &instance).await;
    }

    /// Waits until an instance is gone.
    async fn watch(self: Arc<Self>, key: Key, instance: &Arc<dyn Instance>) {
        let mut exited = instance.exited();
        let exit = tokio::select! {
            biased;
            exit = &mut exited => exit,
            () = self.shared.kill.cancelled() => {
                instance.kill();
                exited.await
            }
            () = instance.leaving() => {
                self.on(Event::Leaving(key));
                tokio::select! {
                    biased;
                    exit = &mut exited => exit,
                    () = self.shared.kill.cancelled() => {
                        instance.kill();
                        exited.await
                    }
                }
            }
        };
        self.shared.metrics.exited(&exit.cause);
        tracing::debug!(instance = %instance.id(), cause = %exit.cause, "an instance is gone");
        self.on(match exit.cause {
            ExitCause::NodeLost { .. } => Event::Lost(key),
            _ => Event::Exited(key),
        });
    }

    /// Takes an instance in that runs already.
    fn adopt(self: &Arc<Self>, adopted: Adopted) -> bool {
        let Adopted {
            instance,
            generation,
            resources,
            label,
            place,
        } = adopted;
        let mut shell = self.lock();
        if shell.spec.generation != generation {
            return false;
        }
        let spec = Arc::clone(&shell.spec);
        let place = (place != spec.pool).then(|| Arc::new(place));
        let live = shell.live(&self.shared);
        let set = Set {
            label,
            resources,
            place,
        };
        let Some(key) = live.core.adopt(set) else {
            return false;
        };
        let abandon = self.shared.kill.child_token();
        live.come_up(key, instance.id(), spec, abandon);
        drop(shell);
        let warm = ColdStart {
            total: Duration::ZERO,
            phases: StartPhases::default(),
        };
        self.arrived(key, &instance, warm);
        let function = Arc::clone(self);
        let watch = async move { function.watch(key, &instance).await };
        self.shared.tasks.spawn_on(watch, &self.shared.runtime);
        true
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
}

fn panicked() -> StartError {
    StartError::Platform(
        "the platform failed while it started the instance; see its log".to_owned(),
    )
}

impl Shell {
    fn live(&mut self, shared: &Shared) -> &mut Live {
        self.live.get_or_insert_with(|| {
            let mut live = Live::new(Arc::clone(&self.spec), shared);
            if shared.closing.is_cancelled() {
                live.core
                    .on(Event::ShuttingDown, Instant::now(), &mut Vec::new());
            }
            Box::new(live)
        })
    }

    fn status(&self) -> Status {
        self.live
            .as_ref()
            .map_or_else(Status::default, |live| live.status())
    }
}
