//! FunctionGraph's own interface to functions that are container images, over [`FunctionsApi`].
//!
//! Its shapes are snake case, its lists are texts with commas, its errors carry an `FSS` code; what
//! is behind it is the same registry, so a function made here is seen in the other interface as well
//! and the other way round. Functions whose code is no image are not made here.

mod events;
mod request;
mod shown;
mod versions;

use std::future::Future;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bugle_types::{Code, FunctionId, GraphUrn};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::answer;
use crate::query::Parameters;
use crate::router::Body;
use crate::{
    Caller, Class, DeleteQuery, Error, FunctionObject, FunctionsApi, GetQuery, ListQuery, Page,
    Violation,
};

pub use events::{
    AsyncConfig, AsyncInvocation, AsyncInvocations, AsyncQuery, CancelRequest, EventsApi,
    graph_events_router,
};
pub use request::{CodeUpdate, ConfigUpdate, CreateRequest, CustomImage};
pub use shown::{GraphFunction, GraphFunctions};

/// What the handlers need.
#[derive(Debug)]
struct Graph<S> {
    functions: Arc<S>,
    region: Arc<str>,
}

impl<S> Clone for Graph<S> {
    fn clone(&self) -> Self {
        Self {
            functions: Arc::clone(&self.functions),
            region: Arc::clone(&self.region),
        }
    }
}

/// A refusal as FunctionGraph's clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

/// The body of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct GraphError {
    /// The code that clients branch on, for instance `FSS.1051`.
    pub error_code: String,
    /// What is wrong.
    pub error_msg: String,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    fn into_response(self) -> Response {
        let body = GraphError {
            error_code: self.code.to_owned(),
            error_msg: self.message,
        };
        answer(self.status, &body)
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Self::bad(violation.fss(), violation.to_string())
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (status, code) = match (error.code, error.class) {
            (Code::FunctionNameExist, _) => (StatusCode::CONFLICT, "FSS.1061"),
            (Code::FunctionNotFound | Code::FunctionVersionNotFound, _) | (_, Class::NotFound) => {
                (StatusCode::NOT_FOUND, "FSS.1051")
            }
            (Code::RepeatedPublishmentError, _) => (StatusCode::CONFLICT, "FSS.1061"),
            (Code::RevisionIDError, _) => (StatusCode::CONFLICT, "FSS.0409"),
            (_, Class::TooLarge) => (StatusCode::PAYLOAD_TOO_LARGE, "FSS.0413"),
            _ if error.message.starts_with("The image does not exist.") => {
                (StatusCode::BAD_REQUEST, "FSS.1035")
            }
            (Code::InvalidUserParam | Code::InvalidParamErrorCode, _) | (_, Class::Field) => {
                (StatusCode::BAD_REQUEST, "FSS.0400")
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "FSS.0500"),
        };
        Self::new(status, code, error.message)
    }
}

/// The routes of FunctionGraph's functions; functions are shown in `region`.
pub fn graph_router<S: FunctionsApi>(functions: Arc<S>, region: &str) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(graph_create, graph_list))
        .routes(routes!(graph_delete))
        .routes(routes!(graph_get_code, graph_update_code))
        .routes(routes!(graph_get_config, graph_update_config))
        .merge(versions::router())
        .with_state(Graph {
            functions,
            region: region.into(),
        })
}

async fn respond(run: impl Future<Output = Result<Response, Refusal>>) -> Response {
    run.await.unwrap_or_else(Refusal::into_response)
}

/// The caller whose project the path names.
fn caller(project: &str) -> Result<Caller, Refusal> {
    let tenant = project
        .parse()
        .map_err(|error: bugle_types::ParseError| Refusal::bad("FSS.0400", error.to_string()))?;
    Ok(Caller {
        tenant,
        product: None,
    })
}

/// The function version that the path names.
fn named(caller: &Caller, urn: &str) -> Result<FunctionId, Refusal> {
    let parsed = GraphUrn::parse(urn)
        .map_err(|error| Refusal::bad("FSS.1002", format!("Invalid function name. {error}")))?;
    parsed.of(caller.tenant.clone()).map_err(|other| {
        let why = format!("the function is of the project {other}, not of the one in the path");
        Refusal::new(StatusCode::FORBIDDEN, "FSS.0403", why)
    })
}

