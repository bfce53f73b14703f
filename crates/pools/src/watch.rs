//! Following the records of pools.

use std::collections::BTreeMap;
use std::sync::Arc;

use bugle_store::{Change, Error, KeyValue, Revision, Store, Watch};
use bugle_types::pool::{Pool, PoolId};

use crate::record::{PREFIX, Record};
use crate::service::CHUNK;

/// All pools, as they change. Made by [`Pools::watch`](crate::Pools::watch).
pub struct PoolWatch {
    store: Arc<dyn Store>,
    watch: Option<Box<dyn Watch>>,
    pools: BTreeMap<PoolId, Arc<Pool>>,
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
        }
    }

    /// Every pool there is, the first time at once, then after each change of any. What was missed
    /// in between does not matter: this is how things are, not what has happened.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// The store cannot be read; trying again reads everything anew. [`Error::Closed`] when it has
    /// shut down.
    pub async fn next(&mut self) -> Result<&BTreeMap<PoolId, Arc<Pool>>, Error> {
        let Some(watch) = &mut self.watch else {
            return self.read().await;
        };
        loop {
            match watch.next().await {
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
        let watch = self.store.watch(PREFIX, revision).await?;
        self.pools = items.iter().filter_map(pool).collect();
        self.watch = Some(watch);
        Ok(&self.pools)
    }

    /// What was read may be newer than the change: reading takes more than one look.
    fn take(&mut self, change: Change) {
        let Some(id) = id_of(change.key()) else {
            return;
        };
        let known = self.pools.get(&id).map_or(0, |pool| pool.revision);
        if change.revision().0 < known {
            return;
        }
        match change {
            Change::Put(item) => match pool(&item) {
                Some((id, pool)) => _ = self.pools.insert(id, pool),
                None => _ = self.pools.remove(&id),
            },
            Change::Delete { .. } => _ = self.pools.remove(&id),
        }
    }
}

fn id_of(key: &[u8]) -> Option<PoolId> {
    let id = key.strip_prefix(PREFIX)?;
    str::from_utf8(id).ok()?.parse().ok()
}

/// The pool of a record that is under the key of its own name.
fn pool(item: &KeyValue) -> Option<(PoolId, Arc<Pool>)> {
    let Record { pool, .. } = Record::read(item)?;
    let id = id_of(&item.key).filter(|id| *id == pool.spec.id)?;
    Some((id, Arc::new(pool)))
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
