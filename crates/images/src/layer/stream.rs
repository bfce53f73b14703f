//! From a blob to a layer: hash, inflate, hash again, write, in two threads.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::entry::{Place, normal, place};
use super::tape::{Head, Input, Kind, Tape, TapeError};
use super::tree::{self, Tree};
use crate::digest::Hasher;
use crate::{Digest, ImageError};

/// A piece of the inflated stream: large enough that switching threads costs nothing.
const PIECE: usize = 256 << 10;

/// Pieces between the two threads.
const PIECES: usize = 4;

/// The largest window of a zstd stream, as a power of two: 128 MiB would be the format's usual limit;
/// tools that write images stay at 8 MiB.
const LARGEST_WINDOW: u32 = 25;

/// How a blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the first bytes, which tell it better than what descriptors declare.
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// A blob and what is promised of it.
pub(crate) struct Source<R> {
    /// The bytes as they come.
    pub(crate) bytes: R,
    /// Digest and length of these bytes; an archive does not say them.
    pub(crate) blob: Option<(Digest, u64)>,
    /// The digest of what they inflate to.
    pub(crate) diff_id: Digest,
}

/// What a layer may be.
#[derive(Debug)]
pub(crate) struct Limits<'a> {
    /// Inflated bytes of the whole image so far.
    pub(crate) inflated: &'a AtomicU64,
    /// The most of them.
    pub(crate) most_inflated: u64,
    /// The most entries of one layer.
    pub(crate) most_entries: u64,
    /// Inflated bytes of this layer so far, for those who watch.
    pub(crate) progress: &'a AtomicU64,
}

/// A layer that is written and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// What it takes on disk.
    pub(crate) bytes: u64,
    /// The length of its tar stream.
    pub(crate) inflated: u64,
    /// It hides everything below.
    pub(crate) opaque: bool,
}

/// Unpacks a layer into an empty directory. Blocks; ends early only when the source does.
///
/// # Errors
///
/// [`ImageError`]; the directory then holds anything.
pub(crate) fn unpack<R: Read + Send>(
    source: Source<R>,
    directory: OwnedFd,
    limits: &Limits<'_>,
) -> Result<Unpacked, ImageError> {
    let Source {
        bytes,
        blob,
        diff_id,
    } = source;
    let (full, filled) = sync_channel(PIECES);
    let (empty, emptied) = sync_channel(PIECES);
    for _ in 0..PIECES {
        // There is room for all of them.
        let _ = empty.send(Vec::with_capacity(PIECE));
    }
    thread::scope(|scope| {
        let inflater = thread::Builder::new()
            .name("layer-inflate".to_owned())
            .spawn_scoped(scope, move || inflate(bytes, blob, &emptied, &full));
        let pieces = Pieces::new(filled, empty, limits);
        let written = write(pieces, directory, diff_id, limits);
        let inflated = match inflater {
            Ok(thread) => thread.join().unwrap_or_else(|_| {
                Err(Failure::Read(io::Error::other("the inflating thread died")))
            }),
            Err(error) => Err(Failure::Read(error)),
        };
        match (inflated, written) {
            // What is wrong with the blob explains what is wrong with its contents.
            (Err(Failure::Image(error)), _) => Err(error),
            (Err(Failure::Read(error)), _) => Err(unreadable(diff_id, &error)),
            // The reader stopped because the writer did.
            (Err(Failure::Left) | Ok(()), written) => written,
        }
    })
}

fn unreadable(diff_id: Digest, error: &io::Error) -> ImageError {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ImageError>())
    {
        // The download's own reason.
        Some(reason) => reason.clone(),
        None => ImageError::malformed(format!("layer {diff_id}"), error.to_string()),
    }
}

enum Failure {
    Image(ImageError),
    Read(io::Error),
    /// Nobody takes what is inflated.
    Left,
}

/// The first thread: verifies the blob and inflates it.
fn inflate<R: Read>(
    bytes: R,
    blob: Option<(Digest, u64)>,
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<Vec<u8>>,
) -> Result<(), Failure> {
    let mut input = Counted {
        input: bytes,
        hasher: blob.is_some().then(Hasher::new),
        length: 0,
        most: blob.map_or(u64::MAX, |(_, length)| length),
    };
    let passed = pass_on(&mut input, empty, full);
    if let Some((_, declared)) = blob
        && input.length > declared
    {
        return Err(Failure::Image(ImageError::Length {
            what: "the blob of a layer".to_owned(),
            declared,
        }));
    }
    passed?;
    let Some((expected, declared)) = blob else {
        return Ok(());
    };
    if input.length < declared {
        return Err(Failure::Image(ImageError::Length {
            what: format!("blob {expected}"),
            declared,
        }));
    }
    let found = input.hasher.map_or(expected, Hasher::finish);
    if found != expected {
        return Err(Failure::Image(ImageError::Digest {
            what: "the blob of a layer".to_owned(),
            expected,
            found,
        }));
    }
    Ok(())
}

