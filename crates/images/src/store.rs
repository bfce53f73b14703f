//! The image store: what is here, what is fetched, who uses it.
//!
//! One short lock guards the table of images and layers ([`state`]); nothing is awaited and no layer
//! is read under it. Work on a layer is guarded by a lock of that layer's own, so that two images
//! that share one wait for each other; all who ask for one image at once share one pull. Pulls run in
//! tasks of the runtime in which the store was opened and go on when those who asked give up.

mod disk;
mod layers;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::archive::{self, ArchivedImage};
use crate::document::{self, Configuration, Document, Platform};
use crate::layer;
use crate::progress::{LayerCounters, PullProgress, Pulls, Ticket};
use crate::registry::{Registries, Repository};
use crate::{Config, CredentialsError, Digest, ImageConfig, ImageError, Login, Network, Reference};
pub use disk::Origin;
use disk::{Disk, ImageRecord, LayerRecord};
use state::{Doomed, Image, Layer, State};
pub use state::{Needed, Prune};

/// Layers of all pulls together that are worked on at once, for each of one pull.
const PULLS_AT_ONCE: usize = 2;

/// The store of a platform. Clones are the same store.
#[derive(Clone, Debug)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    machine: Platform,
    disk: Disk,
    state: Mutex<State>,
    registries: Arc<Registries>,
    pulls: Arc<Pulls>,
    /// Fetches that somebody waits for, by what is fetched.
    flights: Mutex<HashMap<String, Flight>>,
    /// The lock of each layer that somebody works on.
    layer_locks: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    /// Room for layers in work.
    layers_at_once: Semaphore,
    runtime: Handle,
}

type Flight = Shared<BoxFuture<'static, Result<ReadyImage, ImageError>>>;

/// An image whose layers are on disk and stay there as long as this value lives.
#[derive(Clone, Debug)]
pub struct ReadyImage {
    /// What the image's tag meant, or what was asked for.
    pub digest: Digest,
    /// The layers in the format of overlayfs, lowest first; at least one.
    pub layers: Vec<PathBuf>,
    /// What the image says of how it wants to be run.
    pub config: ImageConfig,
    /// Keeps the layers.
    pub hold: Arc<Hold>,
}

/// Why credentials are not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The registry does not accept them, or cannot be asked.
    #[error(transparent)]
    Registry(#[from] ImageError),
    /// They cannot be kept.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Keeps an image from being removed.
#[derive(Debug)]
pub struct Hold {
    inner: Arc<Inner>,
    image: Digest,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.inner.state.lock().release_image(self.image, now());
    }
}

/// An image as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its digest.
    pub digest: Digest,
    /// The tags that mean it.
    pub references: Vec<String>,
    /// What its layers take on disk; what it shares counts for each image.
    pub bytes: u64,
    /// Seconds since 1970 when it came.
    pub added: u64,
    /// Seconds since 1970 when it was used last.
    pub used: u64,
    /// Whether anything runs from it.
    pub in_use: bool,
    /// Whether all of its layers are here.
    pub whole: bool,
    /// How it came.
    pub origin: Origin,
}

/// What a clearing took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The images.
    pub images: Vec<Digest>,
    /// What their layers took on disk.
    pub bytes: u64,
}

