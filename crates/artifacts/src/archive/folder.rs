//! Writes entries below one opened directory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::path::EntryPath;
use super::{Error, Limits, Unpacked, fill};

/// How much is copied at once.
const CHUNK: usize = 64 << 10;

/// A package that unpacks to no more than this is no bomb, however well it was compressed.
const RATIO_FROM: u64 = 10 << 20;

/// What a directory gets while entries are made in it, and what everything gets in the end.
const WRITABLE: Mode = Mode::from_raw_mode(0o755);
const PROGRAM: Mode = Mode::from_raw_mode(0o555);
const FILE: Mode = Mode::from_raw_mode(0o444);

/// Whether a file may be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Executable {
    Yes,
    No,
    /// The archive does not know: what looks like a program is one.
    ByContent,
}

impl Executable {
    /// What the mode bits of an archive say.
    pub(super) fn of_mode(mode: u32) -> Self {
        if mode & 0o111 == 0 {
            Self::No
        } else {
            Self::Yes
        }
    }

    fn mode(self, head: &[u8]) -> Mode {
        let program = match self {
            Self::Yes => true,
            Self::No => false,
            Self::ByContent => head.starts_with(b"#!") || head.starts_with(b"\x7fELF"),
        };
        if program { PROGRAM } else { FILE }
    }
}

/// The folder that a package is unpacked into. Several threads may write files at once.
#[derive(Debug)]
pub(super) struct Folder {
    root: OwnedFd,
    limits: Limits,
    /// Bytes of the package that have been read so far.
    packed: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    directories: Mutex<BTreeSet<EntryPath>>,
    links: Mutex<Vec<(EntryPath, String)>>,
}

