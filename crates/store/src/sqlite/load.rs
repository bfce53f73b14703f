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

/// So few keys are compared one with the other.
const FEW: usize = 16;

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
        sort(&self.changes, &mut self.begins);
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

/// Sorts changes by key, and those of the same key as they came.
///
/// Keys have long prefixes in common and lie far apart in memory, so comparing them one with the
/// other is slow. Eight bytes, from where they begin to differ, tell nearly all of them apart.
fn sort(changes: &[u8], begins: &mut [usize]) {
    let key = |begin: usize| leaf::first_key(&changes[begin..]);
    let Some(first) = begins.first().map(|begin| key(*begin)) else {
        return;
    };
    let shared = begins.iter().fold(first.len(), |shared, begin| {
        let pairs = first[..shared].iter().zip(key(*begin));
        pairs.take_while(|(a, b)| a == b).count()
    });
    let mut sorted: Vec<(u64, usize)> = begins
        .iter()
        .map(|begin| (number(&key(*begin)[shared..]), *begin))
        .collect();
    sorted.sort_unstable();
    for (begin, (_, sorted)) in begins.iter_mut().zip(&sorted) {
        *begin = *sorted;
    }
    let mut rest = begins;
    for alike in sorted.chunk_by(|a, b| a.0 == b.0) {
        let (begins, others) = rest.split_at_mut(alike.len());
        rest = others;
        if alike.len() > FEW && alike.len() < sorted.len() {
            sort(changes, begins);
        } else if alike.len() > 1 {
            begins.sort_unstable_by(|a, b| key(*a).cmp(key(*b)).then(a.cmp(b)));
        }
    }
}

/// The first eight bytes of a text; numbers are ordered as the texts are, or equal.
fn number(text: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = text.len().min(bytes.len());
    bytes[..length].copy_from_slice(&text[..length]);
    u64::from_be_bytes(bytes)
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
    fn keys_are_sorted_whatever_they_share() {
        let (mut changes, mut begins, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        let mut random = 1_u64;
        for row in 0..5000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let number = (random >> 40) % 700;
            let key = match random >> 62 {
                0 => format!("/a/long/prefix/{number}/suffix").into_bytes(),
                1 => format!(
                    "/a/long/pre{}",
                    "f".repeat(usize::try_from(number).unwrap() / 9)
                )
                .into_bytes(),
                // Ends that are no different from what a short key is filled up with.
                2 => [
                    b"/z".as_slice(),
                    &vec![0; usize::try_from(number % 20).unwrap()],
                ]
                .concat(),
                _ => vec![b'k'; usize::try_from(number % 3).unwrap()],
            };
            begins.push(changes.len());
            leaf::write(&mut changes, b"", &key, &entry(row, row, None));
            expected.push((key, row));
        }
        sort(&changes, &mut begins);
        expected.sort();
        let sorted = begins.iter().map(|begin| leaf::first(&changes[*begin..]));
        let sorted: Vec<_> = sorted
            .map(|(key, entry)| (key.to_vec(), entry.place.row))
            .collect();
        assert_eq!(sorted, expected);
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
