//! What the embedded store measures of itself.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The store's metrics. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    commit_seconds: Histogram,
    commit_transactions: Histogram,
    pub(crate) revision: Gauge<u64, AtomicU64>,
    pub(crate) disk_bytes: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            // 0.25 ms to 0.5 s: a fast disk's sync to a stalled one's.
            commit_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 12)),
            commit_transactions: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            revision: Gauge::default(),
            disk_bytes: Gauge::default(),
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
        registry.register_with_unit(
            "bugle_store_disk",
            "What the store takes on disk",
            Unit::Bytes,
            metrics.disk_bytes.clone(),
        );
        metrics
    }

    /// A commit of `transactions` took so many seconds.
    pub(crate) fn committed(&self, seconds: f64, transactions: usize) {
        self.commit_seconds.observe(seconds);
        #[expect(clippy::cast_precision_loss, reason = "a group is small")]
        self.commit_transactions.observe(transactions as f64);
    }
}
