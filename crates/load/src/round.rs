//! What a load came to.

use std::time::Duration;

use crate::{Durations, Tally};

/// What a load came to.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// What was measured.
    pub tally: Tally,
    /// What came back before, and does not count.
    pub warm_up: Tally,
    /// From the end of the warm-up to the last answer.
    pub elapsed: Duration,
    /// Calls that left late because all connections were in use. Their latencies count from when
    /// they were due.
    pub held: u64,
    /// Calls that were due and never left, because all connections were in use to the end.
    pub unsent: u64,
    /// How late the other calls of an open loop left: this machine did not get round to them.
    pub delays: Durations,
    /// Calls that were given up when the load was stopped.
    pub unfinished: u64,
}

impl Round {
    /// Calls a second that succeeded.
    #[must_use]
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let succeeded = self.tally.succeeded() as f64;
        succeeded / self.elapsed.as_secs_f64()
    }
}
