//! Pods that end, a cluster that does not answer, and a platform that starts again.

use std::collections::BTreeMap;
use std::time::Duration;

use bugle_testkit::Site;
use serde_json::json;

use crate::kubelet::name;
use crate::stage::{Node, Stage, pool};

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_pod_that_is_lost_with_its_machine_are_told_so_and_go_on_elsewhere() {
    let site = Site::new();
    let stage = Stage::start(&site).await;
    stage.create(&pool("p1", json!({"size": 1}))).await;
    stage.runs("p1", 1).await;
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    let call = stage.platform.invoke(&who, "30");
    let lose = async {
        stage.platform.until_called(&who, 1).await;
        let machine = stage.cluster.pods()[0]["spec"]["nodeName"].clone();
        stage.cluster.server.remove_node(machine.as_str().unwrap());
    };
    let (lost, ()) = tokio::join!(call, lose);
    let said = lost.text();
    assert!(said.contains("the connection to node"), "{said}");
    let again = stage.platform.invoke(&who, "0").await;
    let _instance = again.expect(200);
    stage.runs("p1", 1).await;
    let alone = |nodes: &BTreeMap<String, Node>| nodes.len() == 1;
    stage.until_nodes("the lost one is forgotten", alone).await;
    stage.platform.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_evicted_finishes_its_calls() {
    let site = Site::new();
    let stage = Stage::start(&site).await;
    stage.create(&pool("p1", json!({"size": 1}))).await;
    stage.runs("p1", 1).await;
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    let call = stage.platform.invoke(&who, "2");
    let evict = async {
        stage.platform.until_called(&who, 1).await;
        let pod = name(&stage.cluster.pods()[0]);
        stage.evict(&pod).await;
        pod
    };
    let (answer, evicted) = tokio::join!(call, evict);
    let _instance = answer.expect(200);
    let gone = |nodes: &BTreeMap<String, Node>| nodes.len() == 1 && !nodes.contains_key(&evicted);
    stage.until_nodes("another Pod took its place", gone).await;
    let again = stage.platform.invoke(&who, "0").await;
    let _instance = again.expect(200);
    stage.platform.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_crashes_is_started_again_as_the_same_node() {
    let site = Site::new();
    let stage = Stage::start(&site).await;
    stage.create(&pool("p1", json!({"size": 1}))).await;
    stage.runs("p1", 1).await;
    let pod = stage.cluster.names().remove(0);
    bugle_testkit::kill(stage.cluster.pid(&pod).unwrap());
    let lost = |pool: &serde_json::Value| {
        pool["ready_count"] == 0 && pool["msg"].as_str().unwrap().contains("CrashLoopBackOff")
    };
    let shown = stage.becomes("p1", lost).await;
    assert_eq!(shown["status"], 4, "it once ran");
    stage.runs("p1", 1).await;
    assert_eq!(stage.cluster.names(), [pod]);
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    let _instance = stage.platform.invoke(&who, "0").await.expect(200);
    stage.platform.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_go_on_with_their_calls_while_the_api_server_is_away() {
    let site = Site::new();
    let stage = Stage::start(&site).await;
    stage
        .create(&pool("p1", json!({"size": 1, "max_size": 2})))
        .await;
    stage.runs("p1", 1).await;
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    let first = stage.platform.invoke(&who, "0").await.expect(200).text();
    stage.cluster.server.stop_listening();
    let same = stage.platform.invoke(&who, "0").await.expect(200).text();
    assert_eq!(first, same);
    // What needs one more Pod waits until the cluster is there again.
    let large = stage
        .function("large", json!({"poolId": "p1", "cpu": 900}))
        .await;
    let call = stage.platform.invoke(&large, "0");
    let back = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        stage.cluster.server.listen_again().await.unwrap();
    };
    let (answer, ()) = tokio::join!(call, back);
    let _instance = answer.expect(200);
    assert_eq!(stage.cluster.names().len(), 2);
    stage.platform.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_in_pods_stay_warm_when_the_platform_is_killed_and_starts_again() {
    let site = Site::new();
    let stage = Stage::start_with(&site, |options| {
        // Pods look for the platform where it was.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        options.config("nodes", "listen", &address)
    })
    .await;
    stage.create(&pool("p1", json!({"size": 1}))).await;
    stage.runs("p1", 1).await;
    let pod = stage.cluster.names();
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    let first = stage.platform.invoke(&who, "0").await.expect(200).text();
    let stage = stage.restart().await;
    let adopted = |nodes: &BTreeMap<String, Node>| {
        nodes
            .values()
            .any(|node| node.state == "live" && node.instances == 1)
    };
    stage
        .until_nodes("the instance was taken in", adopted)
        .await;
    let again = stage.platform.invoke(&who, "0").await.expect(200).text();
    assert_eq!(first, again);
    stage.runs("p1", 1).await;
    assert_eq!(stage.cluster.names(), pod, "no Pod was replaced");
    stage.platform.finish().await;
}
