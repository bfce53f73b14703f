//! Zip.
//!
//! The directory at the end of the file is what counts, and each entry must say the same in its own
//! place: names, sizes and flags that differ, entries that share bytes, and entries that the
//! directory does not know are refused, because another program would unpack something else.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::Error;
use super::folder::{Executable, Folder};
use super::path::EntryPath;

/// The most bytes of one entry in the directory that are read on average; some 100 are usual.
const DIRECTORY_ENTRY: u64 = 2 << 10;

/// What the search for the directory may read beside it.
const SEARCH: u64 = 1 << 20;

/// Entries that are worth a thread.
const ENTRIES_PER_THREAD: usize = 50;

/// The most threads; more only wait for the same file system.
const MAX_THREADS: usize = 4;

/// The longest target of a link.
const MAX_LINK: u64 = 1024;

/// The kind of a file in the mode bits of Unix.
const KIND: u32 = 0o170_000;
const KIND_FILE: u32 = 0o100_000;
const KIND_DIRECTORY: u32 = 0o040_000;
const KIND_LINK: u32 = 0o120_000;

/// The length of the record at the end of a zip, without its comment.
const END_RECORD: u64 = 22;

/// The lengths of what an archive with numbers of 64 bits has before it.
const LARGE_RECORD: u64 = 56;
const LOCATOR: u64 = 20;

/// How much a [`Window`] reads ahead: the records of a directory are short and next to each other.
const BLOCK: usize = 16 << 10;

/// A reader of a file with a place of its own, so that several can read the same file.
#[derive(Clone, Debug)]
pub(super) struct Window<'a> {
    file: &'a File,
    length: u64,
    position: u64,
    /// How much it may read; an archive's directory that lies about its length meets this.
    budget: u64,
    /// What was read ahead, and where it is.
    block: Vec<u8>,
    block_at: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a File, length: u64) -> Self {
        Self {
            file,
            length,
            position: 0,
            budget: u64::MAX,
            block: Vec::new(),
            block_at: 0,
        }
    }

    /// What has been read ahead of the present place.
    fn ahead(&self) -> &[u8] {
        let skip = self.position.checked_sub(self.block_at);
        let skip = skip.and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.block.get(skip..))
            .unwrap_or_default()
    }

    fn read_block(&mut self, left: u64) -> io::Result<()> {
        let length = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        self.block.resize(length, 0);
        let read = self.file.read_at(&mut self.block, self.position)?;
        self.block.truncate(read);
        self.block_at = self.position;
        Ok(())
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length.saturating_sub(self.position);
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = if most >= BLOCK {
            self.file.read_at(&mut buffer[..most], self.position)?
        } else {
            if self.ahead().is_empty() {
                self.read_block(left)?;
            }
            let ahead = self.ahead();
            let read = ahead.len().min(most);
            buffer[..read].copy_from_slice(&ahead[..read]);
            read
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += read as u64;
        let budget = self.budget.checked_sub(read as u64);
        let too_long = || io::Error::new(io::ErrorKind::InvalidData, "its directory is too long");
        self.budget = budget.ok_or_else(too_long)?;
        Ok(read)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::End(offset) => (self.length, offset),
            SeekFrom::Current(offset) => (self.position, offset),
        };
        let position = base.checked_add_signed(offset);
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

type Zip<'a> = ZipArchive<Window<'a>>;

pub(super) fn unpack(file: &File, bytes: u64, folder: &Folder) -> Result<(), Error> {
    let mut archive = open(file, bytes, folder.limits().max_files)?;
    let entries = plan(&mut archive, folder)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads
        .min(MAX_THREADS)
        .min(entries.len() / ENTRIES_PER_THREAD);
    let work = Work {
        archive,
        entries,
        next: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| work.run(folder));
        }
        work.run(folder);
    });
    work.error.into_inner().map_or(Ok(()), Err)
}

