//! A connection that no longer speaks HTTP (WebSocket): bytes in both directions until one side ends
//! it, nothing moved for too long, or its time is over. It holds its slot as long.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bugle_instances::{ByteStream, Upgraded};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional};
use tokio::time::{Instant, sleep, sleep_until};

use super::Held;
use crate::connection::{Connection, Order};
use crate::gateway::{Place, Shared};

/// The idle limit is kept to this part of it.
const LOOKS: u32 = 8;

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Idle,
    Overdue,
    Stopping,
}

/// Connects both sides, in a task of its own: the client's connection becomes free for that only when
/// the answer has been sent.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    upgrade: OnUpgrade,
    server: Upgraded,
    held: Held,
) {
    let place = Place::take(shared);
    let connection = Arc::clone(connection);
    let (idle, total) = (shared.config.tunnel_idle(), shared.config.tunnel());
    shared.tasks.spawn(async move {
        let Upgraded {
            stream,
            first,
            running,
        } = server;
        match upgrade.await {
            Ok(client) => {
                let mut client = TokioIo::new(client);
                let moved = Arc::default();
                let mut server = Counting {
                    stream,
                    moved: Arc::clone(&moved),
                };
                let copying = async {
                    client.write_all(&first).await?;
                    copy_bidirectional(&mut client, &mut server).await
                };
                let end = tokio::select! {
                    biased;
                    () = connection.told(Order::GiveUp) => End::Stopping,
                    // How a connection ends is its two sides' business.
                    _ = copying => End::Closed,
                    () = stands_still(&moved, idle) => End::Idle,
                    () = sleep(total) => End::Overdue,
                };
                tracing::debug!(?end, "upgraded connection ended");
            }
            Err(error) => tracing::debug!(%error, "connection ended before it was upgraded"),
        }
        drop(running);
        held.done();
        drop(place);
    });
}

async fn stands_still(moved: &AtomicU64, limit: Duration) {
    let mut seen = moved.load(Ordering::Relaxed);
    let mut since = Instant::now();
    while since.elapsed() < limit {
        sleep_until(Instant::now() + limit / LOOKS).await;
        let now = moved.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}

/// Counts the bytes that pass.
struct Counting {
    stream: Box<dyn ByteStream>,
    moved: Arc<AtomicU64>,
}

impl Counting {
    fn count(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.count(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.stream).poll_write(cx, data))?;
        self.count(bytes);
        Poll::Ready(Ok(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
