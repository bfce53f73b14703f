//! The rules of functions and reserved instances, over a store in memory.
#![cfg(test)]

mod catalogue;
mod changes;
mod fields;
mod lists;
mod reservations;
mod secrets;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bugle_api::{
    Caller, Error, FunctionObject, FunctionRequest, FunctionsApi as _, GetQuery, PublishRequest,
};
use bugle_registry::{Clock, Config, Keyring, Registry};
use bugle_store::{MemoryStore, Store};
use bugle_types::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A clock that stands until it is set.
#[derive(Debug)]
struct StandingClock(AtomicI64);

impl Clock for StandingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A registry, and whoever uses it.
struct Desk {
    registry: Arc<Registry>,
    store: Arc<dyn Store>,
    clock: Arc<StandingClock>,
    caller: Caller,
    following: tokio::task::JoinHandle<()>,
    /// Where the key is.
    folder: TempDir,
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Desk {
    async fn new() -> Self {
        Self::over(Arc::new(MemoryStore::new()), Config::default()).await
    }

    async fn over(store: Arc<dyn Store>, config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::open(folder.path()).unwrap());
        // 2026-03-01 09:33:28.978 UTC.
        let clock = Arc::new(StandingClock(AtomicI64::new(1_772_357_608_978)));
        let (registry, follow) = Registry::open(
            Arc::clone(&store),
            keyring,
            config,
            Arc::clone(&clock) as _,
            Arc::new(|_| Box::pin(async {})),
        )
        .await
        .unwrap();
        Self {
            registry,
            store,
            clock,
            caller: caller("default"),
            following: tokio::spawn(follow),
            folder,
        }
    }

    async fn register(&self, body: Value) -> Result<FunctionObject, Error> {
        self.registry.register(&self.caller, request(body)).await
    }

    async fn update(&self, name: &str, body: Value) -> Result<FunctionObject, Error> {
        self.registry
            .update(&self.caller, name, request(body))
            .await
    }

    async fn publish(&self, name: &str, body: Value) -> Result<FunctionObject, Error> {
        let request: PublishRequest = serde_json::from_value(body).unwrap();
        self.registry.publish(&self.caller, name, request).await
    }

    async fn get(&self, name: &str, version: &str) -> Result<FunctionObject, Error> {
        self.registry.get(&self.caller, name, at(version)).await
    }

    async fn delete(&self, name: &str, version: &str) -> Result<(), Error> {
        self.registry.delete(&self.caller, name, at(version)).await
    }

    /// The value of a key of the store.
    async fn stored(&self, key: &str) -> Option<Value> {
        let item = self.store.get(key.as_bytes()).await.unwrap()?;
        Some(serde_json::from_slice(&item.value).unwrap())
    }

    async fn keys(&self) -> Vec<String> {
        let range = self.store.range(b"/", None, usize::MAX).await.unwrap();
        let keys = range.items.iter().map(|item| item.key.to_vec());
        keys.map(|key| String::from_utf8(key).unwrap()).collect()
    }
}

fn caller(tenant: &str) -> Caller {
    Caller {
        tenant: tenant.parse().unwrap(),
        product: None,
    }
}

fn request(body: Value) -> FunctionRequest {
    serde_json::from_value(body).unwrap()
}

/// The version that a query names; the draft for an empty text.
fn at(version: &str) -> GetQuery {
    GetQuery {
        version_number: (!version.is_empty()).then(|| version.to_owned()),
        qualifier: None,
        kind: None,
    }
}

/// The smallest body that registers a function.
fn small(name: &str) -> Value {
    json!({"name": name, "runtime": "python3.11", "kind": "faas", "cpu": 500, "memory": 256})
}

/// `body` with some fields set, or taken out where the value is null.
fn with(mut body: Value, fields: Value) -> Value {
    let object = body.as_object_mut().unwrap();
    let Value::Object(fields) = fields else {
        panic!("fields are an object")
    };
    for (name, value) in fields {
        if value.is_null() {
            object.remove(&name);
        } else {
            object.insert(name, value);
        }
    }
    body
}

/// The body of an update from `function`.
fn update_from(function: &FunctionObject, fields: Value) -> Value {
    let body = json!({
        "kind": "faas", "cpu": 500, "memory": 256, "timeout": 60,
        "revisionId": function.revision_id,
    });
    with(body, fields)
}
