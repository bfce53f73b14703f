//! Pod pools: their rules and records, and whoever makes them real.
//!
//! [`Pools`] answers the contract's operations P1–P4 as a trait of `bugle-api`, over the store. A
//! record says what is wanted and what there is; the one is written by users, the other by the
//! *back end*, which follows the records with [`Pools::watch`], says how far it has come with
//! [`Pools::report`] and takes a record away with [`Pools::remove`] when everything of a deleted pool
//! is gone. Each write names the revision that it is based on, so neither overwrites the other.
//!
//! [`Machine`] is the back end of one machine: its workers are warm processes of this machine, each
//! with the pool's resources. Others live in crates of their own and use the same three methods.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use std::sync::Arc;
//!
//! use bugle_api::{PoolRequest, PoolsApi as _};
//! use bugle_pools::Pools;
//! use bugle_store::MemoryStore;
//!
//! let pools = Pools::new(Arc::new(MemoryStore::new()));
//! let nothing = PoolRequest { id: "small".into(), ..PoolRequest::default() };
//! let failed = pools.create_pools(vec![nothing]).await?;
//! assert!(failed[0].message.contains("resources.requests must be set"));
//! # Ok::<(), bugle_api::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod machine;
mod record;
mod rules;
mod service;
mod watch;

use std::sync::Arc;

use bugle_store::{Compare, Op, Revision, Store, Txn};
use bugle_types::pool::{PoolId, PoolState, PoolStatus};

pub use config::{Backend, Config, Room};
pub use machine::{Keeper, Machine, PooledDriver, Prepared, Workshop};
pub use watch::PoolWatch;

use record::Record;

/// The pools of a platform. Cheap to clone.
#[derive(Clone)]
pub struct Pools {
    store: Arc<dyn Store>,
}

impl std::fmt::Debug for Pools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pools").finish_non_exhaustive()
    }
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// It is recorded, at this revision.
    Written(u64),
    /// The record says so already; nothing was written.
    Unchanged,
    /// The record has changed since, or is gone: look again.
    Outdated,
}

/// Why something could not be reported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("the record of the pool cannot be read or written")]
    Store(#[from] bugle_store::Error),
    /// The status cannot follow the recorded one: a mistake of the back end, never of a user.
    #[error("pool {id} cannot become {to} while it is {from}")]
    Impossible {
        /// The pool.
        id: PoolId,
        /// The recorded status.
        from: PoolStatus,
        /// The reported one.
        to: PoolStatus,
    },
}

impl Pools {
    /// The pools in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Follows the records. What cannot be understood as a pool is passed over, with a warning; of a
    /// pool that breaks the rules the record says so.
    pub fn watch(&self) -> PoolWatch {
        PoolWatch::new(Arc::clone(&self.store))
    }

    /// Records how far a pool has come, if it is still as it was at `revision`. What is ignored of
    /// the pool is added to the message.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is recorded.
    pub async fn report(
        &self,
        id: &PoolId,
        revision: u64,
        state: PoolState,
    ) -> Result<Reported, Error> {
        let key = record::key(id);
        let Some(found) = self.store.get(&key).await? else {
            return Ok(Reported::Outdated);
        };
        if found.mod_revision != Revision(revision) {
            return Ok(Reported::Outdated);
        }
        let Ok(Record { mut info, pool }) = Record::read(&found) else {
            return Ok(Reported::Outdated);
        };
        let PoolState {
            status,
            msg,
            ready_count,
        } = state;
        if !pool.state.status.may_become(status) {
            return Err(Error::Impossible {
                id: id.clone(),
                from: pool.state.status,
                to: status,
            });
        }
        let before = info.clone();
        info.status = status.number().into();
        info.msg = pool.spec.message(&msg);
        info.ready_count = ready_count.into();
        if info == before {
            return Ok(Reported::Unchanged);
        }
        let txn = Txn {
            when: vec![Compare::ModRevision(key.clone(), found.mod_revision)],
            then: vec![Op::Put(key, record::value(&info))],
        };
        let outcome = self.store.txn(txn).await?;
        Ok(if outcome.succeeded {
            Reported::Written(outcome.revision.0)
        } else {
            Reported::Outdated
        })
    }

    /// Takes away the record of a pool that is to be deleted, if it is still as it was at
    /// `revision`. False if it is not.
    ///
    /// # Errors
    ///
    /// The store failed; the record may be gone or not.
    pub async fn remove(&self, id: &PoolId, revision: u64) -> Result<bool, Error> {
        let key = record::key(id);
        let found = self.store.get(&key).await?;
        let deleting = found
            .filter(|found| found.mod_revision == Revision(revision))
            .and_then(|found| record::info(&found).ok())
            .is_some_and(|info| info.state().status == PoolStatus::PendingDeletion);
        if !deleting {
            return Ok(false);
        }
        let txn = Txn {
            when: vec![Compare::ModRevision(key.clone(), Revision(revision))],
            then: vec![Op::Delete(key)],
        };
        Ok(self.store.txn(txn).await?.succeeded)
    }
}
