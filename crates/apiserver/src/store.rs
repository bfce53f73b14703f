//! The objects, their one revision, and what happened to them last.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::resources::Resource;

/// An object as it is stored. It is never changed, only replaced.
pub(crate) type Object = Arc<Value>;

/// How many changes are kept for watches.
const HISTORY: usize = 10_000;

/// The revision of an empty store. A real server has written a lot before its first user comes.
const FIRST: u64 = 1000;

/// Where an object is stored; sorted as lists are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Plural name of its kind.
    pub(crate) plural: &'static str,
    /// Empty for what lives beside the namespaces.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

impl Key {
    /// The key of an object of that kind.
    pub(crate) fn new(resource: &Resource, namespace: &str, name: &str) -> Self {
        Self {
            plural: resource.plural,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// One write.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// The revision that it made.
    pub(crate) revision: u64,
    /// What was written.
    pub(crate) key: Key,
    /// The object before; none if it was created.
    pub(crate) before: Option<Object>,
    /// The object after; on deletion its last state under the revision of the deletion.
    pub(crate) after: Object,
    /// Whether it is gone now.
    pub(crate) deleted: bool,
}

/// All objects.
#[derive(Debug)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Object>,
    history: VecDeque<Change>,
    revision: u64,
    /// Changes up to this revision are forgotten.
    compacted: u64,
    changed: watch::Sender<u64>,
}

impl Store {
    /// An empty store.
    pub(crate) fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            revision: FIRST,
            compacted: FIRST,
            changed: watch::Sender::new(FIRST),
        }
    }

    /// The revision of the last write.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The newest revision that a watch can no longer start from.
    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Tells the revision of every write.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key)
    }

    /// The objects of a kind, in the order of their names; of all namespaces if none is given.
    pub(crate) fn list<'a>(
        &'a self,
        resource: &Resource,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Object)> {
        let plural = resource.plural;
        let from = Key::new(resource, namespace.unwrap_or_default(), "");
        self.objects.range(from..).take_while(move |(key, _)| {
            key.plural == plural && namespace.is_none_or(|namespace| key.namespace == namespace)
        })
    }

    /// Everything in a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Key> {
        let keys = self.objects.keys();
        keys.filter(|key| key.namespace == namespace)
            .cloned()
            .collect()
    }

    /// Every object.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Key, &Object)> {
        self.objects.iter()
    }

    /// Stores the object under a new revision and gives it back with that in it.
    pub(crate) fn put(&mut self, key: Key, object: Value) -> Object {
        let object = self.stamp(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&object));
        self.record(Change {
            revision: self.revision,
            key,
            before,
            after: Arc::clone(&object),
            deleted: false,
        });
        object
    }

    /// Takes the object out.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Object> {
        let before = self.objects.remove(key)?;
        let after = self.stamp(Value::clone(&before));
        self.record(Change {
            revision: self.revision,
            key: key.clone(),
            before: Some(before),
            after: Arc::clone(&after),
            deleted: true,
        });
        Some(after)
    }

    /// The changes after that revision; none if some of them are forgotten.
    pub(crate) fn since(&self, revision: u64) -> Option<impl Iterator<Item = &Change>> {
        if revision < self.compacted {
            return None;
        }
        let start = self
            .history
            .partition_point(|change| change.revision <= revision);
        Some(self.history.range(start..))
    }

    /// Forgets all changes so far, as etcd does every few minutes.
    pub(crate) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.revision;
    }

    fn stamp(&mut self, mut object: Value) -> Object {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        Arc::new(object)
    }

    fn record(&mut self, change: Change) {
        self.history.push_back(change);
        if self.history.len() > HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.compacted = oldest.revision;
        }
        self.changed.send_replace(self.revision);
    }
}
