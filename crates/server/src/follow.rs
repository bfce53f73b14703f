//! Feeds the scheduler: what the catalogue reports becomes functions that can be called.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::Drivers;
use bugle_registry::{Batch, Catalogue, Event};
use bugle_scheduler::Scheduler;
use bugle_store::{Error, Store};
use bugle_types::Runtime;
use tokio_util::sync::CancellationToken;

use crate::applied::Applied;
use crate::health::Readiness;

/// The pause before a store that cannot be read is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// From the store to the scheduler.
pub(crate) struct Follower {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) scheduler: Scheduler,
    pub(crate) drivers: Drivers,
    pub(crate) applied: Applied,
    pub(crate) readiness: Readiness,
    pub(crate) stop: CancellationToken,
}

impl Follower {
    pub(crate) async fn run(self) {
        let mut catalogue = Catalogue::new(Arc::clone(&self.store));
        let mut prepared = HashSet::new();
        loop {
            let batch = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                batch = catalogue.next() => batch,
            };
            match batch {
                Ok(batch) => self.apply(batch, &mut prepared),
                Err(Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "the catalogue cannot be read");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn apply(&self, batch: Batch, prepared: &mut HashSet<Runtime>) {
        for event in batch.events {
            match event {
                Event::Upsert(spec) => {
                    if !prepared.contains(&spec.runtime) {
                        self.drivers.prepare(&spec.runtime);
                        prepared.insert(spec.runtime.clone());
                    }
                    self.scheduler.upsert(spec);
                }
                Event::Remove(id) => self.scheduler.remove(&id),
            }
        }
        self.applied.advance(batch.revision);
        self.readiness.catalogue_is_read();
    }
}
