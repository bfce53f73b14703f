//! The body of an answer.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::events::Events;
use crate::http_function::Relay;
use crate::members::Forwarded;

/// The body of an answer: known as a whole, a stream of events, or what a function's server sends.
#[derive(Debug)]
pub(crate) enum Payload {
    /// All of it; empty once it was taken.
    Whole(Bytes),
    /// Events as they come.
    Events(Box<Events>),
    /// What a function's server sends, as it comes.
    Relayed(Box<Relay>),
    /// What another gateway answers, as it comes.
    Forwarded(Box<Forwarded>),
}

/// An answer that will not come to its end; the client's connection is closed in the middle of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer did not come to its end")]
pub struct Broken;

impl Body for Payload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let data = match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(std::mem::take(bytes))),
            Self::Events(events) => events.poll_data(cx),
            Self::Relayed(relay) => return relay.poll_frame(cx),
            Self::Forwarded(answer) => return answer.poll_frame(cx),
        };
        data.map(|data| data.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Events(_) => false,
            Self::Relayed(relay) => relay.is_end_stream(),
            Self::Forwarded(answer) => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Events(_) => SizeHint::default(),
            Self::Relayed(relay) => relay.size_hint(),
            Self::Forwarded(answer) => answer.size_hint(),
        }
    }
}
