//! Until when this gateway may use instances, by its own clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Until when a gateway may count on its place; clones are the same.
///
/// The time goes on while the process is stopped, so one that wakes up finds its place gone before it
/// does anything else with it.
#[derive(Clone, Debug)]
pub struct Fence {
    begin: Instant,
    /// In milliseconds after `begin`; 0 is never.
    until: Arc<AtomicU64>,
}

impl Default for Fence {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            until: Arc::default(),
        }
    }
}

impl Fence {
    /// Whether the place still counts.
    pub fn holds(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until != 0 && self.begin.elapsed().as_millis() < u128::from(until)
    }

    /// The place was confirmed: by an answer to what was sent at `sent`, for so long after that.
    pub(crate) fn extend(&self, sent: Instant, lasts: Duration) {
        let until = sent.saturating_duration_since(self.begin) + lasts;
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.until.fetch_max(until.max(1), Ordering::AcqRel);
    }

    /// The place is gone.
    pub(crate) fn fall(&self) {
        self.until.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_place_counts_from_when_it_was_asked_for() {
        let fence = Fence::default();
        assert!(!fence.holds(), "nobody has confirmed it");
        let sent = Instant::now();
        tokio::time::advance(Duration::from_millis(400)).await;
        fence.extend(sent, Duration::from_secs(1));
        assert!(fence.holds());
        tokio::time::advance(Duration::from_millis(599)).await;
        assert!(fence.holds());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!fence.holds());
        fence.extend(Instant::now(), Duration::from_secs(1));
        fence.fall();
        assert!(!fence.holds());
    }
}
