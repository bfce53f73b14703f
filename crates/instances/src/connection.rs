//! The conversation with one instance.
//!
//! A caller writes its frame itself, under a short lock, so that a call to a free instance costs no
//! switch of tasks; only what the kernel does not take at once is left to the instance's pump
//! (`pump.rs`). The pump reads everything, and is the only one that ends the conversation: a reply
//! that was written before the process ended still arrives.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::sync::{Notify, oneshot};

use crate::frame::{BODY_IS_JSON, Header, STREAM_WANTED, ToInstance};
use crate::output::Tail;
use crate::socket::Socket;
use crate::stream::StreamQueue;
use crate::{CallError, CallRequest, ExitCause, Reply};

/// What the instance said about its start.
pub(crate) type StartReport = Result<Bytes, Bytes>;

/// The platform's end of the socket, and who waits for what.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    state: Mutex<State>,
    /// Tells the pump that frames wait for the kernel.
    pub(crate) unsent: Notify,
    /// The most memory the instance has reported, in bytes.
    pub(crate) peak_memory: AtomicU64,
}

#[derive(Debug)]
struct State {
    next_id: u32,
    calls: HashMap<u32, Pending>,
    unsent: VecDeque<Unsent>,
    start: Option<oneshot::Sender<StartReport>>,
    ended: Option<ExitCause>,
}

/// A call that waits for its reply.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) reply: oneshot::Sender<Result<Reply, CallError>>,
    pub(crate) request: Arc<str>,
    pub(crate) tail: Tail,
    pub(crate) stream: Option<Arc<StreamQueue>>,
}

/// A frame, or the end of one, that the kernel had no room for.
#[derive(Debug)]
struct Unsent {
    /// The call whose frame this is, 0 for none.
    call: u32,
    /// Whether the beginning has been sent.
    begun: bool,
    parts: VecDeque<Bytes>,
}

/// A call that was handed to the instance. Dropping it forgets the call.
#[derive(Debug)]
pub(crate) struct Handed<'a> {
    connection: &'a Connection,
    pub(crate) id: u32,
    pub(crate) reply: oneshot::Receiver<Result<Reply, CallError>>,
    pub(crate) stream: Option<Arc<StreamQueue>>,
}

impl Drop for Handed<'_> {
    fn drop(&mut self) {
        // Does nothing after the reply, which took the call out.
        self.connection.take(self.id);
    }
}

impl Connection {
    /// A conversation over `socket`, and what tells of the start.
    pub(crate) fn new(socket: Socket) -> (Self, oneshot::Receiver<StartReport>) {
        let (start, started) = oneshot::channel();
        let state = State {
            next_id: 1,
            calls: HashMap::new(),
            unsent: VecDeque::new(),
            start: Some(start),
            ended: None,
        };
        let connection = Self {
            socket,
            state: Mutex::new(state),
            unsent: Notify::new(),
            peak_memory: AtomicU64::new(0),
        };
        (connection, started)
    }

    /// Sends the START frame, with the tree of the code if the instance is to be shown one.
    pub(crate) fn send_start(
        &self,
        message: Vec<u8>,
        compiled: Bytes,
        code: Option<BorrowedFd<'_>>,
    ) {
        let header = Header {
            kind: ToInstance::Start,
            flags: 0,
            status: 0,
            id: 0,
            value: 0,
        };
        let meta = [Bytes::from(message)];
        self.send_with(&mut self.state.lock(), header, &meta, compiled, code);
    }

