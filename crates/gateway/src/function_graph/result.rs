//! The answer to an invocation.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bugle_types::FunctionId;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use super::{Form, Invoked, Log, Wanted, json};
use crate::answer::{CLOSE, retry_after};
use crate::failure::{After, Failure};
use crate::payload::Payload;
use crate::verdict::Verdict;

const SUMMARY: HeaderName = HeaderName::from_static("x-cff-invoke-summary");
const FUNCTION_LOG: HeaderName = HeaderName::from_static("x-cff-function-log");
const BILLING: HeaderName = HeaderName::from_static("x-cff-billing-duration");
const RESPONSE_VERSION: HeaderName = HeaderName::from_static("x-cff-response-version");
const ERR_CODE: HeaderName = HeaderName::from_static("x-func-err-code");
const IS_ERR: HeaderName = HeaderName::from_static("x-is-func-err");

/// How much of the log fits a header, and how much an envelope, in bytes (contract 8.1).
const LOG_IN_HEADER: usize = 2000;
const LOG_IN_BODY: usize = 4096;

/// The envelope of version 1.
#[derive(Serialize)]
struct Envelope<'a> {
    request_id: &'a str,
    result: &'a str,
    log: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<&'a str>,
}

/// What stands in the place of a result when the function failed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionError<'a> {
    error_message: &'a str,
    error_type: &'a str,
    stack_trace: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    duration: f64,
    billing_duration: u64,
    memory_size: u64,
    memory_used: f64,
}

#[derive(Serialize)]
struct Refusal<'a> {
    error_code: &'a str,
    error_msg: &'a str,
    request_id: &'a str,
}

/// The answer to who waited.
pub(super) fn answer(
    invoked: Invoked,
    function: &FunctionId,
    wanted: Wanted,
    id: &str,
) -> Result<Response<Payload>, Failure> {
    let failure = invoked.result.as_ref().err();
    let code = failure.map_or(0, Failure::code);
    if let Some(failure) = failure
        && !Verdict::on(failure.code()).is_functions
    {
        // It is the only one, so it can be taken.
        return Err(invoked.result.expect_err("it was seen to be a failure"));
    }
    let log = log(&invoked, function, id);
    let text = match &invoked.result {
        Ok(result) => String::from_utf8_lossy(result).into_owned(),
        Err(failure) => function_error(failure),
    };
    let is_json = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
    let body = match wanted.form {
        Form::V0 => text.into_bytes(),
        Form::V1 => {
            let envelope = Envelope {
                request_id: id,
                result: &text,
                log: match wanted.log {
                    Log::Tail => end(&log, LOG_IN_BODY),
                    Log::None => "",
                },
                status: if code == 0 { 200 } else { 500 },
                error_code: failure.map(Failure::code),
                error_message: failure.map(Failure::message),
            };
            serde_json::to_vec(&envelope).expect("texts and numbers are always JSON")
        }
    };
    let mut response = json(StatusCode::OK, id, body);
    let headers = response.headers_mut();
    if wanted.form == Form::V0 && !is_json {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
    }
    let summary = Summary::of(&invoked);
    headers.insert(BILLING, HeaderValue::from(summary.billing_duration));
    let summary = serde_json::to_string(&summary).expect("numbers are always JSON");
    headers.insert(
        SUMMARY,
        HeaderValue::try_from(summary).expect("JSON of numbers is ASCII"),
    );
    let version = match wanted.form {
        Form::V0 => "v0",
        Form::V1 => "v1",
    };
    headers.insert(RESPONSE_VERSION, HeaderValue::from_static(version));
    headers.insert(ERR_CODE, HeaderValue::from(code));
    let is_err = if code == 0 { "false" } else { "true" };
    headers.insert(IS_ERR, HeaderValue::from_static(is_err));
    if wanted.log == Log::Tail {
        let encoded = BASE64.encode(end(&log, LOG_IN_HEADER));
        let encoded = HeaderValue::try_from(encoded).expect("base64 is ASCII");
        headers.insert(FUNCTION_LOG, encoded);
    }
    Ok(response)
}

