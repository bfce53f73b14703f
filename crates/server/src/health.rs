//! Whether the platform can serve: `/readyz`, separate from the liveness of `/healthz`.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bugle_store::{Error, Store};
use tokio_util::sync::CancellationToken;

/// What readiness depends on. Cheap to clone; set by the owners of the parts.
#[derive(Clone)]
pub(crate) struct Readiness(Arc<Parts>);

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Readiness").field(&self.obstacle()).finish()
    }
}

struct Parts {
    store: Arc<dyn Store>,
    /// Cancelled when the catalogue has been read: a flag that can be waited for.
    catalogue: CancellationToken,
    draining: AtomicBool,
}

impl Readiness {
    /// Of a platform whose functions are still to be read from `store`.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
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
        let failure = self.0.store.health().err().filter(Error::is_fatal)?;
        Some(format!("failed: {}", bugle_types::report(&failure)).into())
    }

    /// What does not work although the platform is ready: calls are served, changes may be refused.
    /// Who sends calls elsewhere for it would only send them to others of whom the same is true.
    pub(crate) fn degradation(&self) -> Option<String> {
        let failure = self.0.store.health().err()?;
        Some(format!("degraded: {}", bugle_types::report(&failure)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_between_the_catalogue_and_the_end() {
        let readiness = Readiness::new(Arc::new(bugle_store::MemoryStore::new()));
        assert!(readiness.obstacle().is_some());
        readiness.catalogue_is_read();
        assert_eq!(readiness.obstacle(), None);
        readiness.draining();
        assert!(readiness.obstacle().unwrap().starts_with("draining"));
    }
}
