//! Unpacks one layer: a tar stream, perhaps compressed, becomes a directory in the format of
//! overlayfs.
//!
//! The stream is never whole anywhere: one thread hashes the compressed bytes and inflates them,
//! another hashes what comes out and writes files, with a handful of buffers between them. The layer
//! counts only after both digests were compared, so whatever was written before that is below a
//! directory that nobody reads and that goes away.
//!
//! Layers are hostile. [`entry`] decides what an entry may be called and may be, [`tape`] bounds what
//! is held in memory, and [`tree`] resolves every path inside of the layer by the kernel's own
//! means.

mod entry;
mod stream;
pub(crate) mod tape;
mod tree;

#[cfg(test)]
mod overlay_tests;
#[cfg(test)]
mod tests;

pub(crate) use stream::{Limits, Source, Unpacked, inflated, is_compressed, unpack};
