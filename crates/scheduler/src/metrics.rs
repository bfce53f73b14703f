//! What the scheduler counts, and the handles with which a call counts itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bugle_instances::{ExitCause, StartPhases};
use bugle_types::FunctionId;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Functions with labels of their own, the first that are called; the rest is counted as `other`, so
/// that the number of series stays bounded.
const NAMED_FUNCTIONS: usize = 1000;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label's values")]
pub enum Outcome {
    /// The function answered.
    success,
    /// The user's code failed: an exception, a result that cannot be sent, a failed start.
    function_error,
    /// The call ran into its deadline.
    timeout,
    /// The instance ended during the call.
    crash,
    /// No instance could be had: disabled, queue full, waited too long.
    rejected,
    /// The client left before there was an answer.
    abandoned,
}

impl Outcome {
    /// Every outcome, in the order of the table.
    pub const ALL: [Self; 6] = [
        Self::success,
        Self::function_error,
        Self::timeout,
        Self::crash,
        Self::rejected,
        Self::abandoned,
    ];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::success => "success",
            Self::function_error => "function_error",
            Self::timeout => "timeout",
            Self::crash => "crash",
            Self::rejected => "rejected",
            Self::abandoned => "abandoned",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    function: String,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FunctionLabel {
    function: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: State,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label's values")]
enum State {
    starting,
    ready,
    draining,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: StartResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label's values")]
enum StartResult {
    ready,
    failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label's values")]
enum Phase {
    process,
    load,
    init,
    total,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label's values")]
enum Cause {
    exit,
    signal,
    out_of_memory,
    out_of_disk,
    unhealthy,
    stopped,
    node_lost,
}

type Seconds = Family<FunctionLabel, Histogram, fn() -> Histogram>;

/// The scheduler's metrics. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    calls: Family<CallLabels, Counter>,
    durations: Seconds,
    /// The functions that have labels of their own; kept when a function goes, since it may return.
    named: Arc<Mutex<HashSet<FunctionId>>>,
    pub(crate) queued: Gauge,
    pub(crate) queue_seconds: Histogram,
    instances: Family<StateLabel, Gauge>,
    pub(crate) starting: Gauge,
    pub(crate) ready: Gauge,
    pub(crate) draining: Gauge,
    starts: Family<ResultLabel, Counter>,
    start_seconds: Family<PhaseLabel, Histogram, fn() -> Histogram>,
    exits: Family<CauseLabel, Counter>,
}

/// From 100 µs to about 7 minutes.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 22))
}

impl Default for Metrics {
    fn default() -> Self {
        let instances = Family::<StateLabel, Gauge>::default();
        let gauge = |state| instances.get_or_create_owned(&StateLabel { state });
        Self {
            starting: gauge(State::starting),
            ready: gauge(State::ready),
            draining: gauge(State::draining),
            calls: Family::default(),
            durations: Family::new_with_constructor(buckets),
            named: Arc::default(),
            queued: Gauge::default(),
            queue_seconds: buckets(),
            instances,
            starts: Family::default(),
            start_seconds: Family::new_with_constructor(buckets),
            exits: Family::default(),
        }
    }
}

impl Metrics {
    /// Makes the metrics and adds them to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "bugle_invocations",
            "Calls by function and outcome",
            metrics.calls.clone(),
        );
        registry.register(
            "bugle_invocation_duration_seconds",
            "Time from the arrival of a call to its answer",
            metrics.durations.clone(),
        );
        registry.register(
            "bugle_queue_depth",
            "Calls that wait for an instance",
            metrics.queued.clone(),
        );
        registry.register(
            "bugle_queue_seconds",
            "Time that calls waited for an instance, of those that waited",
            metrics.queue_seconds.clone(),
        );
        registry.register(
            "bugle_instances",
            "Instances by state",
            metrics.instances.clone(),
        );
        registry.register(
            "bugle_cold_starts",
            "Starts of instances by result",
            metrics.starts.clone(),
        );
        registry.register(
            "bugle_cold_start_seconds",
            "Time of each phase of a start",
            metrics.start_seconds.clone(),
        );
        registry.register(
            "bugle_instance_exits",
            "Ends of instances by cause",
            metrics.exits.clone(),
        );
        metrics
    }

    /// The handles of one function.
    pub(crate) fn function(&self, id: &FunctionId) -> CallMetrics {
        let function = if self.is_named(id) {
            id.to_string()
        } else {
            "other".to_owned()
        };
        let counters = Outcome::ALL.map(|outcome| {
            self.calls.get_or_create_owned(&CallLabels {
                function: function.clone(),
                outcome,
            })
        });
        let durations = self
            .durations
            .get_or_create_owned(&FunctionLabel { function });
        CallMetrics {
            counters,
            durations,
            own: Arc::default(),
        }
    }

    fn is_named(&self, id: &FunctionId) -> bool {
        let mut named = self.named.lock();
        if named.len() < NAMED_FUNCTIONS && !named.contains(id) {
            named.insert(id.clone());
        }
        named.contains(id)
    }

    pub(crate) fn start_succeeded(&self, total: Duration, phases: &StartPhases) {
        self.starts
            .get_or_create(&ResultLabel {
                result: StartResult::ready,
            })
            .inc();
        for (phase, duration) in [
            (Phase::process, phases.process),
            (Phase::load, phases.load),
            (Phase::init, phases.init),
            (Phase::total, total),
        ] {
            self.start_seconds
                .get_or_create(&PhaseLabel { phase })
                .observe(duration.as_secs_f64());
        }
    }

    pub(crate) fn start_failed(&self) {
        self.starts
            .get_or_create(&ResultLabel {
                result: StartResult::failed,
            })
            .inc();
    }

    pub(crate) fn exited(&self, cause: &ExitCause) {
        let cause = match cause {
            ExitCause::Code(_) => Cause::exit,
            ExitCause::Signal(_) => Cause::signal,
            ExitCause::OutOfMemory { .. } => Cause::out_of_memory,
            ExitCause::OutOfDisk { .. } => Cause::out_of_disk,
            ExitCause::Unhealthy { .. } => Cause::unhealthy,
            ExitCause::NodeLost { .. } => Cause::node_lost,
            ExitCause::Stopped => Cause::stopped,
        };
        self.exits.get_or_create(&CauseLabel { cause }).inc();
    }
}

/// The counters of one function, looked up once, so that a call looks nothing up.
#[derive(Clone, Debug)]
pub struct CallMetrics {
    counters: [Counter; Outcome::ALL.len()],
    durations: Histogram,
    /// Of this function alone, also when its series is shared.
    own: Arc<[AtomicU64; Outcome::ALL.len()]>,
}

impl CallMetrics {
    /// Counts a call that ended `outcome` after `duration`, its waiting included.
    pub fn count(&self, outcome: Outcome, duration: Duration) {
        self.counters[outcome as usize].inc();
        self.own[outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.durations.observe(duration.as_secs_f64());
    }

    /// The counts of a function that nobody has called.
    pub fn no_counts() -> Vec<(&'static str, u64)> {
        let outcomes = Outcome::ALL.into_iter();
        outcomes.map(|outcome| (outcome.name(), 0)).collect()
    }

    /// How many calls of this function had each outcome.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let count = |outcome: Outcome| self.own[outcome as usize].load(Ordering::Relaxed);
        Outcome::ALL
            .into_iter()
            .map(|outcome| (outcome.name(), count(outcome)))
            .collect()
    }
}
