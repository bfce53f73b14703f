//! The store over real etcds: that it does what every store must do, and what it does when they
//! fail. Each test starts its own (`etcd-server` and `etcd-client` of Debian), in folders and on
//! ports of its own.
#![cfg(test)]

mod access;
mod alone;
mod conforms;
mod faults;
mod link;
mod members;
mod server;

use std::sync::Arc;
use std::time::Duration;

use bugle_store::{
    Compare, Config, Error, EtcdConfig, EtcdStore, Metrics, Op, Revision, Store, Txn,
};

/// The configuration for an etcd at these addresses.
fn config(endpoints: &[String]) -> EtcdConfig {
    EtcdConfig {
        endpoints: endpoints.to_vec(),
        request_timeout_seconds: 3,
        ..EtcdConfig::default()
    }
}

/// Opens a store; it waits for an etcd that is still starting.
fn open(etcd: &EtcdConfig) -> Result<Arc<EtcdStore>, Error> {
    EtcdStore::open(etcd, &Config::default(), Metrics::default()).map(Arc::new)
}

fn put(key: &str, value: &str) -> Txn {
    Txn {
        when: Vec::new(),
        then: vec![Op::Put(key.to_owned().into(), value.to_owned().into())],
    }
}

fn create(key: &str, value: &str) -> Txn {
    Txn {
        when: vec![Compare::ModRevision(key.to_owned().into(), Revision(0))],
        ..put(key, value)
    }
}

async fn value(store: &dyn Store, key: &str) -> Option<String> {
    let found = store.get(key.as_bytes()).await.unwrap()?;
    Some(String::from_utf8(found.value.to_vec()).unwrap())
}

/// Waits until something is so; says what is missing when it never is.
async fn eventually<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let patience = tokio::time::timeout(Duration::from_secs(30), async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(patience.await.is_ok(), "never: {what}");
}
