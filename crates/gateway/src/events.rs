//! Server-sent events: what a handler writes to its stream, as a client sees it (contract 8.1).
//!
//! A handler's writes become events here. A program writes events itself, which pass as they are; of
//! those only the ends of events are looked for, so that what is added does not fall into one.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bugle_instances::StreamPart;
use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use http::header::{self, HeaderMap, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

use crate::connection::{Connection, Phase};
use crate::payload::Payload;

/// Writes of the handler that may wait for a slow client; the next one waits in the handler.
pub(crate) const WAITING_WRITES: usize = 16;

/// Writes that are there already are sent together up to about this size, in bytes.
const CHUNK_BYTES: usize = 16 << 10;

const DONE: &[u8] = b"data: [DONE]\n\n";
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";
const END_OF_EVENT: &[u8] = b"\n\n";

/// Adds the headers of an event stream; the content type of an answer in JSON is replaced.
pub(crate) fn add_headers(headers: &mut HeaderMap) {
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers
        .entry(header::CONNECTION)
        .or_insert(HeaderValue::from_static("keep-alive"));
}

/// Appends what a part of a stream is for the client.
fn write_part(out: &mut BytesMut, part: &StreamPart) {
    match part {
        StreamPart::Message(payload) => write_event(out, payload),
        // The headers have gone out before the first event.
        StreamPart::Head(_) => {}
        StreamPart::Events(events) => out.put_slice(events),
    }
}

/// Appends one event. Each line of the payload gets its own `data:` field, which the receiver joins
/// again with newlines.
pub(crate) fn write_event(out: &mut BytesMut, payload: &[u8]) {
    let text = String::from_utf8_lossy(payload);
    out.reserve(text.len() + 16);
    let mut rest = &*text;
    loop {
        let end = rest.find(['\n', '\r']);
        out.put_slice(b"data: ");
        out.put_slice(&rest.as_bytes()[..end.unwrap_or(rest.len())]);
        out.put_u8(b'\n');
        let Some(end) = end else { break };
        let ending = if rest[end..].starts_with("\r\n") {
            2
        } else {
            1
        };
        rest = &rest[end + ending..];
    }
    out.put_u8(b'\n');
}

/// Turns an answer in one piece into a stream of one event and the mark of the end.
pub(crate) fn of_answer(mut response: Response<Payload>) -> Response<Payload> {
    add_headers(response.headers_mut());
    if let Payload::Whole(body) = response.body_mut() {
        let mut out = BytesMut::new();
        write_event(&mut out, body);
        out.put_slice(DONE);
        *body = out.freeze();
    }
    response
}

/// The result of the call, as the text of the last event; none where the stream was a program's own,
/// which ends as the program ended it.
pub(crate) type LastEvent = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

/// Empty lines, by which events end, in the forms that the line ends can take.
const EMPTY_LINES: [&[u8]; 4] = [b"\n\n", b"\r\r", b"\n\r\n", b"\r\r\n"];

/// The last bytes of a stream: they tell whether something can be added between two events.
#[derive(Clone, Copy, Debug)]
struct LastBytes([u8; 3]);

impl Default for LastBytes {
    /// At the beginning there is no event yet.
    fn default() -> Self {
        Self(*b"\n\n\n")
    }
}

impl LastBytes {
    fn push(&mut self, bytes: &[u8]) {
        for byte in &bytes[bytes.len().saturating_sub(self.0.len())..] {
            self.0.rotate_left(1);
            self.0[2] = *byte;
        }
    }

    fn are_between_events(self) -> bool {
        EMPTY_LINES.iter().any(|empty| self.0.ends_with(empty))
    }
}

/// A stream of events that has begun.
pub(crate) struct Events {
    writes: mpsc::Receiver<StreamPart>,
    first: Option<StreamPart>,
    last_bytes: LastBytes,
    last: Option<LastEvent>,
    keep_alive: Duration,
    idle: Pin<Box<Sleep>>,
    connection: Arc<Connection>,
}

impl Events {
    /// The stream after its first write; `last` is ready when the call has ended.
    pub(crate) fn new(
        first: StreamPart,
        writes: mpsc::Receiver<StreamPart>,
        last: LastEvent,
        keep_alive: Duration,
        connection: Arc<Connection>,
    ) -> Self {
        Self {
            writes,
            first: Some(first),
            last_bytes: LastBytes::default(),
            last: Some(last),
            keep_alive,
            idle: Box::pin(sleep(keep_alive)),
            connection,
        }
    }

    /// The next bytes to send; none after the mark of the end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(last) = &mut self.last else {
            return Poll::Ready(None);
        };
        let mut out = BytesMut::new();
        if let Some(first) = self.first.take() {
            write_part(&mut out, &first);
        }
        while out.len() < CHUNK_BYTES {
            match self.writes.poll_recv(cx) {
                Poll::Ready(Some(part)) => write_part(&mut out, &part),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        self.last_bytes.push(&out);
        if out.is_empty() {
            match last.as_mut().poll(cx) {
                Poll::Ready(result) => {
                    // Writes that arrived since `poll_recv` looked come before the result.
                    while let Ok(part) = self.writes.try_recv() {
                        write_part(&mut out, &part);
                    }
                    self.last_bytes.push(&out);
                    if let Some(result) = result {
                        if !self.last_bytes.are_between_events() {
                            out.put_slice(END_OF_EVENT);
                        }
                        write_event(&mut out, &result);
                        out.put_slice(DONE);
                    }
                    self.last = None;
                    if out.is_empty() {
                        return Poll::Ready(None);
                    }
                }
                Poll::Pending => {
                    ready!(self.idle.as_mut().poll(cx));
                    if self.last_bytes.are_between_events() {
                        out.put_slice(KEEP_ALIVE);
                    } else {
                        self.idle.as_mut().reset(Instant::now() + self.keep_alive);
                        // Registers for the next time.
                        let _ = self.idle.as_mut().poll(cx);
                        return Poll::Pending;
                    }
                }
            }
        }
        self.idle.as_mut().reset(Instant::now() + self.keep_alive);
        Poll::Ready(Some(out.freeze()))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.connection.enter(Phase::Open);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("ended", &self.last.is_none())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(payload: &str) -> String {
        let mut out = BytesMut::new();
        write_event(&mut out, payload.as_bytes());
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn each_line_of_a_payload_has_its_own_field() {
        assert_eq!(event("hello"), "data: hello\n\n");
        assert_eq!(event(""), "data: \n\n");
        assert_eq!(event("a\nb"), "data: a\ndata: b\n\n");
        assert_eq!(
            event("a\r\nb\rc\n"),
            "data: a\ndata: b\ndata: c\ndata: \n\n"
        );
        assert_eq!(event("\n\n"), "data: \ndata: \ndata: \n\n");
    }

    #[test]
    fn the_end_of_an_event_is_seen_across_pieces_and_in_every_kind_of_line_end() {
        for (pieces, between) in [
            (&[][..], true),
            (&["data: a\n"], false),
            (&["data: a\n\n"], true),
            (&["data: a\n", "\n"], true),
            (&["data: a\r\n\r", "\n"], true),
            (&["data: a\r\r"], true),
            (&["data: a\r\n"], false),
            (&["data: a\n\n", "id: 1"], false),
        ] {
            let mut last = LastBytes::default();
            for piece in pieces {
                last.push(piece.as_bytes());
            }
            assert_eq!(last.are_between_events(), between, "{pieces:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_break_the_stream() {
        let mut out = BytesMut::new();
        write_event(&mut out, b"a\xff\nb");
        assert_eq!(&out[..], "data: a\u{fffd}\ndata: b\n\n".as_bytes());
    }

    proptest! {
        #[test]
        fn a_receiver_gets_the_payload_back(payload in "[a-z\u{e4}:\n ]{0,40}") {
            // What the WHATWG parser does: strip the field name and one space, join by newlines.
            let text = event(&payload);
            let body = text.strip_suffix("\n\n").unwrap();
            let lines: Vec<_> = body
                .split('\n')
                .map(|line| line.strip_prefix("data: ").unwrap())
                .collect();
            prop_assert_eq!(lines.join("\n"), payload);
        }
    }
}
