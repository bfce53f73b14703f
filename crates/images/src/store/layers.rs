//! Brings the layers of one image into the store, some at once, each of them once.

use std::future::Future;
use std::io::Read;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tempfile::TempDir;

use super::disk::Disk;
use super::state::Layer;
use super::{Inner, blocking};
use crate::archive::Section;
use crate::layer::{self, Limits, Source, Unpacked};
use crate::progress::LayerCounters;
use crate::registry::{Repository, channel};
use crate::{Digest, ImageError};

/// A layer of an image that shall be here.
#[derive(Debug)]
pub(super) struct Part {
    /// The digest of its tar stream.
    pub(super) diff_id: Digest,
    /// Digest and length of its blob, where they are promised.
    pub(super) blob: Option<(Digest, u64)>,
    /// How many bytes have to be read.
    pub(super) length: u64,
    /// Where it is.
    pub(super) place: Place,
}

impl Part {
    /// What people know it by.
    pub(super) fn name(&self) -> Digest {
        self.blob.map_or(self.diff_id, |(digest, _)| digest)
    }
}

/// Where the bytes of a layer are.
#[derive(Debug)]
pub(super) enum Place {
    /// In an archive.
    File(Section),
    /// In a repository, under the blob's digest.
    Registry(Repository),
}

/// Keeps a layer from being removed while its image is not there yet.
#[derive(Debug)]
pub(super) struct LayerHold {
    inner: Arc<Inner>,
    id: Digest,
}

impl Drop for LayerHold {
    fn drop(&mut self) {
        self.inner.state.lock().release_layer(self.id);
    }
}

/// Brings all of them, or fails with the first that cannot be brought.
pub(super) async fn bring_all(
    inner: &Arc<Inner>,
    parts: Vec<Part>,
    counters: Vec<Arc<LayerCounters>>,
    inflated: &Arc<AtomicU64>,
) -> Result<Vec<LayerHold>, ImageError> {
    let at_once = inner.config.parallel_layers.max(1);
    stream::iter(parts.into_iter().zip(counters))
        .map(|(part, counters)| bring(inner, part, counters, Arc::clone(inflated)))
        .buffer_unordered(at_once)
        .try_collect()
        .await
}

async fn bring(
    inner: &Arc<Inner>,
    part: Part,
    counters: Arc<LayerCounters>,
    inflated: Arc<AtomicU64>,
) -> Result<LayerHold, ImageError> {
    let (id, name) = (part.diff_id, part.name());
    let lock = inner.layer_lock(id);
    let _turn = lock.lock().await;
    if let Some(hold) = hold(inner, id, &inflated)? {
        counters.done();
        return Ok(hold);
    }
    let _room = inner.layers_at_once.acquire().await;
    let job = Job {
        inner: Arc::clone(inner),
        id,
        blob: part.blob,
        counters: Arc::clone(&counters),
        inflated,
    };
    match part.place {
        Place::File(section) => {
            let reader = Reported {
                input: section.read(),
                counters: Arc::clone(&counters),
            };
            run(job, reader, std::future::ready(())).await?;
        }
        Place::Registry(repository) => {
            let (sender, reader) = channel();
            let feed = repository.download(name, part.length, &counters, sender);
            run(job, reader, feed).await?;
        }
    }
    counters.done();
    hold(inner, id, &AtomicU64::new(0))?.ok_or_else(|| ImageError::BrokenOff {
        image: format!("layer {id}"),
    })
}

/// A layer that is here already counts for the size of the image as well.
fn hold(
    inner: &Arc<Inner>,
    id: Digest,
    inflated: &AtomicU64,
) -> Result<Option<LayerHold>, ImageError> {
    let mut state = inner.state.lock();
    if !state.hold_layer(id) {
        return Ok(None);
    }
    let length = state.layers[&id].record.inflated;
    drop(state);
    let hold = LayerHold {
        inner: Arc::clone(inner),
        id,
    };
    let before = inflated.fetch_add(length, Ordering::Relaxed);
    if before.saturating_add(length) > inner.config.max_image_bytes() {
        return Err(inner.too_large("unpacked layers"));
    }
    Ok(Some(hold))
}

/// The unpacking of one layer.
struct Job {
    inner: Arc<Inner>,
    id: Digest,
    blob: Option<(Digest, u64)>,
    counters: Arc<LayerCounters>,
    inflated: Arc<AtomicU64>,
}

/// Unpacks what `reader` gives while `feed`, which it reads from, runs.
async fn run<R: Read + Send + 'static>(
    job: Job,
    reader: R,
    feed: impl Future<Output = ()>,
) -> Result<(), ImageError> {
    let unpacking = blocking(move || job.unpack(reader));
    let mut unpacking = pin!(unpacking);
    let mut feed = pin!(feed);
    tokio::select! {
        biased;
        // What is wrong with the layer ends its download.
        unpacked = &mut unpacking => return unpacked?,
        () = &mut feed => {}
    }
    unpacking.await?
}

impl Job {
    fn unpack<R: Read + Send>(self, reader: R) -> Result<(), ImageError> {
        let inner = &self.inner;
        let unfinished = inner.disk.unfinished()?;
        let unpacked = self.unpack_into(&unfinished, reader)?;
        let mut state = inner.state.lock();
        // Whoever waited for us may have gone and another have come, who was faster.
        if state.layers.contains_key(&self.id) {
            return Ok(());
        }
        let record = inner.disk.keep_layer(self.id, unfinished, unpacked)?;
        state.layers.insert(self.id, Layer { record, holds: 0 });
        Ok(())
    }

    fn unpack_into<R: Read + Send>(
        &self,
        unfinished: &TempDir,
        reader: R,
    ) -> Result<Unpacked, ImageError> {
        let config = &self.inner.config;
        let limits = Limits {
            inflated: &self.inflated,
            most_inflated: config.max_image_bytes(),
            most_entries: config.max_layer_entries,
            progress: &self.counters.unpacked,
        };
        let source = Source {
            bytes: reader,
            blob: self.blob,
            diff_id: self.id,
        };
        layer::unpack(source, Disk::unfinished_layer(unfinished)?, &limits)
    }
}

/// Counts what is read from a file as fetched.
struct Reported<R> {
    input: R,
    counters: Arc<LayerCounters>,
}

impl<R: Read> Read for Reported<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.counters
            .fetched
            .fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

impl Inner {
    /// The lock of a layer; it lives as long as somebody works on the layer.
    fn layer_lock(&self, id: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.layer_locks.lock();
        if let Some(lock) = locks.get(&id).and_then(std::sync::Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(id, Arc::downgrade(&lock));
        lock
    }
}
