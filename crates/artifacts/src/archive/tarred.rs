//! Compressed tar.
//!
//! The crate's own treatment of long names reads them into memory without a bound, and of two sizes
//! of one entry it believes the one that other readers may not. So it gives the raw entries here,
//! and what describes another entry is read with a limit; an entry whose two sizes differ is
//! refused.

use std::io::{self, BufRead as _, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::folder::{Executable, Folder};
use super::path::EntryPath;
use super::{Error, Format};

/// How much is read of a package at once.
const READ: usize = 128 << 10;

/// The longest description of another entry; names have at most 1,024 bytes.
const MAX_DESCRIPTION: u64 = 16 << 10;

/// Memory that a zstd frame may ask for, as a power of two: 32 MiB, what `zstd -20` needs at most.
const MAX_WINDOW: u32 = 25;

/// Descriptions of entries beside the entries themselves, as a multiple of those that are allowed:
/// a name, a link and attributes for each.
const DESCRIPTIONS: u64 = 4;

pub(super) fn unpack(format: Format, reader: impl Read, folder: &Folder) -> Result<(), Error> {
    let counted = BufReader::with_capacity(
        READ,
        Counted {
            reader,
            folder,
            bytes: 0,
        },
    );
    match format {
        Format::TarGz => entries(MultiGzDecoder::new(counted), folder),
        Format::TarZst => {
            let mut decoder = zstd::Decoder::with_buffer(counted).map_err(Error::read)?;
            decoder.window_log_max(MAX_WINDOW).map_err(Error::read)?;
            entries(decoder, folder)
        }
        Format::Zip => Err(Error::UnknownFormat),
    }
}

/// Tells the folder how much has been read, which bounds what may come out.
struct Counted<'a, R> {
    reader: R,
    folder: &'a Folder,
    bytes: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.folder.packed(read as u64);
        self.bytes += read as u64;
        let max = self.folder.limits().max_package_bytes;
        if self.bytes > max {
            let bytes = self.bytes;
            return Err(io::Error::other(Error::PackageTooLarge { bytes, max }));
        }
        Ok(read)
    }
}

fn entries(decoder: impl Read, folder: &Folder) -> Result<(), Error> {
    let mut archive = Archive::new(decoder);
    let mut described = Described::default();
    let mut descriptions = 0;
    for entry in archive.entries().map_err(Error::read)?.raw(true) {
        let mut entry = entry.map_err(Error::read)?;
        if described.take(&mut entry)? {
            descriptions += 1;
            if descriptions > folder.limits().max_files.saturating_mul(DESCRIPTIONS) {
                return Err(Error::TooManyFiles {
                    files: descriptions / DESCRIPTIONS,
                    max: folder.limits().max_files,
                });
            }
            continue;
        }
        place(&mut entry, std::mem::take(&mut described), folder)?;
    }
    if !described.is_empty() {
        return Err(Error::damaged("it ends after the description of an entry"));
    }
    end(archive.into_inner())
}

/// After the last entry there are zeros and nothing else.
fn end(decoder: impl Read) -> Result<(), Error> {
    let mut rest = BufReader::with_capacity(READ, decoder);
    // `tar` fills up to a block of 10 KiB, some to 1 MiB.
    let mut left = 2 << 20;
    loop {
        let bytes = rest.fill_buf().map_err(Error::read)?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|byte| *byte != 0) || bytes.len() > left {
            return Err(Error::damaged("there is something after its end"));
        }
        let read = bytes.len();
        left -= read;
        rest.consume(read);
    }
}

/// What entries before it say about the next one.
#[derive(Default)]
struct Described {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Described {
    fn is_empty(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.size.is_none()
    }

    /// Whether the entry is a description, which is then taken in.
    fn take(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<bool, Error> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(name(description(entry)?)),
            EntryType::GNULongLink => self.link = Some(name(description(entry)?)),
            EntryType::XHeader => self.extend(&description(entry)?)?,
            // Git writes the name of its commit there; a path for all entries makes no sense.
            EntryType::XGlobalHeader => drop(description(entry)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn extend(&mut self, text: &[u8]) -> Result<(), Error> {
        for extension in PaxExtensions::new(text) {
            let extension = extension.map_err(Error::read)?;
            let value = extension.value_bytes();
            match extension.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = str::from_utf8(value)
                        .ok()
                        .and_then(|text| text.parse().ok());
                    let wrong = || Error::damaged("the size of an entry is not a number");
                    self.size = Some(size.ok_or_else(wrong)?);
                }
                key if key.starts_with(b"GNU.sparse") => return Err(sparse()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn sparse() -> Error {
    Error::Unsupported {
        why: "it has sparse files; make it without --sparse",
    }
}

/// A name ends with a zero, and everything after that is not read by others.
fn name(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn description(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, Error> {
    if entry.size() > MAX_DESCRIPTION {
        return Err(Error::damaged(
            "the description of an entry is longer than 16 KiB",
        ));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(Error::read)?;
    Ok(bytes)
}

/// Unpacks one entry.
fn place(
    entry: &mut Entry<'_, impl Read>,
    described: Described,
    folder: &Folder,
) -> Result<(), Error> {
    let header = entry.header();
    let kind = header.entry_type();
    let raw = match described.path {
        Some(path) => path,
        None => header.path_bytes().into_owned(),
    };
    let Some(path) = EntryPath::parse(&raw)? else {
        // The folder itself, which `tar -C folder .` begins with.
        return if kind == EntryType::Directory {
            Ok(())
        } else {
            Err(Error::damaged("a file has no name"))
        };
    };
    let size = header.entry_size().map_err(Error::read)?;
    if described.size.is_some_and(|other| other != size) {
        return Err(path.refuse("the archive gives two sizes for it"));
    }
    // The oldest archives have no directories but files whose names end so.
    if kind == EntryType::Directory || (kind == EntryType::Regular && raw.ends_with(b"/")) {
        return if size == 0 {
            folder.directory(&path)
        } else {
            Err(path.refuse("it is a directory with content"))
        };
    }
    if let Some(parent) = path.parent() {
        folder.directory(&parent)?;
    }
    match kind {
        EntryType::Regular | EntryType::Continuous => {
            let mode = header.mode().map_err(Error::read)?;
            let written = folder.file(&path, Executable::of_mode(mode), entry)?;
            if written == size {
                Ok(())
            } else {
                Err(Error::damaged("it ends in the middle of a file"))
            }
        }
        EntryType::Symlink => {
            let target = described
                .link
                .or_else(|| Some(header.link_name_bytes()?.into_owned()));
            folder.link(path, &target.unwrap_or_default())
        }
        EntryType::Link => {
            Err(path.refuse("it is a hard link; make the package with --hard-dereference"))
        }
        EntryType::GNUSparse => Err(sparse()),
        _ => Err(path.refuse("it is neither a file nor a directory nor a link")),
    }
}
