//! Values as they are kept: the difference to an earlier value of the same shape.
//!
//! The values of a store look alike by thousands: the same fields around other names. So the first
//! value of a class of keys becomes the class's *shape*, and values are kept as LZ4 blocks with the
//! shape as their dictionary, in memory and on disk, at a quarter to a tenth of their size. Which
//! class a key is of is told by its first two segments, and only saves room if it is told well.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use lz4_flex::block;

use crate::lz4::Dictionary;

/// Values shorter than this are kept as they are.
const LEAST: usize = 64;

/// The most that is looked back into a shape.
const LARGEST_SHAPE: usize = 16 * 1024;

/// Classes beyond this have no shape; there are seven in the contract.
const MOST_SHAPES: usize = 64;

/// The length of a value is no more than that of a transaction; a block that says otherwise is
/// damaged.
const LARGEST_VALUE: usize = 4 << 20;

/// A value that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// The number of its shape; 0 if it is kept as it is.
    pub(crate) shape: u16,
    pub(crate) bytes: Arc<[u8]>,
}

/// An earlier value, that others are like.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// From 1.
    pub(crate) number: u16,
    /// The class whose keys it serves.
    pub(crate) class: Arc<[u8]>,
    pub(crate) value: Dictionary,
}

/// The value cannot be made from what is kept.
#[derive(Debug)]
pub(crate) struct Unpackable;

/// All shapes of a store.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    by_class: HashMap<Arc<[u8]>, u16>,
    /// In the order of their numbers.
    all: Vec<Shape>,
}

impl Shapes {
    /// Adds the next shape.
    pub(crate) fn add(&mut self, shape: Shape) {
        self.by_class.insert(Arc::clone(&shape.class), shape.number);
        self.all.push(shape);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    fn of(&self, key: &[u8]) -> Option<&Shape> {
        self.numbered(*self.by_class.get(class(key))?)
    }

    fn numbered(&self, number: u16) -> Option<&Shape> {
        self.all.get(usize::from(number).checked_sub(1)?)
    }

    /// The value that is kept as `packed` with the shape of this number.
    pub(crate) fn unpack(&self, number: u16, packed: &[u8]) -> Result<Bytes, Unpackable> {
        if number == 0 {
            return Ok(Bytes::copy_from_slice(packed));
        }
        self.numbered(number).ok_or(Unpackable)?.unpack(packed)
    }
}

impl Shape {
    fn unpack(&self, packed: &[u8]) -> Result<Bytes, Unpackable> {
        let (length, block) = block::uncompressed_size(packed).map_err(|_| Unpackable)?;
        if length > LARGEST_VALUE {
            return Err(Unpackable);
        }
        let value = block::decompress_with_dict(block, length, self.value.text());
        let value = value.map_err(|_| Unpackable)?;
        // A block that is cut off may end early without being wrong.
        if value.len() == length {
            Ok(Bytes::from(value))
        } else {
            Err(Unpackable)
        }
    }
}

/// Packs values, and finds the shapes that are missing.
#[derive(Debug)]
pub(crate) struct Packer<'a> {
    known: &'a Shapes,
    /// Shapes that nobody else knows yet.
    new: Vec<Shape>,
    /// Where values are packed.
    block: Vec<u8>,
}

impl<'a> Packer<'a> {
    pub(crate) fn new(known: &'a Shapes) -> Self {
        Self {
            known,
            new: Vec::new(),
            block: Vec::new(),
        }
    }

    /// Packs the value of `key`.
    pub(crate) fn pack(&mut self, key: &[u8], value: &[u8]) -> Packed {
        let mut block = std::mem::take(&mut self.block);
        block.clear();
        let shape = self.pack_onto(key, value, &mut block);
        let bytes = block[..].into();
        self.block = block;
        Packed { shape, bytes }
    }

    /// Adds the packed value of `key` to `blocks`; returns the number of its shape.
    pub(crate) fn pack_onto(&mut self, key: &[u8], value: &[u8], blocks: &mut Vec<u8>) -> u16 {
        let begin = blocks.len();
        if value.len() >= LEAST
            && let Ok(length) = u32::try_from(value.len())
            && let Some(shape) = shape(self.known, &mut self.new, key, value)
        {
            blocks.extend_from_slice(&length.to_le_bytes());
            shape.value.compress(value, blocks);
            if blocks.len() - begin < value.len() {
                return shape.number;
            }
            blocks.truncate(begin);
        }
        blocks.extend_from_slice(value);
        0
    }

