//! How far the pulls are that run now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::Digest;

/// A pull that runs, as it is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullProgress {
    /// What was asked for.
    pub reference: String,
    /// The layers; none before the manifest was read.
    pub layers: Vec<LayerProgress>,
}

/// A layer of a pull that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProgress {
    /// The digest of its blob, or of its tar stream where there is no blob.
    pub digest: Digest,
    /// How many bytes there are to fetch.
    pub size: u64,
    /// How many of them came.
    pub fetched: u64,
    /// How many bytes of its tar stream were unpacked.
    pub unpacked: u64,
    /// It is ready.
    pub ready: bool,
}

/// The counters of one layer, which its threads write.
#[derive(Debug)]
pub(crate) struct LayerCounters {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) fetched: AtomicU64,
    pub(crate) unpacked: AtomicU64,
    /// 1 when it is ready.
    ready: AtomicU64,
}

impl LayerCounters {
    pub(crate) fn new(digest: Digest, size: u64) -> Arc<Self> {
        Arc::new(Self {
            digest,
            size,
            fetched: AtomicU64::new(0),
            unpacked: AtomicU64::new(0),
            ready: AtomicU64::new(0),
        })
    }

    pub(crate) fn done(&self) {
        self.fetched.store(self.size, Ordering::Relaxed);
        self.ready.store(1, Ordering::Relaxed);
    }

    fn snapshot(&self) -> LayerProgress {
        LayerProgress {
            digest: self.digest,
            size: self.size,
            fetched: self.fetched.load(Ordering::Relaxed),
            unpacked: self.unpacked.load(Ordering::Relaxed),
            ready: self.ready.load(Ordering::Relaxed) == 1,
        }
    }
}

/// One pull's counters.
#[derive(Debug)]
pub(crate) struct Pull {
    reference: String,
    layers: Mutex<Vec<Arc<LayerCounters>>>,
}

impl Pull {
    /// Names the layers, once the manifest is known.
    pub(crate) fn set_layers(&self, layers: Vec<Arc<LayerCounters>>) {
        *self.layers.lock() = layers;
    }

    fn snapshot(&self) -> PullProgress {
        PullProgress {
            reference: self.reference.clone(),
            layers: self
                .layers
                .lock()
                .iter()
                .map(|layer| layer.snapshot())
                .collect(),
        }
    }
}

/// All pulls that run.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Mutex<Vec<Arc<Pull>>>);

impl Pulls {
    /// Lists a pull until its ticket is dropped.
    pub(crate) fn begin(self: &Arc<Self>, reference: String) -> Ticket {
        let pull = Arc::new(Pull {
            reference,
            layers: Mutex::default(),
        });
        self.0.lock().push(Arc::clone(&pull));
        Ticket {
            pulls: Arc::clone(self),
            pull,
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<PullProgress> {
        self.0.lock().iter().map(|pull| pull.snapshot()).collect()
    }
}

/// A listed pull.
#[derive(Debug)]
pub(crate) struct Ticket {
    pulls: Arc<Pulls>,
    pub(crate) pull: Arc<Pull>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pulls
            .0
            .lock()
            .retain(|one| !Arc::ptr_eq(one, &self.pull));
    }
}
