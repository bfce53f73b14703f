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

/// Bytes that cannot be packed.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn a_full_store_refuses_writes_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        max_mib: 1,
        ..Config::default()
    };
    let store = SqliteStore::open(folder.path(), &config, Metrics::default()).unwrap();
    let mut written = 0;
    let refused = loop {
        match store
            .txn(put(&format!("key-{written}"), &noise(100_000)))
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
    store.txn(put("again", &noise(50_000))).await.unwrap();
    drop(store);
    let store = open(folder.path()).unwrap();
    assert!(store.get(b"again").await.unwrap().is_some());
}

#[test]
fn a_file_that_is_no_database_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bugle.db");
    let text = "something that a person put here".repeat(1000);
    std::fs::write(&file, &text).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("bugle.db"), "{message}");
    assert!(message.contains("put a backup in its place"), "{message}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn a_file_whose_changes_are_out_of_order_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let database = rusqlite::Connection::open(folder.path().join("bugle.db")).unwrap();
    let row = "INSERT INTO log (revision, key, shape, value, create_revision, version) \
         VALUES (?, x'6b', 0, x'76', 1, 1)";
    for revision in [1, 3] {
        database.execute(row, [revision]).unwrap();
    }
    drop(database);
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_with_a_broken_page_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    for number in 0..100 {
        let key = format!("key-{number}");
        store.txn(put(&key, &[b'x'; 1000])).await.unwrap();
    }
    drop(store);
    let file = folder.path().join("bugle.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[5 * 4096..6 * 4096].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_come_together_share_their_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let mut metrics = prometheus_client::registry::Registry::default();
    let own = Metrics::register(&mut metrics);
    let store = SqliteStore::open(folder.path(), &Config::default(), own).unwrap();
    let store = Arc::new(store);
    let commits = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics).unwrap();
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("bugle_store_commit_seconds_count "))
            .expect("commits are counted");
        count.parse::<usize>().unwrap()
    };
    store.txn(put("alone", b"")).await.unwrap();
    assert_eq!(commits(), 1);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..64 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for number in 0..20 {
                let key = format!("{writer}/{number}");
                store.txn(put(&key, b"")).await.unwrap();
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let shared = commits() - 1;
    assert!(shared < 64 * 20 / 4, "{shared} commits for 1280 writes");
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
