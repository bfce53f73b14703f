//! Where the store keeps things on disk.
//!
//! ```text
//! layers/HEX/fs           an unpacked layer, by the digest of its tar stream
//! layers/HEX/layer.json   what is known of it
//! images/HEX.json         an image, by the digest that its tag had
//! references.json         which image each tag means
//! tmp/                    what is not finished; emptied at every start
//! ```
//!
//! Everything is made in `tmp` and renamed, so what has its name is whole, with one exception: the
//! files of a layer are left to the kernel to write out, because waiting for the disk would take
//! longer than everything else. Until they were synced, `layer.json` names the boot in which they were
//! written, and in any other boot the layer is thrown away: a crash of the platform loses nothing,
//! a crash of the machine loses at most layers that can be fetched again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempDir};

use crate::layer::Unpacked;
use crate::{Digest, ImageConfig, ImageError};

/// The store's folders.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    boot: String,
}

/// What is known of a layer on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    /// What it takes on disk.
    pub(super) bytes: u64,
    /// The length of its tar stream.
    pub(super) inflated: u64,
    /// It hides everything below.
    pub(super) opaque: bool,
    /// The boot in which it was written, until it was synced.
    pub(super) unsynced_since_boot: Option<String>,
}

/// How an image came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From its registry, where it can be had again.
    Pulled,
    /// From a file; here may be the only place that has it.
    Loaded,
}

/// An image, as its file says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) origin: Origin,
    /// Seconds since 1970.
    pub(super) added: u64,
    /// What its layers take while they travel.
    pub(super) compressed: u64,
    pub(super) config: ImageConfig,
    /// The layers' diff ids, lowest first.
    pub(super) layers: Vec<Digest>,
}

/// What the folders hold.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) layers: BTreeMap<Digest, LayerRecord>,
    /// With the second of the last use.
    pub(super) images: BTreeMap<Digest, (ImageRecord, u64)>,
    pub(super) references: BTreeMap<String, Digest>,
}

impl Disk {
    /// Makes the folders that are missing, readable by nobody else: layers have programs that run as
    /// root in them.
    pub(super) fn open(root: &Path) -> Result<Self, ImageError> {
        let disk = Self {
            root: root.to_owned(),
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        };
        let _ = fs::remove_dir_all(disk.tmp());
        for folder in [disk.tmp(), root.join("layers"), root.join("images")] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(ImageError::storage("make the folder", &folder))?;
        }
        Ok(disk)
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn layer(&self, id: Digest) -> PathBuf {
        self.root.join("layers").join(id.hex())
    }

    /// The directory that overlayfs takes.
    pub(super) fn layer_files(&self, id: Digest) -> PathBuf {
        self.layer(id).join("fs")
    }

