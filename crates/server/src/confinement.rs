//! What is told of the confinement of instances: in the log, to clients, and as a metric.

use std::sync::Arc;

use bugle_api::operator::MeasureInfo;
use bugle_instances::{Confinement, Measure};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What is told.
#[derive(Debug)]
pub(crate) struct Told {
    confinement: Arc<Confinement>,
    measures: Family<Label, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    measure: &'static str,
}

impl Told {
    /// Tells in the log what is off, and registers the metric.
    pub(crate) fn new(confinement: Arc<Confinement>, metrics: &mut Registry) -> Self {
        let measures = Family::default();
        metrics.register(
            "bugle_instances_confinement",
            "Whether a measure that confines instances is taken (1) or not (0)",
            Family::clone(&measures),
        );
        for Measure { name, on, detail } in confinement.measures() {
            if on {
                tracing::debug!(measure = name, detail, "instances are confined");
            } else {
                tracing::warn!(
                    measure = name,
                    reason = detail,
                    "instances are not confined"
                );
            }
        }
        Self {
            confinement,
            measures,
        }
    }

    /// Every measure, as it is now.
    pub(crate) fn info(&self) -> Vec<MeasureInfo> {
        let measures = self.confinement.measures().into_iter();
        measures
            .map(|measure| MeasureInfo {
                name: measure.name.to_owned(),
                on: measure.on,
                detail: measure.detail,
            })
            .collect()
    }

    /// Brings the metric up to date.
    pub(crate) fn refresh(&self) {
        for Measure { name, on, .. } in self.confinement.measures() {
            let label = Label { measure: name };
            self.measures.get_or_create(&label).set(i64::from(on));
        }
    }
}
