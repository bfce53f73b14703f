//! What keeps a call from its answer.

use std::net::SocketAddr;
use std::time::Duration;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody takes connections there.
    #[error("no connection to {address}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The answer was not complete in time.
    #[error("no answer within {} s", limit.as_secs_f64())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// The connection broke before the answer was complete.
    #[error("the connection broke")]
    Broken(#[source] std::io::Error),
    /// The connection was closed before the answer was complete.
    #[error("the connection was closed before the answer was complete")]
    Closed,
    /// What came back is not HTTP/1.1.
    #[error("the answer is not HTTP: {0}")]
    Malformed(&'static str),
    /// The measurement was stopped before the answer was complete.
    #[error("stopped before the answer was complete")]
    Stopped,
    /// The operating system has no threads, descriptors or timers left.
    #[error("the load cannot be made")]
    Machine(#[source] std::io::Error),
}

impl Error {
    /// With its cause, for people.
    #[must_use]
    pub fn text(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}
