//! What the stores measure of themselves.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
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
    /// 1 as long as etcd's changes arrive.
    pub(crate) following: Gauge<u64, AtomicU64>,
    /// 1 as long as etcd is full.
    pub(crate) no_space: Gauge<u64, AtomicU64>,
    /// Watches of etcd that broke.
    pub(crate) reconnects: Counter,
    /// How often everything was read again.
    pub(crate) relists: Counter,
    /// How often the watch rested.
    pub(crate) rests: Counter,
    /// Transactions that etcd did not take.
    pub(crate) failed: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            // 0.25 ms to 0.5 s: a fast disk's sync to a stalled one's.
            commit_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 12)),
            commit_transactions: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            revision: Gauge::default(),
            disk_bytes: Gauge::default(),
            following: Gauge::default(),
            no_space: Gauge::default(),
            reconnects: Counter::default(),
            relists: Counter::default(),
            rests: Counter::default(),
            failed: Counter::default(),
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

    /// Adds what only a store in an etcd measures.
    #[must_use]
    pub fn with_etcd(self, registry: &mut Registry) -> Self {
        registry.register(
            "bugle_store_etcd_following",
            "1 as long as the changes in etcd arrive here, else 0",
            self.following.clone(),
        );
        registry.register(
            "bugle_store_etcd_full",
            "1 as long as etcd refuses writes because its database is full",
            self.no_space.clone(),
        );
        registry.register(
            "bugle_store_etcd_reconnects",
            "Watches of etcd that broke and were made again",
            self.reconnects.clone(),
        );
        registry.register(
            "bugle_store_etcd_relists",
            "How often every key was read again because etcd had forgotten what happened",
            self.relists.clone(),
        );
        registry.register(
            "bugle_store_etcd_rests",
            "How often the watch rested because this platform made nearly all changes itself",
            self.rests.clone(),
        );
        registry.register(
            "bugle_store_etcd_failed_transactions",
            "Transactions that etcd did not take",
            self.failed.clone(),
        );
        self
    }

    /// A commit of `transactions` took so many seconds.
    pub(crate) fn committed(&self, seconds: f64, transactions: usize) {
        self.commit_seconds.observe(seconds);
        #[expect(clippy::cast_precision_loss, reason = "a group is small")]
        self.commit_transactions.observe(transactions as f64);
    }
}
