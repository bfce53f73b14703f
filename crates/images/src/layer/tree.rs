//! Writes the entries of a layer below one directory, in the format of overlayfs.
//!
//! Every path is resolved by the kernel with the layer as its root (`openat2` with
//! `RESOLVE_IN_ROOT`), so a link in the layer can lead anywhere in the layer and nowhere else; the last
//! part of a path is never followed. What a directory is like (its mode, its time) is set at the very
//! end: until then nobody but us may enter it, new files do not inherit its group, and its time does
//! not move any more.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::entry::split;
use super::tape::Head;

/// What the paths of all directories of a layer may take in memory.
const MOST_NAMES: usize = 16 << 20;

/// What overlayfs keeps on disk for a file, at least.
const BLOCK: u64 = 4096;

/// Owner, mode and time of a directory, for the end.
#[derive(Clone, Copy, Debug)]
struct Later {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: (i64, u32),
}

/// A layer that is being written.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// Root keeps owners and may set the attributes that overlayfs trusts.
    privileged: bool,
    /// The directory of the last entry, as entries of one directory come together.
    last: Option<(Vec<u8>, OwnedFd)>,
    directories: BTreeMap<Vec<u8>, Later>,
    names: usize,
    /// What the layer takes on disk, rounded up to blocks.
    pub(super) bytes: u64,
    /// The layer hides everything below it.
    pub(super) opaque: bool,
}

