//! A node's connection to its platform, made again whenever it breaks.

use std::time::Duration;

use bugle_types::report;
use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::beat::until_silent;
use crate::host::Host;
use crate::identity::{Error, Identity};
use crate::stream::{CONNECTION_WINDOW, FRAME, STREAM_WINDOW, STREAMS};

/// The pause before a connection is tried again, longer with each failure up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How often it is looked whether a drain is done.
const LOOK: Duration = Duration::from_millis(50);

/// What instances get to end in, also when moving the others took all the time.
const LAST: Duration = Duration::from_secs(1);

/// How a node serves.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long instances live without a platform.
    pub orphan: Duration,
    /// How long a node that ends waits for its instances to be moved.
    pub grace: Duration,
}

/// Serves the platform until `stop`, then has everything moved elsewhere and ends.
pub async fn serve(mut identity: Identity, host: Host, terms: Terms, stop: CancellationToken) {
    let mut serving = Box::pin(stay_connected(&mut identity, &host, terms));
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = &mut serving => {}
    }
    host.drain();
    let until = Instant::now() + terms.grace;
    let moved = async {
        // Without a platform there is nobody to move them.
        while host.count() > 0 && host.is_connected() {
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        biased;
        () = moved => {}
        () = &mut serving => {}
        () = sleep_until(until) => {
            tracing::warn!(left = host.count(), "not everything was moved in time");
        }
    }
    drop(serving);
    host.stop(until.duration_since(Instant::now()).max(LAST))
        .await;
}

/// Has a connection to the platform, for ever.
async fn stay_connected(identity: &mut Identity, host: &Host, terms: Terms) {
    let mut pause = FIRST_PAUSE;
    let mut alone_since = Instant::now();
    loop {
        match once(identity, host).await {
            Ok(()) => {
                tracing::info!("the connection to the platform ended");
                (pause, alone_since) = (FIRST_PAUSE, Instant::now());
            }
            Err(error) => {
                let reason = report(&error);
                tracing::warn!(reason, "there is no connection to the platform");
            }
        }
        if alone_since.elapsed() > terms.orphan && host.count() > 0 {
            tracing::warn!("there was no platform for long; all instances are ended");
            host.end_all(terms.grace).await;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One connection, to its end.
async fn once(identity: &mut Identity, host: &Host) -> Result<(), Error> {
    identity.renew_when_due().await?;
    let stream = identity.connect().await?;
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .handshake::<_, Bytes>(stream);
    let mut connection = handshake.await.map_err(Error::Broken)?;
    let silent = until_silent(connection.ping_pong());
    tracing::info!(platform = identity.platform(), "connected");
    let served = host.serve(connection, silent).await;
    if let Err(error) = served {
        tracing::debug!(%error, "the connection broke");
    }
    Ok(())
}