    /// The same, also with a shape that is new here.
    pub(crate) fn unpack(&self, number: u16, packed: &[u8]) -> Result<Bytes, Unpackable> {
        self.known.unpack(number, packed).or_else(|error| {
            let new = self.new.iter().find(|shape| shape.number == number);
            new.ok_or(error)?.unpack(packed)
        })
    }

    /// The shapes that were found, to be kept before the values are.
    pub(crate) fn finish(self) -> Vec<Shape> {
        self.new
    }
}

/// The shape for a value of `key`; the value itself where there is none yet.
fn shape<'a>(
    known: &'a Shapes,
    new: &'a mut Vec<Shape>,
    key: &[u8],
    value: &[u8],
) -> Option<&'a Shape> {
    if let Some(known) = known.of(key) {
        return Some(known);
    }
    let class = class(key);
    if let Some(at) = new.iter().position(|shape| *shape.class == *class) {
        return new.get(at);
    }
    let number = known.len() + new.len() + 1;
    if number > MOST_SHAPES {
        return None;
    }
    new.push(Shape {
        number: u16::try_from(number).ok()?,
        class: class.into(),
        value: Dictionary::new(value[..value.len().min(LARGEST_SHAPE)].into()),
    });
    new.last()
}

/// `/repo/FunctionVersion/…` is of the class `/repo/FunctionVersion`.
fn class(key: &[u8]) -> &[u8] {
    let mut ends = key.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let end = ends.nth(2).map_or(key.len(), |(end, _)| end);
    &key[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Vec<u8> {
        let fields = "\"a field\": \"that all of them have\", ".repeat(20);
        format!("{{\"name\": \"{name}\", {fields}}}").into_bytes()
    }

    #[test]
    fn what_was_packed_is_unpacked_to_the_same() {
        let mut shapes = Shapes::default();
        let mut kept = Vec::new();
        let mut random = 1_u32;
        for round in 0_usize..300 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value: Vec<u8> = match round % 3 {
                0 => value(&random.to_string()),
                1 => vec![b'x'; round],
                _ => (0..round)
                    .map(|at| (random >> (at % 24)).to_le_bytes()[0])
                    .collect(),
            };
            let key = format!("/class/{}/{round}", round % 100);
            let mut packer = Packer::new(&shapes);
            let packed = packer.pack(key.as_bytes(), &value);
            assert_eq!(
                packer.unpack(packed.shape, &packed.bytes).unwrap(),
                value,
                "{key}"
            );
            packer
                .finish()
                .into_iter()
                .for_each(|shape| shapes.add(shape));
            kept.push((key, value, packed));
        }
        assert_eq!(shapes.len(), MOST_SHAPES);
        for (key, value, packed) in kept {
            assert_eq!(
                shapes.unpack(packed.shape, &packed.bytes).unwrap(),
                value,
                "{key}"
            );
            assert!(packed.bytes.len() <= value.len(), "{key}");
        }
    }

    #[test]
    fn values_of_a_class_take_a_fraction_of_their_size() {
        let mut shapes = Shapes::default();
        let mut packer = Packer::new(&shapes);
        packer.pack(b"/repo/Function/first", &value("first"));
        packer
            .finish()
            .into_iter()
            .for_each(|shape| shapes.add(shape));
        let mut packer = Packer::new(&shapes);
        let packed = packer.pack(b"/repo/Function/second", &value("second"));
        assert!(packer.finish().is_empty(), "the class has its shape");
        assert!(packed.bytes.len() * 10 < value("second").len());
    }

    #[test]
    fn what_is_damaged_is_refused_and_takes_no_memory() {
        let mut shapes = Shapes::default();
        let mut packer = Packer::new(&shapes);
        let packed = packer.pack(b"/a/b/c", &value("v"));
        packer
            .finish()
            .into_iter()
            .for_each(|shape| shapes.add(shape));
        let mut huge = packed.bytes.to_vec();
        huge[3] = 0xff;
        for (shape, bytes) in [
            (9, packed.bytes.to_vec()),
            (packed.shape, packed.bytes[..5].to_vec()),
            (packed.shape, vec![1]),
            (packed.shape, huge),
        ] {
            assert!(shapes.unpack(shape, &bytes).is_err());
        }
    }
}
