//! Which function versions there are, in the order of their last change.
//!
//! A list request reads this and then only the records of its page. The index follows the store's
//! watch, so it is right whoever writes; a list waits until all that the store holds when it is asked
//! for is in. Changes are answered before.
//!
//! At the start it is read bit by bit while the platform serves already; lists wait until it is
//! whole. What is read and what the watch delivers is ordered by revision: the newer counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bugle_api::Caller;
use bugle_store::{Change, Error, KeyValue, Revision, Store};
use bugle_types::{Kind, ProductId, TenantId};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::json::{self, Fields};
use crate::keys::{self, RECORDS};

/// Keys read at once when the index is read: a list that waits for the index waits at most for
/// these, about a millisecond.
const CHUNK: usize = 200;

/// The longest that a list waits for changes; beyond, it may be late.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause before a store that cannot be read is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Functions belong to a tenant and product.
type Owner = (TenantId, Option<ProductId>);

/// The name and version of a function, in one text that both maps share: there may be very many.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Versioned(Arc<str>);

impl Versioned {
    /// Between the two, and less than every character of a name: in order of names, then versions.
    const BETWEEN: char = '\0';

    fn new(name: &str, version: &str) -> Self {
        Self(format!("{name}{}{version}", Self::BETWEEN).into())
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once(Self::BETWEEN).unwrap_or((&self.0, ""))
    }

    /// The function's name.
    pub(crate) fn name(&self) -> &str {
        self.parts().0
    }

    /// The version, as it is spelled in its key.
    pub(crate) fn version(&self) -> &str {
        self.parts().1
    }
}

/// The place of a version in a list: last changed first; what was changed together by name, then
/// version.
type Place = (Reverse<Revision>, Versioned);

#[derive(Debug, Default)]
struct Owned {
    order: BTreeMap<Place, Kind>,
    places: HashMap<Versioned, Revision>,
}

#[derive(Debug)]
pub(crate) struct Index {
    owners: Mutex<HashMap<Owner, Owned>>,
    progress: watch::Sender<Progress>,
}

/// How far the index has come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The changes up to here are in.
    applied: Revision,
    /// So is everything that was there before.
    whole: bool,
}

/// What is still to be read: the keys after this one.
#[derive(Debug, Default)]
struct Reading {
    after: Option<Bytes>,
}

