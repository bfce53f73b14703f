//! The directories that instances write to.
//!
//! All of a platform's are below one whose name says which process it is, so that a platform finds
//! what others have left that did not live to clean up.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Handle;

use crate::confinement::started;

/// The directories of one platform. They go when this is dropped.
#[derive(Debug)]
pub(super) struct Folders {
    own: PathBuf,
    next: AtomicU64,
}

/// What one instance writes to. It goes when this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The platform's directory, which has to be there until this one is gone.
    shared: Option<Arc<Folders>>,
}

/// How many platforms this process has made.
static PLATFORMS: AtomicU64 = AtomicU64::new(0);

impl Folders {
    /// A place for instances below `all`, where what dead platforms have left is removed.
    ///
    /// # Errors
    ///
    /// The directory cannot be made.
    pub(super) fn open(all: &Path) -> io::Result<Arc<Self>> {
        fs::create_dir_all(all)?;
        remove_leftovers(all);
        let pid = std::process::id();
        let number = PLATFORMS.fetch_add(1, Ordering::Relaxed);
        let own = all.join(format!("{pid}-{}-{number}", started(pid)));
        // Instances of other users are below it, and get there by descriptors only.
        fs::create_dir(&own)?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o700))?;
        fs::create_dir(own.join(STAGE))?;
        Ok(Arc::new(Self {
            own,
            next: AtomicU64::new(1),
        }))
    }

    /// An empty directory that nothing is ever written to: every cell mounts over it, for itself.
    pub(super) fn stage(&self) -> PathBuf {
        self.own.join(STAGE)
    }

    /// Room for one instance.
    ///
    /// # Errors
    ///
    /// A directory cannot be made.
    pub(super) fn make(self: &Arc<Self>) -> io::Result<Folder> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.own.join(number.to_string());
        fs::create_dir(&path)?;
        let folder = Folder {
            path,
            shared: Some(Arc::clone(self)),
        };
        for path in [folder.upper(), folder.work(), folder.tmp()] {
            fs::create_dir(path)?;
        }
        let tmp_of_upper = folder.upper().join("tmp");
        fs::create_dir(&tmp_of_upper)?;
        fs::set_permissions(folder.upper(), fs::Permissions::from_mode(0o755))?;
        for everybodys in [tmp_of_upper, folder.tmp()] {
            fs::set_permissions(everybodys, fs::Permissions::from_mode(0o1777))?;
        }
        Ok(folder)
    }
}

const STAGE: &str = "stage";

impl Drop for Folders {
    fn drop(&mut self) {
        // What is still in use is left to the next platform.
        _ = fs::remove_dir(self.stage());
        _ = fs::remove_dir(&self.own);
    }
}

impl Folder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the instance has changed of its image.
    pub(super) fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// What it has in `/tmp` where the image is read-only.
    pub(super) fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// How much the instance has written, in bytes as they are on the disk; counts no further than
    /// beyond `enough`. Blocks.
    pub(super) fn written(&self, enough: u64) -> u64 {
        let mut total = 0;
        let mut ahead = vec![self.upper(), self.tmp()];
        while let Some(dir) = ahead.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                use std::os::unix::fs::MetadataExt as _;
                // What vanished meanwhile takes no room.
                let Ok(seen) = entry.metadata() else { continue };
                total += seen.blocks() * 512;
                if seen.is_dir() {
                    ahead.push(entry.path());
                }
                if total > enough {
                    return total;
                }
            }
        }
        total
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let (path, shared) = (std::mem::take(&mut self.path), self.shared.take());
        let remove = move || {
            // By descriptors, so that nothing that an instance has made leads elsewhere.
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "files of an instance are left");
            }
            drop(shared);
        };
        match Handle::try_current() {
            Ok(runtime) => _ = runtime.spawn_blocking(remove),
            Err(_) => remove(),
        }
    }
}

fn remove_leftovers(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let mut parts = name.split('-').map(str::parse::<u64>);
        let (Some(Ok(pid)), Some(Ok(since))) = (parts.next(), parts.next()) else {
            continue;
        };
        if u32::try_from(pid).is_ok_and(|pid| started(pid) == since && since != 0) {
            continue;
        }
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "files of instances are left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_platforms_left_goes_and_what_others_use_stays() {
        let all = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        let other = all.path().join(format!("{pid}-{}-77", started(pid)));
        // The number of a process that ended, or that was given again since.
        let dead = all.path().join(format!("{pid}-1-0"));
        for path in [&other, &dead] {
            fs::create_dir_all(path.join("1/upper/deep")).unwrap();
        }
        let folders = Folders::open(all.path()).unwrap();
        assert!(other.is_dir() && !dead.is_dir());
        let folder = folders.make().unwrap();
        let path = folder.path().to_owned();
        assert!(path.join("upper/tmp").is_dir());
        drop((folder, folders));
        assert_eq!(fs::read_dir(all.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_an_instance_wrote_is_counted_by_blocks_and_only_as_far_as_needed() {
        let all = tempfile::tempdir().unwrap();
        let folder = Folders::open(all.path()).unwrap().make().unwrap();
        let before = folder.written(u64::MAX);
        fs::create_dir(folder.upper().join("deep")).unwrap();
        for at in 0..10 {
            let path = folder.upper().join(format!("deep/{at}"));
            fs::write(path, vec![1; 64 * 1024]).unwrap();
        }
        let written = folder.written(u64::MAX) - before;
        assert!(
            (10 * 64 * 1024..11 * 64 * 1024).contains(&written),
            "{written}"
        );
        let enough = folder.written(100 * 1024);
        assert!((100 * 1024..300 * 1024).contains(&enough), "{enough}");
    }
}
