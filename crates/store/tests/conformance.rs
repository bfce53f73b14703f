//! Both stores do what a store must do, and the embedded one does it again after a restart.

use std::sync::Arc;

use bugle_store::conformance::suite;
use bugle_store::{Config, Error, MemoryStore, Metrics, Op, Revision, SqliteStore, Store, Txn};

fn open(folder: &std::path::Path) -> Result<SqliteStore, Error> {
    SqliteStore::open(folder, &Config::default(), Metrics::default())
}

fn put(key: &str, value: &[u8]) -> Txn {
    let op = Op::Put(key.to_owned().into(), value.to_vec().into());
    Txn {
        when: Vec::new(),
        then: vec![op],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_conforms() {
    suite(|| Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_conforms() {
    let root = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    suite(|| {
        number.set(number.get() + 1);
        Arc::new(open(&root.path().join(number.get().to_string())).unwrap())
    })
    .await;
}

#[tokio::test]
async fn a_restart_finds_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    store.txn(put("a", b"1")).await.unwrap();
    store.txn(put("a", b"2")).await.unwrap();
    store.txn(put("b", b"1")).await.unwrap();
    let delete = Txn {
        when: Vec::new(),
        then: vec![Op::Delete("b".into())],
    };
    store.txn(delete).await.unwrap();
    let before = store.range(b"", None, 10).await.unwrap();
    drop(store);

    let store = open(folder.path()).unwrap();
    assert_eq!(store.range(b"", None, 10).await.unwrap(), before);
    assert_eq!(store.revision().await.unwrap(), Revision(4));
    assert_eq!(
        store.txn(put("c", b"1")).await.unwrap().revision,
        Revision(5)
    );
}

#[test]
fn a_second_process_is_told_who_holds_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let _held = open(folder.path()).unwrap();
    let text = open(folder.path()).unwrap_err().to_string();
    assert!(
        text.contains(&format!("in use by process {}", std::process::id())),
        "{text}"
    );
    assert!(text.contains("--data-dir"), "{text}");
}

#[test]
fn a_file_of_a_newer_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let database = rusqlite::Connection::open(folder.path().join("bugle.db")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    assert!(matches!(
        open(folder.path()),
        Err(Error::NewerFormat { found: 99, .. })
    ));
}

#[tokio::test]
async fn a_full_store_refuses_writes_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { max_mib: 1 };
    let store = SqliteStore::open(folder.path(), &config, Metrics::default()).unwrap();
    let mut written = 0;
    let refused = loop {
        match store
            .txn(put(&format!("key-{written}"), &vec![b'x'; 100_000]))
            .await
        {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full), "{refused:?}");
    assert!(refused.is_transient());
    assert_eq!(
        store.range(b"", None, 100).await.unwrap().items.len(),
        written
    );
    let delete = Txn {
        when: Vec::new(),
        then: vec![Op::Delete("key-0".into())],
    };
    store.txn(delete).await.unwrap();
    store.txn(put("again", &vec![b'x'; 50_000])).await.unwrap();
    drop(store);
    let store = open(folder.path()).unwrap();
    assert!(store.get(b"again").await.unwrap().is_some());
}

#[test]
fn the_folder_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("data");
    drop(open(&folder).unwrap());
    assert_eq!(
        std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
        0o700
    );
}
