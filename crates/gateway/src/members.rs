//! Requests for functions that another gateway schedules, where several gateways share the
//! functions (`docs/gateways.md`).
//!
//! The gateway that a client reached finds out who has the function and passes the request on as it
//! came; that one answers as if the client had reached it. A request goes on at most once more: who
//! gets one for a function that is not its own says so, and the sender chooses again when it has seen
//! what the other has seen. A request that reached no gateway, or found its function moved before an
//! instance had it, is sent again; one that may have reached an instance never is.

mod forward;
mod receive;
mod upgrade;
mod wire;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bugle_instances::BoxFuture;
use bugle_types::{Code, FunctionId};
use http::request::Parts;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout};

use crate::answer;
use crate::body::{self, Inbound};
use crate::connection::{Connection, Phase};
use crate::failure::Failure;
use crate::gateway::Shared;
use crate::payload::Payload;
use crate::route::Route;
use crate::{function_graph, http_function, serve};

pub(crate) use forward::Forwarded;
pub(crate) use receive::receive;

/// Bodies up to this many bytes are kept, so that they can be sent once more.
const KEPT: u64 = 256 << 10;

/// How long a request looks for a gateway that has its function: longer than it takes until a dead
/// gateway's functions are another's.
const LOOKING: Duration = Duration::from_secs(10);

/// How long two that have seen the same and differ leave each other before they are asked again.
const DIFFER: Duration = Duration::from_millis(5);

/// How long a look waits for news of who has what.
const NEWS: Duration = Duration::from_millis(100);

/// Which gateway has a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This one.
    Here,
    /// Another one, with this name.
    There(Arc<str>),
    /// Nobody at this moment, as far as is known here.
    Nowhere,
}

/// Why another gateway did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// It certainly did not get the request; the text says why.
    NotSent(String),
    /// It may have got it, and is gone.
    Lost(String),
}

/// The gateways that share the functions.
pub trait Owners: Send + Sync {
    /// Who has the function.
    fn place(&self, function: &FunctionId) -> Place;

    /// How much was seen of who comes and goes; grows with each change.
    fn revision(&self) -> u64;

    /// Waits until as much was seen. Cancel safe.
    fn reached(&self, revision: u64) -> BoxFuture<'_, ()>;

    /// Whether another gateway takes a function for its own; nothing is sent if it does not.
    fn asks<'a>(
        &'a self,
        gateway: &'a str,
        function: &'a FunctionId,
    ) -> BoxFuture<'a, Result<bool, NoAnswer>>;

    /// Passes a request on.
    fn send<'a>(
        &'a self,
        gateway: &'a str,
        request: Request<Inbound>,
    ) -> BoxFuture<'a, Result<Response<Incoming>, NoAnswer>>;
}

/// Whether headers are those of a request that was passed on.
pub(crate) fn was_passed_on(headers: &http::HeaderMap) -> bool {
    headers.contains_key(wire::SEEN)
}

/// The function that a request is for, where its path names one.
fn function_of(shared: &Shared, parts: &Parts) -> Option<FunctionId> {
    let path = parts.uri.path();
    let found = if let Some(target) = http_function::Target::of(parts, &shared.config.http_domain) {
        target.function()
    } else if let Some(route) = function_graph::Route::of(&parts.method, path) {
        route.function()
    } else if let Route::Call(target) = Route::of(&parts.method, path) {
        target.function()
    } else {
        return None;
    };
    // A malformed name is answered here.
    found.ok()
}

/// A request that may be tried more than once.
struct Attempted {
    parts: Parts,
    body: Kept,
}

/// What is left of a request's body.
enum Kept {
    /// All of it.
    Whole(bytes::Bytes),
    /// It can be read once.
    Once(Option<Inbound>),
}

impl Attempted {
    /// The request, for one more attempt; none if its body is gone.
    fn take(&mut self) -> Option<Request<Inbound>> {
        let body = match &mut self.body {
            Kept::Whole(bytes) => Inbound::Whole(bytes.clone()),
            Kept::Once(body) => body.take()?,
        };
        Some(Request::from_parts(self.parts.clone(), body))
    }
}

