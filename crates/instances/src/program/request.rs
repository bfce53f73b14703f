//! The requests that a program gets (`runtimes` contract 7).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bugle_types::ProgramRuntime;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use hyper::body::Body as _;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::wire::Message;
use crate::{CallRequest, HttpBody, HttpExchange, StartRequest};

const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-cff-request-id");
const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// Names that only the platform may set begin like this.
const RESERVED: [&str; 2] = ["x-cff-", "x-apig-"];

/// Headers that belong to a connection rather than to the request that came over it (RFC 9110,
/// 7.6.1), and those that this connection's own take the place of.
const OF_THE_CONNECTION: [HeaderName; 11] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// How the body of a call reaches the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it came.
    Raw,
    /// Inside the event of an API gateway.
    Event,
}

impl Form {
    /// What a function of this runtime with these variables gets.
    pub(crate) fn of(runtime: ProgramRuntime, variables: &BTreeMap<String, String>) -> Self {
        let wants_raw = variables
            .get("DISABLE_APIG_FORMAT")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"));
        match runtime {
            ProgramRuntime::Http if !wants_raw => Self::Event,
            ProgramRuntime::Http | ProgramRuntime::Posix => Self::Raw,
        }
    }
}

/// Makes the requests of one instance.
#[derive(Debug)]
pub(crate) struct Requests {
    form: Form,
    /// The path that is called.
    path: String,
    /// The path of the initializer.
    init: Option<String>,
    /// What every request has.
    headers: HeaderMap,
}

/// The parts of [`CallRequest::meta`].
#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope<'a> {
    #[serde(borrow)]
    headers: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    method: Cow<'a, str>,
    path: Cow<'a, str>,
    query: Option<Cow<'a, str>>,
}

