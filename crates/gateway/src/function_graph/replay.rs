//! An invocation of a function that is a web server: the event of an API gateway says which request
//! is to be made, and the answer becomes a response structure.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use bugle_instances::HttpBody;
use bugle_scheduler::Function;
use bytes::{Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, Uri};
use hyper::body::Body as _;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::gateway::Shared;
use crate::http_function;
use crate::payload::Payload;
use crate::structure::{self, Asked};

/// The largest answer of a function that is collected, in bytes (contract `container-image` 12).
const MOST: usize = 6 << 20;

/// Headers that the platform adds to an answer and that the function did not give.
const OURS: [&str; 2] = ["x-cff-request-id", "x-trace-id"];

pub(super) async fn run(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    function: Function,
    event: &[u8],
    id: &Arc<str>,
) -> Result<Bytes, Failure> {
    let response = replay(shared, connection, function, event, id).await?;
    let (mut head, body) = response.into_parts();
    for name in OURS {
        head.headers.remove(name);
    }
    let body = collect(body).await?;
    Ok(structure::wrap(head.status.as_u16(), &head.headers, &body))
}

/// Makes the request that the event describes. The answer is the server's own, and streams.
pub(crate) async fn replay(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    function: Function,
    event: &[u8],
    id: &Arc<str>,
) -> Result<Response<Payload>, Failure> {
    let Asked {
        method,
        target,
        headers,
        body,
    } = Asked::read(event).map_err(|why| Failure::bad_request(why).with_fss("FSS.0406"))?;
    let parts = parts(&method, &target, headers)?;
    http_function::refuse_platform_paths(parts.uri.path(), &function.spec())?;
    let body = HttpBody::Whole(body);
    let exchange = http_function::Exchange {
        shared,
        connection,
        function,
        trace: Arc::clone(id),
    };
    exchange.run(parts, body).await
}

fn parts(method: &str, target: &str, headers: Vec<(String, String)>) -> Result<Parts, Failure> {
    let malformed = |what: &str| {
        Failure::bad_request(format!(
            "body is not an API gateway event: {what} is malformed"
        ))
    };
    let mut request = http::Request::new(());
    *request.method_mut() =
        Method::from_bytes(method.as_bytes()).map_err(|_| malformed("httpMethod"))?;
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| malformed("path"))?;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed("headers"))?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| malformed("headers"))?;
        // The length is that of the body that is sent.
        if name != http::header::CONTENT_LENGTH {
            request.headers_mut().append(name, value);
        }
    }
    Ok(request.into_parts().0)
}

async fn collect(mut body: Payload) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| {
            let code = bugle_types::Code::FunctionException;
            Failure::new(code, "the function's answer did not come to its end")
        })?;
        if let Ok(data) = frame.into_data() {
            whole.extend_from_slice(&data);
        }
        if whole.len() > MOST {
            return Err(Failure::response_too_large(whole.len() as u64, MOST as u64));
        }
    }
    Ok(whole.freeze())
}
