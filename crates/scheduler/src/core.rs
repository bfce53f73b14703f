//! The life of one function's instances and the order of its waiting calls, without I/O.
//!
//! [`Core::on`] takes what happened and the time, and says what to do. Rules that hold after every
//! event, whatever happened:
//!
//! - no more instances are started than `maxInstance` allows, where all that are alive count, those
//!   that stop, those that another scheduler still has and those that lost theirs included. There is no surge: a replacement starts when there is room, which at the
//!   maximum means when an old one is gone;
//! - a labelled set keeps within its own maximum, and all sets together within the function's;
//! - no instance runs more calls than `concurrentNum`;
//! - a call is assigned to an instance once, or rejected once; it is never assigned again;
//! - nobody waits while an instance that may serve him has a free slot;
//! - superseded code gets no call later than `switch_millis` after it was superseded.
//!
//! Calls are served in the order of their arrival among those that an instance may serve. A call that
//! no living instance can serve gets one of its own, at the maximum by the end of another.
//!
//! An instance is in one of four states; `Gone` is not kept:
//!
//! ```text
//! Starting => Ready | Stopping | gone
//! Ready    => Draining | Stopping | gone
//! Draining => Stopping | gone
//! Stopping => gone
//! ```

mod calls;
mod elsewhere;
mod failure;
mod instance;
mod instances;
#[cfg(test)]
mod oracle;
mod queue;
mod scaling;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod update;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::StartError;
use bugle_types::pool::PoolChoice;
use bugle_types::{FunctionSpec, InstanceLabel, Resources};
use tokio::time::Instant;

use crate::Config;
pub use elsewhere::Census;
use elsewhere::Elsewhere;
use failure::{Cause, Failure};
use instance::{Code, Instance, State};
use instances::Instances;
use queue::Queue;
use update::Rolling;

/// An instance, numbered in the order of starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) u64);

/// A call, numbered in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// The instances that are alike: same resources, same label (`scaling` contract 2.3), chosen to run in the same places.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Set {
    pub(crate) label: Option<InstanceLabel>,
    pub(crate) resources: Resources,
    /// Where they run, if calls have said so; else where the function says.
    pub(crate) place: Option<Arc<PoolChoice>>,
}

impl Set {
    /// Whether an instance of this set may serve a call that asked for `wanted`: the same label and place, and
    /// nothing smaller.
    fn serves(&self, wanted: &Self) -> bool {
        let (ours, theirs) = (&self.resources, &wanted.resources);
        let custom = |name: &str| {
            ours.custom
                .iter()
                .find(|(n, _)| n == name)
                .map_or(0, |(_, v)| *v)
        };
        self.label == wanted.label
            && self.place == wanted.place
            && ours.cpu >= theirs.cpu
            && ours.memory >= theirs.memory
            && theirs
                .custom
                .iter()
                .all(|(name, amount)| custom(name) >= *amount)
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A call wants a slot, and waits until the deadline if there is none.
    Request {
        ticket: Ticket,
        set: Set,
        deadline: Instant,
    },
    /// A waiting call does not want one any more.
    Cancelled(Ticket),
    /// An instance has finished a call.
    Answered(Key),
    /// A call was answered without the instance, which works on it still or has ended.
    GivenUp(Key),
    /// A start succeeded.
    Started(Key),
    /// A start failed, and nothing is left of it.
    StartFailed(Key, StartError),
    /// An instance is gone.
    Exited(Key),
    /// An instance is gone with the machine it ran on, which says nothing against the function.
    Lost(Key),
    /// The machine of an instance drains: it gets no further call, others take its place.
    Leaving(Key),
    /// The function was changed.
    Changed(Arc<FunctionSpec>),
    /// The function was deleted.
    Removed,
    /// The platform stops.
    ShuttingDown,
    /// The function is scheduled here from now on, and others may still have instances of it.
    Opened,
    /// It is scheduled elsewhere from now on.
    Moved,
    /// The same, and not even calls that run may go on.
    Fenced,
    /// What others still have of it.
    Elsewhere(Census),
    /// What runs of it without a scheduler.
    Orphans(Census),
    /// Starts wait until others have been asked, or no more.
    Hold(bool),
    /// The time that [`Core::due`] gave has come.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Give the call to the instance.
    Assign { ticket: Ticket, key: Key },
    /// Tell the call that it will not be served.
    Reject(Ticket, Rejection),
    /// Start an instance.
    Start(Key, Set, Arc<FunctionSpec>),
    /// Stop an instance in order; it runs no call. A start is abandoned.
    Stop(Key),
    /// End an instance at once, with whatever it does.
    Kill(Key),
}

/// Why a call is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    Disabled,
    UnknownLabel,
    QueueFull,
    Timeout,
    Start(StartError),
    Removed,
    Moved,
    ShuttingDown,
}

