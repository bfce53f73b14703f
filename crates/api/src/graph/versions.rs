//! FunctionGraph's routes for versions of a function, and for the instances of it that are kept.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    Graph, GraphError, GraphFunction, GraphFunctions, Named, Refusal, caller, named, read, request,
    respond,
};
use crate::error::answer;
use crate::router::Body;
use crate::{FunctionsApi, Page, PublishRequest};

pub(super) fn router<S: FunctionsApi>() -> OpenApiRouter<Graph<S>> {
    OpenApiRouter::new()
        .routes(routes!(graph_publish, graph_versions))
        .routes(routes!(graph_reserve))
}

/// Makes a version of the function as it is now, which never changes.
#[utoipa::path(
    post,
    path = "/v2/{project_id}/fgs/functions/{name}/versions",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    request_body = Value,
    responses(
        (status = 200, body = GraphFunction, description = "the version"),
        (status = 404, body = GraphError, description = "FSS.1051: no such function"),
        (status = 409, body = GraphError, description = "FSS.1061: the version is there already"),
    )
)]
async fn graph_publish<S: FunctionsApi>(
    State(graph): State<Graph<S>>,
    Path((project, urn)): Named,
    body: Body,
) -> Response {
    respond(async {
        let caller = caller(&project)?;
        let wanted: Value = match &*body.read()? {
            b"" => json!({}),
            text => serde_json::from_slice(text)
                .map_err(|error| Refusal::bad("FSS.0400", error.to_string()))?,
        };
        let text = |name: &str| wanted[name].as_str().map(str::to_owned);
        let id = named(&caller, &urn)?;
        let draft = graph.find(&caller, &id).await?;
        let request = PublishRequest {
            revision_id: Some(draft.revision_id),
            version_number: text("version"),
            version_desc: text("description"),
            kind: Some(draft.kind),
        };
        let published = graph.functions.publish(&caller, id.name.as_str(), request);
        Ok(graph.show(&published.await?))
    })
    .await
}

/// Lists the versions of a function.
#[utoipa::path(
    get,
    path = "/v2/{project_id}/fgs/functions/{name}/versions",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    responses(
        (status = 200, body = GraphFunctions, description = "the versions, `latest` among them"),
        (status = 404, body = GraphError, description = "FSS.1051: no such function"),
    )
)]
async fn graph_versions<S: FunctionsApi>(
    State(graph): State<Graph<S>>,
    Path((project, urn)): Named,
) -> Response {
    respond(async {
        /// More than there can be of one function.
        const ALL: usize = 1000;
        let caller = caller(&project)?;
        let id = named(&caller, &urn)?;
        graph.find(&caller, &id).await?;
        let page = Page::number(1, ALL);
        let found = graph.functions.versions(&caller, id.name.as_str(), &page);
        let (versions, count) = found.await?;
        let list = GraphFunctions {
            functions: versions
                .iter()
                .map(|version| GraphFunction::of(version, &graph.region))
                .collect(),
            next_marker: count,
            count,
        };
        Ok(answer(StatusCode::OK, &list))
    })
    .await
}

/// Sets how many instances of a function are kept.
#[utoipa::path(
    put,
    path = "/v2/{project_id}/fgs/functions/{name}/reservedinstances",
    tag = "FunctionGraph",
    params(
        ("project_id" = String, Path, description = "project; the tenant of other routes"),
        ("name" = String, Path, description = "URN, or its end from the name on"),
    ),
    request_body = Value,
    responses(
        (status = 200, body = Value, description = "what was asked for"),
        (status = 400, body = GraphError, description = "a field is wrong"),
        (status = 404, body = GraphError, description = "FSS.1051: no such function"),
    )
)]
async fn graph_reserve<S: FunctionsApi>(
    State(graph): State<Graph<S>>,
    Path((project, urn)): Named,
    body: Body,
) -> Response {
    respond(async {
        let wanted: Value = read(body)?;
        let count = request::reserved(&wanted)?;
        let caller = caller(&project)?;
        let changed = graph.change(&caller, &urn, |request| {
            request.min_instance = Some(count.to_string());
            Ok(())
        });
        changed.await?;
        Ok(answer(StatusCode::OK, &wanted))
    })
    .await
}
