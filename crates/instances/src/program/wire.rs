//! Keep-alive connections to a program.
//!
//! A connection has no task of its own: whoever calls drives it, so a call goes out and comes back
//! on one task. Between calls nobody looks at it; it is kept only for a short while, and is looked
//! at before it is used again, because a server may close what is idle.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::network::Network;
use super::shown::Shown;
use crate::HttpBody;

/// The most headers of an answer, and their size together with the status line.
const MAX_HEADERS: usize = 128;
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// A request as it is sent.
pub(crate) type Message = Request<HttpBody>;

/// The connections to one program.
#[derive(Debug)]
pub(crate) struct Pool {
    address: SocketAddrV4,
    /// Where the program is, unless that is the platform's own network.
    network: Option<Arc<Network>>,
    keep: Duration,
    idle: Mutex<Vec<Idle>>,
    shown: Option<Shown>,
}

#[derive(Debug)]
struct Idle {
    wire: Wire,
    since: Instant,
}

/// One connection. It carries one request at a time.
#[derive(Debug)]
pub(crate) struct Wire {
    sender: http1::SendRequest<HttpBody>,
    driver: http1::Connection<TokioIo<TcpStream>, HttpBody>,
    /// Whether it carries nothing more.
    ended: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// No connection: the program got nothing, and the request is given back.
    Refused(io::Error, Box<Message>),
    /// The connection ended before the answer did.
    Lost,
    /// What came is not HTTP.
    Malformed(String),
}

impl Pool {
    pub(crate) fn new(
        address: SocketAddrV4,
        network: Option<Arc<Network>>,
        keep: Duration,
    ) -> Self {
        Self {
            address,
            network,
            keep,
            idle: Mutex::default(),
            shown: None,
        }
    }

    /// Has what goes over the connections shown.
    pub(crate) fn shown(self, shown: Option<Shown>) -> Self {
        Self { shown, ..self }
    }

    /// Sends a request, and returns when the head of the answer is there.
    ///
    /// The request goes out before the first await point when an idle connection takes it.
    pub(crate) async fn send(
        &self,
        message: Message,
    ) -> Result<(Wire, Response<Incoming>), Failed> {
        let Some(shown) = &self.shown else {
            return self.carry(message).await;
        };
        shown.request(&message);
        let answered = self.carry(message).await;
        shown.answer(&answered);
        answered
    }

    async fn carry(&self, message: Message) -> Result<(Wire, Response<Incoming>), Failed> {
        let mut message = message;
        while let Some(mut wire) = self.take() {
            match wire.send(message).await {
                Ok(response) => return Ok((wire, response)),
                // It was closed while it was idle, and nothing has been sent.
                Err((_, Some(unsent))) => message = unsent,
                Err((failed, None)) => return Err(failed),
            }
        }
        let mut wire = match self.connect().await {
            Ok(wire) => wire,
            Err(error) => return Err(Failed::Refused(error, Box::new(message))),
        };
        match wire.send(message).await {
            Ok(response) => Ok((wire, response)),
            Err((failed, _)) => Err(failed),
        }
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> io::Result<Wire> {
        let address = SocketAddr::V4(self.address);
        let stream = match &self.network {
            None => TcpStream::connect(address).await?,
            Some(network) => network.connect(address).await?,
        };
        Self::speak(stream).await
    }

    /// What speaks HTTP over a connection that was just made.
    pub(crate) async fn speak(stream: TcpStream) -> io::Result<Wire> {
        if stream.local_addr()? == stream.peer_addr()? {
            // Nobody listens, and the kernel chose the very port that was called.
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        stream.set_nodelay(true)?;
        let handshake = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEADER_BYTES)
            .handshake(TokioIo::new(stream));
        let (sender, driver) = handshake.await.map_err(io::Error::other)?;
        Ok(Wire {
            sender,
            driver,
            ended: false,
        })
    }

    /// Keeps a connection whose answer was read to its end.
    pub(crate) fn put(&self, wire: Wire) {
        if wire.ended {
            return;
        }
        let since = Instant::now();
        self.idle.lock().push(Idle { wire, since });
    }

    /// The connection that was used last; those that were idle for too long are closed.
    fn take(&self) -> Option<Wire> {
        let mut idle = self.idle.lock();
        // A program that serves one connection at a time would wait for the end of an old one.
        idle.retain(|idle| idle.since.elapsed() < self.keep);
        idle.pop().map(|idle| idle.wire)
    }
}

impl Wire {
    async fn send(
        &mut self,
        message: Message,
    ) -> Result<Response<Incoming>, (Failed, Option<Message>)> {
        if !self.is_ready().await {
            return Err((Failed::Lost, Some(message)));
        }
        let only_head = message.method() == Method::HEAD;
        let sending = self.sender.try_send_request(message);
        let sent = driven(&mut self.driver, &mut self.ended, sending).await;
        let response = sent.map_err(|mut error| {
            let unsent = error.take_message();
            (Failed::from(error.into_error()), unsent)
        })?;
        let without_body = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        let bodiless = only_head || without_body.contains(&response.status());
        if bodiless && announces_body(response.headers()) {
            // Many programs send that body nevertheless, and it would be read as the next answer.
            self.ended = true;
        }
        Ok(response)
    }

