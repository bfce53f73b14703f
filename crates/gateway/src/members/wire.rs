//! How a request travels from one gateway to another: as it came, but for what belongs to the
//! connection it came on, which goes along in headers of our own. One that asks for another protocol
//! on its connection travels as an extended CONNECT, and its answer in one for that.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, Version, response};
use hyper::ext::Protocol;

/// How much the sender had seen of who comes and goes; says that a request was passed on.
pub(super) const SEEN: HeaderName = HeaderName::from_static("bugle-seen");
/// The address of the client.
const PEER: HeaderName = HeaderName::from_static("bugle-peer");
/// The client's `Host`.
const HOST: HeaderName = HeaderName::from_static("bugle-host");
/// The host of a request line in absolute form.
const AUTHORITY: HeaderName = HeaderName::from_static("bugle-authority");
/// In an answer: the function is another's, as one sees who has seen so much.
pub(super) const NOT_MINE: HeaderName = HeaderName::from_static("bugle-not-mine");
/// The protocol that a connection is to have, or has from now on.
const PROTOCOL: HeaderName = HeaderName::from_static("bugle-protocol");
/// The status of an answer to a request for another protocol. Its status on the way says whether the
/// stream has become the connection.
const STATUS: HeaderName = HeaderName::from_static("bugle-status");

/// What is said of one connection (RFC 9110, 7.6.1), and what only we may say.
const DROPPED: [HeaderName; 13] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    SEEN,
    PEER,
    HOST,
    AUTHORITY,
    NOT_MINE,
    PROTOCOL,
    STATUS,
];

/// Takes out what does not travel.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&DROPPED) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    headers.remove("http2-settings");
}

/// Makes a client's request one to another gateway.
pub(super) fn pack(parts: &mut Parts, peer: Option<&HeaderValue>, seen: u64) {
    let host = parts.headers.remove(header::HOST);
    let authority = parts
        .uri
        .authority()
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    strip(&mut parts.headers);
    let told = [(PEER, peer.cloned()), (HOST, host), (AUTHORITY, authority)];
    for (name, value) in told {
        if let Some(value) = value {
            parts.headers.insert(name, value);
        }
    }
    parts.headers.insert(SEEN, HeaderValue::from(seen));
    let path = parts.uri.path_and_query().cloned();
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTPS);
    uri.authority = Some(Authority::from_static("gateway.bugle.internal"));
    uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
    parts.version = Version::HTTP_2;
}

/// The same for a GET that asks for another protocol on its connection.
pub(super) fn pack_upgrade(parts: &mut Parts, peer: Option<&HeaderValue>, seen: u64) {
    let protocol = parts.headers.remove(header::UPGRADE);
    pack(parts, peer, seen);
    if let Some(protocol) = protocol {
        parts.headers.insert(PROTOCOL, protocol);
    }
    parts.method = Method::CONNECT;
    let between_gateways = Protocol::from_static("bugle-upgrade");
    parts.extensions.insert(between_gateways);
}

/// Makes it the client's request again. The address of the client, and how much the sender had seen.
pub(super) fn unpack(parts: &mut Parts) -> (Option<HeaderValue>, u64) {
    let seen = parts.headers.remove(SEEN);
    let seen = seen.and_then(|seen| seen.to_str().ok()?.parse().ok());
    let peer = parts.headers.remove(PEER);
    if let Some(host) = parts.headers.remove(HOST) {
        parts.headers.insert(header::HOST, host);
    }
    if let Some(protocol) = parts.headers.remove(PROTOCOL) {
        parts.method = Method::GET;
        become_upgrade(&mut parts.headers, protocol);
    }
    let authority = parts.headers.remove(AUTHORITY);
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = parts.uri.path_and_query().cloned();
    if let Some(Ok(authority)) = authority.map(|text| Authority::try_from(text.as_bytes())) {
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(authority);
    }
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
    parts.version = Version::HTTP_11;
    (peer, seen.unwrap_or(0))
}

/// Makes the answer to a request for another protocol one to a CONNECT.
pub(super) fn pack_answer(status: &mut StatusCode, headers: &mut HeaderMap) {
    let protocol = headers.remove(header::UPGRADE);
    let agreed = *status == StatusCode::SWITCHING_PROTOCOLS;
    headers.insert(STATUS, HeaderValue::from(status.as_u16()));
    if let Some(protocol) = protocol {
        headers.insert(PROTOCOL, protocol);
    }
    headers.remove(header::CONNECTION);
    if agreed {
        headers.remove(header::CONTENT_LENGTH);
        *status = StatusCode::OK;
    } else if status.is_success() {
        // A success would make the stream the connection.
        *status = StatusCode::BAD_GATEWAY;
    }
}

