//! Everything of a store in a file, and back.
#![cfg(test)]

use std::io::Cursor;

use bugle_store::archive::{self, ArchiveError, Difference, Head};
use bugle_store::{Config, MemoryStore, Metrics, Op, SqliteStore, Store, Txn};

async fn put(store: &dyn Store, key: &str, value: &[u8]) {
    let then = vec![Op::Put(key.to_owned().into(), value.to_vec().into())];
    let when = Vec::new();
    store.txn(Txn { when, then }).await.unwrap();
}

async fn filled(keys: usize) -> MemoryStore {
    let store = MemoryStore::new();
    for number in 0..keys {
        let value = format!("{{\"number\": {number}}}");
        put(&store, &format!("/repo/{number:05}/"), value.as_bytes()).await;
    }
    put(&store, "/bytes", &[0, 0xff, 0xfe, b'\n']).await;
    put(&store, "/bugle/running/one", b"a process").await;
    store
}

async fn exported(store: &dyn Store) -> Vec<u8> {
    let mut file = Vec::new();
    let head = Head::new("a key".to_owned());
    archive::export(store, &head, &mut file).await.unwrap();
    file
}

async fn contents(store: &dyn Store) -> Vec<(bytes::Bytes, bytes::Bytes)> {
    let all = store.range(b"", None, 100_000).await.unwrap().items;
    all.into_iter().map(|item| (item.key, item.value)).collect()
}

#[tokio::test]
async fn another_store_holds_the_same_afterwards_but_for_what_is_fleeting() {
    let one = filled(1100).await;
    let file = exported(&one).await;
    let folder = tempfile::tempdir().unwrap();
    let two = SqliteStore::open(folder.path(), &Config::default(), Metrics::default()).unwrap();
    let (head, difference) = archive::compare(&two, &mut Cursor::new(&file))
        .await
        .unwrap();
    assert_eq!(head.key, "a key");
    assert_eq!((difference.new, difference.other), (1101, 0));
    assert_eq!(contents(&two).await, [], "a comparison changes nothing");
    assert_eq!(archive::import(&two, &mut &file[..]).await.unwrap(), 1101);
    let mut expected = contents(&one).await;
    expected.retain(|(key, _)| !key.starts_with(b"/bugle/running/"));
    assert_eq!(contents(&two).await, expected);
    let (_, difference) = archive::compare(&two, &mut Cursor::new(&file))
        .await
        .unwrap();
    let same = Difference {
        same: 1101,
        ..Difference::default()
    };
    assert_eq!(difference, same);
}

#[tokio::test]
async fn what_is_there_with_another_value_is_told() {
    let file = exported(&filled(3).await).await;
    let store = MemoryStore::new();
    put(&store, "/repo/00001/", b"mine").await;
    let (_, difference) = archive::compare(&store, &mut Cursor::new(&file))
        .await
        .unwrap();
    assert_eq!((difference.new, difference.other), (3, 1));
}

#[tokio::test]
async fn a_file_that_was_changed_or_cut_is_refused() {
    let file = exported(&filled(20).await).await;
    let store = MemoryStore::new();
    let mut changed = file.clone();
    let at = changed
        .windows(9)
        .position(|part| part == b"number\\\":")
        .unwrap();
    changed[at] = b'N';
    let cut = file[..file.len() - 100].to_vec();
    let mut lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    lines.remove(5);
    for (file, what) in [
        (changed, "changed"),
        (cut, "cut"),
        (lines.concat(), "without a line"),
        (b"something else\n".to_vec(), "another file"),
        (Vec::new(), "empty"),
    ] {
        let refused = archive::compare(&store, &mut Cursor::new(&file)).await;
        assert!(
            matches!(refused, Err(ArchiveError::Damaged { .. })),
            "{what}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_file_of_a_newer_program_is_refused() {
    let file = exported(&filled(1).await).await;
    let text = String::from_utf8(file).unwrap();
    let newer = text.replacen("\"bugle_export\":1", "\"bugle_export\":2", 1);
    let refused = archive::compare(&MemoryStore::new(), &mut Cursor::new(newer)).await;
    assert!(
        matches!(refused, Err(ArchiveError::NewerFormat { found: 2, .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_of_one_moment_although_others_write() {
    let store = std::sync::Arc::new(filled(3000).await);
    let writer = {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move {
            // Each transaction keeps the two equal.
            for number in 0..2000 {
                let value = bytes::Bytes::from(number.to_string());
                let then = ["/a/first", "/z/last"].map(|key| Op::Put(key.into(), value.clone()));
                let (when, then) = (Vec::new(), then.to_vec());
                store.txn(Txn { when, then }).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    while !writer.is_finished() {
        let file = exported(&*store).await;
        let copy = MemoryStore::new();
        archive::import(&copy, &mut &file[..]).await.unwrap();
        let of = async |key: &[u8]| copy.get(key).await.unwrap().map(|item| item.value);
        assert_eq!(of(b"/a/first").await, of(b"/z/last").await);
        let compared = archive::compare(&copy, &mut Cursor::new(&file)).await;
        let (_, found) = compared.unwrap();
        assert_eq!(
            (found.new, found.other),
            (0, 0),
            "it holds what was imported"
        );
    }
    writer.await.unwrap();
}
