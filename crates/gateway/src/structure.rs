//! The shapes of an API gateway: the event that a request becomes, and the response structure that
//! becomes an answer (contract `container-image` 6.1, 7).

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::HeaderMap;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Map, Value};

/// One text, or several under one name.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

/// Texts by name.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
struct ByName(BTreeMap<String, Texts>);

impl ByName {
    fn add(&mut self, name: String, text: String) {
        match self.0.get_mut(&name) {
            None => {
                self.0.insert(name, Texts::One(text));
            }
            Some(Texts::Several(texts)) => texts.push(text),
            Some(one) => {
                if let Texts::One(first) = one {
                    *one = Texts::Several(vec![std::mem::take(first), text]);
                }
            }
        }
    }

    fn of_query(query: &str) -> Self {
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        let mut all = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            all.add(decoded(name), decoded(value));
        }
        all
    }

    fn of_headers(headers: &HeaderMap) -> Self {
        let mut all = Self::default();
        for (name, value) in headers {
            let text = match std::str::from_utf8(value.as_bytes()) {
                Ok(text) => text.to_owned(),
                // A header that is no UTF-8 is ISO 8859-1.
                Err(_) => value.as_bytes().iter().copied().map(char::from).collect(),
            };
            all.add(name.as_str().to_owned(), text);
        }
        all
    }
}

/// A request as an API gateway sees it.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
    pub(crate) id: &'a str,
    pub(crate) source: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    body: String,
    is_base64_encoded: bool,
    http_method: &'a str,
    path: &'a str,
    path_parameters: BTreeMap<&'a str, &'a str>,
    query_string_parameters: ByName,
    headers: ByName,
    request_context: Context<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    api_id: &'static str,
    request_id: &'a str,
    stage: &'static str,
    source_ip: &'a str,
}

impl Request<'_> {
    /// The event that an event function gets. The body is always base64, as a function that must
    /// decode it expects.
    pub(crate) fn to_event(&self) -> Bytes {
        let event = Event {
            body: BASE64.encode(self.body),
            is_base64_encoded: true,
            http_method: self.method,
            path: self.path,
            // What a catch-all path matched has no name.
            path_parameters: BTreeMap::from([("", self.path.trim_start_matches('/'))]),
            query_string_parameters: ByName::of_query(self.query),
            headers: ByName::of_headers(self.headers),
            request_context: Context {
                api_id: "bugle",
                request_id: self.id,
                stage: "RELEASE",
                source_ip: self.source,
            },
        };
        serde_json::to_vec(&event)
            .expect("texts and maps of texts are always JSON")
            .into()
    }
}

/// A response structure that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Structure {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

/// Why a function's result is no response structure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("The response body is invalid because it does not contain a status code.")]
    NoStatus,
    #[error("The response body is invalid because its body is not base64 as isBase64Encoded says.")]
    NoBase64,
    #[error(
        "The response body is invalid because {0} is not what the response structure has there."
    )]
    Field(&'static str),
}

impl Structure {
    /// Reads a function's result. It may be the structure, or a JSON string that holds one.
    pub(crate) fn read(result: &[u8]) -> Result<Self, Malformed> {
        let mut value: Value = serde_json::from_slice(result).map_err(|_| Malformed::NoStatus)?;
        if let Value::String(text) = &value {
            value = serde_json::from_str(text).map_err(|_| Malformed::NoStatus)?;
        }
        let Value::Object(mut fields) = value else {
            return Err(Malformed::NoStatus);
        };
        let status = fields
            .get("statusCode")
            .and_then(Value::as_u64)
            .and_then(|status| u16::try_from(status).ok())
            .filter(|status| (100..600).contains(status))
            .ok_or(Malformed::NoStatus)?;
        let is_base64 = match fields.get("isBase64Encoded") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(is)) => *is,
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => true,
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => false,
            Some(_) => return Err(Malformed::Field("isBase64Encoded")),
        };
        let body = match fields.remove("body") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        };
        let body = if is_base64 {
            BASE64.decode(body).map_err(|_| Malformed::NoBase64)?.into()
        } else {
            Bytes::from(body)
        };
        Ok(Self {
            status,
            headers: headers(fields.remove("headers"))?,
            body,
        })
    }
}

