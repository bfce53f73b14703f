//! What the store does when its etcd ends, is out of reach, forgets, or is full.

use std::time::{Duration, Instant};

use bugle_store::EtcdFailure;

use super::*;
use crate::link::Link;
use crate::server::Etcd;

fn failure(error: &Error) -> &EtcdFailure {
    match error {
        Error::Etcd(failure) => failure,
        error => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_killed_is_missed_and_then_found_again() {
    let mut etcd = Etcd::start();
    let store = open(&config(std::slice::from_ref(&etcd.address))).unwrap();
    store.txn(put("/repo/f", "before")).await.unwrap();
    let begin = store.revision().await.unwrap();
    let mut watch = store.watch(&[b"/repo/"], begin).await.unwrap();
    etcd.kill();

    let refused = store.txn(put("/repo/f", "lost")).await.unwrap_err();
    assert!(refused.is_transient(), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains(&etcd.address), "{text}");
    assert!(
        text.contains("check that most of its members run"),
        "{text}"
    );
    assert_eq!(value(&*store, "/repo/f").await.as_deref(), Some("before"));
    eventually("the outage is told", async || store.health().is_err()).await;

    etcd.resume();
    eventually("writes go on", async || {
        store.txn(put("/repo/f", "after")).await.is_ok()
    })
    .await;
    assert_eq!(value(&*store, "/repo/f").await.as_deref(), Some("after"));
    eventually("the outage is over", async || store.health().is_ok()).await;
    // One that followed is not told anything twice, and misses nothing.
    let batch = watch.next().await.unwrap();
    assert_eq!(batch.changes.len(), 1, "{batch:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_broke_goes_on_where_it_was() {
    let etcd = Etcd::start();
    let link = Link::to(&etcd.address).await;
    let near = open(&config(std::slice::from_ref(&link.address))).unwrap();
    let direct = open(&config(std::slice::from_ref(&etcd.address))).unwrap();
    let begin = near.revision().await.unwrap();
    let mut watch = near.watch(&[b"/repo/"], begin).await.unwrap();
    for round in 0..3 {
        direct
            .txn(put("/repo/f", &format!("{round} a")))
            .await
            .unwrap();
        link.cut();
        for part in ["b", "c", "d"] {
            let text = format!("{round} {part}");
            direct.txn(put("/repo/f", &text)).await.unwrap();
        }
        link.mend();
        for part in ["a", "b", "c", "d"] {
            let batch = watch.next().await.unwrap();
            let [bugle_store::Change::Put(item)] = &batch.changes[..] else {
                panic!("{batch:?}");
            };
            assert_eq!(item.value, format!("{round} {part}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compacted_meanwhile_is_read_again() {
    let etcd = Etcd::start();
    let link = Link::to(&etcd.address).await;
    let near = open(&config(std::slice::from_ref(&link.address))).unwrap();
    let direct = open(&config(std::slice::from_ref(&etcd.address))).unwrap();
    direct.txn(put("/repo/old", "1")).await.unwrap();
    eventually("it is seen", async || {
        value(&*near, "/repo/old").await.is_some()
    })
    .await;
    let begin = near.revision().await.unwrap();
    let mut watch = near.watch(&[b"/repo/"], begin).await.unwrap();
    link.cut();
    let delete = Txn {
        when: Vec::new(),
        then: vec![
            Op::Delete("/repo/old".into()),
            Op::Put("/repo/new".into(), "2".into()),
        ],
    };
    direct.txn(delete).await.unwrap();
    let last = direct.txn(put("/repo/new", "3")).await.unwrap();
    direct.compact(last.revision).await.unwrap();
    link.mend();
    let told = watch.next().await;
    assert!(matches!(told, Err(Error::Compacted { .. })), "{told:?}");
    assert_eq!(value(&*near, "/repo/old").await, None);
    assert_eq!(value(&*near, "/repo/new").await.as_deref(), Some("3"));
    let mut watch = near.watch(&[b"/repo/"], last.revision).await.unwrap();
    near.txn(put("/repo/new", "4")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_refuses_writes_and_still_reads_and_deletes() {
    let etcd = Etcd::with("http", &["--quota-backend-bytes", "4194304"]);
    let store = open(&config(std::slice::from_ref(&etcd.address))).unwrap();
    let large = "x".repeat(500_000);
    let mut written = 0;
    let refused = loop {
        match store.txn(put(&format!("/repo/{written}"), &large)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "it never fills");
    };
    assert_eq!(failure(&refused), &EtcdFailure::NoSpace);
    let text = refused.to_string();
    assert!(text.contains("etcdctl alarm disarm"), "{text}");
    let unwell = store.health().unwrap_err();
    assert_eq!(failure(&unwell), &EtcdFailure::NoSpace);
    assert!(value(&*store, "/repo/0").await.is_some());
    for number in 0..written {
        let then = vec![Op::Delete(format!("/repo/{number}").into())];
        let when = Vec::new();
        store.txn(Txn { when, then }).await.unwrap();
    }
    let now = store.revision().await.unwrap();
    store.compact(now).await.unwrap();
    etcd.control(&["defrag"]).unwrap();
    etcd.control(&["alarm", "disarm"]).unwrap();
    store
        .txn(put("/repo/again", "there is room"))
        .await
        .unwrap();
    eventually("the alarm is seen to be over", async || {
        store.health().is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_was_replaced_is_not_believed() {
    let etcd = Etcd::start();
    let store = open(&config(std::slice::from_ref(&etcd.address))).unwrap();
    store.txn(put("/repo/f", "1")).await.unwrap();
    let mut etcd = etcd;
    etcd.kill();
    etcd.forget();
    etcd.resume();
    eventually("it is told", async || {
        store
            .health()
            .is_err_and(|error| matches!(failure(&error), EtcdFailure::Rewound { .. }))
    })
    .await;
    assert_eq!(value(&*store, "/repo/f").await.as_deref(), Some("1"));
    let refused = store.txn(put("/repo/f", "2")).await.unwrap_err();
    assert!(refused.is_fatal(), "{refused:?}");
    assert!(refused.to_string().contains("restart bugle"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_not_there_is_waited_for_and_then_named() {
    let nobody = EtcdConfig {
        start_timeout_seconds: 1,
        request_timeout_seconds: 1,
        ..config(&["http://127.0.0.1:1".to_owned()])
    };
    let begun = Instant::now();
    let error = open(&nobody).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10));
    let text = error.to_string();
    assert!(text.contains("http://127.0.0.1:1"), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
}
