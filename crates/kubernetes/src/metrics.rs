//! What the controller counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The controller's metrics. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    operations: Family<OperationLabels, Counter>,
    alarms: Counter,
    leader: Gauge<u64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
    outcome: &'static str,
}

impl Metrics {
    /// Makes the metrics and adds them to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "bugle_kubernetes_operations",
            "Writes to the cluster for Pod pools",
            metrics.operations.clone(),
        );
        registry.register(
            "bugle_kubernetes_pod_alarms",
            "Pods of pools that were pending for too long, or lost",
            metrics.alarms.clone(),
        );
        registry.register(
            "bugle_kubernetes_leader",
            "1 while this process makes Pod pools real",
            metrics.leader.clone(),
        );
        metrics
    }

    pub(crate) fn operation(&self, operation: &'static str, outcome: &'static str) {
        self.operations
            .get_or_create(&OperationLabels { operation, outcome })
            .inc();
    }

    pub(crate) fn alarm(&self) {
        self.alarms.inc();
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }
}
