//! Pools grow when instances find no room, and become smaller when they may.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bugle_testkit::Site;
use futures_util::future::join_all;
use serde_json::json;

use crate::stage::{Node, Stage, pool};

/// Instances that a Pod of [`pool`] has room for.
const ROOM: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_grows_for_calls_without_room_and_its_idle_pods_go() {
    let site = Site::new();
    let stage = Stage::start_with(&site, |options| {
        options.config("scheduler", "idle_seconds", "1")
    })
    .await;
    let idle = json!({"scaled": 2});
    let fields = json!({"size": 0, "max_size": 3, "idle_recycle_time": idle});
    stage.create(&pool("p1", fields)).await;
    stage.runs("p1", 0).await;
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    let first = stage.platform.invoke(&who, "0").await;
    let _instance = first.expect(200);
    assert_eq!(stage.cluster.names().len(), 1, "one instance, one Pod");
    let calls = (0..=ROOM).map(|_| stage.platform.invoke(&who, "10"));
    let grown = async {
        stage.platform.until_called(&who, ROOM + 1).await;
        stage.cluster.names().len()
    };
    let (answers, grown) = tokio::join!(join_all(calls), grown);
    let answers = answers.into_iter();
    let instances: BTreeSet<String> = answers.map(|answer| answer.expect(200).text()).collect();
    assert_eq!(instances.len(), ROOM + 1);
    assert!((2..=3).contains(&grown), "{grown} Pods");
    // Idle instances go, and then their Pods.
    stage.runs("p1", 0).await;
    assert!(stage.cluster.names().is_empty());
    stage.platform.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_no_pod_comes_up_for_is_told_why() {
    let site = Site::new();
    let stage = Stage::start_with(&site, |options| {
        options.config("pools", "wait_seconds", "4")
    })
    .await;
    let fields = json!({"size": 0, "max_size": 1, "image": "no-such-image"});
    stage.create(&pool("p1", fields)).await;
    stage.runs("p1", 0).await;
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    let begun = Instant::now();
    let answer = stage.platform.invoke(&who, "0").await;
    let waited = begun.elapsed();
    let said = answer.text();
    assert_ne!(answer.status, 200, "{said}");
    assert!(said.contains("no worker of pool p1"), "{said}");
    assert!(said.contains("ErrImagePull"), "{said}");
    let expected = Duration::from_secs(4)..Duration::from_secs(15);
    assert!(expected.contains(&waited), "{waited:?}");
    stage.platform.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_that_does_not_grow_says_so_soon() {
    let site = Site::new();
    let stage = Stage::start_with(&site, |options| {
        options.config("nodes", "place_seconds", "1")
    })
    .await;
    stage.create(&pool("p1", json!({}))).await;
    stage.runs("p1", 1).await;
    let other = json!({"poolId": "p1", "cpu": 900, "timeout": 30});
    let large = stage.function("large", other.clone()).await;
    let second = stage.function("second", other).await;
    let busy = stage.platform.invoke(&large, "4");
    let refused = async {
        stage.platform.until_called(&large, 1).await;
        stage.platform.invoke(&second, "0").await
    };
    let (busy, refused) = tokio::join!(busy, refused);
    let _instance = busy.expect(200);
    let said = refused.text();
    assert!(said.contains("none of 1 nodes has room"), "{said}");
    assert!(said.contains("the pool has a fixed size"), "{said}");
    stage.platform.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_becomes_smaller_without_a_failed_call() {
    let site = Site::new();
    let stage = Stage::start(&site).await;
    stage.create(&pool("p1", json!({"size": 3}))).await;
    stage.runs("p1", 3).await;
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    let calls = (0..3).map(|_| stage.platform.invoke(&who, "0.5"));
    for answer in join_all(calls).await {
        let _instance = answer.expect(200);
    }
    let nodes = stage.nodes().await;
    assert!(nodes.values().all(|node| node.instances == 1), "{nodes:?}");
    let until = Instant::now() + Duration::from_secs(4);
    let callers = (0..3).map(|_| async {
        while Instant::now() < until {
            let _instance = stage.platform.invoke(&who, "0.1").await.expect(200);
        }
    });
    let change = async {
        stage.change("p1", &json!({"size": 1})).await;
        let one = |nodes: &BTreeMap<String, Node>| nodes.len() == 1;
        stage.until_nodes("one node is left", one).await;
    };
    tokio::join!(join_all(callers), change);
    stage.runs("p1", 1).await;
    stage.platform.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_keeps_a_pool_from_growing_is_told_to_the_call_until_it_is_lifted() {
    let site = Site::new();
    let stage = Stage::start_with(&site, |options| {
        options.config("pools", "wait_seconds", "3")
    })
    .await;
    let few = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "0"}},
    });
    stage.ask_cluster("resourcequotas", &few).await;
    stage
        .create(&pool("p1", json!({"size": 0, "max_size": 1})))
        .await;
    stage.runs("p1", 0).await;
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    let refused = stage.platform.invoke(&who, "0").await;
    assert!(
        refused.text().contains("exceeded quota"),
        "{}",
        refused.text()
    );
    let more = |quota: &mut serde_json::Value| quota["spec"]["hard"]["pods"] = json!("1");
    let server = &stage.cluster.server;
    server.change("resourcequotas", "default", "few", "", more);
    let served =
        bugle_testkit::eventually("the call has its Pod", crate::stage::BOUND, async || {
            let answer = stage.platform.invoke(&who, "0").await;
            match answer.status {
                200 => Ok(()),
                _ => Err(answer.text()),
            }
        });
    served.await;
    stage.platform.finish().await;
}