impl Tree {
    /// Writes below this directory, which is empty.
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            privileged: rustix::process::geteuid().is_root(),
            last: None,
            directories: BTreeMap::new(),
            names: 0,
            bytes: 0,
            opaque: false,
        }
    }

    /// Makes a file, to which its data are written next.
    pub(super) fn file(&mut self, parent: &[u8], name: &OsStr, head: &Head) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let flags = flags | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = self.make(parent, name, |directory| {
            rustix::fs::openat(directory, name, flags, mode)
        })?;
        let blocks = head.size.div_ceil(BLOCK).saturating_mul(BLOCK);
        self.bytes = self.bytes.saturating_add(blocks);
        Ok(File::from(file))
    }

    /// Gives a file that is written its owner, attributes, mode and time.
    pub(super) fn complete(&self, file: &File, head: &Head) -> io::Result<()> {
        set_attributes(file.as_fd(), head)?;
        if self.privileged && (head.uid, head.gid) != (0, 0) {
            let owner = owner(head.uid, head.gid);
            rustix::fs::fchown(file, owner.0, owner.1)?;
        }
        // After the owner, whose change takes the set-user-id bit away.
        rustix::fs::fchmod(file, Mode::from_raw_mode(head.mode))?;
        rustix::fs::futimens(file, &times(head.modified))?;
        Ok(())
    }

    /// Makes a directory, or takes note of what one is like that is there.
    pub(super) fn directory(&mut self, path: &[u8], head: &Head) -> io::Result<()> {
        if !path.is_empty() {
            let (parent, name) = split(path);
            self.one_directory(parent, OsStr::from_bytes(name))?;
        }
        if !head.attributes.is_empty() {
            let directory = self.open(path, OFlags::RDONLY | OFlags::NOFOLLOW)?;
            set_attributes(directory.as_fd(), head)?;
        }
        self.later(
            path,
            Later {
                mode: head.mode,
                uid: head.uid,
                gid: head.gid,
                modified: head.modified,
            },
        )
    }

    /// Makes a symbolic link.
    pub(super) fn symlink(&mut self, parent: &[u8], name: &OsStr, head: &Head) -> io::Result<()> {
        let target = OsStr::from_bytes(&head.link);
        self.make(parent, name, |directory| {
            rustix::fs::symlinkat(target, directory, name)
        })?;
        self.special(parent, name, head)
    }

    /// Makes a pipe.
    pub(super) fn pipe(&mut self, parent: &[u8], name: &OsStr, head: &Head) -> io::Result<()> {
        let mode = Mode::from_raw_mode(head.mode);
        self.make(parent, name, |directory| {
            rustix::fs::mknodat(directory, name, FileType::Fifo, mode, 0)
        })?;
        self.special(parent, name, head)
    }

    /// Gives a file of the layer one more name. A link as the target is linked itself.
    pub(super) fn hard_link(
        &mut self,
        parent: &[u8],
        name: &OsStr,
        target: &[u8],
    ) -> io::Result<()> {
        let (directory, target) = split(target);
        let directory = self.open(directory, OFlags::PATH)?;
        let kind = rustix::fs::statat(&directory, target, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(kind.st_mode) {
            FileType::RegularFile | FileType::Symlink | FileType::Fifo => {}
            // Above all not our own whiteouts.
            _ => return Err(io::Error::other("its target is no file")),
        }
        self.make(parent, name, |parent| {
            rustix::fs::linkat(&directory, target, parent, name, AtFlags::empty())
        })
    }

    /// Hides `name` of the layers below.
    pub(super) fn whiteout(&mut self, parent: &[u8], name: &OsStr) -> io::Result<()> {
        self.parent(parent)?;
        let directory = self.opened()?;
        let mode = Mode::from_raw_mode(0o600);
        match rustix::fs::mknodat(directory, name, FileType::CharacterDevice, mode, 0) {
            Ok(()) => {
                self.bytes += BLOCK;
                Ok(())
            }
            // What the layer itself has under that name stays, and hides what is below it; a
            // directory would let it shine through.
            Err(Errno::EXIST) => match kind_of(directory, name)? {
                FileType::Directory => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                    let found = rustix::fs::openat(
                        directory,
                        name,
                        flags | OFlags::CLOEXEC,
                        Mode::empty(),
                    )?;
                    self.set_opaque(found.as_fd())
                }
                _ => Ok(()),
            },
            Err(errno) => Err(errno.into()),
        }
    }

    /// Hides everything that the layers below have in a directory.
    pub(super) fn hide_lower(&mut self, path: &[u8]) -> io::Result<()> {
        if path.is_empty() {
            // The kernel merges the roots of layers whatever they say, so the store has to know.
            self.opaque = true;
            return Ok(());
        }
        self.parent(path)?;
        let directory = self.open(path, OFlags::RDONLY)?;
        self.set_opaque(directory.as_fd())
    }

    /// Gives every directory what it should be like.
    pub(super) fn finish(mut self) -> io::Result<(u64, bool)> {
        self.last = None;
        // The deepest first, so that a directory that nobody may enter does not shut us out.
        for (path, later) in std::mem::take(&mut self.directories).into_iter().rev() {
            let directory = match self.open(&path, OFlags::RDONLY | OFlags::NOFOLLOW) {
                // Something else took its place later on.
                Err(error) if is_gone(&error) => continue,
                directory => directory?,
            };
            if self.privileged {
                let (uid, gid) = owner(later.uid, later.gid);
                rustix::fs::fchown(&directory, uid, gid)?;
            }
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(later.mode))?;
            rustix::fs::futimens(&directory, &times(later.modified))?;
        }
        Ok((self.bytes, self.opaque))
    }

    /// Owner and time of what cannot be opened.
    fn special(&mut self, parent: &[u8], name: &OsStr, head: &Head) -> io::Result<()> {
        self.parent(parent)?;
        let directory = self.opened()?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if self.privileged && (head.uid, head.gid) != (0, 0) {
            let (uid, gid) = owner(head.uid, head.gid);
            rustix::fs::chownat(directory, name, uid, gid, flags)?;
        }
        rustix::fs::utimensat(directory, name, &times(head.modified), flags)?;
        Ok(())
    }

    /// Makes something new in `parent`. What has the name already goes first: the last entry counts.
    fn make<T>(
        &mut self,
        parent: &[u8],
        name: &OsStr,
        act: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        self.parent(parent)?;
        // An inode with its name; what exactly it takes is the file system's secret.
        self.bytes = self.bytes.saturating_add(BLOCK / 4);
        match act(self.opened()?) {
            Err(Errno::EXIST) => {
                self.remove(name)?;
                self.parent(parent)?;
                Ok(act(self.opened()?)?)
            }
            made => Ok(made?),
        }
    }

    /// Removes what the current directory has under this name.
    fn remove(&mut self, name: &OsStr) -> io::Result<()> {
        let directory = self.last.take().ok_or(io::ErrorKind::NotFound)?.1;
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => remove_directory(directory.as_fd(), name, 0),
            removed => Ok(removed?),
        }
    }

    /// Makes a directory in `parent`; one that is there stays as it is, anything else goes.
    fn one_directory(&mut self, parent: &[u8], name: &OsStr) -> io::Result<()> {
        self.parent(parent)?;
        let directory = self.opened()?;
        match rustix::fs::mkdirat(directory, name, Mode::RWXU) {
            Ok(()) => {
                self.bytes += BLOCK;
                Ok(())
            }
            Err(Errno::EXIST) => {
                let found = kind_of(directory, name)?;
                if found == FileType::Directory {
                    return Ok(());
                }
                self.remove(name)?;
                self.parent(parent)?;
                let directory = self.opened()?;
                rustix::fs::mkdirat(directory, name, Mode::RWXU)?;
                // The only devices of a layer are whiteouts. What was deleted and made again does
                // not show what lies below.
                if found == FileType::CharacterDevice {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                    let flags = flags | OFlags::CLOEXEC;
                    let made = rustix::fs::openat(directory, name, flags, Mode::empty())?;
                    self.set_opaque(made.as_fd())?;
                }
                self.bytes += BLOCK;
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes `path` the current directory; parts of it that no entry made yet are made like those
    /// that other tools make.
    fn parent(&mut self, path: &[u8]) -> io::Result<()> {
        if self.last.as_ref().is_some_and(|(last, _)| last == path) {
            return Ok(());
        }
        let opened = match self.open(path, OFlags::PATH) {
            Err(error)
                if !path.is_empty()
                    && matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
            {
                let (above, name) = split(path);
                // As deep as a path has parts, at most 2048.
                self.parent(above)?;
                self.one_directory(above, OsStr::from_bytes(name))?;
                self.implied(path)?;
                self.open(path, OFlags::PATH)?
            }
            opened => opened?,
        };
        self.last = Some((path.to_vec(), opened));
        Ok(())
    }

    fn implied(&mut self, path: &[u8]) -> io::Result<()> {
        if self.directories.contains_key(path) {
            return Ok(());
        }
        let later = Later {
            mode: 0o755,
            uid: 0,
            gid: 0,
            modified: (0, 0),
        };
        self.later(path, later)
    }

    fn later(&mut self, path: &[u8], later: Later) -> io::Result<()> {
        if self.directories.insert(path.to_vec(), later).is_none() {
            self.names += path.len() + size_of::<Later>();
        }
        if self.names > MOST_NAMES {
            return Err(io::Error::other("the layer has too many directories"));
        }
        Ok(())
    }

    /// The current directory, after [`Tree::parent`].
    fn opened(&self) -> io::Result<BorrowedFd<'_>> {
        let (_, directory) = self.last.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(directory.as_fd())
    }

    /// Opens a directory of the layer; links in its path lead to places in the layer.
    fn open(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let opened = rustix::fs::openat2(
            &self.root,
            OsStr::from_bytes(path),
            flags,
            Mode::empty(),
            resolve,
        )?;
        Ok(opened)
    }

    fn set_opaque(&self, directory: BorrowedFd<'_>) -> io::Result<()> {
        let name = if self.privileged {
            "trusted.overlay.opaque"
        } else {
            "user.overlay.opaque"
        };
        rustix::fs::fsetxattr(directory, name, b"y", XattrFlags::empty())?;
        Ok(())
    }
}

fn kind_of(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<FileType> {
    let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(found.st_mode))
}

/// Removes a directory with all that is in it, never following a link.
fn remove_directory(parent: BorrowedFd<'_>, name: &OsStr, depth: usize) -> io::Result<()> {
    // A path has at most so many parts; each level of this recursion holds a descriptor.
    if depth > 256 {
        return Err(io::Error::other("it replaces a directory that is too deep"));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                remove_directory(directory.as_fd(), name, depth + 1)?;
            }
            removed => removed?,
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn is_gone(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

fn set_attributes(file: BorrowedFd<'_>, head: &Head) -> io::Result<()> {
    for (name, value) in &head.attributes {
        if !super::entry::keeps_attribute(name) {
            continue;
        }
        match rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
            // They are notes; a file system without room for them runs the image as well.
            Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::RANGE | Errno::TOOBIG) => {}
            set => set?,
        }
    }
    Ok(())
}

fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

fn times(modified: (i64, u32)) -> Timestamps {
    let modified = Timespec {
        tv_sec: modified.0,
        tv_nsec: modified.1.into(),
    };
    Timestamps {
        last_access: modified,
        last_modification: modified,
    }
}

/// Writes a piece of a file's data.
pub(super) fn write(mut file: &File, piece: &[u8]) -> io::Result<()> {
    file.write_all(piece)
}
