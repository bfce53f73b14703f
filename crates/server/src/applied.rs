//! How far the scheduler has followed the store.
//!
//! A change is answered when the scheduler knows it, so that whoever reads the answer and calls the
//! function finds what was registered. Waiting is bounded: a stuck follower must not turn a durable
//! write into a failed one.

use std::time::Duration;

use bugle_store::Revision;
use tokio::sync::watch;

/// The longest that an answer waits for the scheduler.
const PATIENCE: Duration = Duration::from_secs(2);

/// The newest revision that the scheduler has applied.
#[derive(Clone, Debug)]
pub(crate) struct Applied(watch::Sender<Revision>);

impl Applied {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Revision(0)))
    }

    /// Everything up to `revision` is applied.
    pub(crate) fn advance(&self, revision: Revision) {
        self.0.send_if_modified(|applied| {
            let news = revision > *applied;
            *applied = revision.max(*applied);
            news
        });
    }

    /// Waits until everything up to `revision` is applied, at most [`PATIENCE`]. Cancel safe.
    pub(crate) async fn wait_for(&self, revision: Revision) {
        if *self.0.borrow() >= revision {
            return;
        }
        let mut applied = self.0.subscribe();
        let reached = applied.wait_for(|applied| *applied >= revision);
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            tracing::warn!(revision = revision.0, "the scheduler is behind the store");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_revision_or_with_patience() {
        let applied = Applied::new();
        applied.advance(Revision(5));
        applied.advance(Revision(3));
        applied.wait_for(Revision(5)).await;
        let before = tokio::time::Instant::now();
        applied.wait_for(Revision(6)).await;
        assert_eq!(before.elapsed(), PATIENCE);
    }
}
