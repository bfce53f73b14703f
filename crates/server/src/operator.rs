//! Bugle's own routes on the control port: `/bugle/v1/…`, `/readyz`, `/metrics`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bugle_api::Segment;
use bugle_api::operator::{CallCount, FunctionStatus, Info, InstanceStatus, LogEntry};
use bugle_images::ImageStore;
use bugle_scheduler::{CallMetrics, Function, Scheduler, Status};
use bugle_types::{CodeLocation, FunctionId, FunctionSpec, Version};
use futures_util::stream;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::about::About;
use crate::confinement::Told;
use crate::follow::Functions;
use crate::health::Readiness;
use crate::images::progress;
use crate::logs::{LogKey, LogStore};
use crate::sharing::{News, Sharing, Wanted, merge, next};
use crate::warm::WarmParents;

/// A page of log lines when the client does not say how many.
const LINES: usize = 100;

/// The most lines that one answer holds before it follows.
const MOST_LINES: usize = 10_000;

/// What the routes look at.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) about: Arc<About>,
    pub(crate) confinement: Told,
    pub(crate) warm: WarmParents,
    pub(crate) scheduler: Scheduler,
    /// Where other gateways have a part of the functions.
    pub(crate) sharing: Option<Sharing>,
    pub(crate) functions: Functions,
    pub(crate) logs: Arc<LogStore>,
    pub(crate) images: ImageStore,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Mutex<Registry>,
    /// Ends followers when the platform stops.
    pub(crate) stop: CancellationToken,
}

/// The routes, with their part of the document.
pub(crate) fn router() -> OpenApiRouter<Arc<Operator>> {
    OpenApiRouter::new()
        .routes(routes!(info))
        .routes(routes!(status))
        .routes(routes!(logs))
        .routes(routes!(ready))
        .routes(routes!(metrics))
}

/// What this platform is and where its gateway listens.
#[utoipa::path(
    get,
    path = "/bugle/v1/info",
    tag = "operation",
    responses((status = 200, body = Info, description = "this platform"))
)]
async fn info(State(operator): State<Arc<Operator>>) -> axum::Json<Info> {
    let mut info = operator.about.info().await.clone();
    info.confinement = operator.confinement.info();
    axum::Json(info)
}

/// Which version of a function is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Which {
    /// The version; the draft when it is missing.
    version_number: Option<String>,
}

