//! What the gateway counts. Calls are counted per function by the scheduler's handles; these are
//! about connections and about everything that came before a function was found.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use bugle_instances::UnderWay;
use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::EncodeLabelValue;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::gateway::Shared;

/// The gateway's metrics. A clone counts into the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Connections open now.
    pub(crate) connections: Gauge<i64, AtomicI64>,
    /// Connections refused because too many were open.
    pub(crate) refused: Counter<u64, AtomicU64>,
    in_flight: Gauge<i64, AtomicI64>,
    /// Bytes that came from clients.
    pub(crate) received: Counter<u64, AtomicU64>,
    /// Bytes that went to clients.
    pub(crate) sent: Counter<u64, AtomicU64>,
    /// Requests that were passed on to other gateways, and those of them that got no answer.
    pub(crate) forwarded: Counter<u64, AtomicU64>,
    pub(crate) forward_failures: Counter<u64, AtomicU64>,
    answers: Answers,
}

/// Answers by the class of their status, each counter looked up once.
#[derive(Clone, Debug)]
struct Answers {
    success: Counter,
    redirect: Counter,
    client: Counter,
    server: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: StatusClass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label's values")]
enum StatusClass {
    success,
    redirect,
    client_error,
    server_error,
}

/// Counts a call as being served until dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    metrics: Arc<Metrics>,
    _under_way: UnderWay,
}

impl InFlight {
    pub(crate) fn new(shared: &Shared) -> Self {
        shared.metrics.in_flight.inc();
        Self {
            metrics: Arc::clone(&shared.metrics),
            _under_way: shared.awake.call(),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
    }
}

impl Metrics {
    /// Registers the gateway's metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let answers = Family::<StatusLabel, Counter>::default();
        let of = |status| answers.get_or_create_owned(&StatusLabel { status });
        let metrics = Self {
            connections: Gauge::default(),
            refused: Counter::default(),
            in_flight: Gauge::default(),
            received: Counter::default(),
            sent: Counter::default(),
            forwarded: Counter::default(),
            forward_failures: Counter::default(),
            answers: Answers {
                success: of(StatusClass::success),
                redirect: of(StatusClass::redirect),
                client: of(StatusClass::client_error),
                server: of(StatusClass::server_error),
            },
        };
        registry.register(
            "bugle_gateway_connections",
            "Client connections open now",
            metrics.connections.clone(),
        );
        registry.register(
            "bugle_gateway_refused_connections",
            "Client connections refused because too many were open",
            metrics.refused.clone(),
        );
        registry.register(
            "bugle_gateway_calls_in_flight",
            "Calls that wait for an instance or run, with or without their client",
            metrics.in_flight.clone(),
        );
        registry.register(
            "bugle_gateway_answers",
            "Answers by class of status",
            answers,
        );
        registry.register_with_unit(
            "bugle_gateway_received",
            "Bytes that came from clients",
            Unit::Bytes,
            metrics.received.clone(),
        );
        registry.register_with_unit(
            "bugle_gateway_sent",
            "Bytes that went to clients",
            Unit::Bytes,
            metrics.sent.clone(),
        );
        registry.register(
            "bugle_gateway_forwarded",
            "Requests that were passed on to the gateway that has their function",
            metrics.forwarded.clone(),
        );
        registry.register(
            "bugle_gateway_forward_failures",
            "Requests that were passed on and got no answer of the other gateway",
            metrics.forward_failures.clone(),
        );
        metrics
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        let class = match status.as_u16() {
            ..300 => &self.answers.success,
            300..400 => &self.answers.redirect,
            400..500 => &self.answers.client,
            _ => &self.answers.server,
        };
        class.inc();
    }
}
