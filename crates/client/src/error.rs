//! What can go wrong between here and the platform.

use std::time::Duration;

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address is not `http://host:port`.
    #[error("{text:?} is not an address like http://127.0.0.1:31182")]
    Address {
        /// The text.
        text: String,
    },
    /// Nobody listens there.
    #[error("nothing answers at {base}")]
    Connect {
        /// The address.
        base: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The answer did not begin in time.
    #[error("{base} did not answer within {} s", limit.as_secs())]
    Timeout {
        /// The address.
        base: String,
        /// The limit.
        limit: Duration,
    },
    /// The connection broke.
    #[error("the connection to {base} broke")]
    Broken {
        /// The address.
        base: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// A request that cannot be sent, for instance because of a header that is none.
    #[error("the request cannot be sent")]
    Request(#[source] http::Error),
    /// A file that shall be sent cannot be read.
    #[error("the file cannot be read")]
    File(#[source] std::io::Error),
    /// The platform refused.
    #[error("{message} (code {code}, status {status})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The inner code.
        code: u32,
        /// What the platform said.
        message: String,
    },
    /// The answer is not what the platform promises.
    #[error("{base} answered something that is not of the control API (status {status})")]
    Unexpected {
        /// The address.
        base: String,
        /// The HTTP status.
        status: u16,
        /// What is wrong with it, where the status says that it should be right.
        #[source]
        source: Option<serde_json::Error>,
    },
}

impl Error {
    /// The inner code of a refusal.
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}
