//! The body of an upload: a file that is read as it is sent.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Body, Frame};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

/// How much is read at once.
const CHUNK: usize = 256 << 10;

/// What is left of the file; `sent` is told how many bytes were taken so far.
pub(crate) fn body(
    file: std::fs::File,
    sent: impl Fn(u64) + Send + 'static,
) -> impl Body<Data = Bytes, Error = io::Error> + Send + 'static {
    let start = (File::from_std(file), 0_u64, sent);
    let chunks = stream::try_unfold(start, |(mut file, mut done, sent)| async move {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = (&mut file)
            .take(CHUNK as u64)
            .read_to_end(&mut chunk)
            .await?;
        if read == 0 {
            return Ok(None);
        }
        done += read as u64;
        sent(done);
        Ok(Some((Frame::data(Bytes::from(chunk)), (file, done, sent))))
    });
    StreamBody::new(chunks)
}
