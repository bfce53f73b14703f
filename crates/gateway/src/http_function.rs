//! Functions that are web servers, under routes of the gateway (`docs/http-functions.md`).
//!
//! A request to `/functions/{tenant}/{service}/{function}[:{version}]/…`, or to a host below the
//! configured domain, goes to the function's own server with its method, path, headers and body, and
//! the server's answer comes back as it is. Nothing is collected on the way: bodies stream in both
//! directions, and the slot is held until the exchange has ended, an upgraded connection included.
//!
//! A function that takes events gets the event of an API gateway instead (`event`).

mod event;
mod relay;
mod response;
mod target;
mod tunnel;
mod upload;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bugle_instances::{
    CallError, ExitCause, HttpBody, HttpExchange, HttpReply, HttpReplyBody, NoReply,
};
use bugle_scheduler::{Function, Lease, Outcome};
use bugle_types::Code;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, Uri};
use hyper::body::Body as _;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, timeout_at};

use crate::answer::TRACE_ID;
use crate::body::{self, Inbound};
use crate::call::{ATTEMPTS, Counted, Detaching, Slot, find};
use crate::connection::Connection;
use crate::failure::{After, Failure};
use crate::gateway::Shared;
use crate::metrics::InFlight;
use crate::payload::Payload;

pub(crate) use relay::Relay;
pub(crate) use response::failure;
pub(crate) use target::{Target, refuse_platform_paths};
use upload::Upload;

/// What an exchange holds until it has ended: dropping it gives the slot back.
#[derive(Debug)]
struct Held {
    lease: Lease,
    counted: Counted,
    _in_flight: InFlight,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-cff-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The longest body that is waited for, in bytes: about what comes at once.
const SHORT: u64 = 64 << 10;

/// Answers a request to a function's own server.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    mut parts: Parts,
    target: &Target,
    body: Inbound,
) -> Response<Payload> {
    let sent = [TRACE_ID, HeaderName::from_static("x-request-id")];
    let trace = shared.ids.of_call(sent.map(|name| parts.headers.get(name)));
    let has_body = !body.is_end_stream();
    let answered = async {
        if shared.is_draining() {
            return Err(Failure::shutting_down());
        }
        let function = find(shared, connection, &target.function()?).await?;
        let spec = function.spec();
        if !spec.runtime.serves_http() {
            let place = target.place(&parts.uri);
            let request = event::Request {
                parts: &parts,
                place,
                body,
                trace: &trace,
            };
            return event::serve(shared, connection, function, request).await;
        }
        refuse_platform_paths(target.place(&parts.uri).path, &spec)?;
        let body = upload(shared, connection, body).await?;
        address(&mut parts, target, connection)?;
        let exchange = Exchange {
            shared,
            connection,
            function,
            trace: Arc::clone(&trace),
        };
        exchange.run(parts, body).await
    };
    match answered.await {
        Ok(response) => response,
        Err(refused) => {
            if refused.after() == After::Close && has_body {
                connection.linger();
            }
            tracing::debug!(
                request_id = &*trace,
                code = refused.code(),
                error = refused.message(),
                "request to a function's server has no answer of it"
            );
            failure(&refused, &trace)
        }
    }
}

/// What the function's server reads of the caller. A body that says that it is short is waited for,
/// so that a slow caller takes no slot for it; of any other nothing is collected.
async fn upload(
    shared: &Shared,
    connection: &Arc<Connection>,
    body: Inbound,
) -> Result<HttpBody, Failure> {
    if body.is_end_stream() {
        return Ok(HttpBody::default());
    }
    let limit = shared.config.max_http_body_bytes;
    let declared = body.size_hint().lower();
    if declared > limit {
        return Err(Failure::http_body_too_large(limit, Some(declared)));
    }
    if body
        .size_hint()
        .exact()
        .is_some_and(|length| length <= SHORT)
    {
        let (body, _reservation) = body::read(body, &shared.config, &shared.budget).await?;
        return Ok(HttpBody::Whole(body));
    }
    let upload = Upload::new(body, limit, Arc::clone(connection));
    Ok(HttpBody::Stream(Box::pin(upload)))
}

/// Makes the request one to the function's server: its path, and where it came from.
fn address(parts: &mut Parts, target: &Target, connection: &Connection) -> Result<(), Failure> {
    let place = target.place(&parts.uri);
    let prefix = place.prefix.map(HeaderValue::from_str);
    let uri: Uri = place.to_uri()?;
    let absolute = parts.uri.authority().map(|host| host.as_str().to_owned());
    parts.uri = uri;
    let headers = &mut parts.headers;
    // A target in absolute form is what counts where both name a host (RFC 9112, 3.2.2).
    if let Some(host) = absolute
        && let Ok(host) = HeaderValue::try_from(host)
    {
        headers.insert(header::HOST, host);
    }
    if let Some(Ok(prefix)) = prefix {
        headers.insert(FORWARDED_PREFIX, prefix);
    }
    if let Some(peer) = &connection.peer {
        headers.append(FORWARDED_FOR, peer.clone());
    }
    Ok(())
}

/// One request, with what it needs to be answered.
pub(crate) struct Exchange<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) connection: &'a Arc<Connection>,
    pub(crate) function: Function,
    pub(crate) trace: Arc<str>,
}

