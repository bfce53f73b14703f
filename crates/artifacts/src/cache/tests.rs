//! The cache with folders that are filled by hand.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// What one entry of these tests takes.
const ENTRY: u64 = 2 * 4096 + 4;

struct Fixture {
    dir: tempfile::TempDir,
    cache: Cache,
}

impl Fixture {
    fn new(entries: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("cache"), entries * ENTRY).unwrap();
        Self { dir, cache }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn reopen(&self, entries: u64) -> Cache {
        Cache::open(&self.folder(), entries * ENTRY).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        crate::remove::make_writable(&self.folder());
    }
}

fn key(name: &str) -> Key {
    Key::of(&[name.as_bytes()])
}

fn write(target: &Path) -> Unpacked {
    fs::write(target.join("file"), "data").unwrap();
    fs::set_permissions(target, fs::Permissions::from_mode(0o555)).unwrap();
    Unpacked {
        entries: 1,
        bytes: 4,
    }
}

async fn put(cache: &Cache, name: &str) -> Result<Arc<Hold>, Arc<Error>> {
    cache
        .ready(&key(name), |target| async move { Ok(write(&target)) })
        .await
}

#[tokio::test]
async fn however_many_wait_it_is_filled_once() {
    let fixture = Fixture::new(10);
    let fills = Arc::new(AtomicUsize::new(0));
    let (open, gate) = watch::channel(false);
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (cache, fills, mut gate) =
                (fixture.cache.clone(), Arc::clone(&fills), gate.clone());
            tokio::spawn(async move {
                let fill = move |target: PathBuf| async move {
                    fills.fetch_add(1, Ordering::SeqCst);
                    gate.wait_for(|open| *open).await.unwrap();
                    Ok(write(&target))
                };
                cache.ready(&key("a"), fill).await.unwrap().path()
            })
        })
        .collect();
    tokio::task::yield_now().await;
    open.send_replace(true);
    for path in waiting {
        let path = path.await.unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "data");
    }
    assert_eq!(fills.load(Ordering::SeqCst), 1);
    assert_eq!(fixture.cache.size(), (ENTRY, 1));
}

#[tokio::test]
async fn a_failure_is_told_to_all_and_the_next_one_tries_again() {
    let fixture = Fixture::new(10);
    let fail = |_| async { Err(Error::Evicted) };
    let key = key("a");
    let (one, other) = tokio::join!(
        fixture.cache.ready(&key, fail),
        fixture.cache.ready(&key, fail),
    );
    assert!(matches!(*one.unwrap_err(), Error::Evicted));
    assert!(matches!(*other.unwrap_err(), Error::Evicted));
    assert!(fixture.names().is_empty());
    put(&fixture.cache, "a").await.unwrap();
}

#[tokio::test]
async fn a_fill_that_panics_leaves_nobody_waiting() {
    let fixture = Fixture::new(10);
    let fill = |_| async { panic!("a bug") };
    let filled = fixture.cache.ready(&key("a"), fill).await;
    assert!(matches!(*filled.unwrap_err(), Error::Interrupted));
    put(&fixture.cache, "a").await.unwrap();
}

#[tokio::test]
async fn what_was_used_longest_ago_goes_and_what_is_held_stays() {
    let fixture = Fixture::new(3);
    let held = put(&fixture.cache, "held").await.unwrap();
    for name in ["a", "b"] {
        put(&fixture.cache, name).await.unwrap();
    }
    // `a` is used again, so `b` is the next to go.
    fixture.cache.find(&key("a")).unwrap();
    put(&fixture.cache, "c").await.unwrap();
    let is_there = |name| fixture.cache.find(&key(name)).is_some();
    assert_eq!(
        ["held", "a", "b", "c"].map(is_there),
        [true, true, false, true]
    );
    assert!(held.path().join("file").is_file());
}

