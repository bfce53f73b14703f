//! What is known of the members, and since when it is in force here.

use std::sync::Arc;

use bugle_store::{Error as StoreError, Membership};
use bugle_types::report;
use tokio::time::{sleep, sleep_until};

use super::{PAUSE, Refused, Shared, Told};
use crate::view::View;

/// The most members that are read.
const MOST: usize = 1000;

impl Shared {
    /// Makes a view the one that counts.
    pub(super) fn install(&self, mut view: View, told: &Told) {
        view.me.clone_from(&self.me.lock());
        let view = Arc::new(view);
        // Whoever acts on the view before holds it until it is done.
        *self.view.write() = Arc::clone(&view);
        (told.changed)(&view);
        self.peers.keep(|id| view.member(id).is_some());
        self.applied.send_replace(view.revision);
    }

    pub(super) fn set_me(&self, me: Option<Arc<str>>, told: &Told) {
        *self.me.lock() = me;
        let view = View::clone(&self.view.read());
        self.install(view, told);
    }

    /// Keeps the view.
    pub(super) async fn follow(&self, told: &Told) -> Refused {
        loop {
            match self.follow_once(told).await {
                StoreError::Closed => return Refused::Closed,
                StoreError::Compacted { .. } => {}
                error => {
                    tracing::warn!(error = report(&error), "the members cannot be read");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn follow_once(&self, told: &Told) -> StoreError {
        let prefix = Membership::PREFIX.as_bytes();
        let range = match self.store.range(prefix, None, MOST).await {
            Ok(range) => range,
            Err(error) => return error,
        };
        let mut view = View::default();
        for item in &range.items {
            view.put(item);
        }
        let before = self.view.read().revision;
        view.revision = view.revision.max(before).max(1);
        self.install(view.clone(), told);
        let mut watch = match self.store.watch(&[prefix], range.revision).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        loop {
            let batch = match watch.next().await {
                Ok(batch) => batch,
                Err(error) => return error,
            };
            for change in &batch.changes {
                view.apply(change);
            }
            if !batch.changes.is_empty() {
                self.keep_promises(&view).await;
                self.install(view.clone(), told);
            }
        }
    }

    /// Waits until nobody who is not in the view counts on this gateway as a witness.
    async fn keep_promises(&self, view: &View) {
        let promised = self.promised.lock().clone();
        let gone = promised.iter().filter(|(id, _)| view.member(id).is_none());
        if let Some(until) = gone.map(|(_, until)| *until).max() {
            sleep_until(until).await;
        }
    }

    /// Waits until as much is in force.
    pub(super) async fn until(&self, revision: u64) {
        let mut applied = self.applied.subscribe();
        let _ = applied.wait_for(|applied| *applied >= revision).await;
    }
}
