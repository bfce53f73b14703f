//! Keeps a thread that has instances called awake for a moment after it has done something: the data
//! plane's of a platform, and that of a node.
//!
//! A thread that waits for the kernel takes 15 microseconds and more to wake up, as long as all the
//! rest of a short call. Where one call follows the other, the thread would go to sleep twice for
//! each: while the instance works, and until the client sends its next request. Instead, it looks
//! for a while whether something has come. It does so only while at most one call is under way, and
//! rests where looking was in vain: for handlers that take longer, and clients that come seldom.
//! Whoever else waits for the processor, such as the instance, goes first.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The length of a rest after this many vain looks, one after the other; it doubles with each
/// further one up to the longest.
const VAIN: u32 = 3;
const FIRST_REST: Duration = Duration::from_millis(5);
const LONGEST_REST: Duration = Duration::from_millis(200);

/// Between two looks no more time than this goes by, unless others have much use for the processor. Then
/// it is quicker to sleep: who wakes up goes before them.
const TAKEN: Duration = Duration::from_millis(1);

/// Turns of the processor between two looks, so that it leaves its resources to the instance.
const TURNS: u32 = 24;

/// What the calls tell the task that keeps the thread awake.
#[derive(Debug, Default)]
pub struct Awake {
    under_way: AtomicUsize,
    /// How often a call has begun or ended.
    steps: AtomicU64,
    /// Whether the task wants to be told of the next step.
    wants: AtomicBool,
    step: Notify,
}

/// A call that is under way, until dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<Awake>);

impl Awake {
    /// Takes note of a call that has begun.
    pub fn call(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.note();
        UnderWay(Arc::clone(self))
    }

    fn note(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        if self.wants.load(Ordering::Relaxed) {
            self.wants.store(false, Ordering::Relaxed);
            self.step.notify_one();
        }
    }

    /// Keeps the runtime it is called in awake for `window` after each call's begin and end, until it is
    /// dropped. With a window of zero, and on a machine with one processor, it does nothing.
    pub async fn run(&self, window: Duration) {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        // With one processor, looking would keep the instance from working.
        if window.is_zero() || cores == 1 {
            return;
        }
        let mut vain = 0;
        loop {
            self.wants.store(true, Ordering::Relaxed);
            self.step.notified().await;
            vain = if self.look(window).await { 0 } else { vain + 1 };
            if vain >= VAIN {
                let rest = FIRST_REST * 2_u32.pow((vain - VAIN).min(8));
                tokio::time::sleep(rest.min(LONGEST_REST)).await;
            }
        }
    }

    /// Looks until nothing has happened for `window`; returns whether anything did.
    async fn look(&self, window: Duration) -> bool {
        let mut seen = self.steps.load(Ordering::Relaxed);
        let mut since = Instant::now();
        let mut before = since;
        let mut found = false;
        while self.under_way.load(Ordering::Relaxed) <= 1 {
            for _ in 0..TURNS {
                std::hint::spin_loop();
            }
            std::thread::yield_now();
            let now = Instant::now();
            if now.duration_since(before) >= TAKEN {
                return false;
            }
            // The runtime asks the kernel what has come, and runs what that concerns.
            tokio::task::yield_now().await;
            before = Instant::now();
            let steps = self.steps.load(Ordering::Relaxed);
            if steps != seen {
                (seen, since, found) = (steps, before, true);
            } else if before.duration_since(since) >= window {
                return found;
            }
        }
        true
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.note();
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::{CpuSet, sched_setaffinity};
    use tokio_util::sync::CancellationToken;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(2);

    #[tokio::test]
    async fn calls_that_follow_one_another_keep_the_thread_awake() {
        let kept_awake = async || {
            let awake = Arc::<Awake>::default();
            let caller = Arc::clone(&awake);
            let calls = tokio::spawn(async move {
                for _ in 0..100 {
                    drop(caller.call());
                    tokio::task::yield_now().await;
                }
            });
            awake.look(WINDOW).await && calls.is_finished()
        };
        // Whoever takes the processor meanwhile, such as another test, ends a look.
        for _ in 0..500 {
            if kept_awake().await {
                return;
            }
        }
        panic!("no look lasted as long as the calls");
    }

    #[tokio::test]
    async fn a_look_ends_when_nothing_happens() {
        let awake = Arc::<Awake>::default();
        let _call = awake.call();
        assert!(!awake.look(WINDOW).await);
    }

    #[tokio::test]
    async fn nobody_looks_while_several_calls_are_under_way() {
        let awake = Arc::<Awake>::default();
        let _calls = [awake.call(), awake.call()];
        let endless = Duration::MAX;
        assert!(awake.look(endless).await);
    }

    #[tokio::test]
    async fn nobody_looks_while_others_keep_the_processor_busy() {
        let here = rustix::thread::sched_getcpu();
        let stay = move || {
            let mut only = CpuSet::new();
            only.set(here);
            sched_setaffinity(None, &only).unwrap();
        };
        stay();
        let end = CancellationToken::new();
        let busy = std::thread::spawn({
            let end = end.clone();
            move || {
                stay();
                while !end.is_cancelled() {
                    std::hint::spin_loop();
                }
            }
        });
        let awake = Arc::<Awake>::default();
        let _call = awake.call();
        assert!(!awake.look(Duration::MAX).await);
        end.cancel();
        busy.join().unwrap();
    }

    #[tokio::test]
    async fn without_a_window_there_is_nothing_to_do() {
        Awake::default().run(Duration::ZERO).await;
    }
}
