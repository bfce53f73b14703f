//! Load as the scenarios need it: the same generator for every contender, and no limit to a call.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bugle_load::{Backlog, Loop, Schedule, Watch};
pub(crate) use bugle_load::{Round, Until, request};
use bytes::Bytes;

/// No answer of a scenario takes longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// Sends requests over `connections` connections, each when the last was answered. `request` makes
/// the bytes of the request with this number; the numbers count from 0 over all connections.
pub(crate) fn closed_loop(
    address: SocketAddr,
    connections: usize,
    until: Until,
    request: impl Fn(u64) -> Bytes + 'static,
) -> anyhow::Result<Round> {
    warmed_loop(address, connections, (Duration::ZERO, until), request)
}

/// The same where what comes first does not count: for a program that has just been started and
/// still does what it does once.
pub(crate) fn warmed_loop(
    address: SocketAddr,
    connections: usize,
    (warm_up, until): (Duration, Until),
    request: impl Fn(u64) -> Bytes + 'static,
) -> anyhow::Result<Round> {
    let plan = Loop {
        connections,
        warm_up,
        until,
        limit: None,
    };
    Ok(bugle_load::closed(
        address,
        plan,
        request,
        &Watch::default(),
    )?)
}

/// Sends `request` so many times a second, over at most `connections` connections. What cannot
/// leave in time leaves late.
pub(crate) fn open_loop(
    address: SocketAddr,
    rate: u32,
    lasting: Duration,
    connections: usize,
    request: &[u8],
) -> anyhow::Result<Round> {
    let schedule = Schedule {
        rate,
        warm_up: Duration::ZERO,
        lasting,
        connections,
        limit: PATIENCE,
        backlog: Backlog::Sent,
    };
    Ok(bugle_load::open(
        address,
        schedule,
        request,
        &Watch::default(),
    )?)
}

/// A round that is worth nothing unless all of it succeeded.
pub(crate) trait Whole: Sized {
    /// The same, if every call of it succeeded.
    fn whole(self) -> anyhow::Result<Self>;
}

impl Whole for Round {
    fn whole(self) -> anyhow::Result<Self> {
        let failed = self.tally.failed();
        let first = self.tally.failures.iter().next();
        ensure!(failed == 0, "{failed} calls failed: {first:?}");
        Ok(self)
    }
}

/// One request with its answer on a connection of its own: status and body.
pub(crate) fn once(address: SocketAddr, request: &[u8]) -> anyhow::Result<(u16, String)> {
    let answer = bugle_load::once(address, request, PATIENCE)?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    Ok((answer.status, body))
}

/// What the answer to one request says about how it was served.
pub(crate) fn summary(address: SocketAddr, request: &[u8]) -> anyhow::Result<serde_json::Value> {
    let answer = bugle_load::once(address, request, PATIENCE)?;
    ensure!(answer.is_success(), "answered with {}", answer.status);
    serde_json::from_str(&answer.summary).with_context(|| answer.summary.clone())
}