/// Makes an answer one to the client's request again.
pub(super) fn unpack_answer(head: &mut response::Parts) {
    let status = head.headers.remove(STATUS);
    let protocol = head.headers.remove(PROTOCOL);
    strip(&mut head.headers);
    head.version = Version::HTTP_11;
    let status = status.and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok());
    let Some(status) = status else { return };
    head.status = status;
    // A server may also name what it would agree to (RFC 9110, 7.8).
    if let Some(protocol) = protocol {
        become_upgrade(&mut head.headers, protocol);
    }
}

fn become_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::UPGRADE, protocol);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    fn travel(request: Request<()>) -> (Parts, Option<HeaderValue>, u64) {
        let mut parts = request.into_parts().0;
        let peer = HeaderValue::from_static("192.0.2.1");
        pack(&mut parts, Some(&peer), 7);
        assert_eq!(parts.uri.scheme(), Some(&Scheme::HTTPS));
        let (peer, seen) = unpack(&mut parts);
        (parts, peer, seen)
    }

    #[test]
    fn a_request_arrives_as_it_was_sent() {
        let request = Request::post("/invocations/default/svc/hello?a=1")
            .header("host", "functions.example:8888")
            .header("x-mine", "1")
            .body(())
            .unwrap();
        let (parts, peer, seen) = travel(request);
        assert_eq!(parts.uri, "/invocations/default/svc/hello?a=1");
        assert_eq!(parts.headers["host"], "functions.example:8888");
        assert_eq!(parts.headers["x-mine"], "1");
        assert_eq!(parts.headers.len(), 2);
        assert_eq!(parts.version, Version::HTTP_11);
        assert_eq!((peer.unwrap().to_str().unwrap(), seen), ("192.0.2.1", 7));
        let absolute = Request::get("http://f.s.t.functions.example/path").body(());
        let (parts, ..) = travel(absolute.unwrap());
        assert_eq!(parts.uri, "http://f.s.t.functions.example/path");
    }

    #[test]
    fn a_wish_for_another_protocol_arrives_as_it_was_sent() {
        let request = Request::get("/functions/t/svc/f/socket")
            .header("upgrade", "websocket")
            .header("connection", "keep-alive, Upgrade")
            .header("sec-websocket-version", "13")
            .body(())
            .unwrap();
        let mut parts = request.into_parts().0;
        pack_upgrade(&mut parts, None, 1);
        assert_eq!(parts.method, Method::CONNECT);
        assert!(!parts.headers.contains_key("upgrade"));
        let _ = unpack(&mut parts);
        assert_eq!(parts.method, Method::GET);
        assert_eq!(parts.headers["upgrade"], "websocket");
        assert_eq!(parts.headers["connection"], "upgrade");
        assert_eq!(parts.headers["sec-websocket-version"], "13");
        assert_eq!(parts.headers.len(), 3);
    }

    #[test]
    fn an_answer_opens_the_stream_only_if_the_server_agreed() {
        for (status, on_the_way) in [(101, 200), (200, 502), (204, 502), (404, 404), (426, 426)] {
            let mut head = Response::builder()
                .status(status)
                .header("upgrade", "websocket")
                .header("x-mine", "1")
                .body(())
                .unwrap()
                .into_parts()
                .0;
            pack_answer(&mut head.status, &mut head.headers);
            assert_eq!(head.status, on_the_way, "{status}");
            assert!(!head.headers.contains_key("upgrade"));
            unpack_answer(&mut head);
            assert_eq!(head.status, status);
            assert_eq!(head.headers["upgrade"], "websocket");
            assert_eq!(head.headers["x-mine"], "1");
            assert_eq!(head.headers.len(), 3, "with the connection's");
        }
    }

    #[test]
    fn a_client_cannot_say_what_only_gateways_may() {
        let request = Request::post("/invocations/default/svc/hello")
            .header("bugle-peer", "127.0.0.1")
            .header("bugle-seen", "999")
            .header("bugle-host", "other")
            .header("bugle-not-mine", "1")
            .header("connection", "keep-alive, x-hop")
            .header("x-hop", "1")
            .body(())
            .unwrap();
        let (parts, peer, seen) = travel(request);
        assert!(parts.headers.is_empty(), "{:?}", parts.headers);
        assert_eq!((peer.unwrap().to_str().unwrap(), seen), ("192.0.2.1", 7));
    }
}
