//! The open loop: requests leave on a schedule, whether or not earlier ones were answered.
//!
//! A latency counts from the moment at which the request was due, so a stall is felt by every request
//! that it delays. Each connection has a thread that blocks, because a timer wheel's millisecond would
//! be most of what is measured here.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;

use crate::load::{self, Round};

/// How the requests leave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Requests a second.
    pub(crate) rate: u32,
    /// For how long.
    pub(crate) elapsed: Duration,
    /// How many can be under way at once.
    pub(crate) connections: usize,
}

/// Sends `request` on the schedule.
pub(crate) fn run(
    address: SocketAddr,
    schedule: Schedule,
    request: &[u8],
) -> anyhow::Result<Round> {
    let next = AtomicU64::new(0);
    let begin = Instant::now();
    let histograms = thread::scope(|scope| {
        let threads: Vec<_> = (0..schedule.connections)
            .map(|_| scope.spawn(|| drive(address, schedule, begin, &next, request)))
            .collect();
        threads
            .into_iter()
            .map(join)
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let mut latencies = Histogram::new(3)?;
    let mut refused = 0;
    for (answered, not) in histograms {
        latencies.add(answered)?;
        refused += not;
    }
    Ok(Round {
        answers: latencies.len(),
        refused,
        elapsed: begin.elapsed(),
        latencies,
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(_) => bail!("a connection's thread panicked"),
    }
}

fn drive(
    address: SocketAddr,
    schedule: Schedule,
    begin: Instant,
    next: &AtomicU64,
    request: &[u8],
) -> anyhow::Result<(Histogram<u64>, u64)> {
    let mut stream = TcpStream::connect(address).context("connect")?;
    stream.set_nodelay(true)?;
    let mut latencies = Histogram::new(3)?;
    let mut refused = 0;
    let mut buffer = Vec::new();
    loop {
        let number = u32::try_from(next.fetch_add(1, Ordering::Relaxed))?;
        let due = begin + Duration::from_secs(1) * number / schedule.rate;
        if due.duration_since(begin) >= schedule.elapsed {
            return Ok((latencies, refused));
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "this thread has nothing else to do"
        )]
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(request)?;
        let status = read_answer(&mut stream, &mut buffer)?;
        if (200..300).contains(&status) {
            latencies.record(u64::try_from(due.elapsed().as_nanos())?)?;
        } else {
            refused += 1;
        }
    }
}

fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<u16> {
    buffer.clear();
    let mut piece = [0; 4096];
    loop {
        if let Some(head) = load::parse_head(buffer)?
            && buffer.len() >= head.length + head.body
        {
            return Ok(head.status);
        }
        let read = stream.read(&mut piece)?;
        ensure!(
            read > 0,
            "the connection was closed before the answer was complete"
        );
        buffer.extend_from_slice(&piece[..read]);
    }
}
