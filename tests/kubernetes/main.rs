//! The platform with pools of Pods, whose workers are nodes that run: from the creation of a pool to the answer of a
//! function inside one of its Pods. The cluster is the one for tests, with a kubelet that starts real processes.
#![cfg(test)]

mod choice;
mod growth;
mod kubelet;
mod stage;
mod survival;

use std::collections::{BTreeMap, BTreeSet};

use bugle_testkit::Site;
use futures_util::future::join_all;
use serde_json::json;

use stage::{Node, Stage, pool};

#[tokio::test(flavor = "multi_thread")]
async fn functions_of_a_pool_answer_from_inside_its_pods_and_nothing_is_left_of_it() {
    let site = Site::new();
    let stage = Stage::start(&site).await;
    stage.create(&pool("p1", json!({"size": 2}))).await;
    stage.runs("p1", 2).await;
    let pods: BTreeSet<String> = stage.cluster.names().into_iter().collect();
    let nodes = stage.nodes().await;
    assert_eq!(nodes.keys().cloned().collect::<BTreeSet<_>>(), pods);
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    let calls = (0..2).map(|_| stage.platform.invoke(&who, "1"));
    for answer in join_all(calls).await {
        let _instance = answer.expect(200);
    }
    let busy = Node {
        state: "live".to_owned(),
        pool: "p1".to_owned(),
        instances: 1,
    };
    let nodes = stage.nodes().await;
    assert!(nodes.values().all(|node| *node == busy), "{nodes:?}");
    stage.delete("p1").await;
    stage.gone("p1").await;
    stage
        .until_nodes("there are no nodes", BTreeMap::is_empty)
        .await;
    assert!(stage.cluster.pods().is_empty());
    assert_eq!(stage.cluster.processes(), 0);
    stage.platform.finish().await;
}