    /// Hands a call to the instance.
    ///
    /// # Errors
    ///
    /// Why the instance is gone.
    pub(crate) fn hand_over(&self, request: CallRequest) -> Result<Handed<'_>, ExitCause> {
        let (reply, receiver) = oneshot::channel();
        let stream = request.stream.map(|sink| Arc::new(StreamQueue::new(sink)));
        let mut flags = 0;
        if request.json {
            flags |= BODY_IS_JSON;
        }
        if stream.is_some() {
            flags |= STREAM_WANTED;
        }
        let name = request_id(&request.request);
        let mut state = self.state.lock();
        if let Some(cause) = &state.ended {
            return Err(cause.clone());
        }
        let id = state.free_id();
        let pending = Pending {
            reply,
            request: request.request,
            tail: Tail::default(),
            stream: stream.clone(),
        };
        state.calls.insert(id, pending);
        let header = Header {
            kind: ToInstance::Call,
            flags,
            status: u16::try_from(name.len()).unwrap_or(u16::MAX),
            id,
            value: u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX),
        };
        self.send(&mut state, header, &[name, request.meta], request.body);
        drop(state);
        Ok(Handed {
            connection: self,
            id,
            reply: receiver,
            stream,
        })
    }

    /// Asks for an orderly end within `grace_millis`.
    pub(crate) fn send_stop(&self, grace_millis: u64) {
        self.send_number(ToInstance::Stop, 0, grace_millis);
    }

    /// Tells the instance that `units` of a call's stream were taken.
    pub(crate) fn acknowledge(&self, id: u32, units: u64) {
        self.send_number(ToInstance::Acknowledge, id, units);
    }

    fn send_number(&self, kind: ToInstance, id: u32, value: u64) {
        let header = Header {
            kind,
            flags: 0,
            status: 0,
            id,
            value,
        };
        self.send(&mut self.state.lock(), header, &[], Bytes::new());
    }

    /// Writes a frame as far as the kernel takes it, and leaves the rest to the pump.
    ///
    /// A failed write is not an error here: the pump sees the end of the process, and settles what
    /// is pending with its cause.
    fn send(&self, state: &mut State, header: Header, meta: &[Bytes], body: Bytes) {
        self.send_with(state, header, meta, body, None);
    }

    /// The same with a descriptor, which is lost if the kernel does not take the beginning.
    fn send_with(
        &self,
        state: &mut State,
        header: Header,
        meta: &[Bytes],
        body: Bytes,
        fd: Option<BorrowedFd<'_>>,
    ) {
        let meta_len: usize = meta.iter().map(Bytes::len).sum();
        let lengths = (u32::try_from(meta_len), u32::try_from(body.len()));
        let (Ok(meta_len), Ok(body_len)) = lengths else {
            // The gateway bounds both at a few MiB.
            state.calls.remove(&header.id);
            return;
        };
        let head = header.encode(meta_len, body_len);
        let sent = if state.unsent.is_empty() {
            self.try_send(&head, meta, &body, fd)
        } else {
            0
        };
        let total = head.len() + meta_len as usize + body.len();
        if sent == total {
            return;
        }
        let mut parts = VecDeque::with_capacity(2 + meta.len());
        parts.push_back(Bytes::copy_from_slice(&head));
        parts.extend(meta.iter().cloned());
        parts.push_back(body);
        let mut rest = Unsent {
            call: if header.kind == ToInstance::Call {
                header.id
            } else {
                0
            },
            begun: sent > 0,
            parts,
        };
        rest.advance(sent);
        state.unsent.push_back(rest);
        self.unsent.notify_one();
    }

    fn try_send(
        &self,
        head: &[u8],
        meta: &[Bytes],
        body: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> usize {
        let empty: &[u8] = &[];
        let part = |at: usize| IoSlice::new(meta.get(at).map_or(empty, |part| part));
        let slices = [IoSlice::new(head), part(0), part(1), IoSlice::new(body)];
        self.write(&slices, fd)
    }

    /// How many bytes the kernel took.
    fn write(&self, slices: &[IoSlice<'_>], fd: Option<BorrowedFd<'_>>) -> usize {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let fds = fd.map(|fd| [fd]);
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(fds) = &fds
            && !ancillary.push(SendAncillaryMessage::ScmRights(fds))
        {
            return 0;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.socket, slices, &mut ancillary, flags).unwrap_or(0)
    }

    /// Sends what is left over, as far as the kernel takes it.
    pub(crate) fn send_unsent(&self) {
        let mut state = self.state.lock();
        while let Some(first) = state.unsent.front_mut() {
            while let Some(part) = first.parts.front() {
                let len = part.len();
                let sent = if len == 0 {
                    0
                } else {
                    self.write(&[IoSlice::new(part)], None)
                };
                first.begun |= sent > 0;
                first.advance(sent);
                if sent < len {
                    return;
                }
            }
            state.unsent.pop_front();
        }
    }

    /// Whether frames wait for the kernel.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.state.lock().unsent.is_empty()
    }

    /// Takes a call out, to settle it.
    pub(crate) fn take(&self, id: u32) -> Option<Pending> {
        self.state.lock().calls.remove(&id)
    }

    /// Shows a call to `see`.
    pub(crate) fn with<T>(&self, id: u32, see: impl FnOnce(&mut Pending) -> T) -> Option<T> {
        self.state.lock().calls.get_mut(&id).map(see)
    }

    /// The request that runs, if it is the only one.
    pub(crate) fn only_request(&self) -> Option<Arc<str>> {
        let state = self.state.lock();
        let mut calls = state.calls.values();
        match (calls.next(), calls.next()) {
            (Some(call), None) => Some(Arc::clone(&call.request)),
            _ => None,
        }
    }

    /// Settles the start; false if it was settled before.
    pub(crate) fn settle_start(&self, report: StartReport) -> bool {
        let Some(start) = self.state.lock().start.take() else {
            return false;
        };
        // Nobody waits any more when the start was given up; the instance is killed then.
        _ = start.send(report);
        true
    }

    /// Ends the conversation: no call is taken any more, and all that wait are told the cause.
    pub(crate) fn end(&self, cause: &ExitCause, violation: Option<&str>) {
        let mut state = self.state.lock();
        state.ended = Some(cause.clone());
        state.start = None;
        let unsent = std::mem::take(&mut state.unsent);
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        for (id, call) in calls {
            let error = if unsent.iter().any(|frame| frame.call == id && !frame.begun) {
                CallError::NotSent(cause.clone())
            } else if let Some(text) = violation {
                CallError::Protocol(text.to_owned())
            } else {
                CallError::Exited(cause.clone())
            };
            _ = call.reply.send(Err(error));
        }
    }

    /// The most memory the instance has reported, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.peak_memory.load(Ordering::Relaxed)
    }
}

