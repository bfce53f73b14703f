//! Answers that are not the function's: what went wrong, as clients see it.
//!
//! [`status_of`] is the one table from inner codes to HTTP statuses; `docs/errors.md` mirrors it.
//! A [`Failure`] takes its status from there, except the few that say why they differ.

use std::borrow::Cow;

use bugle_instances::{CallError, ExitCause, StartError};
use bugle_scheduler::Outcome;
use bugle_types::{Code, ParseError};
use http::StatusCode;
use serde::Serialize;

/// The HTTP status of an answer with inner code `code`, also for codes that only user code sends.
pub fn status_of(code: u32) -> StatusCode {
    match code {
        0 | 200_200 => StatusCode::OK,
        200_202 => StatusCode::ACCEPTED,
        200_204 => StatusCode::NO_CONTENT,
        200_400 | 4037 | 4038 | 150_444 => StatusCode::BAD_REQUEST,
        200_401 => StatusCode::UNAUTHORIZED,
        200_403 | 150_434 => StatusCode::FORBIDDEN,
        200_404 | 4039 | 150_424 | 150_425 => StatusCode::NOT_FOUND,
        200_413 | 4140 => StatusCode::PAYLOAD_TOO_LARGE,
        200_429 | 4021 | 6037 | 150_429 | 150_432 | 150_433 => StatusCode::TOO_MANY_REQUESTS,
        1007 | 4001..=4009 | 4201 | 4205 | 4207 => StatusCode::BAD_GATEWAY,
        150_430 | 150_431 | 161_914 | 214_503 => StatusCode::SERVICE_UNAVAILABLE,
        3003 | 4010 | 4211 => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Why a request was not answered by the function, or what the function said went wrong.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    code: u32,
    message: Cow<'static, str>,
    detail: Option<Box<Detail>>,
    connection: After,
    fss: Option<&'static str>,
}

/// What happens to the connection after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It takes the next request.
    Keep,
    /// It is closed: the rest of the request was not read, or no more requests are taken.
    Close,
}

/// What is known beyond the message.
#[derive(Debug, Default)]
struct Detail {
    /// How the instance ended.
    cause: Option<String>,
    /// The exception's type.
    kind: Option<String>,
    /// The stack trace.
    trace: Option<String>,
}

/// The body of an error answer.
#[derive(Serialize)]
struct Wire<'a> {
    code: u32,
    message: &'a str,
    trace_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<WireError<'a>>,
}