impl Requests {
    /// # Errors
    ///
    /// A path or a name of the function that cannot be sent.
    pub(crate) fn new(
        request: &StartRequest,
        form: Form,
        address: SocketAddrV4,
    ) -> Result<Self, String> {
        let spec = &request.spec;
        let path = path_of(&spec.handler, "/invoke")?;
        let init = match &spec.initializer {
            Some(hook) => Some(path_of(&hook.handler, "/init")?),
            None => None,
        };
        let mut headers = HeaderMap::new();
        for (name, text) in [
            ("host", address.to_string()),
            ("x-cff-memory", request.resources.memory.0.to_string()),
            ("x-cff-timeout", spec.timeout.as_secs().to_string()),
            (
                "x-cff-func-version",
                spec.id.version.shown(spec.kind).to_owned(),
            ),
            ("x-cff-func-name", spec.id.name.short().to_owned()),
            ("x-cff-project-id", spec.id.tenant.to_string()),
            ("x-cff-package", spec.id.name.service().to_owned()),
            // There is one region; the reference sends the header without a value as well.
            ("x-cff-region", String::new()),
        ] {
            let value = HeaderValue::try_from(text)
                .map_err(|error| format!("the header {name} cannot be made: {error}"))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(Self {
            form,
            path,
            init,
            headers,
        })
    }

    /// The request that runs the initializer, if there is one.
    pub(crate) fn init(&self, request: &str) -> Option<Message> {
        let uri = self.init.as_ref()?.parse().ok()?;
        let mut headers = self.headers.clone();
        headers.insert(header::CONTENT_TYPE, JSON);
        identify(&mut headers, request);
        Some(message(uri, headers, Bytes::from_static(b"{}")))
    }

    /// The request that tells a program that its end is near.
    pub(crate) fn pre_stop(&self, request: &str) -> Message {
        let mut headers = self.headers.clone();
        headers.insert(header::CONTENT_TYPE, JSON);
        identify(&mut headers, request);
        let uri = Uri::from_static("/pre-stop");
        message(uri, headers, Bytes::from_static(b"{}"))
    }

    /// The same with this path for the initializer, or without one.
    pub(crate) fn with_initializer(self, path: Option<&str>) -> Self {
        Self {
            init: path.map(str::to_owned),
            ..self
        }
    }

    /// A request of the platform's own, which asks the program about itself.
    pub(crate) fn ask(&self, path: &'static str, request: &str) -> Message {
        let mut headers = self.headers.clone();
        identify(&mut headers, request);
        let mut message = message(Uri::from_static(path), headers, Bytes::new());
        *message.method_mut() = Method::GET;
        message
    }

    /// The request of a call.
    pub(crate) fn call(&self, call: &CallRequest) -> Message {
        // The gateway writes it; without one there is only the body.
        let envelope: Envelope<'_> = serde_json::from_slice(&call.meta).unwrap_or_default();
        let mut headers = self.headers.clone();
        match self.form {
            Form::Raw => {
                copy_headers(&envelope.headers, &mut headers);
                headers.entry(header::CONTENT_TYPE).or_insert(JSON);
            }
            Form::Event => {
                for name in ["traceparent", "tracestate"] {
                    copy_header(&envelope.headers, name, &mut headers);
                }
                headers.insert(header::CONTENT_TYPE, JSON);
            }
        }
        identify(&mut headers, &call.request);
        match self.form {
            Form::Raw => message(
                self.uri(envelope.query.as_deref()),
                headers,
                call.body.clone(),
            ),
            Form::Event => message(self.uri(None), headers, event(call, &envelope)),
        }
    }

    /// The request of a caller of its own, with what every request has.
    pub(crate) fn exchange(&self, exchange: HttpExchange) -> Message {
        let HttpExchange {
            request,
            head,
            body,
        } = exchange;
        let length = body.size_hint().exact();
        let mut message = Request::from_parts(head, body);
        let headers = message.headers_mut();
        let upgrade = leave_connection(headers);
        if length.is_none() {
            headers.remove(header::CONTENT_LENGTH);
        }
        for (name, value) in &self.headers {
            // The caller's host is the one that the server's links must name.
            if name != header::HOST || !headers.contains_key(header::HOST) {
                headers.insert(name, value.clone());
            }
        }
        // Each header costs a server time; the trace id would be this one again.
        headers.remove(TRACE_ID);
        if let Ok(id) = HeaderValue::from_str(&request) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(protocol) = upgrade {
            headers.insert(header::CONNECTION, UPGRADE);
            headers.insert(header::UPGRADE, protocol);
        }
        message
    }

    fn uri(&self, query: Option<&str>) -> Uri {
        let with_query = query.and_then(|query| format!("{}?{query}", self.path).parse().ok());
        with_query
            .or_else(|| self.path.parse().ok())
            .unwrap_or_else(|| Uri::from_static("/invoke"))
    }
}

/// The path that a handler names, or the default.
fn path_of(handler: &str, default: &str) -> Result<String, String> {
    if !handler.starts_with('/') {
        return Ok(default.to_owned());
    }
    match handler.parse::<Uri>() {
        Ok(_) => Ok(handler.to_owned()),
        Err(error) => Err(format!("the handler {handler:?} is no path: {error}")),
    }
}

fn message(uri: Uri, headers: HeaderMap, body: Bytes) -> Message {
    let mut message = Request::new(HttpBody::Whole(body));
    *message.method_mut() = Method::POST;
    *message.uri_mut() = uri;
    *message.headers_mut() = headers;
    message
}

fn identify(headers: &mut HeaderMap, request: &str) {
    if let Ok(id) = HeaderValue::from_str(request) {
        headers.insert(REQUEST_ID, id.clone());
        headers.insert(TRACE_ID, id);
    }
}

/// Takes out what is about the caller's connection and what only the platform sets. Gives back the
/// protocol that the caller wants to change to, if it is one that passes.
fn leave_connection(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers
        .get(header::UPGRADE)
        // To pass another one on (`h2c`) would be to lose sight of the requests that follow.
        .filter(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
        .filter(|_| has_option(headers, "upgrade"))
        .cloned();
    let mut leaving: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            RESERVED
                .iter()
                .any(|prefix| name.as_str().starts_with(prefix))
        })
        .cloned()
        .collect();
    leaving.extend(named_by_connection(headers));
    for name in OF_THE_CONNECTION
        .iter()
        .filter(|name| **name != header::HOST)
    {
        // A body of the same length has the same header; one that is chunked has none.
        if *name != header::CONTENT_LENGTH {
            headers.remove(name);
        }
    }
    for name in leaving {
        headers.remove(name);
    }
    upgrade
}

/// The headers that `Connection` names as its own.
pub(crate) fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    options(headers)
        // What frames the message is not a caller's to take away.
        .filter(|name| !name.eq_ignore_ascii_case(header::CONTENT_LENGTH.as_str()))
        .filter_map(|name| name.parse().ok())
        .collect()
}