fn headers(value: Option<Value>) -> Result<Vec<(String, String)>, Malformed> {
    let fields = match value {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err(Malformed::Field("headers")),
    };
    let mut all = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            let text = match value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(is) => is.to_string(),
                Value::Null => continue,
                _ => return Err(Malformed::Field("headers")),
            };
            all.push((name.clone(), text));
        }
    }
    Ok(all)
}

/// A request that an event asks to be made: how an HTTP function is called through an invocation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Asked {
    /// Reads the event of an API gateway; every field may be missing.
    pub(crate) fn read(event: &[u8]) -> Result<Self, String> {
        let not_an_event = |why: &str| format!("body is not an API gateway event: {why}");
        let value: Value =
            serde_json::from_slice(event).map_err(|error| not_an_event(&error.to_string()))?;
        let Value::Object(mut fields) = value else {
            return Err(not_an_event("it is no object"));
        };
        let mut text = |name: &str, default: &str| match fields.remove(name) {
            None | Some(Value::Null) => Ok(default.to_owned()),
            Some(Value::String(text)) if text.is_empty() => Ok(default.to_owned()),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(not_an_event(&format!("{name} is no text"))),
        };
        let method = text("httpMethod", "POST")?;
        let path = text("path", "/")?;
        let body = text("body", "")?;
        let body = match fields.get("isBase64Encoded") {
            Some(Value::Bool(true)) => BASE64
                .decode(body)
                .map_err(|_| not_an_event("its body is not base64 as isBase64Encoded says"))?
                .into(),
            _ => Bytes::from(body),
        };
        let pairs = |value| headers(value).map_err(|error| not_an_event(&error.to_string()));
        let query: Vec<String> = pairs(fields.remove("queryStringParameters"))?
            .into_iter()
            .map(|(name, value)| format!("{}={}", encoded(&name), encoded(&value)))
            .collect();
        let slash = if path.starts_with('/') { "" } else { "/" };
        let mark = if query.is_empty() { "" } else { "?" };
        Ok(Self {
            method,
            target: format!("{slash}{path}{mark}{}", query.join("&")),
            headers: pairs(fields.remove("headers"))?,
            body,
        })
    }
}

fn encoded(text: &str) -> Cow<'_, str> {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).into()
}

