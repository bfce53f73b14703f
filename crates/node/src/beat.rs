//! Whether the other end of a connection still lives.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// From one question to the next.
const EVERY: Duration = Duration::from_millis(750);

/// How long an answer may take. With the pause before, a dead end is noticed within 2.25 s.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Asks until no answer comes. Cancel safe.
pub(crate) async fn until_silent(mut pings: Option<PingPong>) {
    let Some(pings) = &mut pings else {
        return std::future::pending().await;
    };
    loop {
        sleep(EVERY).await;
        let answered = timeout(PATIENCE, pings.ping(Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) {
            return;
        }
    }
}
