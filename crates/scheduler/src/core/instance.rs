//! One instance as the core sees it.

use std::sync::Arc;

use bugle_types::FunctionSpec;
use tokio::time::Instant;

use super::Set;

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It comes up.
    Starting,
    /// It takes calls.
    Ready {
        /// Calls that it runs.
        in_flight: u32,
        /// When it finished its last call; meaningful while it runs none.
        idle_since: Instant,
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

/// One instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) set: Set,
    /// The code it runs.
    pub(super) spec: Arc<FunctionSpec>,
    /// Whether that is the function's newest code.
    pub(super) current: bool,
    pub(super) state: State,
    /// Whether it has finished a call; one that never did and dies is a failed start.
    pub(super) has_answered: bool,
}

impl Instance {
    /// Whether it takes calls or will.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, State::Starting | State::Ready { .. })
    }

    pub(super) fn is_live_and_current(&self) -> bool {
        self.is_live() && self.current
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

    /// Counts a call; the caller has seen that there is a free slot.
    pub(super) fn take_slot(&mut self) {
        debug_assert!(self.has_free_slot(), "a slot was given away twice");
        if let State::Ready { in_flight, .. } = &mut self.state {
            *in_flight += 1;
        }
    }
}