impl ImageStore {
    /// Opens the store in a folder, and makes it where there is none. What was not finished is
    /// removed. One process at a time may have it open.
    ///
    /// # Errors
    ///
    /// [`ImageError::Storage`] when the folder cannot be used.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime; that runtime does the work.
    pub fn open(folder: &Path, config: Config, network: Network) -> Result<Self, ImageError> {
        let registries = Registries::new(network, config.silence());
        let disk = Disk::open(folder)?;
        let state = State::new(disk.read()?);
        let layers_at_once = Semaphore::new(config.parallel_layers.max(1) * PULLS_AT_ONCE);
        let inner = Inner {
            machine: Platform::here(),
            config,
            disk,
            state: Mutex::new(state),
            registries: Arc::new(registries),
            pulls: Arc::default(),
            flights: Mutex::default(),
            layer_locks: Mutex::default(),
            layers_at_once,
            runtime: Handle::current(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Makes an image ready to run, and fetches what is missing. Where there is a `digest`, that image
    /// is meant, whatever the tag says by now; otherwise a tag that is known here is not asked for
    /// again.
    ///
    /// Dropping the future loses nothing: the pull goes on.
    ///
    /// # Errors
    ///
    /// [`ImageError`] that says what to do.
    pub async fn ready(
        &self,
        reference: &str,
        digest: Option<&str>,
    ) -> Result<ReadyImage, ImageError> {
        let (reference, pinned) = pinned(reference, digest)?;
        let known = pinned.or_else(|| self.inner.meant_by(&reference));
        if let Some(image) = known.and_then(|id| self.inner.hold(id)) {
            return Ok(image);
        }
        let wanted = match pinned {
            Some(digest) => reference.at(digest),
            None => reference,
        };
        self.inner.fetch_once(wanted).await
    }

    /// Fetches an image as its tag means it now, also where an older one is here.
    ///
    /// Dropping the future loses nothing: the pull goes on.
    ///
    /// # Errors
    ///
    /// [`ImageError`] that says what to do.
    pub async fn pull(&self, reference: &str) -> Result<ReadyImage, ImageError> {
        self.inner.fetch_once(reference.parse()?).await
    }

    /// The digest that a reference means now, for those who want to stay with it. The registry is
    /// asked, except for images that came from a file. Where it cannot be reached, what the tag meant
    /// the last time counts.
    ///
    /// # Errors
    ///
    /// [`ImageError::Missing`] when the registry says so, and the others.
    pub async fn resolve(&self, reference: &str) -> Result<Digest, ImageError> {
        let reference: Reference = reference.parse()?;
        let Some(tag) = reference.tag().filter(|_| reference.digest().is_none()) else {
            let digest = reference.digest();
            return digest.ok_or_else(|| ImageError::NotHere {
                name: reference.to_string(),
            });
        };
        let known = self.inner.meant_by(&reference);
        if let Some(id) = known.filter(|id| self.inner.is_loaded(*id)) {
            return Ok(id);
        }
        let repository = self.inner.registries.repository(&reference).await;
        match (repository.digest(tag).await, known) {
            (Err(ImageError::Unreachable { registry, reason }), Some(known)) => {
                tracing::warn!(registry, reason, image = %reference, "an image is taken as known");
                Ok(known)
            }
            (answer, _) => answer,
        }
    }

    /// Keeps credentials for a registry, after it accepted them.
    ///
    /// # Errors
    ///
    /// [`LoginError`].
    pub async fn login(&self, registry: &str, login: Login) -> Result<(), LoginError> {
        let registry = registry_name(registry)?;
        self.inner.registries.try_login(&registry, &login).await?;
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.registries.log_in(&registry, login)).await??;
        Ok(())
    }

    /// Forgets the credentials for a registry, and says whether there were any.
    ///
    /// # Errors
    ///
    /// [`LoginError`].
    pub async fn logout(&self, registry: &str) -> Result<bool, LoginError> {
        let registry = registry_name(registry)?;
        let inner = Arc::clone(&self.inner);
        Ok(blocking(move || inner.registries.log_out(&registry)).await??)
    }

    /// The registries for which `login` keeps credentials.
    pub fn logins(&self) -> Vec<String> {
        self.inner.registries.credentials.registries()
    }

    /// The pulls that run now.
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.inner.pulls.snapshot()
    }

    /// The pull that brings this image, if one runs.
    ///
    /// # Errors
    ///
    /// [`ImageError::Reference`].
    pub fn pull_of(
        &self,
        reference: &str,
        digest: Option<&str>,
    ) -> Result<Option<PullProgress>, ImageError> {
        let (reference, pinned) = pinned(reference, digest)?;
        let by_digest = pinned.map(|digest| reference.clone().at(digest).to_string());
        let by_name = reference.to_string();
        let mut running = self.inner.pulls.snapshot().into_iter();
        Ok(running
            .find(|pull| pull.reference == by_name || by_digest.as_ref() == Some(&pull.reference)))
    }

    /// All images, by digest.
    pub fn list(&self) -> Vec<ImageInfo> {
        let state = self.inner.state.lock();
        let images = state.images.iter();
        images.map(|(id, image)| info(&state, *id, image)).collect()
    }

    /// Reads the images of a `docker-archive` or an `oci-archive` into the store, where they stay
    /// until they are removed. `name` is what the image shall be called, and is needed where the
    /// archive does not say it.
    ///
    /// Dropping the future breaks the loading off.
    ///
    /// # Errors
    ///
    /// [`ImageError`] that says what is wrong with the archive.
    pub async fn load(
        &self,
        file: File,
        name: Option<&Reference>,
    ) -> Result<Vec<ImageInfo>, ImageError> {
        let inner = Arc::clone(&self.inner);
        let images = blocking(move || inner.read_archive(file)).await??;
        if let ([_, _, ..], Some(_)) = (&*images, name) {
            let reason = "it has several images, and only one can have the name that was given";
            return Err(ImageError::malformed("the archive", reason));
        }
        let mut loaded = Vec::new();
        for mut image in images {
            if let Some(name) = name {
                image.names = vec![name.clone()];
            }
            if image.names.is_empty() {
                let reason = "it does not say what its image is called; give it a name";
                return Err(ImageError::malformed("the archive", reason));
            }
            loaded.push(self.load_one(image).await?);
        }
        Ok(loaded)
    }

    async fn load_one(&self, image: ArchivedImage) -> Result<ImageInfo, ImageError> {
        let ArchivedImage {
            names,
            digest,
            configuration,
            layers,
        } = image;
        let name = names
            .first()
            .map_or_else(|| digest.to_string(), ToString::to_string);
        let ticket = self.inner.pulls.begin(name);
        let paired = configuration.paired(&layers)?;
        let parts = paired
            .into_iter()
            .map(|(diff_id, (section, blob))| layers::Part {
                diff_id,
                blob: blob.map(|digest| (digest, section.length)),
                length: section.length,
                place: layers::Place::File(section.clone()),
            });
        let parts: Vec<_> = parts.collect();
        let image = self
            .inner
            .assemble(&ticket, digest, configuration, parts, Origin::Loaded)
            .await?;
        let names = names.iter().map(Reference::name).collect();
        self.inner.name(names, digest).await?;
        let state = self.inner.state.lock();
        let found = state.images.get(&image.digest);
        let found = found.ok_or_else(|| ImageError::NotHere {
            name: digest.to_string(),
        })?;
        Ok(info(&state, digest, found))
    }

    /// An empty file without a name, for an archive on its way to [`ImageStore::load`].
    ///
    /// # Errors
    ///
    /// [`ImageError::Storage`].
    pub async fn incoming(&self) -> Result<File, ImageError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.disk.unnamed_file()).await?
    }

    /// What an archive may have at most, in bytes.
    pub fn largest_archive(&self) -> u64 {
        self.inner.config.max_image_bytes()
    }

    /// Removes a tag, and the image with it where no other tag means it; or the image with this
    /// digest. One that came from a file stays while a function needs it.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotHere`], [`ImageError::InUse`], or [`ImageError::Needed`].
    pub async fn remove(&self, name: &str, needed: &Needed) -> Result<Pruned, ImageError> {
        let missing = || ImageError::NotHere {
            name: name.chars().take(300).collect(),
        };
        let doomed = {
            let mut state = self.inner.state.lock();
            let id = if let Ok(id) = name.parse() {
                id
            } else {
                let reference: Reference = name.parse()?;
                let tag = reference.name();
                let id = *state.references.get(&tag).ok_or_else(missing)?;
                let same = |other: &&Digest| **other == id;
                if state.references.values().filter(same).count() > 1 {
                    state.references.remove(&tag);
                    self.inner.disk.write_references(&state.references)?;
                    return Ok(Pruned::default());
                }
                id
            };
            let image = state.images.get(&id).ok_or_else(missing)?;
            if image.holds > 0 {
                return Err(ImageError::InUse {
                    name: name.to_owned(),
                });
            }
            if let Some(function) = state.needed_by(id, needed) {
                return Err(ImageError::Needed {
                    name: name.to_owned(),
                    function: function.to_owned(),
                });
            }
            Doomed {
                images: vec![id],
                layers: state.unneeded(&BTreeSet::from([id])),
            }
        };
        self.inner.clear(doomed).await
    }

    /// Removes images that are not needed. Those that instances run from stay, and those that came
    /// from a file as long as a function needs them.
    ///
    /// # Errors
    ///
    /// [`ImageError::Storage`].
    pub async fn prune(&self, which: Prune, needed: &Needed) -> Result<Pruned, ImageError> {
        let doomed = self.inner.state.lock().prunable(which, needed);
        self.inner.clear(doomed).await
    }
}

