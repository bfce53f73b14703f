//! The current values: a sorted map that takes little more memory than what is in it.
//!
//! Keys have long prefixes in common and values are small, so a node, a pointer and two allocations
//! for each would be most of what they take. Entries are kept in leaves instead, a few dozen in one
//! block of bytes ([`crate::leaf`]), and a tree finds the leaf. A write makes its leaf anew, which
//! is a copy of a few KiB.

use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;

use bytes::Bytes;

use crate::leaf::{self, Entry, Reader, Stored};
use crate::state::Place;

/// The most that a leaf takes, unless a single entry is larger. Reading an entry passes over half a
/// leaf, at about a GiB a second.
const LARGEST: usize = 2048;

/// What a leaf takes when it is new: there is room for more.
const NEW: usize = LARGEST * 3 / 4;

/// The least key that a leaf holds.
type Key = Box<[u8]>;

/// Entries as `leaf.rs` writes them.
type Leaf = Box<[u8]>;

/// The current values.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Each holds the keys from its own on, up to the next. The first leaf's key is empty; no other
    /// leaf is.
    leaves: BTreeMap<Key, Leaf>,
    /// Where leaves are made anew.
    new: Vec<u8>,
}

/// A value and the change that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    pub(crate) place: Place,
    pub(crate) value: Stored<'a>,
}

impl Table {
    /// The value of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Found<'_>> {
        let (_, leaf) = self.leaf(key)?;
        found(leaf::find(leaf, key).entry?)
    }

    /// The values whose key has `prefix`, after the key `after` if given, in order.
    pub(crate) fn with_prefix<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
    ) -> WithPrefix<'a> {
        let after = after.filter(|after| *after >= prefix);
        let begin = after.unwrap_or(prefix);
        let first = self.leaf(begin).map_or(begin, |(first, _)| first);
        let leaves = (Bound::Included(first), Bound::Unbounded);
        WithPrefix {
            leaves: self.leaves.range::<[u8], _>(leaves),
            reader: Reader::new(&[]),
            prefix,
            after,
        }
    }

    /// Writes a key, or deletes it when the entry has no value.
    pub(crate) fn put(&mut self, key: &[u8], entry: &Entry<'_>) {
        self.put_with(key, |_| *entry);
    }

    /// The same with what `make` makes of what was there; returns that.
    pub(crate) fn put_with<'a>(
        &mut self,
        key: &[u8],
        make: impl FnOnce(Option<Stored<'_>>) -> Entry<'a>,
    ) -> Entry<'a> {
        let Self { leaves, new } = self;
        let upto = (Bound::Unbounded, Bound::Included(key));
        let Some((first, leaf)) = leaves.range_mut::<[u8], _>(upto).next_back() else {
            let entry = make(None);
            leaf::edit(&[], &leaf::find(&[], key), key, &entry, new);
            leaves.insert(Key::default(), new[..].into());
            return entry;
        };
        let spot = leaf::find(leaf, key);
        let entry = make(spot.entry.and_then(|entry| entry.value));
        leaf::edit(leaf, &spot, key, &entry, new);
        if new.len() > LARGEST {
            let mut parts = Leaves::new(first.clone(), new.len() / 2);
            let mut reader = Reader::new(new);
            while let Some(entry) = reader.next() {
                parts.push(&reader.key, &entry);
            }
            leaves.extend(parts.finish());
        } else if new.is_empty() && !first.is_empty() {
            let first = first.clone();
            leaves.remove(&first);
        } else {
            *leaf = new[..].into();
        }
        entry
    }

    fn leaf(&self, key: &[u8]) -> Option<(&[u8], &[u8])> {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let (first, leaf) = self.leaves.range::<[u8], _>(upto).next_back()?;
        Some((first, leaf))
    }
}

