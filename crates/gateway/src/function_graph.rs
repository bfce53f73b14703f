//! Invocations as FunctionGraph's clients send them (`docs/function-graph.md`).
//!
//! The event is the body, the result comes back bare or in an envelope, and what a *function* does
//! wrong is a result with status 200; only the platform's own refusals have another status. A
//! function that is a web server gets the request that the event describes.

mod deliver;
mod invoke;
mod replay;
mod result;
mod route;

use std::sync::Arc;

use bugle_types::FunctionId;
use bytes::Bytes;
use http::header::HeaderName;
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Body as _;

use crate::answer;
use crate::body::{self, Inbound};
use crate::call::find;
use crate::connection::Connection;
use crate::failure::{After, Failure};
use crate::gateway::Shared;
use crate::payload::Payload;

pub use deliver::Delivered;
pub(crate) use invoke::{Invoked, invoke};
pub(crate) use replay::replay;
pub(crate) use route::{Kind, Route};

/// The most that an event may hold that is delivered later, in bytes.
pub(crate) const ASYNC_EVENT_BYTES: usize = 256 << 10;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-cff-request-id");
const LOG_TYPE: HeaderName = HeaderName::from_static("x-cff-log-type");
const REQUEST_VERSION: HeaderName = HeaderName::from_static("x-cff-request-version");

/// The longest request id that a caller may choose.
const LONGEST_ID: usize = 64;

/// How a caller wants the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    form: Form,
    log: Log,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The result alone.
    V0,
    /// The result in an envelope.
    V1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Log {
    None,
    Tail,
}

/// Answers an invocation.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    parts: &Parts,
    route: &Route,
    body: Inbound,
) -> Response<Payload> {
    let id = request_id(shared, parts);
    let has_body = !body.is_end_stream();
    let answered = async {
        if shared.is_draining() {
            return Err(Failure::shutting_down());
        }
        let function = route.function()?;
        let event = event(shared, route.kind, body).await?;
        match route.kind {
            Kind::Sync => {
                let wanted = wanted(parts)?;
                let found = find(shared, connection, &function).await?;
                let invoked = invoke(shared, connection, found, event, (&id, None)).await;
                result::answer(invoked, &function, wanted, &id)
            }
            Kind::Async => accept(shared, connection, function, event, &id).await,
        }
    };
    match answered.await {
        Ok(response) => response,
        Err(refused) => {
            if refused.after() == After::Close && has_body {
                connection.linger();
            }
            tracing::debug!(
                request_id = &*id,
                code = refused.code(),
                error = refused.message(),
                "invocation refused"
            );
            result::refusal(&refused, &id)
        }
    }
}

/// The caller's id where it is one, else a new one.
fn request_id(shared: &Shared, parts: &Parts) -> Arc<str> {
    let chosen = parts.headers.get(REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        (1..=LONGEST_ID).contains(&bytes.len())
            && bytes
                .iter()
                .all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    });
    shared.ids.of_call([chosen, None])
}

fn wanted(parts: &Parts) -> Result<Wanted, Failure> {
    let text = |name: HeaderName| {
        let value = parts.headers.get(name).map(http::HeaderValue::as_bytes);
        value.unwrap_or_default().trim_ascii()
    };
    let form = match text(REQUEST_VERSION) {
        b"" | b"v0" => Form::V0,
        b"v1" => Form::V1,
        _ => {
            return Err(Failure::bad_request(
                "X-CFF-Request-Version must be v0 or v1",
            ));
        }
    };
    let log = if text(LOG_TYPE).eq_ignore_ascii_case(b"tail") {
        Log::Tail
    } else {
        Log::None
    };
    Ok(Wanted { form, log })
}

/// The body as an event: JSON, nothing being an empty object.
async fn event(shared: &Arc<Shared>, kind: Kind, body: Inbound) -> Result<Bytes, Failure> {
    body::check_declared(&body, &shared.config)?;
    let (event, _reservation) = body::read(body, &shared.config, &shared.budget).await?;
    if kind == Kind::Async && event.len() > ASYNC_EVENT_BYTES {
        return Err(Failure::body_too_large(
            ASYNC_EVENT_BYTES,
            Some(event.len() as u64),
        ));
    }
    if event.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    if serde_json::from_slice::<&serde_json::value::RawValue>(&event).is_err() {
        return Err(Failure::bad_request("the event is not JSON")
            .with_status(StatusCode::NOT_ACCEPTABLE)
            .with_fss("FSS.0406"));
    }
    Ok(event)
}

/// Leaves the event to whoever delivers events later; it is kept before this is answered.
async fn accept(
    shared: &Arc<Shared>,
    connection: &Connection,
    function: FunctionId,
    event: Bytes,
    id: &str,
) -> Result<Response<Payload>, Failure> {
    let found = find(shared, connection, &function).await?;
    if found.spec().runtime.serves_http() {
        return Err(Failure::bad_request(
            "a function that is a web server cannot be invoked asynchronously",
        )
        .with_fss("FSS.0426"));
    }
    let Some(accept) = shared.events.get() else {
        return Err(Failure::bad_request(
            "this gateway takes no asynchronous invocations",
        ));
    };
    accept(function, event, id.into())
        .await
        .map_err(|refused| match refused {
            crate::Refused::Full(limit) => Failure::new(
                bugle_types::Code::TenantRateExceeded,
                format!("{limit} asynchronous invocations wait already"),
            ),
            crate::Refused::Broken(why) => {
                tracing::error!(error = why, "asynchronous invocation cannot be kept");
                Failure::new(
                    bugle_types::Code::GatewayInternal,
                    "the invocation cannot be kept; the platform's log says why",
                )
            }
        })?;
    Ok(result::accepted(id))
}

/// JSON with a status, and the headers that every answer has.
fn json(status: StatusCode, id: &str, text: Vec<u8>) -> Response<Payload> {
    let mut response = answer::response(status, http::HeaderMap::with_capacity(10), text.into());
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, answer::JSON);
    let id = http::HeaderValue::from_str(id).expect("a request id is printable ASCII");
    headers.insert(REQUEST_ID, id);
    response
}
