//! How many parents of instances have packages imported ahead, as a metric.

use bugle_instances::PythonDriver;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The warm parents of Python instances.
#[derive(Debug)]
pub(crate) struct WarmParents {
    python: PythonDriver,
    count: Gauge,
}

impl WarmParents {
    /// Registers the metric.
    pub(crate) fn new(python: PythonDriver, metrics: &mut Registry) -> Self {
        let count = Gauge::default();
        metrics.register(
            "bugle_instances_warm_parents",
            "Parents of Python instances that have packages of the operator imported",
            Gauge::clone(&count),
        );
        Self { python, count }
    }

    /// Brings the metric up to date.
    pub(crate) fn refresh(&self) {
        let count = self.python.warm_parents();
        self.count.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
