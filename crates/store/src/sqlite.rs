//! The embedded store: the shared state in memory, SQLite for durability.
//!
//! Reads never touch the disk. One thread writes (see [`writer`]); concurrent writers share its
//! syncs, and nothing is ever seen that a power cut could take back.
//!
//! The file (see [`log`]) holds every change of the history that is kept, so that a watch also goes
//! on after a restart. The history in memory is all of it: a watch never reads the file either.

pub(crate) mod folder;
mod load;
mod log;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use self::log::Log;
use self::writer::Writer;
use crate::core::Core;
use crate::history::Limits;
use crate::metrics::Metrics;
use crate::{BoxFuture, Error, KeyValue, Range, Revision, Store, Txn, TxnOutcome, Watch};

/// Which store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file in the data folder.
    #[default]
    Embedded,
    /// An etcd, which several platforms may share.
    Etcd,
}

/// The store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it is: `embedded` in the data folder, or `etcd` as section `etcd` says.
    pub kind: Kind,
    /// The largest size of the database file, in MiB; past it writes are refused, except deletions.
    pub max_mib: u64,
    /// How many revisions are kept for watches. One that falls further behind reads everything
    /// again.
    pub history_revisions: usize,
    /// How much memory the kept revisions may take, in MiB; the oldest go first.
    pub history_mib: usize,
    /// How large the write-ahead log may grow under load before it is moved into the database, in
    /// KiB. It is also the most that a start after a crash has to look through. More makes fewer
    /// writes wait, but longer.
    pub checkpoint_kib: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kind: Kind::Embedded,
            max_mib: 16 * 1024,
            history_revisions: 10_000,
            history_mib: 16,
            checkpoint_kib: 16 * 1024,
        }
    }
}

/// Requests that may wait for the writer; more wait outside. Twice what one commit takes, so that
/// the next group is complete when a commit ends.
const WAITING: usize = 1024;

type Answer = Result<TxnOutcome, Error>;

/// Something for the writer to do, and where to say what became of it.
struct Request {
    work: Work,
    answer: oneshot::Sender<Answer>,
}

enum Work {
    Txn(Txn),
    Compact(Revision),
}

/// Whether the disk can be trusted.
#[derive(Debug)]
struct Health {
    path: PathBuf,
    failure: OnceLock<Arc<rusqlite::Error>>,
}

impl Health {
    fn set_failure(&self, error: Arc<rusqlite::Error>) {
        // The first one is the cause.
        let _ = self.failure.set(error);
    }

    /// Why the writer is gone.
    fn error(&self) -> Error {
        match self.failure.get() {
            Some(source) => Error::Failed {
                path: self.path.clone(),
                source: Arc::clone(source),
            },
            None => Error::Closed,
        }
    }
}

/// A durable store in a folder.
///
/// Dropping it writes what was accepted, closes the file and releases the folder; it blocks for
/// that long.
///
/// After a disk failure whose outcome is unknown it is read-only: reads go on with what is known to
/// be durable, writes get [`Error::Failed`], and watches end with [`Error::Closed`].
#[derive(Debug)]
pub struct SqliteStore {
    core: Arc<Core>,
    health: Arc<Health>,
    /// None only while dropping.
    writer: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    // Held for the life of the store, and released after the file is closed.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store in `folder`, which is made with mode 0700 if it does not exist.
    ///
    /// Blocks while it reads every key; call it before serving.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] if another process has it open, [`Error::NewerFormat`],
    /// [`Error::Damaged`], or what is wrong with the folder or the file.
    pub fn open(folder: &Path, config: &Config, metrics: Metrics) -> Result<Self, Error> {
        let lock = folder::lock(folder)?;
        let path = folder.join("bugle.db");
        let limits = Limits {
            revisions: config.history_revisions,
            bytes: config.history_mib << 20,
        };
        let log = Log::open(&path, config.max_mib << 20, limits)?;
        folder::sync(folder)?;
        let health = Arc::new(Health {
            path: path.clone(),
            failure: OnceLock::new(),
        });
        let checkpoint_bytes = config.checkpoint_kib << 10;
        let writer = Writer::new(log, checkpoint_bytes, Arc::clone(&health), metrics);
        let core = writer.core();
        let (sender, requests) = mpsc::channel(WAITING);
        let thread = writer::runtime().and_then(|runtime| {
            std::thread::Builder::new()
                .name("store".to_owned())
                .spawn(move || writer.run(&runtime, requests))
        });
        Ok(Self {
            core,
            health,
            writer: Some(sender),
            thread: Some(thread.map_err(|source| Error::Io { path, source })?),
            _lock: lock,
        })
    }

    /// Whether the store still writes.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] after a disk failure: the process should drain and end, and only a person
    /// who has looked at the disk should start it again.
    pub fn health(&self) -> Result<(), Error> {
        match self.health.failure.get() {
            Some(_) => Err(self.health.error()),
            None => Ok(()),
        }
    }

    async fn ask(&self, work: Work) -> Answer {
        let gone = || self.health.error();
        let (answer, outcome) = oneshot::channel();
        let writer = self.writer.as_ref().ok_or_else(gone)?;
        let request = Request { work, answer };
        writer.send(request).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.writer = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, nothing that was not on disk was answered.
            let _ = thread.join();
        }
    }
}

impl Store for SqliteStore {
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
        Box::pin(self.ask(Work::Txn(txn)))
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

    fn compact(&self, at: Revision) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.ask(Work::Compact(at)).await.map(|_| ()) })
    }

    fn health(&self) -> Result<(), Error> {
        Self::health(self)
    }
}
