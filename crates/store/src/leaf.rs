//! Entries in order, as few bytes as possible: the part of a key that it shares with the one before
//! is left out, and numbers take the bytes that they need. Each entry says how long it is, so that a
//! search passes over it without reading more than what tells where its key is.
//!
//! A leaf is read from its beginning, so it is kept short ([`crate::table`]); the changes of a
//! revision are kept the same way ([`crate::history`]). What is read here was written here, in this
//! process: there is no format to keep, and no damage to expect.

use std::cmp::Ordering;

use crate::Revision;
use crate::state::{Kept, Place};

/// A value as it is kept, borrowed from where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored<'a> {
    /// The number of its shape; 0 if it is kept as it is.
    pub(crate) shape: u16,
    pub(crate) bytes: &'a [u8],
    pub(crate) create_revision: Revision,
    pub(crate) version: u64,
}

/// A change of a key, or its current value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) place: Place,
    /// None if the key was deleted.
    pub(crate) value: Option<Stored<'a>>,
}

impl<'a> Entry<'a> {
    /// A planned or published change.
    pub(crate) fn of(row: u64, change: &'a Kept) -> Self {
        let value = change.value.as_ref().map(|value| value.stored());
        Self {
            place: Place {
                row,
                revision: change.revision,
            },
            value,
        }
    }
}

/// Adds an entry to `leaf`, whose last key is `before`.
pub(crate) fn write(leaf: &mut Vec<u8>, before: &[u8], key: &[u8], entry: &Entry<'_>) {
    let shared = in_common(before, key);
    write_key(leaf, shared, &[&key[shared..]], length_of(entry));
    write_entry(leaf, entry);
}

/// How many bytes both begin with.
pub(crate) fn in_common(one: &[u8], other: &[u8]) -> usize {
    let length = one.len().min(other.len());
    let (words, _) = one[..length].as_chunks::<8>();
    let (others, _) = other[..length].as_chunks::<8>();
    let mut same = 0;
    for (word, other) in words.iter().zip(others) {
        let differ = u64::from_le_bytes(*word) ^ u64::from_le_bytes(*other);
        if differ != 0 {
            return same + differ.trailing_zeros() as usize / 8;
        }
        same += 8;
    }
    let rest = one[same..].iter().zip(&other[same..]);
    same + rest.take_while(|(a, b)| a == b).count()
}

/// Writes how much of a key the one before it has, the parts of the rest, and before these how long
/// the entry behind the key is.
fn write_key(leaf: &mut Vec<u8>, shared: usize, own: &[&[u8]], entry: usize) {
    let length: usize = own.iter().map(|part| part.len()).sum();
    for number in [shared, length, entry] {
        write_number(leaf, number as u64);
    }
    for part in own {
        leaf.extend_from_slice(part);
    }
}

fn write_entry(leaf: &mut Vec<u8>, entry: &Entry<'_>) {
    for number in numbers_of(entry) {
        write_number(leaf, number);
    }
    if let Some(value) = &entry.value {
        leaf.extend_from_slice(value.bytes);
    }
}

/// What [`write_entry`] writes.
fn length_of(entry: &Entry<'_>) -> usize {
    let numbers: usize = numbers_of(entry).map(length_of_number).sum();
    numbers + entry.value.map_or(0, |value| value.bytes.len())
}

/// All of an entry but the bytes of its value, which are what is left of its length.
fn numbers_of(entry: &Entry<'_>) -> impl Iterator<Item = u64> {
    let Place { row, revision } = entry.place;
    let value = entry.value.map(|value| {
        // Most values were never changed: then this is one byte.
        let age = revision.0.wrapping_sub(value.create_revision.0);
        [age, value.version]
    });
    let shape = entry.value.map_or(0, |value| u64::from(value.shape) + 1);
    let always = [row, revision.0, shape].into_iter();
    always.chain(value.into_iter().flatten())
}

/// Seven bits a byte, the lowest first; the highest bit says that there are more.
fn write_number(leaf: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        leaf.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    leaf.push(number.to_le_bytes()[0]);
}

fn length_of_number(number: u64) -> usize {
    (u64::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize
}

/// Where a key is in a leaf, or would be.
#[derive(Debug)]
pub(crate) struct Spot<'a> {
    /// The entry, if it is there.
    pub(crate) entry: Option<Entry<'a>>,
    /// The bytes of the leaf that it takes; none if it is not there.
    taken: std::ops::Range<usize>,
    /// How many bytes the key has in common with the one before it.
    shared: usize,
}

/// Looks for a key, from the beginning. Keys are not put together for it: what each has in common
/// with the one before it, and that with `key`, tells how it compares.
pub(crate) fn find<'a>(leaf: &'a [u8], key: &[u8]) -> Spot<'a> {
    let mut cursor = Cursor { leaf, at: 0 };
    let mut shared = 0;
    while cursor.at < leaf.len() {
        let begin = cursor.at;
        let (with_before, own, rest) = cursor.key();
        // One that has more in common with the one before it is less than `key`, as that is.
        if with_before < shared {
            return Spot::between(begin, shared);
        }
        if with_before == shared {
            let wanted = &key[shared..];
            let common = in_common(own, wanted);
            // None, where one of them ends, is less than any byte.
            match own.get(common).cmp(&wanted.get(common)) {
                Ordering::Less => shared += common,
                Ordering::Equal => {
                    return Spot {
                        entry: Some(cursor.entry(rest)),
                        taken: begin..cursor.at,
                        shared,
                    };
                }
                Ordering::Greater => return Spot::between(begin, shared),
            }
        }
        cursor.at += rest;
    }
    Spot::between(leaf.len(), shared)
}

