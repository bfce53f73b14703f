//! Following the records of pools.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bugle_api::PoolInfo;
use bugle_store::{Change, Compare, Error, KeyValue, Op, Revision, Store, Txn, Watch};
use bugle_types::pool::{Pool, PoolId, PoolStatus};
use bytes::Bytes;
use tokio::time::timeout;

use crate::record::{self, Flaw, PREFIX, Record};
use crate::service::CHUNK;

/// How long what could not be recorded waits.
const AGAIN: Duration = Duration::from_secs(1);

/// The most that is said of a record that breaks the rules, in characters.
const LONGEST: usize = 4096;

/// All pools, as they change. Made by [`Pools::watch`](crate::Pools::watch).
pub struct PoolWatch {
    store: Arc<dyn Store>,
    watch: Option<Box<dyn Watch>>,
    pools: BTreeMap<PoolId, Arc<Pool>>,
    /// What is to be done about records that break the rules: their last word, unless they have changed
    /// since.
    verdicts: BTreeMap<Bytes, Txn>,
}

impl std::fmt::Debug for PoolWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolWatch")
            .field("pools", &self.pools.len())
            .finish_non_exhaustive()
    }
}

impl PoolWatch {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            watch: None,
            pools: BTreeMap::new(),
            verdicts: BTreeMap::new(),
        }
    }

    /// Every pool there is, the first time at once, then after each change of any. What was missed
    /// in between does not matter: this is how things are, not what has happened.
    ///
    /// On the way the records of pools that break the rules get status 5 with what is wrong, and those
    /// of them that are to be deleted go: nobody else makes anything of them.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// The store cannot be read; trying again reads everything anew. [`Error::Closed`] when it has
    /// shut down.
    pub async fn next(&mut self) -> Result<&BTreeMap<PoolId, Arc<Pool>>, Error> {
        loop {
            let judged = self.judge().await;
            let Some(watch) = &mut self.watch else {
                return self.read().await;
            };
            // What could not be written waits for better times, and nothing else for it.
            let patience = if judged { Duration::MAX } else { AGAIN };
            let Ok(next) = timeout(patience, watch.next()).await else {
                continue;
            };
            match next {
                Ok(batch) if batch.changes.is_empty() => {}
                Ok(batch) => {
                    for change in batch.changes {
                        self.take(change);
                    }
                    return Ok(&self.pools);
                }
                Err(Error::Compacted { .. }) => return self.read().await,
                Err(error) => {
                    self.watch = None;
                    return Err(error);
                }
            }
        }
    }

    async fn read(&mut self) -> Result<&BTreeMap<PoolId, Arc<Pool>>, Error> {
        let (items, revision) = read_all(&*self.store).await?;
        let watch = self.store.watch(&[PREFIX], revision).await?;
        self.pools.clear();
        self.verdicts.clear();
        for item in &items {
            self.put(item);
        }
        self.watch = Some(watch);
        Ok(&self.pools)
    }

    /// Has recorded what is wrong with records that break the rules; false if it could not.
    async fn judge(&mut self) -> bool {
        while let Some((key, verdict)) = self.verdicts.first_key_value() {
            let key = key.clone();
            if let Err(error) = self.store.txn(verdict.clone()).await {
                let (key, error) = (String::from_utf8_lossy(&key), bugle_types::report(&error));
                tracing::warn!(%key, error, "what is wrong with a pool cannot be recorded");
                return false;
            }
            // One that has changed since is looked at again when the watch shows it.
            self.verdicts.remove(&key);
        }
        true
    }

    /// Takes in what a record says.
    fn put(&mut self, item: &KeyValue) {
        let flaw = match Record::read(item) {
            Ok(Record { pool, .. }) => {
                self.pools.insert(pool.spec.id.clone(), Arc::new(pool));
                self.verdicts.remove(&item.key);
                return;
            }
            Err(flaw) => flaw,
        };
        if let Some(id) = id_of(&item.key) {
            self.pools.remove(&id);
        }
        self.verdicts.remove(&item.key);
        let key = String::from_utf8_lossy(&item.key);
        match flaw {
            Flaw::NoPool(why) => tracing::warn!(%key, why, "a record is no pool"),
            Flaw::Broken(info, why) => {
                tracing::warn!(%key, why, "a record is not a pool that this platform takes");
                if let Some(op) = verdict(item, &info, &why) {
                    let unchanged = Compare::ModRevision(item.key.clone(), item.mod_revision);
                    let txn = Txn {
                        when: vec![unchanged],
                        then: vec![op],
                    };
                    self.verdicts.insert(item.key.clone(), txn);
                }
            }
        }
    }

    /// What was read may be newer than the change: reading takes more than one look.
    fn take(&mut self, change: Change) {
        // A name that no pool can have is a mistake as well, which is recorded, or goes when it is deleted.
        let id = id_of(change.key());
        let known = id.as_ref().and_then(|id| self.pools.get(id));
        if change.revision().0 < known.map_or(0, |pool| pool.revision) {
            return;
        }
        match change {
            Change::Put(item) => self.put(&item),
            Change::Delete { key, .. } => {
                if let Some(id) = id {
                    self.pools.remove(&id);
                }
                self.verdicts.remove(&key);
            }
        }
    }
}

fn id_of(key: &[u8]) -> Option<PoolId> {
    let id = key.strip_prefix(PREFIX)?;
    str::from_utf8(id).ok()?.parse().ok()
}

/// What becomes of a record that breaks the rules; nothing if it says so already.
fn verdict(item: &KeyValue, info: &PoolInfo, why: &str) -> Option<Op> {
    if info.state().status == PoolStatus::PendingDeletion {
        return Some(Op::Delete(item.key.clone()));
    }
    let told = PoolInfo {
        status: PoolStatus::Failed.number().into(),
        msg: why.chars().take(LONGEST).collect(),
        ready_count: 0,
        ..info.clone()
    };
    (told != *info).then(|| Op::Put(item.key.clone(), record::value(&told)))
}

/// Every record under the prefix, and the revision after which all changes are news.
pub(crate) async fn read_all(store: &dyn Store) -> Result<(Vec<KeyValue>, Revision), Error> {
    let mut items: Vec<KeyValue> = Vec::new();
    let mut since = None;
    loop {
        let after = items.last().map(|item| item.key.clone());
        let range = store.range(PREFIX, after.as_deref(), CHUNK).await?;
        let since = *since.get_or_insert(range.revision);
        items.extend(range.items);
        if !range.more {
            return Ok((items, since));
        }
    }
}
