//! A node as the scheduler sees it: a driver, and instances that are called over a connection.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bugle_instances::{
    BoxFuture, CallError, CallRequest, Driver, Exit, ExitCause, HttpBody, HttpExchange, HttpReply,
    HttpReplyBody, Instance, InstanceId, NoReply, Reply, StartError, StartRequest, Started,
};
use bugle_scheduler::Fleet;
use bugle_types::{FunctionId, SealedEnvironment};
use bytes::{BufMut as _, Bytes};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame};
use tokio::sync::watch;

use crate::heads;
use crate::link::{CALL, EXCHANGE, KILL, LEAVE, Link, START, STOP};
use crate::parts::{Garbage, Kind, Part, Writer, part};
use crate::stream::{Broken, Incoming, send};
use crate::tunnel;
use crate::wire::{self, Ended, NotUp, StartAnswer, StartOrder};

/// How long a node may take to end an instance beyond the grace that it was given.
const AFTER_GRACE: Duration = Duration::from_secs(5);

/// Starts instances on a node.
#[derive(Debug)]
pub(crate) struct RemoteDriver {
    pub(crate) link: Arc<Link>,
    pub(crate) fleet: Fleet,
}

impl RemoteDriver {
    async fn start(&self, request: StartRequest) -> Result<Started, StartError> {
        let link = &self.link;
        let mut spec = (*request.spec).clone();
        let open = (link.open_environment())(&spec.id, &spec.environment);
        let variables = open.map_err(StartError::Platform)?;
        let variables = serde_json::to_string(&variables);
        spec.environment = SealedEnvironment(variables.unwrap_or_default());
        let mut order = StartOrder {
            id: request.id,
            spec,
            resources: request.resources,
            label: request.label,
            alone: self.fleet.keeps_tenants_apart(),
            mark: String::new(),
        };
        link.mark(&mut order);
        let order = serde_json::to_vec(&order).map_err(|error| {
            StartError::Platform(format!("the order cannot be written: {error}"))
        })?;
        // Before the order: its end may be told before its start is.
        let mut coming = Coming {
            link: Arc::clone(link),
            id: request.id,
            is_up: false,
        };
        let exit = link.expect(request.id, &request.spec.id);
        let lost = || StartError::Exited(link.cause());
        let answer = tokio::select! {
            biased;
            answer = link.ask_small(START, order.into()) => answer,
            () = link.lost().cancelled() => return Err(lost()),
        };
        let answer: StartAnswer = match answer {
            Ok(bytes) => match wire::json(&bytes) {
                Ok(answer) => answer,
                Err(garbage) => {
                    link.give_up(&garbage);
                    return Err(lost());
                }
            },
            Err(Broken::Stream(_) | Broken::Garbage(_)) => return Err(lost()),
        };
        let up = match answer {
            Ok(up) => up,
            Err(NotUp::Failed(error)) => return Err(error),
            Err(NotUp::Full(others)) => {
                self.fleet.set_others(&link.node, others);
                return Err(StartError::NoRoom(format!("node {} is full", link.node)));
            }
        };
        coming.is_up = true;
        Ok(Started {
            instance: Arc::new(RemoteInstance {
                id: request.id,
                pid: up.pid,
                link: Arc::clone(link),
                exit,
            }),
            phases: up.phases,
        })
    }
}

/// A start that is under way; one that is given up leaves nothing behind here.
struct Coming {
    link: Arc<Link>,
    id: InstanceId,
    is_up: bool,
}

impl Drop for Coming {
    fn drop(&mut self) {
        if !self.is_up {
            self.link.forget(self.id);
        }
    }
}

impl Driver for RemoteDriver {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(Self::start(self, request))
    }
}

/// An instance on a node.
pub(crate) struct RemoteInstance {
    id: InstanceId,
    pid: Option<u32>,
    link: Arc<Link>,
    exit: watch::Receiver<Option<Exit>>,
}

impl fmt::Debug for RemoteInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteInstance")
            .field("id", &self.id)
            .field("node", &self.link.node)
            .finish_non_exhaustive()
    }
}

/// Bodies up to this many bytes are copied behind the head of their call, to be one frame.
const COPIED: usize = 16 * 1024;

impl RemoteInstance {
    pub(crate) fn new(
        link: &Arc<Link>,
        function: &FunctionId,
        id: InstanceId,
        pid: Option<u32>,
    ) -> Self {
        Self {
            id,
            pid,
            exit: link.expect(id, function),
            link: Arc::clone(link),
        }
    }

