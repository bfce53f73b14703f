//! Everything that a store holds, as one file that any store can take.
//!
//! A file is text, one JSON object a line: a head with the format's number, a line for each key, and
//! an end with the number of lines and the SHA-256 of all before it. Keys and values that are not
//! text are in Base64. Lines count in their order: what changed while the keys were written down
//! follows them as changes, so that the whole is the store at one revision.
//!
//! Revisions are not carried over: a store numbers its own writes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Seek, SeekFrom, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Change, Error, Op, Revision, Store, Txn};

/// The form that is written; a larger one is not read.
const FORMAT: u32 = 1;

/// Keys that are read at once.
const PAGE: usize = 1000;

/// What one transaction of an import writes at most; etcd takes 128 operations and 1.5 MiB.
const GROUP_OPS: usize = 100;
const GROUP_BYTES: usize = 1 << 20;

/// The longest line: a value of the largest transaction, in Base64, and some more.
const LONGEST_LINE: u64 = 4 << 20;

/// What only means something as long as the platform that wrote it runs.
const FLEETING: [&str; 2] = ["/bugle/members/", "/bugle/running/"];

/// Why a store was not written down, or a file not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] Error),
    /// The file cannot be read or written.
    #[error("the file cannot be used")]
    Io(#[from] io::Error),
    /// The file is not what an export writes, or was damaged.
    #[error("line {line} is damaged ({what}); nothing was changed")]
    Damaged {
        /// The line, from 1.
        line: u64,
        /// What was found.
        what: String,
    },
    /// The file was written by a newer version of the program.
    #[error("the export has format {found}, this program knows up to {known}; use a newer bugle")]
    NewerFormat {
        /// The format of the file.
        found: u32,
        /// The newest format that is known here.
        known: u32,
    },
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The number of the format.
    bugle_export: u32,
    /// A word that names the key with which values are encrypted; the key is not in the file.
    pub key: String,
}

impl Head {
    /// The head of an export whose values are encrypted with this key.
    pub fn new(key: String) -> Self {
        Self {
            bugle_export: FORMAT,
            key,
        }
    }
}

/// A key and its value; none if it was deleted since.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    key: Text,
    value: Option<Text>,
}

/// Bytes in a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Encoded { base64: String },
}

impl Text {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Plain(text.to_owned()),
            Err(_) => Self::Encoded {
                base64: STANDARD.encode(bytes),
            },
        }
    }

    fn bytes(self) -> Result<Bytes, String> {
        match self {
            Self::Plain(text) => Ok(text.into()),
            Self::Encoded { base64 } => STANDARD
                .decode(base64)
                .map(Bytes::from)
                .map_err(|error| error.to_string()),
        }
    }
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    lines: u64,
    sha256: String,
}

/// What was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Lines with a key.
    pub lines: u64,
    /// The revision at which the store was as it is in the file.
    pub revision: Revision,
}

/// Writes everything down.
///
/// # Errors
///
/// [`ArchiveError::Store`] or [`ArchiveError::Io`]; what was written by then is no whole export.
pub async fn export(
    store: &dyn Store,
    head: &Head,
    to: &mut dyn Write,
) -> Result<Exported, ArchiveError> {
    let mut writer = Writer {
        to,
        sum: Sha256::new(),
        lines: 0,
    };
    writer.put(head)?;
    let begin = store.revision().await?;
    let mut after: Option<Bytes> = None;
    loop {
        let range = store.range(b"", after.as_deref(), PAGE).await?;
        for item in &range.items {
            writer.line(&item.key, Some(&item.value))?;
        }
        after = range.items.last().map(|item| item.key.clone());
        if !range.more {
            break;
        }
    }
    let revision = store.revision().await?;
    if revision > begin {
        let mut watch = store.watch(&[b""], begin).await?;
        loop {
            let batch = watch.next().await?;
            for change in &batch.changes {
                match change {
                    Change::Put(item) => writer.line(&item.key, Some(&item.value))?,
                    Change::Delete { key, .. } => writer.line(key, None)?,
                }
            }
            if batch.revision >= revision {
                break;
            }
        }
    }
    let lines = writer.finish()?;
    Ok(Exported { lines, revision })
}

struct Writer<'a> {
    to: &'a mut dyn Write,
    sum: Sha256,
    lines: u64,
}

impl Writer<'_> {
    fn line(&mut self, key: &[u8], value: Option<&Bytes>) -> Result<(), io::Error> {
        if FLEETING
            .iter()
            .any(|prefix| key.starts_with(prefix.as_bytes()))
        {
            return Ok(());
        }
        self.lines += 1;
        self.put(&Line {
            key: Text::of(key),
            value: value.map(|value| Text::of(value)),
        })
    }

    fn put(&mut self, line: &impl Serialize) -> Result<(), io::Error> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.sum.update(&text);
        self.to.write_all(&text)
    }

    fn finish(mut self) -> Result<u64, io::Error> {
        let sum = self.sum.clone().finalize();
        let end = End {
            lines: self.lines,
            sha256: hex(&sum),
        };
        self.put(&end)?;
        self.to.flush()?;
        Ok(self.lines)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What taking a file does to a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys that are not there.
    pub new: u64,
    /// Keys that are there with the same value.
    pub same: u64,
    /// Keys that are there with another value, or that the file says were deleted.
    pub other: u64,
}

