//! The bytes of a request.

use std::fmt::Display;

use bytes::Bytes;
use http::{HeaderMap, Method};

/// A POST with a JSON body, or a GET without one.
pub fn request(host: impl Display, path: &str, body: Option<&str>) -> Bytes {
    let mut headers = HeaderMap::new();
    if body.is_some() {
        let json = http::HeaderValue::from_static("application/json");
        headers.insert(http::header::CONTENT_TYPE, json);
    }
    let method = if body.is_some() {
        Method::POST
    } else {
        Method::GET
    };
    with_headers(host, &method, path, &headers, body.unwrap_or("").as_bytes())
}

/// A request with these headers; `host` and the length of the body are added.
pub fn with_headers(
    host: impl Display,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Bytes {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    if !body.is_empty() || *method != Method::GET {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_how_long_its_body_is() {
        assert_eq!(
            request("h:1", "/x", Some("{}")).as_ref(),
            b"POST /x HTTP/1.1\r\nhost: h:1\r\ncontent-type: application/json\r\n\
              content-length: 2\r\n\r\n{}"
        );
        assert_eq!(
            request("h:1", "/x", None).as_ref(),
            b"GET /x HTTP/1.1\r\nhost: h:1\r\n\r\n"
        );
    }
}
