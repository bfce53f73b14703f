//! F1–F7: the trait behind them and their handlers.

use std::future::Future;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::answer;
use crate::query::Parameters;
use crate::router::{Body, Segment};
use crate::{
    Caller, DeleteAnswer, DeleteQuery, Error, ErrorBody, FunctionAnswer, FunctionList,
    FunctionListAnswer, FunctionObject, FunctionPage, FunctionRequest, GetQuery, ListQuery,
    Operation, Page, PageInfo, PublishRequest, UpdateAnswer, decode, identity,
};

/// Functions and their versions, as a registry keeps them. `segment` is what the path holds: a name
/// or a URN.
pub trait FunctionsApi: Send + Sync + 'static {
    /// F1: adds a function.
    fn register(
        &self,
        caller: &Caller,
        request: FunctionRequest,
    ) -> impl Future<Output = Result<FunctionObject, Error>> + Send;

    /// F2: changes the draft.
    fn update(
        &self,
        caller: &Caller,
        segment: &str,
        request: FunctionRequest,
    ) -> impl Future<Output = Result<FunctionObject, Error>> + Send;

    /// F3: makes a version of the draft that never changes.
    fn publish(
        &self,
        caller: &Caller,
        segment: &str,
        request: PublishRequest,
    ) -> impl Future<Output = Result<FunctionObject, Error>> + Send;

    /// F4: one version.
    fn get(
        &self,
        caller: &Caller,
        segment: &str,
        query: GetQuery,
    ) -> impl Future<Output = Result<FunctionObject, Error>> + Send;

    /// F5: the versions of a function, last changed first, and how many there are.
    fn versions(
        &self,
        caller: &Caller,
        segment: &str,
        page: &Page,
    ) -> impl Future<Output = Result<(Vec<FunctionObject>, usize), Error>> + Send;

    /// F6: versions of all functions, last changed first.
    fn list(
        &self,
        caller: &Caller,
        query: ListQuery,
    ) -> impl Future<Output = Result<FunctionList, Error>> + Send;

    /// F7: deletes one version, or the function.
    fn delete(
        &self,
        caller: &Caller,
        segment: &str,
        query: DeleteQuery,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The routes of F1–F7.
pub fn functions_router<S: FunctionsApi>() -> OpenApiRouter<Arc<S>> {
    OpenApiRouter::new()
        .routes(routes!(register_function, list_functions))
        .routes(routes!(update_function, get_function, delete_function))
        .routes(routes!(publish_version, list_versions))
}

/// Whether the answer is wanted in the envelope of the original's administration interface.
fn is_admin(parameters: &Parameters) -> bool {
    matches!(
        parameters.get("isAdmin").map(String::as_str),
        Some("true" | "1")
    )
}

fn function_answer(function: FunctionObject, parameters: &Parameters) -> Response {
    if is_admin(parameters) {
        return ok(&json!({"code": 0, "message": "", "result": function}));
    }
    ok(&FunctionAnswer {
        code: 0,
        message: "SUCCESS".to_owned(),
        function,
    })
}

fn ok(body: &impl Serialize) -> Response {
    answer(StatusCode::OK, body)
}

/// Runs an operation and answers its failure with its status.
async fn respond(
    operation: Operation,
    run: impl Future<Output = Result<Response, Error>>,
) -> Response {
    run.await.unwrap_or_else(|error| error.at(operation))
}

/// F1: registers a function.
#[utoipa::path(
    post,
    path = "/serverless/v1/functions",
    tag = "functions",
    params(
        ("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent"),
        ("isAdmin" = Option<String>, Query, description = "`true` or `1`: the `result` envelope"),
    ),
    request_body = FunctionRequest,
    responses(
        (status = 200, body = FunctionAnswer, description = "the registered function"),
        (status = 400, body = ErrorBody, description = "130600 or 4104: a field is wrong"),
        (status = 413, body = ErrorBody, description = "the body is too large"),
        (status = 500, body = ErrorBody, description = "4101: the name is taken; others"),
    )
)]
async fn register_function<S: FunctionsApi>(
    State(api): State<Arc<S>>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(Operation::Register, async {
        let caller = identity::identify(&headers)?;
        let request = decode::read(&body.read()?)?;
        Ok(function_answer(
            api.register(&caller, request).await?,
            &parameters,
        ))
    })
    .await
}

/// F2: updates the draft of a function.
#[utoipa::path(
    put,
    path = "/serverless/v1/functions/{name}",
    tag = "functions",
    params(
        ("name" = String, Path, description = "function name or URN"),
        ("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent"),
        ("isAdmin" = Option<String>, Query, description = "`true` or `1`: the `result` envelope"),
    ),
    request_body = FunctionRequest,
    responses(
        (status = 200, body = UpdateAnswer, description = "the draft as it is now"),
        (status = 413, body = ErrorBody, description = "the body is too large"),
        (status = 500, body = ErrorBody, description = "4134: another revision; others"),
    )
)]
async fn update_function<S: FunctionsApi>(
    State(api): State<Arc<S>>,
    Segment(segment): Segment,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(Operation::Update, async {
        let caller = identity::identify(&headers)?;
        let request = decode::read(&body.read()?)?;
        let function = api.update(&caller, &segment, request).await?;
        let result = function.clone();
        Ok(ok(&UpdateAnswer {
            code: 0,
            message: "SUCCESS".to_owned(),
            function,
            result,
        }))
    })
    .await
}

