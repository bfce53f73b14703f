//! The way from what a function calls its code to a directory that is ready to run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bugle_types::{CodeLocation, Generation, TenantId};
use tokio::sync::mpsc;

use crate::address;
use crate::archive::Unpacked;
use crate::bytecode::Compilation;
use crate::cache::{Cache, Hold, Key, blocking};
use crate::digest::Sha512;
use crate::receive::{self, Expected};
use crate::s3::{Place, S3};
use crate::uploads::Uploads;
use crate::{CodeRoots, Config, Error, UPLOADED, copy};

/// What the packages are built on.
#[derive(Clone, Debug)]
pub struct Foundation {
    /// Where code may be that is used in place or copied.
    pub roots: CodeRoots,
    /// The folder for unpacked packages.
    pub cache: PathBuf,
    /// The folder for uploaded packages.
    pub uploads: PathBuf,
    /// The addresses that functions may name.
    pub addresses: address::Config,
    /// The environment, of which the usual variables for S3 are used.
    pub environment: Vec<(String, String)>,
}

/// The code of all functions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Packages {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    roots: CodeRoots,
    cache: Cache,
    folder: PathBuf,
    s3: S3,
    uploads: Uploads,
}

/// The code of a function. While it lives its package stays in the cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Code {
    place: Where,
}

#[derive(Clone, Debug)]
enum Where {
    /// Found anew for each instance: it is not ours, and may have become something else.
    Local(CodeRoots, Arc<str>),
    Cached(Arc<Hold>),
}

impl Code {
    /// The directory. Blocks where the code is used in place: it may be on a file system that does
    /// not answer.
    ///
    /// # Errors
    ///
    /// [`Error`] says what to change.
    pub fn directory(&self) -> Result<PathBuf, Error> {
        match &self.place {
            Where::Local(roots, path) => roots.directory(path),
            Where::Cached(hold) => Ok(hold.path()),
        }
    }

    /// Whether it lies in the platform's own cache, and not in a folder of somebody else's.
    pub fn is_ours(&self) -> bool {
        matches!(self.place, Where::Cached(_))
    }

    /// Takes on to compile the code for an interpreter; nothing where that is done, or under way,
    /// or where the code is not the platform's to write to.
    pub fn compile_for(&self, interpreter: &str) -> Option<Compilation> {
        match &self.place {
            Where::Local(..) => None,
            Where::Cached(hold) => Compilation::claim(hold, interpreter),
        }
    }
}

