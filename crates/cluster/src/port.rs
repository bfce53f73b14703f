//! The port for the other members.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bugle_node::{Strangers, is_gateway};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::peers::{CONNECTION_WINDOW, STREAM_WINDOW};

/// How long whoever connects may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// Requests of one member at once; more wait there.
const STREAMS: u32 = 20_000;

/// The pause after the system refused to hand out a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Any error.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An answer to a member.
pub type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// Who answers members.
pub type Serve =
    Arc<dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// Serves the other members on the current runtime until `stop`, and then until what they asked is
/// answered.
pub async fn serve_port(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    serve: Serve,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let strangers = Strangers::default();
    let connections = TaskTracker::new();
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let stranger = strangers.admit(from.ip());
                    let (acceptor, serve) = (acceptor.clone(), Arc::clone(&serve));
                    let stop = stop.clone();
                    connections.spawn(async move {
                        let known = stranger.during(introduce(&acceptor, stream)).await;
                        drop(stranger);
                        if let Some(Some(stream)) = known {
                            converse(stream, serve, stop).await;
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the port of gateways got no connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
    connections.close();
    connections.wait().await;
}

type Tls = tokio_rustls::server::TlsStream<TcpStream>;

/// The connection of whoever proves to be a gateway of this platform.
async fn introduce(acceptor: &TlsAcceptor, stream: TcpStream) -> Option<Tls> {
    // A socket that is gone already fails below.
    let _ = stream.set_nodelay(true);
    let accepted = timeout(INTRODUCTION, acceptor.accept(stream)).await;
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "whoever came to the port of gateways is none");
            return None;
        }
        Err(_) => return None,
    };
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    // A node has a certificate of the same authority.
    certificate.is_some_and(is_gateway).then_some(stream)
}

async fn converse(stream: Tls, serve: Serve, stop: CancellationToken) {
    let service = service_fn(|request| {
        let answer = serve(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        // Connections with another protocol than HTTP go on as streams.
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "the connection of a gateway ended");
    }
}
