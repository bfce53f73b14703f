//! A start that waits for room, and the pool that may grow for it.

use std::time::Duration;

use bugle_instances::{InstanceId, StartRequest};
use bugle_types::pool::PoolId;
use tokio::time::Instant;

use super::{FleetConfig, Growth, Shared};
use crate::placement::NoPlace;

/// How often a pool is asked again whether there is hope for an instance.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A start that waits for room.
pub(super) struct Waiting<'a> {
    config: &'a FleetConfig,
    /// The pool that may grow for it.
    pool: Option<(&'a PoolId, &'a dyn Growth)>,
    instance: InstanceId,
    /// When it began, and for how long it goes on.
    since: Option<Instant>,
    patience: Duration,
    asked: Option<Instant>,
    /// Why the pool does not grow.
    refusal: Option<String>,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(shared: &'a Shared, request: &'a StartRequest) -> Self {
        let named = request.spec.pool.pool.as_ref();
        let pool = named.and_then(|pool| {
            let growth = shared.growth.as_deref()?;
            growth.has(pool).then_some((pool, growth))
        });
        Self {
            config: &shared.config,
            pool,
            instance: request.id,
            since: None,
            patience: shared.config.patience,
            asked: None,
            refusal: None,
        }
    }

    /// Asks the pool, now and then; when to look again and until when at all.
    pub(super) fn ask(&mut self, why: &NoPlace) -> (Instant, Instant) {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        // One that is too large would not fit on one more node of the pool either.
        let pool = self
            .pool
            .filter(|_| !matches!(why, NoPlace::TooLarge { .. }));
        let Some((pool, growth)) = pool else {
            return (since + self.patience, since + self.patience);
        };
        if self.asked.is_none_or(|asked| now >= asked + ASK_EVERY) {
            self.asked = Some(now);
            self.refusal = growth.grow(pool, self.instance).err();
            if self.refusal.is_none() {
                self.patience = self.patience.max(self.config.pool_patience);
            }
        }
        (now + ASK_EVERY, since + self.patience)
    }

    /// Whether a node that refused may be tried again.
    pub(super) fn goes_on(&mut self) -> bool {
        let now = Instant::now();
        now < *self.since.get_or_insert(now) + self.patience
    }

    /// The scheduler's reason, why the pool did not grow, and what is wrong with it.
    pub(super) fn reason(&self, why: &NoPlace) -> String {
        let trouble = self.pool.and_then(|(pool, growth)| {
            let trouble = growth.trouble(pool)?;
            Some(format!("pool {pool}: {trouble}"))
        });
        let parts = [Some(why.to_string()), self.refusal.clone(), trouble];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.join("; ")
    }
}