    async fn run(&self, request: CallRequest) -> Result<Reply, CallError> {
        let (response, mut stream) = self.link.ask(CALL).map_err(CallError::NotSent)?;
        let mut head = wire::call_head(self.id, &request);
        let small = request.meta.len() + request.body.len() <= COPIED;
        let frames = if small {
            head.0.extend_from_slice(&request.meta);
            head.0.extend_from_slice(&request.body);
            [head.0.freeze(), Bytes::new(), Bytes::new()]
        } else {
            [head.0.freeze(), request.meta, request.body]
        };
        // All of it is in memory anyway: the connection sends it at the node's pace.
        for (at, frame) in frames.into_iter().enumerate() {
            let last = at == 2 || small;
            if !frame.is_empty() || last {
                stream
                    .send_data(frame, last)
                    .map_err(|_| CallError::Exited(self.link.cause()))?;
            }
            if last {
                break;
            }
        }
        let answered = self.answer(response, request.stream).await;
        match answered {
            Ok(answer) => answer,
            Err(Broken::Stream(_)) => Err(CallError::Exited(self.end_or_loss())),
            Err(Broken::Garbage(garbage)) => {
                self.link.give_up(&garbage);
                Err(CallError::Protocol(format!("{garbage}, from its node")))
            }
        }
    }

    /// Why the instance does not answer.
    fn end_or_loss(&self) -> ExitCause {
        let exit = self.exit.borrow();
        exit.as_ref()
            .map_or_else(|| self.link.cause(), |exit| exit.cause.clone())
    }

    async fn answer(
        &self,
        response: ResponseFuture,
        sink: Option<bugle_instances::StreamSink>,
    ) -> Result<Result<Reply, CallError>, Broken> {
        let mut parts = Incoming::new(response.await?.into_body());
        while let Some(Part { kind, payload }) = parts.part().await? {
            match kind {
                Kind::Reply => return Ok(Ok(wire::read_reply(payload)?)),
                Kind::NoReply => return Ok(Err(wire::json(&payload)?)),
                _ => {
                    let piece = wire::read_stream(Part { kind, payload })?;
                    if let Some(sink) = &sink {
                        // A client that has left takes nothing.
                        _ = sink.send(piece).await;
                    }
                }
            }
        }
        Err(Garbage("an answer without its end").into())
    }

    async fn pass(&self, exchange: HttpExchange) -> Result<HttpReply, NoReply> {
        let asked = self.link.ask(EXCHANGE);
        let (response, mut stream) = match asked {
            Ok(asked) => asked,
            Err(cause) => return Err(NoReply::NotSent(cause, Box::new(exchange))),
        };
        let lost = || NoReply::Failed(CallError::Exited(self.end_or_loss()));
        let mut id = Writer::default();
        id.0.put_u128_le(self.id.0);
        let upgrade = tunnel::is_asked_for(&exchange.head);
        let head = heads::request(&exchange.request, &exchange.head);
        let head = part(Kind::Head, &[&id.0, &head]);
        stream.send_data(head, false).map_err(|_| lost())?;
        if upgrade {
            let response = response.await.map_err(|_| lost())?;
            return self.upgraded(stream, response).await;
        }
        let mut upload: Upload = Box::pin(upload(stream, exchange.body));
        let mut response = response;
        let (response, upload) = tokio::select! {
            biased;
            response = &mut response => (response, Some(upload)),
            sent = &mut upload => match sent {
                // What is sent is sent; the answer may take its time.
                Ok(()) => (response.await, None),
                Err(error) => (Err(error), None),
            },
        };
        let response = response.map_err(|_| lost())?;
        let (head, parts) = self.head(response).await?;
        Ok(self.streamed(head, parts, upload))
    }

