//! Load: calls over keep-alive HTTP/1.1 connections, and what came back of them.
//!
//! [`open()`] sends calls on a schedule, whether or not earlier ones were answered, and counts each
//! latency from the moment its call was due: a stall is felt by every call that it delays.
//! [`closed()`] sends the next call of a connection when it has the answer to the last, which finds
//! the most that can be served. Both keep a [`Tally`] of bounded size, however long they run.
//!
//! The generator knows HTTP and the two headers in which an answer of the platform says how it was
//! served; it takes as little of the machine as it can, because it shares it with what it measures.

mod answer;
mod closed;
mod connection;
mod durations;
mod error;
mod open;
mod request;
mod round;
mod tally;
mod watch;

pub use answer::Answer;
pub use closed::{Loop, Until, closed};
pub use connection::once;
pub use durations::Durations;
pub use error::Error;
pub use open::{Backlog, Schedule, open};
pub use request::{request, with_headers};
pub use round::Round;
pub use tally::{Failures, Kind, Tally};
pub use watch::Watch;
