//! P1–P4.

use std::cmp::Reverse;

use bugle_api::{
    Class, Error, FailedPool, PoolInfo, PoolList, PoolQuery, PoolRequest, PoolSelection, PoolsApi,
    UpdatePoolRequest,
};
use bugle_store::{Compare, KeyValue, Op, Revision, Txn};
use bugle_types::Code;
use bugle_types::pool::{PoolId, PoolStatus};

use crate::{Pools, record, rules};

/// The most records of one transaction, half of what an etcd takes, and about how many bytes they may
/// hold, a third of what a transaction takes.
const BATCH: (usize, usize) = (64, 512 << 10);

/// A change that lost against another is tried again this often: the status of a pool may be
/// written at the same time.
const ATTEMPTS: usize = 32;

/// Records read at once.
pub(crate) const CHUNK: usize = 500;

impl PoolsApi for Pools {
    async fn create_pools(&self, pools: Vec<PoolRequest>) -> Result<Vec<FailedPool>, Error> {
        let mut failed = Vec::new();
        let (asked, mut unstored) = (pools.len(), None);
        for pool in pools {
            let id = pool.id.clone();
            let message = match self.create(pool.into()).await {
                Ok(()) => continue,
                Err(Refusal::Mistakes(message)) => message,
                Err(Refusal::Store(error)) => {
                    let message = format!(
                        "failed to create pod pool, id: {id}, err: {}",
                        error.message
                    );
                    unstored = Some(error);
                    message
                }
            };
            failed.push(FailedPool { id, message });
        }
        match unstored {
            // It is not the pools that are wrong.
            Some(error) if failed.len() == asked => Err(error),
            _ => Ok(failed),
        }
    }

    async fn pools(&self, query: PoolQuery) -> Result<PoolList, Error> {
        let Some((before, count)) = query.window else {
            return Ok(PoolList::default());
        };
        let mut found = self.matching(&query.which).await?;
        found.sort_by_key(|(item, pool)| (Reverse(item.mod_revision), pool.id.clone()));
        let total = found.len();
        let page = found.into_iter().skip(before).take(count);
        Ok(PoolList {
            count: total,
            pools: Some(page.map(|(_, pool)| pool).collect()),
        })
    }

    async fn update_pool(&self, id: &str, change: UpdatePoolRequest) -> Result<(), Error> {
        rules::check(&change)?;
        let id: PoolId = id.parse().map_err(|_| Error::pool_not_found())?;
        let key = record::key(&id);
        for _ in 0..ATTEMPTS {
            let found = self
                .store
                .get(&key)
                .await
                .map_err(|error| unreadable(&error))?;
            let found = found.ok_or_else(Error::pool_not_found)?;
            let info = record::info(&found).map_err(|why| unintelligible(&why))?;
            let changed = rules::changed(&info, &change)?;
            let txn = Txn {
                when: vec![Compare::ModRevision(key.clone(), found.mod_revision)],
                then: vec![Op::Put(key.clone(), record::value(&changed))],
            };
            if self.store.txn(txn).await.map_err(unwritable)?.succeeded {
                return Ok(());
            }
        }
        Err(conflict())
    }

    async fn delete_pools(&self, which: PoolSelection) -> Result<(), Error> {
        let mut deleted = false;
        for _ in 0..ATTEMPTS {
            let found = self.matching(&which).await?;
            if found.is_empty() {
                // Those that were no pools are gone already.
                return if deleted {
                    Ok(())
                } else {
                    Err(Error::pool_not_found())
                };
            }
            let mut lost = false;
            for txn in deletions(found) {
                let outcome = self.store.txn(txn).await.map_err(unwritable)?;
                lost |= !outcome.succeeded;
                deleted |= outcome.succeeded;
            }
            if !lost {
                return Ok(());
            }
        }
        Err(conflict())
    }
}

/// Why a pool is not stored.
enum Refusal {
    /// Something is wrong with it; the words of P1.
    Mistakes(String),
    /// The store did not take it.
    Store(Error),
}

