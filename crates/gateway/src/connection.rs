//! One client connection: what it is doing, how long it may, and how it is told to end.
//!
//! Nothing on the way of a call reads a clock or arms a timer for this. The connection notes what
//! it does in an atomic; one sweep a second over all connections finds those that take too long
//! and tells them to end. So limits are kept to the second, and an idle connection costs nothing.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::Config;
use crate::metrics::Metrics;

/// After an answer to a request whose body was not read to its end, this much of the rest is read
/// and thrown away: closing at once would make the kernel send a reset, which takes the answer
/// away from a client that is still sending.
const LINGER_BYTES: usize = 64 << 20;

/// How long such a connection may linger, in seconds.
const LINGER_SECONDS: u32 = 5;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The client has not sent anything yet.
    Fresh,
    /// The head of a request is arriving.
    Head,
    /// A request is being served.
    Busy,
    /// The answer was made; it is being sent, or the connection waits for its next request.
    Open,
    /// The answer was sent and the rest of the request is thrown away.
    Lingering,
}

/// What a connection was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    /// Go on.
    Serve,
    /// Answer what is being served, then end.
    Finish,
    /// The request that is being served gets its answer now, whatever it waits for.
    GiveUp,
    /// End at once.
    Abort,
}

/// The state of a connection, shared by its I/O, its requests and the sweep.
#[derive(Debug)]
pub(crate) struct Connection {
    phase: AtomicU8,
    /// When the phase began, on the sweep's clock.
    since: AtomicU32,
    /// When the client stopped reading, on the sweep's clock plus one; 0 while it reads.
    blocked: AtomicU32,
    order: AtomicU8,
    /// Whether the rest of the request is to be read before closing.
    linger: AtomicBool,
    /// Whether the client sent more than it may to a function's server.
    pub(crate) overran: AtomicBool,
    /// Whether a call on it found its function moved to another gateway before any instance had it.
    pub(crate) moved: AtomicBool,
    /// When the answer that is being sent must have ended, on the sweep's clock; 0 for never.
    end: AtomicU32,
    /// The address of the client, as a header tells it.
    pub(crate) peer: Option<HeaderValue>,
    task: AtomicWaker,
    clock: Arc<Clock>,
}

/// Seconds since the gateway started, as of the last sweep.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU32);