    /// The answer to a request for another protocol: the connection, or that there is none.
    async fn upgraded(
        &self,
        mut stream: SendStream<Bytes>,
        response: Response<RecvStream>,
    ) -> Result<HttpReply, NoReply> {
        let (head, parts) = self.head(response).await?;
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            // The caller says nothing more. Whether the node hears that is of no account.
            _ = stream.send_data(Bytes::new(), true);
            return Ok(self.streamed(head, parts, None));
        }
        Ok(HttpReply {
            head,
            body: HttpReplyBody::Upgraded(tunnel::to_node(stream, parts)),
        })
    }

    fn streamed(
        &self,
        head: http::response::Parts,
        parts: Incoming,
        upload: Option<Upload>,
    ) -> HttpReply {
        let body = ReplyBody {
            parts: Some(parts),
            upload,
            cause: self.link.cause(),
        };
        HttpReply {
            head,
            body: HttpReplyBody::Stream(Box::pin(body)),
        }
    }

    /// The head of an answer, and what comes after it.
    async fn head(
        &self,
        response: Response<RecvStream>,
    ) -> Result<(http::response::Parts, Incoming), NoReply> {
        let lost = || NoReply::Failed(CallError::Exited(self.end_or_loss()));
        let mut parts = Incoming::new(response.into_body());
        let first = parts.part().await;
        let protocol = |garbage: Garbage| {
            self.link.give_up(&garbage);
            NoReply::Failed(CallError::Protocol(format!("{garbage}, from its node")))
        };
        match first {
            Ok(Some(Part {
                kind: Kind::Head,
                payload,
            })) => {
                let head = heads::read_response(payload).map_err(protocol)?;
                Ok((head, parts))
            }
            Ok(Some(Part {
                kind: Kind::NoReply,
                payload,
            })) => Err(NoReply::Failed(wire::json(&payload).map_err(protocol)?)),
            Ok(_) => Err(protocol(Garbage("an exchange without a head"))),
            Err(Broken::Stream(_)) => Err(lost()),
            Err(Broken::Garbage(garbage)) => Err(protocol(garbage)),
        }
    }

    fn name(&self) -> Bytes {
        Bytes::copy_from_slice(&self.id.0.to_le_bytes())
    }

    async fn end(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| Exit {
            cause: self.link.cause(),
            peak_memory: 0,
        })
    }

    /// Leaves it to the gateways that share the node.
    async fn leave(&self) -> bool {
        if !self.link.is_shared() || self.link.is_draining() {
            return false;
        }
        if self.link.ask_small(LEAVE, self.name()).await.is_err() {
            // Its node is gone, and it from here with that; or it is ended in order.
            return false;
        }
        self.link.ended(Ended {
            id: self.id,
            exit: Exit {
                cause: ExitCause::Stopped,
                peak_memory: 0,
            },
        });
        true
    }

    async fn finish(&self, grace: Duration) -> Exit {
        let mut question = Writer::default();
        question.0.extend_from_slice(&self.name());
        question
            .0
            .put_u64_le(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        let asked = self.link.ask_small(STOP, question.0.freeze());
        // Its end comes as news, whatever becomes of the question.
        let ended = async {
            drop(asked.await);
            self.end().await
        };
        let in_time = tokio::time::timeout(grace.saturating_add(AFTER_GRACE), ended).await;
        if let Ok(exit) = in_time {
            return exit;
        }
        // Its node lives and it is not gone: nobody can wait for it for ever.
        tracing::error!(instance = %self.id, node = %self.link.node, "an instance that was to end did not");
        self.link.ended(Ended {
            id: self.id,
            exit: Exit {
                cause: ExitCause::Stopped,
                peak_memory: 0,
            },
        });
        self.end().await
    }
}

/// Sends a caller's body as it comes.
async fn upload(mut stream: SendStream<Bytes>, mut body: HttpBody) -> Result<(), h2::Error> {
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        match frame {
            None => return stream.send_data(Bytes::new(), true),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    send(&mut stream, bytes).await?;
                }
            }
            Some(Err(_)) => {
                stream.send_reset(h2::Reason::CANCEL);
                return Err(h2::Reason::CANCEL.into());
            }
        }
    }
}

type Upload = Pin<Box<dyn Future<Output = Result<(), h2::Error>> + Send>>;

/// What comes after the head of an answer. The caller's body goes on moving while it is read.
struct ReplyBody {
    parts: Option<Incoming>,
    upload: Option<Upload>,
    cause: ExitCause,
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let this = &mut *self;
        if let Some(upload) = &mut this.upload
            && upload.as_mut().poll(cx).is_ready()
        {
            this.upload = None;
        }
        let Some(parts) = &mut this.parts else {
            return Poll::Ready(None);
        };
        // Reading is cancel safe, so each poll may begin anew.
        let polled = std::pin::pin!(parts.raw()).poll(cx);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(bytes))) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Poll::Ready(Ok(None)) => {
                this.parts = None;
                Poll::Ready(None)
            }
            Poll::Ready(Err(_)) => {
                this.parts = None;
                Poll::Ready(Some(Err(CallError::Exited(this.cause.clone()))))
            }
        }
    }
}

impl Instance for RemoteInstance {
    fn id(&self) -> InstanceId {
        self.id
    }

    fn pid(&self) -> Option<u32> {
        self.pid
    }

    fn node(&self) -> Option<&str> {
        Some(self.link.node.as_str())
    }

    fn call(&self, request: CallRequest) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(self.run(request))
    }

    fn exchange(&self, exchange: HttpExchange) -> BoxFuture<'_, Result<HttpReply, NoReply>> {
        Box::pin(self.pass(exchange))
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Exit> {
        Box::pin(self.finish(grace))
    }

    fn kill(&self) {
        self.link.post(KILL, self.name());
    }

    fn hand_over(&self) -> BoxFuture<'_, bool> {
        Box::pin(self.leave())
    }

    fn leaving(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.link.drained())
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        Box::pin(self.end())
    }
}

impl Drop for RemoteInstance {
    fn drop(&mut self) {
        if self.exit.borrow().is_none() && !self.link.lost().is_cancelled() {
            self.kill();
        }
    }
}