#[tokio::test]
async fn a_cache_full_of_what_is_held_says_so() {
    let fixture = Fixture::new(2);
    let _one = put(&fixture.cache, "a").await.unwrap();
    let two = put(&fixture.cache, "b").await.unwrap();
    let error = put(&fixture.cache, "c").await.unwrap_err();
    assert!(
        error.to_string().contains("packages.cache_bytes"),
        "{error}"
    );
    drop(two);
    put(&fixture.cache, "c").await.unwrap();
    assert_eq!(fixture.cache.size().1, 2);
}

#[tokio::test]
async fn what_is_larger_than_the_cache_costs_nothing_that_is_there() {
    let fixture = Fixture::new(2);
    put(&fixture.cache, "a").await.unwrap();
    let large = |target: PathBuf| async move {
        Ok(Unpacked {
            bytes: 3 * ENTRY,
            ..write(&target)
        })
    };
    let refused = fixture.cache.ready(&key("large"), large).await;
    assert!(matches!(*refused.unwrap_err(), Error::CacheFull { .. }));
    assert!(fixture.cache.find(&key("a")).is_some());
}

#[tokio::test]
async fn a_full_cache_waits_a_moment_for_what_is_given_back() {
    let fixture = Fixture::new(1);
    let held = put(&fixture.cache, "a").await.unwrap();
    let giving_back = async {
        while !fixture.cache.shared.changing.is_locked() {
            tokio::task::yield_now().await;
        }
        drop(held);
    };
    let (other, ()) = tokio::join!(put(&fixture.cache, "b"), giving_back);
    assert!(other.unwrap().path().join("file").is_file());
}

#[tokio::test]
async fn what_is_whole_survives_a_restart_and_nothing_else() {
    let fixture = Fixture::new(10);
    let whole = put(&fixture.cache, "whole").await.unwrap().path();
    let without_marker = put(&fixture.cache, "without").await.unwrap().path();
    fs::remove_file(without_marker.with_extension("json")).unwrap();
    let torn = put(&fixture.cache, "torn").await.unwrap().path();
    // Made in a run of the machine that ended before it was written.
    let other = r#"{"bytes":8196,"boot":"another","synced":false,"compiled":[]}"#;
    fs::write(torn.with_extension("json"), other).unwrap();
    let synced = put(&fixture.cache, "synced").await.unwrap().path();
    let other = r#"{"bytes":8196,"boot":"another","synced":true,"compiled":["python3.11"]}"#;
    fs::write(synced.with_extension("json"), other).unwrap();
    fs::create_dir(fixture.folder().join(".tmp-left")).unwrap();
    fs::write(fixture.folder().join("stranger"), "").unwrap();

    let cache = fixture.reopen(10);
    assert_eq!(cache.size().1, 2);
    assert!(whole.is_dir() && synced.is_dir());
    assert!(!without_marker.is_dir() && !torn.is_dir());
    assert_eq!(fixture.names().len(), 4, "{:?}", fixture.names());
    let hold = cache.find(&key("synced")).unwrap();
    assert!(!hold.claim("python3.11") && hold.claim("python3.12"));
}

#[tokio::test]
async fn a_smaller_cache_is_brought_down_at_the_start() {
    let fixture = Fixture::new(10);
    for name in ["a", "b", "c"] {
        put(&fixture.cache, name).await.unwrap();
    }
    assert_eq!(fixture.reopen(1).size(), (ENTRY, 1));
    assert_eq!(fixture.names().len(), 2);
}

#[tokio::test]
async fn an_entry_is_compiled_once_for_an_interpreter() {
    let fixture = Fixture::new(10);
    let hold = put(&fixture.cache, "a").await.unwrap();
    assert!(hold.claim("python3.11"));
    assert!(!hold.claim("python3.11"));
    hold.compiled("python3.11", 100);
    assert_eq!(fixture.cache.size().0, ENTRY + 100);
    let marker = fs::read_to_string(hold.path().with_extension("json")).unwrap();
    assert!(marker.contains("python3.11"), "{marker}");
}
