//! Instances on a node: what the platform orders over a connection is done here.
//!
//! Instances outlive connections. When the platform comes back, those that run no call are offered to
//! it at once and the others as soon as their calls are done; what it does not want it ends.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bugle_instances::{
    BrokenBody, CallError, Driver, Exit, ExitCause, HttpBody, HttpExchange, HttpReplyBody,
    Instance, InstanceId, LogLine, LogSink, NoReply, StartError, StartRequest, Started,
};
use bugle_types::FunctionSpec;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::heads;
use crate::parts::{Fields, Garbage, Kind, Part, json_part, part};
use crate::stream::{Broken, Incoming, send};
use crate::tunnel;
use crate::wire::{self, Ended, Found, Hello, Line, StartAnswer, StartOrder, Up};

/// An order or a call: a body of 6 MiB, its context, its variables.
const LARGEST_ORDER: usize = 8 * 1024 * 1024;

/// News that wait for the connection; lines of logs beyond that are dropped.
const NEWS: usize = 4096;

/// Pieces of a handler's stream that wait for the connection.
const PIECES: usize = 16;

/// Readies a function's code on this node before its first start, such as by fetching it.
pub type Prepare = Arc<
    dyn Fn(Arc<FunctionSpec>) -> Pin<Box<dyn Future<Output = Result<(), StartError>> + Send>>
        + Send
        + Sync,
>;

/// What this node has and is.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// The build, which must be that of the platform.
    pub build: String,
    /// Thousandths of a core.
    pub cpu: u64,
    /// MiB.
    pub memory: u64,
    /// Other resources by name, in thousandths.
    pub custom: BTreeMap<String, i64>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The Pod pool that it is of.
    pub pool: Option<String>,
    /// The group of that pool.
    pub group: Option<String>,
}

/// The instances of this node; clones are the same.
#[derive(Clone)]
pub struct Host(Arc<Shared>);

struct Shared {
    driver: Arc<dyn Driver>,
    prepare: Prepare,
    offer: Offer,
    hosted: Mutex<HashMap<InstanceId, Arc<Hosted>>>,
    /// To the platform, while there is a connection.
    news: Arc<News>,
    tasks: TaskTracker,
    draining: CancellationToken,
}

/// Where news go. It is also where functions write their logs.
#[derive(Debug, Default)]
pub struct News(Mutex<Option<mpsc::Sender<Bytes>>>);

impl News {
    /// Tells the platform something that it must know. A connection that cannot take it is given up:
    /// with the next one the platform learns everything anew.
    fn tell(&self, news: Bytes) -> bool {
        let mut connection = self.0.lock();
        let told = connection
            .as_ref()
            .is_some_and(|sender| sender.try_send(news).is_ok());
        if !told {
            *connection = None;
        }
        told
    }

    /// Tells a line while there is room; a half is kept for what must be known.
    fn tell_line(&self, line: Bytes) {
        if let Some(sender) = &*self.0.lock()
            && sender.capacity() > NEWS / 2
        {
            // It was just seen that there is room.
            _ = sender.try_send(line);
        }
    }
}

impl LogSink for News {
    fn line(&self, line: LogLine) {
        self.tell_line(json_part(
            Kind::Log,
            &Line {
                function: (*line.function).clone(),
                instance: line.instance,
                request: line.request.map(|request| request.to_string()),
                stream: line.stream,
                text: line.text,
            },
        ));
    }
}

/// One instance.
struct Hosted {
    instance: Arc<dyn Instance>,
    order: StartOrder,
    running: AtomicUsize,
    /// Whether no platform knows it.
    orphan: AtomicBool,
}

impl Host {
    /// A host without instances.
    pub fn new(driver: Arc<dyn Driver>, prepare: Prepare, offer: Offer, news: Arc<News>) -> Self {
        Self(Arc::new(Shared {
            driver,
            prepare,
            offer,
            hosted: Mutex::default(),
            news,
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
        }))
    }

    /// Asks the platform to move everything elsewhere.
    pub fn drain(&self) {
        self.0.draining.cancel();
        self.0.news.tell(part(Kind::Draining, &[]));
    }

