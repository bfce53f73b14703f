//! Connections to checked addresses.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Policy, Refused};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The policy does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The other side cannot be reached.
    #[error("{host}:{port} cannot be reached")]
    Unreachable {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Why, of the address that was tried last.
        source: io::Error,
    },
}

/// Connects only where the policy allows it, to the very address that was checked.
///
/// It is what hyper's clients call to connect, for `http` and below TLS for `https`.
#[derive(Clone, Debug)]
pub struct Connector {
    policy: Policy,
    timeout: Duration,
}

impl Connector {
    /// Connections under `policy`, each established within `timeout`.
    pub fn new(policy: Policy, timeout: Duration) -> Self {
        Self { policy, timeout }
    }

    async fn connect(self, url: Uri) -> Result<TokioIo<TcpStream>, ConnectError> {
        let target = Policy::target(&url)?;
        let addresses = self.policy.resolve(&target).await?;
        let late = || Err(io::ErrorKind::TimedOut.into());
        let connected = tokio::time::timeout(self.timeout, first(&addresses));
        let stream = connected.await.unwrap_or_else(|_| late());
        let stream = stream.map_err(|source| ConnectError::Unreachable {
            host: target.host,
            port: target.port,
            source,
        })?;
        // Without it a request waits for the acknowledgement of the one before; a socket that has
        // ended already says so at the first byte.
        let _ = stream.set_nodelay(true);
        Ok(TokioIo::new(stream))
    }
}

/// The first address that answers, in the resolver's order.
async fn first(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = Err(io::ErrorKind::NotFound.into());
    for address in addresses {
        last = TcpStream::connect(address).await;
        if last.is_ok() {
            break;
        }
    }
    last
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        Box::pin(self.clone().connect(url))
    }
}
