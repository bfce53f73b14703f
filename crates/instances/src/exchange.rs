//! A caller's own HTTP request to a function that is a web server, and the server's answer.
//!
//! Unlike a call ([`CallRequest`](crate::CallRequest)) nothing is collected: both bodies pass as
//! they come, and a connection that becomes something else (WebSocket) is handed over whole.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{request, response};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{CallError, ExitCause};

/// A caller's request, for [`Instance::exchange`](crate::Instance::exchange).
#[derive(Debug)]
pub struct HttpExchange {
    /// The trace id of the request.
    pub request: Arc<str>,
    /// Method, headers, and path and query as the server shall see them. Headers that belong to the
    /// caller's connection or that only the platform may set are taken out before they are sent; an
    /// upgrade to `websocket` is the one that stays.
    pub head: request::Parts,
    /// What the caller sends.
    pub body: HttpBody,
}

/// What a caller sends.
pub enum HttpBody {
    /// All of it, perhaps nothing.
    Whole(Bytes),
    /// As it comes.
    Stream(Pin<Box<dyn Body<Data = Bytes, Error = BrokenBody> + Send>>),
}

/// A request's body that will not come to its end; the server's connection is broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the caller's body did not come to its end")]
pub struct BrokenBody;

impl Default for HttpBody {
    fn default() -> Self {
        Self::Whole(Bytes::new())
    }
}

impl fmt::Debug for HttpBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => write!(f, "Whole({} bytes)", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Body for HttpBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

/// The answer of a function's server, from the moment its head was there.
#[derive(Debug)]
pub struct HttpReply {
    /// Status and headers, without those of the server's connection, except those of an upgrade.
    pub head: response::Parts,
    /// What comes after the head.
    pub body: HttpReplyBody,
}

/// What comes after the head of an answer.
pub enum HttpReplyBody {
    /// A body, which moves only while it is polled. To drop it before its end is to tell the server
    /// that nobody listens any more.
    Stream(Pin<Box<dyn Body<Data = Bytes, Error = CallError> + Send>>),
    /// The connection itself, after status 101.
    Upgraded(Upgraded),
}

impl fmt::Debug for HttpReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream(_) => "Stream",
            Self::Upgraded(_) => "Upgraded",
        })
    }
}

/// Bytes both ways.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A connection to a function's server that no longer speaks HTTP.
pub struct Upgraded {
    /// The connection: a socket, or what leads to one on another machine.
    pub stream: Box<dyn ByteStream>,
    /// What the server has already sent after its head.
    pub first: Bytes,
    /// Counts the exchange as running; to be dropped after the connection.
    pub running: Box<dyn Send + Sync>,
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgraded")
            .field("first", &self.first.len())
            .finish_non_exhaustive()
    }
}

/// Why an exchange has no answer.
#[derive(Debug)]
pub enum NoReply {
    /// The instance was gone before the first byte was sent: the request is given back, whole.
    NotSent(ExitCause, Box<HttpExchange>),
    /// The request may have been acted upon.
    Failed(CallError),
}
