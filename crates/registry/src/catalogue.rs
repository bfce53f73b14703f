//! The functions that are in use, for whoever runs them: a stream of what came, changed and went.
//!
//! Of a hundred thousand functions most are never called, so only those are known here that keep
//! instances without a call, and those that somebody asked for with [`Catalogue::load`]. Changes
//! of these are followed; the others stay in the store, where a load finds their newest value.
//!
//! Loads and changes meet in one place and carry the revision of what they read: a change that is
//! older than what was loaded is passed over, and one that is newer wins. So a load that races
//! with an update or a deletion ends with the newest truth, whichever is seen first.
//!
//! At the start, and when it fell too far behind the store's watch, it looks through everything
//! for functions that keep instances: bit by bit, while loads and changes go first. It may report
//! a function that did not change; applying an event twice is harmless.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bugle_store::{Batch as Changes, Change, Error, KeyValue, Revision, Store, Watch};
use bugle_types::{FunctionId, FunctionSpec, Runtime};
use bytes::Bytes;

use crate::config::CLUSTER;
use crate::fingerprint::Fingerprint;
use crate::keys::{self, INSTANCES, LabelKey, PUBLISHED_FAAS, PUBLISHED_OTHER};
use crate::specification::{self, Current, Labels, Outline};

/// Keys that are looked through at once: a load waits at most for these, about a millisecond.
const CHUNK: usize = 200;

/// What is followed, and looked through for functions that keep instances.
const FOLLOWED: [&str; 3] = [PUBLISHED_FAAS, PUBLISHED_OTHER, INSTANCES];

/// A change of what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A function version is in use, like this.
    Upsert(Arc<FunctionSpec>),
    /// A function version that was in use is gone.
    Remove(FunctionId),
    /// There are functions of this runtime, in use or not; reported once.
    Runtime(Runtime),
}

/// Changes up to a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Everything up to here that concerns functions in use has been reported.
    pub revision: Revision,
    /// The changes, in order.
    pub events: Vec<Event>,
    /// Whether everything was looked through for functions that keep instances.
    pub complete: bool,
}

/// Follows the published functions that are in use.
pub struct Catalogue {
    store: Arc<dyn Store>,
    watch: Option<Box<dyn Watch>>,
    known: HashMap<FunctionId, Known>,
    runtimes: HashSet<Runtime>,
    search: Option<Search>,
    /// Changes that are still to be applied. One leaves when it is applied, so that nothing is lost
    /// when a future is dropped or the store cannot be read meanwhile.
    changes: VecDeque<Change>,
    /// What is applied and still to be reported.
    events: Vec<Event>,
    /// Up to where everything is applied once `changes` are.
    revision: Revision,
}

/// How far everything was looked through.
#[derive(Debug, Default)]
struct Search {
    /// Which of [`FOLLOWED`].
    part: usize,
    after: Option<Bytes>,
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue")
            .field("known", &self.known.len())
            .finish_non_exhaustive()
    }
}

/// What was last reported of a function version.
struct Known {
    spec: Arc<FunctionSpec>,
    /// When it was published.
    revision: Revision,
    under_faas: bool,
    fingerprint: Fingerprint,
    labels: Labels,
    /// The labels hold every change up to here.
    labels_at: Revision,
}