fn has_option(headers: &HeaderMap, wanted: &str) -> bool {
    options(headers).any(|option| option.eq_ignore_ascii_case(wanted))
}

fn options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
}

/// Adds the caller's headers, without those that are about its connection and those that only the
/// platform sets.
fn copy_headers(from: &BTreeMap<Cow<'_, str>, Cow<'_, str>>, to: &mut HeaderMap) {
    let connection = from.get("connection").map_or("", |value| value);
    for name in from.keys() {
        let is_reserved = RESERVED.iter().any(|prefix| name.starts_with(prefix));
        let is_named = connection
            .split(',')
            .any(|named| named.trim().eq_ignore_ascii_case(name));
        if !is_reserved && !is_named {
            copy_header(from, name, to);
        }
    }
}

fn copy_header(from: &BTreeMap<Cow<'_, str>, Cow<'_, str>>, name: &str, to: &mut HeaderMap) {
    let Some(value) = from.get(name) else { return };
    let parsed = (
        HeaderName::from_bytes(name.as_bytes()),
        HeaderValue::from_bytes(value.as_bytes()),
    );
    if let (Ok(name), Ok(value)) = parsed
        && !OF_THE_CONNECTION.contains(&name)
    {
        to.insert(name, value);
    }
}

/// The event of an API gateway.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    http_method: &'a str,
    path: &'a str,
    body: Cow<'a, str>,
    is_base64_encoded: bool,
    headers: &'a BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    path_parameters: BTreeMap<&'a str, &'a str>,
    query_string_parameters: BTreeMap<String, Parameter>,
    request_context: Context<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    request_id: &'a str,
    stage: &'static str,
}

/// The value of a parameter; a list when it is repeated.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Parameter {
    One(String),
    Several(Vec<String>),
}

fn event(call: &CallRequest, envelope: &Envelope<'_>) -> Bytes {
    let (body, is_base64_encoded) = match std::str::from_utf8(&call.body) {
        Ok(text) => (Cow::Borrowed(text), false),
        Err(_) => (Cow::Owned(BASE64.encode(&call.body)), true),
    };
    let event = Event {
        http_method: &envelope.method,
        path: &envelope.path,
        body,
        is_base64_encoded,
        headers: &envelope.headers,
        path_parameters: BTreeMap::new(),
        query_string_parameters: parameters(envelope.query.as_deref().unwrap_or_default()),
        request_context: Context {
            request_id: &call.request,
            stage: "RELEASE",
        },
    };
    Bytes::from(serde_json::to_vec(&event).expect("texts and maps of texts are always JSON"))
}