/// What one attempt ended with.
enum Outcome {
    Answered(Response<Payload>),
    /// The function is another's: one that has seen as much.
    Elsewhere(u64),
    /// Its gateway is not there, for this reason.
    Away(String),
}

/// Answers one request, here or by another gateway.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    owners: &dyn Owners,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Response<Payload> {
    connection.enter(Phase::Busy);
    let (parts, body) = request.into_parts();
    let Some(function) = function_of(shared, &parts) else {
        let request = Request::from_parts(parts, Inbound::Incoming(body));
        return serve::serve(shared, connection, request).await;
    };
    let mut request = match keep(shared, parts, body, connection).await {
        Ok(request) => request,
        Err(failure) => return refusal(shared, connection, &failure),
    };
    let deadline = Instant::now() + LOOKING;
    let mut why = None;
    loop {
        let seen = owners.revision();
        let outcome = match owners.place(&function) {
            Place::Here => here(shared, connection, &mut request, seen).await,
            Place::There(gateway) => {
                let there = forward::There {
                    shared,
                    owners,
                    connection,
                    gateway: &gateway,
                    function: &function,
                };
                there.run(&mut request).await
            }
            Place::Nowhere => Some(Outcome::Away("this gateway is cut off".to_owned())),
        };
        let (until, reason) = match outcome {
            Some(Outcome::Answered(response)) => return response,
            Some(Outcome::Elsewhere(revision)) => (revision, None),
            Some(Outcome::Away(reason)) => (seen + 1, Some(reason)),
            None => return refusal(shared, connection, &moved().closing()),
        };
        why = reason.or(why);
        if Instant::now() >= deadline {
            return refusal(shared, connection, &nobody(why.as_deref()));
        }
        if owners.revision() >= until && until <= seen {
            // Both have seen the same and differ: one of them is about to see more.
            tokio::time::sleep(DIFFER).await;
        } else {
            _ = timeout(NEWS, owners.reached(until)).await;
        }
    }
}

/// Serves it here, unless the function moves before an instance has the call.
async fn here(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    request: &mut Attempted,
    seen: u64,
) -> Option<Outcome> {
    let attempt = request.take()?;
    connection.moved.store(false, Ordering::Relaxed);
    let response = Box::pin(serve::serve(shared, connection, attempt)).await;
    if connection.moved.swap(false, Ordering::Relaxed) {
        connection.enter(Phase::Busy);
        return Some(Outcome::Elsewhere(seen));
    }
    Some(Outcome::Answered(response))
}

/// Reads the body, if it is short.
async fn keep(
    shared: &Shared,
    parts: Parts,
    body: Incoming,
    connection: &Arc<Connection>,
) -> Result<Attempted, Failure> {
    let length = body.size_hint().exact();
    let is_short = body.is_end_stream() || length.is_some_and(|length| length <= KEPT);
    let fits = body::check_declared(&body, &shared.config).is_ok();
    let body = if is_short && fits {
        let (bytes, _reservation) = body::read(body, &shared.config, &shared.budget).await?;
        Kept::Whole(bytes)
    } else {
        Kept::Once(Some(Inbound::passing(body, connection)))
    };
    Ok(Attempted { parts, body })
}

/// The function moved to another gateway, and the request cannot be sent there: it was too long to
/// be kept.
fn moved() -> Failure {
    Failure::new(
        Code::NoInstanceAvailable,
        "the function moved to another gateway meanwhile; the call did not run, send it again",
    )
}

fn nobody(why: Option<&str>) -> Failure {
    let why = why.unwrap_or("gateways come and go");
    Failure::new(
        Code::NoInstanceAvailable,
        format!(
            "no gateway took the call within {} s: {why}",
            LOOKING.as_secs()
        ),
    )
}

fn refusal(shared: &Shared, connection: &Connection, failure: &Failure) -> Response<Payload> {
    if failure.after() == crate::failure::After::Close {
        connection.linger();
    }
    let trace = shared.ids.of_call([None, None]);
    let response = answer::failure(failure, &trace, None);
    shared.metrics.answered(response.status());
    connection.enter(Phase::Open);
    response
}
