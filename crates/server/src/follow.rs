//! Feeds the scheduler: what the catalogue reports becomes functions that can be called.
//!
//! One task does it, for changes and for the first calls of functions that nobody has called yet
//! ([`Functions::load`]), so that the two never disagree about which of them is newer.

use std::sync::Arc;
use std::time::Duration;

use bugle_instances::Drivers;
use bugle_registry::{Catalogue, Event};
use bugle_scheduler::Scheduler;
use bugle_store::{Error, Store};
use bugle_types::{FunctionId, FunctionSpec};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::applied::Applied;
use crate::health::Readiness;
use crate::sharing::Sharing;

/// The pause before a store that cannot be read is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Loads that wait for the follower; more wait outside, within the time limit of their calls.
const WAITING: usize = 1024;

/// The functions of the store, for those who meet one that the scheduler does not know.
#[derive(Clone)]
pub(crate) struct Functions {
    store: Arc<dyn Store>,
    wanted: mpsc::Sender<Wanted>,
}

/// Somebody wants to call a function.
pub(crate) struct Wanted {
    id: FunctionId,
    /// Dropped when the scheduler knows the function, if there is one.
    _done: oneshot::Sender<()>,
}

impl Functions {
    /// The functions of `store`, and what the [`Follower`] answers.
    pub(crate) fn new(store: Arc<dyn Store>) -> (Self, mpsc::Receiver<Wanted>) {
        let (wanted, requests) = mpsc::channel(WAITING);
        (Self { store, wanted }, requests)
    }

    /// Makes the scheduler know a function that is registered. A name that is not costs a look into
    /// memory and leaves nothing behind. Cancel safe.
    pub(crate) async fn load(&self, id: FunctionId) {
        // What cannot be read is the follower's to report.
        if let Ok(false) = bugle_registry::is_published(&*self.store, &id).await {
            return;
        }
        let (done, wait) = oneshot::channel();
        if self.wanted.send(Wanted { id, _done: done }).await.is_ok() {
            // An error is how it ends: nothing is ever sent.
            let _ = wait.await;
        }
    }

    /// A function as it is registered, whether the scheduler knows it or not.
    pub(crate) async fn specification(&self, id: &FunctionId) -> Option<FunctionSpec> {
        let found = bugle_registry::specification(&*self.store, id).await;
        found.unwrap_or_else(|error| {
            tracing::warn!(function = %id, %error, "the function cannot be read");
            None
        })
    }
}

impl std::fmt::Debug for Functions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Functions").finish_non_exhaustive()
    }
}

/// From the store to the scheduler.
pub(crate) struct Follower {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) wanted: mpsc::Receiver<Wanted>,
    pub(crate) scheduler: Scheduler,
    pub(crate) drivers: Drivers,
    pub(crate) applied: Applied,
    pub(crate) readiness: Readiness,
    pub(crate) stop: CancellationToken,
    /// Where other gateways have a part of the functions.
    pub(crate) sharing: Option<Sharing>,
}

impl Follower {
    pub(crate) async fn run(mut self) {
        let mut catalogue = Catalogue::new(Arc::clone(&self.store));
        let mut changes = self.sharing.as_ref().map(Sharing::changes);
        loop {
            let batch = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = changed(&mut changes) => {
                    self.keep_instances(&catalogue);
                    continue;
                }
                // Somebody waits for it, and it takes microseconds.
                Some(wanted) = self.wanted.recv() => {
                    self.load(&mut catalogue, &wanted.id).await;
                    continue;
                }
                batch = catalogue.next() => batch,
            };
            match batch {
                Ok(batch) => {
                    self.apply(batch.events);
                    self.applied.advance(batch.revision);
                    self.readiness.catalogue_is_read();
                }
                Err(Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "the catalogue cannot be read");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn load(&self, catalogue: &mut Catalogue, id: &FunctionId) {
        match catalogue.load(id).await {
            Ok(events) => self.apply(events),
            Err(error) => tracing::warn!(function = %id, %error, "the function cannot be read"),
        }
        // It may be known from when another gateway had it.
        if let Some(sharing) = &self.sharing
            && let Some(spec) = catalogue.known(id)
            && self.scheduler.find(id).is_none()
        {
            sharing.take_over(&self.scheduler, spec);
        }
    }

    /// Takes over the functions that are this gateway's now and keep instances without a call.
    fn keep_instances(&self, catalogue: &Catalogue) {
        let Some(sharing) = &self.sharing else { return };
        for spec in catalogue.all() {
            let labels = spec.labels.iter().map(|label| label.scale);
            let keeps = labels.chain([spec.scale]).any(|scale| scale.min > 0);
            if keeps && self.scheduler.find(&spec.id).is_none() {
                sharing.take_over(&self.scheduler, spec);
            }
        }
    }

    fn apply(&self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Runtime(runtime) => self.drivers.prepare(&runtime),
                Event::Upsert(spec) => match &self.sharing {
                    None => self.scheduler.upsert(spec),
                    Some(sharing) => sharing.take_over(&self.scheduler, &spec),
                },
                Event::Remove(id) => self.scheduler.remove(&id),
            }
        }
    }
}

/// Waits until other functions are this gateway's; for ever where it shares none. Cancel safe.
async fn changed(changes: &mut Option<watch::Receiver<u64>>) {
    let told = match changes {
        Some(changes) => changes.changed().await.is_ok(),
        None => false,
    };
    if !told {
        std::future::pending::<()>().await;
    }
}