fn pass_on<R: Read>(
    input: &mut Counted<R>,
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<Vec<u8>>,
) -> Result<(), Failure> {
    let mut buffered = io::BufReader::with_capacity(128 << 10, &mut *input);
    let mut inflating = inflated(&mut buffered).map_err(Failure::Read)?;
    copy(&mut *inflating, empty, full)?;
    drop(inflating);
    // A decoder may stop before the blob does; the digest is of all of it.
    io::copy(&mut buffered, &mut io::sink())
        .map(drop)
        .map_err(Failure::Read)
}

/// Whether a stream that begins like this is compressed.
pub(crate) fn is_compressed(start: &[u8]) -> bool {
    Compression::of(start) != Compression::None
}

/// What a stream inflates to; itself, where it is not compressed.
pub(crate) fn inflated<'a>(mut input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match Compression::of(input.fill_buf()?) {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(LARGEST_WINDOW)?;
            Box::new(decoder)
        }
    })
}

fn copy(
    input: &mut dyn Read,
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<Vec<u8>>,
) -> Result<(), Failure> {
    loop {
        let mut piece = empty.recv().map_err(|_| Failure::Left)?;
        piece.clear();
        let read = input.take(PIECE as u64).read_to_end(&mut piece);
        read.map_err(Failure::Read)?;
        let last = piece.is_empty();
        full.send(piece).map_err(|_| Failure::Left)?;
        if last {
            return Ok(());
        }
    }
}

/// The blob's bytes on their way: hashed, counted, and never more than declared.
struct Counted<R> {
    input: R,
    hasher: Option<Hasher>,
    length: u64,
    most: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.length += length as u64;
        if self.length > self.most {
            return Err(io::Error::other("the blob is longer than declared"));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..length]);
        }
        Ok(length)
    }
}

/// The inflated stream as the second thread sees it: hashed and counted when a piece arrives.
struct Pieces<'a> {
    filled: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
    hasher: Hasher,
    length: u64,
    limits: &'a Limits<'a>,
}

/// The image is larger than it may be.
#[derive(Debug, thiserror::Error)]
#[error("the image is too large")]
struct TooLarge;

fn is_too_large(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner
        .and_then(|inner| inner.downcast_ref::<TooLarge>())
        .is_some()
}

impl<'a> Pieces<'a> {
    fn new(filled: Receiver<Vec<u8>>, empty: SyncSender<Vec<u8>>, limits: &'a Limits<'a>) -> Self {
        Self {
            filled,
            empty,
            piece: Vec::new(),
            at: 0,
            ended: false,
            hasher: Hasher::new(),
            length: 0,
            limits,
        }
    }

