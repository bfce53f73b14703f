//! Heads of HTTP messages as fields: whatever a caller or a server sent as a header passes, also what
//! HTTP/2 would not carry.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, request, response};

use crate::parts::{Fields, Garbage, Writer};

fn put_headers(writer: &mut Writer, headers: &HeaderMap) {
    let count = u16::try_from(headers.len()).unwrap_or(u16::MAX);
    writer.0.put_u16_le(count);
    for (name, value) in headers.iter().take(usize::from(count)) {
        writer
            .piece(name.as_str().as_bytes())
            .piece(value.as_bytes());
    }
}

fn headers(fields: &mut Fields) -> Result<HeaderMap, Garbage> {
    let wrong = |_| Garbage("a header that is none");
    let count = fields.u16()?;
    let mut headers = HeaderMap::new();
    for _ in 0..count {
        let name = HeaderName::from_bytes(&fields.piece()?)
            .map_err(|_| Garbage("a header that is none"))?;
        let value = HeaderValue::from_maybe_shared(fields.piece()?).map_err(wrong)?;
        headers
            .try_append(name, value)
            .map_err(|_| Garbage("more headers than a message may have"))?;
    }
    Ok(headers)
}

/// The head of a caller's request.
pub(crate) fn request(trace: &str, head: &request::Parts) -> BytesMut {
    let mut writer = Writer::default();
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    writer
        .piece(trace.as_bytes())
        .piece(head.method.as_str().as_bytes())
        .piece(target.as_bytes());
    put_headers(&mut writer, &head.headers);
    writer.0
}

/// The head of a caller's request, and its trace id.
pub(crate) fn read_request(mut fields: Fields) -> Result<(Arc<str>, request::Parts), Garbage> {
    let trace: Arc<str> = fields.text()?.into();
    let method = Method::from_bytes(&fields.piece()?).map_err(|_| Garbage("no method"))?;
    let target = Uri::from_maybe_shared(fields.piece()?).map_err(|_| Garbage("no target"))?;
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method;
    parts.uri = target;
    parts.headers = headers(&mut fields)?;
    Ok((trace, parts))
}

/// The head of a server's answer.
pub(crate) fn response(head: &response::Parts) -> BytesMut {
    let mut writer = Writer::default();
    writer.0.put_u16_le(head.status.as_u16());
    put_headers(&mut writer, &head.headers);
    writer.0
}

/// The head of a server's answer.
pub(crate) fn read_response(payload: Bytes) -> Result<response::Parts, Garbage> {
    let mut fields = Fields(payload);
    let status = StatusCode::from_u16(fields.u16()?).map_err(|_| Garbage("no status"))?;
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.headers = headers(&mut fields)?;
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_out_as_they_went_in() {
        let request = http::Request::builder()
            .method("PROPFIND")
            .uri("/a?b=c")
            .header("connection", "upgrade")
            .header("x", "1")
            .header("x", "2");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let bytes = super::request("trace", &head).freeze();
        let (trace, read) = read_request(Fields(bytes)).unwrap();
        assert_eq!(&*trace, "trace");
        assert_eq!((&read.method, &read.uri), (&head.method, &head.uri));
        assert_eq!(read.headers, head.headers);
        let (answer, ()) = http::Response::builder()
            .status(299)
            .header("a", "b")
            .body(())
            .unwrap()
            .into_parts();
        let read = read_response(response(&answer).freeze()).unwrap();
        assert_eq!((read.status, read.headers), (answer.status, answer.headers));
        assert!(read_response(Bytes::from_static(b"\xff\xff\0\0")).is_err());
    }
}
