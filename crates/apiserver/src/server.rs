//! The listener, the connections and the clock of the controllers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::api::{Answer, Request, answer};
use crate::controllers;
use crate::controllers::kubelet::{Delays, Kubelet};
use crate::failure::Failure;
use crate::faults::{Faults, Trouble};
use crate::request::Query;
use crate::store::Store;

/// Bytes of the largest body; the real limit is about this.
const LARGEST_BODY: usize = 3 << 20;

/// How many requests are remembered.
const LOG: usize = 100_000;

/// Who runs what is in Pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// Nobody; their life is played.
    Played,
    /// Whoever made the server, who also tells how the Pods are.
    Yours,
}

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names of the nodes at the start, each with 16 cores, 64 GiB and room for 110 Pods.
    pub nodes: Vec<String>,
    /// From the binding of a Pod to running containers.
    pub start_delay: Duration,
    /// From there to readiness.
    pub ready_delay: Duration,
    /// From the deletion of a Pod to its end, if its grace period is not shorter.
    pub stop_delay: Duration,
    /// How long a node may be silent before its Pods are to be replaced.
    pub silence: Duration,
    /// How often watches that want them get bookmarks.
    pub bookmark_every: Duration,
    /// What every request takes at least.
    pub latency: Duration,
    /// Who runs what is in Pods.
    pub hosts: Hosts,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: ["node-1", "node-2", "node-3"].map(str::to_owned).to_vec(),
            start_delay: Duration::from_millis(20),
            ready_delay: Duration::from_millis(20),
            stop_delay: Duration::from_millis(10),
            silence: Duration::from_millis(200),
            bookmark_every: Duration::from_millis(500),
            latency: Duration::ZERO,
            hosts: Hosts::Played,
        }
    }
}

/// One request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When it was read.
    pub at: Instant,
    /// Its method.
    pub method: String,
    /// Its path with the query.
    pub path: String,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    pub(crate) access: Mutex<Access>,
    pub(crate) faults: Mutex<Faults>,
    pub(crate) options: Options,
    /// Counts up when all watches are to break.
    pub(crate) cut: watch::Sender<u64>,
    pub(crate) seen: Mutex<Vec<Seen>>,
}

/// What the controllers work on.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) kubelet: Kubelet,
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        let delays = Delays {
            start: options.start_delay,
            ready: options.ready_delay,
            stop: options.stop_delay,
            silence: options.silence,
        };
        Self {
            state: Mutex::new(State {
                store: Store::new(),
                kubelet: Kubelet::new(delays, options.hosts),
            }),
            access: Mutex::new(Access::default()),
            faults: Mutex::new(Faults::default()),
            options,
            cut: watch::Sender::new(0),
            seen: Mutex::new(Vec::new()),
        }
    }
}

/// How long the controllers wait for more to do, as real ones are a little behind, too.
const PAUSE: Duration = Duration::from_millis(2);

/// Lets the controllers work until the token is cancelled.
pub(crate) async fn control(shared: Arc<Shared>, stop: CancellationToken) {
    let mut changed = shared.state.lock().store.subscribe();
    loop {
        let next = {
            let mut state = shared.state.lock();
            let State { store, kubelet } = &mut *state;
            changed.mark_unchanged();
            let next = controllers::step(store, kubelet, Instant::now());
            // Its own writes are no news to it, but what it left for later is.
            changed.mark_unchanged();
            next
        };
        let next = next.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = changed.changed() => tokio::time::sleep(PAUSE).await,
            () = tokio::time::sleep_until(next.into()) => {}
        }
    }
}

/// Takes connections until the token is cancelled, which ends them, too.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let _unchanged = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        let close = stop.child_token();
        tokio::spawn(async move {
            let service =
                service_fn(|request| respond(Arc::clone(&shared), request, close.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                biased;
                () = close.cancelled() => {}
                _ = connection => {}
            }
        });
    }
}

/// Binds the port; a free one for port 0.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn respond(
    shared: Arc<Shared>,
    request: http::Request<Incoming>,
    close: CancellationToken,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let method = parts.method.as_str().to_owned();
    let whole = parts
        .uri
        .path_and_query()
        .map_or_else(String::new, ToString::to_string);
    remember(&shared, &method, &whole);
    if !shared.options.latency.is_zero() {
        tokio::time::sleep(shared.options.latency).await;
    }
    let trouble = shared.faults.lock().take(&method, &whole);
    match &trouble {
        Some(Trouble::Refuse(code, retry_after)) => {
            return Ok(failure(&Failure::injected(*code, *retry_after)));
        }
        Some(Trouble::Delay(time)) => tokio::time::sleep(*time).await,
        Some(Trouble::Hang) => close.cancelled().await,
        Some(Trouble::Reset) => close.cancel(),
        _ => {}
    }
    let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
        return Ok(failure(&Failure::injected(413, None)));
    };
    let request = Request {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body: body.to_bytes().to_vec(),
    };
    if close.is_cancelled() {
        std::future::pending::<()>().await;
    }
    let answered = answer(&shared, &request);
    if trouble == Some(Trouble::LoseAnswer) {
        close.cancel();
        std::future::pending::<()>().await;
    }
    Ok(match answered {
        Err(refused) => failure(&refused),
        Ok(Answer::Stream(watch)) => streamed(watch),
        Ok(Answer::Document {
            code,
            body,
            warnings,
            content_type,
        }) => {
            let mut response = document(
                code,
                &body,
                content_type,
                trouble == Some(Trouble::CutAnswer),
            );
            for warning in warnings {
                let text = format!("299 - \"{}\"", warning.replace('"', "\\\""));
                if let Ok(value) = HeaderValue::from_str(&text) {
                    response.headers_mut().append(header::WARNING, value);
                }
            }
            response
        }
    })
}

fn remember(shared: &Shared, method: &str, path: &str) {
    let mut seen = shared.seen.lock();
    if seen.len() < LOG {
        seen.push(Seen {
            at: Instant::now(),
            method: method.to_owned(),
            path: path.to_owned(),
        });
    }
}

fn failure(failure: &Failure) -> Response<Body> {
    let mut response = document(failure.code, &failure.status(), "application/json", false);
    if let Some(seconds) = failure.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn document(
    code: u16,
    body: &serde_json::Value,
    content_type: &'static str,
    cut: bool,
) -> Response<Body> {
    let text = match body {
        serde_json::Value::String(plain) => plain.clone(),
        other => format!("{other}\n"),
    };
    let body = if cut {
        let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
        // The half has to be on its way before the connection breaks.
        let parts = stream::once(async { Ok(Frame::data(half)) }).chain(stream::once(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Err(std::io::Error::other("cut by the test"))
        }));
        StreamBody::new(parts).boxed_unsync()
    } else {
        Full::new(Bytes::from(text))
            .map_err(|never| match never {})
            .boxed_unsync()
    };
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn streamed(watch: Box<crate::watching::Watch>) -> Response<Body> {
    let lines = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((line.map(Frame::data), watch))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
