//! The folder of the store: private, on disk, and of one process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::Error;

/// Makes the folder and takes its lock, which the kernel releases however the process ends.
pub(crate) fn lock(folder: &Path) -> Result<File, Error> {
    make(folder)?;
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(Error::InUse {
                folder: folder.to_owned(),
                pid: holder(file),
            });
        }
        Err(errno) => return Err(failed(&path)(errno.into())),
    }
    name_holder(&file).map_err(failed(&path))?;
    Ok(file)
}

/// Puts the names in the folder on disk.
///
/// A new file that is synced itself may still be without a name after a power cut.
pub(super) fn sync(folder: &Path) -> Result<(), Error> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed(folder))
}

fn make(folder: &Path) -> Result<(), Error> {
    if folder.try_exists().map_err(failed(folder))? {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed(folder))?;
    match folder.parent() {
        Some(parent) if parent != Path::new("") => sync(parent),
        _ => sync(Path::new(".")),
    }
}

/// Who holds the lock; best effort, as the holder may be about to write it.
fn holder(mut lock: File) -> String {
    let mut pid = String::new();
    match lock.read_to_string(&mut pid) {
        Ok(_) if !pid.trim().is_empty() => pid.trim().to_owned(),
        _ => "another".to_owned(),
    }
}

fn name_holder(mut lock: &File) -> std::io::Result<()> {
    lock.set_len(0)?;
    write!(lock, "{}", std::process::id())
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}
