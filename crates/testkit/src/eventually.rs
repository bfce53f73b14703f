//! Waiting for something to become true, with a bound and a report of what was seen last.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// How long to wait between two looks. Short, because the bound of a wait is what a slow machine
/// needs, and most waits end at once.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Looks until `look` returns `Ok`, and returns that.
///
/// # Panics
/// After `bound`, with the error that `look` returned last.
#[expect(clippy::panic, reason = "a failed wait fails the test")]
pub async fn eventually<T, F>(what: &str, bound: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + bound;
    let mut last = "nothing was seen".to_owned();
    loop {
        let Ok(outcome) = tokio::time::timeout_at(deadline, look()).await else {
            panic!("after {bound:?} still not: {what}; seen last: {last}");
        };
        match outcome {
            Ok(value) => return value,
            // A look that never waits is not stopped by the clock.
            Err(seen) if Instant::now() >= deadline => {
                panic!("after {bound:?} still not: {what}; seen last: {seen}")
            }
            Err(seen) => last = seen,
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// The value of `work`, if it is there within `bound`.
///
/// # Panics
/// After `bound`, naming `what` took too long.
#[expect(clippy::panic, reason = "a failed wait fails the test")]
pub async fn within<T>(what: &str, bound: Duration, work: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(bound, work).await else {
        panic!("{what} took longer than {bound:?}");
    };
    value
}