    /// The next piece of an answer; none at its end.
    pub(crate) async fn piece(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Failed> {
        loop {
            let frame = driven(&mut self.driver, &mut self.ended, body.frame()).await;
            let Some(frame) = frame else {
                return Ok(None);
            };
            // Trailers mean nothing here.
            if let Ok(data) = frame.map_err(Failed::from)?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// What [`Wire::piece`] waits for, to be polled.
    pub(crate) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        self.poll_driver(cx);
        Pin::new(body).poll_frame(cx).map_err(Failed::from)
    }

    fn poll_driver(&mut self, cx: &mut Context<'_>) {
        self.ended = self.ended || Pin::new(&mut self.driver).poll(cx).is_ready();
    }

    /// Whether it can take another request at once, because the last answer and the request before
    /// it have come to their end.
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_driver(cx);
        !self.ended && self.sender.is_ready()
    }

    /// The connection itself, once an answer has made it something else than HTTP.
    pub(crate) async fn upgraded(mut self) -> Result<(TcpStream, Bytes), Failed> {
        poll_fn(|cx| self.driver.poll_without_shutdown(cx)).await?;
        let parts = self.driver.into_parts();
        Ok((parts.io.into_inner(), parts.read_buf))
    }

    /// Whether a request can be sent, after a look at what has happened to the connection.
    async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(self.poll_idle(cx))).await
    }
}

/// Waits for `what` while it moves the connection.
async fn driven<F: Future>(
    driver: &mut http1::Connection<TokioIo<TcpStream>, HttpBody>,
    ended: &mut bool,
    what: F,
) -> F::Output {
    let mut what = pin!(what);
    poll_fn(|cx| {
        // What the connection's error means is told to whoever waits on it.
        *ended = *ended || Pin::new(&mut *driver).poll(cx).is_ready();
        what.as_mut().poll(cx)
    })
    .await
}

fn announces_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || (headers.get(header::CONTENT_LENGTH)).is_some_and(|length| length != "0")
}

impl From<hyper::Error> for Failed {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() {
            return Self::Malformed(error.to_string());
        }
        Self::Lost
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    /// A server that answers each request with `answer`; a connection ends after `each` of them.
    /// Counts its connections.
    async fn server(answer: &'static [u8], each: usize) -> (Pool, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            panic!("it was bound to an IPv4 address");
        };
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    for _ in 0..each {
                        if stream.read(&mut request).await.unwrap() == 0 {
                            return;
                        }
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        (Pool::new(address, None, Duration::from_secs(1)), count)
    }

    async fn call(pool: &Pool) -> Result<String, Failed> {
        ask(pool, Method::POST).await
    }

    async fn ask(pool: &Pool, method: Method) -> Result<String, Failed> {
        let request = Request::builder().method(method).header("host", "x");
        let message = request.body(HttpBody::default()).unwrap();
        let (mut wire, response) = pool.send(message).await?;
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(piece) = wire.piece(&mut body).await? {
            text.extend_from_slice(&piece);
        }
        pool.put(wire);
        Ok(String::from_utf8(text).unwrap())
    }

    #[tokio::test]
    async fn calls_one_after_the_other_share_a_connection() {
        let (pool, connections) = server(OK, 1000).await;
        for _ in 0..100 {
            assert_eq!(call(&pool).await.unwrap(), "ok");
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn calls_at_once_have_a_connection_each() {
        let (pool, connections) = server(OK, 1000).await;
        let (a, b, c) = tokio::join!(call(&pool), call(&pool), call(&pool));
        assert_eq!([a.unwrap(), b.unwrap(), c.unwrap()], ["ok", "ok", "ok"]);
        assert_eq!(connections.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_connection_that_the_program_closed_costs_no_call() {
        let (pool, connections) = server(OK, 1).await;
        for _ in 0..20 {
            assert_eq!(call(&pool).await.unwrap(), "ok");
            // The server closes after its answer; the end has arrived when the task ran again.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(connections.load(Ordering::Relaxed), 20);
    }

    #[tokio::test]
    async fn a_body_that_should_not_be_there_is_not_read_as_the_next_answer() {
        let silent = b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n";
        for (answer, method) in [(&silent[..], Method::POST), (OK, Method::HEAD)] {
            let (pool, connections) = server(answer, 1000).await;
            for _ in 0..3 {
                assert_eq!(ask(&pool, method.clone()).await.unwrap(), "");
            }
            assert_eq!(connections.load(Ordering::Relaxed), 3);
        }
        let (pool, connections) = server(b"HTTP/1.1 204 No Content\r\n\r\n", 1000).await;
        for _ in 0..3 {
            assert_eq!(call(&pool).await.unwrap(), "");
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_is_not_an_answer_is_told_from_no_answer() {
        let (pool, _) = server(b"SSH-2.0-OpenSSH\r\n\r\n", 1).await;
        assert!(matches!(call(&pool).await, Err(Failed::Malformed(_))));
        let (pool, _) = server(b"", 1).await;
        assert!(matches!(call(&pool).await, Err(Failed::Lost)));
        let (pool, _) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", 1).await;
        assert!(matches!(call(&pool).await, Err(Failed::Lost)));
        let nobody = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let pool = Pool::new(nobody, None, Duration::ZERO);
        assert!(matches!(call(&pool).await, Err(Failed::Refused(..))));
    }
}