impl Packages {
    /// Opens the cache and the store of uploads, and makes them where they are not there. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`], [`Error::Store`], or what is wrong with the configuration.
    pub fn open(config: Config, foundation: Foundation) -> Result<Self, Error> {
        let Foundation {
            roots,
            cache: folder,
            uploads,
            addresses,
            environment,
        } = foundation;
        let cache = Cache::open(&folder, config.cache_bytes).map_err(Error::cache)?;
        let s3 = S3::new(config.clone(), addresses, &environment)?;
        let uploads = Uploads::open(&config, uploads, s3.clone())?;
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                roots,
                cache,
                folder,
                s3,
                uploads,
            }),
        })
    }

    /// The folder below which unpacked packages are.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// What unpacked packages take on the disk, in bytes, and how many there are.
    pub fn cached(&self) -> (u64, usize) {
        self.shared.cache.size()
    }

    /// What unpacked packages may take on the disk, in bytes.
    pub fn cache_bytes(&self) -> u64 {
        self.shared.config.cache_bytes
    }

    /// The packages that were uploaded.
    pub fn uploads(&self) -> &Uploads {
        &self.shared.uploads
    }

    /// The code at `location`, for instances of `generation` of a function of `tenant`.
    ///
    /// It is there when this returns, however long that takes; `packages.download_seconds` bounds
    /// it. Cancel safe: what was begun goes on for the next who asks.
    ///
    /// # Errors
    ///
    /// [`Error`] says what to change; shared by all who waited for the same package.
    pub async fn ready(
        &self,
        tenant: &TenantId,
        location: &CodeLocation,
        generation: &Generation,
    ) -> Result<Code, Arc<Error>> {
        let place = match location {
            CodeLocation::Local(path) => {
                Where::Local(self.shared.roots.clone(), path.as_str().into())
            }
            CodeLocation::Copy(path) => Where::Cached(self.copied(path, generation).await?),
            CodeLocation::S3 {
                bucket,
                object,
                endpoint,
                sha512,
            } => {
                let place = Place {
                    endpoint: endpoint.clone(),
                    bucket: bucket.clone(),
                    object: object.clone(),
                };
                Where::Cached(self.packaged(tenant, place, sha512, generation).await?)
            }
            CodeLocation::Image(_) | CodeLocation::None => return Err(Arc::new(Error::NoCode)),
        };
        Ok(Code { place })
    }

    async fn copied(&self, path: &str, generation: &Generation) -> Result<Arc<Hold>, Arc<Error>> {
        let (shared, path) = (Arc::clone(&self.shared), path.to_owned());
        let key = {
            let (roots, path) = (shared.roots.clone(), path.clone());
            let source = blocking(move || roots.directory(&path)).await?;
            let key = Key::of(&[
                b"copy",
                source.as_os_str().as_encoded_bytes(),
                generation.0.as_bytes(),
            ]);
            (key, source)
        };
        let (key, source) = key;
        let fill = move |target: PathBuf| {
            blocking(move || {
                let copied = copy::into(&source, &target);
                copied.map_err(|source| Error::Copy { path, source })
            })
        };
        shared.cache.ready(&key, fill).await
    }

    async fn packaged(
        &self,
        tenant: &TenantId,
        place: Place,
        sha512: &str,
        generation: &Generation,
    ) -> Result<Arc<Hold>, Arc<Error>> {
        if place.endpoint == UPLOADED {
            let sha512 = place.object.parse().map_err(Arc::new)?;
            return self.uploaded(tenant, &sha512).await;
        }
        let sha512: Option<Sha512> = match sha512 {
            "" => None,
            given => Some(given.parse().map_err(Arc::new)?),
        };
        if self.shared.s3.is_upload_bucket(&place).map_err(Arc::new)? {
            let bucket = place.bucket;
            return Err(Arc::new(Error::OwnBucket { bucket }));
        }
        // Without a digest an object is what it was when the generation was first started.
        let version = match &sha512 {
            Some(sha512) => sha512.as_str(),
            None => &generation.0,
        };
        let key = Key::of(&[
            b"s3",
            place.endpoint.as_bytes(),
            place.bucket.as_bytes(),
            place.object.as_bytes(),
            version.as_bytes(),
        ]);
        let expected = Expected {
            package: place.shown(),
            sha512,
            limits: self.shared.config.limits(),
        };
        let shared = Arc::clone(&self.shared);
        let fill = move |target| async move { shared.download(place, expected, target).await };
        self.shared.cache.ready(&key, fill).await
    }

    /// The uploaded package of a tenant; the digest of one that belongs to another is of no use.
    async fn uploaded(&self, tenant: &TenantId, sha512: &Sha512) -> Result<Arc<Hold>, Arc<Error>> {
        let key = Key::of(&[
            b"upload",
            tenant.as_str().as_bytes(),
            sha512.as_str().as_bytes(),
        ]);
        let (shared, tenant, sha512) = (Arc::clone(&self.shared), tenant.clone(), sha512.clone());
        let fill = move |target| async move { shared.open_upload(&tenant, &sha512, target).await };
        self.shared.cache.ready(&key, fill).await
    }

    /// Unpacks an uploaded package ahead of its first start, so that what is wrong with it is told
    /// to whoever sent it.
    ///
    /// # Errors
    ///
    /// [`Error`], of which [`Error::code`] says whether the package is to blame.
    pub async fn check_upload(&self, tenant: &TenantId, sha512: &Sha512) -> Result<(), Arc<Error>> {
        self.uploaded(tenant, sha512).await.map(drop)
    }
}

impl Shared {
    /// Downloads a package and unpacks it while it arrives.
    async fn download(
        &self,
        place: Place,
        expected: Expected,
        target: PathBuf,
    ) -> Result<Unpacked, Error> {
        let package = expected.package.clone();
        let (sender, receiver) = mpsc::channel(receive::CHUNKS);
        let unpacking = blocking(move || receive::unpack(receiver, &target, &expected));
        let limit = self.config.download();
        let downloading = async {
            let sent = tokio::time::timeout(limit, self.s3.download(&place, &sender)).await;
            let sent = if let Ok(sent) = sent {
                sent
            } else {
                let _ = sender.send(Err(receive::Broken)).await;
                Err(Error::Download {
                    package,
                    why: format!("it took longer than {} seconds", limit.as_secs()),
                })
            };
            drop(sender);
            sent
        };
        let (sent, unpacked) = tokio::join!(downloading, unpacking);
        // Where the network failed, that is the reason for whatever came of the rest.
        sent?;
        unpacked
    }

    async fn open_upload(
        &self,
        tenant: &TenantId,
        sha512: &Sha512,
        target: PathBuf,
    ) -> Result<Unpacked, Error> {
        let expected = Expected {
            package: "the uploaded package".to_owned(),
            sha512: Some(sha512.clone()),
            limits: self.config.limits(),
        };
        if let Some(place) = self.uploads.place(tenant, sha512) {
            return match self.s3.size(&place).await? {
                Some(_) => self.download(place, expected, target).await,
                None => Err(Error::NotUploaded {
                    sha512: sha512.to_string(),
                }),
            };
        }
        let (uploads, tenant, sha512) = (self.uploads.clone(), tenant.clone(), sha512.clone());
        blocking(move || {
            let file = uploads.file(&tenant, &sha512)?;
            receive::unpack_file(&file, &target, &expected)
        })
        .await
    }
}

#[cfg(test)]
mod tests;
