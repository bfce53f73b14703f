//! Values as LZ4 blocks with an earlier value as their dictionary.
//!
//! `lz4_flex` reads the blocks. It could write them, too, but it looks through the dictionary anew
//! for each value, and that takes longer than all the rest when values are a few KiB that are nearly
//! the same. Here it is looked through once.
//!
//! The [format](https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md) is that of the blocks
//! which are on disks: it may not change.

use std::sync::Arc;

use crate::leaf::in_common;

/// A match is at least so long.
const LEAST: usize = 4;

/// The last bytes of a block are in no match, and none begins within the last [`NO_MATCH`].
const LITERALS_AT_END: usize = 5;

/// See [`LITERALS_AT_END`].
const NO_MATCH: usize = 12;

/// How far back a match may be.
const WINDOW: usize = 0xffff;

/// Lengths from here on take more bytes.
const LONG: usize = 15;

/// The search goes faster by a byte whenever it has found nothing in so many.
const PATIENCE: usize = 64;

/// By the hash of four bytes where they are first in the dictionary, so that as much as possible
/// follows them. It is no more than a hint: they are compared.
type Places = [u32; PLACES];

const PLACES: usize = 4096;

/// The same for the part of a value that was seen; there is little in it that is not in the
/// dictionary, and it is made anew for each value.
const OWN_PLACES: usize = 512;

/// What values are like.
#[derive(Clone)]
pub(crate) struct Dictionary {
    text: Arc<[u8]>,
    places: Arc<Places>,
}

impl std::fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Dictionary").field(&self.text).finish()
    }
}

impl Dictionary {
    pub(crate) fn new(text: Arc<[u8]>) -> Self {
        let mut places = [0; PLACES];
        for (at, bytes) in text.windows(LEAST).enumerate().rev() {
            places[slot(word(bytes, 0))] = u32::try_from(at).unwrap_or(u32::MAX);
        }
        let places = Arc::new(places);
        Self { text, places }
    }

    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Adds the block of `value` to `block`.
    pub(crate) fn compress(&self, value: &[u8], block: &mut Vec<u8>) {
        let known = self.text.len();
        let end = value.len().saturating_sub(LITERALS_AT_END);
        let mut own = [0; OWN_PLACES];
        // What is before is in the block.
        let mut done = 0;
        let mut at = 0;
        while at + NO_MATCH <= value.len() {
            let wanted = word(value, at);
            let slot = slot(wanted);
            let known_at = self.places[slot] as usize;
            let place = &mut own[slot % OWN_PLACES];
            let own_at = *place as usize;
            *place = u32::try_from(at).unwrap_or(u32::MAX);
            let is_there = |text: &[u8], from, distance| {
                distance <= WINDOW && text.len() >= from + LEAST && word(text, from) == wanted
            };
            let known_distance = (known + at).saturating_sub(known_at);
            let (text, mut from, distance) = if is_there(&self.text, known_at, known_distance) {
                (&self.text[..], known_at, known_distance)
            } else if own_at < at && is_there(value, own_at, at - own_at) {
                (value, own_at, at - own_at)
            } else {
                at += 1 + (at - done) / PATIENCE;
                continue;
            };
            let mut length = in_common(&text[from..], &value[at..end]);
            while at > done && from > 0 && text[from - 1] == value[at - 1] {
                (at, from, length) = (at - 1, from - 1, length + 1);
            }
            write(block, &value[done..at], Some((distance, length)));
            at += length;
            done = at;
        }
        write(block, &value[done..], None);
    }
}

/// Writes bytes that are as they are, and where the following ones were before: how far back, and
/// how many.
fn write(block: &mut Vec<u8>, literals: &[u8], copied: Option<(usize, usize)>) {
    let more = copied.map_or(0, |(_, length)| length - LEAST);
    let short = |length: usize| length.min(LONG).to_le_bytes()[0];
    block.push(short(literals.len()) << 4 | short(more));
    write_rest(block, literals.len());
    block.extend_from_slice(literals);
    if let Some((distance, _)) = copied {
        block.extend_from_slice(&distance.to_le_bytes()[..2]);
        write_rest(block, more);
    }
}

fn write_rest(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(LONG) else {
        return;
    };
    while rest >= 0xff {
        block.push(0xff);
        rest -= 0xff;
    }
    block.push(rest.to_le_bytes()[0]);
}

/// Four bytes of a text that has them.
fn word(text: &[u8], at: usize) -> u32 {
    let mut bytes = [0; LEAST];
    bytes.copy_from_slice(&text[at..at + LEAST]);
    u32::from_le_bytes(bytes)
}

fn slot(word: u32) -> usize {
    (word.wrapping_mul(2_654_435_761) >> (u32::BITS - PLACES.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use lz4_flex::block::{compress_with_dict, decompress_with_dict};

    use super::*;

    /// What differs from one text to the next.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).unwrap() % end
        }

        fn text(&mut self, length: usize, letters: usize) -> Vec<u8> {
            (0..length)
                .map(|_| self.below(letters).to_le_bytes()[0])
                .collect()
        }
    }

    fn compressed(text: &[u8], value: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        Dictionary::new(text.into()).compress(value, &mut block);
        let read = decompress_with_dict(&block, value.len(), text);
        assert_eq!(read.unwrap(), value, "{text:?}");
        block
    }

    #[test]
    fn what_is_written_is_read() {
        let mut random = Random(7);
        for round in 0..4000 {
            let letters = [2, 4, 30, 256][round % 4];
            let length = random.below(600);
            let text = random.text(length, letters);
            // Parts of the text, and of what is there already, with others in between.
            let mut value = Vec::new();
            for _ in 0..random.below(12) {
                let other = random.below(40);
                value.extend(random.text(other, letters));
                let source = if round % 3 == 0 {
                    value.clone()
                } else {
                    text.clone()
                };
                let begin = random.below(source.len() + 1);
                let end = begin + random.below(source.len() - begin + 1);
                value.extend(&source[begin..end]);
            }
            compressed(&text, &value);
        }
    }

    #[test]
    fn long_values_look_back_no_further_than_they_may() {
        let mut random = Random(3);
        let text = random.text(16 * 1024, 256);
        let mut value = text.clone();
        value.extend(random.text(70_000, 256));
        value.extend(&text);
        value.extend(vec![7; 100_000]);
        let block = compressed(&text, &value);
        // What is new, and what is too far back by then.
        assert!((86_000..90_000).contains(&block.len()), "{}", block.len());
    }

    #[test]
    fn nothing_is_lost_that_the_library_finds() {
        let mut random = Random(1);
        let value = |random: &mut Random| {
            let field = |field| {
                let name = random.below(1_000_000);
                format!("\"field{field}\":\"value of field{field} {name}\",")
            };
            (0..60).map(field).collect::<String>().into_bytes()
        };
        let text = value(&mut random);
        let (mut ours, mut theirs) = (0, 0);
        for _ in 0..200 {
            let value = value(&mut random);
            ours += compressed(&text, &value).len();
            theirs += compress_with_dict(&value, &text).len();
        }
        assert!(ours <= theirs, "{ours} and {theirs} bytes");
    }
}
