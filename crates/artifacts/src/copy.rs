//! Copies a directory of code into the cache.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::archive::Unpacked;

/// The most that one function's code may hold, so that a wrong path does not fill the disk.
const MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// The most files and directories in it.
const MAX_ENTRIES: u64 = 200_000;

/// Why code cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The file system refused something.
    #[error("{}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is too much of it.
    #[error("it holds more than {MAX_BYTES} bytes or {MAX_ENTRIES} files")]
    TooLarge,
    /// A link leads out of the directory, or cannot be followed.
    #[error("the link {} leads out of the directory", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A socket, pipe or device.
    #[error("{} is neither a file nor a directory nor a link", path.display())]
    Special {
        /// The entry.
        path: PathBuf,
    },
}

/// What has been copied so far.
#[derive(Default)]
struct Total {
    bytes: u64,
    entries: u64,
}

/// Makes the empty directory `target` a copy of the directory `source` that nobody may write to.
pub(crate) fn into(source: &Path, target: &Path) -> Result<Unpacked, CopyError> {
    let copy = Copy {
        root: source,
        total: Total::default(),
    };
    let opened = open_directory(source).map_err(at(source))?;
    copy.run(&opened, target)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let path = path.to_owned();
    move |source| CopyError::Io { path, source }
}

/// Opens a directory by its path as [`Code::directory`](crate::Code::directory) gives it: one
/// without links. Where somebody has made a link of a part of it since, nothing is opened.
///
/// # Errors
///
/// There is no such directory, or the path has a link in it.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve) {
        // Linux 5.5 and before have no such call; the last part is checked there.
        Err(Errno::NOSYS) => Ok(rustix::fs::openat(
            CWD,
            path,
            flags | OFlags::NOFOLLOW,
            Mode::empty(),
        )?),
        opened => Ok(opened?),
    }
}

/// A copy under way. Whoever may write to the source must not make the platform read anything else,
/// so every entry is opened below its opened directory, and no link is followed.
struct Copy<'a> {
    root: &'a Path,
    total: Total,
}

impl Copy<'_> {
    fn run(mut self, source: &OwnedFd, target: &Path) -> Result<Unpacked, CopyError> {
        let root = self.root.to_owned();
        self.directory(source, &root, target)?;
        Ok(Unpacked {
            entries: self.total.entries,
            bytes: self.total.bytes,
        })
    }

    /// Copies what is in the opened directory, which is called `shown`.
    fn directory(
        &mut self,
        source: &OwnedFd,
        shown: &Path,
        target: &Path,
    ) -> Result<(), CopyError> {
        let entries = Dir::read_from(source).map_err(io::Error::from);
        for entry in entries.map_err(at(shown))? {
            let entry = entry.map_err(io::Error::from).map_err(at(shown))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            self.total.entries += 1;
            if self.total.entries > MAX_ENTRIES {
                return Err(CopyError::TooLarge);
            }
            self.entry(source, name, &shown.join(name), &target.join(name))?;
        }
        let sealed = fs::set_permissions(target, fs::Permissions::from_mode(0o555));
        sealed.map_err(at(target))
    }

    fn entry(
        &mut self,
        source: &OwnedFd,
        name: &OsStr,
        shown: &Path,
        target: &Path,
    ) -> Result<(), CopyError> {
        let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(io::Error::from).map_err(at(shown))?;
        // A pipe must not hold the platform up, if one has taken the place of a file.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |more| {
            let opened = rustix::fs::openat(source, name, flags | more, Mode::empty());
            opened.map_err(io::Error::from).map_err(at(shown))
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                fs::create_dir(target).map_err(at(target))?;
                self.directory(&open(OFlags::DIRECTORY)?, shown, target)
            }
            FileType::RegularFile => self.file(open(OFlags::empty())?, shown, target),
            FileType::Symlink => {
                let text = rustix::fs::readlinkat(source, name, Vec::new());
                let text = text.map_err(io::Error::from).map_err(at(shown))?;
                self.link(Path::new(OsStr::from_bytes(text.to_bytes())), shown, target)
            }
            _ => Err(CopyError::Special {
                path: shown.to_owned(),
            }),
        }
    }

    fn file(&mut self, source: OwnedFd, shown: &Path, target: &Path) -> Result<(), CopyError> {
        let source = fs::File::from(source);
        let metadata = source.metadata().map_err(at(shown))?;
        if !metadata.is_file() {
            return Err(CopyError::Special {
                path: shown.to_owned(),
            });
        }
        let mut copy = fs::File::create(target).map_err(at(target))?;
        let left = MAX_BYTES - self.total.bytes;
        let copied = io::copy(&mut source.take(left + 1), &mut copy).map_err(at(shown))?;
        if copied > left {
            return Err(CopyError::TooLarge);
        }
        self.total.bytes += copied;
        let program = metadata.permissions().mode() & 0o111 != 0;
        let mode = if program { 0o555 } else { 0o444 };
        let changed = copy.set_permissions(fs::Permissions::from_mode(mode));
        changed.map_err(at(target))
    }

    /// Copies a relative link that stays inside; the copy then points into the copy.
    fn link(&self, text: &Path, shown: &Path, target: &Path) -> Result<(), CopyError> {
        let leads_out = || CopyError::Link {
            path: shown.to_owned(),
        };
        let end = shown.canonicalize().map_err(|_| leads_out())?;
        if text.is_absolute() || !end.starts_with(self.root) {
            return Err(leads_out());
        }
        std::os::unix::fs::symlink(text, target).map_err(at(target))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_directories_programs_and_inner_links_are_copied_and_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(source.join("sub/run"), "#!").unwrap();
        fs::set_permissions(source.join("sub/run"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(source.join("data"), "1234").unwrap();
        symlink("sub/run", source.join("link")).unwrap();
        let copied = into(&source, &target).unwrap();
        assert_eq!((copied.entries, copied.bytes), (4, 6));
        assert_eq!(fs::read_to_string(target.join("link")).unwrap(), "#!");
        let mode = |name: &str| {
            let metadata = fs::metadata(target.join(name)).unwrap();
            metadata.permissions().mode() & 0o7777
        };
        let modes = ["sub/run", "data", "sub", ""].map(mode);
        assert_eq!(modes, [0o555, 0o444, 0o555, 0o555]);
        crate::remove::tree(&target).unwrap();
    }

    #[test]
    fn a_link_that_leads_out_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        symlink("../../etc/passwd", source.join("link")).unwrap();
        let copied = into(&source, &target);
        assert!(matches!(copied, Err(CopyError::Link { .. })));
    }

    #[test]
    fn what_has_become_a_link_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("tenant/code")).unwrap();
        fs::create_dir_all(dir.join("secret/code")).unwrap();
        let code = dir.join("tenant/code");
        open_directory(&code).unwrap();
        fs::rename(dir.join("tenant"), dir.join("before")).unwrap();
        symlink("secret", dir.join("tenant")).unwrap();
        open_directory(&code).unwrap_err();
        fs::remove_file(dir.join("tenant")).unwrap();
        fs::create_dir(dir.join("tenant")).unwrap();
        symlink("../secret", &code).unwrap();
        open_directory(&code).unwrap_err();
    }

    #[test]
    fn a_pipe_is_refused_and_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        rustix::fs::mknodat(CWD, source.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let copied = into(&source, &dir.path().join("target"));
        assert!(matches!(copied, Err(CopyError::Special { .. })));
    }
}
