//! What a function's server answers: as it comes, up to a limit, until the function's time is over.
//!
//! Whoever sends the answer to the client moves it; a client that does not read stops that. So the
//! connection's own limits, which a sweep keeps, hold here too: a client that reads nothing for too
//! long, or at the deadline is still not done, loses its connection, and the slot is free.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bugle_instances::CallError;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Held;
use crate::connection::{Connection, Order, Phase};
use crate::failure::Failure;
use crate::payload::{Broken, Payload};

type Answer = Pin<Box<dyn Body<Data = Bytes, Error = CallError> + Send>>;

/// An answer on its way.
pub(crate) struct Relay {
    body: Answer,
    /// What has been read with the head.
    first: Option<Bytes>,
    /// How much has come, and how much may, in bytes.
    passed: u64,
    most: u64,
    deadline: Pin<Box<Sleep>>,
    limit: Duration,
    /// None once the exchange has ended.
    held: Option<Held>,
    connection: Arc<Connection>,
}

impl Relay {
    /// The payload of an answer whose head is there. Most answers come whole with it: those need
    /// nothing of what is here.
    pub(super) async fn start(
        mut body: Answer,
        held: Held,
        (deadline, most): (Instant, u64),
        connection: &Arc<Connection>,
    ) -> Result<Payload, Failure> {
        if body.is_end_stream() {
            // Keeps a length that a HEAD request was told.
            held.done();
            return Ok(Payload::Whole(Bytes::new()));
        }
        let first = poll_fn(|cx| Poll::Ready(body.as_mut().poll_frame(cx))).await;
        let first = match first {
            Poll::Pending => None,
            Poll::Ready(None) => {
                held.done();
                return Ok(Payload::Whole(Bytes::new()));
            }
            Poll::Ready(Some(Err(error))) => return Err(held.broken(error)),
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
        };
        if body.is_end_stream() {
            held.done();
            return Ok(Payload::Whole(first.unwrap_or_default()));
        }
        let limit = held.lease.spec().timeout;
        connection.ends_by(deadline.saturating_duration_since(Instant::now()));
        Ok(Payload::Relayed(Box::new(Self {
            body,
            passed: first.as_ref().map_or(0, |first| first.len() as u64),
            most,
            first,
            deadline: Box::pin(sleep_until(deadline)),
            limit,
            held: Some(held),
            connection: Arc::clone(connection),
        })))
    }

    /// The next bytes to send.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.held.is_none() {
            return Poll::Ready(None);
        }
        loop {
            match self.body.as_mut().poll_frame(cx) {
                Poll::Ready(None) => {
                    if let Some(held) = self.held.take() {
                        held.done();
                    }
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers do not pass.
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    return Poll::Ready(Some(self.pass(data)));
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(self.fail(|held| held.broken(error)))));
                }
                Poll::Pending if self.connection.order() >= Order::GiveUp => {
                    return Poll::Ready(Some(Err(
                        self.fail(|held| held.failed(Failure::given_up()))
                    )));
                }
                Poll::Pending => {
                    if self.deadline.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    let limit = self.limit;
                    return Poll::Ready(Some(Err(self.fail(|held| held.overdue(limit)))));
                }
            }
        }
    }

    fn pass(&mut self, data: Bytes) -> Result<Frame<Bytes>, Broken> {
        self.passed += data.len() as u64;
        if self.passed > self.most {
            let (passed, most) = (self.passed, self.most);
            let failure = Failure::response_too_large(passed, most);
            return Err(self.fail(|held| held.failed(failure)));
        }
        if self.body.is_end_stream()
            && let Some(held) = self.held.take()
        {
            held.done();
        }
        Ok(Frame::data(data))
    }

    /// The client has the head already: all that can be told it is that the answer is not whole.
    fn fail(&mut self, why: impl FnOnce(Held) -> Failure) -> Broken {
        if let Some(held) = self.held.take() {
            let failure = why(held);
            tracing::debug!(
                code = failure.code(),
                error = failure.message(),
                "answer of a function's server broke off"
            );
        }
        Broken
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.held.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + first);
        }
        hint.set_lower(rest.lower() + first);
        hint
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(held) = self.held.take()
            && self.deadline.deadline() <= Instant::now()
        {
            // The client kept the answer from being sent past the end of the function's time.
            held.overdue(self.limit);
        }
        self.connection.has_no_end();
        self.connection.enter(Phase::Open);
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("ended", &self.held.is_none())
            .finish_non_exhaustive()
    }
}
