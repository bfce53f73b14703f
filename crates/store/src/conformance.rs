//! What every store must do. Each implementation's tests run this whole suite.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Change, Compare, Error, Op, Revision, Store, Txn};

fn put(key: &'static str, value: &'static str) -> Op {
    Op::Put(
        Bytes::from_static(key.as_bytes()),
        Bytes::from_static(value.as_bytes()),
    )
}

fn write(then: Vec<Op>) -> Txn {
    Txn {
        when: Vec::new(),
        then,
    }
}

/// Runs the suite; `make` gives a new store each time, without a key. Its first revision need not
/// be 1: a part of a store that others use as well does not begin at the beginning.
///
/// # Panics
///
/// With the promise that the store breaks.
pub async fn suite<S: Store + 'static>(make: impl Fn() -> Arc<S>) {
    revisions_grow_by_one_a_transaction(&*make()).await;
    keys_know_their_history(&*make()).await;
    a_failed_condition_changes_nothing(&*make()).await;
    values_can_be_compared(&*make()).await;
    the_absence_of_a_prefix_can_be_asked_for(&*make()).await;
    deleting_a_prefix_spares_its_neighbours(&*make()).await;
    a_key_is_written_once(&*make()).await;
    ranges_are_paged_in_order(&*make()).await;
    a_watch_misses_nothing(&*make()).await;
    a_compacted_watch_says_so(&*make()).await;
    one_of_sixteen_wins(make()).await;
    many_at_once_have_outcomes_of_their_own(make()).await;
}

/// Where a store begins, and the revisions after it.
#[derive(Clone, Copy)]
struct Base(u64);

impl Base {
    async fn of<S: Store>(store: &S) -> Self {
        Self(store.revision().await.expect("readable").0)
    }

    fn at(self, number: u64) -> Revision {
        Revision(self.0 + number)
    }
}

async fn revisions_grow_by_one_a_transaction<S: Store>(store: &S) {
    let base = Base::of(store).await;
    let outcome = store
        .txn(write(vec![put("a", "1"), put("b", "1")]))
        .await
        .expect("written");
    assert!(outcome.succeeded);
    assert_eq!(outcome.revision, base.at(1));
    let nothing = store
        .txn(write(vec![Op::Delete("x".into())]))
        .await
        .expect("written");
    assert_eq!(
        nothing.revision,
        base.at(1),
        "a transaction without effect has no revision"
    );
    assert_eq!(store.revision().await.expect("readable"), base.at(1));
}

async fn keys_know_their_history<S: Store>(store: &S) {
    let base = Base::of(store).await;
    store
        .txn(write(vec![put("a", "1")]))
        .await
        .expect("written");
    store
        .txn(write(vec![put("b", "1")]))
        .await
        .expect("written");
    store
        .txn(write(vec![put("a", "2")]))
        .await
        .expect("written");
    let found = store
        .get(b"a")
        .await
        .expect("readable")
        .expect("written before");
    assert_eq!(
        (found.create_revision, found.mod_revision, found.version),
        (base.at(1), base.at(3), 2)
    );
    assert_eq!(&found.value[..], b"2");
    store
        .txn(write(vec![Op::Delete("a".into())]))
        .await
        .expect("written");
    assert_eq!(store.get(b"a").await.expect("readable"), None);
    store
        .txn(write(vec![put("a", "3")]))
        .await
        .expect("written");
    let found = store
        .get(b"a")
        .await
        .expect("readable")
        .expect("written again");
    assert_eq!(
        (found.create_revision, found.version),
        (base.at(5), 1),
        "a new life"
    );
}