impl Catalogue {
    /// A catalogue that has read nothing yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            watch: None,
            known: HashMap::new(),
            runtimes: HashSet::new(),
            search: None,
            changes: VecDeque::new(),
            events: Vec::new(),
            revision: Revision(0),
        }
    }

    /// How many function versions are in use.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// A function version that is in use, as it was last reported.
    pub fn known(&self, id: &FunctionId) -> Option<&Arc<FunctionSpec>> {
        self.known.get(id).map(|known| &known.spec)
    }

    /// All that are in use.
    pub fn all(&self) -> impl Iterator<Item = &Arc<FunctionSpec>> {
        self.known.values().map(|known| &known.spec)
    }

    /// The next changes. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the store is closed; others when it cannot be read, and then it may be
    /// called again.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        loop {
            if !self.changes.is_empty() {
                return self.follow().await;
            }
            let Some(watch) = &mut self.watch else {
                return self.begin().await;
            };
            let changes = tokio::select! {
                biased;
                changes = watch.next() => changes,
                // Whoever waits for a change, or for this thread, goes first.
                () = tokio::task::yield_now(), if self.search.is_some() => {
                    return self.search().await;
                }
            };
            match changes {
                Ok(Changes { revision, changes }) => {
                    self.revision = revision;
                    self.changes = changes.into();
                    return self.follow().await;
                }
                Err(Error::Compacted { .. }) => self.watch = None,
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads a function version that is not in use yet, as it is now; it is in use from now on. What
    /// is to be reported of it, after all that was still to be reported. Cancel safe.
    ///
    /// # Errors
    ///
    /// What the store says when it cannot be read.
    pub async fn load(&mut self, id: &FunctionId) -> Result<Vec<Event>, Error> {
        self.take_up(id).await?;
        Ok(std::mem::take(&mut self.events))
    }

    async fn take_up(&mut self, id: &FunctionId) -> Result<(), Error> {
        if self.known.contains_key(id) {
            return Ok(());
        }
        let labels_at = self.store.revision().await?;
        let labels = specification::labels(&*self.store, id).await?;
        if let Some(current) = Current::find(&*self.store, id).await? {
            self.enter(current, (labels, labels_at));
        }
        Ok(())
    }

    /// Reads again what is in use, and begins to follow and to search.
    async fn begin(&mut self) -> Result<Batch, Error> {
        let revision = self.store.revision().await?;
        let watched = FOLLOWED.map(str::as_bytes);
        let watch = self.store.watch(&watched, revision).await?;
        let known: Vec<FunctionId> = self.known.keys().cloned().collect();
        for id in known {
            let labels = specification::labels(&*self.store, &id).await?;
            match Current::find(&*self.store, &id).await? {
                Some(current) => self.enter(current, (labels, revision)),
                None => self.leave(id),
            }
        }
        self.watch = Some(watch);
        self.search = Some(Search::default());
        self.revision = revision;
        Ok(self.batch())
    }

    fn batch(&mut self) -> Batch {
        Batch {
            revision: self.revision,
            events: std::mem::take(&mut self.events),
            complete: self.search.is_none(),
        }
    }

    /// Looks through some more keys.
    async fn search(&mut self) -> Result<Batch, Error> {
        if let Some(Search { part, after }) = &self.search
            && let Some(prefix) = FOLLOWED.get(*part)
        {
            let range = self
                .store
                .range(prefix.as_bytes(), after.as_deref(), CHUNK)
                .await?;
            let next = match range.items.last() {
                Some(last) if range.more => Search {
                    part: *part,
                    after: Some(last.key.clone()),
                },
                _ => Search {
                    part: part + 1,
                    after: None,
                },
            };
            for item in &range.items {
                self.look_at(item).await?;
            }
            self.search = (next.part < FOLLOWED.len()).then_some(next);
        }
        Ok(self.batch())
    }

    /// Takes up the function that an item shows to keep instances.
    async fn look_at(&mut self, item: &KeyValue) -> Result<(), Error> {
        if let Some((id, _)) = keys::parse_published(&item.key) {
            if self.keeps_instances(item) {
                self.take_up(&id).await?;
            }
        } else if let Some(key) = keys::parse_label(&item.key)
            && key.cluster == CLUSTER
            && specification::bounds(item).is_some_and(|bounds| bounds.min > 0)
        {
            self.take_up(&function_of(key)).await?;
        }
        Ok(())
    }

    /// Whether a published function keeps instances without a call. Reports its runtime.
    fn keeps_instances(&mut self, item: &KeyValue) -> bool {
        let Some(Outline { runtime, min }) = Outline::of(item) else {
            return false;
        };
        if !self.runtimes.contains(&runtime) {
            self.runtimes.insert(runtime.clone());
            self.events.push(Event::Runtime(runtime));
        }
        min > 0
    }

    /// Applies the changes that the watch has delivered.
    async fn follow(&mut self) -> Result<Batch, Error> {
        while let Some(change) = self.changes.front().cloned() {
            if let Some((id, faas)) = keys::parse_published(change.key()) {
                self.function_changed(id, faas, &change).await?;
            } else if let Some(key) = keys::parse_label(change.key()) {
                self.label_changed(key, &change).await?;
            }
            self.changes.pop_front();
        }
        Ok(self.batch())
    }

    async fn function_changed(
        &mut self,
        id: FunctionId,
        faas: bool,
        change: &Change,
    ) -> Result<(), Error> {
        let item = match change {
            Change::Put(item) => item,
            Change::Delete { revision, .. } => {
                // The other prefix may still hold it: then it was not this one that was reported.
                // And one that was loaded after it had come back stays.
                let gone = |known: &Known| known.under_faas == faas && known.revision < *revision;
                if self.known.get(&id).is_some_and(gone) {
                    self.leave(id);
                }
                return Ok(());
            }
        };
        let keeps_instances = self.keeps_instances(item);
        let Some(known) = self.known.get(&id) else {
            if keeps_instances {
                self.take_up(&id).await?;
            }
            return Ok(());
        };
        // Otherwise it was loaded as it is now, or newer.
        if known.revision < item.mod_revision
            && let Some(current) = Current::of(&id, faas, item)
        {
            let labels = (known.labels.clone(), known.labels_at);
            self.enter(current, labels);
        }
        Ok(())
    }

    async fn label_changed(&mut self, key: LabelKey, change: &Change) -> Result<(), Error> {
        // Other clusters have their own instances.
        if key.cluster != CLUSTER {
            return Ok(());
        }
        let scale = match change {
            Change::Put(item) => match specification::bounds(item) {
                Some(scale) => Some(scale),
                None => return Ok(()),
            },
            Change::Delete { .. } => None,
        };
        let label = key.label.clone();
        let id = function_of(key);
        let Some(known) = self.known.get_mut(&id) else {
            if scale.is_some_and(|scale| scale.min > 0) {
                self.take_up(&id).await?;
            }
            return Ok(());
        };
        if change.revision() <= known.labels_at {
            return Ok(());
        }
        match scale {
            Some(scale) => known.labels.insert(label, scale),
            None => known.labels.remove(&label),
        };
        let labels = specification::listed(&known.labels);
        if known.spec.labels != labels {
            Arc::make_mut(&mut known.spec).labels = labels;
            self.events.push(Event::Upsert(Arc::clone(&known.spec)));
        }
        Ok(())
    }

    /// Takes over what was read of a function. The instances that there are may serve it as well:
    /// then it keeps its generation.
    fn enter(&mut self, current: Current, (labels, at): (Labels, Revision)) {
        let Current {
            mut spec,
            revision,
            under_faas,
            fingerprint,
        } = current;
        spec.labels = specification::listed(&labels);
        if let Some(known) = self.known.get(&spec.id)
            && (known.revision == revision || known.fingerprint.keeps_instances(fingerprint))
        {
            spec.generation = known.spec.generation.clone();
        }
        let spec = Arc::new(spec);
        let known = Known {
            spec: Arc::clone(&spec),
            revision,
            under_faas,
            fingerprint,
            labels,
            labels_at: at,
        };
        self.known.insert(spec.id.clone(), known);
        self.events.push(Event::Upsert(spec));
    }

    fn leave(&mut self, id: FunctionId) {
        self.known.remove(&id);
        self.events.push(Event::Remove(id));
    }
}

/// The function version that a label is of. The layout leaves the product out (contract 2.7): the
/// label counts for the function without one.
fn function_of(key: LabelKey) -> FunctionId {
    FunctionId {
        tenant: key.tenant,
        product: None,
        name: key.name,
        version: key.version,
    }
}
