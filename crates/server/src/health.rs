//! Whether the platform can serve: `/readyz`, separate from the liveness of `/healthz`.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bugle_store::SqliteStore;
use tokio_util::sync::CancellationToken;

/// What readiness depends on. Cheap to clone; set by the owners of the parts.
#[derive(Clone, Debug)]
pub(crate) struct Readiness(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    store: Arc<SqliteStore>,
    /// Cancelled when the catalogue has been read: a flag that can be waited for.
    catalogue: CancellationToken,
    draining: AtomicBool,
}

impl Readiness {
    /// Of a platform whose functions are still to be read from `store`.
    pub(crate) fn new(store: Arc<SqliteStore>) -> Self {
        Self(Arc::new(Parts {
            store,
            catalogue: CancellationToken::new(),
            draining: AtomicBool::new(false),
        }))
    }

    /// Functions are found from now on: those that keep instances follow, others when they are called.
    pub(crate) fn catalogue_is_read(&self) {
        self.0.catalogue.cancel();
    }

    /// Waits until functions are found. Cancel safe.
    pub(crate) async fn until_catalogue_is_read(&self) {
        self.0.catalogue.cancelled().await;
    }

    /// The platform stops: nobody should send anything new.
    pub(crate) fn draining(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// Why the platform is not ready, or nothing when it is.
    pub(crate) fn obstacle(&self) -> Option<Cow<'static, str>> {
        if self.0.draining.load(Ordering::Acquire) {
            return Some("draining: the platform is stopping".into());
        }
        if !self.0.catalogue.is_cancelled() {
            return Some("starting: the store is being read".into());
        }
        let failure = self.0.store.health().err()?;
        Some(format!("failed: {}", bugle_types::report(&failure)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_between_the_catalogue_and_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(
            folder.path(),
            &bugle_store::Config::default(),
            bugle_store::Metrics::default(),
        );
        let readiness = Readiness::new(Arc::new(store.unwrap()));
        assert!(readiness.obstacle().is_some());
        readiness.catalogue_is_read();
        assert_eq!(readiness.obstacle(), None);
        readiness.draining();
        assert!(readiness.obstacle().unwrap().starts_with("draining"));
    }
}