/// What begins to delete pools: as few transactions as a store takes. What is no pool has nothing to be
/// taken down and goes at once.
fn deletions(found: Vec<(KeyValue, PoolInfo)>) -> Vec<Txn> {
    let deleting = PoolStatus::PendingDeletion.number().into();
    let (mut txns, mut bytes): (Vec<Txn>, usize) = (Vec::new(), 0);
    for (item, mut pool) in found {
        if pool.status == deleting {
            continue;
        }
        pool.status = deleting;
        let is_pool = record::info(&item).is_ok();
        let KeyValue {
            key, mod_revision, ..
        } = item;
        let op = if is_pool {
            Op::Put(key.clone(), record::value(&pool))
        } else {
            Op::Delete(key.clone())
        };
        let size = match &op {
            Op::Put(_, value) => value.len(),
            _ => 0,
        };
        let (most, largest) = BATCH;
        bytes += size;
        let full = txns
            .last()
            .is_none_or(|txn| txn.then.len() >= most || bytes > largest);
        if full {
            txns.push(Txn::default());
            bytes = size;
        }
        if let Some(txn) = txns.last_mut() {
            txn.when
                .push(Compare::ModRevision(key.clone(), mod_revision));
            txn.then.push(op);
        }
    }
    txns
}

impl Pools {
    /// Stores a new pool, or says why not, as P1 does.
    async fn create(&self, mut pool: PoolInfo) -> Result<(), Refusal> {
        let prefix = format!("failed to create pod pool, id: {}", pool.id);
        let spec = pool.spec().map_err(|mistakes| {
            let reasons: Vec<_> = mistakes
                .iter()
                .map(|mistake| format!("{prefix}{mistake}"))
                .collect();
            Refusal::Mistakes(reasons.join(";"))
        })?;
        pool.msg = spec.message("");
        let key = record::key(&spec.id);
        let txn = Txn {
            when: vec![Compare::ModRevision(key.clone(), Revision(0))],
            then: vec![Op::Put(key, record::value(&pool))],
        };
        match self.store.txn(txn).await {
            Ok(outcome) if outcome.succeeded => Ok(()),
            Ok(_) => Err(Refusal::Mistakes(format!(
                "{prefix},err: pool id already exists or is deleting"
            ))),
            Err(bugle_store::Error::TooLarge { bytes, limit }) => Err(Refusal::Mistakes(format!(
                "{prefix}, err: the pool holds {bytes} bytes, more than {limit}"
            ))),
            Err(error) => Err(Refusal::Store(unwritable(error))),
        }
    }

    /// The pools that are chosen, with their records. One that is no pool is of no group.
    async fn matching(&self, which: &PoolSelection) -> Result<Vec<(KeyValue, PoolInfo)>, Error> {
        let items = match &which.id {
            Some(id) => {
                let found = self.store.get(&record::key_of(id)).await;
                found
                    .map_err(|error| unreadable(&error))?
                    .into_iter()
                    .collect()
            }
            None => self.all().await.map_err(|error| unreadable(&error))?.0,
        };
        let group = which.group.as_deref();
        Ok(items
            .into_iter()
            .map(|item| {
                let pool = record::shown(&item);
                (item, pool)
            })
            .filter(|(_, pool)| group.is_none_or(|group| pool.group == group))
            .collect())
    }

    /// Every record, and the revision after which all changes are news.
    async fn all(&self) -> Result<(Vec<KeyValue>, Revision), bugle_store::Error> {
        crate::watch::read_all(&*self.store).await
    }
}

fn unreadable(error: &bugle_store::Error) -> Error {
    tracing::error!(
        error = bugle_types::report(error),
        "the store cannot be read"
    );
    Error {
        code: Code::EtcdError,
        message: format!("etcd internal error: {error}"),
        class: Class::Other,
    }
}

fn unwritable(error: bugle_store::Error) -> Error {
    match error {
        bugle_store::Error::TooLarge { bytes, limit } => {
            Error::parameter(format!("the pools hold {bytes} bytes, more than {limit}"))
        }
        bugle_store::Error::Full | bugle_store::Error::Etcd(_) => {
            tracing::warn!(%error, "a write was refused");
            // Only who knows whether it may have happened knows what to do.
            Error::other(Code::TransactionFailed, error.to_string())
        }
        error => {
            tracing::error!(error = bugle_types::report(&error), "a write was refused");
            Error::other(
                Code::TransactionFailed,
                "the store did not take the write; the platform's log says why",
            )
        }
    }
}

fn unintelligible(why: &str) -> Error {
    Error::other(
        Code::UnmarshalFailed,
        format!("failed to unmarshal: {why}; the pool can only be deleted"),
    )
}

fn conflict() -> Error {
    Error::other(Code::TransactionFailed, "failed to execute a transaction")
}

#[cfg(test)]
mod tests;
