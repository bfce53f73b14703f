//! Makes answers: the function's result, an answer the handler composed itself, a failure.

use std::ops::Range;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bugle_instances::{InstanceId, StartPhases};
use bugle_types::Code;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::events::{self, Events};
use crate::failure::{After, Failure};
use crate::payload::Payload;

pub(crate) const INNER_CODE: HeaderName = HeaderName::from_static("x-inner-code");
pub(crate) const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
const BILLING_DURATION: HeaderName = HeaderName::from_static("x-billing-duration");
const INVOKE_SUMMARY: HeaderName = HeaderName::from_static("x-invoke-summary");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-log-result");

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const SUCCESS: HeaderValue = HeaderValue::from_static("0");
pub(crate) const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Answers carry eight headers or fewer, beside those a handler chooses.
const HEADERS: usize = 8;

/// A handler may choose this many headers …
const MOST_CHOSEN_HEADERS: usize = 100;

/// … with names and values of this many bytes together: what most clients still accept.
const MOST_CHOSEN_BYTES: usize = 64 << 10;

/// The most of a call's log that goes into its answer: what clients of the reference expect, and
/// with base64 still less than what they accept as a header.
const LOG_BYTES: usize = 4 << 10;

/// Headers that a handler may not choose: they belong to the connection or to the platform.
const RESERVED: [HeaderName; 14] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    INNER_CODE,
    TRACE_ID,
    BILLING_DURATION,
    INVOKE_SUMMARY,
    LOG_RESULT,
];

/// How a call was served, for its summary.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) instance: InstanceId,
    pub(crate) version: Box<str>,
    /// How long it waited for a slot, without the start of an instance.
    pub(crate) queued: Duration,
    /// The start it waited for, and how long that took; none for a warm call.
    pub(crate) start: Option<(Duration, StartPhases)>,
    pub(crate) run: Duration,
    pub(crate) peak_memory: u64,
    pub(crate) log_tail: Vec<u8>,
}

impl Served {
    /// Adds the headers that tell how the call was served, and the trace id.
    ///
    /// All values share one buffer: a header value of its own allocation each would be the most
    /// expensive part of an answer.
    fn add_headers(&self, headers: &mut HeaderMap, trace: &str) {
        let log = &self.log_tail[self.log_tail.len().saturating_sub(LOG_BYTES)..];
        let log_bytes = log.len().div_ceil(3) * 4;
        let mut text = Vec::with_capacity(256 + self.version.len() + trace.len() + log_bytes);
        text.extend_from_slice(trace.as_bytes());
        let trace = 0..text.len();
        write_millis(&mut text, self.run);
        let billing = trace.end..text.len();
        self.write_summary(&mut text);
        let summary = billing.end..text.len();
        let (text, log) = append_base64(text, log);
        let mut add = |name: HeaderName, range: Range<usize>| {
            let value = HeaderValue::from_maybe_shared(text.slice(range))
                .expect("numbers, JSON of ASCII and base64 are header values");
            headers.insert(name, value);
        };
        add(TRACE_ID, trace);
        add(BILLING_DURATION, billing);
        add(INVOKE_SUMMARY, summary);
        add(LOG_RESULT, log);
    }

    fn write_summary(&self, text: &mut Vec<u8>) {
        let (start, phases) = self.start.unwrap_or_default();
        text.extend_from_slice(b"{\"instance\":\"");
        write_hex(text, self.instance.0);
        // A version label needs no escaping.
        text.extend_from_slice(b"\",\"version\":\"");
        text.extend_from_slice(self.version.as_bytes());
        text.extend_from_slice(b"\",\"start\":\"");
        text.extend_from_slice(if self.start.is_some() {
            b"cold"
        } else {
            b"warm"
        });
        text.push(b'"');
        for (name, duration) in [
            ("queue_ms", self.queued),
            ("start_ms", start),
            ("init_ms", phases.init),
            ("run_ms", self.run),
        ] {
            text.extend_from_slice(b",\"");
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(b"\":");
            write_millis(text, duration);
        }
        text.extend_from_slice(b",\"peak_memory_mb\":");
        write_thousandths(text, self.peak_memory.saturating_mul(1000) >> 20);
        text.push(b'}');
    }
}

fn append_base64(mut text: Vec<u8>, data: &[u8]) -> (Bytes, Range<usize>) {
    let start = text.len();
    if !data.is_empty() {
        text.resize(start + data.len().div_ceil(3) * 4, 0);
        BASE64
            .encode_slice(data, &mut text[start..])
            .expect("the buffer has the size of the encoded text");
    }
    let end = text.len();
    (Bytes::from(text), start..end)
}

/// Writes milliseconds with three decimals.
fn write_millis(text: &mut Vec<u8>, duration: Duration) {
    write_thousandths(
        text,
        u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
    );
}

fn write_thousandths(text: &mut Vec<u8>, thousandths: u64) {
    let mut digits = itoa::Buffer::new();
    text.extend_from_slice(digits.format(thousandths / 1000).as_bytes());
    let fraction = thousandths % 1000;
    if fraction != 0 {
        // A leading 1 keeps the zeros in front of the fraction; it is not written.
        text.push(b'.');
        text.extend_from_slice(&digits.format(1000 + fraction).as_bytes()[1..]);
    }
}

