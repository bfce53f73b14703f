//! What the log says when all of it is read, at the start.
//!
//! The changes are gathered as they come, in one block of bytes, and then sorted by key: that is
//! far less work than to look for the place of each. So for a moment the log is in memory twice.

use super::log::Contents;
use crate::Revision;
use crate::history::Limits;
use crate::leaf::{self, Entry};
use crate::pack::Shape;
use crate::state::{Place, State};
use crate::table::{Leaves, Table};

/// The changes that were read so far.
#[derive(Debug)]
pub(super) struct Loading {
    compacted: Revision,
    /// That of the newest change.
    revision: Revision,
    /// Each change as `leaf.rs` writes it, with its whole key.
    changes: Vec<u8>,
    /// Where each begins.
    begins: Vec<usize>,
}

impl Loading {
    /// Of a log in which rows may be missing up to the revision `compacted`.
    pub(super) fn new(compacted: Revision) -> Self {
        Self {
            compacted,
            revision: compacted,
            changes: Vec::new(),
            begins: Vec::new(),
        }
    }

    /// Adds the next change of the log.
    ///
    /// # Errors
    ///
    /// What is wrong with the log, in words.
    pub(super) fn add(&mut self, key: &[u8], entry: &Entry<'_>) -> Result<(), String> {
        let revision = entry.place.revision;
        if revision > self.compacted {
            if revision < self.revision {
                let newest = self.revision.0;
                return Err(format!("revision {} follows {newest}", revision.0));
            }
            if revision.0 > self.revision.0 + 1 {
                return Err(format!("a change before revision {} is gone", revision.0));
            }
            self.revision = revision;
        }
        self.begins.push(self.changes.len());
        leaf::write(&mut self.changes, b"", key, entry);
        Ok(())
    }

    /// What the changes come to.
    ///
    /// # Errors
    ///
    /// What is wrong with the log, in words.
    pub(super) fn finish(mut self, shapes: Vec<Shape>, limits: Limits) -> Result<Contents, String> {
        let kept = u64::try_from(limits.revisions).unwrap_or(u64::MAX);
        let oldest = Revision(self.revision.0.saturating_sub(kept));
        let mut state = State::new(self.compacted.max(oldest), limits);
        for shape in shapes {
            state.restore_shape(shape)?;
        }
        self.tell(&mut state);
        self.sort();
        let (table, mut garbage) = self.fold();
        garbage.sort_unstable_by_key(|superfluous| superfluous.since);
        state.fill(table);
        Ok(Contents {
            state,
            garbage: garbage.into_iter().map(|row| row.place).collect(),
        })
    }

    /// Tells the history what happened, one revision after the other.
    fn tell(&self, state: &mut State) {
        let same =
            |a: &usize, b: &usize| self.at(*a).1.place.revision == self.at(*b).1.place.revision;
        for batch in self.begins.chunk_by(same) {
            if let Some(last) = batch.last() {
                let place = self.at(*last).1.place;
                state.restore(place, batch.iter().map(|begin| self.at(*begin)));
            }
        }
    }

    fn at(&self, begin: usize) -> (&[u8], Entry<'_>) {
        leaf::first(&self.changes[begin..])
    }

    fn sort(&mut self) {
        let changes = &self.changes;
        let key = |begin: &usize| leaf::first_key(&changes[*begin..]);
        self.begins
            .sort_unstable_by(|a, b| key(a).cmp(key(b)).then(a.cmp(b)));
    }

    /// The newest change of each key is its value. The others are superfluous since the next of
    /// them, and deletions by themselves.
    fn fold(&self) -> (Table, Vec<Superfluous>) {
        let mut leaves = Leaves::default();
        let mut garbage = Vec::new();
        let mut begins = self.begins.iter().peekable();
        while let Some(begin) = begins.next() {
            let (key, entry) = self.at(*begin);
            let next = begins.peek().map(|next| self.at(**next));
            let newer = next.filter(|(other, _)| *other == key);
            let since = match newer {
                _ if entry.value.is_none() => (entry.place.row, Order::Itself),
                Some((_, newer)) => (newer.place.row, Order::Before),
                None => {
                    leaves.push(key, &entry);
                    continue;
                }
            };
            garbage.push(Superfluous {
                since,
                place: entry.place,
            });
        }
        (leaves.into_table(), garbage)
    }
}

/// A change that no longer matters, but for the history.
#[derive(Debug)]
struct Superfluous {
    /// The row of the change that made it so.
    since: (u64, Order),
    place: Place,
}

/// A deletion can be forgotten when what it deleted is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Before,
    Itself,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::Stored;

    const LIMITS: Limits = Limits {
        revisions: 2,
        bytes: usize::MAX,
    };

    fn entry(row: u64, revision: u64, value: Option<&[u8]>) -> Entry<'_> {
        let revision = Revision(revision);
        Entry {
            place: Place { row, revision },
            value: value.map(|bytes| Stored {
                shape: 0,
                bytes,
                create_revision: revision,
                version: 1,
            }),
        }
    }

    #[test]
    fn the_newest_change_counts_and_the_others_are_garbage_in_order() {
        let mut loading = Loading::new(Revision(0));
        for (key, row, revision, value) in [
            (b"b", 1, 1, Some(b"old".as_slice())),
            (b"a", 2, 1, Some(b"gone")),
            (b"b", 3, 2, Some(b"older")),
            (b"a", 4, 3, None),
            (b"b", 6, 4, Some(b"new")),
            (b"a", 7, 4, Some(b"again")),
        ] {
            loading.add(key, &entry(row, revision, value)).unwrap();
        }
        let Contents { state, garbage } = loading.finish(Vec::new(), LIMITS).unwrap();
        let rows: Vec<u64> = garbage.iter().map(|place| place.row).collect();
        assert_eq!(rows, [1, 2, 4, 3]);
        assert_eq!(state.revision(), Revision(4));
        assert_eq!(state.history.compacted(), Revision(2));
        let batches = state.history.after(Revision(2)).unwrap();
        let revisions: Vec<u64> = batches.map(|batch| batch.revision.0).collect();
        assert_eq!(revisions, [3, 4]);
        let range = state.range(b"", None, 10).unwrap();
        let values: Vec<_> = range.items.iter().map(|item| &item.value[..]).collect();
        assert_eq!(values, [b"again".as_slice(), b"new"]);
    }

    #[test]
    fn a_gap_in_what_was_restored_is_noticed() {
        let mut loading = Loading::new(Revision(4));
        let mut add = |revision| loading.add(b"k", &entry(revision, revision, None));
        // Rows may be missing here.
        add(1).unwrap();
        add(3).unwrap();
        add(5).unwrap();
        add(5).unwrap();
        add(6).unwrap();
        add(8).unwrap_err();
        add(5).unwrap_err();
    }
}