/// Whether the function takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It does.
    Open,
    Removed,
    /// Another scheduler has it.
    Moved,
    ShuttingDown,
}

/// One function.
#[derive(Debug)]
pub(crate) struct Core {
    config: Arc<Config>,
    spec: Arc<FunctionSpec>,
    life: Life,
    instances: Instances,
    elsewhere: Elsewhere,
    orphans: Census,
    /// Whether starts wait until it is known what else there is.
    held: bool,
    queue: Queue,
    /// Starts that failed lately.
    failures: BTreeMap<Set, Failure>,
    /// The update that goes on; none once only the newest code gets calls.
    rolling: Option<Rolling>,
    next_key: u64,
    /// The timer that was asked for last; see [`Core::due`].
    armed: Option<Instant>,
    last_error: Option<StartError>,
}

/// As good as never. A limit that somebody set to "for ever" must not overflow the clock.
const FAR: Duration = Duration::from_hours(24 * 365 * 30);

/// `at` and then `wait`.
fn after(at: Instant, wait: Duration) -> Instant {
    at.checked_add(wait).unwrap_or_else(|| at + FAR)
}

impl Core {
    pub(crate) fn new(spec: Arc<FunctionSpec>, config: Arc<Config>) -> Self {
        Self {
            config,
            spec,
            life: Life::Open,
            instances: Instances::default(),
            elsewhere: Elsewhere::default(),
            orphans: Census::new(),
            held: false,
            queue: Queue::default(),
            failures: BTreeMap::new(),
            rolling: None,
            next_key: 0,
            armed: None,
            last_error: None,
        }
    }

