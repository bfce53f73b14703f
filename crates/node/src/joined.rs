//! A node's connections: one to each gateway of its platform, made again whenever they break.
//!
//! The node knows one address when it has joined. If several gateways share the platform, each says over
//! its connection who they all are ([`Roster`](crate::wire::Roster)), and the node connects to those that
//! are new. As long as none can be reached, it tries all addresses that it ever learned and has not
//! unlearned.

use std::collections::BTreeSet;
use std::time::Duration;

use bugle_types::report;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::beat::{OF_NODES, until_silent};
use crate::host::{Host, Served};
use crate::identity::{CONNECT, Error, Identity};
use crate::stream::{CONNECTION_WINDOW, FRAME, STREAM_WINDOW, STREAMS};

/// The pause before a connection is tried again, longer with each failure up to the longest. That is shorter than a
/// gateway that comes back waits for its nodes.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(600);

/// The longest pause of a node that was removed, or whose place another process has: nothing but an operator brings it
/// back, and each attempt of a removed one is a warning in the gateway's log. It is reached by and by, as a gateway may
/// just not have heard of a node that is new.
const LONGEST_OF_REFUSED: Duration = Duration::from_secs(10);

/// What such a node says.
const REMOVED: &str =
    "the platform does not know this node any more; start it with `--join` and a new `--token`";

/// What one says that was away until its certificate was of no use any more.
const EXPIRED: &str = "the certificate of this node has expired; remove the node with `bugle node remove`, and start it \
                       with `--join` and a new `--token`";

/// How often it is looked whether a drain is done.
const LOOK: Duration = Duration::from_millis(50);

/// How often it is looked whether the certificate is to be renewed, which is due for weeks before it ends.
const RENEWAL: Duration = Duration::from_hours(1);

/// How often it is looked for instances that nobody wants, and whether the node should have ended.
const SWEEP: Duration = Duration::from_millis(500);

/// What instances get to end in, also when moving the others took all the time.
const LAST: Duration = Duration::from_secs(1);

/// How a node serves.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long instances live without a gateway.
    pub orphan: Duration,
    /// How long a node that ends waits for its instances to be moved.
    pub grace: Duration,
    /// How long its thread looks for the next event after each, instead of sleeping.
    pub awake: Duration,
}

