//! Lets whoever sends more than is wanted read why.
//!
//! A route that refuses a request before its end leaves bytes that nobody has read. To close the
//! connection then is to reset it, and a reset overtakes the answer: the sender learns that
//! something broke, and not what. So a connection that the server ends is read on and what comes is
//! thrown away for a while, during which the sender finds the answer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// How much is thrown away at most: whoever sends more does not look at answers.
const MOST: usize = 1 << 30;

/// How long that may take.
const LONGEST: Duration = Duration::from_secs(30);

/// How long nothing may come meanwhile: a client that has stopped sending has its answer.
const SILENCE: Duration = Duration::from_secs(2);

/// A connection that lingers when it is shut down, unless the server stops.
#[derive(Debug)]
pub(crate) struct Lingering {
    stream: TcpStream,
    stop: CancellationToken,
    /// None before the shutdown.
    rest: Option<Rest>,
}

#[derive(Debug)]
struct Rest {
    thrown_away: usize,
    end: Instant,
    /// Goes off when the connection was silent for too long, or at the end.
    enough: Pin<Box<Sleep>>,
}

impl Lingering {
    pub(crate) fn new(stream: TcpStream, stop: CancellationToken) -> Self {
        Self {
            stream,
            stop,
            rest: None,
        }
    }
}

impl Rest {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            thrown_away: 0,
            end: now + LONGEST,
            enough: Box::pin(sleep_until(now + SILENCE)),
        }
    }

    /// Ready when there is nothing more to wait for.
    fn poll_throw_away(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [0; 16 << 10];
        while self.thrown_away < MOST && self.enough.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut scrap);
            let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
            self.thrown_away += buffer.filled().len();
            let silent = Instant::now() + SILENCE;
            self.enough.as_mut().reset(silent.min(self.end));
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        if this.stop.is_cancelled() {
            return Poll::Ready(Ok(()));
        }
        let rest = this.rest.get_or_insert_with(Rest::new);
        rest.poll_throw_away(&mut this.stream, context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, Lingering, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let stop = CancellationToken::new();
        let server = Lingering::new(accepted.unwrap().0, stop.clone());
        (client.unwrap(), server, stop)
    }

    #[tokio::test]
    async fn an_answer_reaches_a_client_that_is_still_sending() {
        let (mut client, mut server, _stop) = pair().await;
        let serving = tokio::spawn(async move {
            server.write_all(b"too much").await.unwrap();
            server.shutdown().await.unwrap();
        });
        client.write_all(&vec![0; 8 << 20]).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "too much");
        drop(client);
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_more_is_left() {
        let (_client, mut server, _stop) = pair().await;
        let before = Instant::now();
        server.shutdown().await.unwrap();
        assert!(before.elapsed() >= SILENCE);
    }

    #[tokio::test]
    async fn a_server_that_stops_waits_for_nobody() {
        let (_client, mut server, stop) = pair().await;
        stop.cancel();
        tokio::time::timeout(SILENCE / 2, server.shutdown())
            .await
            .expect("at once")
            .unwrap();
    }
}