/// A reference, and the digest that is meant whatever its tag says.
fn pinned(
    reference: &str,
    digest: Option<&str>,
) -> Result<(Reference, Option<Digest>), ImageError> {
    let reference: Reference = reference.parse()?;
    let pinned = match digest {
        Some(text) => Some(text.parse::<Digest>().map_err(|_| ImageError::Reference {
            text: text.to_owned(),
            reason: "its digest is not sha256: and 64 hexadecimal digits",
        })?),
        None => reference.digest(),
    };
    Ok((reference, pinned))
}

/// The registry of this name, as references spell it.
fn registry_name(text: &str) -> Result<String, ImageError> {
    let reference: Reference = format!("{text}/any").parse()?;
    // A text with a path in it, or one that is no host, is part of a name.
    let is_host = match reference.registry() {
        "docker.io" => reference.repository() == "library/any",
        _ => reference.repository() == "any",
    };
    if !is_host {
        return Err(ImageError::Reference {
            text: text.chars().take(300).collect(),
            reason: "it is no registry, for instance registry.example.com:5000",
        });
    }
    Ok(reference.registry().to_owned())
}

fn info(state: &State, digest: Digest, image: &Image) -> ImageInfo {
    let record = &image.record;
    let distinct: BTreeSet<_> = record.layers.iter().collect();
    let layers = distinct.into_iter().filter_map(|id| state.layers.get(id));
    let references = state.references.iter().filter(|(_, id)| **id == digest);
    ImageInfo {
        digest,
        references: references.map(|(name, _)| name.clone()).collect(),
        bytes: layers.map(|layer| layer.record.bytes).sum(),
        added: record.added,
        used: image.used,
        in_use: image.holds > 0,
        whole: state.is_whole(record),
        origin: record.origin,
    }
}