impl Folder {
    pub(super) fn new(path: &Path, limits: Limits) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty());
        let root = root.map_err(|errno| io_error(&path.display().to_string(), errno))?;
        Ok(Self {
            root,
            limits,
            packed: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            directories: Mutex::default(),
            links: Mutex::default(),
        })
    }

    /// So many more bytes of the package have been read.
    pub(super) fn packed(&self, bytes: u64) {
        self.packed.fetch_add(bytes, Relaxed);
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Makes a directory and those above it, where they are not there yet.
    pub(super) fn directory(&self, path: &EntryPath) -> Result<(), Error> {
        let mut directories = self.directories.lock();
        self.make(&mut directories, path)
    }

    fn make(&self, made: &mut BTreeSet<EntryPath>, path: &EntryPath) -> Result<(), Error> {
        if made.contains(path) {
            return Ok(());
        }
        // Its depth is bounded by that of a path.
        if let Some(parent) = path.parent() {
            self.make(made, &parent)?;
        }
        self.count()?;
        let parent = self.parent(path)?;
        match rustix::fs::mkdirat(&parent, path.name(), WRITABLE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(path.refuse("a file has the same name")),
            Err(errno) => return Err(io_error(path.as_str(), errno)),
        }
        made.insert(path.clone());
        Ok(())
    }

    /// Makes a file of what `content` gives, and says how long it is. Its directory must be there.
    pub(super) fn file(
        &self,
        path: &EntryPath,
        executable: Executable,
        content: &mut impl Read,
    ) -> Result<u64, Error> {
        self.count()?;
        let mut chunk = vec![0; CHUNK];
        let mut filled = fill(content, &mut chunk)?;
        let mode = executable.mode(&chunk[..filled]);
        let mut file = self.create(path, mode)?;
        let mut written = 0;
        while filled > 0 {
            written += filled as u64;
            self.grow(filled as u64, written)?;
            file.write_all(&chunk[..filled])
                .map_err(|error| io_error(path.as_str(), error))?;
            // A chunk that is not full was the last.
            filled = if filled == CHUNK {
                fill(content, &mut chunk)?
            } else {
                0
            };
        }
        Ok(written)
    }

    /// Takes note of a link; it is made when everything else is there, so that nothing is ever
    /// written through one.
    pub(super) fn link(&self, path: EntryPath, target: &[u8]) -> Result<(), Error> {
        self.count()?;
        let target = match str::from_utf8(target) {
            Ok(target) if !target.is_empty() && !target.chars().any(char::is_control) => target,
            _ => return Err(path.refuse("it is a link to a name that cannot be read")),
        };
        if target.starts_with('/') {
            return Err(path.refuse("it is a link to an absolute path"));
        }
        self.links.lock().push((path, target.to_owned()));
        Ok(())
    }

    /// Makes the links, and takes the right to write from everything.
    pub(super) fn finish(self) -> Result<Unpacked, Error> {
        let links = std::mem::take(&mut *self.links.lock());
        for (path, target) in &links {
            let parent = self.parent(path)?;
            match rustix::fs::symlinkat(target.as_str(), &parent, path.name()) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(path.refuse("the name is there twice")),
                Err(errno) => return Err(io_error(path.as_str(), errno)),
            }
        }
        // Only now: a link may lead through another one that was made after it.
        for (path, _) in &links {
            if !self.leads_inside(path)? {
                return Err(path.refuse("it is a link that leads to nothing in the package"));
            }
        }
        let directories = std::mem::take(&mut *self.directories.lock());
        for path in directories.iter().rev() {
            let opened = self.open(
                path.as_str(),
                OFlags::RDONLY | OFlags::DIRECTORY,
                Mode::empty(),
            );
            opened
                .and_then(|directory| rustix::fs::fchmod(directory, PROGRAM))
                .map_err(|errno| io_error(path.as_str(), errno))?;
        }
        rustix::fs::fchmod(&self.root, PROGRAM).map_err(|errno| io_error("the folder", errno))?;
        Ok(Unpacked {
            entries: self.entries.into_inner(),
            bytes: self.bytes.into_inner(),
        })
    }

    /// One more entry.
    fn count(&self) -> Result<(), Error> {
        let files = self.entries.fetch_add(1, Relaxed) + 1;
        let max = self.limits.max_files;
        if files > max {
            return Err(Error::TooManyFiles { files, max });
        }
        Ok(())
    }

    /// So many bytes more, of a file that has so many now.
    fn grow(&self, more: u64, file: u64) -> Result<(), Error> {
        let limits = &self.limits;
        let too_large = |max, limit| Err(Error::UnpackedTooLarge { max, limit });
        if file > limits.max_file_bytes {
            return too_large(limits.max_file_bytes, "max_file_bytes");
        }
        let bytes = self.bytes.fetch_add(more, Relaxed) + more;
        if bytes > limits.max_unpacked_bytes {
            return too_large(limits.max_unpacked_bytes, "max_unpacked_bytes");
        }
        let by_ratio = self.packed.load(Relaxed).saturating_mul(limits.max_ratio);
        if bytes > by_ratio.max(RATIO_FROM) {
            return too_large(by_ratio.max(RATIO_FROM), "max_ratio");
        }
        Ok(())
    }

    fn create(&self, path: &EntryPath, mode: Mode) -> Result<File, Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = self
            .open(path.as_str(), flags, mode)
            .map_err(|errno| match errno {
                Errno::EXIST => path.refuse("the name is there twice"),
                Errno::NOTDIR => path.refuse("a file is where it needs a directory"),
                _ => io_error(path.as_str(), errno),
            })?;
        // The process' mask may have taken bits away.
        rustix::fs::fchmod(&file, mode).map_err(|errno| io_error(path.as_str(), errno))?;
        Ok(File::from(file))
    }

    /// The opened directory that `path` is in.
    fn parent(&self, path: &EntryPath) -> Result<OwnedFd, Error> {
        let parent = path.parent();
        let shown = parent.as_ref().map_or(".", EntryPath::as_str);
        self.open(shown, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .map_err(|errno| match errno {
                Errno::NOTDIR | Errno::LOOP => path.refuse("a file is where it needs a directory"),
                Errno::NOENT => path.refuse("its directory is not in the package"),
                _ => io_error(path.as_str(), errno),
            })
    }

    /// Opens what is at `path` below the folder, without following any link.
    fn open(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.root, path, flags, mode, resolve) {
            Err(Errno::NOSYS) => self.open_by_steps(path, flags, mode),
            opened => opened,
        }
    }

    /// The same where Linux is older than 5.6: one name after the other.
    fn open_by_steps(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut directory: Option<OwnedFd> = None;
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            let above = directory.as_ref().unwrap_or(&self.root);
            directory = Some(rustix::fs::openat(above, part, step, Mode::empty())?);
        }
        let above = directory.as_ref().unwrap_or(&self.root);
        rustix::fs::openat(above, name, flags, mode)
    }

    /// Whether what a link leads to is a file or a directory of the folder, and each link on the
    /// way, too.
    fn leads_inside(&self, path: &EntryPath) -> Result<bool, Error> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.root, path.as_str(), flags, Mode::empty(), resolve) {
            Ok(found) => is_plain(found.as_fd()).map_err(|errno| io_error(path.as_str(), errno)),
            Err(Errno::NOSYS) => Err(Error::Unsupported {
                why: "it has links, and to check them takes Linux 5.6; replace them by the files",
            }),
            Err(Errno::XDEV | Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(io_error(path.as_str(), errno)),
        }
    }
}

fn is_plain(found: impl AsFd) -> Result<bool, Errno> {
    let stat = rustix::fs::statat(found, "", AtFlags::EMPTY_PATH)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    Ok(matches!(kind, FileType::RegularFile | FileType::Directory))
}

fn io_error(path: &str, source: impl Into<io::Error>) -> Error {
    Error::Io {
        what: format!("{} cannot be written", super::path::printable(path)),
        source: source.into(),
    }
}