async fn a_failed_condition_changes_nothing<S: Store>(store: &S) {
    let base = Base::of(store).await;
    let create = Txn {
        when: vec![Compare::ModRevision("a".into(), Revision(0))],
        then: vec![put("a", "1"), put("b", "1")],
    };
    assert!(store.txn(create.clone()).await.expect("written").succeeded);
    let again = store.txn(create).await.expect("answered");
    assert!(!again.succeeded);
    assert_eq!(again.revision, base.at(1));
    let wrong = Txn {
        when: vec![
            Compare::ModRevision("a".into(), base.at(1)),
            Compare::ModRevision("b".into(), base.at(7)),
        ],
        then: vec![Op::DeletePrefix(Bytes::new())],
    };
    assert!(!store.txn(wrong).await.expect("answered").succeeded);
    assert!(store.get(b"b").await.expect("readable").is_some());
}

async fn values_can_be_compared<S: Store>(store: &S) {
    store
        .txn(write(vec![put("a", "1")]))
        .await
        .expect("written");
    let swap = |from: &'static str, to: &'static str| Txn {
        when: vec![Compare::Value("a".into(), from.into())],
        then: vec![put("a", to)],
    };
    assert!(store.txn(swap("1", "2")).await.expect("answered").succeeded);
    assert!(!store.txn(swap("1", "3")).await.expect("answered").succeeded);
}

async fn the_absence_of_a_prefix_can_be_asked_for<S: Store>(store: &S) {
    let register = |name: &str| {
        let place = |number| Op::Put(format!("/{name}/{number}").into(), "value".into());
        Txn {
            when: vec![Compare::Absent(format!("/{name}/").into())],
            then: vec![place(1), place(2)],
        }
    };
    store
        .txn(write(vec![put("/a", "0"), put("/a0", "0")]))
        .await
        .expect("written");
    assert!(store.txn(register("a")).await.expect("answered").succeeded);
    assert!(!store.txn(register("a")).await.expect("answered").succeeded);
    // Of two at once one is the first.
    let (one, other) = tokio::join!(store.txn(register("b")), store.txn(register("b")));
    let won = [one, other].map(|outcome| outcome.expect("answered").succeeded);
    assert_ne!(won[0], won[1]);
    store
        .txn(write(vec![Op::DeletePrefix("/a/".into())]))
        .await
        .expect("written");
    assert!(store.txn(register("a")).await.expect("answered").succeeded);
}

async fn deleting_a_prefix_spares_its_neighbours<S: Store>(store: &S) {
    let keys = vec![
        put("/a", "0"),
        put("/a/1", "1"),
        put("/a/2", "2"),
        put("/a0", "3"),
        put("/b", "4"),
    ];
    store.txn(write(keys)).await.expect("written");
    store
        .txn(write(vec![Op::DeletePrefix("/a/".into())]))
        .await
        .expect("written");
    let left = store.range(b"", None, 10).await.expect("readable").items;
    let left: Vec<_> = left.iter().map(|found| &found.key[..]).collect();
    assert_eq!(left, [&b"/a"[..], b"/a0", b"/b"]);
}

async fn a_key_is_written_once<S: Store>(store: &S) {
    let base = Base::of(store).await;
    let twice = store.txn(write(vec![put("a", "1"), put("a", "2")])).await;
    assert!(matches!(twice, Err(Error::WrittenTwice(_))), "{twice:?}");
    let large = Bytes::from(vec![0; 2 << 20]);
    let large = store.txn(write(vec![Op::Put("a".into(), large)])).await;
    assert!(matches!(large, Err(Error::TooLarge { .. })), "{large:?}");
    assert_eq!(store.revision().await.expect("readable"), base.at(0));
}

async fn ranges_are_paged_in_order<S: Store>(store: &S) {
    let base = Base::of(store).await;
    let keys = vec![
        put("p/3", "3"),
        put("p/1", "1"),
        put("q", "x"),
        put("p/2", "2"),
        put("o", "x"),
    ];
    store.txn(write(keys)).await.expect("written");
    let first = store.range(b"p/", None, 2).await.expect("readable");
    assert!(first.more);
    let keys: Vec<_> = first.items.iter().map(|found| &found.key[..]).collect();
    assert_eq!(keys, [b"p/1", b"p/2"]);
    let rest = store.range(b"p/", Some(b"p/2"), 2).await.expect("readable");
    assert!(!rest.more);
    assert_eq!(&rest.items[0].key[..], b"p/3");
    assert_eq!(rest.revision, base.at(1));
    let all = store.range(b"p/", None, 3).await.expect("readable");
    assert!(!all.more, "exactly the limit is not more");
}

