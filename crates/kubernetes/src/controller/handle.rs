//! What the rest of the platform may ask while the controller works.

use std::sync::Arc;
use std::time::Duration;

use bugle_types::pool::{Pool, PoolId};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::PoolMap;
use crate::caches::Caches;
use crate::cluster::Cluster;
use crate::decide::{self, Memory, Refusal};
use crate::leader::Leadership;
use crate::names;
use crate::observed::Observed;

/// What others may ask of the controller. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) cluster: Cluster,
    /// How long a question to the cluster may take.
    pub(super) patience: Duration,
    pub(super) memory: Mutex<Memory>,
    pub(super) caches: Caches,
    pub(super) leadership: Leadership,
    pub(super) pools: watch::Receiver<Option<Arc<PoolMap>>>,
    /// Counts what was asked.
    pub(super) asked: watch::Sender<u64>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// Why no Pod is made for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrowError {
    /// The pool does not grow.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// As far as is known here the pool may grow, but another process makes pools real, or none yet; ask that one, or
    /// again.
    #[error("failed to scale up pod: the process {0:?} makes the pools' Pods")]
    Elsewhere(String),
}

impl Handle {
    /// Asks for one more Pod of a scalable pool, because the instance of this request could not be placed. The
    /// Pod is not bound to it. Asking again for the same request changes nothing.
    ///
    /// # Errors
    /// [`GrowError`].
    pub fn grow(&self, pool: &PoolId, request: &str) -> Result<(), GrowError> {
        let shared = &self.shared;
        let elsewhere = || GrowError::Elsewhere(shared.leadership.subscribe().borrow().clone());
        let observed = shared.caches.observed().ok_or_else(elsewhere)?;
        let pools = shared.pools.borrow().clone().unwrap_or_default();
        let pool = pools.get(pool).ok_or(Refusal::Unknown)?;
        if !self.leads() {
            // What waits there already is not known here: that one has the last word.
            decide::ask(pool, &observed, &mut Memory::default(), request)?;
            return Err(elsewhere());
        }
        decide::ask(pool, &observed, &mut shared.memory.lock(), request)?;
        shared.asked.send_modify(|times| *times += 1);
        Ok(())
    }

    /// The pool of the Pod with this name and uid; none if there is no such Pod, or none of a pool.
    ///
    /// # Errors
    /// When the cluster does not say, for people.
    pub async fn pool_of(&self, pod: &str, uid: &str) -> Result<Option<String>, String> {
        let shared = &self.shared;
        if let Some(pool) = shared.caches.pool_of(pod, uid) {
            return Ok(Some(pool));
        }
        // It may be newer than what was heard of the cluster.
        let api = shared.cluster.api::<Pod>();
        let asked = tokio::time::timeout(shared.patience, api.get_opt(pod)).await;
        let late = |_| "the cluster does not answer".to_owned();
        let found = asked.map_err(late)?;
        let found = found.map_err(|error| bugle_types::report(&error))?;
        Ok(found
            .filter(|pod| pod.metadata.uid.as_deref() == Some(uid))
            .and_then(|pod| pod.metadata.labels?.remove(names::POOL)))
    }

    /// How a pool is; none if there is none.
    pub fn pool(&self, id: &PoolId) -> Option<Arc<Pool>> {
        self.shared.pools.borrow().as_ref()?.get(id).map(Arc::clone)
    }

    /// Pods of a pool that may still become ready.
    pub fn coming(&self, pool: &PoolId) -> usize {
        let Some(observed) = self.shared.caches.observed() else {
            return 0;
        };
        let waiting = self
            .shared
            .memory
            .lock()
            .growing
            .get(pool)
            .map_or(0, Vec::len);
        let of_pool = observed.of(pool.as_str());
        let coming = of_pool.filter(|(_, worker)| worker.is_live() && !worker.ready);
        coming.count().max(waiting)
    }

    /// What is known of the cluster; none before it was read for the first time.
    pub fn observed(&self) -> Option<Observed> {
        self.shared.caches.observed()
    }

    /// Whether this process makes pools real now.
    pub fn leads(&self) -> bool {
        self.shared.leadership.check().is_ok()
    }
}
