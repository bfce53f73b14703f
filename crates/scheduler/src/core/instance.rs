//! One instance as the core sees it.

use std::sync::Arc;
use std::time::Duration;

use bugle_types::FunctionSpec;
use tokio::time::Instant;

use super::{Set, after};

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It comes up.
    Starting,
    /// It takes calls.
    Ready {
        /// Calls that it runs.
        in_flight: u32,
        /// When its idle clock runs out; meaningful while it runs none.
        idle_until: Instant,
    },
    /// It finishes the calls that it runs.
    Draining {
        /// Calls that are waited for.
        in_flight: u32,
        /// It works on a call that was given up: it is killed rather than stopped.
        kill: bool,
    },
    /// It was told to end.
    Stopping,
}

/// The code of an instance beside that of its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Code {
    /// It was superseded.
    Older,
    Newest,
}

/// A state without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Ready,
    Draining,
    Stopping,
}

/// One instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) set: Set,
    /// The code it runs.
    pub(super) spec: Arc<FunctionSpec>,
    /// Whether that is the function's newest.
    pub(super) code: Code,
    pub(super) state: State,
    /// How long it may be without a call.
    pub(super) idle: Duration,
    /// Whether it has finished a call; one that never did and dies is a failed start.
    pub(super) has_answered: bool,
}

impl Instance {
    /// Whether it takes calls or will.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, State::Starting | State::Ready { .. })
    }

    pub(super) fn phase(&self) -> Phase {
        match self.state {
            State::Starting => Phase::Starting,
            State::Ready { .. } => Phase::Ready,
            State::Draining { .. } => Phase::Draining,
            State::Stopping => Phase::Stopping,
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        match self.state {
            State::Ready { in_flight, .. } | State::Draining { in_flight, .. } => in_flight,
            State::Starting | State::Stopping => 0,
        }
    }

    pub(super) fn has_free_slot(&self) -> bool {
        matches!(self.state, State::Ready { in_flight, .. } if in_flight < self.spec.concurrency.get())
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Ready { in_flight: 0, .. })
    }

    /// When its idle clock runs out.
    pub(super) fn idle_until(&self) -> Option<Instant> {
        match self.state {
            State::Ready {
                in_flight: 0,
                idle_until,
            } => Some(idle_until),
            _ => None,
        }
    }

    /// It takes calls from now on.
    pub(super) fn come_up(&mut self, now: Instant) {
        self.state = State::Ready {
            in_flight: 0,
            idle_until: after(now, self.idle),
        };
    }

    /// Counts a call; the caller has seen that there is a free slot.
    pub(super) fn take_slot(&mut self) {
        debug_assert!(self.has_free_slot(), "a slot was given away twice");
        if let State::Ready { in_flight, .. } = &mut self.state {
            *in_flight += 1;
        }
    }

    /// Counts the end of a call.
    pub(super) fn end_call(&mut self, now: Instant) {
        match &mut self.state {
            State::Ready {
                in_flight,
                idle_until,
            } => {
                *in_flight = in_flight.saturating_sub(1);
                if *in_flight == 0 {
                    *idle_until = after(now, self.idle);
                }
            }
            State::Draining { in_flight, .. } => *in_flight = in_flight.saturating_sub(1),
            State::Starting | State::Stopping => {}
        }
    }

    /// Counts the end of a call that it works on still: it gets no further call, and the others that it
    /// runs are waited for, but not that one.
    pub(super) fn give_call_up(&mut self) {
        if let State::Ready { in_flight, .. } | State::Draining { in_flight, .. } = self.state {
            self.state = State::Draining {
                in_flight: in_flight.saturating_sub(1),
                kill: true,
            };
        }
    }
}
