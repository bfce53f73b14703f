//! FunctionGraph's routes for invocations that nobody waits for: a function's settings for them, how
//! far they are, and their end before its time.

use std::future::Future;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bugle_types::FunctionId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{GraphError, Named, Refusal, caller, named, read, respond};
use crate::Error;
use crate::error::answer;
use crate::query::Parameters;
use crate::router::Body;

/// What a function wants of its asynchronous invocations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AsyncConfig {
    /// Seconds after which an invocation is given up, 1 to 86400.
    pub max_async_event_age_in_seconds: u32,
    /// Attempts after the first one, 0 to 3.
    pub max_async_retry_attempts: u32,
    /// Whether what became of invocations is kept, for a day.
    pub enable_async_status_log: bool,
    /// Where results go; not offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_config: Option<Value>,
}

impl Default for AsyncConfig {
    fn default() -> Self {
        Self {
            max_async_event_age_in_seconds: 3600,
            max_async_retry_attempts: 1,
            enable_async_status_log: false,
            destination_config: None,
        }
    }
}

/// How far an invocation is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AsyncInvocation {
    /// Its id.
    pub request_id: String,
    /// `WAIT`, `RUNNING`, `SUCCESS`, `FAIL` or `DISCARD`.
    pub status: String,
    /// The inner code of its last attempt; 0 without a failure.
    pub error_code: u32,
    /// What went wrong in it.
    pub error_message: String,
    /// When the function got it first, in UTC; empty if it has not.
    pub start_time: String,
    /// When it came to its end, in UTC; empty if it has not.
    pub end_time: String,
}

/// A page of invocations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AsyncInvocations {
    /// The invocations, the latest first.
    pub invocations: Vec<AsyncInvocation>,
    /// How many there are on this page.
    pub count: usize,
    /// Where the next page begins.
    pub next_marker: usize,
}

/// Which invocations are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsyncQuery {
    /// One of this id alone.
    pub request_id: Option<String>,
    /// Those of this status.
    pub status: Option<String>,
    /// Those taken at this time or later, in milliseconds since 1970.
    pub since: Option<i64>,
    /// Those taken at this time or earlier.
    pub until: Option<i64>,
}

/// An end before its time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CancelRequest {
    /// The invocation.
    pub request_id: String,
    /// `force` or `recursive`: both kill the instance that has the invocation.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Invocations that nobody waits for, as whoever delivers them keeps them.
pub trait EventsApi: Send + Sync + 'static {
    /// A function's settings.
    fn settings(
        &self,
        function: &FunctionId,
    ) -> impl Future<Output = Result<Option<AsyncConfig>, Error>> + Send;

    /// Changes them; none takes them away.
    fn set(
        &self,
        function: &FunctionId,
        config: Option<AsyncConfig>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// The invocations of a function, the latest first.
    fn invocations(
        &self,
        function: &FunctionId,
        query: AsyncQuery,
    ) -> impl Future<Output = Result<Vec<AsyncInvocation>, Error>> + Send;

    /// Cancels one; says whether there is one that has not come to its end.
    fn cancel(
        &self,
        function: &FunctionId,
        request_id: &str,
    ) -> impl Future<Output = Result<bool, Error>> + Send;
}

/// The routes of asynchronous invocations.
pub fn graph_events_router<E: EventsApi>(events: Arc<E>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(graph_get_async, graph_set_async, graph_unset_async))
        .routes(routes!(graph_async_invocations))
        .routes(routes!(graph_cancel))
        .with_state(events)
}

fn function((project, urn): (String, String)) -> Result<FunctionId, Refusal> {
    named(&caller(&project)?, &urn)
}

/// Shows what a function wants of its asynchronous invocations.
#[utoipa::path(
    get,
    path = "/v2/{project_id}/fgs/functions/{name}/async-invoke-config",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    responses(
        (status = 200, body = AsyncConfig, description = "the settings"),
        (status = 404, body = GraphError, description = "there are none, or no such function"),
    )
)]
async fn graph_get_async<E: EventsApi>(
    State(events): State<Arc<E>>,
    Path(path): Named,
) -> Response {
    respond(async {
        match events.settings(&function(path)?).await? {
            Some(config) => Ok(answer(StatusCode::OK, &config)),
            None => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "FSS.0404",
                "the function has no settings of its own for asynchronous invocations",
            )),
        }
    })
    .await
}

/// Sets what a function wants of its asynchronous invocations.
#[utoipa::path(
    put,
    path = "/v2/{project_id}/fgs/functions/{name}/async-invoke-config",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    request_body = AsyncConfig,
    responses(
        (status = 200, body = AsyncConfig, description = "the settings"),
        (status = 400, body = GraphError, description = "a field is wrong"),
        (status = 404, body = GraphError, description = "FSS.1051: no such function"),
    )
)]
async fn graph_set_async<E: EventsApi>(
    State(events): State<Arc<E>>,
    Path(path): Named,
    body: Body,
) -> Response {
    respond(async {
        let config: AsyncConfig = read(body)?;
        let within = |name: &str, value: u32, least: u32, most: u32| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let why = format!("{name} {value} must be {least} to {most}");
            Err(Refusal::bad("FSS.0400", why))
        };
        let (age, retries) = (
            config.max_async_event_age_in_seconds,
            config.max_async_retry_attempts,
        );
        within("max_async_event_age_in_seconds", age, 1, 86_400)?;
        within("max_async_retry_attempts", retries, 0, 3)?;
        if config.destination_config.as_ref().is_some_and(is_something) {
            return Err(Refusal::bad(
                "FSS.0400",
                "destination_config is not offered",
            ));
        }
        events.set(&function(path)?, Some(config.clone())).await?;
        Ok(answer(StatusCode::OK, &config))
    })
    .await
}