impl Clock {
    fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Connection {
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Fresh as u8 => Phase::Fresh,
            phase if phase == Phase::Head as u8 => Phase::Head,
            phase if phase == Phase::Busy as u8 => Phase::Busy,
            phase if phase == Phase::Lingering as u8 => Phase::Lingering,
            _ => Phase::Open,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.since.store(self.clock.now(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The connection shall end after this answer, and the client may still be sending.
    pub(crate) fn linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    /// An answer is being sent that may take so long, whether or not the client reads it.
    pub(crate) fn ends_by(&self, left: Duration) {
        let seconds = u32::try_from(left.as_secs()).unwrap_or(u32::MAX);
        // One for the second that has begun, one for the sweep's own.
        let end = self.clock.now().saturating_add(seconds).saturating_add(2);
        self.end.store(end, Ordering::Relaxed);
    }

    /// That answer has ended.
    pub(crate) fn has_no_end(&self) {
        self.end.store(0, Ordering::Relaxed);
    }

    pub(crate) fn order(&self) -> Order {
        match self.order.load(Ordering::Relaxed) {
            order if order == Order::Serve as u8 => Order::Serve,
            order if order == Order::Finish as u8 => Order::Finish,
            order if order == Order::GiveUp as u8 => Order::GiveUp,
            _ => Order::Abort,
        }
    }

    fn tell(&self, order: Order) {
        if self.order.fetch_max(order as u8, Ordering::Relaxed) < order as u8 {
            self.task.wake();
        }
    }

    /// Has `cx` woken by the next order. To be called before [`Connection::order`] is looked at.
    pub(crate) fn listen(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
    }

    /// Waits until it is told as much. Only one task may: the one that has the connection.
    pub(crate) async fn told(&self, order: Order) {
        poll_fn(|cx| {
            self.listen(cx);
            if self.order() >= order {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn is_late(&self, now: u32, config: &Config) -> bool {
        let blocked = self.blocked.load(Ordering::Relaxed);
        if blocked != 0 && now.saturating_sub(blocked - 1) > config.write_stall_seconds {
            return true;
        }
        let end = self.end.load(Ordering::Relaxed);
        if end != 0 && now > end {
            return true;
        }
        let limit = match self.phase() {
            Phase::Fresh | Phase::Head => config.header_seconds,
            Phase::Open => config.idle_seconds,
            Phase::Lingering => LINGER_SECONDS,
            // A call has its own limits.
            Phase::Busy => return false,
        };
        now.saturating_sub(self.since.load(Ordering::Relaxed)) > limit
    }

    fn read_some(&self) {
        if matches!(self.phase(), Phase::Fresh | Phase::Open) {
            self.enter(Phase::Head);
        }
    }

    fn wrote_some(&self) {
        if self.blocked.load(Ordering::Relaxed) != 0 {
            self.blocked.store(0, Ordering::Relaxed);
        }
        if self.phase() == Phase::Open {
            self.since.store(self.clock.now(), Ordering::Relaxed);
        }
    }

    fn could_not_write(&self) {
        let now = self.clock.now().saturating_add(1);
        let _ = self
            .blocked
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// All open connections.
///
/// They are listed weakly: an entry whose connection has ended goes with the next sweep.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<Vec<Weak<Connection>>>,
    clock: Arc<Clock>,
}

impl Connections {
    /// Lists a new connection, which has yet to send its first request.
    pub(crate) fn open(&self, peer: Option<IpAddr>) -> Arc<Connection> {
        let peer = peer.map(|address| address.to_canonical().to_string());
        self.open_for(peer.and_then(|address| HeaderValue::try_from(address).ok()))
    }

    /// Lists one whose client another gateway talks to.
    pub(crate) fn open_for(&self, peer: Option<HeaderValue>) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            phase: AtomicU8::new(Phase::Fresh as u8),
            since: AtomicU32::new(self.clock.now()),
            blocked: AtomicU32::new(0),
            order: AtomicU8::new(Order::Serve as u8),
            linger: AtomicBool::new(false),
            overran: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            end: AtomicU32::new(0),
            peer,
            task: AtomicWaker::new(),
            clock: Arc::clone(&self.clock),
        });
        self.open.lock().push(Arc::downgrade(&connection));
        connection
    }

    /// Advances the clock by a second and ends what takes too long.
    pub(crate) fn sweep(&self, config: &Config) {
        let now = self.clock.0.fetch_add(1, Ordering::Relaxed) + 1;
        self.each(|connection| {
            if connection.is_late(now, config) {
                connection.tell(Order::Abort);
            }
        });
    }

    /// Tells every connection.
    pub(crate) fn tell(&self, order: Order) {
        self.each(|connection| connection.tell(order));
    }

    fn each(&self, visit: impl Fn(&Connection)) {
        self.open.lock().retain(|connection| {
            let Some(connection) = connection.upgrade() else {
                return false;
            };
            visit(&connection);
            true
        });
    }
}

/// The socket of a connection, noting what happens on it.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
    metrics: Arc<Metrics>,
    /// How much was thrown away while lingering; none before it began.
    thrown: Option<usize>,
}

impl Socket {
    pub(crate) fn new(
        stream: TcpStream,
        connection: Arc<Connection>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            stream,
            connection,
            metrics,
            thrown: None,
        }
    }

    fn note_write(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Pending => self.connection.could_not_write(),
            Poll::Ready(Ok(bytes)) => {
                self.metrics.sent.inc_by(*bytes as u64);
                self.connection.wrote_some();
            }
            Poll::Ready(Err(_)) => {}
        }
    }

    /// Throws away what the client still sends, up to a limit.
    fn poll_throw_away(&mut self, cx: &mut Context<'_>, mut thrown: usize) -> Poll<()> {
        let mut scrap = [0; 4096];
        while thrown < LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut scrap);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    thrown += buffer.filled().len();
                }
                Poll::Ready(_) => break,
                Poll::Pending => {
                    self.thrown = Some(thrown);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            self.metrics.received.inc_by(bytes as u64);
            self.connection.read_some();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, data);
        self.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let thrown = if let Some(thrown) = self.thrown {
            thrown
        } else {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if !self.connection.linger.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            self.connection.enter(Phase::Lingering);
            0
        };
        self.poll_throw_away(cx, thrown).map(Ok)
    }
}
