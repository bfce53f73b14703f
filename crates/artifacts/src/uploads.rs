//! Packages that were uploaded, by tenant and digest.
//!
//! They lie in a folder of the platform, or in a bucket of the operator's. Nobody names them but by
//! their digest, and a tenant only ever gets his own. One that no version uses goes after a while:
//! [`Uploads::sweep`] is told what is used.

mod trim;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bugle_types::TenantId;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use crate::cache::blocking;
use crate::digest::Sha512;
use crate::receive::{self, Broken, Chunk};
use crate::s3::{Place, S3};
use crate::{Config, Error};

/// How names of what is arriving begin.
const ARRIVING: &str = ".tmp-";

/// How much is read of a file at once.
const READ: usize = 256 << 10;

/// How many packages arrive at once; more wait. It bounds what lies on the disk before it counts.
const ARRIVALS: usize = 8;

/// The most packages that are looked through for unused ones; others have their turn when these
/// have gone.
const SWEPT: usize = 100_000;

/// The most packages of a tenant that one list tells.
const LISTED: usize = 1000;

/// The packages that were uploaded. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Uploads {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    /// Empty where the folder holds them.
    bucket: String,
    s3: S3,
    max_package_bytes: u64,
    max_bytes: u64,
    unused: Duration,
    arrivals: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What lies in the folder, in bytes.
    bytes: u64,
    /// Since when a package has been seen unused.
    unused: BTreeMap<(TenantId, Sha512), Instant>,
}