/// Whether a destination names anything.
fn is_something(destination: &Value) -> bool {
    match destination {
        Value::Object(fields) => fields.values().any(|value| !value.is_null()),
        other => !other.is_null(),
    }
}

/// Gives a function's asynchronous invocations the usual settings again.
#[utoipa::path(
    delete,
    path = "/v2/{project_id}/fgs/functions/{name}/async-invoke-config",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    responses(
        (status = 204, description = "they are gone"),
        (status = 404, body = GraphError, description = "FSS.1051: no such function"),
    )
)]
async fn graph_unset_async<E: EventsApi>(
    State(events): State<Arc<E>>,
    Path(path): Named,
) -> Response {
    respond(async {
        events.set(&function(path)?, None).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
    .await
}

/// Lists asynchronous invocations: those that have not come to their end, and the others where the
/// function keeps records.
#[utoipa::path(
    get,
    path = "/v2/{project_id}/fgs/functions/{name}/async-invocations",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
        ("request_id" = Option<String>, Query, description = "one alone"),
        ("status" = Option<String>, Query, description = "those of this status"),
        ("limit" = Option<String>, Query, description = "invocations of a page, 1 to 500"),
        ("marker" = Option<String>, Query, description = "where to go on"),
        ("query_begin_time" = Option<String>, Query, description = "taken then or later, as `YYYY-MM-DDTHH:mm:ss` in UTC"),
        ("query_end_time" = Option<String>, Query, description = "taken then or earlier"),
    ),
    responses(
        (status = 200, body = AsyncInvocations, description = "the invocations"),
        (status = 400, body = GraphError, description = "a parameter is wrong"),
        (status = 404, body = GraphError, description = "FSS.1051: no such function"),
    )
)]
async fn graph_async_invocations<E: EventsApi>(
    State(events): State<Arc<E>>,
    Path(path): Named,
    Query(parameters): Query<Parameters>,
) -> Response {
    respond(async {
        let number = |name: &str, default: usize| match parameters.get(name).map(String::as_str) {
            None | Some("") => Ok(default),
            Some(text) => text.parse().map_err(|_| {
                Refusal::bad("FSS.0400", format!("{name} must be a number, not {text:?}"))
            }),
        };
        let (limit, marker) = (number("limit", 100)?.clamp(1, 500), number("marker", 0)?);
        let text = |name: &str| {
            parameters
                .get(name)
                .filter(|text| !text.is_empty())
                .cloned()
        };
        let time = |name: &str| text(name).map(|text| time(name, &text)).transpose();
        let query = AsyncQuery {
            request_id: text("request_id"),
            status: text("status"),
            since: time("query_begin_time")?,
            until: time("query_end_time")?,
        };
        let all = events.invocations(&function(path)?, query).await?;
        let page: Vec<AsyncInvocation> = all.into_iter().skip(marker).take(limit).collect();
        let list = AsyncInvocations {
            count: page.len(),
            next_marker: marker + page.len(),
            invocations: page,
        };
        Ok(answer(StatusCode::OK, &list))
    })
    .await
}

/// A time of day in UTC, in milliseconds since 1970.
fn time(name: &str, text: &str) -> Result<i64, Refusal> {
    text.trim_end_matches('Z')
        .parse::<jiff::civil::DateTime>()
        .ok()
        .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok())
        .map(|time| time.timestamp().as_millisecond())
        .ok_or_else(|| {
            let why = format!("{name} must be YYYY-MM-DDTHH:mm:ss, not {text:?}");
            Refusal::bad("FSS.0400", why)
        })
}

/// Ends an asynchronous invocation. The instance that has it is killed, with all that it does.
#[utoipa::path(
    post,
    path = "/v2/{project_id}/fgs/functions/{name}/cancel",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    request_body = CancelRequest,
    responses(
        (status = 200, body = Value, description = "it is cancelled"),
        (status = 400, body = GraphError, description = "a field is wrong"),
        (status = 404, body = GraphError, description = "there is none that has not ended"),
    )
)]
async fn graph_cancel<E: EventsApi>(
    State(events): State<Arc<E>>,
    Path(path): Named,
    body: Body,
) -> Response {
    respond(async {
        let wanted: CancelRequest = read(body)?;
        if !matches!(wanted.kind.as_str(), "" | "force" | "recursive") {
            let why = format!("type {:?} must be force or recursive", wanted.kind);
            return Err(Refusal::bad("FSS.0400", why));
        }
        if events.cancel(&function(path)?, &wanted.request_id).await? {
            return Ok(answer(StatusCode::OK, &serde_json::json!({})));
        }
        let why = format!("no invocation {:?} waits or runs", wanted.request_id);
        Err(Refusal::new(StatusCode::NOT_FOUND, "FSS.0404", why))
    })
    .await
}
