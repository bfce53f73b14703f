//! Messages of a handler's stream, between the pump and the call that hands them to the client.
//!
//! The instance may have a window of unacknowledged messages under way, so the queue here is
//! bounded by the protocol; an instance that sends more is broken and is killed.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::StreamSink;
use crate::frame::STREAM_OVERHEAD;

/// How much of one call's stream may be unacknowledged before the handler has to wait.
pub(crate) const WINDOW: u64 = 1024 * 1024;

/// The largest message, which may begin just before the window is full.
const LARGEST: u64 = 4 * 1024 * 1024 + STREAM_OVERHEAD;

/// The messages that the client has not taken.
#[derive(Debug)]
pub(crate) struct StreamQueue {
    pub(crate) sink: StreamSink,
    messages: Mutex<Messages>,
    pub(crate) arrived: Notify,
}

#[derive(Debug, Default)]
struct Messages {
    queue: VecDeque<Bytes>,
    units: u64,
}

impl StreamQueue {
    pub(crate) fn new(sink: StreamSink) -> Self {
        Self {
            sink,
            messages: Mutex::default(),
            arrived: Notify::new(),
        }
    }

    /// What a message counts against the window.
    pub(crate) fn units(message: &Bytes) -> u64 {
        message.len() as u64 + STREAM_OVERHEAD
    }

    /// Adds a message; false if the instance has sent more than it may.
    pub(crate) fn push(&self, message: Bytes) -> bool {
        let mut messages = self.messages.lock();
        messages.units += Self::units(&message);
        if messages.units > WINDOW + LARGEST {
            return false;
        }
        messages.queue.push_back(message);
        drop(messages);
        self.arrived.notify_one();
        true
    }

    /// Takes the oldest message. It counts until it is acknowledged.
    pub(crate) fn pop(&self) -> Option<Bytes> {
        self.messages.lock().queue.pop_front()
    }

    /// Gives the room of a message back.
    pub(crate) fn acknowledge(&self, units: u64) {
        let mut messages = self.messages.lock();
        messages.units = messages.units.saturating_sub(units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_may_not_send_more_than_its_window() {
        let (sink, _receiver) = tokio::sync::mpsc::channel(1);
        let queue = StreamQueue::new(sink);
        let message = Bytes::from(vec![b'x'; 1024 * 1024]);
        for _ in 0..4 {
            assert!(queue.push(message.clone()));
        }
        assert!(queue.push(message.slice(..1024)));
        assert!(!queue.push(message));
    }

    #[test]
    fn empty_messages_are_bounded_as_well() {
        let (sink, _receiver) = tokio::sync::mpsc::channel(1);
        let queue = StreamQueue::new(sink);
        let accepted = (0..100_000)
            .take_while(|_| queue.push(Bytes::new()))
            .count();
        assert!((WINDOW / STREAM_OVERHEAD..100_000).contains(&(accepted as u64)));
    }
}