    fn image(&self, id: Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    fn references(&self) -> PathBuf {
        self.root.join("references.json")
    }

    /// Reads what is there, and removes what cannot be relied on.
    pub(super) fn read(&self) -> Result<Found, ImageError> {
        let mut found = Found::default();
        for (path, name) in entries(&self.root.join("layers"))? {
            let record = read_json::<LayerRecord>(&path.join("layer.json"));
            let boot = |record: &LayerRecord| match &record.unsynced_since_boot {
                Some(boot) => *boot == self.boot,
                None => true,
            };
            match (digest_of_name(&name), record) {
                (Some(id), Some(record)) if boot(&record) => {
                    found.layers.insert(id, record);
                }
                _ => {
                    tracing::warn!(path = %path.display(), "a layer was not finished and is removed");
                    let _ = fs::remove_dir_all(&path);
                }
            }
        }
        for (path, name) in entries(&self.root.join("images"))? {
            let id = name.strip_suffix(".json").and_then(digest_of_name);
            if let Some((id, record)) = id.zip(read_json::<ImageRecord>(&path)) {
                let used = last_use(&path).unwrap_or(record.added);
                found.images.insert(id, (record, used));
            } else {
                tracing::warn!(path = %path.display(), "an image's record is unreadable");
                let _ = fs::remove_file(&path);
            }
        }
        found.references = read_json(&self.references()).unwrap_or_default();
        found
            .references
            .retain(|_, id| found.images.contains_key(id));
        Ok(found)
    }

    /// A folder for something unfinished; it goes away with its value.
    pub(super) fn unfinished(&self) -> Result<TempDir, ImageError> {
        let tmp = self.tmp();
        tempfile::tempdir_in(&tmp).map_err(ImageError::storage("make a folder in", &tmp))
    }

    /// A nameless file for something that passes through.
    pub(super) fn unnamed_file(&self) -> Result<File, ImageError> {
        let tmp = self.tmp();
        tempfile::tempfile_in(&tmp).map_err(ImageError::storage("make a file in", &tmp))
    }

    /// The empty directory of an unfinished layer.
    pub(super) fn unfinished_layer(unfinished: &TempDir) -> Result<OwnedFd, ImageError> {
        let path = unfinished.path().join("fs");
        let opened = fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .and_then(|()| Ok(File::open(&path)?.into()));
        opened.map_err(ImageError::storage("make the folder", &path))
    }

    /// Gives a finished layer its name.
    pub(super) fn keep_layer(
        &self,
        id: Digest,
        unfinished: TempDir,
        unpacked: Unpacked,
    ) -> Result<LayerRecord, ImageError> {
        let record = LayerRecord {
            bytes: unpacked.bytes,
            inflated: unpacked.inflated,
            opaque: unpacked.opaque,
            unsynced_since_boot: Some(self.boot.clone()),
        };
        let path = self.layer(id);
        let text = json(&record);
        fs::write(unfinished.path().join("layer.json"), text)
            .and_then(|()| {
                // Left over by a record that could not be read.
                let _ = fs::remove_dir_all(&path);
                fs::rename(unfinished.path(), &path)
            })
            .map_err(ImageError::storage("keep the layer", &path))?;
        // The name that it would remove is gone.
        let _ = unfinished.keep();
        Ok(record)
    }

    /// Waits until everything is on disk. Blocks.
    pub(super) fn sync_files(&self) -> Result<(), ImageError> {
        let synced = File::open(&self.root).and_then(|root| Ok(rustix::fs::syncfs(&root)?));
        synced.map_err(ImageError::storage("sync", &self.root))
    }

    pub(super) fn write_layer(&self, id: Digest, record: &LayerRecord) -> Result<(), ImageError> {
        self.write(&self.layer(id).join("layer.json"), record)
    }

    pub(super) fn write_image(&self, id: Digest, record: &ImageRecord) -> Result<(), ImageError> {
        self.write(&self.image(id), record)
    }

    /// Takes note of a use, for the order in which images go.
    pub(super) fn touch(&self, id: Digest) {
        let now = std::time::SystemTime::now();
        let touched = File::open(self.image(id)).and_then(|file| file.set_modified(now));
        if let Err(error) = touched {
            tracing::debug!(%error, "an image's time of use is not kept");
        }
    }

    pub(super) fn remove_image(&self, id: Digest) {
        let _ = fs::remove_file(self.image(id));
    }

    pub(super) fn write_references(
        &self,
        references: &BTreeMap<String, Digest>,
    ) -> Result<(), ImageError> {
        self.write(&self.references(), references)
    }

    /// Takes a layer's name away. What it held goes away with the returned value, which may take a
    /// while.
    pub(super) fn detach_layer(&self, id: Digest) -> Option<TempDir> {
        let place = self.unfinished().ok()?;
        match fs::rename(self.layer(id), place.path().join("layer")) {
            Ok(()) => Some(place),
            Err(error) => {
                tracing::warn!(%error, layer = %id, "a layer cannot be removed");
                None
            }
        }
    }

    /// Replaces a small file as a whole; it is on disk when this returns.
    fn write<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), ImageError> {
        let write = || -> io::Result<()> {
            let mut file = NamedTempFile::new_in(self.tmp())?;
            file.write_all(&json(value))?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(ImageError::storage("write", path))
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records are made of texts and numbers")
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn digest_of_name(name: &str) -> Option<Digest> {
    format!("sha256:{name}").parse().ok()
}

fn last_use(path: &Path) -> Option<u64> {
    let modified = fs::metadata(path).and_then(|entry| entry.modified()).ok()?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>, ImageError> {
    let read = || -> io::Result<Vec<_>> {
        fs::read_dir(folder)?
            .map(|entry| {
                let entry = entry?;
                Ok((
                    entry.path(),
                    entry.file_name().to_string_lossy().into_owned(),
                ))
            })
            .collect()
    };
    read().map_err(ImageError::storage("read", folder))
}
