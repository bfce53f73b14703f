//! R1–R4: the trait behind them and their handlers.

use std::future::Future;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::answer;
use crate::router::Body;
use crate::{
    Caller, Error, ErrorBody, InstanceConfig, Operation, ReservationAnswer, ReservationId,
    ReservationList, ReservationRequest, decode, identity,
};

/// Reserved instances, as a registry keeps them.
pub trait ReservationsApi: Send + Sync + 'static {
    /// R1: sets the bounds of a label.
    fn reserve(
        &self,
        caller: &Caller,
        request: ReservationRequest,
    ) -> impl Future<Output = Result<Vec<InstanceConfig>, Error>> + Send;

    /// R2: the same for a label that has bounds already.
    fn update_reservation(
        &self,
        caller: &Caller,
        request: ReservationRequest,
    ) -> impl Future<Output = Result<Vec<InstanceConfig>, Error>> + Send;

    /// R3: all labels of a version.
    fn reservations(
        &self,
        caller: &Caller,
        request: ReservationRequest,
    ) -> impl Future<Output = Result<ReservationList, Error>> + Send;

    /// R4: removes a label, or all of a version.
    fn delete_reservation(
        &self,
        caller: &Caller,
        request: ReservationRequest,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The routes of R1–R4.
pub fn reservations_router<S: ReservationsApi>() -> OpenApiRouter<Arc<S>> {
    OpenApiRouter::new().routes(routes!(
        create_reservation,
        update_reservation,
        list_reservations,
        delete_reservation
    ))
}

async fn respond(run: impl Future<Output = Result<Response, Error>>) -> Response {
    run.await
        .unwrap_or_else(|error| error.at(Operation::Reservation))
}

fn stored(request: ReservationRequest, configs: Vec<InstanceConfig>) -> Response {
    let body = ReservationAnswer {
        code: 0,
        message: String::new(),
        instance_config_infos: Some(configs).filter(|configs| !configs.is_empty()),
        reserve_ins_base_info: ReservationId {
            func_name: request.func_name,
            version: request.version,
            instance_label: request.instance_label,
        },
    };
    answer(StatusCode::OK, &body)
}

/// R1: sets the bounds of a label of a function version.
#[utoipa::path(
    post,
    path = "/serverless/v1/functions/reserve-instance",
    tag = "reserved instances",
    params(("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent")),
    request_body = ReservationRequest,
    responses(
        (status = 200, body = ReservationAnswer, description = "what is stored for the label"),
        (status = 400, body = ErrorBody, description = "130600 or 4104: a field is wrong"),
        (status = 404, body = ErrorBody, description = "4115: no such function version"),
        (status = 413, body = ErrorBody, description = "the body is too large"),
        (status = 500, body = ErrorBody, description = "others"),
    )
)]
async fn create_reservation<S: ReservationsApi>(
    State(api): State<Arc<S>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(async {
        let caller = identity::identify(&headers)?;
        let request: ReservationRequest = decode::read(&body.read()?)?;
        let configs = api.reserve(&caller, request.clone()).await?;
        Ok(stored(request, configs))
    })
    .await
}

/// R2: changes the bounds of a label that has some.
#[utoipa::path(
    put,
    path = "/serverless/v1/functions/reserve-instance",
    tag = "reserved instances",
    params(("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent")),
    request_body = ReservationRequest,
    responses(
        (status = 200, body = ReservationAnswer, description = "what is stored for the label"),
        (status = 400, body = ErrorBody, description = "130600 or 4104: a field is wrong"),
        (status = 404, body = ErrorBody, description = "4115: no such function version"),
        (status = 413, body = ErrorBody, description = "the body is too large"),
        (status = 500, body = ErrorBody, description = "others"),
    )
)]
async fn update_reservation<S: ReservationsApi>(
    State(api): State<Arc<S>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(async {
        let caller = identity::identify(&headers)?;
        let request: ReservationRequest = decode::read(&body.read()?)?;
        let configs = api.update_reservation(&caller, request.clone()).await?;
        Ok(stored(request, configs))
    })
    .await
}

/// R3: lists the labels of a function version; the version is named in the body.
#[utoipa::path(
    get,
    path = "/serverless/v1/functions/reserve-instance",
    tag = "reserved instances",
    params(("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent")),
    request_body = ReservationRequest,
    responses(
        (status = 200, body = ReservationList, description = "the labels, newest first"),
        (status = 400, body = ErrorBody, description = "130600 or 4104: a field is wrong"),
        (status = 404, body = ErrorBody, description = "4115: no such function version"),
        (status = 413, body = ErrorBody, description = "the body is too large"),
        (status = 500, body = ErrorBody, description = "others"),
    )
)]
async fn list_reservations<S: ReservationsApi>(
    State(api): State<Arc<S>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(async {
        let caller = identity::identify(&headers)?;
        let request = decode::read(&body.read()?)?;
        Ok(answer(
            StatusCode::OK,
            &api.reservations(&caller, request).await?,
        ))
    })
    .await
}

/// R4: removes a label of a function version, or all of its labels.
#[utoipa::path(
    delete,
    path = "/serverless/v1/functions/reserve-instance",
    tag = "reserved instances",
    params(("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent")),
    request_body = ReservationRequest,
    responses(
        (status = 200, body = ErrorBody, description = "code 0"),
        (status = 400, body = ErrorBody, description = "130600 or 4104: a field is wrong"),
        (status = 404, body = ErrorBody, description = "4115: no such function version"),
        (status = 413, body = ErrorBody, description = "the body is too large"),
        (status = 500, body = ErrorBody, description = "others"),
    )
)]
async fn delete_reservation<S: ReservationsApi>(
    State(api): State<Arc<S>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(async {
        let caller = identity::identify(&headers)?;
        let request = decode::read(&body.read()?)?;
        api.delete_reservation(&caller, request).await?;
        Ok(answer(
            StatusCode::OK,
            &ErrorBody {
                code: 0,
                message: String::new(),
            },
        ))
    })
    .await
}
