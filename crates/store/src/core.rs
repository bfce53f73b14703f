//! What both stores share: the current values, the recent history, transactions, watches.
//!
//! Transactions are planned first ([`State::plan`], which changes nothing) and published later
//! ([`Core::publish`]): in between the embedded store puts them on disk. Only one thread plans and
//! publishes; any number reads.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{Batch, BoxFuture, Change, Compare, Error, KeyValue, Op, Range, Revision, Txn, Watch};

/// What the kept history may hold; the oldest goes first. A watcher that falls further behind reads
/// everything again.
const HISTORY_REVISIONS: usize = 10_000;

/// The values that only the history holds may take about this much memory.
const HISTORY_BYTES: usize = 64 << 20;

/// What one transaction may write, as in etcd.
const TXN_BYTES: usize = 3 << 19;

/// Values that a planned but unpublished transaction wrote; none means deleted.
pub(crate) type Staged = BTreeMap<Bytes, Option<KeyValue>>;

/// The current values and the recent history.
#[derive(Debug, Default)]
pub(crate) struct State {
    current: BTreeMap<Bytes, KeyValue>,
    pub(crate) revision: Revision,
    /// Every revision after `compacted`, in order, one batch each.
    history: VecDeque<Batch>,
    history_bytes: usize,
    compacted: Revision,
}

impl State {
    /// A state without history: watches start at `revision`.
    pub(crate) fn loaded(current: BTreeMap<Bytes, KeyValue>, revision: Revision) -> Self {
        Self {
            current,
            revision,
            compacted: revision,
            ..Self::default()
        }
    }

    fn value<'a>(&'a self, staged: &'a Staged, key: &[u8]) -> Option<&'a KeyValue> {
        match staged.get(key) {
            Some(value) => value.as_ref(),
            None => self.current.get(key),
        }
    }

    /// What `txn` changes on top of `staged`, or none if a condition does not hold. The changes are
    /// added to `staged`. A transaction that changes nothing gets no revision: its batch is empty.
    pub(crate) fn plan(
        &self,
        staged: &mut Staged,
        revision: Revision,
        txn: Txn,
    ) -> Result<Option<Batch>, Error> {
        let bytes = txn.then.iter().map(size).sum();
        if bytes > TXN_BYTES {
            return Err(Error::TooLarge {
                bytes,
                limit: TXN_BYTES,
            });
        }
        if !txn.when.iter().all(|compare| self.holds(staged, compare)) {
            return Ok(None);
        }
        let next = Revision(revision.0 + 1);
        let mut own = Staged::new();
        let mut changes = Vec::with_capacity(txn.then.len());
        for op in txn.then {
            self.apply(staged, &mut own, next, op, &mut changes)?;
        }
        staged.append(&mut own);
        let revision = if changes.is_empty() { revision } else { next };
        Ok(Some(Batch { revision, changes }))
    }

    fn holds(&self, staged: &Staged, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision(key, wanted) => {
                let found = self
                    .value(staged, key)
                    .map_or(Revision(0), |value| value.mod_revision);
                found == *wanted
            }
            Compare::Value(key, wanted) => self
                .value(staged, key)
                .is_some_and(|value| value.value == *wanted),
        }
    }

    fn apply(
        &self,
        staged: &Staged,
        own: &mut Staged,
        revision: Revision,
        op: Op,
        changes: &mut Vec<Change>,
    ) -> Result<(), Error> {
        match op {
            Op::Put(key, value) => {
                let before = self.value(staged, &key);
                let value = KeyValue {
                    create_revision: before.map_or(revision, |before| before.create_revision),
                    mod_revision: revision,
                    version: before.map_or(1, |before| before.version + 1),
                    key: key.clone(),
                    value,
                };
                if own.insert(key.clone(), Some(value.clone())).is_some() {
                    return Err(Error::WrittenTwice(key));
                }
                changes.push(Change::Put(value));
            }
            Op::Delete(key) => {
                if self.value(staged, &key).is_some() {
                    delete(own, revision, key, changes)?;
                }
            }
            Op::DeletePrefix(prefix) => {
                for key in self.keys(staged, &prefix) {
                    delete(own, revision, key, changes)?;
                }
            }
        }
        Ok(())
    }

    fn keys(&self, staged: &Staged, prefix: &Bytes) -> Vec<Bytes> {
        let mut keys: Vec<Bytes> = with_prefix(&self.current, prefix, None)
            .filter(|(key, _)| !staged.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect();
        let added = with_prefix(staged, prefix, None).filter(|(_, value)| value.is_some());
        keys.extend(added.map(|(key, _)| key.clone()));
        keys.sort();
        keys
    }

    fn publish(&mut self, batch: Batch) {
        debug_assert!(batch.revision > self.revision, "revisions only grow");
        self.revision = batch.revision;
        for change in &batch.changes {
            let superseded = match change {
                Change::Put(value) => self.current.insert(value.key.clone(), value.clone()),
                Change::Delete { key, .. } => self.current.remove(key),
            };
            self.history_bytes += superseded.map_or(0, |value| value.value.len());
        }
        self.history.push_back(batch);
        while self.history.len() > HISTORY_REVISIONS || self.history_bytes > HISTORY_BYTES {
            let Some(oldest) = self.history.front() else {
                break;
            };
            let revision = oldest.revision;
            self.forget(revision);
        }
    }

    /// Forgets the history up to and including `at`.
    fn forget(&mut self, at: Revision) {
        while self
            .history
            .front()
            .is_some_and(|batch| batch.revision <= at)
        {
            if let Some(batch) = self.history.pop_front() {
                self.compacted = batch.revision;
            }
        }
        if self.history.is_empty() {
            self.history_bytes = 0;
        }
    }
}

