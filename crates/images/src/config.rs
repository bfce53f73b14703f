//! What the operator may decide about images.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Container images: where they may come from and how much of them is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The largest image in MiB, compressed and unpacked.
    pub max_image_mib: u64,
    /// How much of unpacked layers is kept in MiB. Above it, the images that were used longest ago go
    /// until a tenth is free again; those that instances use stay whatever they take.
    pub cache_mib: u64,
    /// The most files and directories that one layer may have.
    pub max_layer_entries: u64,
    /// Layers of one image that are fetched and unpacked at once.
    pub parallel_layers: usize,
    /// How long a registry may be silent before it is asked again, in seconds.
    pub silence_seconds: u64,
    /// Files in the form of docker's `config.json` with credentials for registries. `bugle login`
    /// needs none.
    pub credential_files: Vec<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_image_mib: 10 * 1024,
            cache_mib: 50 * 1024,
            max_layer_entries: 1_000_000,
            parallel_layers: 4,
            silence_seconds: 30,
            credential_files: Vec::new(),
        }
    }
}

impl Config {
    /// The largest image in bytes.
    pub(crate) fn max_image_bytes(&self) -> u64 {
        self.max_image_mib.saturating_mul(1 << 20)
    }

    /// How long a registry may be silent.
    pub(crate) fn silence(&self) -> Duration {
        Duration::from_secs(self.silence_seconds.max(1))
    }

    /// What the cache may hold, in bytes.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache_mib.saturating_mul(1 << 20)
    }
}
