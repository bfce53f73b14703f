//! Lets whoever sends more than is wanted read why.
//!
//! A route that refuses a body before its end leaves bytes that nobody has read. To close the
//! connection then is to reset it, and a reset overtakes the answer: the sender learns that
//! something broke, and not what. So the rest is read and thrown away for a while, during which the
//! sender finds the answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;

/// How much is thrown away at most: whoever sends more does not look at answers.
const MOST: u64 = 1 << 30;

/// How long that may take.
const LONGEST: Duration = Duration::from_secs(30);

/// A layer for routes with large bodies.
pub(crate) async fn linger(request: Request, next: Next) -> Response {
    let (give_back, mut unread) = oneshot::channel();
    let request = request.map(|body| {
        Body::new(Lent {
            body: Some(body),
            give_back: Some(give_back),
        })
    });
    let mut response = next.run(request).await;
    // A body that the answer goes on reading has not come back, nor has one that was read.
    if let Ok(body) = unread.try_recv() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        tokio::spawn(tokio::time::timeout(LONGEST, discard(body)));
    }
    response
}

async fn discard(body: Body) {
    let mut pieces = body.into_data_stream();
    let mut discarded = 0;
    while let Some(Ok(piece)) = pieces.next().await {
        discarded += piece.len() as u64;
        if discarded > MOST {
            return;
        }
    }
}

/// A body that comes back when it is dropped before its end.
struct Lent {
    /// None after the end.
    body: Option<Body>,
    give_back: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let exactly_nothing = || SizeHint::with_exact(0);
        let hint = self.body.as_ref().map(HttpBody::size_hint);
        hint.unwrap_or_else(exactly_nothing)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(give_back)) = (self.body.take(), self.give_back.take())
            && !body.is_end_stream()
        {
            // Nobody waits where the request itself was given up.
            _ = give_back.send(body);
        }
    }
}
