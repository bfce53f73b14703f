//! The scheduler's section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When instances come and go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long an instance may be without a call before it goes, in seconds.
    pub idle_seconds: u64,
    /// Calls of one function that may wait for an instance; one more is refused. At least one may,
    /// since the first call of a function always waits for its instance.
    pub queue_limit: usize,
    /// The longest that a call waits for an instance, in seconds. Functions whose initializer may
    /// take longer get its limit and seven seconds.
    pub acquire_seconds: u64,
    /// After an update, how long instances of the old code may still get calls while the first of
    /// the new one starts, in milliseconds.
    pub switch_millis: u64,
    /// How long an instance may take to stop in order, in seconds, beside its `pre_stop` limit.
    pub stop_seconds: u64,
    /// The longest pause before a start that failed is tried again, in seconds. The first pause is
    /// one second, each further one twice the last.
    pub retry_seconds: u64,
    /// The longest that a call waits while an instance of a function that names a pool comes up: a pool may have to
    /// grow for it. No key of its own: it follows from what pools are given.
    #[serde(skip)]
    pub pool_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            idle_seconds: 60,
            queue_limit: 1000,
            acquire_seconds: 30,
            switch_millis: 1000,
            stop_seconds: 30,
            retry_seconds: 16,
            pool_wait: Duration::ZERO,
        }
    }
}

/// What the initializer's limit leaves for the rest of a start (`scaling` contract 3.2).
const BEYOND_INITIALIZER: Duration = Duration::from_secs(7);

impl Config {
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }

    /// How many calls may wait.
    pub(crate) fn queue_limit(&self) -> usize {
        self.queue_limit.max(1)
    }

    pub(crate) fn switch(&self) -> Duration {
        Duration::from_millis(self.switch_millis)
    }

    /// How long a call may wait, given the initializer's limit.
    pub(crate) fn acquire(&self, initializer: Option<Duration>) -> Duration {
        let plain = Duration::from_secs(self.acquire_seconds);
        initializer.map_or(plain, |limit| {
            plain.max(limit.saturating_add(BEYOND_INITIALIZER))
        })
    }

    pub(crate) fn stop_grace(&self, pre_stop: Option<Duration>) -> Duration {
        Duration::from_secs(self.stop_seconds).saturating_add(pre_stop.unwrap_or_default())
    }

    /// The pause after so many failures in a row, from 1.
    pub(crate) fn retry(&self, failures: u32) -> Duration {
        let doubled = 1_u64 << failures.saturating_sub(1).min(16);
        Duration::from_secs(doubled).min(self.longest_retry())
    }

    pub(crate) fn longest_retry(&self) -> Duration {
        Duration::from_secs(self.retry_seconds.max(1))
    }
}
