//! Starts that failed: who is told at once, and when the next one is tried.
//!
//! A failure belongs to a set, because another set may well start. While it is fresh, it holds back
//! further starts, longer with each failure in a row; the next one after that is a new attempt, so a
//! transient fault heals by itself. Failures older than that are forgotten, which bounds how many
//! are kept whatever resources calls ask for.

use bugle_instances::StartError;
use tokio::time::Instant;

use super::instance::{Code, State};
use super::scaling::Why;
use super::{Action, Core, Key, Rejection, Set, after};

/// Starts that fail because of the platform are tried this often before calls are told.
const PLATFORM_ATTEMPTS: u32 = 3;

/// The pause before such a start is tried again, twice as long each time.
const PLATFORM_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// The pause after a start found no room while something of its set lives, twice as long each time up to
/// the longest. Room comes when others end, of which nobody tells.
const ROOM_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
const LONGEST_ROOM_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// The last failure of a set.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// How many in a row; those that fail together count as one.
    count: u32,
    /// When the next start may be tried.
    retry_at: Instant,
    cause: Cause,
}

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The platform, for the first times: calls go on waiting for the next attempt.
    Passing,
    /// A start, for good as far as we know: calls are told until the next attempt.
    Start(StartError),
    /// What cannot run here, which is found out again at no cost: each call is an attempt, so that
    /// the operator sees a repair with the next one. Only the minimum waits.
    Unsupported,
    /// There was no room. Calls wait for an instance that there is or that comes up, and now and then for
    /// room; where there is none, each call is an attempt.
    NoRoom,
    /// An instance that came up ended before its first answer. Only the minimum waits; a call is
    /// worth an attempt.
    Crash,
}

impl Cause {
    /// Whether it holds back starts for waiting calls too, not only for the minimum.
    fn holds_everyone(&self) -> bool {
        match self {
            Self::Passing | Self::Start(_) => true,
            Self::Unsupported | Self::NoRoom | Self::Crash => false,
        }
    }
}

impl Core {
    /// When a start of `set` may be tried, if not now.
    pub(super) fn held_until(&self, set: &Set, why: Why, now: Instant) -> Option<Instant> {
        let failure = self
            .failures
            .get(set)
            .filter(|known| now < known.retry_at)?;
        let held = why == Why::Minimum
            || failure.cause.holds_everyone()
            || (failure.cause == Cause::NoRoom && self.has_hope(set));
        held.then_some(failure.retry_at)
    }

    /// Whether an instance lives or comes up that can serve calls of `set`.
    pub(super) fn has_hope(&self, set: &Set) -> bool {
        self.instances.any(|group| self.could_serve(group, set))
    }

    /// The failure that calls are told without a new attempt: it is too early for the next, and
    /// nothing lives that could serve them.
    pub(super) fn known_failure(&self, set: &Set, now: Instant) -> Option<StartError> {
        let failure = self
            .failures
            .get(set)
            .filter(|known| now < known.retry_at)?;
        let Cause::Start(error) = &failure.cause else {
            return None;
        };
        (!self.has_hope(set)).then(|| error.clone())
    }

    pub(super) fn start_failed(
        &mut self,
        key: Key,
        error: &StartError,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(instance) = self.instances.remove(key) else {
            return;
        };
        if instance.state == State::Starting && instance.code == Code::Newest {
            self.last_error = Some(error.clone());
            self.judge(&instance.set, error, now, actions);
        }
        self.scale(now, actions);
    }

    /// Holds back further starts, and tells calls what cannot be helped by another attempt.
    fn judge(&mut self, set: &Set, error: &StartError, now: Instant, actions: &mut Vec<Action>) {
        let passing = matches!(error, StartError::Platform(_))
            && self.failures_in_a_row(set, now) < PLATFORM_ATTEMPTS;
        if passing {
            self.hold(set, Cause::Passing, now);
            return;
        }
        let cause = match error {
            // Each further call looks again: what is missing may have come.
            StartError::Unsupported(_) => Cause::Unsupported,
            StartError::NoRoom(_) => Cause::NoRoom,
            _ => Cause::Start(error.clone()),
        };
        let is_full = cause == Cause::NoRoom;
        self.hold(set, cause, now);
        // New code that does not come up must not hide behind the old one.
        self.switch(actions);
        let served = self.instances.any(|group| {
            // Others that come up have found room; why this one failed is likely to be theirs otherwise.
            (group.ready() > 0 || is_full) && self.could_serve(group, set)
        });
        if !served {
            for ticket in self.queue.take_set(set) {
                actions.push(Action::Reject(ticket, Rejection::Start(error.clone())));
            }
        }
    }

    /// Notes a failure of `set`.
    pub(super) fn hold(&mut self, set: &Set, cause: Cause, now: Instant) {
        let count = self.failures_in_a_row(set, now);
        let pause = match cause {
            Cause::Passing => PLATFORM_PAUSE * (1 << (count - 1)),
            Cause::NoRoom => (ROOM_PAUSE * (1 << (count - 1).min(4))).min(LONGEST_ROOM_PAUSE),
            _ => self.config.retry(count),
        };
        let mut retry_at = after(now, pause);
        let mut cause = cause;
        if let Some(known) = self.failures.get(set).filter(|known| now < known.retry_at) {
            // Of failures that come together the longest pause and the strictest cause count.
            retry_at = retry_at.max(known.retry_at);
            if known.cause.holds_everyone() && !cause.holds_everyone() {
                cause = known.cause.clone();
            }
        }
        self.arm(retry_at);
        let memory = self.config.longest_retry();
        self.failures
            .retain(|_, old| now < after(old.retry_at, memory));
        let failure = Failure {
            count,
            retry_at,
            cause,
        };
        self.failures.insert(set.clone(), failure);
    }

    /// How many failures in a row one more makes.
    fn failures_in_a_row(&self, set: &Set, now: Instant) -> u32 {
        match self.failures.get(set) {
            // It was started before the last failure was known.
            Some(known) if now < known.retry_at => known.count,
            Some(known) if now < after(known.retry_at, self.config.longest_retry()) => {
                known.count.saturating_add(1)
            }
            _ => 1,
        }
    }

    /// A start of `set` succeeded. A crash loop starts well each time; only an answer ends its count.
    pub(super) fn forget_failed_starts(&mut self, set: &Set) {
        let failure = self.failures.get(set);
        if failure.is_some_and(|failure| failure.cause != Cause::Crash) {
            self.failures.remove(set);
        }
    }

    /// The times at which starts that were held back may be tried.
    pub(super) fn retries(&self, now: Instant) -> impl Iterator<Item = Instant> {
        let times = self.failures.values().map(|failure| failure.retry_at);
        times.filter(move |at| *at > now)
    }
}