fn read<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let body = body.read()?;
    serde_json::from_slice(&body)
        .map_err(|error| Refusal::bad("FSS.0400", format!("Invalid parameter. {error}")))
}

impl<S: FunctionsApi> Graph<S> {
    /// An image function as it is now.
    async fn find(&self, caller: &Caller, id: &FunctionId) -> Result<FunctionObject, Refusal> {
        let query = GetQuery {
            version_number: Some(id.version.to_string()),
            ..GetQuery::default()
        };
        let found = self.functions.get(caller, id.name.as_str(), query).await?;
        if found.container.is_none() {
            return Err(Refusal::bad(
                "FSS.0426",
                "the function is no container image; use the interface it was registered with",
            ));
        }
        Ok(found)
    }

    fn show(&self, function: &FunctionObject) -> Response {
        answer(StatusCode::OK, &GraphFunction::of(function, &self.region))
    }

    /// Changes the draft to what `change` makes of it.
    async fn change(
        &self,
        caller: &Caller,
        urn: &str,
        change: impl FnOnce(&mut crate::FunctionRequest) -> Result<(), Refusal>,
    ) -> Result<FunctionObject, Refusal> {
        let id = named(caller, urn)?;
        if id.version != bugle_types::Version::Draft {
            return Err(Refusal::bad(
                "FSS.0400",
                "a published version never changes",
            ));
        }
        let found = self.find(caller, &id).await?;
        let mut request = request::current(&found);
        change(&mut request)?;
        request::check(&request)?;
        Ok(self
            .functions
            .update(caller, id.name.as_str(), request)
            .await?)
    }
}

type Project = Path<String>;
type Named = Path<(String, String)>;

/// Creates a function that is a container image.
#[utoipa::path(
    post,
    path = "/v2/{project_id}/fgs/functions",
    tag = "FunctionGraph",
    params(("project_id" = String, Path, description = "project; the tenant of other routes")),
    request_body = CreateRequest,
    responses(
        (status = 200, body = GraphFunction, description = "the function"),
        (status = 400, body = GraphError, description = "a field is wrong"),
        (status = 409, body = GraphError, description = "FSS.1061: the name is taken"),
    )
)]
async fn graph_create<S: FunctionsApi>(
    State(graph): State<Graph<S>>,
    Path(project): Project,
    body: Body,
) -> Response {
    respond(async {
        let caller = caller(&project)?;
        let request = read::<CreateRequest>(body)?.into_request()?;
        request::check(&request)?;
        let function = graph.functions.register(&caller, request).await?;
        Ok(graph.show(&function))
    })
    .await
}

/// Lists the functions that are container images.
#[utoipa::path(
    get,
    path = "/v2/{project_id}/fgs/functions",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("marker" = Option<String>, Query, description = "where to go on; `next_marker` of the last page"),
        ("maxitems" = Option<String>, Query, description = "functions of a page, 1 to 400"),
    ),
    responses(
        (status = 200, body = GraphFunctions, description = "the functions"),
        (status = 400, body = GraphError, description = "a parameter is wrong"),
    )
)]
async fn graph_list<S: FunctionsApi>(
    State(graph): State<Graph<S>>,
    Path(project): Project,
    Query(parameters): Query<Parameters>,
) -> Response {
    respond(async {
        let caller = caller(&project)?;
        let number = |name: &str, default: usize| match parameters.get(name).map(String::as_str) {
            None | Some("") => Ok(default),
            Some(text) => text.parse().map_err(|_| {
                Refusal::bad("FSS.0400", format!("{name} must be a number, not {text:?}"))
            }),
        };
        let (marker, most) = (number("marker", 0)?, number("maxitems", 400)?.clamp(1, 400));
        let (functions, next) = graph.page(&caller, marker, most).await?;
        let shown = functions
            .iter()
            .map(|function| GraphFunction::of(function, &graph.region))
            .collect::<Vec<_>>();
        let list = GraphFunctions {
            count: shown.len(),
            functions: shown,
            next_marker: next,
        };
        Ok(answer(StatusCode::OK, &list))
    })
    .await
}