/// Reads the directory and holds it against the entries.
fn open(file: &File, bytes: u64, max_files: u64) -> Result<Zip<'_>, Error> {
    let mut window = Window::new(file, bytes);
    window.budget = max_files
        .saturating_mul(DIRECTORY_ENTRY)
        .saturating_add(SEARCH);
    let config = Config {
        archive_offset: ArchiveOffset::Known(0),
    };
    let mut archive = ZipArchive::with_config(config, window).map_err(of_zip)?;
    let files = archive.len() as u64;
    if files > max_files {
        return Err(Error::TooManyFiles {
            files,
            max: max_files,
        });
    }
    if !is_all(&archive, file, bytes)? {
        return Err(Error::damaged(
            "there is something before, behind or between its parts",
        ));
    }
    if archive.has_duplicate_names() {
        return Err(Error::damaged("it has a name twice"));
    }
    archive.validate_header_consistency().map_err(of_zip)?;
    Ok(archive)
}

/// Whether the entries begin with the file, and the directory lies between them and the record
/// that ends the file. A file that is two archives, one for each kind of reader, is none of them.
fn is_all(archive: &Zip<'_>, file: &File, bytes: u64) -> Result<bool, Error> {
    let directory = archive.central_directory_start();
    let mut first = directory;
    for index in 0..archive.len() {
        first = first.min(archive.by_index_data(index).map_err(of_zip)?.header_start());
    }
    let comment = archive.comment().len() as u64;
    let Some(end) = bytes.checked_sub(END_RECORD + comment) else {
        return Ok(false);
    };
    let declared = declared_directory(file, end)?;
    Ok(first == 0 && archive.offset() == 0 && declared == Some(directory))
}

/// Where the directory begins, as the record at `end` says and, if the archive has them, those of
/// 64 bits before it; nothing unless it reaches up to these records.
fn declared_directory(file: &File, end: u64) -> Result<Option<u64>, Error> {
    let Some(record) = record(file, end, END_RECORD, b"PK\x05\x06")? else {
        return Ok(None);
    };
    let locator = end.checked_sub(LOCATOR);
    let locator = match locator {
        Some(place) => {
            self::record(file, place, LOCATOR, b"PK\x06\x07")?.map(|found| (place, found))
        }
        None => None,
    };
    let Some((locator_at, locator)) = locator else {
        let (size, start) = (number(&record[12..16]), number(&record[16..20]));
        return Ok((start.checked_add(size) == Some(end)).then_some(start));
    };
    let large_at = number(&locator[8..16]);
    let Some(large) = self::record(file, large_at, LARGE_RECORD, b"PK\x06\x06")? else {
        return Ok(None);
    };
    let large_end = number(&large[4..12]).checked_add(large_at + 12);
    let (size, start) = (number(&large[40..48]), number(&large[48..56]));
    let whole = start.checked_add(size) == Some(large_at) && large_end == Some(locator_at);
    Ok(whole.then_some(start))
}

