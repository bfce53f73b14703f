//! A request to a function that takes events: it gets the event of an API gateway, and its result is
//! a response structure.

use std::sync::Arc;

use bugle_scheduler::Function;
use bugle_types::{Code, Runtime};
use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderValue};
use http::request::Parts;

use super::target::Place;
use crate::answer::{self, JSON, TRACE_ID};
use crate::body::{self, Inbound};
use crate::call::{Answer, Call, Ending, Prepared};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::gateway::Shared;
use crate::head::Head;
use crate::payload::Payload;
use crate::structure::{self, Structure};

/// What a caller asks of the function.
pub(super) struct Request<'a> {
    pub(super) parts: &'a Parts,
    pub(super) place: Place<'a>,
    pub(super) body: Inbound,
    pub(super) trace: &'a str,
}

/// Calls the function and makes an answer of its result.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    function: Function,
    request: Request<'_>,
) -> Result<Response<Payload>, Failure> {
    let Request {
        parts,
        place,
        body,
        trace,
    } = request;
    body::check_declared(&body, &shared.config)?;
    let (body, reservation) = body::read(body, &shared.config, &shared.budget).await?;
    let peer = connection.peer.as_ref();
    let event = structure::Request {
        method: parts.method.as_str(),
        path: if place.path.is_empty() {
            "/"
        } else {
            place.path
        },
        query: place.query.unwrap_or_default(),
        headers: &parts.headers,
        body: &body,
        id: trace,
        source: peer.and_then(|peer| peer.to_str().ok()).unwrap_or_default(),
    }
    .to_event();
    drop(body);
    let inner = inner(parts, trace)?;
    let head = Head::read(&inner, &shared.ids);
    let spec = function.spec();
    let content = (event, reservation);
    let prepared = Prepared::with(shared, &inner, (function, &spec), head, content)?;
    let call = Call {
        shared,
        connection,
        prepared,
    };
    match call.ending().await {
        Ending::Answered(answer, served) => {
            let result = match (answer, &spec.runtime) {
                (Answer::Json(json), _) => json,
                // A Python handler that answers with a status has made the structure itself.
                (
                    Answer::Composed {
                        status,
                        headers,
                        body,
                    },
                    Runtime::Python(_),
                ) => return answer::composed(status, &headers, body, trace, &served),
                (Answer::Composed { status, body, .. }, _) => of_server(status, body)?,
                (Answer::Streamed, _) => Bytes::new(),
            };
            let Structure {
                status,
                headers,
                body,
            } = Structure::read(&result).map_err(|malformed| {
                Failure::new(Code::ResultNotSerializable, malformed.to_string())
                    .with_fss("FSS.1202")
            })?;
            answer::composed(status, &headers, body, trace, &served)
        }
        Ending::Failed(failure, _) => Err(failure),
    }
}

/// The result of a function that is a server: anything but 2xx says that it failed.
fn of_server(status: u16, body: Bytes) -> Result<Bytes, Failure> {
    if (200..300).contains(&status) {
        return Ok(body);
    }
    let said = String::from_utf8_lossy(&body).into_owned();
    let code = Code::FunctionException.number();
    Err(Failure::of_user_code(
        code,
        said,
        Some("FunctionReturnError".to_owned()),
        None,
    ))
}

/// The call's own request: the caller's headers are inside of the event.
fn inner(parts: &Parts, trace: &str) -> Result<Parts, Failure> {
    let id = HeaderValue::from_str(trace)
        .map_err(|_| Failure::bad_request("the trace id is not printable"))?;
    let mut request = http::Request::new(());
    *request.method_mut() = http::Method::POST;
    request.uri_mut().clone_from(&parts.uri);
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(TRACE_ID, id);
    for name in ["traceparent", "tracestate"] {
        if let Some(value) = parts.headers.get(name) {
            headers.insert(name, value.clone());
        }
    }
    Ok(request.into_parts().0)
}
