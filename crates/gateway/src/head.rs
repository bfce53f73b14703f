//! The head of a call: one pass over the headers that finds those with a meaning and writes the
//! envelope the runtime sees.
//!
//! The envelope is one JSON object: `headers` (lower-cased names, first value only), `method`,
//! `path`, `query`, `content_type` and `traceparent`; what is absent, and a `traceparent` that is not
//! of the W3C form, is `null`. Rust never parses it again, and the runtime parses it only when the
//! handler asks.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use http::request::Parts;
use tokio::time::Instant;

use crate::trace::{TraceIds, trace_parent};

/// Room for the names and punctuation of the envelope, so that it is written without growing.
const ENVELOPE_BYTES: usize = 160;

/// Room for the quotes, colon and comma around one header.
const PER_HEADER_BYTES: usize = 6;

/// What the headers of a call say, before anything is checked.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// When the head had arrived.
    pub(crate) arrived: Instant,
    /// Identifies the call.
    pub(crate) trace: Arc<str>,
    /// The headers that matter here.
    pub(crate) headers: Named<'a>,
    /// The `headers` member of the envelope, as JSON.
    envelope: Vec<u8>,
}

/// The headers with a meaning; the first value of each.
#[derive(Debug, Default)]
pub(crate) struct Named<'a> {
    pub(crate) accept: Option<&'a HeaderValue>,
    pub(crate) content_type: Option<&'a HeaderValue>,
    pub(crate) cpu: Option<&'a HeaderValue>,
    pub(crate) memory: Option<&'a HeaderValue>,
    pub(crate) custom: Option<&'a HeaderValue>,
    pub(crate) label: Option<&'a HeaderValue>,
    pub(crate) pools: Option<&'a HeaderValue>,
    pub(crate) session: Option<&'a HeaderValue>,
    pub(crate) invoke_type: Option<&'a HeaderValue>,
    pub(crate) traceparent: Option<&'a HeaderValue>,
}

impl<'a> Head<'a> {
    /// Reads the headers of a call.
    pub(crate) fn read(parts: &'a Parts, ids: &TraceIds) -> Self {
        let mut named = Named::default();
        let (mut trace_id, mut request_id, mut older_custom) = (None, None, None);
        let mut envelope = Vec::with_capacity(envelope_size(parts));
        envelope.extend_from_slice(b"{\"headers\":{");
        let mut previous: Option<&str> = None;
        for (name, value) in &parts.headers {
            let name = name.as_str();
            // The map yields the values of one name one after the other, the first one first.
            if previous == Some(name) {
                continue;
            }
            match name {
                "accept" => named.accept = Some(value),
                "content-type" => named.content_type = Some(value),
                "traceparent" => named.traceparent = Some(value),
                "x-instance-cpu" => named.cpu = Some(value),
                "x-instance-memory" => named.memory = Some(value),
                "x-instance-custom-resource" => named.custom = Some(value),
                "x-instance-customresource" => older_custom = Some(value),
                "x-instance-label" => named.label = Some(value),
                "x-instance-session" => named.session = Some(value),
                "x-pool-label" => named.pools = Some(value),
                "x-invoke-type" => named.invoke_type = Some(value),
                "x-request-id" => request_id = Some(value),
                "x-trace-id" => trace_id = Some(value),
                _ => {}
            }
            if previous.is_some() {
                envelope.push(b',');
            }
            // Header names are tokens: nothing in them needs escaping.
            envelope.push(b'"');
            envelope.extend_from_slice(name.as_bytes());
            envelope.extend_from_slice(b"\":");
            write_value(&mut envelope, Some(value));
            previous = Some(name);
        }
        named.custom = named.custom.or(older_custom);
        Self {
            arrived: Instant::now(),
            trace: ids.of_call([trace_id, request_id]),
            headers: named,
            envelope,
        }
    }

    /// Finishes the envelope.
    pub(crate) fn into_envelope(self, parts: &Parts) -> Bytes {
        let Self {
            headers, envelope, ..
        } = self;
        let mut json = envelope;
        json.extend_from_slice(b"},\"method\":");
        write_text(&mut json, Some(parts.method.as_str()));
        json.extend_from_slice(b",\"path\":");
        write_text(&mut json, Some(parts.uri.path()));
        json.extend_from_slice(b",\"query\":");
        write_text(&mut json, parts.uri.query());
        json.extend_from_slice(b",\"content_type\":");
        write_value(&mut json, headers.content_type);
        json.extend_from_slice(b",\"traceparent\":");
        write_text(&mut json, headers.traceparent.and_then(trace_parent));
        json.push(b'}');
        Bytes::from(json)
    }
}