/// Serves the platform until `stop`, then has everything moved elsewhere and ends.
pub async fn serve(identity: Identity, host: Host, terms: Terms, stop: CancellationToken) {
    let mut serving = Box::pin(async {
        tokio::join!(
            stay_connected(&identity, &host),
            stay_known(&identity, &host),
            sweep(&host, terms),
            host.stay_awake(terms.awake),
        );
    });
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = &mut serving => {}
    }
    host.drain();
    let until = Instant::now() + terms.grace;
    let moved = async {
        // Without a gateway there is nobody to move them.
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

/// Renews the certificate in time, also while no connection breaks, for ever.
async fn stay_known(identity: &Identity, host: &Host) {
    loop {
        sleep(RENEWAL).await;
        renew(identity, host).await;
    }
}

/// Gets a new certificate from the first gateway that gives one, if it is time.
pub(crate) async fn renew(identity: &Identity, host: &Host) {
    for address in wanted(identity, host) {
        match identity.renew_when_due(&address, host.process()).await {
            Ok(()) => return,
            Err(error) => {
                let reason = report(&error);
                tracing::warn!(
                    gateway = address,
                    reason,
                    "the certificate is not renewed yet"
                );
            }
        }
    }
}

/// Ends what no gateway wants, and takes back what did not come about, for ever.
async fn sweep(host: &Host, terms: Terms) {
    loop {
        sleep(SWEEP).await;
        host.reopen_overdue();
        host.end_orphans(terms.orphan, terms.grace).await;
    }
}

/// Has a connection to each gateway, for ever.
async fn stay_connected(identity: &Identity, host: &Host) {
    let mut told = host.gateways();
    let mut links: JoinSet<String> = JoinSet::new();
    let mut known: BTreeSet<String> = BTreeSet::new();
    loop {
        let gateways = told.borrow_and_update().clone();
        if !gateways.is_empty()
            && let Err(error) = identity.remember(&gateways)
        {
            let reason = report(&error);
            tracing::warn!(reason, "where the gateways are cannot be remembered");
        }
        for address in wanted(identity, host) {
            if known.insert(address.clone()) {
                links.spawn(keep(identity.clone(), host.clone(), address));
            }
        }
        tokio::select! {
            biased;
            // The sender lives as long as the host.
            _ = told.changed() => {}
            Some(ended) = links.join_next() => match ended {
                Ok(address) => _ = known.remove(&address),
                Err(error) => tracing::error!(%error, "a connection ended in disorder"),
            },
            () = sleep(LONGEST_PAUSE) => {}
        }
    }
}

/// Where there should be a connection to.
fn wanted(identity: &Identity, host: &Host) -> Vec<String> {
    let gateways = host.gateways().borrow().clone();
    if gateways.is_empty() || !host.is_connected() {
        return identity.addresses();
    }
    gateways
}

/// A connection to a gateway.
pub(crate) type Connection = h2::server::Connection<TlsStream<TcpStream>, Bytes>;

/// Has a connection to the gateway at `address`, as long as there is to be one.
async fn keep(identity: Identity, host: Host, address: String) -> String {
    let (mut pause, mut told) = (FIRST_PAUSE, Told::default());
    let mut is_twin = false;
    loop {
        let mut longest = LONGEST_PAUSE;
        let connected = connect(&identity, &host, &address).await;
        // One that was refused makes a connection again and again, only to be refused.
        if connected.is_ok() && !is_twin {
            tracing::info!(gateway = address, "connected");
        }
        let ended = match connected {
            Ok(connection) => hear(&host, connection).await,
            Err(error) => Err(error),
        };
        is_twin = matches!(ended, Err(Error::Twin(_)));
        match ended {
            Ok(()) => {
                tracing::info!(gateway = address, "the connection to a gateway ended");
                pause = FIRST_PAUSE;
                told = Told::default();
            }
            Err(error) => {
                let mut reason = report(&error);
                if may_be_removed(&error)
                    && let Some(why) = unknown(&identity, &address).await
                {
                    why.clone_into(&mut reason);
                    longest = LONGEST_OF_REFUSED;
                }
                if is_twin {
                    longest = LONGEST_OF_REFUSED;
                }
                if told.is_news(&reason) {
                    tracing::warn!(
                        gateway = address,
                        reason,
                        "there is no connection to a gateway"
                    );
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
        if !wanted(&identity, &host).contains(&address) {
            return address;
        }
    }
}

/// What was last told of a gateway that cannot be reached: it is tried about twice a second for as long as it is gone, and
/// a reason is told when it comes up.
#[derive(Default)]
struct Told(String);

impl Told {
    fn is_news(&mut self, reason: &str) -> bool {
        let is_news = self.0 != reason;
        reason.clone_into(&mut self.0);
        is_news
    }
}

/// Whether a gateway may have ended a connection because it does not know this node any more. It looks for the
/// certificate once it has it, which with TLS 1.3 is after the handshake as the node sees it: what fails is the first
/// read. Where the certificate is due, it refuses to renew that.
pub(crate) fn may_be_removed(error: &Error) -> bool {
    matches!(error, Error::Broken(_) | Error::Refused(_))
}

/// Why the gateway at `address` does not know this node, if that is so.
pub(crate) async fn unknown(identity: &Identity, address: &str) -> Option<&'static str> {
    if identity.has_expired() {
        // It cannot even be asked.
        return Some(EXPIRED);
    }
    identity.is_refused(address).await.then_some(REMOVED)
}

/// A connection over which the gateway at `address` asks.
pub(crate) async fn connect(
    identity: &Identity,
    host: &Host,
    address: &str,
) -> Result<Connection, Error> {
    identity.renew_when_due(address, host.process()).await?;
    let stream = identity.connect(address).await?;
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .handshake::<_, Bytes>(stream);
    let silent = |_| Error::Connect {
        address: address.to_owned(),
        source: std::io::ErrorKind::TimedOut.into(),
    };
    let connection = timeout(CONNECT, handshake).await.map_err(silent)?;
    connection.map_err(Error::Broken)
}

/// Does what the gateway asks over a connection, to its end.
pub(crate) async fn hear(host: &Host, mut connection: Connection) -> Result<(), Error> {
    let silent = until_silent(connection.ping_pong(), OF_NODES);
    let Served { broke, refused } = host.serve(connection, silent).await;
    if let Some(error) = broke {
        tracing::debug!(%error, "the connection broke");
    }
    refused.map_or(Ok(()), |reason| Err(Error::Twin(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_when_it_comes_up() {
        let mut told = Told::default();
        let reasons = ["refused", "refused", "timed out", "timed out", "refused"];
        let news = reasons.map(|reason| told.is_news(reason));
        assert_eq!(news, [true, false, true, false, true]);
    }
}
