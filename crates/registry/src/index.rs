//! Which function versions there are, in the order of their last change.
//!
//! A list request reads this and then only the records of its page. The index follows the store's
//! watch, so it is right whoever writes; an answer to a change waits until its revision is in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bugle_api::Caller;
use bugle_store::{Change, Error, KeyValue, Revision, Store};
use bugle_types::{FunctionName, Kind, ProductId, TenantId};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::watch;

use crate::keys::{self, RECORDS};

/// Keys read at once when the index is loaded.
const CHUNK: usize = 1000;

/// The longest that an answer waits for the index; beyond, a list may be late.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause before a watch that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Functions belong to a tenant and product.
type Owner = (TenantId, Option<ProductId>);

/// The place of a version in a list: last changed first; what was changed together by name, then
/// version.
pub(crate) type Place = (Reverse<Revision>, FunctionName, String);

#[derive(Debug, Default)]
struct Owned {
    order: BTreeMap<Place, Kind>,
    places: HashMap<(FunctionName, String), Revision>,
}

#[derive(Debug)]
pub(crate) struct Index {
    owners: Mutex<HashMap<Owner, Owned>>,
    applied: watch::Sender<Revision>,
}

/// The one field of a record that lists filter by.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Partial {
    function_version: PartialVersion,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PartialVersion {
    kind: String,
}

impl Index {
    /// Reads every record.
    pub(crate) async fn load(store: &dyn Store) -> Result<Arc<Self>, Error> {
        let index = Self {
            owners: Mutex::default(),
            applied: watch::Sender::new(Revision(0)),
        };
        index.read_all(store).await?;
        Ok(Arc::new(index))
    }

    async fn read_all(&self, store: &dyn Store) -> Result<(), Error> {
        let from = store.revision().await?;
        let mut found: HashMap<Owner, Owned> = HashMap::new();
        let mut after: Option<bytes::Bytes> = None;
        loop {
            let range = store
                .range(RECORDS.as_bytes(), after.as_deref(), CHUNK)
                .await?;
            for item in &range.items {
                insert(&mut found, item);
            }
            after = range.items.last().map(|item| item.key.clone());
            if !range.more {
                break;
            }
        }
        *self.owners.lock() = found;
        self.applied.send_replace(from);
        Ok(())
    }

    /// Follows the store until it closes.
    pub(crate) async fn follow(self: Arc<Self>, store: Arc<dyn Store>) {
        loop {
            match self.follow_watch(&*store).await {
                Err(Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "the index reads everything again");
                    if self.read_all(&*store).await.is_err() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                Ok(never) => match never {},
            }
        }
    }

    async fn follow_watch(&self, store: &dyn Store) -> Result<std::convert::Infallible, Error> {
        let from = *self.applied.borrow();
        let mut watch = store.watch(RECORDS.as_bytes(), from).await?;
        loop {
            let batch = watch.next().await?;
            {
                let mut owners = self.owners.lock();
                for change in &batch.changes {
                    match change {
                        Change::Put(item) => insert(&mut owners, item),
                        Change::Delete { key, .. } => remove(&mut owners, key),
                    }
                }
            }
            self.applied.send_replace(batch.revision);
        }
    }

    /// Waits until the changes up to `revision` are in.
    pub(crate) async fn wait_for(&self, revision: Revision) {
        if *self.applied.borrow() >= revision {
            return;
        }
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| *applied >= revision);
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            tracing::warn!(revision = revision.0, "the index is behind the store");
        }
    }

    /// The versions that `wanted` accepts, in order: those of a page, and how many there are.
    pub(crate) fn page(
        &self,
        caller: &Caller,
        (before, size): (usize, usize),
        wanted: impl Fn(&FunctionName, &str, Kind) -> bool,
    ) -> (Vec<Place>, usize) {
        let owners = self.owners.lock();
        let Some(owned) = owners.get(&(caller.tenant.clone(), caller.product.clone())) else {
            return (Vec::new(), 0);
        };
        let (mut page, mut total) = (Vec::new(), 0);
        for (place, kind) in &owned.order {
            if wanted(&place.1, &place.2, *kind) {
                if total >= before && page.len() < size {
                    page.push(place.clone());
                }
                total += 1;
            }
        }
        (page, total)
    }
}

fn insert(owners: &mut HashMap<Owner, Owned>, item: &KeyValue) {
    let Some((caller, name, version)) = keys::parse_record(&item.key) else {
        return;
    };
    let kind = serde_json::from_slice::<Partial>(&item.value)
        .ok()
        .and_then(|partial| partial.function_version.kind.parse().ok())
        .unwrap_or(Kind::Yrlib);
    let owned = owners.entry((caller.tenant, caller.product)).or_default();
    let revision = item.mod_revision;
    if let Some(old) = owned
        .places
        .insert((name.clone(), version.clone()), revision)
    {
        owned
            .order
            .remove(&(Reverse(old), name.clone(), version.clone()));
    }
    owned.order.insert((Reverse(revision), name, version), kind);
}

fn remove(owners: &mut HashMap<Owner, Owned>, key: &[u8]) {
    let Some((caller, name, version)) = keys::parse_record(key) else {
        return;
    };
    let owner = (caller.tenant, caller.product);
    let Some(owned) = owners.get_mut(&owner) else {
        return;
    };
    if let Some(old) = owned.places.remove(&(name.clone(), version.clone())) {
        owned.order.remove(&(Reverse(old), name, version));
    }
    if owned.places.is_empty() {
        owners.remove(&owner);
    }
}