/// How a function version runs at this moment.
#[utoipa::path(
    get,
    path = "/bugle/v1/functions/{name}/status",
    tag = "operation",
    params(("name" = String, Path, description = "Function name or URN"), Which),
    responses(
        (status = 200, body = FunctionStatus, description = "the version as it runs"),
        (status = 400, body = bugle_api::ErrorBody, description = "4104: a wrong name or query"),
        (status = 404, body = bugle_api::ErrorBody, description = "4115: no such function")
    )
)]
async fn status(
    State(operator): State<Arc<Operator>>,
    headers: HeaderMap,
    Segment(name): Segment,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<axum::Json<FunctionStatus>, bugle_api::Error> {
    let Query(which) = which.map_err(refused)?;
    let id = identify(&headers, &name, which.version_number.as_deref())?;
    let (spec, shown) = match operator.scheduler.find(&id) {
        Some(function) => {
            let spec = function.spec();
            (spec, shown_now(&function))
        }
        // Looking at a function does not bring it into use.
        None => match operator.functions.specification(&id).await {
            Some(spec) => {
                let elsewhere = match &operator.sharing {
                    Some(sharing) => sharing.status(&id).await,
                    None => None,
                };
                let idle = || shown(&spec, &Status::default(), CallMetrics::no_counts());
                let shown = elsewhere.unwrap_or_else(idle);
                (Arc::new(spec), shown)
            }
            None => return Err(bugle_api::Error::function_not_found(&name)),
        },
    };
    Ok(axum::Json(operator.with_pull(shown, &spec)))
}

impl Operator {
    /// Whether another gateway has lines of a function that is registered no more.
    async fn is_logged_elsewhere(&self, wanted: &Wanted) -> bool {
        let Some(sharing) = &self.sharing else {
            return false;
        };
        let follow = false;
        let once = Wanted {
            follow,
            ..wanted.clone()
        };
        let (tails, _) = sharing.logs(&once).await;
        !tails.iter().all(Vec::is_empty)
    }

    /// Adds how far the pull of the function's image is.
    fn with_pull(&self, status: FunctionStatus, spec: &FunctionSpec) -> FunctionStatus {
        let CodeLocation::Image(image) = &spec.code else {
            return status;
        };
        let pull = self.images.pull_of(&image.image, image.digest.as_deref());
        // What is no reference is not pulled; its start says so.
        let pull = pull.ok().flatten().map(progress);
        FunctionStatus { pull, ..status }
    }
}

/// How a function runs that is scheduled here.
pub(crate) fn shown_now(function: &Function) -> FunctionStatus {
    shown(
        &function.spec(),
        &function.status(),
        function.calls().counts(),
    )
}

fn shown(spec: &FunctionSpec, status: &Status, calls: Vec<(&'static str, u64)>) -> FunctionStatus {
    FunctionStatus {
        urn: spec.id.to_urn().to_text(spec.kind),
        revision_id: spec.generation.0.to_string(),
        instances: status
            .instances
            .iter()
            .map(|instance| InstanceStatus {
                id: instance.id.to_string(),
                state: instance.state.to_string(),
                pid: instance.pid,
                label: instance.label.as_ref().map(ToString::to_string),
                cpu: instance.resources.cpu.0,
                memory: instance.resources.memory.0,
                in_flight: instance.in_flight,
                age_seconds: instance.age.as_secs_f64(),
            })
            .collect(),
        queued: status.queued,
        last_start_error: status
            .last_start_error
            .as_ref()
            .map(|error| bugle_types::report(error)),
        pull: None,
        calls: calls
            .into_iter()
            .map(|(outcome, count)| CallCount {
                outcome: outcome.to_owned(),
                count,
            })
            .collect(),
    }
}

/// Which lines of a log are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Lines {
    /// Only lines of this version; all versions when it is missing.
    version_number: Option<String>,
    /// How many of the last lines, at most 10000; 100 when it is missing.
    tail: Option<usize>,
    /// Only lines of the call with this request id.
    request: Option<String>,
    /// Goes on with new lines as server-sent events.
    #[serde(default)]
    follow: bool,
}

impl Lines {
    fn of(self, function: FunctionId) -> Wanted {
        // Entries spell the draft `latest`.
        let spelled = |version| match version {
            text if text == "$latest" => "latest".to_owned(),
            text => text,
        };
        Wanted {
            function,
            version: self.version_number.map(spelled),
            request: self.request,
            limit: self.tail.unwrap_or(LINES).min(MOST_LINES),
            follow: self.follow,
        }
    }
}

/// What a function wrote: one JSON object a line, or server-sent events with `follow=true`.
#[utoipa::path(
    get,
    path = "/bugle/v1/functions/{name}/logs",
    tag = "operation",
    params(("name" = String, Path, description = "Function name or URN"), Lines),
    responses(
        (
            status = 200,
            body = LogEntry,
            content_type = "application/x-ndjson",
            description = "the lines, oldest first; server-sent events with `follow=true`"
        ),
        (status = 400, body = bugle_api::ErrorBody, description = "4104: a wrong name or query"),
        (status = 404, body = bugle_api::ErrorBody, description = "4115: no such function")
    )
)]
async fn logs(
    State(operator): State<Arc<Operator>>,
    headers: HeaderMap,
    Segment(name): Segment,
    lines: Result<Query<Lines>, QueryRejection>,
) -> Result<Response, bugle_api::Error> {
    let Query(lines) = lines.map_err(refused)?;
    let id = identify(&headers, &name, lines.version_number.as_deref())?;
    let key = LogKey::of(&id);
    let known = operator.scheduler.find(&id).is_some()
        || operator.logs.knows(&key)
        || operator.functions.specification(&id).await.is_some();
    let wanted = lines.of(id);
    if !known && !operator.is_logged_elsewhere(&wanted).await {
        return Err(bugle_api::Error::function_not_found(&name));
    }
    let (here, live) = operator
        .logs
        .follow(&key, wanted.limit, |entry| wanted.accepts(entry));
    let (mut tails, elsewhere) = match &operator.sharing {
        Some(sharing) => sharing.logs(&wanted).await,
        None => (Vec::new(), None),
    };
    tails.push(here);
    let tail = merge(tails, wanted.limit);
    if !wanted.follow {
        let mut text = Vec::new();
        for entry in tail {
            text.extend(json(&entry).into_bytes());
            text.push(b'\n');
        }
        return Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response());
    }
    let past = stream::iter(tail.into_iter().map(|entry| Ok(event(&entry))));
    let live = (live, elsewhere, wanted, operator.stop.clone());
    let news = stream::unfold(live, async |(mut live, mut elsewhere, wanted, stop)| {
        let event = loop {
            let news = tokio::select! {
                news = next(&mut live, &wanted, &stop) => news?,
                Some(news) = of_others(&mut elsewhere) => news,
            };
            match news {
                News::Line(entry) => break event(&entry),
                News::Lost(lost) => break Event::default().event("lost").data(lost.to_string()),
                News::Now => {}
            }
        };
        Some((Ok::<_, Infallible>(event), (live, elsewhere, wanted, stop)))
    });
    let events = futures_util::StreamExt::chain(past, news);
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