fn write_hex(text: &mut Vec<u8>, number: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in number.to_be_bytes() {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// The function's result.
pub(crate) fn result(json: Bytes, trace: &str, served: &Served) -> Response<Payload> {
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(INNER_CODE, SUCCESS);
    served.add_headers(&mut headers, trace);
    response(StatusCode::OK, headers, json)
}

/// The answer that the handler composed, or why it cannot be sent.
pub(crate) fn composed(
    status: u16,
    chosen: &[(String, String)],
    body: Bytes,
    trace: &str,
    served: &Served,
) -> Result<Response<Payload>, Failure> {
    // 1xx are not answers: a client would go on waiting for one.
    let status = StatusCode::from_u16(status)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| refused(&format!("status {status} is not between 200 and 599")))?;
    let mut headers = chosen_headers(chosen)?;
    headers.insert(INNER_CODE, SUCCESS);
    served.add_headers(&mut headers, trace);
    Ok(response(status, headers, body))
}

/// The headers that the handler chose, without those that are not for it to choose.
pub(crate) fn chosen_headers(chosen: &[(String, String)]) -> Result<HeaderMap, Failure> {
    let bytes: usize = chosen
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if chosen.len() > MOST_CHOSEN_HEADERS || bytes > MOST_CHOSEN_BYTES {
        return Err(refused(&format!(
            "{} headers of {bytes} bytes are more than {MOST_CHOSEN_HEADERS} headers or \
             {MOST_CHOSEN_BYTES} bytes",
            chosen.len()
        )));
    }
    let mut headers = HeaderMap::with_capacity(HEADERS + chosen.len());
    for (name, value) in chosen {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| refused(&format!("{name:?} is not a header name")))?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
            refused(&format!(
                "the value of header {name} has control characters"
            ))
        })?;
        if !RESERVED.contains(&header) {
            headers.append(header, value);
        }
    }
    Ok(headers)
}

fn refused(why: &str) -> Failure {
    Failure::new(
        Code::ResultNotSerializable,
        format!("the handler's HTTP answer cannot be sent: {why}"),
    )
}

/// A failure as JSON.
pub(crate) fn failure(
    failure: &Failure,
    trace: &str,
    served: Option<&Served>,
) -> Response<Payload> {
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(INNER_CODE, HeaderValue::from(failure.code()));
    if failure.may_retry() {
        headers.insert(header::RETRY_AFTER, retry_after(trace));
    }
    if failure.after() == After::Close {
        headers.insert(header::CONNECTION, CLOSE);
    }
    match served {
        Some(served) => served.add_headers(&mut headers, trace),
        None => {
            headers.insert(TRACE_ID, trace_value(trace));
        }
    }
    response(failure.status(), headers, failure.to_json(trace).into())
}

/// One to three seconds, spread by trace id so that refused clients do not come back all at once.
pub(crate) fn retry_after(trace: &str) -> HeaderValue {
    let spread: u32 = trace.bytes().map(u32::from).sum();
    HeaderValue::from(1 + spread % 3)
}

pub(crate) fn response(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<Payload> {
    let mut response = Response::new(Payload::Whole(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A stream of events that has begun, with the headers that a program chose for it.
pub(crate) fn events(events: Events, chosen: HeaderMap, trace: &str) -> Response<Payload> {
    let mut response = Response::new(Payload::Events(Box::new(events)));
    let headers = response.headers_mut();
    *headers = chosen;
    headers.insert(INNER_CODE, SUCCESS);
    headers.insert(TRACE_ID, trace_value(trace));
    events::add_headers(headers);
    response
}

fn trace_value(trace: &str) -> HeaderValue {
    HeaderValue::from_str(trace).expect("a trace id is printable ASCII")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn served() -> Served {
        Served {
            instance: InstanceId(0xab),
            version: "v1".into(),
            queued: Duration::from_micros(41),
            start: None,
            run: Duration::from_micros(3214),
            peak_memory: 9_568_256,
            log_tail: Vec::new(),
        }
    }

    fn headers(served: &Served) -> HeaderMap {
        let mut headers = HeaderMap::new();
        served.add_headers(&mut headers, "t1");
        headers
    }

    #[test]
    fn the_summary_is_json() {
        let mut served = served();
        served.start = Some((
            Duration::from_millis(2),
            StartPhases {
                init: Duration::from_micros(300),
                ..StartPhases::default()
            },
        ));
        let headers = headers(&served);
        let summary: Value = serde_json::from_slice(headers[INVOKE_SUMMARY].as_bytes()).unwrap();
        assert_eq!(
            summary,
            json!({
                "instance": "000000000000000000000000000000ab", "version": "v1", "start": "cold",
                "queue_ms": 0.041, "start_ms": 2, "init_ms": 0.3, "run_ms": 3.214,
                "peak_memory_mb": 9.125,
            })
        );
        assert_eq!(headers[TRACE_ID], "t1");
        assert_eq!(headers[BILLING_DURATION], "3.214");
        assert_eq!(headers[LOG_RESULT], "");
    }

    #[test]
    fn of_a_long_log_the_end_is_told() {
        let mut served = served();
        served.log_tail = vec![b'x'; 5000];
        served.log_tail.push(b'!');
        let log = BASE64
            .decode(headers(&served)[LOG_RESULT].as_bytes())
            .unwrap();
        assert_eq!((log.len(), log.last()), (LOG_BYTES, Some(&b'!')));
    }

    #[test]
    fn refused_clients_come_back_within_three_seconds() {
        for trace in ["", "a", "b", "c"] {
            let seconds: u32 = retry_after(trace).to_str().unwrap().parse().unwrap();
            assert!((1..=3).contains(&seconds));
        }
    }

    proptest! {
        #[test]
        fn durations_are_numbers_of_milliseconds(micros in 0..u64::MAX / 2) {
            let mut text = Vec::new();
            write_millis(&mut text, Duration::from_micros(micros));
            let text = String::from_utf8(text).unwrap();
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, "000"));
            prop_assert_eq!(fraction.len(), 3);
            prop_assert_eq!(format!("{whole}{fraction}").parse::<u64>().unwrap(), micros);
        }
    }
}
