//! What a caller sends to a function's server: as it comes, up to a limit.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bugle_instances::BrokenBody;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::body::Inbound;
use crate::connection::Connection;

/// A caller's body on its way.
#[derive(Debug)]
pub(super) struct Upload {
    body: Inbound,
    /// How much more may come, in bytes.
    left: u64,
    connection: Arc<Connection>,
}

impl Upload {
    pub(super) fn new(body: Inbound, limit: u64, connection: Arc<Connection>) -> Self {
        Self {
            body,
            left: limit,
            connection,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                return Poll::Ready(None);
            };
            // Trailers do not pass.
            let Ok(data) = frame.map_err(|_| BrokenBody)?.into_data() else {
                continue;
            };
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                self.connection.overran.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(BrokenBody)));
            };
            self.left = left;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            // The server answered without reading to the end. The connection cannot be used again.
            self.connection.linger();
        }
    }
}
