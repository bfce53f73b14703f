//! Until when this gateway may use instances, by its own clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Until when a gateway may count on its place; clones are the same.
///
/// The time goes on while the process is stopped and while the machine sleeps, so one that wakes up finds its place gone
/// before it does anything else with it. The clock of timers stands still with the machine.
#[derive(Clone)]
pub struct Fence {
    clock: fn() -> Moment,
    /// In milliseconds; 0 is never.
    until: Arc<AtomicU64>,
}

/// A moment of this machine: the time since it was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(Duration);

/// Now.
fn since_boot() -> Moment {
    // It is never negative.
    let since = Duration::try_from(clock_gettime(ClockId::Boottime));
    Moment(since.unwrap_or_default())
}

impl Default for Fence {
    fn default() -> Self {
        Self {
            clock: since_boot,
            until: Arc::default(),
        }
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl Fence {
    /// Whether the place still counts.
    pub fn holds(&self) -> bool {
        self.now().0.as_millis() < u128::from(self.until.load(Ordering::Acquire))
    }

    /// The moment that it is.
    pub(crate) fn now(&self) -> Moment {
        (self.clock)()
    }

    /// The place was confirmed: by an answer to what was sent at `sent`, for so long after that.
    pub(crate) fn extend(&self, Moment(sent): Moment, lasts: Duration) {
        let until = u64::try_from((sent + lasts).as_millis()).unwrap_or(u64::MAX);
        self.until.fetch_max(until, Ordering::AcqRel);
    }

    /// The place is gone.
    pub(crate) fn fall(&self) {
        self.until.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Milliseconds of this test's clock.
        static NOW: Cell<u64> = const { Cell::new(5000) };
    }

    fn advance(millis: u64) {
        NOW.set(NOW.get() + millis);
    }

    #[test]
    fn a_place_counts_from_when_it_was_asked_for() {
        let fence = Fence {
            clock: || Moment(Duration::from_millis(NOW.get())),
            ..Fence::default()
        };
        assert!(!fence.holds(), "nobody has confirmed it");
        let sent = fence.now();
        advance(400);
        fence.extend(sent, Duration::from_secs(1));
        assert!(fence.holds());
        advance(599);
        assert!(fence.holds());
        advance(1);
        assert!(!fence.holds());
        fence.extend(fence.now(), Duration::from_secs(1));
        fence.fall();
        assert!(!fence.holds());
    }

    #[test]
    fn the_clock_is_the_one_that_counts_while_the_machine_sleeps() {
        // No test can put a machine to sleep; this file counts alike.
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let now = since_boot().0.as_secs_f64();
        assert!(
            (uptime - 1.0..uptime + 5.0).contains(&now),
            "{now} {uptime}"
        );
    }
}
