//! The receiver's side: a request that another gateway passed on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{Owners, Place, function_of, wire};
use crate::body::Inbound;
use crate::connection::Phase;
use crate::gateway::Shared;
use crate::payload::Payload;
use crate::serve;

/// How long a request waits until as much was seen here as its sender had seen.
const CATCHING_UP: Duration = Duration::from_secs(1);

/// Answers it, if its function is scheduled here.
pub(crate) async fn receive(
    shared: &Arc<Shared>,
    owners: &dyn Owners,
    request: Request<Incoming>,
) -> Response<Payload> {
    // The drain of this gateway waits for it.
    let _running = shared.tasks.token();
    let (mut parts, body) = request.into_parts();
    let upgrades = parts.method == Method::CONNECT;
    let (peer, seen) = wire::unpack(&mut parts);
    if owners.revision() < seen {
        _ = timeout(CATCHING_UP, owners.reached(seen)).await;
    }
    let known = owners.revision();
    let function = function_of(shared, &parts);
    if function.is_some_and(|function| owners.place(&function) != Place::Here) {
        return not_mine(known);
    }
    let connection = shared.connections.open_for(peer);
    connection.enter(Phase::Busy);
    let request = Request::from_parts(parts, Inbound::Incoming(body));
    let mut response = Box::pin(serve::serve(shared, &connection, request)).await;
    if connection.moved.load(Ordering::Relaxed) {
        return not_mine(known.max(owners.revision()));
    }
    if upgrades {
        let mut status = response.status();
        wire::pack_answer(&mut status, response.headers_mut());
        *response.status_mut() = status;
    }
    response
}

fn not_mine(seen: u64) -> Response<Payload> {
    let mut response = Response::new(Payload::Whole(Bytes::new()));
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    let headers = response.headers_mut();
    headers.insert(wire::NOT_MINE, HeaderValue::from(seen));
    response
}