    /// Applies an event; what to do is added to `actions`.
    ///
    /// Events of instances that are gone are ignored: the shell may report an end twice.
    pub(crate) fn on(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Request {
                ticket,
                set,
                deadline,
            } => {
                self.request(ticket, set, deadline, now, actions);
            }
            Event::Cancelled(ticket) => {
                self.queue.remove(ticket);
            }
            Event::Answered(key) => self.answered(key, now, actions),
            Event::GivenUp(key) => self.given_up(key, now, actions),
            Event::Started(key) => self.started(key, now, actions),
            Event::StartFailed(key, error) => self.start_failed(key, &error, now, actions),
            Event::Exited(key) => self.exited(key, now, actions),
            Event::Lost(key) => {
                if self.instances.remove(key).is_some() {
                    self.scale(now, actions);
                }
            }
            Event::Leaving(key) => {
                self.retire(key, actions);
                self.scale(now, actions);
            }
            Event::Changed(spec) => self.changed(spec, now, actions),
            Event::Removed => self.close(Life::Removed, &Rejection::Removed, actions),
            Event::ShuttingDown => {
                self.close(Life::ShuttingDown, &Rejection::ShuttingDown, actions);
            }
            Event::Opened => self.opened(),
            Event::Moved => self.moved(actions),
            Event::Fenced => self.fenced(actions),
            Event::Elsewhere(census) => self.counted(census, now, actions),
            Event::Orphans(census) => self.orphaned(census, now, actions),
            Event::Hold(held) => self.hold_starts(held, now, actions),
            Event::Tick => self.tick(now, actions),
        }
    }

    /// What the function is now.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn spec(&self) -> &FunctionSpec {
        &self.spec
    }

    /// Takes an instance in that runs already, as one that comes up; [`Event::Started`] follows. None
    /// if the function has no use for one more of the set.
    pub(crate) fn adopt(&mut self, set: Set) -> Option<Key> {
        // It counts already.
        let was_orphan = self.take_orphan(set.label.as_ref());
        let in_set = self.in_set(set.label.as_ref());
        let room = self.is_counted()
            && self.alive() < self.spec.scale.max
            && in_set < self.bounds(&set).max;
        if self.refusal(&set).is_some() || !room {
            if was_orphan {
                self.leave_orphan(set.label);
            }
            return None;
        }
        let key = self.come_up(set);
        // It was up before: its end is no failed start.
        self.instances
            .change(key, |instance| instance.has_answered = true);
        Some(key)
    }

    fn stop_if_drained(&mut self, key: Key, actions: &mut Vec<Action>) {
        let Some(instance) = self.instances.get(key) else {
            return;
        };
        if let State::Draining { in_flight: 0, kill } = instance.state {
            self.instances
                .change(key, |instance| instance.state = State::Stopping);
            actions.push(if kill {
                Action::Kill(key)
            } else {
                Action::Stop(key)
            });
        }
    }

    fn started(&mut self, key: Key, now: Instant, actions: &mut Vec<Action>) {
        let coming = self.instances.get(key);
        // Else it was abandoned while it came up.
        let Some(instance) = coming.filter(|instance| instance.state == State::Starting) else {
            return;
        };
        let (set, code) = (instance.set.clone(), instance.code);
        self.instances.change(key, |instance| instance.come_up(now));
        self.last_error = None;
        if code == Code::Newest {
            self.forget_failed_starts(&set);
            self.switch(actions);
        }
        self.serve_waiting(key, actions);
        self.scale(now, actions);
        self.rearm(now);
    }

    fn exited(&mut self, key: Key, now: Instant, actions: &mut Vec<Action>) {
        let Some(instance) = self.instances.remove(key) else {
            return;
        };
        // Nobody asked for it and no call is to blame: a crash loop, if it goes on.
        let unprovoked = instance.is_idle() && !instance.has_answered;
        if unprovoked && instance.code == Code::Newest {
            self.hold(&instance.set, Cause::Crash, now);
        }
        self.scale(now, actions);
    }

    /// Gives the instance no further call, and stops it when it has none.
    fn retire(&mut self, key: Key, actions: &mut Vec<Action>) {
        let Some(instance) = self.instances.get(key) else {
            return;
        };
        match instance.state {
            State::Starting => {
                self.instances
                    .change(key, |instance| instance.state = State::Stopping);
                actions.push(Action::Stop(key));
            }
            State::Ready { in_flight, .. } => {
                self.instances.change(key, |instance| {
                    instance.state = State::Draining {
                        in_flight,
                        kill: false,
                    };
                });
                self.stop_if_drained(key, actions);
            }
            State::Draining { .. } | State::Stopping => {}
        }
    }

    fn close(&mut self, life: Life, rejection: &Rejection, actions: &mut Vec<Action>) {
        self.life = life;
        self.rolling = None;
        for ticket in self.queue.take_all() {
            actions.push(Action::Reject(ticket, rejection.clone()));
        }
        for key in self.keys(|_| true) {
            self.retire(key, actions);
        }
    }

    fn keys(&self, wanted: impl Fn(&Instance) -> bool) -> Vec<Key> {
        self.instances
            .iter()
            .filter(|(_, i)| wanted(i))
            .map(|(key, _)| key)
            .collect()
    }

    /// All instances that count against the function's bound, wherever they are.
    fn alive(&self) -> u32 {
        let here = u32::try_from(self.instances.len()).unwrap_or(u32::MAX);
        here.saturating_add(self.not_here())
    }
}
