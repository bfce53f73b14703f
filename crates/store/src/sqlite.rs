//! The embedded store: the shared core in memory, SQLite for durability.
//!
//! Reads never touch the disk. One thread writes: it takes every transaction that waits, plans them
//! one after the other, writes all their rows in one SQLite transaction, and only when that is
//! synced to disk makes them visible and answers. So concurrent writers share a sync, and nothing is
//! ever seen that a power cut could take back.
//!
//! The file holds one row for each current key. The history for watches is in memory only: after a
//! restart every watch starts with reading the keys again.

mod file;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::core::Core;
use crate::metrics::Metrics;
use crate::{BoxFuture, Error, KeyValue, Range, Revision, Store, Txn, TxnOutcome, Watch};

/// The embedded store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The largest size of the database file, in MiB; past it writes are refused.
    pub max_mib: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_mib: 16 * 1024 }
    }
}

/// Transactions that may wait for the writer; more wait outside.
const WAITING: usize = 1024;

/// A transaction on its way to the writer.
struct Request {
    txn: Txn,
    answer: oneshot::Sender<Result<TxnOutcome, Error>>,
}

/// A durable store in a folder.
///
/// Dropping it writes what was accepted, closes the file and releases the folder.
#[derive(Debug)]
pub struct SqliteStore {
    core: Arc<Core>,
    /// None only while dropping.
    writer: Option<mpsc::Sender<Request>>,
    thread: Option<std::thread::JoinHandle<()>>,
    // Held for the life of the store; the kernel releases it however the process ends.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store in `folder`, which is made with mode 0700 if it does not exist.
    ///
    /// Reads every key, so it takes time proportional to their number; call it before serving.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] if another process has it open, [`Error::NewerFormat`], or what is wrong
    /// with the folder or the file.
    pub fn open(folder: &Path, config: &Config, metrics: Metrics) -> Result<Self, Error> {
        let lock = file::lock(folder)?;
        let path: PathBuf = folder.join("bugle.db");
        let (database, state) = file::open(&path, config)?;
        metrics.revision.set(state.revision.0);
        let core = Core::new(state);
        let (writer, requests) = mpsc::channel(WAITING);
        let thread = {
            let core = Arc::clone(&core);
            std::thread::Builder::new()
                .name("store".to_owned())
                .spawn(move || writer::run(database, &core, requests, &metrics))
                .map_err(|source| Error::Io { path, source })?
        };
        Ok(Self {
            core,
            writer: Some(writer),
            thread: Some(thread),
            _lock: lock,
        })
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
        Box::pin(async move { Ok(self.core.get(key)) })
    }

    fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Range, Error>> {
        Box::pin(async move { Ok(self.core.range(prefix, after, limit)) })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, Error>> {
        Box::pin(async move {
            let (answer, outcome) = oneshot::channel();
            let writer = self.writer.as_ref().ok_or(Error::Closed)?;
            writer
                .send(Request { txn, answer })
                .await
                .map_err(|_| Error::Closed)?;
            outcome.await.map_err(|_| Error::Closed)?
        })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a [u8],
        from: Revision,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>, Error>> {
        Box::pin(async move {
            if self.core.is_closed() {
                return Err(Error::Closed);
            }
            Ok(self.core.watch(prefix, from))
        })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        Box::pin(async move { Ok(self.core.read(|state| state.revision)) })
    }

    fn compact(&self, at: Revision) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.core.compact(at);
            Ok(())
        })
    }
}
