//! Entries in order, as few bytes as possible: the part of a key that it shares with the one before
//! is left out, and numbers take the bytes that they need.
//!
//! A leaf is read from its beginning, so it is kept short ([`crate::table`]); the changes of a
//! revision are kept the same way ([`crate::history`]). What is read here was written here, in this
//! process: there is no format to keep, and no damage to expect.

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
    let shared = before.iter().zip(key).take_while(|(a, b)| a == b).count();
    let own = &key[shared..];
    write_number(leaf, shared as u64);
    write_number(leaf, own.len() as u64);
    leaf.extend_from_slice(own);
    let Place { row, revision } = entry.place;
    write_number(leaf, row);
    write_number(leaf, revision.0);
    let Some(value) = &entry.value else {
        return write_number(leaf, 0);
    };
    write_number(leaf, u64::from(value.shape) + 1);
    write_number(leaf, value.bytes.len() as u64);
    // Most values were never changed: then this is one byte.
    write_number(leaf, revision.0.wrapping_sub(value.create_revision.0));
    write_number(leaf, value.version);
    leaf.extend_from_slice(value.bytes);
}

/// Seven bits a byte, the lowest first; the highest bit says that there are more.
fn write_number(leaf: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        leaf.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    leaf.push(number.to_le_bytes()[0]);
}

/// Reads the first entry of a leaf. Its key is where it is, whole.
pub(crate) fn first(leaf: &[u8]) -> (&[u8], Entry<'_>) {
    let mut cursor = Cursor { leaf, at: 0 };
    let key = cursor.first_key();
    (key, cursor.entry())
}

/// The key of the first entry of a leaf.
pub(crate) fn first_key(leaf: &[u8]) -> &[u8] {
    Cursor { leaf, at: 0 }.first_key()
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
        let shared = self.cursor.length();
        let own = self.cursor.text();
        self.key.truncate(shared);
        self.key.extend_from_slice(own);
        Some(self.cursor.entry())
    }

    /// How many bytes were read.
    pub(crate) fn position(&self) -> usize {
        self.cursor.at
    }
}

#[derive(Debug)]
struct Cursor<'a> {
    leaf: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn first_key(&mut self) -> &'a [u8] {
        let shared = self.length();
        debug_assert_eq!(shared, 0, "there is none before it");
        self.text()
    }

    /// What follows a key.
    fn entry(&mut self) -> Entry<'a> {
        let place = Place {
            row: self.number(),
            revision: Revision(self.number()),
        };
        let shape = self.number();
        if shape == 0 {
            return Entry { place, value: None };
        }
        let length = self.length();
        let age = self.number();
        let version = self.number();
        let value = Stored {
            shape: u16::try_from(shape - 1).unwrap_or(0),
            bytes: self.bytes(length),
            create_revision: Revision(place.revision.0.wrapping_sub(age)),
            version,
        };
        Entry {
            place,
            value: Some(value),
        }
    }

    fn text(&mut self) -> &'a [u8] {
        let length = self.length();
        self.bytes(length)
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
        assert_eq!(reader.position(), leaf.len());
        assert_eq!(first(&leaf), (b"a".as_slice(), entries[0].1));
        assert_eq!(first_key(&leaf), b"a");
    }
}
