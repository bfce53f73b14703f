//! Runs one invocation to its end, for a caller who waits and for one who does not.

use std::sync::Arc;
use std::time::Duration;

use bugle_scheduler::Function;
use bugle_types::Code;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;

use super::replay;
use crate::answer::{JSON, Served, TRACE_ID};
use crate::body;
use crate::call::{Answer, Call, Ending, Holder, Prepared};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::gateway::Shared;
use crate::head::Head;
use crate::structure;

/// How an invocation ended.
#[derive(Debug)]
pub(crate) struct Invoked {
    /// The result as text, or why there is none.
    pub(crate) result: Result<Bytes, Failure>,
    /// How long the function ran.
    pub(crate) run: Duration,
    /// The most memory the instance has used, in bytes; 0 when unknown.
    pub(crate) peak_memory: u64,
    /// What the function may use.
    pub(crate) memory_mib: u64,
    /// The end of what it wrote.
    pub(crate) log: Vec<u8>,
}

impl Invoked {
    fn refused(failure: Failure, memory_mib: u64) -> Self {
        Self {
            result: Err(failure),
            run: Duration::ZERO,
            peak_memory: 0,
            memory_mib,
            log: Vec::new(),
        }
    }
}

/// Runs the invocation.
pub(crate) async fn invoke(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    function: Function,
    event: Bytes,
    (id, holder): (&Arc<str>, Option<Holder>),
) -> Invoked {
    let spec = function.spec();
    let memory_mib = spec.resources.memory.0;
    if spec.runtime.serves_http() {
        let began = tokio::time::Instant::now();
        let result = replay::run(shared, connection, function, &event, id).await;
        return Invoked {
            run: began.elapsed(),
            ..Invoked::from_result(result, memory_mib)
        };
    }
    let inner = request(id);
    let head = Head::read(&inner, &shared.ids);
    let mut prepared = match body::reserve(event, &shared.budget)
        .and_then(|body| Prepared::with(shared, &inner, (function, &spec), head, body))
    {
        Ok(prepared) => prepared,
        Err(failure) => return Invoked::refused(failure, memory_mib),
    };
    prepared.tell(holder);
    let call = Call {
        shared,
        connection,
        prepared,
    };
    match call.ending().await {
        Ending::Answered(answer, served) => {
            let is_server = !matches!(spec.runtime, bugle_types::Runtime::Python(_));
            served.ended(result_of(answer, is_server), memory_mib)
        }
        Ending::Failed(failure, Some(served)) => served.ended(Err(failure), memory_mib),
        Ending::Failed(failure, None) => Invoked::refused(failure, memory_mib),
    }
}

impl Invoked {
    fn from_result(result: Result<Bytes, Failure>, memory_mib: u64) -> Self {
        match result {
            Ok(text) => Self {
                result: Ok(text),
                run: Duration::ZERO,
                peak_memory: 0,
                memory_mib,
                log: Vec::new(),
            },
            Err(failure) => Self::refused(failure, memory_mib),
        }
    }
}

impl Served {
    fn ended(self, result: Result<Bytes, Failure>, memory_mib: u64) -> Invoked {
        Invoked {
            result,
            run: self.run,
            peak_memory: self.peak_memory,
            memory_mib,
            log: self.log_tail,
        }
    }
}

/// The result that an answer holds. Of a server that takes events the body is the result, and any
/// status but 2xx says that the function failed; what a handler composed is a response structure.
fn result_of(answer: Answer, is_server: bool) -> Result<Bytes, Failure> {
    match answer {
        Answer::Json(json) => Ok(json),
        Answer::Streamed => Ok(Bytes::new()),
        Answer::Composed { status, body, .. } if is_server => {
            if (200..300).contains(&status) {
                return Ok(body);
            }
            let said = match &*body {
                b"" => format!("the function answered with status {status}"),
                body => String::from_utf8_lossy(body).into_owned(),
            };
            let code = Code::FunctionException.number();
            let kind = Some("FunctionReturnError".to_owned());
            Err(Failure::of_user_code(code, said, kind, None))
        }
        Answer::Composed {
            status,
            headers,
            body,
        } => {
            let pairs = headers.iter().map(|(name, value)| {
                let value = HeaderValue::from_bytes(value.as_bytes());
                (header::HeaderName::from_bytes(name.as_bytes()), value)
            });
            let headers = pairs
                .filter_map(|(name, value)| Some((name.ok()?, value.ok()?)))
                .collect();
            Ok(structure::wrap(status, &headers, &body))
        }
    }
}

/// The call's own request: none of the caller's headers reach a function that takes events.
fn request(id: &str) -> Parts {
    let mut request = http::Request::new(());
    *request.method_mut() = http::Method::POST;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    let id = HeaderValue::from_str(id).expect("a request id is printable ASCII");
    headers.insert(TRACE_ID, id);
    request.into_parts().0
}