#[derive(Serialize)]
struct WireError<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status: status_of(code.number()),
            code: code.number(),
            message: message.into(),
            detail: None,
            connection: After::Keep,
            fss: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    /// The same failure with another status than the table's; the caller says why.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The same failure with another code at FunctionGraph's interface than the verdict's.
    pub(crate) fn with_fss(self, code: &'static str) -> Self {
        Self {
            fss: Some(code),
            ..self
        }
    }

    /// A code of its own at FunctionGraph's interface.
    pub(crate) fn fss(&self) -> Option<&'static str> {
        self.fss
    }

    pub(crate) fn closing(self) -> Self {
        Self {
            connection: After::Close,
            ..self
        }
    }

    pub(crate) fn with_cause(mut self, cause: &ExitCause) -> Self {
        self.detail.get_or_insert_default().cause = Some(cause_token(cause));
        self
    }

    /// The request body is larger than the limit. `actual` is how large it is, where that is known.
    pub(crate) fn body_too_large(limit: usize, actual: Option<u64>) -> Self {
        let message = match actual {
            Some(actual) => format!(
                "request body of {actual} bytes exceeds the limit of {limit} bytes \
                 (max_request_body_bytes)"
            ),
            None => {
                format!("request body exceeds the limit of {limit} bytes (max_request_body_bytes)")
            }
        };
        Self::new(Code::RequestTooLarge, message).closing()
    }

    /// What is sent to a function's server is larger than the limit. `actual` is how large it is,
    /// where that is known.
    pub(crate) fn http_body_too_large(limit: u64, actual: Option<u64>) -> Self {
        let size = actual.map_or_else(String::new, |actual| format!(" of {actual} bytes"));
        Self::new(
            Code::RequestTooLarge,
            format!("request body{size} exceeds the limit of {limit} bytes (max_http_body_bytes)"),
        )
        .closing()
    }

    /// A function's server answers with more than may pass.
    pub(crate) fn response_too_large(actual: u64, limit: u64) -> Self {
        Self::new(
            Code::ResponseTooLarge,
            format!("response body size {actual} exceeds the limit of {limit}"),
        )
    }

    /// The body came slower than the limit. 408 rather than the table's 400: the request was not
    /// wrong, and a client may send it again.
    pub(crate) fn body_too_slow(min_per_second: u32) -> Self {
        Self::bad_request(format!(
            "request body arrived slower than {min_per_second} bytes per second \
             (min_body_bytes_per_second)"
        ))
        .with_status(StatusCode::REQUEST_TIMEOUT)
        .closing()
    }

    /// The function moved to another gateway before any instance had the call.
    pub(crate) fn moved() -> Self {
        let message = "the function is scheduled by another gateway now; the call did not run";
        Self::new(Code::NoInstanceAvailable, message)
    }

    /// No more calls are taken, because the gateway ends.
    pub(crate) fn shutting_down() -> Self {
        Self::new(Code::NoInstanceAvailable, "the gateway is shutting down").closing()
    }

    /// The call still ran when the time to drain was over. Not 503: it may have done its work.
    pub(crate) fn given_up() -> Self {
        let message = "the gateway shut down before the call ended; it may have run";
        Self::new(Code::InstanceExited, message)
            .with_cause(&ExitCause::Stopped)
            .closing()
    }

    /// What user code reported; its message goes out as it is.
    pub(crate) fn of_user_code(
        code: u32,
        message: String,
        kind: Option<String>,
        trace: Option<String>,
    ) -> Self {
        Self {
            status: status_of(code),
            code,
            message: message.into(),
            detail: Some(Box::new(Detail {
                cause: None,
                kind,
                trace,
            })),
            connection: After::Keep,
            fss: None,
        }
    }

    /// The call was sent and ran past the function's timeout.
    pub(crate) fn overdue(timeout: std::time::Duration) -> Self {
        Self::new(
            Code::FunctionTimeout,
            format!(
                "call exceeded the function's timeout of {} s",
                timeout.as_secs_f64()
            ),
        )
    }

    /// The type of the exception and its stack trace, of what user code reported.
    pub(crate) fn of_user(&self) -> (Option<&str>, Option<&str>) {
        let detail = self.detail.as_deref();
        (
            detail.and_then(|detail| detail.kind.as_deref()),
            detail.and_then(|detail| detail.trace.as_deref()),
        )
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn code(&self) -> u32 {
        self.code
    }

    /// How a call that ended like this is counted.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.code {
            3003 | 4010 => Outcome::timeout,
            1007 | 4205 => Outcome::crash,
            // Six digits are the platform's own.
            100_000.. => Outcome::rejected,
            _ => Outcome::function_error,
        }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn after(&self) -> After {
        self.connection
    }

    /// Whether the client is told when to come back.
    pub(crate) fn may_retry(&self) -> bool {
        matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        )
    }

    /// The JSON text of the answer.
    pub(crate) fn to_json(&self, trace: &str) -> Vec<u8> {
        let detail = self.detail.as_deref();
        let wire = Wire {
            code: self.code,
            message: &self.message,
            trace_id: trace,
            cause: detail.and_then(|d| d.cause.as_deref()),
            error: detail
                .filter(|d| d.kind.is_some() || d.trace.is_some())
                .map(|d| WireError {
                    kind: d.kind.as_deref(),
                    trace: d.trace.as_deref(),
                }),
        };
        serde_json::to_vec(&wire).expect("strings and numbers are always JSON")
    }
}

