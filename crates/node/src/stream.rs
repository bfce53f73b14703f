//! One HTTP/2 stream as this crate uses it: bytes out at the pace of the other side, parts in.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use crate::parts::{Decoder, Garbage, Part};

/// What a connection may have under way, for each stream and in all. A slow reader holds up its own
/// stream; the connection's window is far above what one stream may take.
pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
pub(crate) const FRAME: u32 = 64 * 1024;

/// Calls of one node at once. More wait inside the connection.
pub(crate) const STREAMS: u32 = 10_000;

/// Why a stream ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The connection or the stream.
    #[error("the stream broke")]
    Stream(#[from] h2::Error),
    /// What came over it.
    #[error(transparent)]
    Garbage(#[from] Garbage),
}

/// Sends bytes as the other side takes them.
pub(crate) async fn send(
    stream: &mut SendStream<Bytes>,
    mut bytes: Bytes,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(room) => room?,
            None => return Err(h2::Reason::CANCEL.into()),
        };
        let piece = bytes.split_to(room.min(bytes.len()));
        stream.send_data(piece, false)?;
    }
    Ok(())
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Incoming {
    stream: RecvStream,
    decoder: Decoder,
}

impl Incoming {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
        }
    }

    /// The next part; none at the end. Cancel safe.
    pub(crate) async fn part(&mut self) -> Result<Option<Part>, Broken> {
        loop {
            if let Some(part) = self.decoder.next()? {
                return Ok(Some(part));
            }
            match self.chunk().await? {
                Some(bytes) => self.decoder.push(&bytes),
                None if self.decoder.is_empty() => return Ok(None),
                None => return Err(Garbage("a part without its end").into()),
            }
        }
    }

    /// What follows the last part, as it comes. Cancel safe.
    pub(crate) async fn raw(&mut self) -> Result<Option<Bytes>, h2::Error> {
        if !self.decoder.is_empty() {
            return Ok(Some(self.decoder.rest()));
        }
        self.chunk().await
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, h2::Error> {
        match self.stream.data().await {
            None => Ok(None),
            Some(Err(error)) => Err(error),
            Some(Ok(bytes)) => {
                self.stream.flow_control().release_capacity(bytes.len())?;
                Ok(Some(bytes))
            }
        }
    }

    /// All of it, at most `limit` bytes.
    pub(crate) async fn whole(mut self, limit: usize) -> Result<Bytes, Broken> {
        let mut all = bytes::BytesMut::new();
        while let Some(bytes) = self.raw().await? {
            all.extend_from_slice(&bytes);
            if all.len() > limit {
                return Err(Garbage("a body that is too long").into());
            }
        }
        Ok(all.freeze())
    }
}
