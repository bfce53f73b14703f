//! The listener side: accepting, limiting, serving and draining connections.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use bugle_instances::{Awake, BoxFuture};
use bugle_scheduler::{Function, Scheduler};
use bugle_types::FunctionId;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::{Budget, Inbound};
use crate::connection::{Connection, Connections, Order, Phase, Socket};
use crate::function_graph::Route;
use crate::members::{self, Owners};
use crate::payload::{Broken, Payload};
use crate::trace::TraceIds;
use crate::{Config, Metrics, serve};

/// How often connections are looked at; their limits are kept to this.
const SWEEP: Duration = Duration::from_secs(1);

/// Pause after the system refused to hand out a connection, normally because the process has too
/// many files open. Without it the loop would spin until one is closed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How long answers that were given up at the end of the drain may take to be sent.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a client gets when too many connections are open. Written as it is: parsing requests of
/// connections that are refused would be the work that the limit is there to avoid.
const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\n\
    x-inner-code: 214503\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\
    content-length: 80\r\n\r\n\
    {\"code\":214503,\"message\":\"too many connections (max_connections)\",\"trace_id\":\"\"}";

/// Makes the scheduler know a function that is registered and was not called yet; cheap if there is
/// no such function.
pub type Load = Arc<dyn Fn(&FunctionId) -> BoxFuture<'static, ()> + Send + Sync>;

/// Keeps an event that is to be delivered later, under its request id; it is kept when the future is
/// done.
pub type AcceptEvent = Arc<
    dyn Fn(FunctionId, Bytes, Arc<str>) -> BoxFuture<'static, Result<(), Refused>> + Send + Sync,
>;

/// Why an event is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// So many wait already.
    Full(usize),
    /// It cannot be kept; the text is for the operator.
    Broken(String),
}

/// The HTTP data plane.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) scheduler: Scheduler,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) load: Load,
    /// Who takes events that are delivered later, once there is somebody.
    pub(crate) events: OnceLock<AcceptEvent>,
    pub(crate) ids: TraceIds,
    pub(crate) awake: Arc<Awake>,
    pub(crate) budget: Arc<Budget>,
    /// The gateways that share the functions, where there are others.
    pub(crate) owners: OnceLock<Arc<dyn Owners>>,
    /// Connections, and calls whose client left.
    pub(crate) tasks: TaskTracker,
    http: http1::Builder,
    pub(crate) connections: Connections,
    open: AtomicUsize,
    draining: AtomicBool,
}

impl Shared {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether another gateway has a function; the connection remembers it of its call, which did not
    /// run.
    pub(crate) fn is_elsewhere(&self, connection: &Connection, function: &FunctionId) -> bool {
        let owners = self.owners.get();
        let is = owners.is_some_and(|owners| owners.place(function) != members::Place::Here);
        if is {
            connection.moved.store(true, Ordering::Relaxed);
        }
        is
    }

    /// The same of a function that was found, whose instance did not take the call.
    pub(crate) fn has_moved(&self, connection: &Connection, function: &Function) -> bool {
        self.owners.get().is_some() && self.is_elsewhere(connection, &function.spec().id)
    }
}

impl Gateway {
    /// A gateway to the functions of `scheduler`. A function that it does not know is sought with
    /// `load` before it counts as not found.
    pub fn new(config: Config, scheduler: Scheduler, metrics: Metrics, load: Load) -> Self {
        let mut http = http1::Builder::new();
        // The sweep keeps the time limits of connections, without a timer per request.
        http.header_read_timeout(None)
            .max_header_size(config.max_header_bytes);
        let shared = Shared {
            budget: Budget::new(config.max_body_bytes_in_flight),
            config,
            scheduler,
            metrics: Arc::new(metrics),
            load,
            events: OnceLock::new(),
            owners: OnceLock::new(),
            ids: TraceIds::default(),
            awake: Arc::default(),
            tasks: TaskTracker::new(),
            http,
            connections: Connections::default(),
            open: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Leaves asynchronous invocations to `accept`; the first that is named is.
    pub fn leave_events_to(&self, accept: AcceptEvent) {
        let _ = self.shared.events.set(accept);
    }

    /// Shares the functions with other gateways; to be said before anything is served.
    pub fn share(&self, owners: Arc<dyn Owners>) {
        let _ = self.shared.owners.set(owners);
    }

    /// Whether a request comes from another gateway that passed it on.
    pub fn was_passed_on<B>(request: &Request<B>) -> bool {
        members::was_passed_on(request.headers())
    }

    /// Answers a request that another gateway passed on. To be run on the gateway's runtime.
    pub async fn receive(
        &self,
        request: Request<Incoming>,
    ) -> Response<UnsyncBoxBody<Bytes, Broken>> {
        let response = if let Some(owners) = self.shared.owners.get() {
            members::receive(&self.shared, &**owners, request).await
        } else {
            let connection = self.shared.connections.open(None);
            serve::serve(&self.shared, &connection, request.map(Inbound::Incoming)).await
        };
        response.map(UnsyncBoxBody::new)
    }

    /// Whether a request is an invocation of FunctionGraph's, which another listener may leave to
    /// [`Gateway::answer`].
    pub fn is_invocation<B>(request: &Request<B>) -> bool {
        Route::of(request.method(), request.uri().path()).is_some()
    }

    /// Answers an invocation that came to another listener. To be run on the gateway's runtime.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Response<UnsyncBoxBody<Bytes, Broken>> {
        let connection = self.shared.connections.open(None);
        connection.enter(Phase::Busy);
        let response = respond(&self.shared, &connection, request).await;
        response.map(UnsyncBoxBody::new)
    }

    /// Serves connections of `listeners` on the runtime it is called in, until `shutdown`; then
    /// refuses new calls with 503 and returns when the running ones have been answered, or
    /// `drain_seconds` later.
    pub async fn run(self, listeners: Vec<TcpListener>, shutdown: CancellationToken) {
        let shared = self.shared;
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(Arc::clone(&shared), listener, shutdown.clone()));
        }
        let sweeper = sweep(&shared);
        let window = Duration::from_micros(shared.config.awake_micros.into());
        tokio::spawn({
            let (awake, shutdown) = (Arc::clone(&shared.awake), shutdown.clone());
            async move { shutdown.run_until_cancelled(awake.run(window)).await }
        });
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = sweeper => {}
        }
        shared.draining.store(true, Ordering::Relaxed);
        // Each ends by the same token; afterwards the sockets refuse connections.
        while accepting.join_next().await.is_some() {}
        drain(&shared).await;
    }
}