impl<S: FunctionsApi> Graph<S> {
    /// Image functions from a place among all of them on; where the next page begins.
    async fn page(
        &self,
        caller: &Caller,
        marker: usize,
        most: usize,
    ) -> Result<(Vec<FunctionObject>, usize), Refusal> {
        const CHUNK: usize = 100;
        let mut found = Vec::new();
        let mut at = marker;
        loop {
            let query = ListQuery {
                page: Page::number(at / CHUNK + 1, CHUNK),
                version: Some("latest".to_owned()),
                ..ListQuery::default()
            };
            let list = self.functions.list(caller, query).await?;
            let functions = list.functions.unwrap_or_default();
            for function in functions.into_iter().skip(at % CHUNK) {
                at += 1;
                if function.container.is_some() {
                    found.push(function);
                }
                if found.len() == most {
                    return Ok((found, at));
                }
            }
            if at >= list.total || !at.is_multiple_of(CHUNK) {
                return Ok((found, at.min(list.total)));
            }
        }
    }
}

/// Deletes a function, or one version of it.
#[utoipa::path(
    delete,
    path = "/v2/{project_id}/fgs/functions/{name}",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    responses(
        (status = 204, description = "it is gone"),
        (status = 404, body = GraphError, description = "FSS.1051: no such function"),
    )
)]
async fn graph_delete<S: FunctionsApi>(
    State(graph): State<Graph<S>>,
    Path((project, urn)): Named,
) -> Response {
    respond(async {
        let caller = caller(&project)?;
        let id = named(&caller, &urn)?;
        graph.find(&caller, &id).await?;
        let query = DeleteQuery {
            version_number: Some(id.version.to_string()),
            ..DeleteQuery::default()
        };
        graph
            .functions
            .delete(&caller, id.name.as_str(), query)
            .await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
    .await
}

/// Shows the image of a function.
#[utoipa::path(
    get,
    path = "/v2/{project_id}/fgs/functions/{name}/code",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    responses(
        (status = 200, body = GraphFunction, description = "the function"),
        (status = 404, body = GraphError, description = "FSS.1051: no such function"),
    )
)]
async fn graph_get_code<S: FunctionsApi>(state: State<Graph<S>>, path: Named) -> Response {
    get(state, path).await
}

/// Shows the settings of a function.
#[utoipa::path(
    get,
    path = "/v2/{project_id}/fgs/functions/{name}/config",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    responses(
        (status = 200, body = GraphFunction, description = "the function"),
        (status = 404, body = GraphError, description = "FSS.1051: no such function"),
    )
)]
async fn graph_get_config<S: FunctionsApi>(state: State<Graph<S>>, path: Named) -> Response {
    get(state, path).await
}

async fn get<S: FunctionsApi>(
    State(graph): State<Graph<S>>,
    Path((project, urn)): Named,
) -> Response {
    respond(async {
        let caller = caller(&project)?;
        let id = named(&caller, &urn)?;
        Ok(graph.show(&graph.find(&caller, &id).await?))
    })
    .await
}

/// Deploys an image: the same name again resolves what it stands for now.
#[utoipa::path(
    put,
    path = "/v2/{project_id}/fgs/functions/{name}/code",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    request_body = CodeUpdate,
    responses(
        (status = 200, body = GraphFunction, description = "the function"),
        (status = 400, body = GraphError, description = "a field is wrong"),
        (status = 404, body = GraphError, description = "FSS.1051: no such function"),
    )
)]
async fn graph_update_code<S: FunctionsApi>(
    State(graph): State<Graph<S>>,
    Path((project, urn)): Named,
    body: Body,
) -> Response {
    respond(async {
        let update: CodeUpdate = read(body)?;
        let caller = caller(&project)?;
        let changed = graph.change(&caller, &urn, |request| update.apply(request));
        Ok(graph.show(&changed.await?))
    })
    .await
}

/// Changes the settings of a function; what is left out stays.
#[utoipa::path(
    put,
    path = "/v2/{project_id}/fgs/functions/{name}/config",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    request_body = ConfigUpdate,
    responses(
        (status = 200, body = GraphFunction, description = "the function"),
        (status = 400, body = GraphError, description = "a field is wrong"),
        (status = 404, body = GraphError, description = "FSS.1051: no such function"),
    )
)]
async fn graph_update_config<S: FunctionsApi>(
    State(graph): State<Graph<S>>,
    Path((project, urn)): Named,
    body: Body,
) -> Response {
    respond(async {
        let update: ConfigUpdate = read(body)?;
        let caller = caller(&project)?;
        let changed = graph.change(&caller, &urn, |request| update.apply(request));
        Ok(graph.show(&changed.await?))
    })
    .await
}

#[cfg(test)]
mod tests;
