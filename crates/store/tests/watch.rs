//! Watches of the embedded store: ones that lag, ones that come back after a restart, and ones that
//! come too late.
#![cfg(test)]

use std::path::Path;

use bugle_store::{
    Batch, Change, Config, Error, Metrics, Op, Revision, SqliteStore, Store as _, Txn, Watch,
};

fn open(folder: &Path, history_revisions: usize) -> SqliteStore {
    let config = Config {
        history_revisions,
        ..Config::default()
    };
    SqliteStore::open(folder, &config, Metrics::default()).unwrap()
}

/// Writes the keys `from..to` below a prefix, one a revision.
async fn write(store: &SqliteStore, keys: std::ops::Range<usize>) {
    for key in keys {
        let put = Op::Put(format!("/key/{key}").into(), "value".into());
        let txn = Txn {
            when: Vec::new(),
            then: vec![put],
        };
        store.txn(txn).await.unwrap();
    }
}

async fn seen(watch: &mut dyn Watch) -> (u64, String) {
    let Batch { revision, changes } = watch.next().await.unwrap();
    let [Change::Put(item)] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert_eq!(item.mod_revision, revision);
    (revision.0, String::from_utf8(item.key.to_vec()).unwrap())
}

fn is_compacted_at(next: &Result<Batch, Error>, at: u64) -> bool {
    matches!(next, Err(Error::Compacted { revision }) if *revision == Revision(at))
}

#[tokio::test]
async fn one_that_lags_gets_every_change_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 1000);
    let mut watch = store.watch(&[b"/key/"], Revision(0)).await.unwrap();
    write(&store, 0..300).await;
    for revision in 1..=300 {
        let key = format!("/key/{}", revision - 1);
        assert_eq!(seen(&mut *watch).await, (revision, key));
    }
}

#[tokio::test]
async fn one_that_falls_out_of_the_history_is_told_where_to_begin_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 10);
    let mut watch = store.watch(&[b"/key/"], Revision(0)).await.unwrap();
    write(&store, 0..5).await;
    assert_eq!(seen(&mut *watch).await.0, 1);
    write(&store, 5..50).await;
    assert!(is_compacted_at(&watch.next().await, 40));
    let mut again = store.watch(&[b"/key/"], Revision(40)).await.unwrap();
    assert_eq!(seen(&mut *again).await, (41, "/key/40".to_owned()));
}

#[tokio::test]
async fn one_goes_on_after_a_restart_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 1000);
    write(&store, 0..20).await;
    drop(store);
    let store = open(folder.path(), 1000);
    write(&store, 20..30).await;
    let mut watch = store.watch(&[b"/key/"], Revision(15)).await.unwrap();
    for revision in 16..=30 {
        assert_eq!(seen(&mut *watch).await.0, revision);
    }
}

#[tokio::test]
async fn what_was_compacted_stays_so_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 1000);
    write(&store, 0..20).await;
    let mut lagging = store.watch(&[b""], Revision(3)).await.unwrap();
    store.compact(Revision(12)).await.unwrap();
    assert!(is_compacted_at(&lagging.next().await, 12));
    drop(store);
    let store = open(folder.path(), 1000);
    let mut late = store.watch(&[b""], Revision(11)).await.unwrap();
    assert!(is_compacted_at(&late.next().await, 12));
    let mut young = store.watch(&[b""], Revision(12)).await.unwrap();
    assert_eq!(seen(&mut *young).await.0, 13);
    assert_eq!(store.range(b"", None, 999).await.unwrap().items.len(), 20);
}

#[tokio::test]
async fn one_ends_when_it_has_delivered_what_there_is_and_the_store_closes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 1000);
    write(&store, 0..2).await;
    let mut watch = store.watch(&[b""], Revision(0)).await.unwrap();
    drop(store);
    assert_eq!(seen(&mut *watch).await.0, 1);
    assert_eq!(seen(&mut *watch).await.0, 2);
    assert!(matches!(watch.next().await, Err(Error::Closed)));
}
