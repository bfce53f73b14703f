//! What goes because something else went: dependents of deleted owners, the content of namespaces.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::deletion::{self, Options};
use crate::objects::{self, Owners, Write, is_terminating, uid};
use crate::resources::Resource;
use crate::store::{Key, Object, Store};

/// Deletes what has lost its owner, and lets owners go that waited for their dependents.
pub(super) fn step(store: &mut Store) {
    let all: Vec<(Key, Object)> = store
        .all()
        .map(|(key, object)| (key.clone(), Object::clone(object)))
        .collect();
    let alive: BTreeSet<&str> = all.iter().map(|(_, object)| uid(object)).collect();
    for (key, object) in &all {
        let mut owners = owners(object).peekable();
        if owners.peek().is_some()
            && !is_terminating(object)
            && owners.all(|owner| !alive.contains(owner["uid"].as_str().unwrap_or_default()))
        {
            delete(store, key, "Background");
        }
    }
    for (key, object) in all.iter().filter(|(_, object)| is_terminating(object)) {
        for finalizer in finalizers(object) {
            match finalizer {
                "foregroundDeletion" => foreground(store, &all, key, object),
                "orphan" => orphan(store, &all, key, object),
                _ => {}
            }
        }
        if key.plural == "namespaces" {
            empty(store, key);
        }
    }
}

fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
}

fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let list = object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten();
    list.filter_map(Value::as_str)
}

fn delete(store: &mut Store, key: &Key, propagation: &str) {
    let options = Options {
        propagation_policy: Some(propagation.to_owned()),
        ..Options::default()
    };
    // It may be gone already.
    let _gone = deletion::delete(store, Resource::of(key.plural), key, &options);
}

fn dependents<'a>(
    all: &'a [(Key, Object)],
    owner: &'a Value,
) -> impl Iterator<Item = &'a (Key, Object)> {
    all.iter()
        .filter(move |(_, object)| owners(object).any(|known| known["uid"] == uid(owner)))
}

fn foreground(store: &mut Store, all: &[(Key, Object)], key: &Key, owner: &Value) {
    let mut blocked = false;
    for (dependent, object) in dependents(all, owner) {
        if store.get(dependent).is_none() {
            continue;
        }
        blocked = true;
        if !is_terminating(object) {
            delete(store, dependent, "Foreground");
        }
    }
    if !blocked {
        drop_finalizer(store, key, "foregroundDeletion");
    }
}

fn orphan(store: &mut Store, all: &[(Key, Object)], key: &Key, owner: &Value) {
    for (dependent, _) in dependents(all, owner) {
        change(store, dependent, |object| {
            if let Some(owners) = object["metadata"]["ownerReferences"].as_array_mut() {
                owners.retain(|known| known["uid"] != uid(owner));
            }
        });
    }
    drop_finalizer(store, key, "orphan");
}

fn drop_finalizer(store: &mut Store, key: &Key, name: &str) {
    change(store, key, |object| {
        if let Some(list) = object["metadata"]["finalizers"].as_array_mut() {
            list.retain(|known| known != name);
            if list.is_empty() {
                object["metadata"]["finalizers"] = Value::Null;
            }
        }
    });
}

fn change(store: &mut Store, key: &Key, change: impl FnOnce(&mut Value)) {
    let Some(object) = store.get(key) else { return };
    let mut new = Value::clone(object);
    change(&mut new);
    let write = Write::of_controller("kube-controller-manager", "");
    let resource = Resource::of(key.plural);
    let _unchanged = objects::update(store, resource, key, new, &write, Owners::FromDifference);
}

/// Empties a namespace that goes away, and then takes it away.
fn empty(store: &mut Store, key: &Key) {
    let content = store.in_namespace(&key.name);
    if content.is_empty() {
        store.remove(key);
        return;
    }
    for key in content {
        if store
            .get(&key)
            .is_some_and(|object| !is_terminating(object))
        {
            delete(store, &key, "Background");
        }
    }
}