/// What became of sending a request to an instance.
enum Attempt {
    Replied(Box<HttpReply>, Held, Instant),
    Failed(Failure),
    /// The instance was gone before it got the request.
    NotSent(ExitCause, Box<HttpExchange>, Counted),
}

impl Exchange<'_> {
    /// Sends the request, and answers when the head of the server's answer is there.
    pub(crate) async fn run(
        self,
        mut parts: Parts,
        body: HttpBody,
    ) -> Result<Response<Payload>, Failure> {
        let upgrade: Option<OnUpgrade> = parts.extensions.remove();
        let is_head = parts.method == Method::HEAD;
        let mut counted = Counted::of(&self.function);
        let mut exchange = Box::new(HttpExchange {
            request: Arc::clone(&self.trace),
            head: parts,
            body,
        });
        let mut gone = ExitCause::Stopped;
        for _ in 0..ATTEMPTS {
            let slot = Slot::of(&self.function);
            let lease = match slot.acquire(self.connection).await {
                Ok(lease) => lease,
                Err(failure) => return Err(counted.failed(failure)),
            };
            let in_flight = InFlight::new(self.shared);
            let sending = send(lease, exchange, counted, in_flight);
            let attempt = Detaching::new(sending, self.shared, self.connection).await;
            match attempt {
                None => return Err(Failure::given_up()),
                Some(Attempt::Failed(failure)) => return Err(self.blame(failure)),
                Some(Attempt::Replied(reply, held, deadline)) => {
                    return self
                        .answer(*reply, (held, deadline), upgrade, is_head)
                        .await;
                }
                Some(Attempt::NotSent(cause, returned, count)) => {
                    (gone, exchange, counted) = (cause, returned, count);
                }
            }
            if self.shared.has_moved(self.connection, &self.function) {
                return Err(counted.failed(Failure::moved()));
            }
        }
        Err(counted.failed(CallError::NotSent(gone).into()))
    }

    /// Whose fault it is that an exchange broke off: the caller may have sent too much.
    fn blame(&self, failure: Failure) -> Failure {
        if self.connection.overran.load(Ordering::Relaxed) {
            let limit = self.shared.config.max_http_body_bytes;
            return Failure::http_body_too_large(limit, None);
        }
        failure
    }

    async fn answer(
        self,
        reply: HttpReply,
        (held, deadline): (Held, Instant),
        upgrade: Option<OnUpgrade>,
        is_head: bool,
    ) -> Result<Response<Payload>, Failure> {
        let HttpReply { mut head, body } = reply;
        for name in response::RESERVED {
            head.headers.remove(name);
        }
        let id = HeaderValue::from_str(&self.trace).expect("a trace id is printable ASCII");
        head.headers.insert(REQUEST_ID, id.clone());
        head.headers.insert(TRACE_ID, id);
        let payload = match body {
            HttpReplyBody::Upgraded(server) => {
                let Some(upgrade) = upgrade else {
                    let why = "the program changed the protocol without being asked";
                    return Err(held.failed(Failure::new(Code::FunctionException, why)));
                };
                tunnel::spawn(self.shared, self.connection, upgrade, server, held);
                Payload::Whole(Bytes::new())
            }
            HttpReplyBody::Stream(body) => {
                let limit = self.shared.config.max_http_body_bytes;
                let declared = body.size_hint().lower();
                if !is_head && declared > limit {
                    return Err(held.failed(Failure::response_too_large(declared, limit)));
                }
                Relay::start(body, held, (deadline, limit), self.connection).await?
            }
        };
        Ok(Response::from_parts(head, payload))
    }
}

/// Sends the request to the instance of `lease` and waits for the head of its answer. Owns all it
/// needs, so that it can go on without the client.
async fn send(
    lease: Lease,
    exchange: Box<HttpExchange>,
    counted: Counted,
    in_flight: InFlight,
) -> Attempt {
    let limit = lease.spec().timeout;
    let deadline = Instant::now() + limit;
    let instance = Arc::clone(lease.instance());
    let held = Held {
        lease,
        counted,
        _in_flight: in_flight,
    };
    match timeout_at(deadline, instance.exchange(*exchange)).await {
        Ok(Ok(reply)) => Attempt::Replied(Box::new(reply), held, deadline),
        Ok(Err(NoReply::NotSent(cause, exchange))) => {
            // The scheduler may not have noticed yet, and would hand out the same instance again.
            held.lease.lost();
            Attempt::NotSent(cause, exchange, held.counted)
        }
        Ok(Err(NoReply::Failed(error))) => Attempt::Failed(held.broken(error)),
        Err(_) => Attempt::Failed(held.overdue(limit)),
    }
}

impl Held {
    /// The exchange broke off because of the instance, or within it.
    fn broken(self, error: CallError) -> Failure {
        let has_ended = matches!(error, CallError::Exited(_) | CallError::Protocol(_));
        let Self { lease, counted, .. } = self;
        if has_ended {
            lease.lost();
        }
        counted.failed(error.into())
    }

    /// The function's time is over, and its server is still at it.
    fn overdue(self, limit: Duration) -> Failure {
        self.lease.overdue();
        self.counted.failed(Failure::overdue(limit))
    }

    /// The exchange ended without an answer for the client.
    fn failed(self, failure: Failure) -> Failure {
        self.counted.failed(failure)
    }

    /// The exchange came to its end.
    fn done(mut self) {
        self.counted.counts_as(Outcome::success);
    }
}