/// The platform's own refusal.
pub(super) fn refusal(failure: &Failure, id: &str) -> Response<Payload> {
    let verdict = Verdict::on(failure.code());
    // Before an instance was asked only the platform can have refused.
    let status = if failure.status().is_client_error() || verdict.is_functions {
        failure.status()
    } else {
        verdict.status
    };
    let message = if status == StatusCode::TOO_MANY_REQUESTS {
        format!(
            "Your request has been controlled by overload sdk, please retry later: {}",
            failure.message()
        )
    } else {
        failure.message().to_owned()
    };
    let fss = match (failure.fss(), status) {
        (Some(code), _) => code,
        (None, StatusCode::TOO_MANY_REQUESTS) => "FSS.0429",
        (None, _) => verdict.fss,
    };
    let body = Refusal {
        error_code: fss,
        error_msg: &message,
        request_id: id,
    };
    let text = serde_json::to_vec(&body).expect("texts are always JSON");
    let mut response = json(status, id, text);
    let headers = response.headers_mut();
    headers.insert(ERR_CODE, HeaderValue::from(failure.code()));
    headers.insert(IS_ERR, HeaderValue::from_static("false"));
    if failure.may_retry() {
        headers.insert(header::RETRY_AFTER, retry_after(id));
    }
    if failure.after() == After::Close {
        headers.insert(header::CONNECTION, CLOSE);
    }
    response
}

/// The answer to who does not wait.
pub(super) fn accepted(id: &str) -> Response<Payload> {
    let text = serde_json::json!({"request_id": id}).to_string();
    json(StatusCode::ACCEPTED, id, text.into_bytes())
}

/// What stands in the place of the result of a function that failed.
pub(crate) fn function_error(failure: &Failure) -> String {
    let verdict = Verdict::on(failure.code());
    let (kind, trace) = failure.of_user();
    let error = FunctionError {
        error_message: failure.message(),
        error_type: kind.unwrap_or(verdict.kind),
        stack_trace: trace.map_or_else(Vec::new, |trace| trace.lines().collect()),
    };
    serde_json::to_string(&error).expect("texts are always JSON")
}

impl Summary {
    fn of(invoked: &Invoked) -> Self {
        Self {
            duration: rounded(invoked.run.as_secs_f64() * 1000.0),
            billing_duration: billed(invoked),
            memory_size: invoked.memory_mib,
            memory_used: megabytes(invoked.peak_memory),
        }
    }
}

/// Milliseconds, a part of one being a whole one.
fn billed(invoked: &Invoked) -> u64 {
    u64::try_from(invoked.run.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "shown with three decimals")]
fn megabytes(bytes: u64) -> f64 {
    rounded(bytes as f64 / f64::from(1 << 20))
}

/// The log of one invocation, as it is shown.
fn log(invoked: &Invoked, function: &FunctionId, id: &str) -> String {
    let now = jiff::Timestamp::now();
    let begin = now - invoked.run;
    let written = String::from_utf8_lossy(&invoked.log);
    let failed = if invoked.result.is_err() {
        "(invoke Failed)"
    } else {
        ""
    };
    let Summary {
        duration,
        billing_duration,
        memory_size,
        memory_used,
    } = Summary::of(invoked);
    let version = &function.version;
    let mut text = String::with_capacity(written.len() + 256);
    let time = "%Y-%m-%dT%H:%M:%SZ";
    let _ = writeln!(
        text,
        "{} Start invoke request '{id}', version: {version}",
        begin.strftime(time)
    );
    text.push_str(&written);
    if !written.is_empty() && !written.ends_with('\n') {
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "{} Finish invoke request '{id}'{failed}, duration: {duration}ms, \
         billing duration: {billing_duration}ms, memory used: {memory_used}MB, \
         billing memory: {memory_size}MB",
        now.strftime(time)
    );
    text
}