fn found(entry: Entry<'_>) -> Option<Found<'_>> {
    let Entry { place, value } = entry;
    value.map(|value| Found { place, value })
}

/// Makes leaves of entries that come in order.
#[derive(Debug)]
pub(crate) struct Leaves {
    /// A leaf is full when it has so many bytes.
    size: usize,
    first: Key,
    leaf: Vec<u8>,
    before: Vec<u8>,
    done: Vec<(Key, Leaf)>,
}

impl Leaves {
    fn new(first: Key, size: usize) -> Self {
        Self {
            size,
            first,
            leaf: Vec::with_capacity(2 * LARGEST),
            before: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Adds an entry, which comes after all others.
    pub(crate) fn push(&mut self, key: &[u8], entry: &Entry<'_>) {
        let bytes = entry.value.map_or(0, |value| value.bytes.len());
        let full = self.leaf.len() >= self.size || self.leaf.len() + bytes > LARGEST;
        if full && !self.leaf.is_empty() {
            self.end(key.into());
        }
        leaf::write(&mut self.leaf, &self.before, key, entry);
        key.clone_into(&mut self.before);
    }

    fn end(&mut self, next: Key) {
        let first = std::mem::replace(&mut self.first, next);
        self.done.push((first, self.leaf.as_slice().into()));
        self.leaf.clear();
        self.before.clear();
    }

    fn finish(mut self) -> Vec<(Key, Leaf)> {
        self.end(Box::default());
        self.done
    }

    /// The table of all entries.
    pub(crate) fn into_table(self) -> Table {
        Table {
            leaves: self.finish().into_iter().collect(),
            new: Vec::new(),
        }
    }
}

impl Default for Leaves {
    /// The leaves of a whole table.
    fn default() -> Self {
        Self::new(Box::default(), NEW)
    }
}

/// See [`Table::with_prefix`].
#[derive(Debug)]
pub(crate) struct WithPrefix<'a> {
    leaves: btree_map::Range<'a, Key, Leaf>,
    reader: Reader<'a>,
    prefix: &'a [u8],
    after: Option<&'a [u8]>,
}

impl<'a> Iterator for WithPrefix<'a> {
    type Item = (Bytes, Found<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(entry) = self.reader.next() else {
                let (_, leaf) = self.leaves.next()?;
                self.reader.begin(leaf);
                continue;
            };
            let key = self.reader.key.as_slice();
            if key < self.prefix || self.after.is_some_and(|after| key <= after) {
                continue;
            }
            if !key.starts_with(self.prefix) {
                return None;
            }
            return Some((Bytes::copy_from_slice(key), found(entry)?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Revision;

    fn entry(row: u64, value: Option<&[u8]>) -> Entry<'_> {
        let revision = Revision(row);
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

    /// What both hold under a prefix.
    fn compare(table: &Table, model: &BTreeMap<Vec<u8>, (u64, Vec<u8>)>, from: &[u8]) {
        let found = table.with_prefix(b"/k/", Some(from));
        let found: Vec<_> = found
            .map(|(key, found)| {
                assert_eq!(table.get(&key), Some(found));
                (key.to_vec(), (found.place.row, found.value.bytes.to_vec()))
            })
            .collect();
        let expected = model
            .range::<[u8], _>((Bound::Excluded(from), Bound::Unbounded))
            .filter(|(key, _)| key.starts_with(b"/k/"));
        let expected: Vec<_> = expected.map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn it_holds_what_a_map_would() {
        let (mut table, mut model) = (Table::default(), BTreeMap::new());
        let mut random = 1_u64;
        for row in 1..20_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let number = (random >> 33) % 700;
            let prefix = if number.is_multiple_of(50) {
                "/l"
            } else {
                "/k"
            };
            let key = format!("{prefix}/{}/{number}", "shared".repeat(3)).into_bytes();
            // Some are larger than a leaf, and some phases mostly delete.
            let size = if number.is_multiple_of(97) {
                5000
            } else {
                number
            };
            let value = vec![b'v'; usize::try_from(size).unwrap()];
            if (random >> 20) % 10 < if row / 3000 % 2 == 0 { 2 } else { 8 } {
                table.put(&key, &entry(row, None));
                model.remove(&key);
            } else {
                table.put(&key, &entry(row, Some(&value)));
                model.insert(key.clone(), (row, value));
            }
            let found = table.get(&key).map(|found| found.place.row);
            assert_eq!(found, model.get(&key).map(|(row, _)| *row));
            if row % 500 == 0 {
                compare(&table, &model, b"");
                compare(&table, &model, &key);
                compare(&table, &model, b"/k/");
            }
        }
        for key in model.keys() {
            table.put(key, &entry(0, None));
        }
        assert_eq!(table.with_prefix(b"", None).count(), 0);
        assert_eq!(table.leaves.len(), 1, "empty leaves are gone");
    }

    #[test]
    fn entries_take_little_more_than_their_values() {
        let keys: Vec<String> = (0..10_000)
            .map(|number| format!("/functions/tenant/default/function/f-{number:05}/latest"))
            .collect();
        let mut leaves = Leaves::default();
        let mut table = Table::default();
        for (row, key) in (1..).zip(&keys) {
            leaves.push(key.as_bytes(), &entry(row, Some(b"a value")));
            table.put(key.as_bytes(), &entry(row, Some(b"a value")));
        }
        for table in [leaves.into_table(), table] {
            let leaves = table.leaves.iter();
            let bytes: usize = leaves.map(|(first, leaf)| first.len() + leaf.len()).sum();
            assert!(bytes < 35 * keys.len(), "{bytes}");
            for (row, key) in (1..).zip(&keys) {
                assert_eq!(
                    table.get(key.as_bytes()).map(|found| found.place.row),
                    Some(row)
                );
            }
        }
    }
}
