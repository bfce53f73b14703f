//! How the connection to etcd is, for those who ask.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::client::{Again, Client};
use super::failure::Failure;
use super::wire::{AlarmRequest, AlarmResponse, NO_SPACE, path};
use crate::metrics::Metrics;

/// A watch that is lost for less than this is not worth a word: so long a leader's election takes.
const GRACE: Duration = Duration::from_secs(3);

/// How often it is looked whether a full etcd has room again.
const LOOK: Duration = Duration::from_secs(5);

/// How it is.
#[derive(Debug)]
pub(super) struct Status {
    now: Mutex<Now>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Now {
    /// Since when no changes arrive, and why.
    lost: Option<(Instant, Failure)>,
    is_full: bool,
    /// Why nothing here counts any more; for good.
    fatal: Option<Failure>,
}

impl Status {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            now: Mutex::default(),
            metrics,
        }
    }

    /// Changes arrive.
    pub(super) fn follows(&self) {
        self.metrics.following.set(1);
        if self.now.lock().lost.take().is_some() {
            tracing::info!("etcd is followed again");
        }
    }

    /// Changes do not arrive. Said once.
    pub(super) fn lost(&self, failure: Failure) {
        self.metrics.following.set(0);
        let mut now = self.now.lock();
        // It counts from the first failure; the newest says best what to do.
        if let Some((_, known)) = &mut now.lost {
            *known = failure;
        } else {
            tracing::warn!(error = %failure, "etcd is not followed; reads go on with what was seen");
            now.lost = Some((Instant::now(), failure));
        }
    }

    /// Nothing here counts any more; only a restart helps.
    pub(super) fn end(&self, failure: Failure) {
        self.metrics.following.set(0);
        tracing::error!(error = %failure, "the store cannot be used any longer");
        self.now.lock().fatal.get_or_insert(failure);
    }

    /// Whether etcd is full, as it said.
    pub(super) fn set_full(&self, is_full: bool) {
        self.metrics.no_space.set(u64::from(is_full));
        let before = std::mem::replace(&mut self.now.lock().is_full, is_full);
        match (before, is_full) {
            (false, true) => tracing::error!(error = %Failure::NoSpace, "changes are refused"),
            (true, false) => tracing::info!("etcd has room again"),
            _ => {}
        }
    }

    /// What is wrong, if anything is.
    pub(super) fn health(&self) -> Result<(), Failure> {
        let now = self.now.lock();
        if let Some(failure) = &now.fatal {
            return Err(failure.clone());
        }
        if let Some((since, failure)) = &now.lost
            && since.elapsed() >= GRACE
        {
            return Err(failure.clone());
        }
        if now.is_full {
            return Err(Failure::NoSpace);
        }
        Ok(())
    }

    /// Why nothing may be written, whatever etcd says.
    pub(super) fn refusal(&self) -> Option<Failure> {
        self.now.lock().fatal.clone()
    }

    fn is_full(&self) -> bool {
        self.now.lock().is_full
    }

    /// Looks for the end of the alarm as long as there is one.
    pub(super) async fn follow_alarm(&self, client: &Client) -> std::convert::Infallible {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once: it may have been full before we came.
        self.set_full(is_full(client).await);
        loop {
            ticks.tick().await;
            if self.is_full() {
                self.set_full(is_full(client).await);
            }
        }
    }
}

/// Whether the alarm for a full database is on. One that nobody may ask for counts as off: a write
/// finds out.
pub(super) async fn is_full(client: &Client) -> bool {
    let request = AlarmRequest {};
    let answer: Result<AlarmResponse, Failure> =
        client.ask(path::ALARM, request, Again::Harmless).await;
    answer.is_ok_and(|answer| answer.alarms.iter().any(|member| member.alarm == NO_SPACE))
}
