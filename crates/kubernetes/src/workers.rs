//! What the controller has to know of the platform that hosts functions on its Pods.

use std::collections::BTreeMap;

use bugle_types::pool::PoolId;
use tokio::time::Instant;

use crate::controller::BoxFuture;

/// What a Pod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It has so many instances.
    Busy(u32),
    /// It has had none since then.
    IdleSince(Instant),
}

/// The Pods as nodes that host instances.
pub trait Workers: Send + Sync + 'static {
    /// What Pods of the pool join with.
    fn token(&self, pool: &PoolId) -> String;

    /// What each Pod that has joined does, by its name. One that is not here is not idle.
    fn uses(&self) -> BTreeMap<String, Use>;

    /// Lets a Pod have no further instance, whoever wants one there, if it has none; false if it has one, or does not
    /// say so.
    fn retire<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, bool>;

    /// Lets a Pod have instances again, because it could not be deleted.
    fn restore<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, ()>;
}