impl Index {
    /// An index that [`Self::follow`] fills.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            owners: Mutex::default(),
            progress: watch::Sender::new(Progress::default()),
        })
    }

    /// Reads every record, and follows the store until it closes.
    pub(crate) async fn follow(self: Arc<Self>, store: Arc<dyn Store>) {
        loop {
            match self.read_and_follow(&*store).await {
                Err(Error::Closed) => return,
                Err(Error::Compacted { .. }) => {
                    tracing::warn!("the index is behind and reads everything again");
                }
                Err(error) => {
                    tracing::warn!(%error, "the index cannot be read");
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(never) => match never {},
            }
        }
    }

    async fn read_and_follow(&self, store: &dyn Store) -> Result<std::convert::Infallible, Error> {
        let applied = store.revision().await?;
        let mut watch = store.watch(&[RECORDS.as_bytes()], applied).await?;
        self.owners.lock().clear();
        let whole = false;
        self.progress.send_replace(Progress { applied, whole });
        let mut reading = Some(Reading::default());
        loop {
            let batch = tokio::select! {
                biased;
                batch = watch.next() => batch?,
                // Answers to changes, and whoever else shares the thread, go first.
                () = tokio::task::yield_now(), if reading.is_some() => {
                    reading = self.read_on(store, reading.take().unwrap_or_default()).await?;
                    continue;
                }
            };
            {
                let mut owners = self.owners.lock();
                for change in &batch.changes {
                    match change {
                        Change::Put(item) => insert(&mut owners, item),
                        Change::Delete { key, revision } => remove(&mut owners, key, *revision),
                    }
                }
            }
            let applied = batch.revision;
            self.progress
                .send_modify(|progress| progress.applied = applied);
        }
    }

    /// Reads some more records; returns what is left.
    async fn read_on(&self, store: &dyn Store, from: Reading) -> Result<Option<Reading>, Error> {
        let range = store
            .range(RECORDS.as_bytes(), from.after.as_deref(), CHUNK)
            .await?;
        let mut owners = self.owners.lock();
        range
            .items
            .iter()
            .for_each(|item| insert(&mut owners, item));
        drop(owners);
        if range.more {
            let after = range.items.last().map(|item| item.key.clone());
            return Ok(Some(Reading { after }));
        }
        self.progress.send_modify(|progress| progress.whole = true);
        Ok(None)
    }

    /// Waits until the changes up to `revision` are in.
    async fn wait_for(&self, revision: Revision) {
        let applied = self.wait(|progress| progress.applied >= revision);
        if tokio::time::timeout(PATIENCE, applied).await.is_err() {
            tracing::warn!(revision = revision.0, "the index is behind the store");
        }
    }

    async fn wait(&self, far_enough: impl Fn(&Progress) -> bool) {
        if !far_enough(&self.progress.borrow()) {
            let mut progress = self.progress.subscribe();
            // Its sender is here.
            let _ = progress.wait_for(|progress| far_enough(progress)).await;
        }
    }

    /// The versions that `wanted` accepts, in order: those of a page, and how many there are. All
    /// that the store held at `revision` is seen.
    pub(crate) async fn page(
        &self,
        revision: Revision,
        caller: &Caller,
        (before, size): (usize, usize),
        wanted: impl Fn(&Versioned, Kind) -> bool,
    ) -> (Vec<Versioned>, usize) {
        // A part of a list would be wrong, and who waits for all of it can give up.
        self.wait(|progress| progress.whole).await;
        self.wait_for(revision).await;
        let owners = self.owners.lock();
        let Some(owned) = owners.get(&(caller.tenant.clone(), caller.product.clone())) else {
            return (Vec::new(), 0);
        };
        let (mut page, mut total) = (Vec::new(), 0);
        for ((_, version), kind) in &owned.order {
            if wanted(version, *kind) {
                if total >= before && page.len() < size {
                    page.push(version.clone());
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
    let owned = owners.entry((caller.tenant, caller.product)).or_default();
    let key = Versioned::new(name.as_str(), &version);
    let revision = item.mod_revision;
    let old = owned.places.get_key_value(&key);
    let old = old.map(|(key, revision)| (key.clone(), *revision));
    let key = match old {
        // It was read as it is now, or newer.
        Some((_, old)) if old >= revision => return,
        Some((key, old)) => {
            owned.order.remove(&(Reverse(old), key.clone()));
            key
        }
        None => key,
    };
    let kind = kind(&item.value).unwrap_or(Kind::Yrlib);
    owned.places.insert(key.clone(), revision);
    owned.order.insert((Reverse(revision), key), kind);
}

/// The one field of a record that lists filter by.
fn kind(record: &[u8]) -> Option<Kind> {
    let version = Fields::find(record, "FunctionVersion")?;
    let kind: String = json::read(Fields::find(version, "Kind")?)?;
    kind.parse().ok()
}

fn remove(owners: &mut HashMap<Owner, Owned>, key: &[u8], at: Revision) {
    let Some((caller, name, version)) = keys::parse_record(key) else {
        return;
    };
    let owner = (caller.tenant, caller.product);
    let Some(owned) = owners.get_mut(&owner) else {
        return;
    };
    let key = Versioned::new(name.as_str(), &version);
    // One that is newer was read after it had come back.
    if let Some(old) = owned.places.get(&key).copied().filter(|old| *old < at) {
        owned.places.remove(&key);
        owned.order.remove(&(Reverse(old), key));
    }
    if owned.places.is_empty() {
        owners.remove(&owner);
    }
}
