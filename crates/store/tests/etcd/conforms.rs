//! What every store must do, and what only one does that others write as well.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bugle_store::conformance::suite;
use prometheus_client::registry::Registry;

use super::*;
use crate::server::Etcd;

#[tokio::test(flavor = "multi_thread")]
async fn the_store_over_etcd_conforms() {
    let etcd = Etcd::start();
    let number = Cell::new(0);
    let config = config(std::slice::from_ref(&etcd.address));
    suite(|| {
        number.set(number.get() + 1);
        let prefix = format!("/part-{}/", number.get());
        let store = EtcdStore::open_below(&config, &Config::default(), Metrics::default(), &prefix);
        Arc::new(store.unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_platforms_see_what_the_other_writes() {
    let etcd = Etcd::start();
    let config = config(std::slice::from_ref(&etcd.address));
    let (one, two) = (open(&config).unwrap(), open(&config).unwrap());
    let begin = two.revision().await.unwrap();
    let mut watch = two.watch(&[b"/repo/"], begin).await.unwrap();
    assert!(one.txn(create("/repo/f", "one")).await.unwrap().succeeded);
    let batch = watch.next().await.unwrap();
    assert_eq!(&batch.changes[0].key()[..], b"/repo/f");
    assert_eq!(value(&*two, "/repo/f").await.unwrap(), "one");
    let lost = two.txn(create("/repo/f", "two")).await.unwrap();
    assert!(!lost.succeeded);
    assert_eq!(value(&*two, "/repo/f").await.unwrap(), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_writes_is_seen_although_the_watch_rests() {
    let etcd = Etcd::start();
    let config = config(std::slice::from_ref(&etcd.address));
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry).with_etcd(&mut registry);
    let busy = EtcdStore::open(&config, &Config::default(), metrics);
    let (busy, other) = (Arc::new(busy.unwrap()), open(&config).unwrap());
    let rests = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let rests = text
            .lines()
            .find_map(|line| line.strip_prefix("bugle_store_etcd_rests_total "));
        rests.unwrap().parse::<u64>().unwrap()
    };
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let (busy, is_over) = (Arc::clone(&busy), Arc::clone(&is_over));
        writers.spawn(async move {
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let key = format!("/bugle/own/{writer}/{}", number % 100);
                busy.txn(put(&key, &number.to_string())).await.unwrap();
            }
        });
    }
    for round in ["once", "twice"] {
        let before = rests();
        eventually("the watch rests", async || rests() > before).await;
        other.txn(put("/bugle/theirs", round)).await.unwrap();
        let is_seen = async || value(&*busy, "/bugle/theirs").await.as_deref() == Some(round);
        eventually("what the other wrote is seen", is_seen).await;
    }
    is_over.store(true, Ordering::Relaxed);
    writers.join_all().await;
    let last = busy.txn(put("/bugle/theirs", "last")).await.unwrap();
    let has_last = async || other.revision().await.unwrap() >= last.revision;
    eventually("the other has seen all", has_last).await;
    let all = async |store: &EtcdStore| store.range(b"", None, 1000).await.unwrap().items;
    assert_eq!(all(&busy).await, all(&other).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_loses_reads_next_what_it_lost_to() {
    let etcd = Etcd::start();
    let config = config(std::slice::from_ref(&etcd.address));
    let (one, two) = (open(&config).unwrap(), open(&config).unwrap());
    for round in 0..50 {
        let key = format!("/repo/{round}");
        assert!(one.txn(create(&key, "one")).await.unwrap().succeeded);
        assert!(!two.txn(create(&key, "two")).await.unwrap().succeeded);
        assert_eq!(value(&*two, &key).await.as_deref(), Some("one"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_others_are_neither_kept_nor_in_the_way() {
    let etcd = Etcd::start();
    let store = open(&config(std::slice::from_ref(&etcd.address))).unwrap();
    store.txn(put("/repo/f", "1")).await.unwrap();
    etcd.control(&["put", "/sn/instance/of/others", "x"])
        .unwrap();
    etcd.control(&["put", "without a slash", "x"]).unwrap();
    assert_eq!(value(&*store, "/sn/instance/of/others").await, None);
    // The newest revision is of a key that never arrives here.
    let failed = tokio::time::timeout(Duration::from_secs(2), store.txn(create("/repo/f", "2")));
    assert!(!failed.await.unwrap().unwrap().succeeded);
    let nothing = Txn {
        when: Vec::new(),
        then: vec![Op::Delete("/repo/unknown".into())],
    };
    let nothing = tokio::time::timeout(Duration::from_secs(2), store.txn(nothing));
    assert!(nothing.await.unwrap().unwrap().succeeded);
    store.txn(put("/repo/f", "3")).await.unwrap();
    assert_eq!(value(&*store, "/repo/f").await.as_deref(), Some("3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zone_is_before_every_key() {
    let etcd = Etcd::start();
    let zone = EtcdConfig {
        az_prefix: "az1".to_owned(),
        ..config(std::slice::from_ref(&etcd.address))
    };
    let store = open(&zone).unwrap();
    store.txn(put("/sn/functions/f", "1")).await.unwrap();
    let found = etcd.control(&["get", "/az1/sn/functions/f", "--print-value-only"]);
    assert_eq!(found.unwrap().trim(), "1");
    etcd.control(&["put", "/az1/sn/functions/g", "2"]).unwrap();
    eventually("the other key of the zone arrives", async || {
        value(&*store, "/sn/functions/g").await.as_deref() == Some("2")
    })
    .await;
    etcd.control(&["put", "/sn/functions/g", "elsewhere"])
        .unwrap();
    store.txn(put("/repo/h", "3")).await.unwrap();
    assert_eq!(
        value(&*store, "/sn/functions/g").await.as_deref(),
        Some("2")
    );
    drop(store);
    let store = open(&zone).unwrap();
    let all = store.range(b"", None, 10).await.unwrap();
    assert_eq!(all.items.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pages_are_read_at_the_start() {
    let etcd = Etcd::start();
    let config = config(std::slice::from_ref(&etcd.address));
    let store = open(&config).unwrap();
    let key = |number: usize| format!("/repo/{number:05}");
    for group in 0..50 {
        let then = (0..100).map(|number| {
            let key = key(group * 100 + number);
            Op::Put(key.clone().into(), format!("value of {key}").into())
        });
        let then = then.collect();
        let when = Vec::new();
        store.txn(Txn { when, then }).await.unwrap();
    }
    drop(store);
    let store = open(&config).unwrap();
    let all = store.range(b"/repo/", None, 10_000).await.unwrap();
    assert_eq!(all.items.len(), 5000);
    for (number, item) in all.items.iter().enumerate() {
        assert_eq!(&item.key[..], key(number).as_bytes());
        assert_eq!(
            &item.value[..],
            format!("value of {}", key(number)).as_bytes()
        );
    }
}
