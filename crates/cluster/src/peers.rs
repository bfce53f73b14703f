//! The connections to other members: one each, made when it is first needed and kept open.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bugle_node::GATEWAY;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::port::BoxError;

/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(1);

/// How often a silent connection is asked for a sign of life, and how long it has for that. Together
/// with the lease's two seconds: a member that hangs is noticed about when its lease is over.
const SIGN_OF_LIFE: Duration = Duration::from_millis(750);
const SILENCE: Duration = Duration::from_millis(1500);

/// How much of one answer may be on its way unread; and of all together, so that a slow reader holds
/// up none but itself.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
pub(crate) const CONNECTION_WINDOW: u32 = 1 << 30;

/// The body of a request to a member.
pub(crate) type Outgoing = UnsyncBoxBody<Bytes, BoxError>;

/// Why a member did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// It certainly did not get the request.
    #[error("the gateway cannot be reached: {0}")]
    NotSent(String),
    /// It may have got it.
    #[error("the connection to the gateway was lost: {0}")]
    Lost(String),
}

/// The connections. None is made before this gateway has a certificate.
#[derive(Default)]
pub(crate) struct Peers {
    tls: OnceLock<TlsConnector>,
    links: Mutex<HashMap<Arc<str>, Arc<Link>>>,
}

/// One connection, which those who need it first make together.
#[derive(Default)]
struct Link(tokio::sync::Mutex<Option<SendRequest<Outgoing>>>);

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    pub(crate) fn open(&self, tls: Arc<ClientConfig>) {
        let _ = self.tls.set(TlsConnector::from(tls));
    }

    /// Forgets the connections to those who are no members any more. What runs over them goes on.
    pub(crate) fn keep(&self, is_member: impl Fn(&str) -> bool) {
        self.links.lock().retain(|id, _| is_member(id));
    }

    /// Sends a request to a member.
    pub(crate) async fn send(
        &self,
        id: &Arc<str>,
        address: &str,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let link = Arc::clone(self.links.lock().entry(Arc::clone(id)).or_default());
        let mut sender = self.connected(&link, address).await?;
        if let Err(error) = sender.ready().await {
            return Err(Unanswered::NotSent(shown(&error)));
        }
        sender
            .try_send_request(request)
            .await
            .map_err(|mut failed| {
                let was_kept = failed.take_message().is_some();
                let error = failed.into_error();
                if was_kept || was_refused(&error) {
                    Unanswered::NotSent(shown(&error))
                } else {
                    Unanswered::Lost(shown(&error))
                }
            })
    }

    async fn connected(
        &self,
        link: &Link,
        address: &str,
    ) -> Result<SendRequest<Outgoing>, Unanswered> {
        let mut known = link.0.lock().await;
        if let Some(sender) = known.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        *known = None;
        let connected = timeout(CONNECTING, self.connect(address)).await;
        let connected = connected.unwrap_or_else(|_| Err("no answer in time".into()));
        let sender =
            connected.map_err(|error| Unanswered::NotSent(format!("{address}: {error}")))?;
        Ok(known.insert(sender).clone())
    }

    async fn connect(&self, address: &str) -> Result<SendRequest<Outgoing>, BoxError> {
        let tls = self
            .tls
            .get()
            .ok_or("this gateway has no certificate yet")?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(GATEWAY)?;
        let stream = tls.connect(name, stream).await?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(SIGN_OF_LIFE)
            .keep_alive_timeout(SILENCE)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to a gateway ended");
            }
        });
        Ok(sender)
    }
}

/// The error with what is behind it.
fn shown(error: &hyper::Error) -> String {
    let cause = StdError::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Whether the other side said that it did not look at the request.
fn was_refused(error: &hyper::Error) -> bool {
    let mut cause = StdError::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let reason = error.reason();
            let refused = error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM);
            // It names the last request that it looked at; only later ones end with this.
            let leaving = error.is_go_away() && reason == Some(h2::Reason::NO_ERROR);
            return error.is_remote() && (refused || leaving);
        }
        cause = error.source();
    }
    false
}
