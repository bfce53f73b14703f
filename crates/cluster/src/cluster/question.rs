//! Questions of the gateways' own, as they travel.

use bugle_node::GATEWAY;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::peers::{Outgoing, Unanswered};

/// The longest answer to a question, in bytes.
const LONGEST: usize = 4 << 20;

pub(super) fn lost(error: &impl ToString) -> Unanswered {
    Unanswered::Lost(error.to_string())
}

/// A question as a request.
pub(super) fn question_of(path: &str, question: Vec<u8>) -> Result<Request<Outgoing>, Unanswered> {
    let body = Full::new(Bytes::from(question)).map_err(|never| match never {});
    Request::builder()
        .method(Method::POST)
        .uri(format!("https://{GATEWAY}{path}"))
        .body(Outgoing::new(body))
        .map_err(|error| lost(&error))
}

/// What a member answered to a question.
pub(super) async fn answer_of<A: DeserializeOwned>(
    response: Response<Incoming>,
) -> Result<A, Unanswered> {
    if response.status() != StatusCode::OK {
        return Err(Unanswered::Lost(format!(
            "it answered {}",
            response.status()
        )));
    }
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| lost(&error))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| lost(&error))
}
