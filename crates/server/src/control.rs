//! The control port: its routes and its connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse as _;
use bugle_api::{functions_router, graph_router, reservations_router};
use bugle_gateway::Gateway;
use bugle_registry::Registry;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use utoipa_axum::router::OpenApiRouter;

use crate::images::{self, Images};
use crate::linger::Lingering;
use crate::operator::{self, Operator};
use crate::packages::{self, Uploads};

/// Connections that are served at once; more wait in the socket's queue.
const CONNECTIONS: usize = 1024;

/// How long a client may take to send the head of a request.
const HEAD: Duration = Duration::from_secs(10);

/// The pause after the system refused to hand out a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The gateway, for invocations that come to the control port: clients of FunctionGraph know one
/// address for everything.
#[derive(Clone, Debug)]
pub(crate) struct Invocations {
    gateway: Gateway,
    /// Where the gateway runs.
    runtime: Handle,
}

impl Invocations {
    pub(crate) fn new(gateway: Gateway, runtime: Handle) -> Self {
        Self { gateway, runtime }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let gateway = self.gateway.clone();
        let answered = self
            .runtime
            .spawn(async move { gateway.answer(request).await });
        match answered.await {
            Ok(response) => response.map(Body::new),
            // The data plane has ended before this port did.
            Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }
}

/// All routes, with their document.
pub(crate) fn routes(
    registry: Arc<Registry>,
    operator: Arc<Operator>,
    region: &str,
    uploads: Arc<Uploads>,
    images: Images,
) -> OpenApiRouter {
    OpenApiRouter::new()
        .merge(graph_router(Arc::clone(&registry), region))
        .merge(functions_router().with_state(Arc::clone(&registry)))
        .merge(reservations_router().with_state(registry))
        .merge(operator::router().with_state(operator))
        .merge(packages::router().with_state(uploads))
        .merge(images::router().with_state(images))
}

/// Serves connections until `stop`, then lets the open requests finish.
pub(crate) async fn serve(
    listener: TcpListener,
    router: axum::Router,
    invocations: Invocations,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (stream, slot) = accepted;
        let connection = connection(stream, router.clone(), invocations.clone(), stop.clone());
        tasks.spawn(async move {
            connection.await;
            drop(slot);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) => {
                tracing::warn!(%error, "the control port got no connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    router: axum::Router,
    invocations: Invocations,
    stop: CancellationToken,
) {
    // A socket that is gone already fails below.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (router, invocations) = (router.clone(), invocations.clone());
        async move {
            if Gateway::is_invocation(&request) {
                return Ok::<_, Infallible>(invocations.answer(request).await);
            }
            Ok(router.oneshot(request).await.unwrap_or_else(|n| match n {}))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(Lingering::new(stream, stop.clone())), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        biased;
        () = stop.cancelled() => served.as_mut().graceful_shutdown(),
        // A client that breaks the connection has his reasons.
        _ = served.as_mut() => return,
    }
    let _ = served.await;
}
