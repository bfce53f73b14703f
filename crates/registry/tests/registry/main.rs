//! The rules of functions and reserved instances, over a store in memory.
#![cfg(test)]

mod catalogue;
mod changes;
mod clusters;
mod fields;
mod follower;
mod following;
mod foreign;
mod images;
mod kinds;
mod lists;
mod loading;
mod published;
mod races;
mod registration;
mod reservations;
mod secrets;
mod tenants;
mod updates;
mod versions;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bugle_api::{
    Caller, Error, FunctionObject, FunctionRequest, FunctionsApi as _, GetQuery, Page,
    PublishRequest, ReservationRequest, ReservationsApi as _,
};
use bugle_registry::{Clock, Config, Keyring, Registry};
use bugle_store::{MemoryStore, Store};
use bugle_types::{Code, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The function of tests that need but one.
const NAME: &str = "0@svc@f";

/// The revision of what is registered first.
const REVISION: &str = "20260301093328978";

/// A clock that stands until it is set.
#[derive(Debug)]
struct StandingClock(AtomicI64);

impl StandingClock {
    fn step(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

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

    async fn with(config: Config) -> Self {
        Self::over(Arc::new(MemoryStore::new()), config).await
    }

    async fn over(store: Arc<dyn Store>, config: Config) -> Self {
        Self::resolving(store, config, bugle_registry::unresolved()).await
    }

    async fn resolving(
        store: Arc<dyn Store>,
        config: Config,
        resolve: bugle_registry::Resolve,
    ) -> Self {
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
            resolve,
        );
        let following = tokio::spawn(follow);
        // It begins, so that tests are about what comes then.
        tokio::task::yield_now().await;
        Self {
            registry,
            store,
            clock,
            caller: caller("default"),
            following,
            folder,
        }
    }

    /// Lets go of the store, so that it can be opened again.
    async fn close(mut self) {
        self.following.abort();
        // It was cancelled, which is what was asked for.
        let _ = (&mut self.following).await;
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

    /// Registers [`NAME`], or the name that is among the fields.
    async fn registered(&self, fields: Value) -> FunctionObject {
        self.register(small_with(fields)).await.unwrap()
    }

    /// Updates [`NAME`] from its draft's revision.
    async fn updated(&self, fields: Value) -> Result<FunctionObject, Error> {
        let draft = self.get(NAME, "").await.unwrap();
        self.update(NAME, update_from(&draft, fields)).await
    }

    /// Publishes the draft of [`NAME`] under each label.
    async fn published<const N: usize>(&self, labels: [&str; N]) {
        for label in labels {
            let published = self.publish_draft(json!({"versionNumber": label})).await;
            published.unwrap();
        }
    }

    async fn publish_draft(&self, fields: Value) -> Result<FunctionObject, Error> {
        let draft = self.get(NAME, "").await.unwrap();
        let body = json!({"kind": "faas", "revisionId": draft.revision_id});
        self.publish(NAME, with(body, fields)).await
    }

    /// Sets a label of a version of [`NAME`] to one instance at most.
    async fn reserve(&self, version: &str, label: &str) {
        let body = label_body(version, label);
        self.registry.reserve(&self.caller, body).await.unwrap();
    }

    /// The value of a key that is there.
    async fn value(&self, key: &str) -> Value {
        let value = self.stored(key).await;
        value.unwrap_or_else(|| panic!("{key} is not there"))
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

/// The smallest body that registers [`NAME`], with some fields set or taken out.
fn small_with(fields: Value) -> Value {
    with(small(NAME), fields)
}

/// A request that sets a label of a version of [`NAME`] to one instance at most.
fn label_body(version: &str, label: &str) -> ReservationRequest {
    reservation(
        json!({"funcName": NAME, "version": version, "instanceLabel": label,
        "instanceConfigInfos": [{"maxInstance": 1}]}),
    )
}

fn reservation(body: Value) -> ReservationRequest {
    serde_json::from_value(body).unwrap()
}

/// F5 of [`NAME`]: its versions, in order.
async fn versions(desk: &Desk) -> Vec<String> {
    let page = Page::default();
    let found = desk.registry.versions(&desk.caller, NAME, &page).await;
    let (functions, total) = found.unwrap();
    assert_eq!(functions.len(), total);
    functions
        .into_iter()
        .map(|function| function.version_number)
        .collect()
}

/// What clients see of a refusal.
fn refusal<T: std::fmt::Debug>(outcome: Result<T, Error>) -> (Code, String) {
    let error = outcome.expect_err("it is refused");
    (error.code, error.message)
}

/// 4104 with a reason.
fn invalid(reason: &str) -> (Code, String) {
    let message = format!("{reason}. check input parameters");
    (Code::InvalidUserParam, message)
}

/// 4115 for a name.
fn not_found(name: &str) -> (Code, String) {
    let message = format!("function [{name}] is not found. check input parameters");
    (Code::FunctionNotFound, message)
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
