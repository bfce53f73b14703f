//! Whoever follows a catalogue, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bugle_registry::{Catalogue, Event};
use bugle_store::{Revision, Store};
use bugle_types::{FunctionId, FunctionSpec};

use super::{Desk, NAME};

/// A catalogue, and what its events make of an empty desk.
pub(crate) struct Follower {
    catalogue: Catalogue,
    pub(crate) functions: BTreeMap<String, FunctionSpec>,
    /// The names of the runtimes that were reported.
    pub(crate) runtimes: Vec<String>,
    /// Up to where everything is known.
    seen: Option<Revision>,
    /// Every event of a function, in short.
    events: Vec<String>,
}

impl Follower {
    pub(crate) fn new(desk: &Desk) -> Self {
        Self::of(Arc::clone(&desk.store))
    }

    pub(crate) fn of(store: Arc<dyn Store>) -> Self {
        Self {
            catalogue: Catalogue::new(store),
            functions: BTreeMap::new(),
            runtimes: Vec::new(),
            seen: None,
            events: Vec::new(),
        }
    }

    /// Follows until everything that is in the store now is known and in use; the events since the
    /// last time.
    pub(crate) async fn catch_up(&mut self, desk: &Desk) -> Vec<String> {
        self.follow(desk).await;
        for key in desk.keys().await {
            if let Some(id) = published(&key) {
                self.load(&id).await;
            }
        }
        std::mem::take(&mut self.events)
    }

    /// Follows until everything that is in the store now is known, without bringing anything into
    /// use; the events since the last time.
    pub(crate) async fn follow(&mut self, desk: &Desk) -> Vec<String> {
        let goal = desk.store.revision().await.unwrap();
        while self.seen.is_none_or(|seen| seen < goal) {
            let next = tokio::time::timeout(Duration::from_secs(10), self.catalogue.next()).await;
            let batch = next.expect("changes arrive").unwrap();
            self.apply(batch.events);
            self.seen = batch.complete.then_some(batch.revision);
        }
        self.events.clone()
    }

    /// Brings a function into use.
    pub(crate) async fn load(&mut self, id: &FunctionId) {
        let events = self.catalogue.load(id).await.unwrap();
        self.apply(events);
    }

    fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Runtime(runtime) => self.runtimes.push(runtime.to_string()),
                Event::Upsert(spec) => {
                    let id = spec.id.to_string();
                    let labels: Vec<_> = spec.labels.iter().map(|l| l.label.as_str()).collect();
                    self.events.push(format!("+{id} [{}]", labels.join(" ")));
                    self.functions.insert(id, Arc::unwrap_or_clone(spec));
                }
                Event::Remove(id) => {
                    self.events.push(format!("-{id}"));
                    self.functions.remove(&id.to_string());
                }
            }
        }
    }

    /// How many functions the catalogue remembers.
    pub(crate) fn known(&self) -> usize {
        self.catalogue.len()
    }

    pub(crate) fn draft(&self) -> &FunctionSpec {
        &self.functions[&format!("default/{NAME}/latest")]
    }

    /// How the draft is in use, in short.
    pub(crate) fn draft_generation(&self) -> Option<&str> {
        let draft = self.functions.get(&format!("default/{NAME}/latest"))?;
        Some(&draft.generation.0)
    }
}

/// The draft or version of a tenant that a key publishes.
fn published(key: &str) -> Option<FunctionId> {
    let parts: Vec<&str> = key.split('/').collect();
    let [
        "",
        "sn" | "yr",
        "functions",
        "business",
        _,
        "tenant",
        tenant,
        "function",
        name,
        "version",
        version,
    ] = parts.as_slice()
    else {
        return None;
    };
    Some(FunctionId {
        tenant: tenant.parse().unwrap(),
        product: None,
        name: name.parse().unwrap(),
        version: version.parse().unwrap(),
    })
}

/// The draft of [`NAME`].
pub(crate) fn draft() -> FunctionId {
    FunctionId {
        tenant: "default".parse().unwrap(),
        product: None,
        name: NAME.parse().unwrap(),
        version: bugle_types::Version::Draft,
    }
}