/// The last bytes of a text, whole characters.
fn end(text: &str, most: usize) -> &str {
    let mut from = text.len().saturating_sub(most);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bugle_types::Code;
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;

    fn invoked(result: Result<&'static str, Failure>) -> Invoked {
        Invoked {
            result: result.map(|text| Bytes::from_static(text.as_bytes())),
            run: Duration::from_micros(1913),
            peak_memory: 43_526_390,
            memory_mib: 128,
            log: b"said\n".to_vec(),
        }
    }

    fn shown(result: Result<&'static str, Failure>, form: Form, log: Log) -> Response<Payload> {
        let id = FunctionId {
            tenant: "p".parse().unwrap(),
            product: None,
            name: "0@default@f".parse().unwrap(),
            version: "latest".parse().unwrap(),
        };
        answer(invoked(result), &id, Wanted { form, log }, "r1").unwrap()
    }

    fn text(response: &Response<Payload>) -> String {
        let Payload::Whole(body) = response.body() else {
            panic!("answers are whole")
        };
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[test]
    fn a_bare_result_is_the_text_itself() {
        let response = shown(Ok("Hello invoke\n"), Form::V0, Log::None);
        assert_eq!(text(&response), "Hello invoke\n");
        let headers = response.headers();
        assert!(
            headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with("text/plain")
        );
        let summary: Value = serde_json::from_slice(headers[SUMMARY].as_bytes()).unwrap();
        assert_eq!(
            summary,
            json!({"duration": 1.913, "billingDuration": 2, "memorySize": 128,
                "memoryUsed": 41.51})
        );
        assert_eq!(headers[BILLING], "2");
        assert_eq!(headers[RESPONSE_VERSION], "v0");
        assert_eq!(headers[ERR_CODE], "0");
        assert_eq!(headers[IS_ERR], "false");
        assert!(!headers.contains_key(FUNCTION_LOG));
    }

    #[test]
    fn an_envelope_embeds_json_as_text_and_the_log() {
        let response = shown(Ok(r#"{"a":1}"#), Form::V1, Log::Tail);
        let body: Value = serde_json::from_str(&text(&response)).unwrap();
        assert_eq!(body["result"], r#"{"a":1}"#);
        assert_eq!(
            (&body["status"], &body["request_id"]),
            (&json!(200), &json!("r1"))
        );
        assert!(body.get("error_code").is_none());
        let log = body["log"].as_str().unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert!(
            lines[0].ends_with("Z Start invoke request 'r1', version: latest"),
            "{log}"
        );
        assert_eq!(lines[1], "said");
        assert!(
            lines[2].ends_with(
                "Finish invoke request 'r1', duration: 1.913ms, billing duration: 2ms, \
                 memory used: 41.51MB, billing memory: 128MB"
            ),
            "{log}"
        );
        let header = BASE64
            .decode(response.headers()[FUNCTION_LOG].as_bytes())
            .unwrap();
        assert_eq!(header, log.as_bytes());
    }

    #[test]
    fn a_functions_failure_is_a_result_with_status_200() {
        let timeout = || Failure::overdue(Duration::from_secs(3));
        let response = shown(Err(timeout()), Form::V0, Log::None);
        assert_eq!(response.status(), 200);
        let body: Value = serde_json::from_str(&text(&response)).unwrap();
        assert_eq!(body["errorType"], "FunctionTimeout");
        assert_eq!(body["stackTrace"], json!([]));
        assert_eq!(response.headers()[ERR_CODE], "4010");
        assert_eq!(response.headers()[IS_ERR], "true");

        let response = shown(Err(timeout()), Form::V1, Log::Tail);
        let body: Value = serde_json::from_str(&text(&response)).unwrap();
        assert_eq!(
            (&body["status"], &body["error_code"]),
            (&json!(500), &json!(4010))
        );
        assert!(body["log"].as_str().unwrap().contains("(invoke Failed)"));
    }

    #[test]
    fn a_refusal_of_the_platform_is_a_status_with_a_code() {
        for (failure, status, code) in [
            (
                Failure::new(Code::FunctionMetadataNotFound, "no"),
                404,
                "FSS.1051",
            ),
            (Failure::body_too_large(10, None), 413, "FSS.0413"),
            (
                Failure::new(Code::NoInstanceAvailable, "no"),
                503,
                "FSS.0503",
            ),
            (
                Failure::new(Code::SchedulerInternal, "full")
                    .with_status(StatusCode::TOO_MANY_REQUESTS),
                429,
                "FSS.0429",
            ),
        ] {
            let response = refusal(&failure, "r1");
            assert_eq!(response.status(), status);
            let body: Value = serde_json::from_str(&text(&response)).unwrap();
            assert_eq!(body["error_code"], code);
            assert_eq!(response.headers()[IS_ERR], "false");
        }
    }

    #[test]
    fn the_end_of_a_log_never_cuts_a_character() {
        assert_eq!(end("aüb", 2), "b");
        assert_eq!(end("aüb", 3), "üb");
        assert_eq!(end("ab", 9), "ab");
    }
}