impl State {
    /// The next number that no call has; 0 stands for none.
    fn free_id(&mut self) -> u32 {
        loop {
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1).max(1);
            if !self.calls.contains_key(&id) {
                return id;
            }
        }
    }
}

impl Unsent {
    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.parts.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.parts.pop_front();
        }
    }
}

/// The request id as it goes into the frame, whose field for its length has 16 bits.
fn request_id(request: &Arc<str>) -> Bytes {
    const LONGEST: usize = 1024;
    let end = request.floor_char_boundary(LONGEST);
    Bytes::copy_from_slice(&request.as_bytes()[..end])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::UnixStream;

    use super::*;
    use crate::ReplyBody;

    fn request(body: usize) -> CallRequest {
        CallRequest {
            request: "r".into(),
            body: Bytes::from(vec![b'x'; body]),
            meta: Bytes::from_static(b"{}"),
            json: true,
            timeout: Duration::from_secs(1),
            stream: None,
        }
    }

    fn connection() -> (Connection, UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let socket = Socket::new(ours.into()).unwrap();
        (
            Connection::new(socket).0,
            UnixStream::from_std(theirs).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_call_that_was_not_begun_has_not_run() {
        let (connection, _theirs) = connection();
        let mut begun = connection.hand_over(request(4_000_000)).unwrap();
        let mut waiting = connection.hand_over(request(10)).unwrap();
        assert!(connection.has_unsent());
        connection.end(&ExitCause::Code(1), None);
        let cause = ExitCause::Code(1);
        let error = (&mut begun.reply).await.unwrap().unwrap_err();
        assert_eq!(error, CallError::Exited(cause.clone()));
        let error = (&mut waiting.reply).await.unwrap().unwrap_err();
        assert_eq!(error, CallError::NotSent(cause.clone()));
        assert_eq!(connection.hand_over(request(1)).unwrap_err(), cause);
    }

    #[tokio::test]
    async fn frames_that_the_kernel_has_no_room_for_follow_whole_and_in_order() {
        let (connection, theirs) = connection();
        let sizes = [3_000_000, 5, 0, 700_000, 1];
        let calls: Vec<_> = sizes
            .iter()
            .map(|size| connection.hand_over(request(*size)).unwrap())
            .collect();
        let expected: usize = sizes.iter().map(|size| 24 + 1 + 2 + size).sum();
        let mut read = Vec::new();
        while read.len() < expected {
            theirs.readable().await.unwrap();
            _ = theirs.try_read_buf(&mut read);
            connection.send_unsent();
        }
        assert!(!connection.has_unsent());
        let mut rest = &read[..];
        for (call, size) in calls.iter().zip(sizes) {
            assert_eq!(rest[4..8], u32::try_from(size).unwrap().to_le_bytes());
            assert_eq!(rest[12..16], call.id.to_le_bytes());
            assert_eq!(rest[24..27], *b"r{}");
            assert!(rest[27..27 + size].iter().all(|byte| *byte == b'x'));
            rest = &rest[27 + size..];
        }
        assert!(rest.is_empty());
    }

    #[tokio::test]
    async fn a_dropped_call_is_forgotten() {
        let (connection, _theirs) = connection();
        let call = connection.hand_over(request(1)).unwrap();
        let id = call.id;
        assert!(connection.only_request().is_some());
        drop(call);
        assert!(connection.only_request().is_none());
        assert!(connection.take(id).is_none());
    }

    #[tokio::test]
    async fn a_settled_call_is_answered() {
        let (connection, _theirs) = connection();
        let mut call = connection.hand_over(request(1)).unwrap();
        let pending = connection.take(call.id).unwrap();
        let reply = Reply {
            body: ReplyBody::Json(Bytes::from_static(b"1")),
            run: Duration::ZERO,
            peak_memory: 0,
            log_tail: Vec::new(),
        };
        pending.reply.send(Ok(reply)).unwrap();
        assert!((&mut call.reply).await.unwrap().is_ok());
    }
}
