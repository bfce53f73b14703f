//! The task that reads what an instance sends, until its process is gone.
//!
//! Every byte read here was written by user code or by something that user code controls. What is
//! not of the protocol ends the instance; everything else is bounded before it is kept.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bugle_artifacts::Code;
use bytes::BytesMut;
use serde::Deserialize;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::child::Child;
use crate::connection::{Connection, Pending};
use crate::frame::{self, FROM_STDERR, Frame, FromInstance};
use crate::output::Lines;
use crate::stream::StreamQueue;
use crate::{Exit, LogStream, Reply, ReplyBody};

/// How long a process may live on after it closed its socket.
const LINGER: Duration = Duration::from_secs(1);

/// What is read from the socket at once; one buffer of this size exists per instance.
const READ: usize = 16 * 1024;

/// The most headers of an answer that the handler shapes itself, and their size together.
const MAX_HEADERS: usize = 128;
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Reads for one instance.
pub(crate) struct Pump {
    pub(crate) connection: Arc<Connection>,
    pub(crate) output: pipe::Receiver,
    pub(crate) child: Arc<Child>,
    pub(crate) lines: Lines,
    /// Told once, at the end.
    pub(crate) exit: watch::Sender<Option<Exit>>,
    /// Stays where it is as long as the process may read it.
    pub(crate) _code: Code,
}

/// Whether an end of the conversation has more to say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Open,
    Closed,
}

impl Pump {
    /// Reads until the process is gone, and settles what is pending then.
    pub(crate) async fn run(mut self) {
        let mut buffer = BytesMut::with_capacity(READ);
        let violation = self.read(&mut buffer).await.err();
        if let Some(text) = &violation {
            tracing::warn!(instance = %self.lines.instance(), reason = %text, "instance broke the protocol");
            self.child.kill();
        }
        let (cause, peak) = self.child.ended().await;
        if violation.is_none() {
            // What was sent before the end counts, whichever news came first.
            self.drain(&mut buffer);
        }
        self.lines.finish();
        let peak_memory = peak.max(self.connection.peak_memory());
        self.connection.end(&cause, violation.as_deref());
        self.exit.send_replace(Some(Exit { cause, peak_memory }));
    }

    /// Returns when the process is gone.
    ///
    /// # Errors
    ///
    /// What the instance did that it may not do.
    async fn read(&mut self, buffer: &mut BytesMut) -> Result<(), String> {
        let child = Arc::clone(&self.child);
        let ended = child.ended();
        tokio::pin!(ended);
        let mut output = Side::Open;
        let mut unsent = false;
        loop {
            // The pipe comes first: what a subprocess wrote belongs to the call whose result may
            // be in the socket already.
            tokio::select! {
                biased;
                ready = self.output.readable(), if output == Side::Open => {
                    ready.map_err(|error| error.to_string())?;
                    output = self.read_output();
                }
                read = self.connection.socket.read(buffer) => {
                    if !matches!(read, Ok(1..)) {
                        break;
                    }
                    self.take_frames(buffer)?;
                }
                sent = send_unsent(&self.connection), if unsent => {
                    sent.map_err(|error| format!("its socket cannot be written: {error}"))?;
                    unsent = false;
                }
                () = self.connection.unsent.notified(), if !unsent => unsent = true,
                _ = &mut ended => return Ok(()),
            }
        }
        let gone = tokio::time::timeout(LINGER, ended).await;
        gone.map(|_| ())
            .map_err(|_| "it closed its socket and went on".to_owned())
    }