impl Spot<'_> {
    fn between(at: usize, shared: usize) -> Self {
        Self {
            entry: None,
            taken: at..at,
            shared,
        }
    }
}

/// Makes `new` of a leaf: with the entry of `key`, whose place in it is `spot`, written, or deleted
/// when it has no value. What is before and after is copied as it is, but for the key right behind.
pub(crate) fn edit(leaf: &[u8], spot: &Spot<'_>, key: &[u8], entry: &Entry<'_>, new: &mut Vec<u8>) {
    new.clear();
    let Spot { taken, shared, .. } = spot;
    new.extend_from_slice(&leaf[..taken.start]);
    if entry.value.is_some() {
        write_key(new, *shared, &[&key[*shared..]], length_of(entry));
        write_entry(new, entry);
    }
    let mut behind = Cursor {
        leaf,
        at: taken.end,
    };
    let stays = entry.value.is_some() == spot.entry.is_some();
    if !stays && behind.at < leaf.len() {
        let (with_before, own, rest) = behind.key();
        if spot.entry.is_some() {
            // It follows the one before `key` now, and has no more in common with it than `key` has.
            let left = with_before.min(*shared);
            write_key(new, left, &[&key[left..with_before], own], rest);
        } else {
            // It follows `key` now, and may have more in common with it.
            let more = if with_before == *shared {
                in_common(own, &key[*shared..])
            } else {
                0
            };
            write_key(new, with_before + more, &[&own[more..]], rest);
        }
    }
    new.extend_from_slice(&leaf[behind.at..]);
}

/// Reads the first entry of a leaf. Its key is where it is, whole.
pub(crate) fn first(leaf: &[u8]) -> (&[u8], Entry<'_>) {
    let mut cursor = Cursor { leaf, at: 0 };
    let (_, key, rest) = cursor.key();
    (key, cursor.entry(rest))
}

/// The key of the first entry of a leaf.
pub(crate) fn first_key(leaf: &[u8]) -> &[u8] {
    Cursor { leaf, at: 0 }.key().1
}

/// Reads the entries of a leaf, in order.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    cursor: Cursor<'a>,
    /// The key of the entry that was read last; empty before the first.
    pub(crate) key: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(leaf: &'a [u8]) -> Self {
        Self {
            cursor: Cursor { leaf, at: 0 },
            key: Vec::with_capacity(128),
        }
    }

    /// Goes on with another leaf.
    pub(crate) fn begin(&mut self, leaf: &'a [u8]) {
        self.cursor = Cursor { leaf, at: 0 };
        self.key.clear();
    }

    /// The next entry, whose key is then in `key`.
    pub(crate) fn next(&mut self) -> Option<Entry<'a>> {
        if self.cursor.at >= self.cursor.leaf.len() {
            return None;
        }
        let (shared, own, rest) = self.cursor.key();
        self.key.truncate(shared);
        self.key.extend_from_slice(own);
        Some(self.cursor.entry(rest))
    }
}

#[derive(Debug)]
struct Cursor<'a> {
    leaf: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// How much of a key the one before it has, the rest of it, and how long the entry behind is.
    fn key(&mut self) -> (usize, &'a [u8], usize) {
        let shared = self.length();
        let own = self.length();
        let rest = self.length();
        (shared, self.bytes(own), rest)
    }

    /// What follows a key.
    fn entry(&mut self, length: usize) -> Entry<'a> {
        let end = self.at + length;
        let place = Place {
            row: self.number(),
            revision: Revision(self.number()),
        };
        let shape = self.number();
        if shape == 0 {
            return Entry { place, value: None };
        }
        let age = self.number();
        let version = self.number();
        let value = Stored {
            shape: u16::try_from(shape - 1).unwrap_or(0),
            bytes: self.bytes(end - self.at),
            create_revision: Revision(place.revision.0.wrapping_sub(age)),
            version,
        };
        Entry {
            place,
            value: Some(value),
        }
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let bytes = &self.leaf[self.at..self.at + length];
        self.at += length;
        bytes
    }

    fn length(&mut self) -> usize {
        // It was a usize when it was written.
        usize::try_from(self.number()).unwrap_or(usize::MAX)
    }

    fn number(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.leaf[self.at];
            self.at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let numbers = [
            0,
            1,
            0x7f,
            0x80,
            0x3fff,
            0x4000,
            u64::from(u32::MAX),
            u64::MAX,
        ];
        let value = vec![7; 300];
        let entries: Vec<(Vec<u8>, Entry<'_>)> = numbers
            .iter()
            .enumerate()
            .map(|(at, number)| {
                let value = (at % 3 > 0).then_some(Stored {
                    shape: u16::MAX - 1,
                    bytes: &value[..at * 40],
                    create_revision: Revision(number / 2),
                    version: *number,
                });
                let place = Place {
                    row: *number,
                    revision: Revision(*number),
                };
                (b"abcabcabc"[..=at].to_vec(), Entry { place, value })
            })
            .collect();
        let mut leaf = Vec::new();
        let mut before: &[u8] = b"";
        for (key, entry) in &entries {
            write(&mut leaf, before, key, entry);
            before = key;
        }
        let mut reader = Reader::new(&leaf);
        for (key, entry) in &entries {
            assert_eq!(reader.next().as_ref(), Some(entry));
            assert_eq!(&reader.key, key);
        }
        assert_eq!(reader.next(), None);
        assert_eq!(first(&leaf), (b"a".as_slice(), entries[0].1));
        assert_eq!(first_key(&leaf), b"a");
    }
}
