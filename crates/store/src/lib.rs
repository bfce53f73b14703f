//! A revisioned key-value store with transactions and watch, in a file of this machine or in an etcd.
//!
//! Keys are ordered byte strings. Each successful write transaction that changes something gets the
//! next [`Revision`], one for the whole transaction. A transaction compares first and then writes
//! all or nothing. A watch delivers every change from a revision on, in order, without a gap, or
//! says that the revision is compacted. What [`Store::txn`] answered is on disk.
//!
//! Nothing here knows what the values mean; the registry and the pools do. The way of a call never
//! comes here.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use bugle_store::{Compare, MemoryStore, Op, Revision, Store, Txn};
//!
//! let store = MemoryStore::new();
//! let create = Txn {
//!     when: vec![Compare::ModRevision("key".into(), Revision(0))],
//!     then: vec![Op::Put("key".into(), "value".into())],
//! };
//! assert!(store.txn(create.clone()).await?.succeeded);
//! assert!(!store.txn(create).await?.succeeded);
//! # Ok::<(), bugle_store::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod archive;
pub mod conformance;
mod core;
mod error;
mod etcd;
mod history;
mod leaf;
mod lz4;
mod memory;
mod metrics;
mod pack;
mod sqlite;
mod state;
mod table;

use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;

pub use error::Error;
pub use etcd::{EtcdConfig, EtcdStore, Examined, Failure as EtcdFailure, Membership, Place};
pub use memory::MemoryStore;
pub use metrics::Metrics;
pub use sqlite::{Config, Kind, SqliteStore};

/// Makes the data folder of a platform whose store is elsewhere, with mode 0700, and keeps other
/// processes from using it until the file is dropped. The embedded store does so itself.
///
/// # Errors
///
/// [`Error::InUse`], or what is wrong with the folder.
pub fn lock_folder(folder: &Path) -> Result<File, Error> {
    sqlite::folder::lock(folder)
}

/// A position in the history of the store; 0 is before the first write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// A key with its value and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// When the key was created (since its last deletion).
    pub create_revision: Revision,
    /// When it was last written.
    pub mod_revision: Revision,
    /// How often it was written since its creation, from 1.
    pub version: u64,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written at this revision; revision 0 means that the key does not exist.
    ModRevision(Bytes, Revision),
    /// The key has this value.
    Value(Bytes, Bytes),
    /// There is no key with this prefix.
    Absent(Bytes),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put(Bytes, Bytes),
    /// Deletes a key, if it exists.
    Delete(Bytes),
    /// Deletes every key with the prefix.
    DeletePrefix(Bytes),
}

/// Writes that happen together if all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub when: Vec<Compare>,
    /// The writes. A key that is put may not be written by another of them.
    pub then: Vec<Op>,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether the conditions held and the writes happened.
    pub succeeded: bool,
    /// The revision of the store after the transaction.
    pub revision: Revision,
}

/// A part of the keys, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The keys found.
    pub items: Vec<KeyValue>,
    /// Whether there are more keys with the prefix after the last one.
    pub more: bool,
    /// The revision at which the range was read.
    pub revision: Revision,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was written.
    Put(KeyValue),
    /// The key was deleted.
    Delete {
        /// The key.
        key: Bytes,
        /// When.
        revision: Revision,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put(value) => &value.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// When it changed.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(value) => value.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// All changes of one revision that fall under a watched prefix, or, with no changes, news of
/// how far the watch has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The revision; every change up to and including it has been delivered.
    pub revision: Revision,
    /// The changes, in the order of the transaction.
    pub changes: Vec<Change>,
}

/// A future that can be held behind a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A stream of [`Batch`]es.
pub trait Watch: Send {
    /// The next batch. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`] when the watcher fell behind the history that is kept; it must read the
    /// range again. [`Error::Closed`] when the store shut down.
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>>;
}

/// The store. Implementations pass the same conformance suite.
pub trait Store: Send + Sync {
    /// The value of `key`.
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<KeyValue>, Error>>;

    /// At most `limit` keys with `prefix`, in order, starting after the key `after` if given.
    fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Range, Error>>;

    /// Runs a transaction. When this returns a success, the writes are durable and visible to every
    /// later read. Dropping the future does not undo it.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, Error>>;

    /// Follows all keys with one of the prefixes from after `from` on: the first batch has a revision
    /// above `from`.
    fn watch<'a>(
        &'a self,
        prefixes: &'a [&'a [u8]],
        from: Revision,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>, Error>>;

    /// The revision of the last write.
    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>>;

    /// Forgets the changes up to and including `at`, or all if there are fewer: one can watch from
    /// `at` on, but no longer from before. Current values stay.
    fn compact(&self, at: Revision) -> BoxFuture<'_, Result<(), Error>>;

    /// Whether the store takes writes and reads are of now; cheap.
    ///
    /// # Errors
    ///
    /// Why not. One that is transient ends without anybody doing something here.
    fn health(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Gives back what others wait for, at the end: from now on nothing can be asked. Blocks for up to
    /// half a second. What was answered is kept without it.
    fn close(&self) {}
}
