//! Upgraded connections of functions that are web servers, carried by the stream of their exchange.
//!
//! Which exchanges may become one is read from their heads, on both sides alike. Their callers send no body, so the
//! caller's half of the stream stays open, and carries the caller's bytes once the server has agreed.

use bugle_instances::Upgraded;
use bytes::{Bytes, BytesMut};
use h2::SendStream;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{Method, request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::task::AbortOnDropHandle;

use crate::stream::{Incoming, send};

/// Bytes that wait on the platform for the caller, and as many for the node.
const WAITING: usize = 64 * 1024;

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// Whether the caller asks for a `WebSocket`, and so sends nothing before the answer.
pub(crate) fn is_asked_for(head: &request::Parts) -> bool {
    let names = |name, wanted: &str| {
        let values = head.headers.get_all(name).into_iter();
        let mut texts = values.filter_map(|value| value.to_str().ok());
        texts.any(|text| {
            text.split(',')
                .any(|word| word.trim().eq_ignore_ascii_case(wanted))
        })
    };
    let empty = head
        .headers
        .get(CONTENT_LENGTH)
        .is_none_or(|length| length == "0");
    head.method == Method::GET
        && names(UPGRADE, "websocket")
        && names(CONNECTION, "upgrade")
        && empty
        && !head.headers.contains_key(TRANSFER_ENCODING)
}

/// On the platform: the caller's end of a connection to a server on a node.
pub(crate) fn to_node(sender: SendStream<Bytes>, receiver: Incoming) -> Upgraded {
    let (ours, theirs) = tokio::io::duplex(WAITING);
    let carried = tokio::spawn(carry(ours, sender, receiver));
    Upgraded {
        stream: Box::new(theirs),
        first: Bytes::new(),
        running: Box::new(AbortOnDropHandle::new(carried)),
    }
}

/// Carries bytes both ways until both sides have ended, or one is gone: dropping a stream resets it.
async fn carry(stream: DuplexStream, sender: SendStream<Bytes>, receiver: Incoming) {
    let (from, to) = tokio::io::split(stream);
    let both = tokio::try_join!(give(from, sender), take(receiver, to));
    if let Err(end) = both {
        tracing::debug!(%end, "an upgraded connection to a node broke");
    }
}

/// On the node: connects the server with the stream of its exchange.
pub(crate) async fn to_server(
    server: Upgraded,
    mut sender: SendStream<Bytes>,
    receiver: Incoming,
) -> std::io::Result<()> {
    let Upgraded {
        stream,
        first,
        running,
    } = server;
    send(&mut sender, first)
        .await
        .map_err(std::io::Error::other)?;
    let (from, to) = tokio::io::split(stream);
    let both = tokio::try_join!(give(from, sender), take(receiver, to));
    drop(running);
    both.map(|_| ())
}

/// What is read goes to the other side, and so does the end.
async fn give(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut sender: SendStream<Bytes>,
) -> std::io::Result<()> {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        if from.read_buf(&mut piece).await? == 0 {
            let ended = sender.send_data(Bytes::new(), true);
            return ended.map_err(std::io::Error::other);
        }
        let sent = send(&mut sender, piece.freeze()).await;
        sent.map_err(std::io::Error::other)?;
    }
}

/// What the other side sends is written, and so is its end.
async fn take(
    mut receiver: Incoming,
    mut to: impl tokio::io::AsyncWrite + Unpin,
) -> std::io::Result<()> {
    while let Some(bytes) = receiver.raw().await.map_err(std::io::Error::other)? {
        to.write_all(&bytes).await?;
    }
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_websocket_is_asked_for_without_a_body() {
        let asks = |headers: &[(&str, &str)]| {
            let mut request = http::Request::get("/");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            is_asked_for(&request.body(()).unwrap().into_parts().0)
        };
        let upgrade = ("upgrade", "WebSocket");
        let connection = ("connection", "keep-alive, Upgrade");
        assert!(asks(&[upgrade, connection]));
        assert!(asks(&[upgrade, connection, ("content-length", "0")]));
        assert!(!asks(&[upgrade]));
        assert!(!asks(&[connection]));
        assert!(!asks(&[("upgrade", "h2c"), connection]));
        assert!(!asks(&[upgrade, connection, ("content-length", "3")]));
        assert!(!asks(&[
            upgrade,
            connection,
            ("transfer-encoding", "chunked")
        ]));
    }
}
