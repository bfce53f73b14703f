//! One request, from its head to its answer.

use std::sync::Arc;

use bugle_scheduler::Function;
use bugle_types::{FunctionSpec, ImageRuntime, Runtime};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Body as _;

use crate::answer::{self, INNER_CODE, JSON, SUCCESS};
use crate::body::{Inbound, Reservation};
use crate::call::{Call, Prepared, find};
use crate::connection::{Connection, Phase};
use crate::failure::{After, Failure};
use crate::gateway::Shared;
use crate::head::Head;
use crate::payload::Payload;
use crate::route::{Route, Target};
use crate::{body, demand, events, function_graph, http_function, streaming};

/// The longest path with query, in bytes. The name of a function needs less than 300.
const LONGEST_URI: usize = 8 << 10;

/// Nothing of the distributed SDK's data system is here.
const CAPABILITIES: &str =
    r#"{"dataSystem":{"dataSystemDeployed":false,"bypassDataSystem":false}}"#;

/// Answers one request.
///
/// Dropping the future is how a client that went away is noticed: a queued call is forgotten, a
/// call that an instance has goes on without it and keeps its slot until the instance is done.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    request: Request<Inbound>,
) -> Response<Payload> {
    connection.enter(Phase::Busy);
    let (parts, body) = request.into_parts();
    if let Some(target) = http_function::Target::of(&parts, &shared.config.http_domain) {
        let response = http_function::serve(shared, connection, parts, &target, body).await;
        return answered(shared, connection, response);
    }
    if let Some(route) = function_graph::Route::of(&parts.method, parts.uri.path()) {
        let response = function_graph::serve(shared, connection, &parts, &route, body).await;
        return answered(shared, connection, response);
    }
    let response = match Route::of(&parts.method, parts.uri.path()) {
        Route::Call(target) => invoke(shared, connection, &parts, target, body).await,
        Route::Health if shared.is_draining() => plain(StatusCode::SERVICE_UNAVAILABLE, ""),
        Route::Health | Route::Components => plain(StatusCode::OK, ""),
        Route::Capabilities => {
            let mut response = plain(StatusCode::OK, CAPABILITIES);
            response.headers_mut().insert(header::CONTENT_TYPE, JSON);
            response
        }
        Route::Unknown => unknown(connection, &body),
    };
    answered(shared, connection, response)
}

fn answered(
    shared: &Shared,
    connection: &Connection,
    response: Response<Payload>,
) -> Response<Payload> {
    shared.metrics.answered(response.status());
    // What streams, or is no longer HTTP, keeps the connection busy until its end.
    let goes_on = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if matches!(response.body(), Payload::Whole(_)) && !goes_on {
        connection.enter(Phase::Open);
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Payload> {
    answer::response(
        status,
        HeaderMap::new(),
        Bytes::from_static(text.as_bytes()),
    )
}

fn unknown(connection: &Connection, body: &Inbound) -> Response<Payload> {
    let mut response = plain(StatusCode::NOT_FOUND, "404 page not found");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if !body.is_end_stream() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        connection.linger();
    }
    response
}

async fn invoke(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    parts: &Parts,
    target: Target<'_>,
    body: Inbound,
) -> Response<Payload> {
    let head = Head::read(parts, &shared.ids);
    let trace = Arc::clone(&head.trace);
    let wants_events = demand::wants_events(&head.headers);
    let has_body = !body.is_end_stream();
    let failure = match admit(shared, connection, parts, &target, &head, body).await {
        Ok((function, spec, body)) if is_web_server(&spec) => {
            let (event, _reservation) = body;
            let replayed =
                function_graph::replay(shared, connection, function, &event, &trace).await;
            match replayed {
                Ok(mut response) => {
                    response.headers_mut().insert(INNER_CODE, SUCCESS);
                    return response;
                }
                Err(failure) => failure,
            }
        }
        Ok((function, spec, body)) => {
            match Prepared::with(shared, parts, (function, &spec), head, body) {
                Ok(prepared) => {
                    let call = Call {
                        shared,
                        connection,
                        prepared,
                    };
                    return if wants_events {
                        streaming::answer(call).await
                    } else {
                        call.answer().await
                    };
                }
                Err(failure) => failure,
            }
        }
        Err(failure) => failure,
    };
    if failure.after() == After::Close && has_body {
        connection.linger();
    }
    tracing::debug!(
        request_id = &*trace,
        code = failure.code(),
        error = failure.message(),
        "call refused"
    );
    let response = answer::failure(&failure, &trace, None);
    if wants_events {
        return events::of_answer(response);
    }
    response
}

/// Whether it is an image's server with paths of its own. It has none for events, so the body says
/// what request is meant (contract `container-image` 5.3).
fn is_web_server(spec: &FunctionSpec) -> bool {
    spec.runtime == Runtime::Image(ImageRuntime::Http)
}

/// The function and the body, once it is known that there may be a call.
///
/// What needs no body is checked before the body is read; a refusal then closes the connection,
/// because the body is still on its way.
async fn admit(
    shared: &Arc<Shared>,
    connection: &Connection,
    parts: &Parts,
    target: &Target<'_>,
    head: &Head<'_>,
    body: Inbound,
) -> Result<(Function, Arc<FunctionSpec>, (Bytes, Reservation)), Failure> {
    if shared.is_draining() {
        return Err(Failure::shutting_down());
    }
    let id = function_of(target, parts).map_err(|failure| {
        if body.is_end_stream() {
            failure
        } else {
            failure.closing()
        }
    })?;
    body::check_declared(&body, &shared.config)?;
    let body = body::read(body, &shared.config, &shared.budget).await?;
    demand::refuse_async(&head.headers)?;
    let function = find(shared, connection, &id).await?;
    let spec = function.spec();
    Ok((function, spec, body))
}

fn function_of(target: &Target<'_>, parts: &Parts) -> Result<bugle_types::FunctionId, Failure> {
    let length = parts
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    if length > LONGEST_URI {
        return Err(Failure::bad_request(format!(
            "path and query of {length} bytes exceed the limit of {LONGEST_URI} bytes"
        ))
        .with_status(StatusCode::URI_TOO_LONG));
    }
    target.function()
}
