//! The closed loop: a connection sends its next call when it has the answer to the last.
//!
//! All connections share one thread, so that the generator leaves the rest of the machine to what
//! it measures, and costs every contender the same.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::answer::Reader;
use crate::watch::GRACE;
use crate::{Error, Round, Watch};

/// Until when a loop goes on.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// For this long after the warm-up.
    Elapsed(Duration),
    /// Until this many calls were sent over all connections, those of the warm-up too.
    Sent(u64),
}

/// How calls follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Loop {
    /// Connections, and calls under way.
    pub connections: usize,
    /// How long calls do not count at the beginning.
    pub warm_up: Duration,
    /// When it ends.
    pub until: Until,
    /// How long each call may take; as long as it likes when there is no limit.
    pub limit: Option<Duration>,
}

/// Bytes of a body that are kept: enough for a message.
const KEEP: usize = 2 << 10;

/// Before a connection that could not be opened is tried again.
const AGAIN: Duration = Duration::from_millis(10);

/// Between two looks whether the load was stopped.
const LOOK: Duration = Duration::from_millis(50);

/// Sends calls over connections that were opened before the clock starts; blocks until the last
/// answer. `request` makes the bytes of the call with this number; numbers count from 0 over all
/// connections.
///
/// # Errors
///
/// When a connection cannot be opened at the beginning. What goes wrong later is counted.
pub fn closed(
    address: SocketAddr,
    plan: Loop,
    request: impl Fn(u64) -> Bytes + 'static,
    watch: &Watch,
) -> Result<Round, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Machine)?;
    LocalSet::new().block_on(&runtime, run(address, plan, request, watch))
}

async fn run(
    address: SocketAddr,
    plan: Loop,
    request: impl Fn(u64) -> Bytes + 'static,
    watch: &Watch,
) -> Result<Round, Error> {
    let mut open = Vec::new();
    for _ in 0..plan.connections {
        open.push(Connection::open(address).await?);
    }
    let shared = Rc::new(Shared {
        plan,
        watch: watch.clone(),
        next: 0.into(),
        under_way: 0.into(),
        begin: Instant::now(),
        round: Mutex::default(),
        request,
    });
    let mut tasks = JoinSet::new();
    for connection in open {
        tasks.spawn_local(drive(connection, Rc::clone(&shared)));
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        biased;
        () = all => {}
        () = given_up(watch) => {}
    }
    let mut round = std::mem::take(&mut *shared.round.lock());
    round.unfinished = shared.under_way.get();
    round.elapsed = shared.begin.elapsed().saturating_sub(plan.warm_up);
    Ok(round)
}

/// Once the load was stopped, and the calls under way had their time.
async fn given_up(watch: &Watch) {
    while !watch.is_stopped() {
        tokio::time::sleep(LOOK).await;
    }
    tokio::time::sleep(GRACE).await;
}

struct Shared<F> {
    plan: Loop,
    watch: Watch,
    next: std::cell::Cell<u64>,
    under_way: std::cell::Cell<u64>,
    begin: Instant,
    round: Mutex<Round>,
    request: F,
}

impl<F> Shared<F> {
    /// The number of the next call, unless there is none.
    fn next(&self) -> Option<u64> {
        let number = self.next.get();
        self.next.set(number + 1);
        let goes_on = match self.plan.until {
            Until::Elapsed(limit) => self.begin.elapsed() < self.plan.warm_up + limit,
            Until::Sent(limit) => number < limit,
        };
        (goes_on && !self.watch.is_stopped()).then_some(number)
    }
}

async fn drive<F: Fn(u64) -> Bytes>(mut connection: Connection, shared: Rc<Shared<F>>) {
    while let Some(number) = shared.next() {
        let request = (shared.request)(number);
        let sent = Instant::now();
        shared.under_way.update(|count| count + 1);
        let outcome = connection.call(&request, shared.plan.limit).await;
        shared.under_way.update(|count| count - 1);
        let latency = sent.elapsed();
        let outcome = outcome.as_ref().map(|()| &connection.reader.answer);
        shared
            .watch
            .add(outcome.is_ok_and(crate::Answer::is_success));
        let is_unreachable = matches!(outcome, Err(Error::Connect { .. }));
        {
            let mut round = shared.round.lock();
            let is_warm_up = sent.duration_since(shared.begin) < shared.plan.warm_up;
            let tally = if is_warm_up {
                &mut round.warm_up
            } else {
                &mut round.tally
            };
            tally.add(latency, outcome);
        }
        if is_unreachable {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// A keep-alive connection, opened again when it breaks.
struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    reader: Reader,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, Error> {
        Ok(Self {
            address,
            stream: Some(connect(address).await?),
            reader: Reader::new(KEEP),
        })
    }

    /// Sends `request` and reads its answer into the reader.
    async fn call(&mut self, request: &[u8], limit: Option<Duration>) -> Result<(), Error> {
        let Some(limit) = limit else {
            return self.exchange(request).await;
        };
        let exchanged = tokio::time::timeout(limit, self.exchange(request)).await;
        exchanged.unwrap_or(Err(Error::Timeout { limit }))
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<(), Error> {
        // Whoever stops here leaves no stream behind on which an answer is under way.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.address).await?,
        };
        stream.write_all(request).await.map_err(Error::Broken)?;
        self.reader.begin();
        loop {
            let read = stream.read_buf(&mut self.reader.bytes).await;
            if read.map_err(Error::Broken)? == 0 {
                self.reader.closed()?;
                break;
            }
            if self.reader.advance()? {
                break;
            }
        }
        if self.reader.is_reusable() {
            self.stream = Some(stream);
        }
        Ok(())
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Error> {
    let open = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    open.await
        .map_err(|source| Error::Connect { address, source })
}
