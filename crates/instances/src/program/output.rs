//! What a program writes, and the calls that it writes it for.
//!
//! A program's output does not say which call it belongs to, so it is a call's only while no other
//! one runs. A call that has its answer empties the pipes before it ends: what the program wrote
//! before it answered is still the call's.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

use crate::LogStream;
use crate::output::{Lines, Tail};

/// What is read from a pipe at once.
const PIECE: usize = 8 * 1024;

/// The pieces that are taken from a pipe before others get their turn: as much as a pipe holds.
const PIECES: usize = 8;

/// The two pipes of a program.
pub(crate) struct Output {
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    state: Mutex<State>,
    /// Told when no call runs any more.
    idle: Notify,
}

/// Whether a pipe may have more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Open,
    Ended,
}

struct State {
    lines: Lines,
    running: Vec<Running>,
    next: u64,
    /// The last output, for whoever has to explain why the program did not start.
    last_words: Tail,
}

struct Running {
    number: u64,
    request: Arc<str>,
    tail: Tail,
}

/// A call that runs, until this is dropped.
pub(crate) struct Call {
    output: Arc<Output>,
    number: u64,
}

impl Output {
    /// # Errors
    ///
    /// The system's limit of watched descriptors.
    pub(crate) fn new(stdout: OwnedFd, stderr: OwnedFd, lines: Lines) -> io::Result<Self> {
        Ok(Self {
            stdout: pipe::Receiver::from_owned_fd(stdout)?,
            stderr: pipe::Receiver::from_owned_fd(stderr)?,
            state: Mutex::new(State {
                lines,
                running: Vec::new(),
                next: 0,
                last_words: Tail::default(),
            }),
            idle: Notify::new(),
        })
    }

    /// Counts a call as running.
    pub(crate) fn begin(self: &Arc<Self>, request: &Arc<str>) -> Call {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.running.push(Running {
            number,
            request: Arc::clone(request),
            tail: Tail::default(),
        });
        drop(state);
        Call {
            output: Arc::clone(self),
            number,
        }
    }

    /// Waits until no call runs. Cancel safe.
    pub(crate) async fn until_idle(&self) {
        loop {
            let told = self.idle.notified();
            if self.state.lock().running.is_empty() {
                return;
            }
            told.await;
        }
    }

    /// Reads until both pipes end. Cancel safe.
    pub(crate) async fn read(&self) {
        tokio::join!(
            self.read_one(&self.stdout, LogStream::Stdout),
            self.read_one(&self.stderr, LogStream::Stderr),
        );
    }

    async fn read_one(&self, pipe: &pipe::Receiver, stream: LogStream) {
        while pipe.readable().await.is_ok() && self.read_ready(pipe, stream) == Side::Open {}
    }

    fn read_ready(&self, pipe: &pipe::Receiver, stream: LogStream) -> Side {
        let mut piece = [0; PIECE];
        // Locked before it reads: a call that ends meanwhile would lose what was read for it.
        let mut state = self.state.lock();
        match pipe.try_read(&mut piece) {
            Ok(count @ 1..) => {
                state.take(&piece[..count], stream);
                Side::Open
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Side::Open,
            Ok(0) | Err(_) => Side::Ended,
        }
    }

    /// Takes what is in the pipes now.
    pub(crate) fn drain(&self) {
        let mut piece = [0; PIECE];
        let mut state = self.state.lock();
        for (pipe, stream) in [
            (&self.stdout, LogStream::Stdout),
            (&self.stderr, LogStream::Stderr),
        ] {
            // Past the readiness that tokio remembers, which may be older than what was written.
            for _ in 0..PIECES {
                match rustix::io::read(pipe, &mut piece) {
                    Ok(count @ 1..) => state.take(&piece[..count], stream),
                    _ => break,
                }
            }
        }
    }

    /// Takes what is left after the end of the program.
    pub(crate) fn finish(&self) {
        self.drain();
        self.state.lock().lines.finish();
    }

    /// Adds a line of the platform to the function's log.
    pub(crate) fn say(&self, text: String) {
        self.state.lock().lines.say(text);
    }

    /// The end of what the program has written so far.
    pub(crate) fn last_words(&self) -> Option<String> {
        self.drain();
        let tail = std::mem::take(&mut self.state.lock().last_words).into_bytes();
        let text = String::from_utf8_lossy(&tail);
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl State {
    fn take(&mut self, text: &[u8], stream: LogStream) {
        self.last_words.push(text);
        let request = match &mut self.running[..] {
            [only] => {
                only.tail.push(text);
                Some(Arc::clone(&only.request))
            }
            _ => None,
        };
        self.lines.raw(text, stream, request.as_ref());
    }
}

impl Call {
    /// The end of what the program wrote while only this call ran.
    pub(crate) fn tail(self) -> Vec<u8> {
        self.output.drain();
        self.take().map_or_else(Vec::new, Tail::into_bytes)
    }

    fn take(&self) -> Option<Tail> {
        let mut state = self.output.state.lock();
        let at = state
            .running
            .iter()
            .position(|call| call.number == self.number)?;
        let call = state.running.swap_remove(at);
        if state.running.is_empty() {
            self.output.idle.notify_waiters();
        }
        Some(call.tail)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.take();
    }
}