fn parameters(query: &str) -> BTreeMap<String, Parameter> {
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    let mut all: BTreeMap<String, Parameter> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name), decoded(value));
        match all.get_mut(&name) {
            None => {
                all.insert(name, Parameter::One(value));
            }
            Some(Parameter::Several(values)) => values.push(value),
            Some(one) => {
                let Parameter::One(first) = one else { continue };
                *one = Parameter::Several(vec![std::mem::take(first), value]);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    fn requests(form: Form, path: &str) -> Requests {
        let headers = [("host", "127.0.0.1:1"), ("x-cff-memory", "128")];
        let headers = headers.map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        Requests {
            form,
            path: path.to_owned(),
            init: None,
            headers: headers.into_iter().collect(),
        }
    }

    fn call(meta: &Value, body: &'static [u8]) -> CallRequest {
        CallRequest {
            request: "r1".into(),
            body: Bytes::from_static(body),
            meta: meta.to_string().into(),
            json: true,
            timeout: Duration::from_secs(1),
            stream: None,
        }
    }

    fn body_of(message: Message) -> Bytes {
        let collected = futures_util::FutureExt::now_or_never(message.into_body().collect());
        collected.unwrap().unwrap().to_bytes()
    }

    #[test]
    fn headers_of_the_callers_connection_and_forged_ones_stay_behind() {
        let meta = json!({"headers": {
            "accept": "text/csv", "connection": "close, X-Hop", "x-hop": "1", "te": "trailers",
            "transfer-encoding": "chunked", "content-length": "99", "host": "public",
            "x-cff-memory": "9999", "x-apig-source-ip": "1.2.3.4", "x-trace-id": "other",
            "x-non-ascii": "ü",
        }});
        let message = requests(Form::Raw, "/invoke").call(&call(&meta, b"{}"));
        let mut seen: Vec<_> = message
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        seen.sort();
        let expected = [
            "accept: text/csv",
            "content-type: application/json",
            "host: 127.0.0.1:1",
            "x-cff-memory: 128",
            "x-cff-request-id: r1",
            "x-non-ascii: ü",
            "x-trace-id: r1",
        ];
        assert_eq!(seen, expected);
    }

    fn exchanged(request: http::request::Builder) -> Vec<String> {
        let (head, ()) = request.body(()).unwrap().into_parts();
        let exchange = HttpExchange {
            request: "r1".into(),
            head,
            body: HttpBody::Whole(Bytes::from_static(b"abc")),
        };
        let message = requests(Form::Raw, "/invoke").exchange(exchange);
        let mut seen: Vec<_> = message
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        seen.sort();
        seen
    }

    #[test]
    fn a_callers_own_request_passes_without_what_is_its_connections_or_forged() {
        let request = Request::put("/a?b=1")
            .header("host", "shop.example")
            .header("connection", "close, X-Hop, Content-Length")
            .header("x-hop", "1")
            .header("te", "trailers")
            .header("expect", "100-continue")
            .header("upgrade", "h2c")
            .header("content-length", "3")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("X-CFF-Memory", "9999")
            .header("X-Cff-Anything", "1")
            .header("X-APIG-Source-Ip", "1.2.3.4");
        let expected = [
            "content-length: 3",
            "cookie: a=1",
            "cookie: b=2",
            "host: shop.example",
            "x-cff-memory: 128",
            "x-cff-request-id: r1",
        ];
        assert_eq!(exchanged(request), expected);
    }

    #[test]
    fn of_upgrades_only_that_to_a_websocket_passes() {
        for (protocol, connection, passes) in [
            ("websocket", "Upgrade", true),
            ("WebSocket", "keep-alive, upgrade", true),
            ("websocket", "keep-alive", false),
            ("h2c", "Upgrade, HTTP2-Settings", false),
            ("websocket, h2c", "Upgrade", false),
        ] {
            let request = Request::get("/")
                .header("connection", connection)
                .header("upgrade", protocol);
            let seen = exchanged(request);
            assert_eq!(
                seen.contains(&format!("upgrade: {protocol}")),
                passes,
                "{protocol} {connection}"
            );
            assert_eq!(seen.contains(&"connection: upgrade".to_owned()), passes);
        }
    }

    #[test]
    fn a_body_that_is_no_text_is_base64_in_an_event() {
        let message = requests(Form::Event, "/").call(&call(&json!({"query": null}), b"\xff\x00"));
        let event: Value = serde_json::from_slice(&body_of(message)).unwrap();
        assert_eq!(event["body"], "/wA=");
        assert_eq!(event["isBase64Encoded"], true);
        assert_eq!(event["queryStringParameters"], json!({}));
    }

    #[test]
    fn a_body_is_sent_as_it_came() {
        let body = b"{ \"a\" :1}\xff";
        let meta = json!({"query": "a=%20&b"});
        let message = requests(Form::Raw, "/v1/score").call(&call(&meta, body));
        assert_eq!(message.uri(), "/v1/score?a=%20&b");
        assert_eq!(body_of(message), &body[..]);
    }

    #[test]
    fn repeated_parameters_are_lists() {
        let one = |text: &str| Parameter::One(text.to_owned());
        let several = |texts: [&str; 2]| Parameter::Several(texts.map(str::to_owned).into());
        let expected = [
            ("a", several(["1", "x y"])),
            ("b", one("")),
            ("ü", one("=%")),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(
            parameters("a=1&b&%C3%BC==%25&&a=x+y"),
            BTreeMap::from(expected)
        );
    }

    #[test]
    fn only_a_handler_that_begins_with_a_slash_is_a_path() {
        for (handler, path) in [
            ("", "/invoke"),
            ("bootstrap", "/invoke"),
            ("/", "/"),
            ("/v1/score", "/v1/score"),
        ] {
            assert_eq!(path_of(handler, "/invoke").unwrap(), path);
        }
        assert!(path_of("/a b", "/invoke").is_err());
    }
}