/// An answer of an HTTP function as the response structure, for who called it through an invocation.
pub(crate) fn wrap(status: u16, headers: &HeaderMap, body: &[u8]) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        status_code: u16,
        headers: ByName,
        body: String,
        is_base64_encoded: bool,
    }
    let wire = Wire {
        status_code: status,
        headers: ByName::of_headers(headers),
        body: BASE64.encode(body),
        is_base64_encoded: true,
    };
    serde_json::to_vec(&wire)
        .expect("texts and maps of texts are always JSON")
        .into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_becomes_the_event_of_a_gateway() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "a=1".parse().unwrap());
        headers.append("cookie", "b=2".parse().unwrap());
        headers.append("accept", "*/*".parse().unwrap());
        let event = Request {
            method: "PUT",
            path: "/shop/7",
            query: "a=1&b=2&b=x+y",
            headers: &headers,
            body: b"\xff\x00",
            id: "r1",
            source: "203.0.113.9",
        }
        .to_event();
        let event: Value = serde_json::from_slice(&event).unwrap();
        assert_eq!(
            event,
            json!({
                "body": "/wA=", "isBase64Encoded": true, "httpMethod": "PUT", "path": "/shop/7",
                "pathParameters": {"": "shop/7"},
                "queryStringParameters": {"a": "1", "b": ["2", "x y"]},
                "headers": {"cookie": ["a=1", "b=2"], "accept": "*/*"},
                "requestContext": {"apiId": "bugle", "requestId": "r1", "stage": "RELEASE",
                    "sourceIp": "203.0.113.9"},
            })
        );
    }

    fn read(value: &Value) -> Result<Structure, Malformed> {
        Structure::read(value.to_string().as_bytes())
    }

    fn structure(status: u16, headers: &[(&str, &str)], body: &'static [u8]) -> Structure {
        Structure {
            status,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn a_structure_is_read_leniently() {
        assert_eq!(
            read(&json!({"statusCode": 204})),
            Ok(structure(204, &[], b""))
        );
        assert_eq!(
            read(
                &json!({"statusCode": 200, "isBase64Encoded": "true", "body": "/wA=",
                "headers": {"set-cookie": ["a", "b"], "x": 1}})
            ),
            Ok(structure(
                200,
                &[("set-cookie", "a"), ("set-cookie", "b"), ("x", "1")],
                b"\xff\x00"
            ))
        );
        assert_eq!(
            read(&json!({"statusCode": 200, "body": {"a": 1}, "headers": null})),
            Ok(structure(200, &[], b"{\"a\":1}"))
        );
        let inside = json!({"statusCode": 201, "body": "x"}).to_string();
        assert_eq!(read(&json!(inside)), Ok(structure(201, &[], b"x")));
    }

    #[test]
    fn what_is_no_structure_is_told() {
        for value in [
            json!("plain"),
            json!(1),
            json!({}),
            json!({"statusCode": "200"}),
            json!({"statusCode": 99}),
            json!({"statusCode": 600}),
        ] {
            assert_eq!(read(&value), Err(Malformed::NoStatus), "{value}");
        }
        assert_eq!(Structure::read(b"Hello invoke\n"), Err(Malformed::NoStatus));
        let no_base64 = json!({"statusCode": 200, "isBase64Encoded": true, "body": "{"});
        assert_eq!(read(&no_base64), Err(Malformed::NoBase64));
        let headers = json!({"statusCode": 200, "headers": []});
        assert_eq!(read(&headers), Err(Malformed::Field("headers")));
    }

    #[test]
    fn an_event_is_read_as_the_request_that_it_asks_for() {
        let event = json!({"httpMethod": "GET", "path": "/a b", "body": "/wA=",
            "isBase64Encoded": true, "headers": {"x": ["1", "2"]},
            "queryStringParameters": {"q": ["ü", "&"], "e": ""}});
        let asked = Asked::read(event.to_string().as_bytes()).unwrap();
        assert_eq!(asked.method, "GET");
        assert!(asked.target.starts_with("/a b?"), "{}", asked.target);
        assert!(asked.target.contains("q=%C3%BC&q=%26"), "{}", asked.target);
        assert_eq!(asked.headers.len(), 2);
        assert_eq!(asked.body, &b"\xff\x00"[..]);

        let nothing = Asked::read(b"{\"body\":null}").unwrap();
        assert_eq!((&*nothing.method, &*nothing.target), ("POST", "/"));
        assert!(Asked::read(b"[]").is_err());
        assert!(Asked::read(b"{\"body\":\"{\",\"isBase64Encoded\":true}").is_err());
    }

    #[test]
    fn an_answer_is_wrapped_with_repeated_headers_and_all_bytes() {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", "a".parse().unwrap());
        headers.append("set-cookie", "b".parse().unwrap());
        let body: Vec<u8> = (0..=255).collect();
        let wrapped: Value = serde_json::from_slice(&wrap(418, &headers, &body)).unwrap();
        assert_eq!(wrapped["statusCode"], 418);
        assert_eq!(wrapped["headers"]["set-cookie"], json!(["a", "b"]));
        assert_eq!(wrapped["body"], BASE64.encode(body));
    }
}
