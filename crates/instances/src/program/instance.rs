//! A running program that serves calls over HTTP.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bugle_types::Code;
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::{Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::sync::watch;
use tokio::time::Instant;

use super::exchange::Server;
use super::output::Output;
use super::process::Process;
use super::request::Requests;
use super::wire::{Failed, Message, Pool, Wire};
use crate::child::Child;
use crate::{
    BoxFuture, CallError, CallRequest, Exit, ExitCause, HttpExchange, HttpReply, Instance,
    InstanceId, NoReply, Reply, ReplyBody, StreamPart, StreamSink,
};

/// The largest answer, in bytes (`runtimes` contract 12).
const MOST: usize = 6 * 1024 * 1024;

/// A program that ends breaks its connections a moment before its end is known, and its last answer
/// may be read a moment after it.
const LINGER: Duration = Duration::from_millis(200);

/// A program. It is killed when this is dropped.
pub(crate) struct ProgramInstance {
    pub(crate) id: InstanceId,
    pub(crate) process: Arc<Process>,
    pub(crate) child: Arc<Child>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) requests: Requests,
    pub(crate) output: Arc<Output>,
    pub(crate) exit: watch::Receiver<Option<Exit>>,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The program has ended, or does not take connections any more. It got nothing.
    NotSent(ExitCause),
    /// The program ended after it got the request.
    Exited(ExitCause),
    /// The program lives, and its answer is none.
    Bad(ReplyBody),
}

impl ProgramInstance {
    async fn run(&self, request: CallRequest) -> Result<Reply, CallError> {
        let began = Instant::now();
        let running = self.output.begin(&request.request);
        let message = self.requests.call(&request);
        let body = match self.exchange(message, request.stream.as_ref()).await {
            Ok(body) | Err(NoAnswer::Bad(body)) => body,
            Err(NoAnswer::NotSent(cause)) => return Err(CallError::NotSent(cause)),
            Err(NoAnswer::Exited(cause)) => return Err(CallError::Exited(cause)),
        };
        Ok(Reply {
            body,
            run: began.elapsed(),
            peak_memory: 0,
            log_tail: running.tail(),
        })
    }

    async fn serve(&self, exchange: HttpExchange) -> Result<HttpReply, NoReply> {
        if let Some(exit) = &*self.exit.borrow() {
            let cause = exit.cause.clone();
            return Err(NoReply::NotSent(cause, Box::new(exchange)));
        }
        let running = self.output.begin(&exchange.request);
        let request = Arc::clone(&exchange.request);
        let message = self.requests.exchange(exchange);
        let server = Server {
            pool: Arc::clone(&self.pool),
            exit: self.exit.clone(),
            linger: LINGER,
            child: Arc::clone(&self.child),
        };
        server.exchange(request, message, running).await
    }

