//! The rules of functions, versions and reserved instances, over the store.
//!
//! [`Registry`] answers the contract's operations F1–F7 and R1–R4 as the traits of `bugle-api`. Each
//! change is one transaction guarded by what was read for it, so that of many that race one wins and
//! the others are told. [`Catalogue`] is the way out: it follows the published keys and says which
//! functions there are to whoever runs them. Nothing here runs anything.
//!
//! Variables of functions are encrypted with the [`Keyring`] before they reach the store, and only
//! there.

mod catalogue;
mod clock;
mod config;
mod events;
mod fingerprint;
mod foreign;
mod functions;
mod image;
mod index;
mod json;
mod keyring;
mod keys;
mod object;
mod published;
mod record;
mod reservations;
mod rules;
mod specification;
mod used;

use std::future::Future;
use std::sync::Arc;

use bugle_api::{Class, Error};
use bugle_store::{Revision, Store, Txn};
use bugle_types::{Code, RevisionId};
use parking_lot::Mutex;

pub use bugle_store::BoxFuture;
pub use catalogue::{Batch, Catalogue, Event};
pub use clock::{Clock, SystemClock};
pub use config::{Config, PublishedEnvironment};
pub use events::{EventSettings, Events, Invocation, Progress};
pub use image::{Resolve, Resolved, unresolved};
pub use keyring::{Error as KeyringError, Keyring};
pub use specification::{is_published, specification};
pub use used::{UsedImage, images_in_use, objects_in_use};

use index::Index;

/// A change that was made, and is answered when everybody who must know does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its revision.
    pub revision: Revision,
    /// How far whoever runs functions must have followed: of a new function it knows nothing that
    /// could be wrong, unless it still knows one of the same name that was deleted.
    pub followed: Revision,
}

/// Called after each change; the change is answered when the future is done.
pub type AfterCommit = Arc<dyn Fn(Committed) -> BoxFuture<'static, ()> + Send + Sync>;

/// Functions, versions and reserved instances.
pub struct Registry {
    store: Arc<dyn Store>,
    keyring: Arc<Keyring>,
    config: Config,
    clock: Arc<dyn Clock>,
    index: Arc<Index>,
    after_commit: AfterCommit,
    resolve: Resolve,
    /// The latest revision of a draft that was deleted: one that is registered again under its name
    /// begins after it, so that an old revision never fits it.
    deleted: Mutex<Option<RevisionId>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A change that lost against another is tried again this often. Each loss is the win of another, so
/// as many at once all come through.
const ATTEMPTS: usize = 32;

impl Registry {
    /// A registry over `store`; `resolve` asks registries of images. The future that comes with it reads what is there, follows further
    /// changes, and must run as long as the registry is used: lists wait for it.
    pub fn open(
        store: Arc<dyn Store>,
        keyring: Arc<Keyring>,
        config: Config,
        clock: Arc<dyn Clock>,
        after_commit: AfterCommit,
        resolve: Resolve,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let index = Index::new();
        let follow = Arc::clone(&index).follow(Arc::clone(&store));
        let registry = Self {
            store,
            keyring,
            config,
            clock,
            index,
            after_commit,
            resolve,
            deleted: Mutex::new(None),
        };
        (Arc::new(registry), follow)
    }

    /// Writes, and waits until everybody who must know does. False if a condition did not hold.
    async fn commit(&self, txn: Txn) -> Result<bool, Error> {
        self.commit_seen(txn, None).await
    }

    /// The same for what is new, and was not there when the store was at `seen`.
    async fn commit_new(&self, txn: Txn, seen: Revision) -> Result<bool, Error> {
        self.commit_seen(txn, Some(seen)).await
    }

    async fn commit_seen(&self, txn: Txn, absent_at: Option<Revision>) -> Result<bool, Error> {
        let outcome = self.store.txn(txn).await.map_err(refused)?;
        if outcome.succeeded {
            let revision = outcome.revision;
            let followed = absent_at.unwrap_or(revision);
            (self.after_commit)(Committed { revision, followed }).await;
        }
        Ok(outcome.succeeded)
    }
}

/// A write that the store did not take.
fn refused(error: bugle_store::Error) -> Error {
    match error {
        bugle_store::Error::TooLarge { bytes, limit } => Error::parameter(format!(
            "the metadata of the function holds {bytes} bytes, more than {limit}"
        )),
        bugle_store::Error::Full | bugle_store::Error::Etcd(_) => {
            tracing::warn!(%error, "a write was refused");
            Error::other(Code::TransactionFailed, error.to_string())
        }
        error => {
            tracing::error!(error = bugle_types::report(&error), "a write was refused");
            conflict()
        }
    }
}

/// A change that lost against others again and again.
fn conflict() -> Error {
    Error::other(Code::TransactionFailed, "failed to execute a transaction")
}

/// A read that failed.
fn unreadable(error: &bugle_store::Error) -> Error {
    tracing::error!(
        error = bugle_types::report(error),
        "the store cannot be read"
    );
    Error {
        code: Code::EtcdError,
        message: "etcd internal error".to_owned(),
        class: Class::Other,
    }
}
