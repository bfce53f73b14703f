//! Other programs at the database file: one that copies it, and one that keeps it locked.
#![cfg(test)]

use std::path::Path;

use bugle_store::{Config, Error, Metrics, Op, SqliteStore, Store as _, Txn};
use rusqlite::Connection;

fn open(folder: &Path) -> Result<SqliteStore, Error> {
    SqliteStore::open(folder, &Config::default(), Metrics::default())
}

fn put(key: &str, value: &str) -> Txn {
    Txn {
        when: Vec::new(),
        then: vec![Op::Put(key.to_owned().into(), value.to_owned().into())],
    }
}

#[tokio::test]
async fn the_store_can_be_backed_up_while_it_is_written() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(folder.path()).unwrap();
    store.txn(put("a", "before")).await.unwrap();
    let copy = backup.path().join("bugle.db");
    let other = Connection::open(folder.path().join("bugle.db")).unwrap();
    other
        .execute("VACUUM INTO ?", [copy.to_str().unwrap()])
        .unwrap();
    store.txn(put("a", "after")).await.unwrap();

    let restored = open(backup.path()).unwrap();
    let found = restored.get(b"a").await.unwrap().unwrap();
    assert_eq!(&found.value[..], b"before");
}

#[tokio::test]
async fn a_reader_that_stays_does_not_keep_the_store_from_writing() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        checkpoint_kib: 64,
        ..Config::default()
    };
    let store = SqliteStore::open(folder.path(), &config, Metrics::default()).unwrap();
    let other = Connection::open(folder.path().join("bugle.db")).unwrap();
    other
        .execute_batch("BEGIN; SELECT count(*) FROM log")
        .unwrap();
    for number in 0..200 {
        let txn = put(&format!("key-{number}"), &"x".repeat(2000));
        store.txn(txn).await.unwrap();
    }
    drop(other);
    drop(store);
    let store = open(folder.path()).unwrap();
    assert_eq!(
        store.range(b"key-", None, 999).await.unwrap().items.len(),
        200
    );
}

#[tokio::test]
async fn a_lock_of_another_program_is_named_and_waited_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    store.txn(put("a", "1")).await.unwrap();
    let other = Connection::open(folder.path().join("bugle.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let refused = store.txn(put("a", "2")).await.unwrap_err();
    assert!(matches!(refused, Error::Locked { .. }), "{refused:?}");
    assert!(refused.is_transient());
    assert!(refused.to_string().contains("bugle.db"), "{refused}");
    assert_eq!(&store.get(b"a").await.unwrap().unwrap().value[..], b"1");

    other.execute_batch("ROLLBACK").unwrap();
    store.txn(put("a", "3")).await.unwrap();
    assert_eq!(&store.get(b"a").await.unwrap().unwrap().value[..], b"3");
}
