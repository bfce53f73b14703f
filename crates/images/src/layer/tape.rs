//! Reads the headers of a tar stream, one entry after the other.
//!
//! The crate `tar` reads the fields of a header; the walk from header to header is here because a
//! hostile stream may declare names of any length, and the crate would hold them in memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use tar::{EntryType, Header};

/// A block of a tar stream.
const BLOCK: usize = 512;

/// What the extended header of one entry may take; attributes and long names fit in many times.
const LONGEST_EXTENSION: u64 = 1 << 20;

/// Why a stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TapeError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("{0}")]
    Malformed(&'static str),
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Pipe,
    Device,
}

/// One entry's head. Its data, `size` bytes, follow in the stream.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, u32),
    pub(crate) attributes: Vec<(String, Vec<u8>)>,
}

/// Where a tar stream comes from.
pub(crate) trait Input: BufRead {
    /// Passes over so many bytes.
    fn pass(&mut self, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let buffer = self.fill_buf()?;
            if buffer.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = buffer
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX));
            self.consume(step);
            length -= step as u64;
        }
        Ok(())
    }
}

/// A file knows its way without reading.
impl Input for BufReader<File> {
    fn pass(&mut self, length: u64) -> io::Result<()> {
        let length = i64::try_from(length).map_err(io::Error::other)?;
        self.seek_relative(length)
    }
}

impl Input for &[u8] {}

/// A tar stream and where we are in it.
#[derive(Debug)]
pub(crate) struct Tape<R> {
    input: R,
    /// How many bytes of the stream came before.
    position: u64,
    /// Data and padding of the current entry that nobody has read.
    left: u64,
    padding: u64,
}

/// What extension headers say of the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<(i64, u32)>,
    attributes: Vec<(String, Vec<u8>)>,
}