    /// Asks the program something about itself.
    pub(crate) async fn get(&self, path: &'static str) -> Result<ReplyBody, NoAnswer> {
        let message = self.requests.ask(path, &self.id.to_string());
        self.exchange(message, None).await
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn exchange(
        &self,
        message: Message,
        stream: Option<&StreamSink>,
    ) -> Result<ReplyBody, NoAnswer> {
        if let Some(exit) = &*self.exit.borrow() {
            return Err(NoAnswer::NotSent(exit.cause.clone()));
        }
        let answered = async {
            let (wire, response) = self.pool.send(message).await?;
            self.read(wire, response, stream).await
        };
        let ended = async {
            let exit = self.end().await;
            tokio::time::sleep(LINGER).await;
            exit.cause
        };
        let answered = tokio::select! {
            biased;
            answered = answered => answered,
            // A process that left the group may hold the connection for ever.
            cause = ended => return Err(NoAnswer::Exited(cause)),
        };
        match answered {
            Ok(body) => Ok(body),
            Err(failed) => Err(self.explain(failed).await),
        }
    }

    async fn explain(&self, failed: Failed) -> NoAnswer {
        if let Failed::Refused(error, _) = &failed {
            // The scheduler has no use for a program that takes no calls.
            tracing::warn!(instance = %self.id, %error, "program takes no connections, instance is ended");
            self.child.kill();
            return NoAnswer::NotSent(self.end().await.cause);
        }
        if let Ok(exit) = tokio::time::timeout(LINGER, self.end()).await {
            return NoAnswer::Exited(exit.cause);
        }
        NoAnswer::Bad(failure(match failed {
            Failed::Malformed(why) => format!("the program's answer is not HTTP: {why}"),
            _ => "the program closed the connection before its answer was whole".to_owned(),
        }))
    }

    async fn read(
        &self,
        mut wire: Wire,
        response: Response<Incoming>,
        stream: Option<&StreamSink>,
    ) -> Result<ReplyBody, Failed> {
        let (head, mut body) = response.into_parts();
        if let Some(sink) = stream
            && head.status == StatusCode::OK
            && is_event_stream(&head.headers)
        {
            return forward(&mut wire, &head.headers, body, sink).await;
        }
        let declared = body.size_hint().lower();
        if declared > MOST as u64 {
            return Ok(too_large(declared));
        }
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        while let Some(piece) = wire.piece(&mut body).await? {
            if first.is_empty() {
                // Most answers come in one piece, which is then not copied.
                first = piece;
                continue;
            }
            if whole.is_empty() {
                whole.extend_from_slice(&first);
            }
            whole.extend_from_slice(&piece);
            if whole.len() > MOST {
                return Ok(too_large(whole.len() as u64));
            }
        }
        self.pool.put(wire);
        Ok(ReplyBody::Http {
            status: head.status.as_u16(),
            headers: to_pass(&head.headers),
            body: if whole.is_empty() {
                first
            } else {
                whole.freeze()
            },
        })
    }

    pub(crate) async fn end(&self) -> Exit {
        const LOST: Exit = Exit {
            cause: ExitCause::Stopped,
            peak_memory: 0,
        };
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(LOST),
            // The runtime that watched the program has been shut down.
            Err(_) => LOST,
        }
    }
}

/// Hands an event stream to the client as it comes. When the client is gone the connection is
/// closed, which is how a server is told.
async fn forward(
    wire: &mut Wire,
    headers: &HeaderMap,
    mut body: Incoming,
    sink: &StreamSink,
) -> Result<ReplyBody, Failed> {
    let mut headers = to_pass(headers);
    headers.retain(|(name, _)| name != header::CONTENT_TYPE.as_str());
    let mut part = StreamPart::Head(headers);
    while sink.send(part).await.is_ok() {
        let piece = tokio::select! {
            biased;
            () = sink.closed() => break,
            piece = wire.piece(&mut body) => piece?,
        };
        match piece {
            Some(piece) => part = StreamPart::Events(piece),
            None => break,
        }
    }
    Ok(ReplyBody::Streamed)
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let kind = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    kind.split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// The headers of an answer that are not about its connection. The gateway knows those by name; here
/// go the ones that only `Connection` tells.
fn to_pass(headers: &HeaderMap) -> Vec<(String, String)> {
    let named: Vec<&str> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    headers
        .iter()
        .filter(|(name, _)| !named.iter().any(|n| n.eq_ignore_ascii_case(name.as_str())))
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

fn too_large(size: u64) -> ReplyBody {
    ReplyBody::Error {
        code: Code::ResponseTooLarge.number(),
        message: format!("response body size {size} exceeds the limit of {MOST}"),
        kind: None,
        trace: None,
    }
}

fn failure(message: String) -> ReplyBody {
    ReplyBody::Error {
        code: Code::FunctionException.number(),
        message,
        kind: None,
        trace: None,
    }
}

impl Instance for ProgramInstance {
    fn id(&self) -> InstanceId {
        self.id
    }

    fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    fn call(&self, request: CallRequest) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(self.run(request))
    }

    fn exchange(&self, exchange: HttpExchange) -> BoxFuture<'_, Result<HttpReply, NoReply>> {
        Box::pin(self.serve(exchange))
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Exit> {
        Box::pin(async move {
            self.child.expect_end();
            let orderly = async {
                self.output.until_idle().await;
                self.process.terminate();
                self.end().await
            };
            if let Ok(exit) = tokio::time::timeout(grace, orderly).await {
                return exit;
            }
            self.child.kill();
            self.end().await
        })
    }

    fn kill(&self) {
        self.child.kill();
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        Box::pin(self.end())
    }
}

impl Drop for ProgramInstance {
    fn drop(&mut self) {
        self.child.kill();
    }
}

impl fmt::Debug for ProgramInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramInstance")
            .field("id", &self.id)
            .field("pid", &self.child.pid())
            .finish_non_exhaustive()
    }
}
