//! Unpacks packages that strangers made: zip, tar.gz and tar.zst.
//!
//! Well-kept crates read the formats; here it is decided what may come out of them. A name is taken
//! apart before anything is done with it (`path`). Files are made below the opened folder, one
//! for each name, and never through a link: links are made last, and each must lead to something in
//! the folder, by the kernel's own word (`folder`). Everything is counted as it is written; what
//! an archive says about itself is only believed where it makes the answer a refusal.
//!
//! What comes out is read-only: directories and programs 0555, other files 0444, whatever the
//! archive says. Owners, times, attributes and set-user-id bits are dropped. Hard links, devices,
//! pipes, encrypted and duplicate entries are refused.

mod folder;
mod path;
mod tarred;
mod zipped;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bugle_types::Code;

use folder::Folder;

/// What a package may hold. Each is the key of the same name in the section `packages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the package as it is sent.
    pub max_package_bytes: u64,
    /// Files, directories and links.
    pub max_files: u64,
    /// Bytes of all files together.
    pub max_unpacked_bytes: u64,
    /// Bytes of one file.
    pub max_file_bytes: u64,
    /// Bytes that may come out of one byte of the package, once it is more than 10 MiB.
    pub max_ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_package_bytes: 256 << 20,
            max_files: 10_000,
            max_unpacked_bytes: 500_000_000,
            max_file_bytes: 250_000_000,
            max_ratio: 100,
        }
    }
}

/// Why a package cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There are too many entries.
    #[error(
        "zip file count [{files}] is larger than {max}; leave out what the function does not need, \
         or raise packages.max_files"
    )]
    TooManyFiles {
        /// How many there are; at least so many, where the counting stopped.
        files: u64,
        /// The limit.
        max: u64,
    },
    /// A name that leads, or could lead, out of the folder, or an entry that is no file.
    #[error("zip file path [{path}] is invalid: {why}")]
    Path {
        /// The name, made printable and shortened.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What comes out is too large.
    #[error("zip file unzip size is larger than {max} bytes, the limit packages.{limit}")]
    UnpackedTooLarge {
        /// The limit in bytes.
        max: u64,
        /// Its key.
        limit: &'static str,
    },
    /// The package is too large.
    #[error(
        "zip file size [{bytes}] is larger than {max} bytes, the limit packages.max_package_bytes"
    )]
    PackageTooLarge {
        /// How large it is; at least so large, where the counting stopped.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The bytes are no archive of a known form.
    #[error("the package is neither a zip nor a tar.gz nor a tar.zst")]
    UnknownFormat,
    /// The archive is broken, or contradicts itself.
    #[error("the package is damaged: {why}")]
    Damaged {
        /// What was found.
        why: String,
    },
    /// It uses something that is not unpacked.
    #[error("the package cannot be unpacked: {why}")]
    Unsupported {
        /// What it uses, and what to do instead.
        why: &'static str,
    },
    /// Reading or writing failed.
    #[error("{what}")]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// The number that clients know it by; nothing where it is the platform's own failure.
    pub fn code(&self) -> Option<Code> {
        Some(match self {
            Self::TooManyFiles { .. } => Code::ZipFileCountError,
            Self::Path { .. } => Code::ZipFilePathError,
            Self::UnpackedTooLarge { .. } => Code::ZipFileUnzipSizeError,
            Self::PackageTooLarge { .. } => Code::ZipFileSizeError,
            Self::UnknownFormat | Self::Damaged { .. } | Self::Unsupported { .. } => {
                Code::InvalidUserParam
            }
            Self::Io { .. } => return None,
        })
    }

    fn damaged(why: &str) -> Self {
        Self::Damaged {
            why: path::printable(why),
        }
    }

    /// What a reader of the archive said: it is about the archive unless the system is named.
    fn read(error: io::Error) -> Self {
        if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::TimedOut {
            return Self::Io {
                what: "the package cannot be read".to_owned(),
                source: error,
            };
        }
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) => Self::damaged(&error.to_string()),
        }
    }
}

/// The form of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Zip. It has its directory at the end, so the whole file must be there.
    Zip,
    /// Tar, compressed with gzip.
    TarGz,
    /// Tar, compressed with zstd.
    TarZst,
}

impl Format {
    /// How many bytes [`Format::of`] looks at.
    pub const HEAD: usize = 4;

    /// The form of what begins with these bytes; the name of a package says nothing about it.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Self::Zip),
            [0x1f, 0x8b, ..] => Some(Self::TarGz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::TarZst),
            _ => None,
        }
    }

    /// The usual ending of a file's name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Zip => "zip",
            Self::TarGz => "tar.gz",
            Self::TarZst => "tar.zst",
        }
    }
}

/// What came out of a package.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

/// Unpacks the package in `file` into the empty directory `target`. Blocks, and uses several
/// threads for a large zip.
///
/// # Errors
///
/// [`Error`]; what has been written so far stays, for the caller to remove.
pub fn unpack(file: &File, target: &Path, limits: &Limits) -> Result<Unpacked, Error> {
    let bytes = file.metadata().map_err(Error::read)?.len();
    if bytes > limits.max_package_bytes {
        return Err(Error::PackageTooLarge {
            bytes,
            max: limits.max_package_bytes,
        });
    }
    let mut reader = zipped::Window::new(file, bytes);
    let mut head = [0; Format::HEAD];
    let read = fill(&mut reader, &mut head)?;
    match Format::of(&head[..read]).ok_or(Error::UnknownFormat)? {
        Format::Zip => {
            let folder = Folder::new(target, *limits)?;
            folder.packed(bytes);
            zipped::unpack(file, bytes, &folder)?;
            folder.finish()
        }
        format => unpack_tar(format, zipped::Window::new(file, bytes), target, limits),
    }
}

/// Unpacks a compressed tar as it is read, into the empty directory `target`. Blocks. It has read
/// everything when it returns well.
///
/// # Errors
///
/// [`Error`]; an error of `reader` that is an [`Error`] inside comes out as it is.
pub fn unpack_tar(
    format: Format,
    reader: impl Read,
    target: &Path,
    limits: &Limits,
) -> Result<Unpacked, Error> {
    let folder = Folder::new(target, *limits)?;
    tarred::unpack(format, reader, &folder)?;
    folder.finish()
}

/// Reads until `buffer` is full or there is no more.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Error> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::read(error)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