async fn a_watch_misses_nothing<S: Store>(store: &S) {
    let base = Base::of(store).await;
    store
        .txn(write(vec![put("p/1", "before")]))
        .await
        .expect("written");
    let mut watch = store.watch(&[b"p/"], base.at(1)).await.expect("watchable");
    store
        .txn(write(vec![put("p/2", "2"), put("q", "x"), put("p/3", "3")]))
        .await
        .expect("written");
    store
        .txn(write(vec![put("q", "y")]))
        .await
        .expect("written");
    store
        .txn(write(vec![Op::Delete("p/1".into())]))
        .await
        .expect("written");
    let batch = watch.next().await.expect("news");
    assert_eq!(batch.revision, base.at(2));
    let keys: Vec<_> = batch
        .changes
        .iter()
        .map(|change| &change.key()[..])
        .collect();
    assert_eq!(keys, [b"p/2", b"p/3"]);
    let batch = watch.next().await.expect("news");
    assert_eq!(batch.revision, base.at(4));
    let deleted = Change::Delete {
        key: "p/1".into(),
        revision: base.at(4),
    };
    assert_eq!(batch.changes, [deleted]);
    store
        .txn(write(vec![put("q", "z")]))
        .await
        .expect("written");
    let batch = watch.next().await.expect("news");
    assert_eq!(
        (batch.revision, batch.changes.len()),
        (base.at(5), 0),
        "progress without changes"
    );
}

async fn a_compacted_watch_says_so<S: Store>(store: &S) {
    let base = Base::of(store).await;
    for value in ["1", "2", "3"] {
        store
            .txn(write(vec![put("a", value)]))
            .await
            .expect("written");
    }
    store.compact(base.at(2)).await.expect("compacted");
    let mut old = store.watch(&[b""], base.at(1)).await.expect("watchable");
    let refused = old.next().await;
    assert!(
        matches!(refused, Err(Error::Compacted { revision }) if revision == base.at(2)),
        "{refused:?}"
    );
    let mut young = store.watch(&[b""], base.at(2)).await.expect("watchable");
    assert_eq!(young.next().await.expect("news").revision, base.at(3));
    assert!(
        store.get(b"a").await.expect("readable").is_some(),
        "values stay"
    );
}

async fn many_at_once_have_outcomes_of_their_own<S: Store + 'static>(store: Arc<S>) {
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..200 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            // Every second one is of a key that the one before it writes.
            let key = Bytes::from(format!("k{}", number / 2));
            let create = Txn {
                when: vec![Compare::ModRevision(key.clone(), Revision(0))],
                then: vec![Op::Put(key.clone(), format!("{number}").into())],
            };
            let outcome = store.txn(create).await.expect("answered");
            let held = store.get(&key).await.expect("readable");
            let held = held.expect("who was answered reads it").value;
            assert_eq!(outcome.succeeded, held == format!("{number}"));
            u32::from(outcome.succeeded)
        });
    }
    let won = writers.join_all().await.into_iter().sum::<u32>();
    assert_eq!(won, 100, "one for each key");
}

async fn one_of_sixteen_wins<S: Store + 'static>(store: Arc<S>) {
    let base = Base::of(&*store).await;
    store
        .txn(write(vec![put("a", "0")]))
        .await
        .expect("written");
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let swap = Txn {
                when: vec![Compare::ModRevision("a".into(), base.at(1))],
                then: vec![put("a", "1")],
            };
            store.txn(swap).await.expect("answered").succeeded
        });
    }
    let winners = writers
        .join_all()
        .await
        .into_iter()
        .filter(|won| *won)
        .count();
    assert_eq!(winners, 1);
}