    fn advance(&mut self) -> io::Result<()> {
        // The reader of an ended stream is gone, and needs no more buffers.
        let _ = self.empty.try_send(std::mem::take(&mut self.piece));
        self.at = 0;
        self.piece = self
            .filled
            .recv()
            .map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let length = self.piece.len() as u64;
        self.ended = length == 0;
        self.length += length;
        self.limits.progress.fetch_add(length, Ordering::Relaxed);
        let before = self.limits.inflated.fetch_add(length, Ordering::Relaxed);
        if before + length > self.limits.most_inflated {
            return Err(io::Error::other(TooLarge));
        }
        self.hasher.update(&self.piece);
        Ok(())
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            self.advance()?;
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}

impl Input for &mut Pieces<'_> {}

/// The second thread: verifies the stream and writes its entries.
fn write(
    mut pieces: Pieces<'_>,
    directory: OwnedFd,
    diff_id: Digest,
    limits: &Limits<'_>,
) -> Result<Unpacked, ImageError> {
    let mut tree = Tree::new(directory);
    let mut tape = Tape::new(&mut pieces);
    let refused = |entry: &[u8], reason: String| ImageError::Entry {
        layer: diff_id,
        entry: String::from_utf8_lossy(entry).chars().take(300).collect(),
        reason,
    };
    let broken = |error: TapeError| match error {
        TapeError::Read(error) if is_too_large(&error) => ImageError::TooLarge {
            what: "unpacked layers",
            limit_mib: limits.most_inflated >> 20,
        },
        TapeError::Read(error) => {
            ImageError::malformed(format!("layer {diff_id}"), error.to_string())
        }
        TapeError::Malformed(reason) => ImageError::malformed(format!("layer {diff_id}"), reason),
    };
    let mut entries = 0;
    while let Some(head) = tape.next().map_err(broken)? {
        entries += 1;
        if entries > limits.most_entries {
            let most = limits.most_entries;
            let reason =
                format!("the layer has more than {most} entries (images.max_layer_entries)");
            return Err(refused(&head.path, reason));
        }
        match put(&mut tree, &mut tape, &head) {
            Ok(()) => {}
            Err(Refusal::Rule(reason)) => return Err(refused(&head.path, reason.to_owned())),
            Err(Refusal::System(error)) => return Err(of_system(&error, &head.path, &refused)),
            Err(Refusal::Stream(error)) => return Err(broken(TapeError::Read(error))),
        }
    }
    tape.drain()
        .map_err(|error| broken(TapeError::Read(error)))?;
    let inflated = pieces.length;
    let found = pieces.hasher.finish();
    if found != diff_id {
        return Err(ImageError::Digest {
            what: "an unpacked layer".to_owned(),
            expected: diff_id,
            found,
        });
    }
    let finished = tree.finish();
    let (bytes, opaque) = finished.map_err(|error| refused(b"", error.to_string()))?;
    Ok(Unpacked {
        bytes,
        inflated,
        opaque,
    })
}

/// A full disk is our matter; a name that is too long or a parent that is no directory is the
/// layer's.
fn of_system(
    error: &io::Error,
    path: &[u8],
    refused: &impl Fn(&[u8], String) -> ImageError,
) -> ImageError {
    match error.kind() {
        io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        | io::ErrorKind::ReadOnlyFilesystem => {
            let path = String::from_utf8_lossy(path).into_owned();
            let copy = io::Error::new(error.kind(), error.to_string());
            ImageError::storage("write a file of a layer", path.as_ref())(copy)
        }
        _ => refused(path, error.to_string()),
    }
}

/// Why an entry is not written.
enum Refusal {
    Rule(&'static str),
    System(io::Error),
    Stream(io::Error),
}

impl From<&'static str> for Refusal {
    fn from(reason: &'static str) -> Self {
        Self::Rule(reason)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

fn put<R: Input>(tree: &mut Tree, tape: &mut Tape<R>, head: &Head) -> Result<(), Refusal> {
    let path = normal(&head.path)?;
    match place(&path)? {
        Place::Nothing => {}
        Place::Opaque { parent } => tree.hide_lower(parent)?,
        Place::Whiteout { parent, name } => tree.whiteout(parent, name)?,
        Place::Root if head.kind == Kind::Directory => tree.directory(b"", head)?,
        Place::Root => return Err("it would replace the layer's root".into()),
        Place::Plain { parent, name } => match head.kind {
            Kind::Directory => tree.directory(&path, head)?,
            Kind::File => {
                let file = tree.file(parent, name, head)?;
                fill(&file, tape)?;
                tree.complete(&file, head)?;
            }
            Kind::Symlink => tree.symlink(parent, name, head)?,
            Kind::HardLink => {
                let target = normal(&head.link)?;
                match place(&target)? {
                    Place::Plain { .. } if target == path => {}
                    Place::Plain { .. } => tree.hard_link(parent, name, &target)?,
                    _ => return Err("it links to something that is no file".into()),
                }
            }
            Kind::Pipe => tree.pipe(parent, name, head)?,
            // Containers get a `/dev` of their own, which hides the image's.
            Kind::Device if path.starts_with(b"dev/") => {}
            Kind::Device => return Err("it is a device".into()),
        },
    }
    Ok(())
}

fn fill<R: Input>(file: &File, tape: &mut Tape<R>) -> Result<(), Refusal> {
    loop {
        let piece = tape.data().map_err(Refusal::Stream)?;
        if piece.is_empty() {
            return Ok(());
        }
        let length = piece.len();
        tree::write(file, piece)?;
        tape.consume(length);
    }
}
