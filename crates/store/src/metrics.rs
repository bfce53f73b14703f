//! What the embedded store measures of itself.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The store's metrics. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Seconds from the begin of a commit until it was on disk.
    pub(crate) commit_seconds: Histogram,
    /// Transactions that shared a commit.
    pub(crate) commit_transactions: Histogram,
    /// The newest revision.
    pub(crate) revision: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            commit_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 12)),
            commit_transactions: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            revision: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Makes the metrics and adds them to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "bugle_store_commit_seconds",
            "Time until a commit was on disk",
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "bugle_store_commit_transactions",
            "Transactions that shared a commit",
            metrics.commit_transactions.clone(),
        );
        registry.register(
            "bugle_store_revision",
            "The newest revision of the store",
            metrics.revision.clone(),
        );
        metrics
    }
}