/// What other gateways say next, where there are any.
async fn of_others(elsewhere: &mut Option<mpsc::Receiver<News>>) -> Option<News> {
    elsewhere.as_mut()?.recv().await
}

fn event(entry: &LogEntry) -> Event {
    Event::default().data(json(entry))
}

fn json(entry: &LogEntry) -> String {
    serde_json::to_string(entry).expect("a log entry is made of texts")
}

/// A query that cannot be read.
#[expect(clippy::needless_pass_by_value, reason = "it is given away")]
fn refused(query: QueryRejection) -> bugle_api::Error {
    bugle_api::Error::field(query.body_text())
}

/// The function that a path and a tenant name.
fn identify(
    headers: &HeaderMap,
    name: &str,
    version: Option<&str>,
) -> Result<FunctionId, bugle_api::Error> {
    let caller = bugle_api::identity::identify(headers)?;
    let mut id = caller.function(name)?;
    if let Some(version) = version {
        id.version = version
            .parse::<Version>()
            .map_err(|_| bugle_api::Error::invalid_qualifier(version))?;
    }
    Ok(id)
}

/// Whether the platform can serve; 503 with the reason while it starts or drains. What does not work
/// although calls are served is told beside the word "ready".
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses((status = 200, description = "ready"), (status = 503, description = "the reason"))
)]
async fn ready(State(operator): State<Arc<Operator>>) -> Response {
    match operator.readiness.obstacle() {
        None => {
            let standing = operator.sharing.as_ref().map(Sharing::standing);
            let told = operator.readiness.degradation().into_iter().chain(standing);
            let told: Vec<String> = ["ready".to_owned()].into_iter().chain(told).collect();
            (StatusCode::OK, format!("{}\n", told.join(", "))).into_response()
        }
        Some(reason) => {
            let retry = [(header::RETRY_AFTER, "1")];
            (
                StatusCode::SERVICE_UNAVAILABLE,
                retry,
                format!("{reason}\n"),
            )
                .into_response()
        }
    }
}

/// Metrics in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses((
        status = 200,
        content_type = "application/openmetrics-text",
        description = "all metrics"
    ))
)]
async fn metrics(State(operator): State<Arc<Operator>>) -> Response {
    let mut text = String::new();
    operator.confinement.refresh();
    operator.warm.refresh();
    // Writing to a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &operator.metrics.lock());
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}