/// F3: publishes the draft as a version.
#[utoipa::path(
    post,
    path = "/serverless/v1/functions/{name}/versions",
    tag = "functions",
    params(
        ("name" = String, Path, description = "function name or URN"),
        ("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent"),
        ("isAdmin" = Option<String>, Query, description = "`true` or `1`: the `result` envelope"),
    ),
    request_body = PublishRequest,
    responses(
        (status = 200, body = FunctionAnswer, description = "the published version"),
        (status = 413, body = ErrorBody, description = "the body is too large"),
        (status = 500, body = ErrorBody, description = "4110, 4114, 4115, 4134; others"),
    )
)]
async fn publish_version<S: FunctionsApi>(
    State(api): State<Arc<S>>,
    Segment(segment): Segment,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(Operation::Publish, async {
        let caller = identity::identify(&headers)?;
        let request = decode::read(&body.read()?)?;
        Ok(function_answer(
            api.publish(&caller, &segment, request).await?,
            &parameters,
        ))
    })
    .await
}

/// F4: queries one version of a function.
#[utoipa::path(
    get,
    path = "/serverless/v1/functions/{name}",
    tag = "functions",
    params(
        ("name" = String, Path, description = "function name or URN"),
        ("versionNumber" = Option<String>, Query, description = "exact version"),
        ("qualifier" = Option<String>, Query, description = "version or alias"),
        ("kind" = Option<String>, Query, description = "chooses the draft without a version"),
        ("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent"),
        ("isAdmin" = Option<String>, Query, description = "`true` or `1`: the `result` envelope"),
    ),
    responses(
        (status = 200, body = FunctionAnswer, description = "the version"),
        (status = 404, body = ErrorBody, description = "4115: not found"),
        (status = 500, body = ErrorBody, description = "a bad name or qualifier; others"),
    )
)]
async fn get_function<S: FunctionsApi>(
    State(api): State<Arc<S>>,
    Segment(segment): Segment,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    respond(Operation::Get, async {
        let caller = identity::identify(&headers)?;
        let query = GetQuery::new(&parameters);
        Ok(function_answer(
            api.get(&caller, &segment, query).await?,
            &parameters,
        ))
    })
    .await
}

/// F5: lists the versions of a function, the draft included, last changed first.
#[utoipa::path(
    get,
    path = "/serverless/v1/functions/{name}/versions",
    tag = "functions",
    params(
        ("name" = String, Path, description = "function name or URN"),
        ("pageIndex" = Option<String>, Query, description = "page, from 1"),
        ("pageSize" = Option<String>, Query, description = "versions on a page; 1000 when absent"),
        ("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent"),
        ("isAdmin" = Option<String>, Query, description = "`true` or `1`: `versions` and `total`"),
    ),
    responses(
        (status = 200, body = FunctionPage, description = "the versions of the page"),
        (status = 500, body = ErrorBody, description = "4123: the page cannot be served; others"),
    )
)]
async fn list_versions<S: FunctionsApi>(
    State(api): State<Arc<S>>,
    Segment(segment): Segment,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    respond(Operation::Versions, async {
        let caller = identity::identify(&headers)?;
        let page = Page::new(&parameters);
        let (functions, total) = api.versions(&caller, &segment, &page).await?;
        if is_admin(&parameters) {
            return Ok(ok(&json!({"versions": functions, "total": total})));
        }
        let page_info = PageInfo {
            page_index: page.index,
            page_size: page.size,
            total,
        };
        let functions = Some(functions).filter(|functions| !functions.is_empty());
        Ok(ok(&FunctionPage {
            functions,
            page_info,
        }))
    })
    .await
}

/// F6: lists versions of all functions of the tenant, last changed first.
#[utoipa::path(
    get,
    path = "/serverless/v1/functions",
    tag = "functions",
    params(
        ("name" = Option<String>, Query, description = "a part of the name"),
        ("versionNumber" = Option<String>, Query, description = "exact version"),
        ("kind" = Option<String>, Query, description = "only functions of this kind"),
        ("pageIndex" = Option<String>, Query, description = "page, from 1"),
        ("pageSize" = Option<String>, Query, description = "versions on a page; 1000 when absent"),
        ("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent"),
    ),
    responses(
        (status = 200, body = FunctionListAnswer, description = "the versions of the page"),
        (status = 500, body = ErrorBody, description = "the store cannot be read; others"),
    )
)]
async fn list_functions<S: FunctionsApi>(
    State(api): State<Arc<S>>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    respond(Operation::List, async {
        let caller = identity::identify(&headers)?;
        let result = api.list(&caller, ListQuery::new(&parameters)).await?;
        Ok(ok(&FunctionListAnswer {
            code: 0,
            message: String::new(),
            result,
        }))
    })
    .await
}

/// F7: deletes a version, or the function with all its versions.
#[utoipa::path(
    delete,
    path = "/serverless/v1/functions/{name}",
    tag = "functions",
    params(
        ("name" = String, Path, description = "function name or URN"),
        ("versionNumber" = Option<String>, Query, description = "a version; the draft: everything"),
        ("qualifier" = Option<String>, Query, description = "the same"),
        ("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent"),
    ),
    responses(
        (status = 200, body = DeleteAnswer, description = "deleted"),
        (status = 400, body = ErrorBody, description = "a bad name or qualifier"),
        (status = 404, body = ErrorBody, description = "4115, 4116: not found"),
        (status = 500, body = ErrorBody, description = "others"),
    )
)]
async fn delete_function<S: FunctionsApi>(
    State(api): State<Arc<S>>,
    Segment(segment): Segment,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    respond(Operation::Delete, async {
        let caller = identity::identify(&headers)?;
        api.delete(&caller, &segment, DeleteQuery::new(&parameters))
            .await?;
        Ok(ok(&DeleteAnswer {}))
    })
    .await
}
