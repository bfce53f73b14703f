//! The open loop: calls leave on a schedule, whether or not earlier ones were answered.
//!
//! Each connection has a thread that blocks, because the millisecond of a timer wheel would be most
//! of what is measured here. A thread takes the next place in the schedule, sleeps until it is due,
//! and sends. Where all threads wait for answers, places pass unused; they are sent late, and their
//! latencies count from when they were due.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::connection::Connection;
use crate::{Error, Round, Watch};

/// What becomes of calls that were due and could not leave, when the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// They leave then.
    Sent,
    /// They never do, and are counted as such.
    Dropped,
}

/// How calls leave.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Calls a second; more than 0.
    pub rate: u32,
    /// How long calls do not count at the beginning.
    pub warm_up: Duration,
    /// For how long they do.
    pub lasting: Duration,
    /// How many can be under way at once.
    pub connections: usize,
    /// How long each may take.
    pub limit: Duration,
    /// What becomes of those that could not leave in time.
    pub backlog: Backlog,
}

/// A sleeping thread sees that the load was stopped after this long.
const NAP: Duration = Duration::from_millis(20);

/// From when all connections are there until the first call is due.
const LEAD: Duration = Duration::from_millis(5);

/// The stack of a connection's thread: some buffers, and no recursion.
const STACK: usize = 256 << 10;

/// Bytes of a body that are kept: enough for a message.
const KEEP: usize = 2 << 10;

/// Sends `request` on the schedule; blocks until the last answer.
///
/// # Errors
///
/// When a connection cannot be opened at the beginning, or a thread not be started. What goes
/// wrong later is counted.
pub fn open(
    address: SocketAddr,
    schedule: Schedule,
    request: &[u8],
    watch: &Watch,
) -> Result<Round, Error> {
    let connections = (0..schedule.connections)
        .map(|_| Connection::open(address, KEEP))
        .collect::<Result<Vec<_>, _>>()?;
    let run = Run {
        schedule,
        request,
        watch,
        begin: Instant::now() + LEAD,
        next: AtomicU64::new(0),
        round: Mutex::default(),
    };
    thread::scope(|scope| {
        for connection in connections {
            let thread = thread::Builder::new().stack_size(STACK);
            let started = thread.spawn_scoped(scope, || run.drive(connection));
            started.map_err(|error| {
                watch.stop();
                Error::Machine(error)
            })?;
        }
        Ok(())
    })?;
    let elapsed = (run.begin + schedule.warm_up).elapsed();
    let mut round = run.round.into_inner();
    round.elapsed = if watch.is_stopped() {
        elapsed
    } else {
        elapsed.max(schedule.lasting)
    };
    Ok(round)
}

/// A load that runs.
struct Run<'a> {
    schedule: Schedule,
    request: &'a [u8],
    watch: &'a Watch,
    begin: Instant,
    /// The next place in the schedule.
    next: AtomicU64,
    round: Mutex<Round>,
}

impl Run<'_> {
    fn drive(&self, mut connection: Connection) {
        while !self.watch.is_stopped() {
            let offset = self.offset(self.next.fetch_add(1, Ordering::Relaxed));
            if offset >= self.schedule.warm_up + self.schedule.lasting {
                return;
            }
            if !self.call(&mut connection, offset) {
                return;
            }
        }
    }

    /// When the call at this place is due.
    fn offset(&self, place: u64) -> Duration {
        let nanos = u128::from(place) * 1_000_000_000 / u128::from(self.schedule.rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Sends the call that is due after `offset`; false when the load was stopped before.
    fn call(&self, connection: &mut Connection, offset: Duration) -> bool {
        let Schedule {
            warm_up,
            lasting,
            limit,
            backlog,
            ..
        } = self.schedule;
        let due = self.begin + offset;
        let is_warm_up = offset < warm_up;
        let is_held = due.elapsed() > Duration::ZERO;
        if is_held && backlog == Backlog::Dropped {
            // What the warm-up leaves behind must not fill the time that counts.
            let end = if is_warm_up {
                warm_up
            } else {
                warm_up + lasting
            };
            if self.begin.elapsed() >= end {
                self.round.lock().unsent += u64::from(!is_warm_up);
                return true;
            }
        }
        if !self.sleep_until(due) {
            return false;
        }
        let delay = due.elapsed();
        let outcome = connection.exchange(self.request, limit, self.watch);
        let latency = due.elapsed();
        let is_success = outcome.as_ref().is_ok_and(|answer| answer.is_success());
        self.watch.add(is_success);
        let mut round = self.round.lock();
        if is_warm_up {
            round.warm_up.add(latency, outcome.as_ref().copied());
            return true;
        }
        if is_held {
            round.held += 1;
        } else {
            round.delays.add(delay);
        }
        round.unfinished += u64::from(matches!(outcome, Err(Error::Stopped)));
        round.tally.add(latency, outcome.as_ref().copied());
        true
    }

    /// Sleeps, in naps; false when the load is stopped meanwhile.
    fn sleep_until(&self, due: Instant) -> bool {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            if self.watch.is_stopped() {
                return false;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "this thread has nothing else to do"
            )]
            thread::sleep(left.min(NAP));
        }
    }
}