/// A package that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Its digest.
    pub sha512: Sha512,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Uploads {
    pub(crate) fn open(config: &Config, folder: PathBuf, s3: S3) -> Result<Self, Error> {
        fs::create_dir_all(&folder).map_err(Error::Store)?;
        let mut bytes = 0;
        for (tenant, path) in children(&folder).map_err(Error::Store)? {
            if tenant.starts_with(ARRIVING) {
                fs::remove_file(&path).map_err(Error::Store)?;
                continue;
            }
            for (_, package) in children(&path).map_err(Error::Store)? {
                bytes += fs::metadata(package).map_err(Error::Store)?.len();
            }
        }
        Ok(Self {
            shared: Arc::new(Shared {
                folder,
                bucket: config.upload_bucket.clone(),
                s3,
                max_package_bytes: config.max_package_bytes,
                max_bytes: config.store_bytes,
                unused: Duration::from_secs(config.unused_seconds),
                arrivals: Semaphore::new(ARRIVALS),
                state: Mutex::new(State {
                    bytes,
                    unused: BTreeMap::new(),
                }),
            }),
        })
    }

    /// The largest package that is taken, in bytes.
    pub fn max_package_bytes(&self) -> u64 {
        self.shared.max_package_bytes
    }

    /// Stores a package as it arrives, never in memory as a whole. Where it is there already,
    /// nothing changes.
    ///
    /// Cancel safe: what has arrived is thrown away.
    ///
    /// # Errors
    ///
    /// [`Error::Digest`] if it is not what `expected` says; its length, the limits, the store.
    pub async fn put<S, E>(
        &self,
        tenant: &TenantId,
        expected: Option<&Sha512>,
        body: S,
    ) -> Result<Uploaded, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
    {
        let _turn = self.shared.arrivals.acquire().await;
        let shared = Arc::clone(&self.shared);
        let (sender, receiver) = mpsc::channel::<Chunk>(receive::CHUNKS);
        let saving = blocking(move || {
            let file = tempfile::Builder::new()
                .prefix(ARRIVING)
                .tempfile_in(&shared.folder)
                .map_err(Error::Store)?;
            let (sha512, bytes) =
                receive::save(receiver, file.as_file(), shared.max_package_bytes)?;
            file.as_file().sync_all().map_err(Error::Store)?;
            Ok((file, Uploaded { sha512, bytes }))
        });
        let sending = async move {
            let mut body = std::pin::pin!(body);
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(|_| Broken);
                let broken = chunk.is_err();
                if sender.send(chunk).await.is_err() || broken {
                    return;
                }
            }
        };
        let ((), saved) = tokio::join!(sending, saving);
        let (file, uploaded) = saved?;
        if let Some(expected) = expected
            && *expected != uploaded.sha512
        {
            return Err(Error::Digest {
                package: "the package".to_owned(),
                expected: expected.to_string(),
                found: uploaded.sha512.to_string(),
            });
        }
        self.keep(tenant, file, &uploaded).await?;
        // It has not been unused for long, however long ago it was uploaded first.
        let key = (tenant.clone(), uploaded.sha512.clone());
        self.shared.state.lock().unused.remove(&key);
        Ok(uploaded)
    }

    async fn keep(
        &self,
        tenant: &TenantId,
        file: tempfile::NamedTempFile,
        uploaded: &Uploaded,
    ) -> Result<(), Error> {
        if let Some(place) = self.place(tenant, &uploaded.sha512) {
            if self.shared.s3.size(&place).await? == Some(uploaded.bytes) {
                return Ok(());
            }
            let file = file.reopen().map_err(Error::Store)?;
            let file = tokio::fs::File::from_std(file);
            return self.shared.s3.upload(&place, file).await;
        }
        let (shared, tenant, uploaded) =
            (Arc::clone(&self.shared), tenant.clone(), uploaded.clone());
        blocking(move || shared.put_in_place(&tenant, file, &uploaded)).await
    }

    /// How long the tenant's package of this digest is.
    ///
    /// # Errors
    ///
    /// [`Error::NotUploaded`], or the store.
    pub async fn find(&self, tenant: &TenantId, sha512: &Sha512) -> Result<Uploaded, Error> {
        let bytes = if let Some(place) = self.place(tenant, sha512) {
            self.shared.s3.size(&place).await?
        } else {
            let (uploads, tenant, sha512) = (self.clone(), tenant.clone(), sha512.clone());
            let file = blocking(move || {
                let file = uploads.file(&tenant, &sha512)?;
                Ok(file.metadata().map_err(Error::Store)?.len())
            });
            Some(file.await?)
        };
        let bytes = bytes.ok_or_else(|| missing(sha512))?;
        Ok(Uploaded {
            sha512: sha512.clone(),
            bytes,
        })
    }

    /// The bytes of a tenant's package, and how many they are.
    ///
    /// # Errors
    ///
    /// [`Error::NotUploaded`], or the store. The stream ends with an error where the store fails
    /// later.
    pub async fn get(
        &self,
        tenant: &TenantId,
        sha512: &Sha512,
    ) -> Result<(u64, impl Stream<Item = io::Result<Bytes>> + Send + use<>), Error> {
        let found = self.find(tenant, sha512).await?;
        let (sender, receiver) = mpsc::channel::<Chunk>(receive::CHUNKS);
        if let Some(place) = self.place(tenant, sha512) {
            let s3 = self.shared.s3.clone();
            // What fails is told to the receiver, which is the one who waits.
            tokio::spawn(async move { s3.download(&place, &sender).await.is_ok() });
        } else {
            let (uploads, tenant, sha512) = (self.clone(), tenant.clone(), sha512.clone());
            let file = blocking(move || uploads.file(&tenant, &sha512)).await?;
            tokio::spawn(read_all(tokio::fs::File::from_std(file), sender));
        }
        let chunks = stream::unfold(receiver, |mut receiver| async {
            let chunk = receiver.recv().await?;
            let chunk = chunk.map_err(|Broken| io::Error::other("the package cannot be read"));
            Some((chunk, receiver))
        });
        Ok((found.bytes, chunks))
    }

    /// The tenant's packages, at most 1,000, in order of their digests.
    ///
    /// # Errors
    ///
    /// The store.
    pub async fn list(&self, tenant: &TenantId) -> Result<Vec<Uploaded>, Error> {
        let names = if self.shared.bucket.is_empty() {
            let folder = self.shared.of_tenant(tenant);
            blocking(move || {
                let packages = children(&folder).map_err(Error::Store)?.into_iter();
                let sized = packages.take(LISTED).map(|(name, path)| {
                    let bytes = fs::metadata(path).map_err(Error::Store)?.len();
                    Ok((name, bytes))
                });
                sized.collect::<Result<Vec<_>, Error>>()
            })
            .await?
        } else {
            let place = self.shared.in_bucket(&format!("{}/", tenant.as_str()));
            self.shared.s3.list(&place, LISTED).await?
        };
        let known = names.into_iter().filter_map(|(name, bytes)| {
            let sha512 = name.rsplit('/').next()?.parse().ok()?;
            Some(Uploaded { sha512, bytes })
        });
        Ok(known.collect())
    }

    /// Removes a tenant's package. Versions that use it start as long as it is in the cache.
    ///
    /// # Errors
    ///
    /// [`Error::NotUploaded`], or the store.
    pub async fn delete(&self, tenant: &TenantId, sha512: &Sha512) -> Result<(), Error> {
        if let Some(place) = self.place(tenant, sha512) {
            self.find(tenant, sha512).await?;
            return self.shared.s3.delete(&place).await;
        }
        let (shared, tenant, sha512) = (Arc::clone(&self.shared), tenant.clone(), sha512.clone());
        blocking(move || shared.remove(&tenant, &sha512)).await
    }

    /// Removes the packages that no version has used for `packages.unused_seconds`. `used` are those
    /// that are used now. Says how many went.
    ///
    /// # Errors
    ///
    /// The store.
    pub async fn sweep(
        &self,
        used: &BTreeSet<(TenantId, Sha512)>,
        now: Instant,
    ) -> Result<usize, Error> {
        let stored = self.all().await?;
        let due = {
            let mut state = self.shared.state.lock();
            state
                .unused
                .retain(|package, _| stored.contains(package) && !used.contains(package));
            let mut due = Vec::new();
            for package in stored.difference(used) {
                let since = *state.unused.entry(package.clone()).or_insert(now);
                if now.duration_since(since) >= self.shared.unused {
                    due.push(package.clone());
                }
            }
            due
        };
        for (tenant, sha512) in &due {
            match self.delete(tenant, sha512).await {
                Ok(()) | Err(Error::NotUploaded { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(due.len())
    }

    async fn all(&self) -> Result<BTreeSet<(TenantId, Sha512)>, Error> {
        if !self.shared.bucket.is_empty() {
            let place = self.shared.in_bucket("");
            let objects = self.shared.s3.list(&place, SWEPT).await?;
            let names = objects.into_iter();
            return Ok(names.filter_map(|(name, _)| of_object(&name)).collect());
        }
        let folder = self.shared.folder.clone();
        blocking(move || {
            let mut all = BTreeSet::new();
            for (tenant, path) in children(&folder).map_err(Error::Store)? {
                let Ok(tenant) = tenant.parse::<TenantId>() else {
                    continue;
                };
                for (name, _) in children(&path).map_err(Error::Store)? {
                    all.extend(name.parse().ok().map(|sha512| (tenant.clone(), sha512)));
                }
            }
            Ok(all)
        })
        .await
    }

    /// Where a package is in the bucket; nothing where the folder holds the packages.
    pub(crate) fn place(&self, tenant: &TenantId, sha512: &Sha512) -> Option<Place> {
        if self.shared.bucket.is_empty() {
            return None;
        }
        let object = format!("{}/{sha512}", tenant.as_str());
        Some(self.shared.in_bucket(&object))
    }

    /// The file of a package. Blocks.
    pub(crate) fn file(&self, tenant: &TenantId, sha512: &Sha512) -> Result<File, Error> {
        let path = self.shared.of_tenant(tenant).join(sha512.as_str());
        match File::open(path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing(sha512)),
            Err(error) => Err(Error::Store(error)),
        }
    }
}

impl Shared {
    fn of_tenant(&self, tenant: &TenantId) -> PathBuf {
        self.folder.join(tenant.as_str())
    }

    fn in_bucket(&self, name: &str) -> Place {
        Place {
            endpoint: String::new(),
            bucket: self.bucket.clone(),
            object: format!("{PREFIX}{name}"),
        }
    }

    fn put_in_place(
        &self,
        tenant: &TenantId,
        file: tempfile::NamedTempFile,
        uploaded: &Uploaded,
    ) -> Result<(), Error> {
        let folder = self.of_tenant(tenant);
        let path = folder.join(uploaded.sha512.as_str());
        fs::create_dir_all(&folder).map_err(Error::Store)?;
        let mut state = self.state.lock();
        if path.try_exists().map_err(Error::Store)? {
            return Ok(());
        }
        if state.bytes + uploaded.bytes > self.max_bytes {
            return Err(Error::StoreFull {
                max: self.max_bytes,
            });
        }
        file.persist(&path)
            .map_err(|error| Error::Store(error.error))?;
        state.bytes += uploaded.bytes;
        drop(state);
        sync_folder(&folder)?;
        sync_folder(&self.folder)
    }

    fn remove(&self, tenant: &TenantId, sha512: &Sha512) -> Result<(), Error> {
        let path = self.of_tenant(tenant).join(sha512.as_str());
        let mut state = self.state.lock();
        let bytes = match fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(sha512)),
            Err(error) => return Err(Error::Store(error)),
        };
        fs::remove_file(path).map_err(Error::Store)?;
        state.bytes = state.bytes.saturating_sub(bytes);
        Ok(())
    }
}

/// What the names of objects begin with, so that a bucket may hold other things.
const PREFIX: &str = "bugle-packages/";

fn of_object(name: &str) -> Option<(TenantId, Sha512)> {
    let (tenant, sha512) = name.strip_prefix(PREFIX)?.split_once('/')?;
    Some((tenant.parse().ok()?, sha512.parse().ok()?))
}

fn missing(sha512: &Sha512) -> Error {
    Error::NotUploaded {
        sha512: sha512.to_string(),
    }
}

/// The names in a folder, in order; none if there is no such folder.
fn children(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut names = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        names.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        ));
    }
    names.sort();
    Ok(names)
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    let opened = File::open(folder).map_err(Error::Store)?;
    opened.sync_all().map_err(Error::Store)
}

async fn read_all(mut file: tokio::fs::File, chunks: mpsc::Sender<Chunk>) {
    loop {
        let chunk = match receive::part(&mut file, READ).await {
            Ok(chunk) if chunk.is_empty() => return,
            Ok(chunk) => Ok(chunk),
            Err(_) => Err(Broken),
        };
        let broken = chunk.is_err();
        if chunks.send(chunk).await.is_err() || broken {
            return;
        }
    }
}