/// The cause as a word clients can branch on; the message has the sentence.
fn cause_token(cause: &ExitCause) -> String {
    match cause {
        ExitCause::Code(code) => format!("exit {code}"),
        ExitCause::Signal(signal) => format!("signal {signal}"),
        ExitCause::OutOfMemory { .. } => "oom".to_owned(),
        ExitCause::OutOfDisk { .. } => "disk".to_owned(),
        ExitCause::Unhealthy { .. } => "unhealthy".to_owned(),
        ExitCause::NodeLost { .. } => "node lost".to_owned(),
        ExitCause::Stopped => "stopped".to_owned(),
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        match error {
            CallError::NotSent(cause) => {
                // Every attempt met an instance that was already gone: the call did not run.
                Self::new(Code::NoInstanceAvailable, message).with_cause(&cause)
            }
            CallError::Exited(cause @ ExitCause::OutOfMemory { .. }) => {
                Self::new(Code::OutOfMemory, message).with_cause(&cause)
            }
            CallError::Exited(cause @ ExitCause::OutOfDisk { .. }) => {
                Self::new(Code::OutOfDisk, message).with_cause(&cause)
            }
            CallError::Exited(cause) => Self::new(Code::InstanceExited, message).with_cause(&cause),
            CallError::Protocol(_) => Self::new(Code::InstanceExited, message),
            CallError::NoServer => Self::new(Code::NoInstanceAvailable, message),
            CallError::Answer(_) => Self::new(Code::FunctionException, message),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        match error {
            StartError::Initialization { message, trace } => {
                Self::of_user_code(Code::InitializationFailed.number(), message, None, trace)
            }
            StartError::InitializationTimeout { .. } => {
                Self::new(Code::InitializationTimeout, message)
            }
            StartError::Exited(cause @ ExitCause::OutOfMemory { .. }) => {
                Self::new(Code::OutOfMemory, message).with_cause(&cause)
            }
            StartError::Exited(cause @ ExitCause::OutOfDisk { .. }) => {
                Self::new(Code::OutOfDisk, message).with_cause(&cause)
            }
            StartError::Exited(cause) => {
                Self::new(Code::InitializationFailed, message).with_cause(&cause)
            }
            StartError::NotRunnable(_) => Self::new(Code::EntryNotFound, message),
            StartError::Unsupported(_) | StartError::NoRoom(_) => {
                Self::new(Code::NoInstanceAvailable, message)
            }
            StartError::Platform(_) => {
                // The cause may name the platform's own paths: it goes to the operator's log.
                tracing::warn!(error = message, "instance could not be started");
                Self::new(
                    Code::SchedulerInternal,
                    "the platform could not start an instance; its log says why",
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_the_contract() {
        let table: &[(&[u32], u16)] = &[
            (&[0, 200_200], 200),
            (&[200_202], 202),
            (&[200_204], 204),
            (&[200_400, 4037, 150_444, 4038], 400),
            (&[200_401], 401),
            (&[200_403, 150_434], 403),
            (&[200_404, 150_424, 150_425, 4039], 404),
            (&[200_413, 4140], 413),
            (&[200_429, 4021, 150_429, 150_432, 150_433, 6037], 429),
            (&[150_500, 200_500, 330_404, 9009, 42], 500),
            (&[4001, 4002, 4004, 4007, 4009, 4201, 4205, 4207, 1007], 502),
            (&[150_430, 150_431, 161_914, 214_503], 503),
            (&[4010, 3003, 4211], 504),
        ];
        for (codes, status) in table {
            for code in *codes {
                assert_eq!(status_of(*code).as_u16(), *status, "{code}");
            }
        }
    }

    #[test]
    fn an_exception_carries_its_type_and_trace_beside_the_message() {
        let failure = Failure::of_user_code(
            4002,
            "boom \"x\"".into(),
            Some("ValueError".into()),
            Some("line 1".into()),
        );
        let json: serde_json::Value = serde_json::from_slice(&failure.to_json("t")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "code": 4002, "message": "boom \"x\"", "trace_id": "t",
                "error": {"type": "ValueError", "trace": "line 1"},
            })
        );
    }

    #[test]
    fn a_crash_names_its_cause() {
        let cases = [
            (ExitCause::Code(3), 1007, "exit 3"),
            (ExitCause::Signal(9), 1007, "signal 9"),
            (
                ExitCause::OutOfMemory {
                    limit_mib: 64,
                    used_bytes: 67_000_000,
                },
                4205,
                "oom",
            ),
            (ExitCause::OutOfDisk { limit_mib: 512 }, 4207, "disk"),
            (ExitCause::Stopped, 1007, "stopped"),
        ];
        for (cause, code, token) in cases {
            let failure = Failure::from(CallError::Exited(cause));
            let json: serde_json::Value = serde_json::from_slice(&failure.to_json("")).unwrap();
            assert_eq!(
                (&json["code"], &json["cause"]),
                (&code.into(), &token.into())
            );
            assert_eq!(failure.status(), StatusCode::BAD_GATEWAY);
        }
    }

    #[test]
    fn the_platforms_own_trouble_is_not_told_to_clients() {
        let failure = Failure::from(StartError::Platform("open /var/lib/x: EMFILE".into()));
        assert!(!failure.message().contains("/var/lib"));
        assert_eq!((failure.code(), failure.status().as_u16()), (150_500, 500));
    }
}
