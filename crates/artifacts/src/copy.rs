//! Copies a directory of code into the cache, once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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

/// Makes `target` a copy of the directory `source`, unless it is there already.
///
/// The copy is made beside the target and then renamed, so that it is whole whenever it is there.
pub(crate) fn once(source: &Path, target: &Path) -> Result<(), CopyError> {
    if target.is_dir() {
        return Ok(());
    }
    let parent = target.parent().unwrap_or(target);
    fs::create_dir_all(parent).map_err(at(parent))?;
    let unfinished = tempfile::Builder::new()
        .prefix(".copy-")
        .tempdir_in(parent)
        .map_err(at(parent))?;
    let inside = unfinished.path().join("code");
    copy_directory(source, source, &inside, &mut Total::default())?;
    match fs::rename(&inside, target) {
        // Another start was faster; its copy is as good.
        Err(_) if target.is_dir() => Ok(()),
        renamed => renamed.map_err(at(target)),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let path = path.to_owned();
    move |source| CopyError::Io { path, source }
}

fn copy_directory(
    root: &Path,
    source: &Path,
    target: &Path,
    total: &mut Total,
) -> Result<(), CopyError> {
    fs::create_dir(target).map_err(at(target))?;
    for entry in fs::read_dir(source).map_err(at(source))? {
        let entry = entry.map_err(at(source))?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        let metadata = from.symlink_metadata().map_err(at(&from))?;
        let kind = metadata.file_type();
        total.entries += 1;
        total.bytes += metadata.len();
        if total.entries > MAX_ENTRIES || total.bytes > MAX_BYTES {
            return Err(CopyError::TooLarge);
        }
        if kind.is_dir() {
            copy_directory(root, &from, &to, total)?;
        } else if kind.is_file() {
            fs::copy(&from, &to).map_err(at(&from))?;
        } else if kind.is_symlink() {
            copy_link(root, &from, &to)?;
        } else {
            return Err(CopyError::Special { path: from });
        }
    }
    Ok(())
}

/// Copies a relative link that stays inside; the copy then points into the copy.
fn copy_link(root: &Path, from: &Path, to: &Path) -> Result<(), CopyError> {
    let leads_out = || CopyError::Link {
        path: from.to_owned(),
    };
    let text = fs::read_link(from).map_err(at(from))?;
    let end = from.canonicalize().map_err(|_| leads_out())?;
    if text.is_absolute() || !end.starts_with(root) {
        return Err(leads_out());
    }
    std::os::unix::fs::symlink(text, to).map_err(at(to))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn files_directories_modes_and_inner_links_are_copied() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("sub/run"), "#!").unwrap();
        fs::set_permissions(source.join("sub/run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("sub/run", source.join("link")).unwrap();
        let target = dir.path().join("cache/target");
        once(&source, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("link")).unwrap(), "#!");
        let mode = fs::metadata(target.join("sub/run"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 1);
    }

    #[test]
    fn a_link_that_leads_out_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        symlink("../../etc/passwd", source.join("link")).unwrap();
        let target = dir.path().join("cache/target");
        assert!(matches!(
            once(&source, &target),
            Err(CopyError::Link { .. })
        ));
        assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 0);
    }
}