    /// Whether the node can have instances: a platform hears its news, and it does not end.
    pub fn is_ready(&self) -> bool {
        self.is_connected() && !self.0.draining.is_cancelled()
    }

    /// Whether a platform hears the news of this node.
    pub(crate) fn is_connected(&self) -> bool {
        self.0.news.0.lock().is_some()
    }

    /// Instances that are here.
    pub fn count(&self) -> usize {
        self.0.hosted.lock().len()
    }

    /// Ends every instance, within `grace`.
    pub(crate) async fn end_all(&self, grace: Duration) {
        let all: Vec<_> = self.0.hosted.lock().values().cloned().collect();
        let stops = all.iter().map(|hosted| hosted.instance.stop(grace));
        futures_util::future::join_all(stops).await;
    }

    /// Ends everything, within `grace`.
    pub async fn stop(&self, grace: Duration) {
        // Nobody hears the news any more, which ends the task that tells them.
        *self.0.news.0.lock() = None;
        self.end_all(grace).await;
        self.0.tasks.close();
        let _ = tokio::time::timeout(grace, self.0.tasks.wait()).await;
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve<T>(
        &self,
        mut connection: h2::server::Connection<T, Bytes>,
        silent: impl Future<Output = ()>,
    ) -> Result<(), h2::Error>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let shared = &self.0;
        tokio::pin!(silent);
        let served = loop {
            let accepted = tokio::select! {
                biased;
                accepted = connection.accept() => accepted,
                () = &mut silent => None,
            };
            match accepted {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok((request, respond))) => {
                    let handled = Arc::clone(shared).handle(request, respond);
                    shared.tasks.spawn(handled);
                }
            }
        };
        *shared.news.0.lock() = None;
        for hosted in shared.hosted.lock().values() {
            hosted.orphan.store(true, Ordering::Relaxed);
        }
        served
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("offer", &self.0.offer)
            .finish_non_exhaustive()
    }
}

impl Shared {
    async fn handle(self: Arc<Self>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let (head, body) = request.into_parts();
        let body = Incoming::new(body);
        let handled = match head.uri.path() {
            "/call" => self.call(body, respond).await,
            "/exchange" => self.exchange(body, respond).await,
            "/start" => self.start(body, respond).await,
            "/stop" => self.stop(body, respond).await,
            "/kill" => self.kill(body, respond).await,
            "/news" => self.tell_news(respond).await,
            _ => refuse(respond),
        };
        if let Err(error) = handled {
            tracing::debug!(%error, path = head.uri.path(), "a stream of the platform broke");
        }
    }

    fn find(&self, id: InstanceId) -> Option<Arc<Hosted>> {
        self.hosted.lock().get(&id).cloned()
    }

    async fn start(
        self: &Arc<Self>,
        body: Incoming,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let order: StartOrder = wire::json(&body.whole(LARGEST_ORDER).await?)?;
        let started = tokio::select! {
            biased;
            // The platform has given it up: what comes up is killed with the future.
            _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return Ok(()),
            started = self.bring_up(&order) => started,
        };
        let (answer, instance): (StartAnswer, _) = match started {
            Err(error) => (Err(error), None),
            Ok(Started { instance, phases }) => {
                self.keep(&order, &instance);
                let pid = instance.pid();
                (Ok(Up { pid, phases }), Some(instance))
            }
        };
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        let told = answer_with(respond, text.into());
        if let (Err(_), Some(instance)) = (&told, instance) {
            instance.kill();
        }
        Ok(told?)
    }

    async fn bring_up(&self, order: &StartOrder) -> Result<Started, StartError> {
        let spec = Arc::new(order.spec.clone());
        (self.prepare)(Arc::clone(&spec)).await?;
        let request = StartRequest {
            id: order.id,
            spec,
            resources: order.resources.clone(),
            label: order.label.clone(),
        };
        self.driver.start(request).await
    }