    fn read_output(&mut self) -> Side {
        let mut piece = [0; 4096];
        match self.output.try_read(&mut piece) {
            Ok(0) => Side::Closed,
            Ok(count) => {
                self.take_output(&piece[..count]);
                Side::Open
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Side::Open,
            Err(_) => Side::Closed,
        }
    }

    fn take_output(&mut self, text: &[u8]) {
        let request = self.connection.only_request();
        self.lines.raw(text, LogStream::Stdout, request.as_ref());
    }

    fn take_frames(&mut self, buffer: &mut BytesMut) -> Result<(), String> {
        let mut large = false;
        while let Some(frame) = frame::decode(buffer).map_err(|error| error.to_string())? {
            large |= frame.body.len() > READ;
            self.take_frame(frame)?;
        }
        if large && buffer.is_empty() {
            // Else the room for one large result would stay with the instance.
            *buffer = BytesMut::with_capacity(READ);
        }
        Ok(())
    }

    /// Reads what is left of both, past the readiness that tokio remembers.
    fn drain(&mut self, buffer: &mut BytesMut) {
        let mut piece = vec![0; READ];
        while let Ok(count @ 1..) = rustix::io::read(&self.output, &mut piece[..]) {
            self.take_output(&piece[..count]);
        }
        while let Ok(1..) = self.connection.socket.receive(buffer, READ) {
            if self.take_frames(buffer).is_err() {
                return;
            }
        }
    }

    fn take_frame(&mut self, frame: Frame) -> Result<(), String> {
        match frame.kind {
            FromInstance::Ready => self.settle_start(Ok(frame.meta)),
            FromInstance::StartFailed => self.settle_start(Err(frame.meta)),
            FromInstance::Result => {
                let (id, run) = (frame.id, frame.value);
                let body = result_body(frame)?;
                self.settle(id, run, body);
                Ok(())
            }
            FromInstance::Failure => {
                let body = failure_body(&frame.meta)?;
                self.settle(frame.id, frame.value, body);
                Ok(())
            }
            FromInstance::Stream => self.take_message(frame),
            FromInstance::Log => {
                self.take_lines(&frame);
                Ok(())
            }
            FromInstance::Memory => {
                self.connection
                    .peak_memory
                    .fetch_max(frame.value, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn settle_start(&self, report: Result<bytes::Bytes, bytes::Bytes>) -> Result<(), String> {
        if self.connection.settle_start(report) {
            return Ok(());
        }
        Err("it reported its start twice".to_owned())
    }

    /// A reply to a call that nobody waits for any more is dropped.
    fn settle(&self, id: u32, run_micros: u64, body: ReplyBody) {
        let Some(Pending { reply, tail, .. }) = self.connection.take(id) else {
            return;
        };
        _ = reply.send(Ok(Reply {
            body,
            run: Duration::from_micros(run_micros),
            peak_memory: self.connection.peak_memory(),
            log_tail: tail.into_bytes(),
        }));
    }

    fn take_message(&self, frame: Frame) -> Result<(), String> {
        let units = StreamQueue::units(&frame.body);
        let stream = self
            .connection
            .with(frame.id, |call| call.stream.clone())
            .flatten();
        match stream {
            Some(stream) if stream.push(frame.body) => Ok(()),
            Some(_) => Err("it sent more of a stream than its window".to_owned()),
            // The caller is gone; the handler need not wait for it.
            None => {
                self.connection.acknowledge(frame.id, units);
                Ok(())
            }
        }
    }

    fn take_lines(&mut self, frame: &Frame) {
        let stream = if frame.flags & FROM_STDERR == 0 {
            LogStream::Stdout
        } else {
            LogStream::Stderr
        };
        let request = self.connection.with(frame.id, |call| {
            call.tail.push(&frame.body);
            Arc::clone(&call.request)
        });
        self.lines.whole(&frame.body, stream, request.as_ref());
    }
}

/// Writes what the kernel had no room for, as it gets room.
async fn send_unsent(connection: &Connection) -> io::Result<()> {
    let all_sent = || {
        connection.send_unsent();
        !connection.has_unsent()
    };
    connection.socket.for_writing()?.until(all_sent).await
}

fn result_body(frame: Frame) -> Result<ReplyBody, String> {
    match frame.status {
        0 => Ok(ReplyBody::Json(frame.body)),
        status @ 200..=599 => {
            let headers: Vec<(String, String)> = serde_json::from_slice(&frame.meta)
                .map_err(|error| format!("the headers of a result: {error}"))?;
            let size: usize = headers
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum();
            if headers.len() > MAX_HEADERS || size > MAX_HEADER_BYTES {
                return Ok(too_many_headers(headers.len(), size));
            }
            Ok(ReplyBody::Http {
                status,
                headers,
                body: frame.body,
            })
        }
        status => Err(format!("a result with the status {status}")),
    }
}

fn too_many_headers(count: usize, size: usize) -> ReplyBody {
    ReplyBody::Error {
        code: bugle_types::Code::ResponseTooLarge.number(),
        message: format!(
            "the {count} response headers with {size} bytes exceed the limit of {MAX_HEADERS} \
             headers with {MAX_HEADER_BYTES} bytes"
        ),
        kind: None,
        trace: None,
    }
}

/// The meta part of a FAILURE frame.
#[derive(Deserialize)]
struct Failure {
    code: u32,
    message: String,
    kind: Option<String>,
    trace: Option<String>,
}

fn failure_body(meta: &[u8]) -> Result<ReplyBody, String> {
    let failure: Failure =
        serde_json::from_slice(meta).map_err(|error| format!("a failure: {error}"))?;
    // The codes of the platform are not for user code to give.
    if !(4000..5000).contains(&failure.code) {
        return Err(format!("a failure with the code {}", failure.code));
    }
    Ok(ReplyBody::Error {
        code: failure.code,
        message: failure.message,
        kind: failure.kind,
        trace: failure.trace,
    })
}
