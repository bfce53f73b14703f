//! Reading a request body: bounded in size, in pace, and in what all bodies take together.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bugle_types::Code;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::Config;
use crate::connection::Connection;
use crate::failure::Failure;

/// How often a slow body is looked at once its grace is over.
const PACE_CHECK: Duration = Duration::from_secs(5);

/// What a client sends.
#[derive(Debug)]
pub enum Inbound {
    /// As it comes.
    Incoming(Incoming),
    /// It was read already.
    Whole(Bytes),
    /// As it comes, on its way to another gateway.
    Passing(Box<Passing>),
}

/// A body that is passed on. If it is dropped before its end, its connection cannot be used again.
#[derive(Debug)]
pub struct Passing {
    body: Incoming,
    connection: Arc<Connection>,
}

impl Inbound {
    pub(crate) fn passing(body: Incoming, connection: &Arc<Connection>) -> Self {
        Self::Passing(Box::new(Passing {
            body,
            connection: Arc::clone(connection),
        }))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            self.connection.linger();
        }
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Incoming(body) => Pin::new(body).poll_frame(cx),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Passing(passing) => Pin::new(&mut passing.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(body) => body.is_end_stream(),
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Passing(passing) => passing.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(body) => body.size_hint(),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Passing(passing) => passing.body.size_hint(),
        }
    }
}

/// The bytes of all request bodies that are in memory at once.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// A share of the [`Budget`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    fn reserve_nothing(self: &Arc<Self>) -> Reservation {
        Reservation {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }
}

impl Reservation {
    fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before + bytes <= self.budget.limit {
            return Ok(());
        }
        Err(Failure::new(
            Code::HeavyLoad,
            format!(
                "http server is under heavy load: request bodies in flight reached {} bytes \
                 (max_body_bytes_in_flight)",
                self.budget.limit
            ),
        )
        .closing())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Refuses a body that says by its length that it is too large, before any of it is read.
pub(crate) fn check_declared<B: Body>(body: &B, config: &Config) -> Result<(), Failure> {
    let declared = body.size_hint().lower();
    if usize::try_from(declared).is_ok_and(|bytes| bytes <= config.max_request_body_bytes) {
        return Ok(());
    }
    Err(Failure::body_too_large(
        config.max_request_body_bytes,
        Some(declared),
    ))
}

/// A body that is there already, with what covers it.
pub(crate) fn reserve(body: Bytes, budget: &Arc<Budget>) -> Result<(Bytes, Reservation), Failure> {
    let mut reserved = budget.reserve_nothing();
    reserved.grow(body.len())?;
    Ok((body, reserved))
}

/// Reads a body to its end. The reservation covers it for as long as it is kept.
pub(crate) async fn read<B>(
    mut body: B,
    config: &Config,
    budget: &Arc<Budget>,
) -> Result<(Bytes, Reservation), Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut reserved = budget.reserve_nothing();
    if body.is_end_stream() {
        return Ok((Bytes::new(), reserved));
    }
    let declared = body.size_hint().exact();
    let mut pace = Pace::default();
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    while let Some(data) = next_data(&mut body, &mut pace, reserved.bytes, config).await? {
        reserved.grow(data.len())?;
        if reserved.bytes > config.max_request_body_bytes {
            return Err(Failure::body_too_large(config.max_request_body_bytes, None));
        }
        if first.is_empty() {
            // Most bodies come in one piece, which is then not copied.
            first = data;
            if body.is_end_stream() {
                break;
            }
            continue;
        }
        if whole.is_empty() {
            // A declared length is within the limit, or the body was refused before.
            whole.reserve_exact(declared.and_then(|n| n.try_into().ok()).unwrap_or(0));
            whole.extend_from_slice(&first);
        }
        whole.extend_from_slice(&data);
    }
    let body = if whole.is_empty() {
        first
    } else {
        whole.into()
    };
    Ok((body, reserved))
}

async fn next_data<B>(
    body: &mut B,
    pace: &mut Pace,
    received: usize,
    config: &Config,
) -> Result<Option<Bytes>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    loop {
        let frame = poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => pace.poll_too_slow(cx, received, config).map(Err),
        })
        .await?;
        let Some(frame) = frame else {
            return Ok(None);
        };
        let frame = frame.map_err(|_| {
            Failure::bad_request("request body ended early or is malformed").closing()
        })?;
        // Trailers mean nothing here.
        if let Some(data) = Frame::into_data(frame).ok().filter(|data| !data.is_empty()) {
            return Ok(Some(data));
        }
    }
}

/// Watches how fast a body comes. Costs nothing for a body that is there already.
#[derive(Default)]
struct Pace {
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    fn poll_too_slow(
        &mut self,
        cx: &mut Context<'_>,
        received: usize,
        config: &Config,
    ) -> Poll<Failure> {
        let (since, check) = self.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(sleep_until(now + config.body_grace())))
        });
        loop {
            ready!(check.as_mut().poll(cx));
            let now = Instant::now();
            let asked = (now - *since).as_secs() * u64::from(config.min_body_bytes_per_second);
            if (received as u64) < asked {
                return Poll::Ready(Failure::body_too_slow(config.min_body_bytes_per_second));
            }
            check.as_mut().reset(now + PACE_CHECK);
        }
    }
}
