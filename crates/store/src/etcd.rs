//! The store over an etcd: its transactions there, its reads from a copy here.
//!
//! A thread reads every key of ours once and then follows etcd's watch ([`mirror`]); reads and
//! watches are served from that copy and never wait for the network. A transaction is etcd's own; it
//! is answered when the copy holds it, so that who wrote reads what was written. Concurrent
//! transactions go to etcd together ([`gather`]).
//!
//! When etcd cannot be reached, reads go on with what was last seen, and [`EtcdStore::health`] says
//! since when and why. When the watch comes back after etcd has forgotten what happened meanwhile,
//! everything is read again, and watchers are told that they fell behind.
//!
//! It does not compact etcd by itself: others may follow it as well.

mod alone;
mod client;
mod config;
mod encoded;
mod failure;
mod gather;
mod keys;
mod membership;
mod mirror;
mod rest;
mod status;
mod wire;
mod write;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot};

use self::alone::Claim;
use self::client::{Again, Client};
use self::gather::Gather;
use self::keys::Part;
use self::mirror::Mirror;
use self::rest::Rest;
use self::status::Status;
use crate::core::Core;
use crate::history::Limits;
use crate::metrics::Metrics;
use crate::{BoxFuture, Error, KeyValue, Range, Revision, Store, Txn, TxnOutcome, Watch};

pub use config::EtcdConfig;
pub use failure::Failure;
pub use membership::{Membership, Place};

/// Transactions that may be under way at once; more wait here, where they cost nothing of etcd.
const UNDER_WAY: usize = 256;

/// A store in an etcd.
///
/// Closing or dropping it ends its thread and its connections.
#[derive(Debug)]
pub struct EtcdStore {
    core: Arc<Core>,
    shared: Arc<Shared>,
    permits: Semaphore,
    gather: Arc<Gather>,
    /// None once it is closed.
    worker: Mutex<Option<Worker>>,
}

/// The thread that follows etcd, and what tells it to end.
#[derive(Debug)]
struct Worker {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// What the thread and the callers share.
struct Shared {
    client: Client,
    part: Part,
    status: Status,
    metrics: Metrics,
    rest: Rest,
    /// The thread's own. What talks to etcd runs there, beside the connections.
    runtime: Handle,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("part", &self.part)
            .finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Connects and reads every key of the platform; `config` bounds the history that is kept.
    ///
    /// Blocks until that is done or `start_timeout_seconds` are over.
    ///
    /// # Errors
    ///
    /// [`Error::Etcd`] with what is wrong with a setting, with the login, or with etcd.
    pub fn open(
        etcd: &EtcdConfig,
        config: &crate::Config,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let part = Part::of_platform(etcd.prefix());
        Self::open_part(etcd, config, metrics, part, None)
    }

    /// The same for one who must be the only one to work with these keys: waits until no other is,
    /// at most for as long as `patience` says. `who` is what others are told meanwhile.
    ///
    /// # Errors
    ///
    /// [`Failure::Taken`] if another still is; also later, as [`Store::health`], if this process was
    /// cut off for so long that another took its place.
    pub fn open_alone(
        etcd: &EtcdConfig,
        config: &crate::Config,
        metrics: Metrics,
        who: &str,
        patience: Duration,
    ) -> Result<Self, Error> {
        let part = Part::of_platform(etcd.prefix());
        let alone = Some((who.to_owned(), patience));
        Self::open_part(etcd, config, metrics, part, alone)
    }

    /// The same with every key below a prefix, whatever it is; for tests that share an etcd.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    #[doc(hidden)]
    pub fn open_below(
        etcd: &EtcdConfig,
        config: &crate::Config,
        metrics: Metrics,
        prefix: &str,
    ) -> Result<Self, Error> {
        let part = Part::whole(prefix.to_owned());
        Self::open_part(etcd, config, metrics, part, None)
    }