impl Inner {
    fn meant_by(&self, reference: &Reference) -> Option<Digest> {
        self.state.lock().references.get(&reference.name()).copied()
    }

    fn is_loaded(&self, id: Digest) -> bool {
        let state = self.state.lock();
        let image = state.images.get(&id);
        image.is_some_and(|image| image.record.origin == Origin::Loaded)
    }

    /// Fetches what is wanted, once for all who want it at the same time.
    async fn fetch_once(self: &Arc<Self>, wanted: Reference) -> Result<ReadyImage, ImageError> {
        let name = wanted.name();
        let flight = {
            let mut flights = self.flights.lock();
            let running = flights.entry(name.clone());
            running.or_insert_with(|| self.start(wanted, name)).clone()
        };
        flight.await
    }

    fn start(self: &Arc<Self>, wanted: Reference, name: String) -> Flight {
        let inner = Arc::clone(self);
        let broken = ImageError::BrokenOff {
            image: name.clone(),
        };
        let task = self.runtime.spawn(async move {
            let fetched = inner.fetch(&wanted).await;
            // Whoever asks from now on asks anew.
            inner.flights.lock().remove(&name);
            match &fetched {
                Ok(image) => tracing::info!(image = %wanted, digest = %image.digest, "pulled"),
                Err(error) => {
                    let error = bugle_types::report(error);
                    tracing::info!(image = %wanted, error, "an image cannot be pulled");
                }
            }
            fetched
        });
        task.map(move |ended| ended.unwrap_or(Err(broken)))
            .boxed()
            .shared()
    }

    async fn fetch(self: &Arc<Self>, wanted: &Reference) -> Result<ReadyImage, ImageError> {
        let ticket = self.pulls.begin(wanted.to_string());
        let repository = self.registries.repository(wanted).await;
        let digest = wanted.digest();
        let name = match (digest, wanted.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or_default().to_owned(),
        };
        let (id, bytes) = repository.manifest(&name, digest).await?;
        let image = match self.hold(id) {
            Some(image) => image,
            None => self.fetch_content(&ticket, &repository, id, &bytes).await?,
        };
        self.name(vec![wanted.name()], id).await?;
        Ok(image)
    }

