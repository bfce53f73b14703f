//! One timer for all functions: a heap of due times and a task that sleeps until the first.
//!
//! A function is in the heap when something of it is due: an idle clock, a waiting call, a retry. An
//! idle platform has nothing there and never wakes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Weak;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::function::Inner;

/// An entry: when, a number that makes entries comparable, whom.
type Entry = (Reverse<(Instant, u64)>, ByTime);

/// A function in the heap; the order is by time alone.
#[derive(Debug)]
struct ByTime(Weak<Inner>);

impl PartialEq for ByTime {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for ByTime {}
impl PartialOrd for ByTime {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ByTime {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: Mutex<Heap>,
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Heap {
    entries: BinaryHeap<Entry>,
    next: u64,
}

impl Timers {
    /// Has the function told when `at` has come.
    pub(crate) fn arm(&self, at: Instant, function: Weak<Inner>) {
        let mut heap = self.heap.lock();
        let first = heap
            .entries
            .peek()
            .is_none_or(|(Reverse((other, _)), _)| at < *other);
        let number = heap.next;
        heap.next += 1;
        heap.entries.push((Reverse((at, number)), ByTime(function)));
        drop(heap);
        if first {
            self.earlier.notify_one();
        }
    }

    /// Tells functions when their time has come, for ever.
    pub(crate) async fn run(&self) {
        loop {
            let now = Instant::now();
            while let Some(function) = self.take_due(now) {
                if let Some(function) = function.upgrade() {
                    function.tick();
                }
            }
            let first = self
                .heap
                .lock()
                .entries
                .peek()
                .map(|(Reverse((at, _)), _)| *at);
            let earlier = self.earlier.notified();
            match first {
                Some(at) => {
                    tokio::select! {
                        () = sleep_until(at) => {}
                        () = earlier => {}
                    }
                }
                None => earlier.await,
            }
        }
    }

    fn take_due(&self, now: Instant) -> Option<Weak<Inner>> {
        let mut heap = self.heap.lock();
        match heap.entries.peek() {
            Some((Reverse((at, _)), _)) if *at <= now => heap.entries.pop().map(|(_, f)| f.0),
            _ => None,
        }
    }
}