fn size(op: &Op) -> usize {
    match op {
        Op::Put(key, value) => key.len() + value.len(),
        Op::Delete(key) | Op::DeletePrefix(key) => key.len(),
    }
}

fn delete(
    own: &mut Staged,
    revision: Revision,
    key: Bytes,
    changes: &mut Vec<Change>,
) -> Result<(), Error> {
    match own.insert(key.clone(), None) {
        // Deleting twice, say by a key and by its prefix, is deleting.
        Some(None) => Ok(()),
        Some(Some(_)) => Err(Error::WrittenTwice(key)),
        None => {
            changes.push(Change::Delete { key, revision });
            Ok(())
        }
    }
}

/// The entries whose key has `prefix`, after the key `after` if given.
fn with_prefix<'a, V>(
    map: &'a BTreeMap<Bytes, V>,
    prefix: &'a [u8],
    after: Option<&'a [u8]>,
) -> impl Iterator<Item = (&'a Bytes, &'a V)> {
    let begin = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    map.range::<[u8], _>((begin, Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
}

/// The state behind a lock, and how watchers learn of news.
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
        let news = watch::Sender::new(News::Revision(state.revision));
        Arc::new(Self {
            state: RwLock::new(state),
            news,
        })
    }

    /// Looks at the state. Short, and never across an await.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read())
    }

    /// Makes planned batches visible and wakes the watchers.
    pub(crate) fn publish(&self, batches: impl IntoIterator<Item = Batch>) {
        let revision = {
            let mut state = self.state.write();
            for batch in batches {
                state.publish(batch);
            }
            state.revision
        };
        self.news.send_if_modified(|news| {
            let next = News::Revision(revision);
            let changed = *news != News::Closed && *news != next;
            if changed {
                *news = next;
            }
            changed
        });
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        self.news.send_replace(News::Closed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.news.borrow() == News::Closed
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.read(|state| state.current.get(key).cloned())
    }

    pub(crate) fn range(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Range {
        self.read(|state| {
            let mut found = with_prefix(&state.current, prefix, after);
            let items = found
                .by_ref()
                .take(limit)
                .map(|(_, value)| value.clone())
                .collect();
            Range {
                items,
                more: found.next().is_some(),
                revision: state.revision,
            }
        })
    }

    pub(crate) fn compact(&self, at: Revision) {
        self.state.write().forget(at);
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: &[u8], from: Revision) -> Box<dyn Watch> {
        Box::new(Follower {
            core: Arc::clone(self),
            news: self.news.subscribe(),
            prefix: Bytes::copy_from_slice(prefix),
            position: from,
        })
    }
}

/// A watch: a position in the history.
struct Follower {
    core: Arc<Core>,
    news: watch::Receiver<News>,
    prefix: Bytes,
    position: Revision,
}

impl Follower {
    /// The next batch after the position, if there is one. Revisions without a change under the
    /// prefix are passed over; if there is nothing else, the newest of them is reported.
    fn advance(&mut self) -> Result<Option<Batch>, Error> {
        let Self {
            core,
            prefix,
            position,
            ..
        } = self;
        core.read(|state| {
            if *position < state.compacted {
                return Err(Error::Compacted {
                    revision: state.compacted,
                });
            }
            if *position >= state.revision {
                return Ok(None);
            }
            let seen = state
                .history
                .partition_point(|batch| batch.revision <= *position);
            for batch in state.history.range(seen..) {
                let ours = |change: &&Change| change.key().starts_with(prefix);
                let changes: Vec<Change> = batch.changes.iter().filter(ours).cloned().collect();
                if !changes.is_empty() {
                    *position = batch.revision;
                    return Ok(Some(Batch {
                        revision: batch.revision,
                        changes,
                    }));
                }
            }
            *position = state.revision;
            Ok(Some(Batch {
                revision: state.revision,
                changes: Vec::new(),
            }))
        })
    }
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put(value) => &value.key,
            Self::Delete { key, .. } => key,
        }
    }
}

impl Watch for Follower {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>> {
        Box::pin(async move {
            loop {
                let closed = *self.news.borrow_and_update() == News::Closed;
                if let Some(batch) = self.advance()? {
                    return Ok(batch);
                }
                if closed || self.news.changed().await.is_err() {
                    return Err(Error::Closed);
                }
            }
        })
    }
}
