//! P1–P4: the trait behind them and their handlers.
//!
//! Pools belong to the platform and not to a tenant: tenant headers have no effect here.

use std::future::Future;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use bugle_types::Code;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::answer;
use crate::query::Parameters;
use crate::router::Body;
use crate::{
    CreatePoolsAnswer, CreatePoolsRequest, Error, ErrorBody, FailedPool, FailedPools, Operation,
    PoolAnswer, PoolList, PoolQuery, PoolRequest, PoolSelection, PoolsAnswer, Segment,
    UpdatePoolRequest, decode,
};

/// Pod pools, as somebody keeps them.
pub trait PoolsApi: Send + Sync + 'static {
    /// P1: checks and stores each pool by itself; says which were not stored.
    fn create_pools(
        &self,
        pools: Vec<PoolRequest>,
    ) -> impl Future<Output = Result<Vec<FailedPool>, Error>> + Send;

    /// P2: a page of the pools that match.
    fn pools(&self, query: PoolQuery) -> impl Future<Output = Result<PoolList, Error>> + Send;

    /// P3: changes how large a pool is.
    fn update_pool(
        &self,
        id: &str,
        change: UpdatePoolRequest,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// P4: begins to delete what matches.
    fn delete_pools(&self, which: PoolSelection) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The most pools of one request.
const MOST_POOLS: usize = 1000;

/// The routes of P1–P4.
pub fn pools_router<S: PoolsApi>() -> OpenApiRouter<Arc<S>> {
    OpenApiRouter::new()
        .routes(routes!(create_pools, list_pools, delete_pools))
        .routes(routes!(update_pool))
}

async fn respond(run: impl Future<Output = Result<Response, Error>>) -> Response {
    run.await.unwrap_or_else(|error| error.at(Operation::Pools))
}

/// P1: creates pools. Each is stored, or told in `failed_pools`.
#[utoipa::path(
    post,
    path = "/serverless/v1/podpools",
    tag = "pools",
    request_body = CreatePoolsRequest,
    responses(
        (status = 200, body = CreatePoolsAnswer, description = "code 0: all are stored; 4104: some are"),
        (status = 413, body = ErrorBody, description = "the body is too large"),
        (status = 500, body = CreatePoolsAnswer, description = "4104, none is stored; or 130600, without a result"),
    )
)]
async fn create_pools<S: PoolsApi>(State(api): State<Arc<S>>, body: Body) -> Response {
    respond(async {
        let request: CreatePoolsRequest = decode::read(&body.read()?)?;
        let count = request.pools.len();
        if count == 0 {
            // The leading digit is the reference's own.
            return Err(Error::parameter(
                "1failed to create pod pool, err: input pod pool list is empty",
            ));
        }
        if count > MOST_POOLS {
            return Err(Error::parameter(format!(
                "failed to create pod pool, err: one request creates at most {MOST_POOLS} pools"
            )));
        }
        let failed = api.create_pools(request.pools).await?;
        Ok(created(count, failed))
    })
    .await
}

fn created(asked: usize, failed: Vec<FailedPool>) -> Response {
    if failed.is_empty() {
        let body = CreatePoolsAnswer {
            code: 0,
            message: String::new(),
            result: FailedPools::default(),
        };
        return answer(StatusCode::OK, &body);
    }
    let reasons: Vec<&str> = failed.iter().map(|pool| pool.message.as_str()).collect();
    let error = Error::parameter(reasons.join(";"));
    let status = if failed.len() == asked {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    };
    let body = CreatePoolsAnswer {
        code: Code::InvalidUserParam.number(),
        message: error.message,
        result: FailedPools {
            failed_pools: Some(failed.iter().map(|pool| pool.id.clone()).collect()),
            errors: failed,
        },
    };
    answer(status, &body)
}

/// P2: lists pools, the one changed last first.
#[utoipa::path(
    get,
    path = "/serverless/v1/podpools",
    tag = "pools",
    params(
        ("id" = Option<String>, Query, description = "exactly this pool"),
        ("group" = Option<String>, Query, description = "exactly this group"),
        ("offset" = Option<i64>, Query, description = "the page, from 1"),
        ("limit" = Option<i64>, Query, description = "pools of a page; 10 when absent, at most 10,000"),
    ),
    responses(
        (status = 200, body = PoolsAnswer, description = "the page, and how many there are on all pages"),
        (status = 500, body = ErrorBody, description = "4104: offset or limit is no number; 122002: the store cannot be read"),
    )
)]
async fn list_pools<S: PoolsApi>(
    State(api): State<Arc<S>>,
    Query(parameters): Query<Parameters>,
) -> Response {
    respond(async {
        let query = PoolQuery::new(&parameters)?;
        let body = PoolsAnswer {
            code: 0,
            message: String::new(),
            result: api.pools(query).await?,
        };
        Ok(answer(StatusCode::OK, &body))
    })
    .await
}

/// P3: changes the size of a pool, the size it grows to, or its autoscaler.
#[utoipa::path(
    put,
    path = "/serverless/v1/podpools/{id}",
    tag = "pools",
    params(("id" = String, Path, description = "the pool")),
    request_body = UpdatePoolRequest,
    responses(
        (status = 200, body = PoolAnswer, description = "accepted"),
        (status = 404, body = ErrorBody, description = "4120: no such pool"),
        (status = 413, body = ErrorBody, description = "the body is too large"),
        (status = 500, body = ErrorBody, description = "4104 or 130600: the change is wrong, or the pool is busy"),
    )
)]
async fn update_pool<S: PoolsApi>(
    State(api): State<Arc<S>>,
    Segment(id): Segment,
    body: Body,
) -> Response {
    respond(async {
        let change = decode::read(&body.read()?)?;
        api.update_pool(&id, change).await?;
        Ok(answer(StatusCode::OK, &PoolAnswer::default()))
    })
    .await
}

/// P4: begins to delete a pool, the pools of a group, or a pool if it is of a group.
#[utoipa::path(
    delete,
    path = "/serverless/v1/podpools",
    tag = "pools",
    params(
        ("id" = Option<String>, Query, description = "exactly this pool"),
        ("group" = Option<String>, Query, description = "exactly this group"),
    ),
    responses(
        (status = 200, body = PoolAnswer, description = "accepted"),
        (status = 404, body = ErrorBody, description = "4120: nothing matches"),
        (status = 500, body = ErrorBody, description = "4104: neither id nor group"),
    )
)]
async fn delete_pools<S: PoolsApi>(
    State(api): State<Arc<S>>,
    Query(parameters): Query<Parameters>,
) -> Response {
    respond(async {
        let which = PoolSelection::new(&parameters);
        if which == PoolSelection::default() {
            return Err(Error::parameter(
                "id and group cannot be empty at the same time",
            ));
        }
        api.delete_pools(which).await?;
        Ok(answer(StatusCode::OK, &PoolAnswer::default()))
    })
    .await
}
