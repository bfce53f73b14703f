//! A caller's own request to a program, streamed both ways.
//!
//! The connection still has no task of its own: until the head is there, whoever waits for it moves
//! the connection; afterwards whoever reads the body does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::watch;

use super::output;
use super::request::named_by_connection;
use super::wire::{Failed, Message, Pool, Wire};
use crate::child::Child;
use crate::{
    BoxFuture, CallError, Exit, ExitCause, HttpExchange, HttpReply, HttpReplyBody, NoReply,
    Upgraded,
};

/// Headers of the program's connection, beside those that its `Connection` names.
const OF_THE_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// One program as an exchange needs it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) pool: Arc<Pool>,
    pub(crate) exit: watch::Receiver<Option<Exit>>,
    pub(crate) child: Arc<Child>,
    /// How long a program that ended may still be read from, and its end may still be unknown.
    pub(crate) linger: Duration,
}

impl Server {
    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn exchange(
        &self,
        request: Arc<str>,
        message: Message,
        running: output::Call,
    ) -> Result<HttpReply, NoReply> {
        let server = self.clone();
        let answered = tokio::select! {
            biased;
            answered = self.pool.send(message) => answered,
            cause = server.gone() => return Err(NoReply::Failed(CallError::Exited(cause))),
        };
        let (wire, response) = match answered {
            Ok(answered) => answered,
            Err(Failed::Refused(error, message)) => {
                // The scheduler has no use for a program that takes no calls.
                tracing::warn!(%error, "program takes no connections, instance is ended");
                self.child.kill();
                let (head, body) = message.into_parts();
                let cause = self.end().await;
                let exchange = HttpExchange {
                    request,
                    head,
                    body,
                };
                return Err(NoReply::NotSent(cause, Box::new(exchange)));
            }
            Err(failed) => return Err(NoReply::Failed(server.explain(failed).await)),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.hand_over(wire, response, running).await;
        }
        let (mut head, body) = response.into_parts();
        clean(&mut head.headers);
        let body = Answer {
            wire: Some(wire),
            body,
            server,
            end: End::Unknown,
            _running: running,
        };
        Ok(HttpReply {
            head,
            body: HttpReplyBody::Stream(Box::pin(body)),
        })
    }

    async fn hand_over(
        &self,
        wire: Wire,
        response: Response<Incoming>,
        running: output::Call,
    ) -> Result<HttpReply, NoReply> {
        let (mut head, _) = response.into_parts();
        let protocol = head.headers.remove(header::UPGRADE);
        clean(&mut head.headers);
        if let Some(protocol) = protocol {
            let upgrade = header::HeaderValue::from_static("upgrade");
            head.headers.insert(header::CONNECTION, upgrade);
            head.headers.insert(header::UPGRADE, protocol);
        }
        let (stream, first) = match wire.upgraded().await {
            Ok(upgraded) => upgraded,
            Err(failed) => return Err(NoReply::Failed(self.clone().explain(failed).await)),
        };
        let upgraded = Upgraded {
            stream: Box::new(stream),
            first,
            running: Box::new(running),
        };
        Ok(HttpReply {
            head,
            body: HttpReplyBody::Upgraded(upgraded),
        })
    }

    /// Waits until the program has ended, and what it sent before that had time to be read.
    async fn gone(&self) -> ExitCause {
        let cause = self.end().await;
        // A process that left the group may hold the connection for ever.
        tokio::time::sleep(self.linger).await;
        cause
    }

    async fn end(&self) -> ExitCause {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit
                .as_ref()
                .map_or(ExitCause::Stopped, |exit| exit.cause.clone()),
            // The runtime that watched the program has been shut down.
            Err(_) => ExitCause::Stopped,
        }
    }

    /// A program that ends breaks its connections a moment before its end is known.
    async fn explain(self, failed: Failed) -> CallError {
        if let Ok(cause) = tokio::time::timeout(self.linger, self.end()).await {
            return CallError::Exited(cause);
        }
        CallError::Answer(match failed {
            Failed::Malformed(why) => format!("the program's answer is not HTTP: {why}"),
            _ => "the program closed the connection before its answer was whole".to_owned(),
        })
    }
}

/// Takes out what is about the program's connection.
fn clean(headers: &mut HeaderMap) {
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    for name in OF_THE_CONNECTION {
        headers.remove(name);
    }
}

/// The body of an answer. Gives its connection back at the end.
struct Answer {
    /// None once the answer has come to its end, or broke off.
    wire: Option<Wire>,
    body: Incoming,
    server: Server,
    end: End,
    _running: output::Call,
}

/// What is waited for beside the connection.
enum End {
    /// Nothing yet: most answers come with their head.
    Unknown,
    /// The end of the program.
    OfProgram(BoxFuture<'static, ExitCause>),
    /// Why the connection broke off.
    OfConnection(BoxFuture<'static, CallError>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let this = &mut *self;
        if let End::OfConnection(why) = &mut this.end {
            let error = ready!(why.as_mut().poll(cx));
            this.end = End::Unknown;
            return Poll::Ready(Some(Err(error)));
        }
        let Some(wire) = &mut this.wire else {
            return Poll::Ready(None);
        };
        match wire.poll_frame(&mut this.body, cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if this.body.is_end_stream() {
                    this.give_back(cx);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.give_back(cx);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(failed))) => {
                this.wire = None;
                this.end = End::OfConnection(Box::pin(this.server.clone().explain(failed)));
                self.poll_frame(cx)
            }
            Poll::Pending => this.poll_gone(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Answer {
    /// A connection on which the request has not come to its end is closed.
    fn give_back(&mut self, cx: &mut Context<'_>) {
        if let Some(mut wire) = self.wire.take()
            && wire.poll_idle(cx)
        {
            self.server.pool.put(wire);
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let End::OfProgram(gone) = &mut self.end else {
            let server = self.server.clone();
            self.end = End::OfProgram(Box::pin(async move { server.gone().await }));
            return self.poll_gone(cx);
        };
        let cause = ready!(gone.as_mut().poll(cx));
        self.wire = None;
        self.end = End::Unknown;
        Poll::Ready(Some(Err(CallError::Exited(cause))))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A body without any bytes ends without being polled.
        if self.body.is_end_stream() {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            self.give_back(&mut cx);
        }
    }
}
