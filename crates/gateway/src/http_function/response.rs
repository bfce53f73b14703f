//! Answers that are not the function's: the body that callers of an API gateway know.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::answer::{self, INNER_CODE, JSON, TRACE_ID};
use crate::failure::{After, Failure};
use crate::payload::Payload;
use crate::verdict::Verdict;

use super::REQUEST_ID;

/// The inner code of a failure, under the name that FunctionGraph has for it.
pub(crate) const FUNC_ERR_CODE: HeaderName = HeaderName::from_static("x-func-err-code");

/// Headers by which the platform tells its own answers from a server's: no server sets them.
pub(super) const RESERVED: [HeaderName; 3] = [INNER_CODE, FUNC_ERR_CODE, TRACE_ID];

#[derive(Serialize)]
struct Wire<'a> {
    error_code: &'a str,
    error_msg: &'a str,
    request_id: &'a str,
}

/// A failure as a gateway tells it.
pub(crate) fn failure(failure: &Failure, trace: &str) -> Response<Payload> {
    let status = failure_status(failure);
    let verdict = Verdict::on(failure.code());
    let (code, opening) = match (status, verdict.is_functions) {
        (StatusCode::GATEWAY_TIMEOUT, _) => ("APIG.0201", "Backend timeout. "),
        (StatusCode::BAD_GATEWAY, _) => ("APIG.0201", "Backend unavailable. "),
        _ => (failure.fss().unwrap_or(verdict.fss), ""),
    };
    let body = Wire {
        error_code: code,
        error_msg: &format!("{opening}{}", failure.message()),
        request_id: trace,
    };
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(INNER_CODE, HeaderValue::from(failure.code()));
    headers.insert(FUNC_ERR_CODE, HeaderValue::from(failure.code()));
    let id = HeaderValue::from_str(trace).expect("a trace id is printable ASCII");
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(TRACE_ID, id);
    if failure.may_retry() {
        headers.insert(header::RETRY_AFTER, answer::retry_after(trace));
    }
    if failure.after() == After::Close {
        headers.insert(header::CONNECTION, answer::CLOSE);
    }
    let text = serde_json::to_vec(&body).expect("texts are always JSON");
    answer::response(status, headers, text.into())
}

/// The status of a failure for the caller of a gateway: what a function does wrong is the fault of
/// the server behind it.
fn failure_status(failure: &Failure) -> StatusCode {
    let verdict = Verdict::on(failure.code());
    match (verdict.is_functions, failure.code()) {
        (true, 3003 | 4010 | 4211) => StatusCode::GATEWAY_TIMEOUT,
        (true, _) => StatusCode::INTERNAL_SERVER_ERROR,
        (false, 150_430 | 150_431) => StatusCode::BAD_GATEWAY,
        (false, _) => failure.status(),
    }
}