    fn open_part(
        etcd: &EtcdConfig,
        config: &crate::Config,
        metrics: Metrics,
        part: Part,
        alone: Option<(String, Duration)>,
    ) -> Result<Self, Error> {
        let limits = Limits {
            revisions: config.history_revisions,
            bytes: config.history_mib << 20,
        };
        let (stop, stopped) = oneshot::channel();
        let (opened, result) = std::sync::mpsc::channel();
        let patience = etcd.start_timeout();
        let etcd = etcd.clone();
        let system = |error: std::io::Error| Failure::System {
            reason: error.to_string(),
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system)?;
        let thread = std::thread::Builder::new()
            .name("etcd".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let shared = Client::new(&etcd).map(|client| {
                        let status = Status::new(metrics.clone());
                        Arc::new(Shared {
                            client,
                            part,
                            status,
                            metrics,
                            rest: Rest::default(),
                            runtime: Handle::current(),
                        })
                    });
                    let begun = match shared {
                        Ok(shared) => begin(shared, limits, patience, alone).await,
                        Err(failure) => Err(failure),
                    };
                    match begun {
                        Ok((mirror, claim)) => {
                            let _ = opened.send(Ok(mirror.handles()));
                            mirror.run(stopped, claim).await;
                        }
                        Err(failure) => {
                            let _ = opened.send(Err(failure));
                        }
                    }
                });
            })
            .map_err(system)?;
        let gone = || Failure::System {
            reason: "it ended at once".to_owned(),
        };
        let (core, shared) = result.recv().map_err(|_| gone())??;
        Ok(Self {
            core,
            shared,
            permits: Semaphore::new(UNDER_WAY),
            gather: Arc::default(),
            worker: Mutex::new(Some(Worker { stop, thread })),
        })
    }

    /// What `bugle doctor` tells of an etcd: its version, or why it cannot be used. Blocks.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn examine(etcd: &EtcdConfig) -> Result<Examined, Failure> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::System {
                reason: error.to_string(),
            })?;
        runtime.block_on(async {
            let client = Client::new(etcd)?;
            let part = Part::of_platform(etcd.prefix());
            let status = wire::Empty {};
            let status: wire::StatusResponse = client
                .ask(wire::path::STATUS, status, Again::Harmless)
                .await?;
            mirror::look(&client, &part).await?;
            Ok(Examined {
                version: status.version,
                size: u64::try_from(status.db_size).unwrap_or(0),
                has_leader: status.leader != 0,
                is_full: status::is_full(&client).await,
            })
        })
    }

    /// How this platform joins others that work with the same keys.
    pub fn membership(&self) -> Membership {
        Membership::new(Arc::clone(&self.shared))
    }

    /// Why what is read may be old, or why writes are refused.
    ///
    /// # Errors
    ///
    /// [`Error::Etcd`].
    pub fn health(&self) -> Result<(), Error> {
        self.shared.status.health().map_err(Error::Etcd)
    }
}

/// Connects and reads everything, and then claims it, where that is wanted: who has to wait waits
/// with what there is in memory, and begins at once when its turn comes.
async fn begin(
    shared: Arc<Shared>,
    limits: Limits,
    patience: Duration,
    alone: Option<(String, Duration)>,
) -> Result<(Mirror, Option<Claim>), Failure> {
    let mut mirror = Mirror::begin(Arc::clone(&shared), limits, patience).await?;
    let Some((who, patience)) = alone else {
        return Ok((mirror, None));
    };
    let claim = tokio::select! {
        claim = Claim::take(&shared, who, patience) => claim?,
        never = mirror.follow() => match never {},
    };
    Ok((mirror, Some(claim)))
}

/// What an etcd says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Its version, for instance `3.4.23`.
    pub version: String,
    /// How large its database is, in bytes.
    pub size: u64,
    /// Whether the member that was asked knows a leader.
    pub has_leader: bool,
    /// Whether its alarm for a full database is on.
    pub is_full: bool,
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for EtcdStore {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<KeyValue>, Error>> {
        Box::pin(async move { self.core.get(key) })
    }

    fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Range, Error>> {
        Box::pin(async move { self.core.range(prefix, after, limit) })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, Error>> {
        Box::pin(async move {
            crate::state::check(&txn)?;
            let _permit = self.permits.acquire().await.map_err(|_| Error::Closed)?;
            self.gather.run(&self.shared, &self.core, txn).await
        })
    }

    fn watch<'a>(
        &'a self,
        prefixes: &'a [&'a [u8]],
        from: Revision,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>, Error>> {
        Box::pin(async move { Ok(self.core.watch(prefixes, from)) })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        Box::pin(async move { Ok(self.core.revision()) })
    }

    /// Ends the thread, which gives its place to the next platform.
    fn close(&self) {
        let Some(Worker { stop, thread }) = self.worker.lock().take() else {
            return;
        };
        let _ = stop.send(());
        // If it panicked, the copy was no longer followed; nothing of it was to be kept.
        let _ = thread.join();
    }

    /// Compacts etcd, for all who use it.
    fn compact(&self, at: Revision) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { write::compact(&self.shared, &self.core, at).await })
    }

    fn health(&self) -> Result<(), Error> {
        Self::health(self)
    }
}

/// The longest that a change may take from etcd's answer to its watch before the watch counts as
/// broken; the answer waits so long.
const ARRIVAL: Duration = Duration::from_secs(5);

/// etcd counts with signs; none of its numbers is negative.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A revision as etcd writes it.
fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}
