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

/// A change that lost against another is tried again this often: the status of a pool may be
/// written at the same time.
const ATTEMPTS: usize = 32;

/// Records read at once.
pub(crate) const CHUNK: usize = 500;

impl PoolsApi for Pools {
    async fn create_pools(&self, pools: Vec<PoolRequest>) -> Result<Vec<FailedPool>, Error> {
        let mut failed = Vec::new();
        for pool in pools {
            let id = pool.id.clone();
            if let Err(message) = self.create(pool.into()).await {
                failed.push(FailedPool { id, message });
            }
        }
        Ok(failed)
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
            let info = record::info(&found).ok_or_else(unintelligible)?;
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
        for _ in 0..ATTEMPTS {
            let found = self.matching(&which).await?;
            if found.is_empty() {
                return Err(Error::pool_not_found());
            }
            let mut txn = Txn::default();
            for (item, mut pool) in found {
                let deleting = PoolStatus::PendingDeletion.number().into();
                if pool.status != deleting {
                    pool.status = deleting;
                    let KeyValue {
                        key, mod_revision, ..
                    } = item;
                    txn.when
                        .push(Compare::ModRevision(key.clone(), mod_revision));
                    txn.then.push(Op::Put(key, record::value(&pool)));
                }
            }
            if txn.then.is_empty() || self.store.txn(txn).await.map_err(unwritable)?.succeeded {
                return Ok(());
            }
        }
        Err(conflict())
    }
}

impl Pools {
    /// Stores a new pool, or says why not, as P1 does.
    async fn create(&self, mut pool: PoolInfo) -> Result<(), String> {
        let prefix = format!("failed to create pod pool, id: {}", pool.id);
        let spec = pool.spec().map_err(|mistakes| {
            let reasons: Vec<_> = mistakes
                .iter()
                .map(|mistake| format!("{prefix}{mistake}"))
                .collect();
            reasons.join(";")
        })?;
        pool.msg = spec.message("");
        let key = record::key(&spec.id);
        let txn = Txn {
            when: vec![Compare::ModRevision(key.clone(), Revision(0))],
            then: vec![Op::Put(key, record::value(&pool))],
        };
        match self.store.txn(txn).await {
            Ok(outcome) if outcome.succeeded => Ok(()),
            Ok(_) => Err(format!(
                "{prefix},err: pool id already exists or is deleting"
            )),
            Err(bugle_store::Error::TooLarge { bytes, limit }) => Err(format!(
                "{prefix}, err: the pool holds {bytes} bytes, more than {limit}"
            )),
            Err(error) => Err(format!("{prefix}, err: {}", unwritable(error).message)),
        }
    }

    /// The pools that are chosen, with their records. A record that is no pool is passed over.
    async fn matching(&self, which: &PoolSelection) -> Result<Vec<(KeyValue, PoolInfo)>, Error> {
        let items = match which.id.as_deref().map(str::parse::<PoolId>) {
            Some(Ok(id)) => {
                let found = self.store.get(&record::key(&id)).await;
                found
                    .map_err(|error| unreadable(&error))?
                    .into_iter()
                    .collect()
            }
            // No pool has such a name.
            Some(Err(_)) => Vec::new(),
            None => self.all().await.map_err(|error| unreadable(&error))?.0,
        };
        let group = which.group.as_deref();
        Ok(items
            .into_iter()
            .filter_map(|item| record::info(&item).map(|pool| (item, pool)))
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
        message: "etcd internal error".to_owned(),
        class: Class::Other,
    }
}

fn unwritable(error: bugle_store::Error) -> Error {
    match error {
        bugle_store::Error::TooLarge { bytes, limit } => {
            Error::parameter(format!("the pools hold {bytes} bytes, more than {limit}"))
        }
        bugle_store::Error::Full => Error::other(Code::TransactionFailed, error.to_string()),
        error => {
            tracing::error!(error = bugle_types::report(&error), "a write was refused");
            conflict()
        }
    }
}

fn unintelligible() -> Error {
    Error::other(Code::UnmarshalFailed, "failed to unmarshal")
}

fn conflict() -> Error {
    Error::other(Code::TransactionFailed, "failed to execute a transaction")
}

#[cfg(test)]
mod tests;
