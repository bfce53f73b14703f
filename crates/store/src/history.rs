//! The recent changes, for watches.
//!
//! Every change after the compacted revision is here, one batch for each revision that changed
//! something. The embedded store has no revision without one; an etcd has, where others write keys
//! that are not mirrored. How much is kept is bounded by revisions and by bytes: the oldest go
//! first, and a watcher that still needs them reads everything again.

use std::collections::VecDeque;

use crate::leaf::{self, Entry, Reader};
use crate::{Error, Revision};

/// What a batch takes besides its changes, about.
const BATCH_OVERHEAD: usize = 64;

/// The changes of one revision.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) revision: Revision,
    /// In the order of the transaction, as `leaf.rs` writes them.
    changes: Vec<u8>,
}

impl Batch {
    fn new(revision: Revision) -> Self {
        Self {
            revision,
            changes: Vec::new(),
        }
    }

    /// The changes, to be read one after the other.
    pub(crate) fn changes(&self) -> Reader<'_> {
        Reader::new(&self.changes)
    }

    fn size(&self) -> usize {
        self.changes.len() + BATCH_OVERHEAD
    }
}

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) revisions: usize,
    pub(crate) bytes: usize,
}

/// Every revision after the compacted one.
#[derive(Debug)]
pub(crate) struct History {
    batches: VecDeque<Batch>,
    bytes: usize,
    compacted: Revision,
    limits: Limits,
}

impl History {
    /// A history that begins after `compacted`.
    pub(crate) fn new(compacted: Revision, limits: Limits) -> Self {
        Self {
            batches: VecDeque::new(),
            bytes: 0,
            compacted,
            limits,
        }
    }

    /// The revision from which one can still watch: what led to it is forgotten.
    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    fn newest(&self) -> Revision {
        self.batches
            .back()
            .map_or(self.compacted, |batch| batch.revision)
    }

    /// Adds the batch of the next revision.
    pub(crate) fn push<'a>(
        &mut self,
        revision: Revision,
        changes: impl Iterator<Item = (&'a [u8], Entry<'a>)>,
    ) {
        debug_assert!(revision > self.newest(), "revisions only grow");
        let mut batch = Batch::new(revision);
        let mut before: &[u8] = b"";
        for (key, entry) in changes {
            leaf::write(&mut batch.changes, before, key, &entry);
            before = key;
        }
        batch.changes.shrink_to_fit();
        self.bytes += batch.size();
        self.batches.push_back(batch);
        self.trim();
    }

    /// The batches after `position`.
    pub(crate) fn after(
        &self,
        position: Revision,
    ) -> Result<impl ExactSizeIterator<Item = &Batch>, Error> {
        if position < self.compacted {
            return Err(Error::Compacted {
                revision: self.compacted,
            });
        }
        let seen = self
            .batches
            .partition_point(|batch| batch.revision <= position);
        Ok(self.batches.range(seen..))
    }

    /// Forgets the history up to and including `at`.
    pub(crate) fn forget(&mut self, at: Revision) {
        while self
            .batches
            .front()
            .is_some_and(|oldest| oldest.revision <= at)
        {
            self.pop();
        }
        // What comes next is newer, even if nothing was kept of the revision itself.
        self.compacted = self.compacted.max(at.min(self.newest()));
    }

    /// The newest revision is always kept, so that one large transaction does not send every
    /// watcher back to the start.
    fn trim(&mut self) {
        while self.batches.len() > 1
            && (self.batches.len() > self.limits.revisions || self.bytes > self.limits.bytes)
        {
            self.pop();
        }
    }

    fn pop(&mut self) -> bool {
        let Some(batch) = self.batches.pop_front() else {
            return false;
        };
        self.bytes -= batch.size();
        self.compacted = batch.revision;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Place;

    fn deletion(revision: u64) -> Entry<'static> {
        let revision = Revision(revision);
        Entry {
            place: Place { row: 0, revision },
            value: None,
        }
    }

    fn push(history: &mut History, revision: u64, bytes: usize) {
        let key = vec![b'k'; bytes];
        let changes = std::iter::once((key.as_slice(), deletion(revision)));
        history.push(Revision(revision), changes);
    }

    fn kept(history: &History) -> Vec<u64> {
        let batches = history.after(history.compacted()).unwrap();
        batches.map(|batch| batch.revision.0).collect()
    }

    #[test]
    fn the_oldest_revisions_are_forgotten_first() {
        let limits = Limits {
            revisions: 3,
            bytes: usize::MAX,
        };
        let mut history = History::new(Revision(0), limits);
        for revision in 1..=5 {
            push(&mut history, revision, 1);
        }
        assert_eq!(kept(&history), [3, 4, 5]);
        assert!(history.after(Revision(1)).is_err());
        assert_eq!(history.after(Revision(5)).unwrap().len(), 0);
        assert_eq!(history.after(Revision(9)).unwrap().len(), 0);
    }

    #[test]
    fn a_revision_without_a_change_is_passed_over() {
        let limits = Limits {
            revisions: 10,
            bytes: usize::MAX,
        };
        let mut history = History::new(Revision(3), limits);
        for revision in [5, 9, 10] {
            push(&mut history, revision, 1);
        }
        let after = |history: &History, position| {
            let batches = history.after(Revision(position)).unwrap();
            batches.map(|batch| batch.revision.0).collect::<Vec<_>>()
        };
        assert_eq!(after(&history, 3), [5, 9, 10]);
        assert_eq!(after(&history, 7), [9, 10]);
        history.forget(Revision(7));
        assert_eq!(history.compacted(), Revision(7));
        assert_eq!(kept(&history), [9, 10]);
    }

    #[test]
    fn bytes_bound_the_history_except_for_its_newest_revision() {
        let limits = Limits {
            revisions: 100,
            bytes: 1000,
        };
        let mut history = History::new(Revision(0), limits);
        for revision in 1..=10 {
            push(&mut history, revision, 300);
        }
        assert_eq!(kept(&history), [9, 10]);
        push(&mut history, 11, 5000);
        assert_eq!(kept(&history), [11]);
        push(&mut history, 12, 1);
        assert_eq!(kept(&history), [12]);
    }
}
