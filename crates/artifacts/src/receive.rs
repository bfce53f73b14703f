//! Takes a package as it arrives, and unpacks exactly the bytes that were checked.
//!
//! A tar is unpacked while it arrives; the folder that it goes to counts only when the digest of
//! all that was read is right. A zip has its directory at the end, so it goes to a file without a
//! name first, which nobody else can open, and is unpacked from there.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::path::Path;

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use crate::Error;
use crate::archive::{self, Format, Limits, Unpacked};
use crate::digest::{Digester, Sha512};

/// Chunks between the network and whoever unpacks them; a few hundred KiB.
pub(crate) const CHUNKS: usize = 32;

/// What arrives: the next bytes, or that no more will come although it was not all.
pub(crate) type Chunk = Result<Bytes, Broken>;

/// The sender failed, and says why itself.
#[derive(Debug)]
pub(crate) struct Broken;

/// What a package has to be.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// What it is called in messages.
    pub(crate) package: String,
    /// Its digest, where one was given.
    pub(crate) sha512: Option<Sha512>,
    pub(crate) limits: Limits,
}

impl Expected {
    fn check(&self, found: &Sha512) -> Result<(), Error> {
        match &self.sha512 {
            Some(expected) if expected != found => Err(Error::Digest {
                package: self.package.clone(),
                expected: expected.to_string(),
                found: found.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// Unpacks what comes through `chunks` into the empty directory `target`. Blocks.
pub(crate) fn unpack(
    chunks: mpsc::Receiver<Chunk>,
    target: &Path,
    expected: &Expected,
) -> Result<Unpacked, Error> {
    let mut arriving = Arriving::new(chunks, expected.limits.max_package_bytes);
    let head = arriving.head()?;
    match Format::of(&head).ok_or(archive::Error::UnknownFormat) {
        Ok(Format::Zip) => {
            let file = anonymous(target).map_err(Error::cache)?;
            let found = arriving.save(&file)?;
            expected.check(&found)?;
            Ok(archive::unpack(&file, target, &expected.limits)?)
        }
        Ok(format) => {
            let unpacked = archive::unpack_tar(format, &mut arriving, target, &expected.limits);
            // A wrong digest says more than what the wrong bytes lead to.
            match unpacked {
                Ok(unpacked) => {
                    expected.check(&arriving.finish()?)?;
                    Ok(unpacked)
                }
                Err(error) => {
                    arriving.told(expected)?;
                    Err(error.into())
                }
            }
        }
        Err(error) => {
            arriving.told(expected)?;
            Err(error.into())
        }
    }
}

/// Writes what comes through `chunks` to `file`, and gives its digest and length. Blocks.
pub(crate) fn save(
    chunks: mpsc::Receiver<Chunk>,
    file: &File,
    max_bytes: u64,
) -> Result<(Sha512, u64), Error> {
    let mut arriving = Arriving::new(chunks, max_bytes);
    arriving.head()?;
    let found = arriving.save(file)?;
    Ok((found, file.metadata().map_err(Error::Store)?.len()))
}

/// Unpacks a file whose digest is checked first. Blocks.
pub(crate) fn unpack_file(
    file: &File,
    target: &Path,
    expected: &Expected,
) -> Result<Unpacked, Error> {
    let mut digester = Digester::new();
    let mut chunk = vec![0; 256 << 10];
    let mut reader = file;
    reader.rewind().map_err(Error::Store)?;
    loop {
        let read = reader.read(&mut chunk).map_err(Error::Store)?;
        if read == 0 {
            break;
        }
        digester.update(&chunk[..read]);
    }
    expected.check(&digester.finish())?;
    Ok(archive::unpack(file, target, &expected.limits)?)
}

/// The next part of a file, full unless it is the last.
pub(crate) async fn part(file: &mut tokio::fs::File, most: usize) -> Result<Bytes, Error> {
    let mut part = Vec::with_capacity(most);
    let read = file.take(most as u64).read_to_end(&mut part).await;
    read.map_err(Error::Store)?;
    Ok(part.into())
}

/// A file without a name on the file system of `target`.
fn anonymous(target: &Path) -> io::Result<File> {
    tempfile::tempfile_in(target.parent().unwrap_or(target))
}

/// The bytes of a package, counted and digested as they are read.
struct Arriving {
    chunks: mpsc::Receiver<Chunk>,
    current: Bytes,
    digester: Digester,
    bytes: u64,
    max_bytes: u64,
}

impl Arriving {
    fn new(chunks: mpsc::Receiver<Chunk>, max_bytes: u64) -> Self {
        Self {
            chunks,
            current: Bytes::new(),
            digester: Digester::new(),
            bytes: 0,
            max_bytes,
        }
    }

    /// The next chunk; nothing at the end.
    fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self.chunks.blocking_recv() {
            None => Ok(None),
            Some(Err(Broken)) => Err(Error::Interrupted),
            Some(Ok(chunk)) => {
                self.bytes += chunk.len() as u64;
                if self.bytes > self.max_bytes {
                    return Err(Error::Package(archive::Error::PackageTooLarge {
                        bytes: self.bytes,
                        max: self.max_bytes,
                    }));
                }
                self.digester.update(&chunk);
                Ok(Some(chunk))
            }
        }
    }

    /// What it begins with, which is read all the same later.
    fn head(&mut self) -> Result<Vec<u8>, Error> {
        while self.current.len() < Format::HEAD {
            let Some(chunk) = self.next()? else { break };
            self.current = if self.current.is_empty() {
                chunk
            } else {
                [&self.current[..], &chunk[..]].concat().into()
            };
        }
        Ok(self.current[..self.current.len().min(Format::HEAD)].to_vec())
    }

    /// Writes all of it to a file.
    fn save(mut self, mut file: &File) -> Result<Sha512, Error> {
        let mut chunk = std::mem::take(&mut self.current);
        loop {
            file.write_all(&chunk).map_err(Error::Store)?;
            match self.next()? {
                Some(next) => chunk = next,
                None => return Ok(self.digester.finish()),
            }
        }
    }

    /// The digest, of everything.
    fn finish(mut self) -> Result<Sha512, Error> {
        while self.next()?.is_some() {}
        Ok(self.digester.finish())
    }

    /// Whether the bytes that led to a failure were the right ones at all.
    fn told(self, expected: &Expected) -> Result<(), Error> {
        match self.finish() {
            Ok(found) => expected.check(&found),
            Err(error @ Error::Interrupted) => Err(error),
            // What was told first stands.
            Err(_) => Ok(()),
        }
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.next() {
                Ok(Some(chunk)) => self.current = chunk,
                Ok(None) => return Ok(0),
                Err(Error::Package(error)) => return Err(io::Error::other(error)),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let read = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}
