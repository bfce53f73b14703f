//! A blob on its way from a registry to the threads that unpack it.

use std::io::{self, Read};
use std::sync::atomic::Ordering;

use bytes::{Buf as _, Bytes};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::{ATTEMPTS, LONGEST_PAUSE, PAUSE, Repository};
use crate::progress::LayerCounters;
use crate::{Digest, ImageError};

/// Pieces between the network and the threads. One is what came at once, some ten to some hundred
/// kilobytes.
const PIECES: usize = 4;

/// The end that the network writes to.
pub(crate) type Pieces = mpsc::Sender<Result<Bytes, ImageError>>;

/// The end that is read where blocking is allowed.
#[derive(Debug)]
pub(crate) struct Chunks {
    pieces: mpsc::Receiver<Result<Bytes, ImageError>>,
    piece: Bytes,
}

/// A way from the network to a thread.
pub(crate) fn channel() -> (Pieces, Chunks) {
    let (sender, pieces) = mpsc::channel(PIECES);
    let chunks = Chunks {
        pieces,
        piece: Bytes::new(),
    };
    (sender, chunks)
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece.map_err(io::Error::other)?,
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Why a piece of a download ended.
enum Ended {
    /// All of it came, or nobody wants the rest.
    Done,
    /// The rest can be asked for again.
    Broken(ImageError),
}

impl Repository {
    /// Downloads a blob of this size. Where a connection breaks, the rest is asked for again; what
    /// came last is an error, if there is one. It ends early when the reader goes away.
    pub(crate) async fn download(
        &self,
        digest: Digest,
        size: u64,
        counters: &LayerCounters,
        pieces: Pieces,
    ) {
        let mut position = 0;
        let mut attempt = 1;
        loop {
            let before = position;
            let broken = match self
                .part(digest, size, &mut position, counters, &pieces)
                .await
            {
                Ok(Ended::Done) => return,
                Ok(Ended::Broken(error)) => error,
                Err(error) => {
                    let _ = pieces.send(Err(error)).await;
                    return;
                }
            };
            // A connection that brings something each time may break as often as it likes.
            attempt = if position > before { 1 } else { attempt + 1 };
            if attempt > ATTEMPTS {
                let _ = pieces.send(Err(broken)).await;
                return;
            }
            tracing::debug!(%digest, position, error = %broken, "a download goes on");
            let pause = (PAUSE * 2_u32.pow(attempt - 1)).min(LONGEST_PAUSE);
            tokio::select! {
                biased;
                () = pieces.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn part(
        &self,
        digest: Digest,
        size: u64,
        position: &mut u64,
        counters: &LayerCounters,
        pieces: &Pieces,
    ) -> Result<Ended, ImageError> {
        let response = self.ask(&self.blob_ask(&digest, *position)).await?;
        let mut skip = self.overlap(&response, *position)?;
        let mut body = response.into_body();
        loop {
            let frame = tokio::time::timeout(self.registries.silence, body.frame()).await;
            let mut data = match frame {
                Err(_) => return Ok(Ended::Broken(self.silent())),
                Ok(Some(Err(error))) => return Ok(Ended::Broken(self.broken(&error))),
                Ok(None) if *position < size => {
                    let reason = "it sent less than the blob has".to_owned();
                    return Ok(Ended::Broken(self.unreachable(reason)));
                }
                Ok(None) => return Ok(Ended::Done),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_trailers) => continue,
                },
            };
            let known = data.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            data.advance(known);
            skip -= known as u64;
            if data.is_empty() {
                continue;
            }
            *position += data.len() as u64;
            counters
                .fetched
                .store((*position).min(size), Ordering::Relaxed);
            // More than was declared is passed on as well, and refused by who counts.
            if pieces.send(Ok(data)).await.is_err() {
                return Ok(Ended::Done);
            }
        }
    }

    /// How much of what comes is known already: all of it for a server that begins at the
    /// beginning.
    fn overlap(&self, response: &Response<Incoming>, position: u64) -> Result<u64, ImageError> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(position);
        }
        let range = response.headers().get(http::header::CONTENT_RANGE);
        let first = range
            .and_then(|range| range.to_str().ok()?.strip_prefix("bytes "))
            .and_then(|range| range.split_once('-')?.0.parse::<u64>().ok());
        match first {
            Some(first) if first == position => Ok(0),
            _ => Err(self.answered("the rest of a blob", "another part of it")),
        }
    }
}