/// Answers a request, or has it answered by the gateway that has its function.
async fn respond(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Response<Payload> {
    match shared.owners.get() {
        None => serve::serve(shared, connection, request.map(Inbound::Incoming)).await,
        Some(owners) => Box::pin(members::serve(shared, &**owners, connection, request)).await,
    }
}

async fn sweep(shared: &Shared) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        shared.connections.sweep(&shared.config);
    }
}

async fn drain(shared: &Shared) {
    shared.connections.tell(Order::Finish);
    shared.tasks.close();
    tokio::select! {
        biased;
        () = shared.tasks.wait() => return,
        () = sleep(shared.config.drain()) => {}
        () = sweep(shared) => {}
    }
    tracing::warn!(
        left = shared.tasks.len(),
        "calls did not finish within drain_seconds"
    );
    shared.connections.tell(Order::GiveUp);
    let _ = timeout(LAST_WORDS, shared.tasks.wait()).await;
    shared.connections.tell(Order::Abort);
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(&shared, stream, peer),
            Err(error) => {
                tracing::warn!(error = %error, "connection could not be accepted");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    if shared.open.load(Ordering::Relaxed) >= shared.config.max_connections {
        shared.metrics.refused.inc();
        if let Err(error) = refuse(stream) {
            tracing::debug!(error = %error, "connection was closed without an answer");
        }
        return;
    }
    // Nagle's algorithm would hold back the answer until the client acknowledges the last one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = %error, "connection ended before it began");
        return;
    }
    let place = Place::take(shared);
    shared.tasks.spawn(converse(place, stream, peer));
}

/// Answers with one write that does not wait, and closes.
fn refuse(stream: TcpStream) -> io::Result<()> {
    let mut stream = stream.into_std()?;
    stream.write_all(TOO_MANY_CONNECTIONS)?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// One of the places that `max_connections` counts.
pub(crate) struct Place(Arc<Shared>);

impl Place {
    pub(crate) fn take(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        shared.metrics.connections.inc();
        Self(Arc::clone(shared))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.connections.dec();
    }
}

/// Serves the requests of one connection.
async fn converse(place: Place, stream: TcpStream, peer: SocketAddr) {
    let shared = &place.0;
    let connection = shared.connections.open(Some(peer.ip()));
    let metrics = Arc::clone(&shared.metrics);
    let socket = TokioIo::new(Socket::new(stream, Arc::clone(&connection), metrics));
    let service = service_fn(|request| {
        let (shared, connection) = (Arc::clone(shared), Arc::clone(&connection));
        async move { Ok::<_, Infallible>(respond(&shared, &connection, request).await) }
    });
    let http = shared.http.serve_connection(socket, service);
    let mut http = pin!(http.with_upgrades());
    let mut is_finishing = false;
    let ended = poll_fn(|cx| {
        connection.listen(cx);
        loop {
            if connection.order() == Order::Abort {
                return Poll::Ready(Ok(()));
            }
            if let Poll::Ready(ended) = http.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            // Looked at after the poll, in which the last request may have been answered.
            if !must_end(&connection, &mut is_finishing) {
                return Poll::Pending;
            }
            http.as_mut().graceful_shutdown();
        }
    });
    if let Err(error) = ended.await {
        tracing::debug!(error = %error, "connection ended");
    }
}

/// Whether the connection shall now take no more requests; says so once.
///
/// A request whose head is arriving is let through: it is answered 503 rather than cut off.
fn must_end(connection: &Connection, is_finishing: &mut bool) -> bool {
    let now =
        !*is_finishing && connection.order() >= Order::Finish && connection.phase() != Phase::Head;
    *is_finishing |= now;
    now
}
