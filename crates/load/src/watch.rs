//! A look at a load while it runs, and its early end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A load that runs, as seen by whoever waits for it. Clones watch the same one.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    calls: AtomicU64,
    failed: AtomicU64,
    stopped: AtomicBool,
}

/// How long calls that are under way may go on when the load is stopped.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

impl Watch {
    /// Ends the load: no further call is sent, and those under way have a second.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether it was ended early.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Relaxed)
    }

    /// Calls that came to an end so far, those of the warm-up too, and how many of them failed.
    #[must_use]
    pub fn calls(&self) -> (u64, u64) {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (get(&self.0.calls), get(&self.0.failed))
    }

    pub(crate) fn add(&self, is_success: bool) {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        if !is_success {
            self.0.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
