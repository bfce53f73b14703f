//! The tasks of the control plane. Each is essential: when one dies before the shutdown, the platform
//! stops rather than limping on without it.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one runtime.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Cancelled when an essential task has died.
    failed: CancellationToken,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            failed: CancellationToken::new(),
        }
    }

    /// Cancelled when the tasks shall end.
    pub(crate) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Returns when an essential task has died. Cancel safe.
    pub(crate) async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Runs an essential task on the current runtime.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        // The inner task contains a panic; the outer one reports it.
        let inner = self.tracker.spawn(task);
        self.tracker.spawn(async move {
            let outcome = inner.await;
            if stop.is_cancelled() {
                return;
            }
            match outcome {
                Ok(()) => tracing::error!(task = name, "an essential task ended"),
                Err(error) => tracing::error!(task = name, %error, "an essential task died"),
            }
            failed.cancel();
        });
    }

    /// Asks all tasks to end and waits for them, at most `grace`.
    pub(crate) async fn shut_down(&self, grace: Duration) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!(tasks = self.tracker.len(), "tasks did not end in time");
        }
    }
}
