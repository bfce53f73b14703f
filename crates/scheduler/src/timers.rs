//! One timer for all functions: a heap of due times and a task that sleeps until the first.
//!
//! A function is in the heap when something of it is due: an idle clock, a waiting call, a retry. An
//! idle platform has nothing there and never wakes. When something becomes due earlier, the function
//! is added again and its later entry becomes stale: it is skipped when its time comes, so there are
//! no more entries than such moments within the longest clock.

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
            while let Some((at, function)) = self.take_due(now) {
                if let Some(function) = function.upgrade() {
                    function.tick(at);
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

    /// Entries, stale ones included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.heap.lock().entries.len()
    }

    fn take_due(&self, now: Instant) -> Option<(Instant, Weak<Inner>)> {
        let mut heap = self.heap.lock();
        let (Reverse((at, _)), _) = heap.entries.peek()?;
        if *at > now {
            return None;
        }
        let (Reverse((at, _)), function) = heap.entries.pop()?;
        Some((at, function.0))
    }
}
