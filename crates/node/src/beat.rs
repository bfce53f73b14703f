//! Whether the other end of a connection still lives.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// How an end looks after the other one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beat {
    /// From one question to the next.
    every: Duration,
    /// How long an answer may take.
    patience: Duration,
}

/// A gateway notices a dead node within 2.75 s.
pub(crate) const OF_GATEWAYS: Beat = Beat {
    every: Duration::from_millis(750),
    patience: Duration::from_secs(2),
};

/// A node notices that it is cut off within 1.9 s, which is before its gateway may give up what runs on
/// it: what nobody waits for any more has ended before it is replaced.
pub(crate) const OF_NODES: Beat = Beat {
    every: Duration::from_millis(500),
    patience: Duration::from_millis(1400),
};

// Of a cut between two questions the first end notices at the latest, the other at the earliest, then:
const _: () = {
    let latest = OF_NODES.every.as_millis() + OF_NODES.patience.as_millis();
    assert!(latest < OF_GATEWAYS.patience.as_millis());
};

/// Asks until no answer comes. Cancel safe.
pub(crate) async fn until_silent(mut pings: Option<PingPong>, beat: Beat) {
    let Some(pings) = &mut pings else {
        return std::future::pending().await;
    };
    loop {
        sleep(beat.every).await;
        let answered = timeout(beat.patience, pings.ping(Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) {
            return;
        }
    }
}