/// Reads a whole file without changing anything: whether it is an export and undamaged, and how the
/// store differs from it.
///
/// # Errors
///
/// [`ArchiveError`].
pub async fn compare<F: BufRead + Seek>(
    store: &dyn Store,
    file: &mut F,
) -> Result<(Head, Difference), ArchiveError> {
    let begin = file.stream_position()?;
    let last = last_of_changed(file)?;
    file.seek(SeekFrom::Start(begin))?;
    let mut reader = Reader::new(file)?;
    let mut difference = Difference::default();
    while let Some((key, value)) = reader.next()? {
        if last.get(&key).is_some_and(|last| *last != reader.number) {
            continue;
        }
        let found = store.get(&key).await?.map(|item| item.value);
        let count = match (found, value) {
            (None, Some(_)) => &mut difference.new,
            (None, None) => &mut difference.same,
            (Some(found), Some(value)) if found == value => &mut difference.same,
            (Some(_), _) => &mut difference.other,
        };
        *count += 1;
    }
    Ok((reader.head, difference))
}

/// The keys that changed while the export was written, with the line that counts: their last one. Keys that are there
/// come in their order, each once; what follows out of this order are changes.
fn last_of_changed(file: &mut dyn BufRead) -> Result<BTreeMap<Bytes, u64>, ArchiveError> {
    let mut reader = Reader::new(file)?;
    let (mut changed, mut highest) = (BTreeMap::new(), Bytes::new());
    let mut in_order = true;
    while let Some((key, value)) = reader.next()? {
        in_order &= value.is_some() && key > highest;
        if in_order {
            highest = key;
        } else {
            changed.insert(key, reader.number);
        }
    }
    Ok(changed)
}

/// Writes what a file holds into a store, whatever is there; other keys stay. Ask [`compare`] first.
/// What was written stays when it fails on the way; doing it again is harmless.
///
/// # Errors
///
/// [`ArchiveError`].
pub async fn import(store: &dyn Store, file: &mut dyn BufRead) -> Result<u64, ArchiveError> {
    let mut reader = Reader::new(file)?;
    let mut group = Group::default();
    while let Some((key, value)) = reader.next()? {
        if !group.has_room(&key, value.as_ref()) {
            group.write(store).await?;
        }
        group.add(key, value);
    }
    group.write(store).await?;
    Ok(reader.lines)
}

/// Writes that go together.
#[derive(Default)]
struct Group {
    ops: Vec<Op>,
    keys: BTreeSet<Bytes>,
    bytes: usize,
}

impl Group {
    fn has_room(&self, key: &Bytes, value: Option<&Bytes>) -> bool {
        let bytes = self.bytes + key.len() + value.map_or(0, Bytes::len);
        // A transaction writes a key once.
        self.ops.len() < GROUP_OPS && bytes <= GROUP_BYTES && !self.keys.contains(key)
    }

    fn add(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.keys.insert(key.clone());
        self.ops.push(match value {
            Some(value) => Op::Put(key, value),
            None => Op::Delete(key),
        });
    }

    async fn write(&mut self, store: &dyn Store) -> Result<(), Error> {
        let Self { ops: then, .. } = std::mem::take(self);
        if then.is_empty() {
            return Ok(());
        }
        let when = Vec::new();
        store.txn(Txn { when, then }).await.map(|_| ())
    }
}

/// Reads a file, one line after the other, and knows at its end whether it was whole.
struct Reader<'a> {
    file: &'a mut dyn BufRead,
    head: Head,
    sum: Sha256,
    number: u64,
    lines: u64,
}

impl<'a> Reader<'a> {
    fn new(file: &'a mut dyn BufRead) -> Result<Self, ArchiveError> {
        let mut reader = Self {
            file,
            head: Head::new(String::new()),
            sum: Sha256::new(),
            number: 0,
            lines: 0,
        };
        let first = reader.read()?;
        let head: Head = serde_json::from_slice(&first)
            .map_err(|_| reader.damaged("this is not an export of bugle"))?;
        if head.bugle_export > FORMAT {
            return Err(ArchiveError::NewerFormat {
                found: head.bugle_export,
                known: FORMAT,
            });
        }
        reader.sum.update(&first);
        reader.head = head;
        Ok(reader)
    }

    fn damaged(&self, what: impl Into<String>) -> ArchiveError {
        ArchiveError::Damaged {
            line: self.number,
            what: what.into(),
        }
    }

    fn read(&mut self) -> Result<Vec<u8>, ArchiveError> {
        use io::Read as _;
        self.number += 1;
        let mut line = Vec::new();
        let mut file = (&mut *self.file).take(LONGEST_LINE);
        file.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(self.damaged("the file ends here, or the line is too long"));
        }
        Ok(line)
    }

    /// The next key with its value, or nothing at a proper end.
    fn next(&mut self) -> Result<Option<(Bytes, Option<Bytes>)>, ArchiveError> {
        let text = self.read()?;
        let Ok(Line { key, value }) = serde_json::from_slice::<Line>(&text) else {
            return self.end(&text).map(|()| None);
        };
        self.sum.update(&text);
        self.lines += 1;
        let bytes = |text: Text| text.bytes().map_err(|what| self.damaged(what));
        Ok(Some((bytes(key)?, value.map(bytes).transpose()?)))
    }

    fn end(&mut self, text: &[u8]) -> Result<(), ArchiveError> {
        let end: End = serde_json::from_slice(text)
            .map_err(|_| self.damaged("it is neither a key nor the end"))?;
        let sum = hex(&self.sum.clone().finalize());
        if end.lines != self.lines || end.sha256 != sum {
            return Err(self.damaged("the checksum of the lines before it is another"));
        }
        Ok(())
    }
}
