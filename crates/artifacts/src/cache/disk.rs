//! The cache's folder.
//!
//! `KEY/` is an entry and `KEY.json` its marker; without the other neither counts. What is being
//! made is in `.tmp-*` and belongs to the process that makes it. The marker is written after the
//! entry is in its place, so that a process that dies leaves nothing that looks whole and is not.
//! When the machine itself dies, what was renamed may lack bytes that were never written to the disk:
//! a marker says in which run of the machine it was made, and counts in another only if everything
//! had been written by then.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Key;
use crate::archive::Unpacked;
use crate::remove;

/// What one file takes on a disk beside its bytes.
const PER_ENTRY: u64 = 4096;

/// How names of what is not finished begin.
const UNFINISHED: &str = ".tmp-";

/// What is known of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// What it takes on the disk.
    pub(super) bytes: u64,
    /// The run of the machine that wrote it.
    boot: String,
    /// Whether it is known to be on the disk.
    pub(super) synced: bool,
    /// The interpreters that it was compiled for.
    pub(super) compiled: BTreeSet<String>,
}

impl Marker {
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            boot: boot(),
            synced: false,
            compiled: BTreeSet::new(),
        }
    }

    fn counts(&self) -> bool {
        self.synced || (!self.boot.is_empty() && self.boot == boot())
    }
}

/// The present run of the machine; empty where the kernel does not tell.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// What an entry takes on the disk.
pub(super) fn bytes_of(unpacked: Unpacked) -> u64 {
    unpacked.bytes + (unpacked.entries + 1) * PER_ENTRY
}

/// The folder.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
}

/// A folder of something that is being made; it is removed unless it is put in its place.
#[derive(Debug)]
pub(super) struct Unfinished {
    path: Option<PathBuf>,
}

impl Unfinished {
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or_else(|| Path::new(""))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What stays is removed at the next start.
            let _ = remove::tree(path);
        }
    }
}

impl Disk {
    /// Opens the folder and clears it of everything that is not whole; what is left comes in the
    /// order of its last use.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Vec<(Key, Marker)>)> {
        fs::create_dir_all(folder)?;
        let disk = Self {
            folder: folder.to_owned(),
        };
        let mut found = Vec::new();
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(folder)? {
            names.insert(entry?.file_name());
        }
        for name in &names {
            let shown = name.to_string_lossy();
            if let Some(key) = shown.strip_suffix(".json").and_then(Key::parse)
                && names.contains(Path::new(key.as_str()).as_os_str())
                && let Some((used, marker)) = disk.read_marker(&key)
            {
                found.push((used, key, marker));
            }
        }
        found.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        let whole: BTreeSet<_> = found.iter().map(|(_, key, _)| key.clone()).collect();
        for name in names {
            let shown = name.to_string_lossy();
            let key = Key::parse(shown.strip_suffix(".json").unwrap_or(&shown));
            if key.is_none_or(|key| !whole.contains(&key)) {
                remove_any(&folder.join(&name))?;
            }
        }
        let found = found.into_iter().map(|(_, key, marker)| (key, marker));
        Ok((disk, found.collect()))
    }

    pub(super) fn place(&self, key: &Key) -> PathBuf {
        self.folder.join(key.as_str())
    }

    fn marker_path(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}.json", key.as_str()))
    }

    fn read_marker(&self, key: &Key) -> Option<(SystemTime, Marker)> {
        let path = self.marker_path(key);
        let marker: Marker = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        let used = fs::metadata(&path).ok()?.modified().ok()?;
        marker.counts().then_some((used, marker))
    }

    pub(super) fn write_marker(&self, key: &Key, marker: &Marker) -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.folder)?;
        file.write_all(&serde_json::to_vec(marker)?)?;
        file.persist(self.marker_path(key))?;
        Ok(())
    }

    /// A new folder to make an entry in.
    pub(super) fn unfinished(&self) -> Result<Unfinished, crate::Error> {
        let made = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.folder);
        let path = made.map_err(crate::Error::cache)?.keep();
        Ok(Unfinished { path: Some(path) })
    }

    /// Puts a folder in its place, with its marker.
    pub(super) fn put(
        &self,
        key: &Key,
        mut unfinished: Unfinished,
        marker: &Marker,
    ) -> io::Result<()> {
        let place = self.place(key);
        remove_any(&place)?;
        fs::rename(unfinished.path(), &place)?;
        unfinished.path = None;
        self.write_marker(key, marker)
    }

    /// Sees to it that an entry, or what it grew by, is on the disk.
    pub(super) fn sync(&self, key: &Key) -> io::Result<()> {
        let opened = File::open(self.place(key))?;
        Ok(rustix::fs::syncfs(opened)?)
    }

    /// Writes down that an entry was used now.
    pub(super) fn touch(&self, key: &Key) {
        let now = fs::FileTimes::new().set_modified(SystemTime::now());
        // It only matters for the order after a restart.
        let _ = File::options()
            .write(true)
            .open(self.marker_path(key))
            .and_then(|file| file.set_times(now));
    }

    /// Removes an entry. It is out of its place at once, and gone a while later.
    pub(super) fn remove(&self, key: &Key) -> io::Result<()> {
        remove_any(&self.marker_path(key))?;
        let place = self.place(key);
        let aside = self.folder.join(format!("{UNFINISHED}{}", key.as_str()));
        remove_any(&aside)?;
        match fs::rename(&place, &aside) {
            Ok(()) => remove::tree(&aside),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn remove_any(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return remove::tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
