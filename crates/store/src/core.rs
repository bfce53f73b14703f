//! The state behind a lock, and how watchers follow it.
//!
//! One thread at a time changes the state; any number reads it, for moments only. Watchers hold
//! nothing but a position: they read the shared history, so that a slow one costs no memory.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::leaf::Reader;
use crate::state::{Planned, State};
use crate::{Batch, BoxFuture, Change, Error, KeyValue, Range, Revision, Watch};

/// A watcher looks at this many revisions at once, so that one whose prefix rarely changes does not
/// hold up the writer while it passes over the others.
const LOOK_AHEAD: usize = 1000;

/// The state behind a lock.
#[derive(Debug)]
pub(crate) struct Core {
    state: RwLock<State>,
    news: watch::Sender<News>,
}

/// What watchers wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Revision(Revision),
    Closed,
}

impl Core {
    pub(crate) fn new(state: State) -> Arc<Self> {
        let news = watch::Sender::new(News::Revision(state.revision()));
        Arc::new(Self {
            state: RwLock::new(state),
            news,
        })
    }

    /// Looks at the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read())
    }

    /// Changes the state and wakes the watchers if there is a new revision.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (changed, revision) = {
            let mut state = self.state.write();
            (change(&mut state), state.revision())
        };
        self.news.send_if_modified(|news| {
            let next = News::Revision(revision);
            let modified = *news != News::Closed && *news != next;
            if modified {
                *news = next;
            }
            modified
        });
        changed
    }

    /// Waits until the state is as `wanted`, or nothing changes any more. Cancel safe.
    pub(crate) async fn until(&self, wanted: impl Fn(&State) -> bool) {
        let mut news = self.news.subscribe();
        loop {
            // Seen before looking: what is published in between wakes the wait below.
            let closed = *news.borrow_and_update() == News::Closed;
            if closed || self.read(&wanted) || news.changed().await.is_err() {
                return;
            }
        }
    }

    /// Makes planned changes visible.
    pub(crate) fn publish(&self, planned: Planned) {
        self.write(|state| state.publish(planned));
    }

    /// Ends all watches, when they have delivered what there is.
    pub(crate) fn close(&self) {
        self.news.send_replace(News::Closed);
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        self.read(|state| state.get(key))
    }

    pub(crate) fn range(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Range, Error> {
        self.read(|state| state.range(prefix, after, limit))
    }

    pub(crate) fn revision(&self) -> Revision {
        self.read(State::revision)
    }

    pub(crate) fn watch(self: &Arc<Self>, prefixes: &[&[u8]], from: Revision) -> Box<dyn Watch> {
        Box::new(Follower {
            core: Arc::clone(self),
            news: self.news.subscribe(),
            prefixes: prefixes.iter().copied().map(Box::from).collect(),
            position: from,
        })
    }
}

/// A watch: a position in the history.
struct Follower {
    core: Arc<Core>,
    news: watch::Receiver<News>,
    prefixes: Box<[Box<[u8]>]>,
    position: Revision,
}

impl Follower {
    /// The next batch after the position, if there is one. Revisions without a change under a
    /// prefix are passed over; if there is nothing else, the last of them is reported.
    fn advance(&mut self) -> Result<Option<Batch>, Error> {
        let core = Arc::clone(&self.core);
        core.read(|state| {
            let mut passed = None;
            for batch in state.history.after(self.position)?.take(LOOK_AHEAD) {
                let changes = self.ours(state, batch.changes())?;
                passed = Some(batch.revision);
                if !changes.is_empty() {
                    return Ok(Some(self.delivered(batch.revision, changes)));
                }
            }
            Ok(passed.map(|revision| self.delivered(revision, Vec::new())))
        })
    }

    fn follows(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    fn ours(&self, state: &State, mut changes: Reader<'_>) -> Result<Vec<Change>, Error> {
        let mut ours = Vec::new();
        while let Some(entry) = changes.next() {
            // What is not ours is not unpacked.
            if self.follows(&changes.key) {
                ours.push(state.change(&changes.key, &entry)?);
            }
        }
        Ok(ours)
    }

    fn delivered(&mut self, revision: Revision, changes: Vec<Change>) -> Batch {
        self.position = revision;
        Batch { revision, changes }
    }
}

impl Watch for Follower {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>> {
        Box::pin(async move {
            loop {
                // Seen before looking: what is published in between wakes the wait below.
                let closed = *self.news.borrow_and_update() == News::Closed;
                if let Some(batch) = self.advance()? {
                    return Ok(batch);
                }
                if closed || self.news.changed().await.is_err() {
                    return Err(Error::Closed);
                }
                // Whoever waits for an answer goes first.
                tokio::task::yield_now().await;
            }
        })
    }
}