    async fn fetch_content(
        self: &Arc<Self>,
        ticket: &Ticket,
        repository: &Repository,
        id: Digest,
        bytes: &[u8],
    ) -> Result<ReadyImage, ImageError> {
        let manifest = match Document::parse(bytes)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(entries) => {
                let chosen = document::choose(&entries, &self.machine)?.digest;
                let (_, bytes) = repository
                    .manifest(&chosen.to_string(), Some(chosen))
                    .await?;
                match Document::parse(&bytes)? {
                    Document::Manifest(manifest) => manifest,
                    Document::Index(_) => {
                        let reason = "it is an index where an image should be";
                        return Err(ImageError::malformed("the manifest", reason));
                    }
                }
            }
        };
        let bytes = repository.document(manifest.config.digest).await?;
        let configuration = Configuration::parse(&bytes, &self.machine)?;
        let paired = configuration.paired(&manifest.layers)?;
        let parts = paired.into_iter().map(|(diff_id, layer)| layers::Part {
            diff_id,
            blob: Some((layer.digest, layer.size)),
            length: layer.size,
            place: layers::Place::Registry(repository.clone()),
        });
        let parts = parts.collect();
        self.assemble(ticket, id, configuration, parts, Origin::Pulled)
            .await
    }

    /// The image, if all of it is here.
    fn hold(self: &Arc<Self>, id: Digest) -> Option<ReadyImage> {
        let (record, stack) = {
            let mut state = self.state.lock();
            let record = state.hold_image(id, now())?;
            let stack = state.stack(&record);
            (record, stack)
        };
        self.disk.touch(id);
        Some(ReadyImage {
            digest: id,
            layers: stack
                .into_iter()
                .map(|id| self.disk.layer_files(id))
                .collect(),
            config: record.config,
            hold: Arc::new(Hold {
                inner: Arc::clone(self),
                image: id,
            }),
        })
    }

    /// Reads an archive's documents; one that is compressed as a whole is inflated first.
    fn read_archive(&self, mut file: File) -> Result<Vec<ArchivedImage>, ImageError> {
        let unreadable = |error: io::Error| ImageError::malformed("the archive", error.to_string());
        let mut start = [0; 4];
        let length = std::os::unix::fs::FileExt::read_at(&file, &mut start, 0);
        let length = length.map_err(unreadable)?;
        if layer::is_compressed(&start[..length]) {
            let mut inflated = self.disk.unnamed_file()?;
            let most = self.config.max_image_bytes();
            let stream = layer::inflated(io::BufReader::new(file)).map_err(unreadable)?;
            let mut stream = io::Read::take(stream, most.saturating_add(1));
            let length = io::copy(&mut stream, &mut inflated).map_err(unreadable)?;
            if length > most {
                return Err(self.too_large("an archive"));
            }
            drop(stream);
            file = inflated;
        }
        archive::images(file, &self.machine)
    }

    fn too_large(&self, what: &'static str) -> ImageError {
        ImageError::TooLarge {
            what,
            limit_mib: self.config.max_image_mib,
        }
    }

    /// Brings all layers of an image here and keeps it.
    async fn assemble(
        self: &Arc<Self>,
        ticket: &Ticket,
        id: Digest,
        configuration: Configuration,
        parts: Vec<layers::Part>,
        origin: Origin,
    ) -> Result<ReadyImage, ImageError> {
        if parts.is_empty() {
            let reason = "it has no layers, so there is nothing to run";
            return Err(ImageError::malformed("the image", reason));
        }
        let compressed = parts
            .iter()
            .fold(0, |sum: u64, part| sum.saturating_add(part.length));
        if compressed > self.config.max_image_bytes() {
            return Err(self.too_large("layers"));
        }
        let counters: Vec<_> = parts
            .iter()
            .map(|part| LayerCounters::new(part.name(), part.length))
            .collect();
        ticket.pull.set_layers(counters.clone());
        let inflated = Arc::new(AtomicU64::new(0));
        let holds = layers::bring_all(self, parts, counters, &inflated).await?;
        let record = ImageRecord {
            origin,
            added: now(),
            compressed,
            config: configuration.run,
            layers: configuration.diff_ids,
        };
        let inner = Arc::clone(self);
        blocking(move || inner.keep(id, record)).await??;
        let image = self.hold(id).ok_or_else(|| ImageError::BrokenOff {
            image: id.to_string(),
        })?;
        // Only now: between the two nobody may remove a layer.
        drop(holds);
        self.settle();
        Ok(image)
    }

    fn keep(&self, id: Digest, mut record: ImageRecord) -> Result<(), ImageError> {
        let mut state = self.state.lock();
        let (holds, used) = match state.images.get(&id) {
            Some(known) => {
                // What came from a file may be nowhere else.
                if known.record.origin == Origin::Loaded {
                    record.origin = Origin::Loaded;
                }
                (known.holds, known.used)
            }
            None => (0, now()),
        };
        self.disk.write_image(id, &record)?;
        let image = Image {
            record,
            used,
            holds,
        };
        state.images.insert(id, image);
        Ok(())
    }

    /// Makes these tags mean this image.
    async fn name(self: &Arc<Self>, names: Vec<String>, id: Digest) -> Result<(), ImageError> {
        let inner = Arc::clone(self);
        let named = move || {
            let mut state = inner.state.lock();
            for name in names {
                state.references.insert(name, id);
            }
            inner.disk.write_references(&state.references)
        };
        blocking(named).await?
    }

    /// What can wait until after a pull: old images go where there are too many, and what is new is
    /// synced.
    fn settle(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        self.runtime.spawn_blocking(move || {
            let doomed = inner.state.lock().over(inner.config.cache_bytes());
            if let Err(error) = inner.clear_now(&doomed) {
                tracing::warn!(%error, "old images cannot be removed");
            }
            if let Err(error) = inner.sync() {
                tracing::warn!(%error, "layers are not synced");
            }
        });
    }

    fn sync(&self) -> Result<(), ImageError> {
        let unsynced = |layer: &Layer| layer.record.unsynced_since_boot.is_some();
        let mut records: BTreeMap<Digest, LayerRecord> = {
            let state = self.state.lock();
            let layers = state.layers.iter().filter(|(_, layer)| unsynced(layer));
            layers
                .map(|(id, layer)| (*id, layer.record.clone()))
                .collect()
        };
        if records.is_empty() {
            return Ok(());
        }
        self.disk.sync_files()?;
        let mut state = self.state.lock();
        for (id, record) in &mut records {
            // It may have been removed in the meantime, and its folder with it.
            if let Some(layer) = state.layers.get_mut(id) {
                record.unsynced_since_boot = None;
                self.disk.write_layer(*id, record)?;
                layer.record = record.clone();
            }
        }
        Ok(())
    }

    async fn clear(self: &Arc<Self>, doomed: Doomed) -> Result<Pruned, ImageError> {
        let inner = Arc::clone(self);
        blocking(move || inner.clear_now(&doomed)).await?
    }

    /// Removes what nobody began to use since it was chosen.
    fn clear_now(&self, chosen: &Doomed) -> Result<Pruned, ImageError> {
        let (bytes, images, detached) = {
            let mut state = self.state.lock();
            let held = |id: &Digest| state.images.get(id).is_none_or(|image| image.holds > 0);
            let images: BTreeSet<_> = chosen
                .images
                .iter()
                .copied()
                .filter(|id| !held(id))
                .collect();
            let unneeded: BTreeSet<_> = state.unneeded(&images).into_iter().collect();
            let layers = chosen
                .layers
                .iter()
                .copied()
                .filter(|id| unneeded.contains(id));
            let doomed = Doomed {
                layers: layers.collect(),
                images: images.into_iter().collect(),
            };
            if doomed == Doomed::default() {
                return Ok(Pruned::default());
            }
            let bytes = doomed
                .layers
                .iter()
                .map(|id| state.layers[id].record.bytes)
                .sum();
            state.forget(&doomed);
            self.disk.write_references(&state.references)?;
            for id in &doomed.images {
                self.disk.remove_image(*id);
            }
            let layers = doomed.layers.iter();
            let detached: Vec<_> = layers
                .filter_map(|id| self.disk.detach_layer(*id))
                .collect();
            (bytes, doomed.images, detached)
        };
        // Files go after the lock.
        drop(detached);
        Ok(Pruned { images, bytes })
    }
}

/// Does what blocks where blocking is allowed.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(act)
        .await
        .map_err(|_| ImageError::BrokenOff {
            image: "an image".to_owned(),
        })
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