impl<R: Input> Tape<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            position: 0,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry, or nothing at the stream's end.
    pub(crate) fn next(&mut self) -> Result<Option<Head>, TapeError> {
        self.skip()?;
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = header
                .entry_size()
                .map_err(|_| TapeError::Malformed("an entry has no size"))?;
            self.enter(size)?;
            let kind = match header.entry_type() {
                EntryType::XHeader => {
                    let text = self.extension()?;
                    extensions.read(&text)?;
                    continue;
                }
                EntryType::XGlobalHeader => {
                    // Comments of whoever made the archive.
                    self.extension()?;
                    continue;
                }
                EntryType::GNULongName => {
                    extensions.path = Some(without_end(self.extension()?));
                    continue;
                }
                EntryType::GNULongLink => {
                    extensions.link = Some(without_end(self.extension()?));
                    continue;
                }
                EntryType::Regular | EntryType::Continuous => Kind::File,
                EntryType::Directory => Kind::Directory,
                EntryType::Symlink => Kind::Symlink,
                EntryType::Link => Kind::HardLink,
                EntryType::Fifo => Kind::Pipe,
                EntryType::Char | EntryType::Block => Kind::Device,
                _ => return Err(TapeError::Malformed("it has an entry of an unknown kind")),
            };
            let mut head = extensions.complete(&header, kind, size)?;
            // Only files have data, whatever size a header declares for a link or a directory.
            if head.kind != Kind::File {
                head.size = 0;
            }
            self.enter(head.size)?;
            return Ok(Some(head));
        }
    }

    /// The next piece of the current entry's data; empty at its end.
    pub(crate) fn data(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let buffer = self.input.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        Ok(&buffer[..buffer.len().min(most)])
    }

    /// Takes note that so much of the data was used.
    pub(crate) fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.left -= length as u64;
        self.position += length as u64;
    }

    /// Reads what follows the last entry, so that all bytes of the stream pass by.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut self.input, &mut io::sink()).map(drop)
    }

    fn enter(&mut self, size: u64) -> Result<(), TapeError> {
        let block = BLOCK as u64;
        self.left = size;
        self.padding = size
            .checked_next_multiple_of(block)
            .ok_or(TapeError::Malformed("an entry has an impossible size"))?
            - size;
        Ok(())
    }

    fn skip(&mut self) -> io::Result<()> {
        self.input.pass(self.left)?;
        match self.input.pass(self.padding) {
            // The padding of the very last entry may be missing.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            passed => passed?,
        }
        self.position += self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// Where in the stream the data of the current entry begin, before any of it was read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    fn header(&mut self) -> Result<Option<Header>, TapeError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                length => filled += length,
            }
        }
        self.position += BLOCK as u64;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum = block
            .iter()
            .enumerate()
            // The sum counts its own field as spaces.
            .map(|(at, byte)| {
                u32::from(if (148..156).contains(&at) {
                    b' '
                } else {
                    *byte
                })
            })
            .sum::<u32>();
        if header.cksum().ok() != Some(sum) {
            return Err(TapeError::Malformed("a header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self) -> Result<Vec<u8>, TapeError> {
        if self.left > LONGEST_EXTENSION {
            return Err(TapeError::Malformed(
                "an extended header is larger than 1 MiB",
            ));
        }
        let mut bytes = Vec::new();
        while self.left > 0 {
            let piece = self.data()?;
            let length = piece.len();
            bytes.extend_from_slice(piece);
            self.consume(length);
        }
        self.skip()?;
        Ok(bytes)
    }
}

impl Extensions {
    fn read(&mut self, text: &[u8]) -> Result<(), TapeError> {
        let malformed = || TapeError::Malformed("an extended header cannot be read");
        // The last header counts; many would otherwise add up in memory.
        self.attributes.clear();
        let mut rest = text;
        while !rest.is_empty() {
            let (key, value, after) = record(rest).ok_or_else(malformed)?;
            rest = after;
            let Ok(key) = std::str::from_utf8(key) else {
                continue;
            };
            let number = || {
                std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse::<u64>().ok())
                    .ok_or_else(malformed)
            };
            match key {
                "path" => self.path = Some(value.to_vec()),
                "linkpath" => self.link = Some(value.to_vec()),
                "size" => self.size = Some(number()?),
                "uid" => self.uid = Some(number()?),
                "gid" => self.gid = Some(number()?),
                "mtime" => self.modified = Some(seconds(value).ok_or_else(malformed)?),
                key if key.starts_with("GNU.sparse.") => {
                    return Err(TapeError::Malformed(
                        "it has a sparse file, which is not supported",
                    ));
                }
                key => {
                    if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        self.attributes.push((name.to_owned(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    fn complete(self, header: &Header, kind: Kind, size: u64) -> Result<Head, TapeError> {
        let fields = header.as_old();
        let identity = |extended: Option<u64>, field: &[u8], own: io::Result<u64>| {
            let id = extended.map_or_else(|| number(field, own), Ok)?;
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or(TapeError::Malformed("an entry has an impossible owner"))
        };
        let path = self
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let mode = number(&fields.mode, header.mode().map(u64::from))?;
        let mode = u32::try_from(mode).unwrap_or_default();
        // Archives of old mark directories by the slash at the end alone.
        let kind = match kind {
            Kind::File if path.ends_with(b"/") => Kind::Directory,
            kind => kind,
        };
        Ok(Head {
            kind,
            path,
            link: self
                .link
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default(),
            size: self.size.unwrap_or(size),
            mode: mode & 0o7777,
            uid: identity(self.uid, &fields.uid, header.uid())?,
            gid: identity(self.gid, &fields.gid, header.gid())?,
            modified: match self.modified {
                Some(modified) => modified,
                None => (
                    i64::try_from(number(&fields.mtime, header.mtime())?).unwrap_or(i64::MAX),
                    0,
                ),
            },
            attributes: self.attributes,
        })
    }
}

/// A number of a header. One that was left empty is 0, as other readers take it.
fn number(field: &[u8], read: io::Result<u64>) -> Result<u64, TapeError> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    read.map_err(|_| TapeError::Malformed("a header has a field that is no number"))
}

/// Takes `LENGTH KEY=VALUE\n` apart, where the length counts all of it and the value may be any bytes:
/// key, value, and what follows.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
    let (record, after) = text.split_at_checked(length)?;
    let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((&pair[..equals], &pair[equals + 1..], after))
}

/// Reads `-12.5` as seconds and nanoseconds.
fn seconds(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = &fraction[..fraction.len().min(9)];
    let nanoseconds: u32 = format!("{digits:0<9}").parse().ok()?;
    Some(match (text.starts_with('-'), nanoseconds) {
        (true, 1..) => (whole.checked_sub(1)?, 1_000_000_000 - nanoseconds),
        _ => (whole, nanoseconds),
    })
}

fn without_end(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|byte| *byte == 0);
    name.truncate(end.unwrap_or(name.len()));
    name
}
