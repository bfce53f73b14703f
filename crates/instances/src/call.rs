//! One call and its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::ExitCause;

/// Where a handler's stream goes while the call runs.
///
/// Parts move while the future of the call is polled: whoever reads them polls both. All of them
/// have been sent when the call is answered. A closed receiver loses messages, nothing else.
pub type StreamSink = mpsc::Sender<StreamPart>;

/// A part of a handler's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamPart {
    /// One write to `context.get_stream()`, which the gateway makes an event of.
    Message(Bytes),
    /// A program has begun to answer with an event stream: its other headers. Comes first, and only
    /// [`StreamPart::Events`] follow.
    Head(Vec<(String, String)>),
    /// A piece of a program's event stream, which goes to the client as it is.
    Events(Bytes),
}

/// A call to an instance.
#[derive(Debug)]
pub struct CallRequest {
    /// The trace id of the call.
    pub request: Arc<str>,
    /// The body as the client sent it.
    pub body: Bytes,
    /// Everything the context shows beside the body, as one JSON object: `headers`, `query`,
    /// `path`, `method`, `content_type`, `traceparent`. The runtime parses it when it is asked.
    pub meta: Bytes,
    /// Whether the body may be JSON: then the handler's `event` is its value, and the bytes where it
    /// is not JSON after all. If it may not, the `event` is the bytes in any case.
    pub json: bool,
    /// How long the call may run.
    pub timeout: Duration,
    /// Where stream writes go; none drops them.
    pub stream: Option<StreamSink>,
}

/// What the user's code answered.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub body: ReplyBody,
    /// How long the user's code ran.
    pub run: Duration,
    /// The most memory the instance has used so far, in bytes; 0 when unknown.
    pub peak_memory: u64,
    /// The last lines this call logged, at most 4 KiB.
    pub log_tail: Vec<u8>,
}

/// The forms of an answer.
#[derive(Debug)]
pub enum ReplyBody {
    /// The JSON text of the handler's return value.
    Json(Bytes),
    /// The handler chose status, headers and body itself.
    Http {
        /// The status code, 100–599.
        status: u16,
        /// The headers, in order.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// The answer went out as a stream of [`StreamPart::Events`]; there is nothing more.
    Streamed,
    /// The user's code failed.
    Error {
        /// The inner code (4001, 4002, 4004, 4007, …).
        code: u32,
        /// What happened.
        message: String,
        /// The exception's type, if there is one.
        kind: Option<String>,
        /// The stack trace, if there is one.
        trace: Option<String>,
    },
}

/// Why a call got no answer from the user's code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CallError {
    /// The instance was gone before the first byte was sent; the call did not run.
    #[error("the instance was gone before the call reached it: {0}")]
    NotSent(ExitCause),
    /// The instance ended after the call was sent; it may have run.
    #[error("the instance ended during the call: {0}")]
    Exited(ExitCause),
    /// The instance sent something that is not of the protocol; it was killed.
    #[error("the instance broke the protocol: {0}")]
    Protocol(String),
    /// The function is not called like this; nothing was sent.
    #[error("the function has no web server of its own")]
    NoServer,
    /// What the user's code answered is no HTTP, or ended before its end (4002).
    #[error("{0}")]
    Answer(String),
}