/// An upper bound for all but texts that need escaping.
fn envelope_size(parts: &Parts) -> usize {
    let headers: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + PER_HEADER_BYTES)
        .sum();
    // Content type and traceparent come twice.
    let repeated = 128;
    ENVELOPE_BYTES + headers + repeated + parts.uri.path().len() + query_length(parts)
}

fn query_length(parts: &Parts) -> usize {
    parts.uri.query().map_or(0, str::len)
}

/// Writes a header value: as the UTF-8 it is, else byte by byte as ISO 8859-1.
fn write_value(json: &mut Vec<u8>, value: Option<&HeaderValue>) {
    match value.map(|value| std::str::from_utf8(value.as_bytes()).map_err(|_| value)) {
        None => write_text(json, None),
        Some(Ok(text)) => write_text(json, Some(text)),
        Some(Err(value)) => {
            let text: String = value.as_bytes().iter().copied().map(char::from).collect();
            write_text(json, Some(&text));
        }
    }
}

fn write_text(json: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => serde_json::to_writer(json, text).expect("a vector takes every string"),
        None => json.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::{HeaderName, Request};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn envelope(parts: &Parts) -> Value {
        let head = Head::read(parts, &TraceIds::default());
        serde_json::from_slice(&head.into_envelope(parts)).unwrap()
    }

    fn parts(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_envelope_shows_the_request() {
        let parts = parts(
            Request::post("/serverless/v1/functions/f/invocations?a=1&b=%20")
                .header("Content-Type", "text/plain")
                .header("X-Twice", "one")
                .header("x-twice", "two")
                .header("X-Quote", "say \"hi\" \\")
                .header(
                    "traceparent",
                    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                ),
        );
        assert_eq!(
            envelope(&parts),
            json!({
                "headers": {
                    "content-type": "text/plain",
                    "x-twice": "one",
                    "x-quote": "say \"hi\" \\",
                    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                },
                "method": "POST",
                "path": "/serverless/v1/functions/f/invocations",
                "query": "a=1&b=%20",
                "content_type": "text/plain",
                "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            })
        );
    }

    #[test]
    fn a_malformed_traceparent_is_only_a_header() {
        let seen = envelope(&parts(Request::post("/").header("traceparent", "nonsense")));
        assert_eq!(seen["traceparent"], Value::Null);
        assert_eq!(seen["headers"]["traceparent"], "nonsense");
    }

    #[test]
    fn the_newer_name_of_the_custom_resources_wins() {
        let parts = parts(
            Request::post("/")
                .header("x-instance-custom-resource", "new")
                .header("x-instance-customresource", "old"),
        );
        let head = Head::read(&parts, &TraceIds::default());
        assert_eq!(head.headers.custom.unwrap(), "new");
    }

    proptest! {
        #[test]
        fn the_envelope_is_json_whatever_the_headers_hold(
            headers in proptest::collection::vec(
                ("[a-z][a-z0-9-]{0,8}", proptest::collection::vec(0x20_u8..=0xff, 0..24)),
                0..12,
            ),
            query in "[!-~&&[^#\"<>`{}|\\\\^]]{0,20}",
        ) {
            let mut request = Request::post(format!("/p?{query}"));
            let mut expected = BTreeMap::new();
            for (name, value) in headers {
                let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
                let text = match std::str::from_utf8(value.as_bytes()) {
                    Ok(text) => text.to_owned(),
                    Err(_) => value.as_bytes().iter().copied().map(char::from).collect(),
                };
                let name: HeaderName = name.parse().unwrap();
                expected.entry(name.as_str().to_owned()).or_insert(text);
                request = request.header(name, value);
            }
            let seen = envelope(&parts(request));
            prop_assert_eq!(&seen["headers"], &json!(expected));
            prop_assert_eq!(seen["query"].as_str(), Some(&*query));
        }
    }
}