    /// Remembers an instance until it ends.
    fn keep(self: &Arc<Self>, order: &StartOrder, instance: &Arc<dyn Instance>) {
        let hosted = Arc::new(Hosted {
            instance: Arc::clone(instance),
            order: order.without_secrets(),
            running: AtomicUsize::new(0),
            orphan: AtomicBool::new(false),
        });
        self.hosted.lock().insert(order.id, hosted);
        let (shared, instance, id) = (Arc::clone(self), Arc::clone(instance), order.id);
        self.tasks.spawn(async move {
            let exit: Exit = instance.exited().await;
            shared.hosted.lock().remove(&id);
            shared.news.tell(json_part(Kind::Exit, &Ended { id, exit }));
        });
    }

    async fn call(&self, body: Incoming, mut respond: SendResponse<Bytes>) -> Result<(), Broken> {
        let (id, mut call, streams) = wire::read_call(body.whole(LARGEST_ORDER).await?)?;
        let Some(hosted) = self.find(id) else {
            let gone = CallError::NotSent(ExitCause::Stopped);
            return Ok(answer_with(respond, wire::reply_part(&Err(gone)))?);
        };
        let _running = self.run(&hosted);
        if !streams {
            let answer = hosted.instance.call(call).await;
            return Ok(answer_with(respond, wire::reply_part(&answer))?);
        }
        let (sender, mut pieces) = mpsc::channel(PIECES);
        call.stream = Some(sender);
        let mut stream = respond.send_response(Response::new(()), false)?;
        let mut answer = hosted.instance.call(call);
        let answer = loop {
            tokio::select! {
                biased;
                Some(piece) = pieces.recv() => {
                    // A platform that is gone takes nothing; the call goes on.
                    _ = send(&mut stream, wire::stream_part(&piece)).await;
                }
                answer = &mut answer => break answer,
            }
        };
        while let Ok(piece) = pieces.try_recv() {
            send(&mut stream, wire::stream_part(&piece)).await?;
        }
        send(&mut stream, wire::reply_part(&answer)).await?;
        Ok(stream.send_data(Bytes::new(), true)?)
    }

