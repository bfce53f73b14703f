//! Three members, of which one ends.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use bugle_store::EtcdFailure;

use super::*;
use crate::server::Etcd;

fn leader(members: &[Etcd]) -> usize {
    for (at, member) in members.iter().enumerate() {
        let status = member.control(&["endpoint", "status", "--write-out=json"]);
        let Ok(status) = status else { continue };
        let number = |name: &str| {
            let rest = status.split_once(&format!("\"{name}\":"))?.1;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().ok()
        };
        if number("leader").is_some() && number("leader") == number("member_id") {
            return at;
        }
    }
    panic!("no member leads");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_answered_is_lost_with_the_leader() {
    let mut members = Etcd::cluster();
    let addresses: Vec<String> = members
        .iter()
        .map(|member| member.address.clone())
        .collect();
    let store = open(&config(&addresses)).unwrap();
    store.txn(put("/repo/first", "")).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        writers.spawn(async move {
            let mut answered = Vec::new();
            let mut number = 0;
            while !done.load(Ordering::SeqCst) {
                number += 1;
                let key = format!("/repo/{writer}/{number}");
                match store.txn(create(&key, "")).await {
                    Ok(outcome) => {
                        assert!(outcome.succeeded, "{key} is new");
                        answered.push(key);
                    }
                    // Nobody can say of these.
                    Err(Error::Etcd(EtcdFailure::Unsure { .. })) => {}
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
            }
            answered
        });
    }
    let count = async || {
        store
            .range(b"/repo/", None, 100_000)
            .await
            .unwrap()
            .items
            .len()
    };
    eventually("writes are under way", async || count().await > 100).await;
    let first = leader(&members);
    members[first].kill();
    let before = count().await;
    eventually("writes go on with the new leader", async || {
        count().await > before + 100
    })
    .await;
    done.store(true, Ordering::SeqCst);
    let mut answered = BTreeSet::new();
    while let Some(ended) = writers.join_next().await {
        answered.extend(ended.unwrap());
    }
    eventually("it is in order again", async || store.health().is_ok()).await;
    drop(store);
    let store = open(&config(&addresses)).unwrap();
    for key in answered {
        assert!(value(&*store, &key).await.is_some(), "{key} was answered");
    }
}
