//! When the watch rests: while this platform writes so much that nearly all it brings is what is in
//! the copy already.
//!
//! Each write says which revision it made. As long as each is the one after what the copy holds,
//! nothing is missing, and etcd need not send back what it was sent. When one is not, something is
//! waited for that only the watch brings, or writes become fewer, the watch goes on behind what the
//! copy holds.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// So many requests in [`WINDOW`] are many.
const MANY: u64 = 8;

/// How long requests are counted; also the longest that a change of somebody else waits for the watch
/// after the last request.
const WINDOW: Duration = Duration::from_millis(20);

/// How long the watch does not rest after something was missing: others write as well.
const AWAKE: Duration = Duration::from_secs(1);

/// Whether the watch is needed.
#[derive(Debug, Default)]
pub(super) struct Rest {
    seen: Mutex<Seen>,
    may_begin: Notify,
    must_end: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    /// Since the beginning.
    requests: u64,
    /// When the window began, and how many there were then.
    window: Option<(Instant, u64)>,
    awake_until: Option<Instant>,
}

impl Seen {
    fn is_much(&self, now: Instant) -> bool {
        self.window
            .is_some_and(|(since, before)| now - since < WINDOW && self.requests - before >= MANY)
    }

    fn is_awake(&self, now: Instant) -> bool {
        self.awake_until.is_some_and(|until| now < until)
    }
}

impl Rest {
    /// What a request wrote is in the copy, without the watch.
    pub(super) fn wrote(&self) {
        let now = Instant::now();
        let mut seen = self.seen.lock();
        let window = seen.window.filter(|(since, _)| now - *since < WINDOW);
        let (since, before) = window.unwrap_or((now, seen.requests));
        seen.window = Some((since, before));
        seen.requests += 1;
        if seen.requests - before == MANY {
            self.may_begin.notify_one();
        }
    }

    /// Something is waited for that only the watch brings.
    pub(super) fn miss(&self) {
        self.seen.lock().awake_until = Some(Instant::now() + AWAKE);
        self.must_end.notify_one();
    }

    /// Waits until the watch may rest. Cancel safe.
    pub(super) async fn begins(&self) {
        loop {
            self.may_begin.notified().await;
            // News may be of before the last rest, or of before something was missing.
            let seen = self.seen.lock();
            if seen.is_much(Instant::now()) && !seen.is_awake(Instant::now()) {
                return;
            }
        }
    }

    /// Waits until the watch must go on.
    pub(super) async fn ends(&self) {
        loop {
            let before = self.seen.lock().requests;
            tokio::select! {
                biased;
                () = self.must_end.notified() => {}
                () = sleep(WINDOW) => {
                    if self.seen.lock().requests - before < MANY / 2 {
                        return;
                    }
                }
            }
            if self.seen.lock().is_awake(Instant::now()) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    async fn is_soon(future: impl Future<Output = ()>) -> bool {
        timeout(Duration::from_millis(1), future).await.is_ok()
    }

    fn write_much(rest: &Rest) {
        (0..MANY).for_each(|_| rest.wrote());
    }

    #[tokio::test(start_paused = true)]
    async fn it_begins_when_much_is_written_and_ends_soon_after() {
        let rest = Rest::default();
        for _ in 0..10 * MANY {
            rest.wrote();
            sleep(WINDOW / 4).await;
        }
        assert!(!is_soon(rest.begins()).await, "a little all the time");
        write_much(&rest);
        assert!(is_soon(rest.begins()).await);
        let mut end = std::pin::pin!(rest.ends());
        for _ in 0..10 * MANY {
            rest.wrote();
            assert!(!is_soon(&mut end).await);
        }
        assert!(timeout(WINDOW * 4, end).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_ends_it_and_keeps_the_watch_awake() {
        let rest = Rest::default();
        write_much(&rest);
        rest.begins().await;
        rest.miss();
        assert!(is_soon(rest.ends()).await);
        write_much(&rest);
        assert!(!is_soon(rest.begins()).await);
        sleep(AWAKE).await;
        write_much(&rest);
        assert!(is_soon(rest.begins()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_long_ago_neither_begins_nor_ends_it() {
        let rest = Rest::default();
        write_much(&rest);
        rest.miss();
        sleep(AWAKE).await;
        assert!(!is_soon(rest.begins()).await);
        write_much(&rest);
        assert!(is_soon(rest.begins()).await);
        assert!(!is_soon(rest.ends()).await);
    }
}