    async fn exchange(
        &self,
        mut body: Incoming,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let Some(Part { payload, .. }) = body.part().await? else {
            return Err(Garbage("an exchange without a head").into());
        };
        let mut fields = Fields(payload);
        let id = InstanceId(fields.u128()?);
        let (request, head) = heads::read_request(fields)?;
        let Some(hosted) = self.find(id) else {
            let gone = CallError::NotSent(ExitCause::Stopped);
            return Ok(answer_with(respond, json_part(Kind::NoReply, &gone))?);
        };
        let _running = self.run(&hosted);
        let (body, tunnel) = if tunnel::is_asked_for(&head) {
            (HttpBody::default(), Some(body))
        } else {
            (HttpBody::Stream(Box::pin(Upload(body))), None)
        };
        let exchange = HttpExchange {
            request,
            head,
            body,
        };
        let reply = match hosted.instance.exchange(exchange).await {
            Ok(reply) => reply,
            Err(no) => {
                let error = match no {
                    NoReply::NotSent(cause, _) => CallError::NotSent(cause),
                    NoReply::Failed(error) => error,
                };
                return Ok(answer_with(respond, json_part(Kind::NoReply, &error))?);
            }
        };
        let mut stream = respond.send_response(Response::new(()), false)?;
        let head = heads::response(&reply.head);
        send(&mut stream, part(Kind::Head, &[&head])).await?;
        let mut answer = match reply.body {
            HttpReplyBody::Stream(answer) => answer,
            HttpReplyBody::Upgraded(server) => {
                // The server agrees to nothing that it was not asked for.
                if let Some(body) = tunnel
                    && let Err(end) = tunnel::to_server(server, stream, body).await
                {
                    tracing::debug!(%end, "an upgraded connection broke");
                }
                return Ok(());
            }
        };
        loop {
            let frame = tokio::select! {
                biased;
                frame = std::future::poll_fn(|cx| answer.as_mut().poll_frame(cx)) => frame,
                _ = std::future::poll_fn(|cx| stream.poll_reset(cx)) => return Ok(()),
            };
            match frame {
                None => return Ok(stream.send_data(Bytes::new(), true)?),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        send(&mut stream, bytes).await?;
                    }
                }
                Some(Err(_)) => {
                    stream.send_reset(h2::Reason::INTERNAL_ERROR);
                    return Ok(());
                }
            }
        }
    }

    async fn stop(&self, body: Incoming, respond: SendResponse<Bytes>) -> Result<(), Broken> {
        let mut fields = Fields(body.whole(LARGEST_ORDER).await?);
        let id = InstanceId(fields.u128()?);
        let grace = Duration::from_millis(fields.u64()?);
        if let Some(hosted) = self.find(id) {
            hosted.instance.stop(grace).await;
        } else {
            self.tell_gone(id);
        }
        Ok(answer_with(respond, Bytes::new())?)
    }

    async fn kill(&self, body: Incoming, respond: SendResponse<Bytes>) -> Result<(), Broken> {
        let id = InstanceId(Fields(body.whole(LARGEST_ORDER).await?).u128()?);
        if let Some(hosted) = self.find(id) {
            hosted.instance.kill();
        } else {
            self.tell_gone(id);
        }
        Ok(answer_with(respond, Bytes::new())?)
    }

    /// Whoever asks for the end of what is gone missed the news of it.
    fn tell_gone(&self, id: InstanceId) {
        let exit = Exit {
            cause: ExitCause::Stopped,
            peak_memory: 0,
        };
        self.news.tell(json_part(Kind::Exit, &Ended { id, exit }));
    }

    /// Tells the platform what happens here, until the connection ends.
    async fn tell_news(&self, mut respond: SendResponse<Bytes>) -> Result<(), Broken> {
        let mut stream = respond.send_response(Response::new(()), false)?;
        let Offer {
            build,
            cpu,
            memory,
            custom,
            labels,
            pool,
            group,
        } = self.offer.clone();
        let hello = Hello {
            protocol: wire::PROTOCOL,
            build,
            cpu,
            memory,
            custom,
            labels,
            pool,
            group,
        };
        send(&mut stream, json_part(Kind::Hello, &hello)).await?;
        let (sender, mut news) = mpsc::channel(NEWS);
        *self.news.0.lock() = Some(sender);
        let hosted: Vec<_> = self.hosted.lock().values().cloned().collect();
        for hosted in hosted {
            self.offer(&hosted);
        }
        if self.draining.is_cancelled() {
            self.news.tell(part(Kind::Draining, &[]));
        }
        while let Some(bytes) = news.recv().await {
            send(&mut stream, bytes).await?;
        }
        Ok(stream.send_data(Bytes::new(), true)?)
    }

    /// Offers an instance that no platform knows and that runs no call.
    fn offer(&self, hosted: &Hosted) {
        if hosted.running.load(Ordering::Relaxed) > 0
            || !hosted.orphan.swap(false, Ordering::Relaxed)
        {
            return;
        }
        let found = Found {
            order: hosted.order.clone(),
            pid: hosted.instance.pid(),
        };
        if !self.news.tell(json_part(Kind::Found, &found)) {
            hosted.orphan.store(true, Ordering::Relaxed);
        }
    }

    fn run<'a>(&'a self, hosted: &'a Arc<Hosted>) -> Running<'a> {
        hosted.running.fetch_add(1, Ordering::Relaxed);
        Running {
            shared: self,
            hosted,
        }
    }
}

/// Counts a call of an instance until it is dropped.
struct Running<'a> {
    shared: &'a Shared,
    hosted: &'a Arc<Hosted>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.hosted.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shared.offer(self.hosted);
        }
    }
}

fn answer_with(mut respond: SendResponse<Bytes>, bytes: Bytes) -> Result<(), h2::Error> {
    let mut stream: SendStream<Bytes> = respond.send_response(Response::new(()), false)?;
    stream.send_data(bytes, true)
}

fn refuse(mut respond: SendResponse<Bytes>) -> Result<(), Broken> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::NOT_FOUND;
    respond.send_response(response, true)?;
    Ok(())
}

/// A caller's body as it comes over the connection.
struct Upload(Incoming);

impl Body for Upload {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let polled = std::pin::pin!(self.get_mut().0.raw()).poll(cx);
        polled.map(|read| match read {
            Ok(Some(bytes)) => Some(Ok(Frame::data(bytes))),
            Ok(None) => None,
            Err(_) => Some(Err(BrokenBody)),
        })
    }
}
