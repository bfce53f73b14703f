//! The recent changes, for watches.
//!
//! Every revision after the compacted one is here, one batch each and without a gap, so that the
//! place of a revision is known without looking for it. How much is kept is bounded by revisions
//! and by bytes: the oldest go first, and a watcher that still needs them reads everything again.

use std::collections::VecDeque;

use crate::state::Kept;
use crate::{Error, Revision};

/// What a change takes besides its key and value, about.
const CHANGE_OVERHEAD: usize = 128;

/// The changes of one revision.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) revision: Revision,
    pub(crate) changes: Vec<Kept>,
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
    pub(crate) fn push(&mut self, revision: Revision, changes: Vec<Kept>) {
        debug_assert_eq!(revision.0, self.newest().0 + 1, "no gaps");
        self.bytes += changes.iter().map(size).sum::<usize>();
        self.batches.push_back(Batch { revision, changes });
        self.trim();
    }

    /// Adds a change that was read from disk, where each change is on its own.
    ///
    /// Returns false if it is not of the newest revision or the one after, so that some between
    /// must have been lost.
    #[must_use]
    pub(crate) fn restore(&mut self, change: Kept) -> bool {
        let (revision, newest) = (change.revision, self.newest());
        if revision.0 == newest.0 + 1 {
            self.push(revision, vec![change]);
            return true;
        }
        match self.batches.back_mut() {
            Some(batch) if batch.revision == revision => {
                self.bytes += size(&change);
                batch.changes.push(change);
                true
            }
            _ => false,
        }
    }

    /// The batches after `position`.
    pub(crate) fn after(
        &self,
        position: Revision,
    ) -> Result<impl ExactSizeIterator<Item = &Batch>, Error> {
        let Some(seen) = position.0.checked_sub(self.compacted.0) else {
            return Err(Error::Compacted {
                revision: self.compacted,
            });
        };
        let seen = usize::try_from(seen).unwrap_or(usize::MAX);
        Ok(self.batches.range(seen.min(self.batches.len())..))
    }

    /// Forgets the history up to and including `at`.
    pub(crate) fn forget(&mut self, at: Revision) {
        while self.compacted < at && self.pop() {}
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
        self.bytes -= batch.changes.iter().map(size).sum::<usize>();
        self.compacted = batch.revision;
        true
    }
}

fn size(change: &Kept) -> usize {
    let value = change.value.as_ref();
    change.key.len() + value.map_or(0, |value| value.packed.bytes.len()) + CHANGE_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, bytes: usize) -> Kept {
        Kept {
            key: vec![b'k'; bytes].into(),
            revision: Revision(revision),
            value: None,
        }
    }

    fn push(history: &mut History, revision: u64, bytes: usize) {
        history.push(Revision(revision), vec![change(revision, bytes)]);
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

    #[test]
    fn a_gap_in_what_was_restored_is_noticed() {
        let limits = Limits {
            revisions: 100,
            bytes: usize::MAX,
        };
        let mut history = History::new(Revision(4), limits);
        assert!(history.restore(change(5, 1)));
        assert!(history.restore(change(5, 1)));
        assert!(history.restore(change(6, 1)));
        assert!(!history.restore(change(8, 1)));
        assert!(!history.restore(change(5, 1)));
        assert_eq!(kept(&history), [5, 6]);
    }
}