/// The record at `place`, if it is one of this kind.
fn record(
    file: &File,
    place: u64,
    length: u64,
    signature: &[u8],
) -> Result<Option<Vec<u8>>, Error> {
    let end = place.checked_add(length);
    let bytes = file.metadata().map_err(Error::read)?.len();
    let Some(end) = end.filter(|end| *end <= bytes) else {
        return Ok(None);
    };
    let mut record = Vec::new();
    let mut window = Window::new(file, end);
    window.position = place;
    window.read_to_end(&mut record).map_err(Error::read)?;
    Ok(record.starts_with(signature).then_some(record))
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn of_zip(error: ZipError) -> Error {
    match error {
        ZipError::Io(error) => Error::read(error),
        ZipError::CompressionMethodNotSupported(_) => Error::Unsupported {
            why: "it is compressed in a way other than deflate; make it with `zip -Z deflate`",
        },
        ZipError::InvalidPassword => encrypted(),
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => encrypted(),
        other => Error::damaged(&other.to_string()),
    }
}

fn encrypted() -> Error {
    Error::Unsupported {
        why: "it is encrypted; make it without a password",
    }
}

/// A file that is to be unpacked.
struct Planned {
    index: usize,
    path: EntryPath,
    executable: Executable,
    size: u64,
}

/// Checks every entry, makes the directories, takes note of the links, and says which files are
/// left. Nothing that the archive says about sizes is believed, but a lie that is too large ends it
/// here.
fn plan(archive: &mut Zip<'_>, folder: &Folder) -> Result<Vec<Planned>, Error> {
    let mut files = Vec::with_capacity(archive.len());
    let mut declared: u64 = 0;
    for index in 0..archive.len() {
        let data = archive.by_index_data(index).map_err(of_zip)?;
        if data.encrypted() {
            return Err(encrypted());
        }
        let Some(path) = EntryPath::parse(data.name_raw())? else {
            continue;
        };
        let kind = data.unix_mode().map_or(0, |mode| mode & KIND);
        let size = data.size();
        if data.name_raw().ends_with(b"/") || kind == KIND_DIRECTORY {
            if size != 0 {
                return Err(path.refuse("it is a directory with content"));
            }
            folder.directory(&path)?;
            continue;
        }
        if let Some(parent) = path.parent() {
            folder.directory(&parent)?;
        }
        match kind {
            0 | KIND_FILE => {}
            KIND_LINK => {
                let target = link(archive, index, &path)?;
                folder.link(path, &target)?;
                continue;
            }
            _ => return Err(path.refuse("it is neither a file nor a directory nor a link")),
        }
        let method = data.compression();
        if !matches!(
            method,
            CompressionMethod::Stored | CompressionMethod::Deflated
        ) {
            return Err(of_zip(ZipError::CompressionMethodNotSupported(0)));
        }
        declared = declared.saturating_add(size);
        let max = folder.limits().max_unpacked_bytes;
        if declared > max {
            return Err(Error::UnpackedTooLarge {
                max,
                limit: "max_unpacked_bytes",
            });
        }
        // An archive from a system without such bits has a mode that was made up.
        let executable = match data.unix_mode() {
            Some(mode) if data.system() == zip::System::Unix => Executable::of_mode(mode),
            _ => Executable::ByContent,
        };
        files.push(Planned {
            index,
            path,
            executable,
            size,
        });
    }
    Ok(files)
}

fn link(archive: &mut Zip<'_>, index: usize, path: &EntryPath) -> Result<Vec<u8>, Error> {
    let mut target = Vec::new();
    let entry = archive.by_index(index).map_err(of_zip)?;
    let read = entry.take(MAX_LINK + 1).read_to_end(&mut target);
    if read.map_err(Error::read)? as u64 > MAX_LINK {
        return Err(path.refuse("it is a link to a name longer than 1024 bytes"));
    }
    Ok(target)
}

/// Files that several threads unpack, whoever is free the next one.
struct Work<'a> {
    archive: Zip<'a>,
    entries: Vec<Planned>,
    next: AtomicUsize,
    stopped: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Work<'_> {
    fn run(&self, folder: &Folder) {
        let mut archive = self.archive.clone();
        while !self.stopped.load(Relaxed) {
            let Some(entry) = self.entries.get(self.next.fetch_add(1, Relaxed)) else {
                return;
            };
            if let Err(error) = file(&mut archive, entry, folder) {
                self.stopped.store(true, Relaxed);
                self.error.lock().get_or_insert(error);
            }
        }
    }
}

fn file(archive: &mut Zip<'_>, planned: &Planned, folder: &Folder) -> Result<(), Error> {
    let mut entry = archive.by_index(planned.index).map_err(of_zip)?;
    let written = folder.file(&planned.path, planned.executable, &mut entry)?;
    if written != planned.size {
        return Err(planned.path.refuse("it is not as long as the archive says"));
    }
    Ok(())
}
