//! What only the server of this workspace can do to a cluster.

use std::time::Duration;

use bugle_apiserver::{ApiServer, Fault, Options, Rule, Trouble};
use bugle_types::pool::PoolStatus;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::stage::{Stage, pool};

async fn stage() -> Stage {
    Stage::on_test_server(Options::default()).await
}

fn server(stage: &Stage) -> &ApiServer {
    stage.server.as_ref().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_fail_come_late_or_get_lost_make_no_pod_too_many() {
    let stage = stage().await;
    for trouble in [
        Trouble::LoseAnswer,
        Trouble::Refuse(500, None),
        Trouble::LoseAnswer,
        Trouble::Refuse(429, Some(1)),
        Trouble::Reset,
        Trouble::CutAnswer,
        Trouble::Delay(Duration::from_millis(300)),
        Trouble::LoseAnswer,
    ] {
        server(&stage).fail(Fault::next(1, "/pods", trouble).of("POST"));
    }
    server(&stage).fail(Fault::next(2, "/deployments/", Trouble::LoseAnswer).of("PATCH"));
    let running = stage.start("one").await;
    stage.records.create(pool("scaled", 6, 8));
    stage.records.running("scaled", 6).await;
    assert_eq!(stage.pods().await.len(), 6);
    let seen = server(&stage).seen();
    let names: std::collections::BTreeSet<_> = stage
        .pods()
        .await
        .iter()
        .filter_map(|pod| pod.metadata.name.clone())
        .collect();
    let deleted = seen
        .iter()
        .filter(|seen| seen.method == "DELETE" && seen.path.contains("/pods/"));
    assert_eq!((deleted.count(), names.len()), (0, 6));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_break_or_expire_are_taken_up_again() {
    let stage = stage().await;
    let running = stage.start("one").await;
    stage.records.create(pool("fixed", 2, 2));
    stage.records.running("fixed", 2).await;
    server(&stage).cut_watches();
    server(&stage).compact();
    let node = stage.pods().await[0]
        .spec
        .clone()
        .unwrap()
        .node_name
        .unwrap();
    server(&stage).remove_node(&node);
    server(&stage).cut_watches();
    stage
        .until_pods(|pods| {
            pods.len() == 2
                && pods
                    .iter()
                    .all(|pod| pod.spec.as_ref().unwrap().node_name.as_ref() != Some(&node))
        })
        .await;
    stage.records.running("fixed", 2).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_lowers_the_count_and_its_pods_are_replaced() {
    // Pods are given up only after a second, so that the loss is seen before.
    let options = Options {
        silence: Duration::from_secs(1),
        ..Options::default()
    };
    let stage = Stage::on_test_server(options).await;
    let running = stage.start("one").await;
    stage.records.create(pool("fixed", 3, 3));
    stage.records.create(pool("scaled", 3, 4));
    stage.records.running("fixed", 3).await;
    stage.records.running("scaled", 3).await;
    let node = stage.pods().await[0]
        .spec
        .clone()
        .unwrap()
        .node_name
        .unwrap();
    server(&stage).set_node_answers(&node, false);
    let lost = |state: Option<&bugle_types::pool::PoolState>| {
        state.is_some_and(|state| state.ready_count < 3 && state.msg.contains("NodeNotReady"))
    };
    stage.records.until("fixed", lost).await;
    stage.records.running("fixed", 3).await;
    stage.records.running("scaled", 3).await;
    server(&stage).remove_node(&node);
    stage.records.running("fixed", 3).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_api_server_delays_everything_and_loses_nothing() {
    let stage = stage().await;
    let running = stage.start("one").await;
    stage.records.create(pool("before", 1, 1));
    stage.records.running("before", 1).await;
    server(&stage).stop_listening();
    stage.records.create(pool("during", 2, 4));
    stage
        .records
        .change("before", PoolStatus::PendingDeletion, |_| ());
    // Longer than the lease: the process is deposed and has to come back by itself.
    let deposed = stage.until("the process is deposed", async || !running.handle.leads());
    deposed.await;
    server(&stage).listen_again().await.unwrap();
    stage.records.running("during", 2).await;
    stage.records.until("before", |state| state.is_none()).await;
    assert_eq!(stage.counts().await, (1, 0, 2));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_the_cluster_refuses_is_told_and_not_tried_all_the_time() {
    let stage = stage().await;
    let running = stage.start("one").await;
    stage.records.create(pool("scaled", 1, 2));
    stage.records.running("scaled", 1).await;
    let refuse = Fault::next(3, "/pods/", Trouble::Refuse(403, None)).of("DELETE");
    server(&stage).fail(refuse);
    // The garbage collection of the Deployment would take the Pod along.
    let refuse = Fault::next(3, "/deployments/", Trouble::Refuse(403, None)).of("DELETE");
    server(&stage).fail(refuse);
    stage
        .records
        .change("scaled", PoolStatus::PendingDeletion, |_| ());
    stage.records.says("scaled", "ErrorCode is 403").await;
    stage.records.until("scaled", |state| state.is_none()).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespaced_role_is_all_that_the_controller_needs() {
    let mut stage = stage().await;
    let chart = include_str!("../../../../deploy/helm/bugle/files/role.json");
    let role: Value = serde_json::from_str(chart).unwrap();
    let list = |value: &Value| {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let rules = role.as_array().unwrap().iter();
    let rules = rules.map(|rule| Rule {
        groups: list(&rule["apiGroups"]),
        resources: list(&rule["resources"]),
        verbs: list(&rule["verbs"]),
    });
    server(&stage).grant("controller", "bugle", rules.collect());
    let file = server(&stage).kubeconfig_of("controller", &stage.config.namespace);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, file).unwrap();
    stage.config.kubeconfig = path.to_str().unwrap().to_owned();
    // The chart makes it, and the platform writes what is in it.
    stage.config.join_address = "bugle:31183".to_owned();
    let secret = json!({"metadata": {"name": stage.config.join_secret}});
    let secret: Secret = serde_json::from_value(secret).unwrap();
    let (api, parameters) = (stage.api::<Secret>(), PostParams::default());
    let _made = api.create(&parameters, &secret).await.unwrap();
    let running = stage.start("one").await;
    let mut fixed = pool("fixed", 1, 1);
    fixed.autoscaler = Some(json!({"minReplicas": 1, "maxReplicas": 2}));
    stage.records.create(fixed);
    stage.records.create(pool("scaled", 1, 2));
    stage.records.running("fixed", 1).await;
    stage.records.running("scaled", 1).await;
    for id in ["fixed", "scaled"] {
        stage
            .records
            .change(id, PoolStatus::PendingDeletion, |_| ());
        stage.records.until(id, |state| state.is_none()).await;
    }
    assert_eq!(stage.counts().await, (0, 0, 0));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_join_with_a_secret_that_has_a_key_for_each_pool_and_none_for_former_ones() {
    let mut stage = stage().await;
    stage.config.join_address = "bugle:31183".to_owned();
    let running = stage.start("one").await;
    stage.records.create(pool("a", 1, 1));
    stage.records.create(pool("b", 1, 2));
    stage.records.running("a", 1).await;
    stage.records.running("b", 1).await;
    let keys = async || {
        let secret = stage.api::<Secret>().get(&stage.config.join_secret).await;
        let data = secret.unwrap().data.unwrap_or_default();
        let texts = data.into_iter();
        texts
            .map(|(pool, token)| (pool, String::from_utf8(token.0).unwrap()))
            .collect::<Vec<_>>()
    };
    let of = |pool: &str| (pool.to_owned(), format!("token of {pool}"));
    assert_eq!(keys().await, [of("a"), of("b")]);
    stage
        .records
        .change("a", PoolStatus::PendingDeletion, |_| ());
    stage.records.until("a", |state| state.is_none()).await;
    stage
        .until("the key is gone", async || keys().await == [of("b")])
        .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_says_that_its_workers_have_nothing_to_join_with() {
    let mut stage = stage().await;
    stage.config.join_address = "bugle:31183".to_owned();
    let trouble = Trouble::Refuse(403, None);
    server(&stage).fail(Fault::next(10_000, "/secrets/", trouble).of("PATCH"));
    let running = stage.start("one").await;
    stage.records.create(pool("a", 1, 1));
    let failed = "Apply Secret Failed, ErrorCode is 403";
    stage.records.says("a", failed).await;
    assert_eq!(stage.counts().await, (0, 0, 0), "nothing waits for it");
    server(&stage).heal();
    stage.records.running("a", 1).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_make_no_second_leader_and_no_endless_one() {
    let stage = stage().await;
    // Somebody whose clock is an hour ahead holds the lease and has died.
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {"name": stage.config.lease},
        "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 2, "renewTime": "2999-01-01T00:00:00.000000Z"},
    }))
    .unwrap();
    stage
        .api::<Lease>()
        .create(&PostParams::default(), &lease)
        .await
        .unwrap();
    let begun = std::time::Instant::now();
    let running = stage.start("one").await;
    stage.records.create(pool("fixed", 1, 1));
    stage.records.running("fixed", 1).await;
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "the lease was taken before its time"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pods_of_a_pool_of_fifty_are_asked_for_at_once() {
    let mut stage = stage().await;
    // None is answered and none is asked for again, so none can wait for another.
    stage.config.request_seconds = 600;
    server(&stage).fail(Fault::next(10_000, "/pods", Trouble::Hang).of("POST"));
    let running = stage.start("one").await;
    stage.records.create(pool("scaled", 50, 51));
    let asked = async || {
        let seen = server(&stage).seen();
        let posts = seen
            .iter()
            .filter(|seen| seen.method == "POST" && seen.path.contains("/pods"));
        posts.count() == 50
    };
    stage.until("fifty Pods are asked for", asked).await;
    running.kill();
}

/// From the record to the last request that makes the pool, with a cluster that takes 5 ms for each. The best of a
/// few counts: other tests run at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_pods_are_ordered_within_a_second() {
    let options = Options {
        latency: Duration::from_millis(5),
        ..Options::default()
    };
    let stage = Stage::on_test_server(options).await;
    let running = stage.start("one").await;
    stage.records.create(pool("first", 0, 1));
    stage.records.running("first", 0).await;
    for max_size in [51, 50] {
        let mut best = Duration::MAX;
        for attempt in 0..5 {
            let id = format!("p{max_size}-{attempt}");
            best = best.min(ordered(&stage, &id, max_size).await);
            if best < Duration::from_millis(300) {
                break;
            }
        }
        println!("50 Pods, at most {max_size}: all operations sent after {best:.0?}");
        assert!(best < Duration::from_secs(1), "{best:?}");
    }
    running.stop().await;
}

/// Makes a pool of 50 Pods, and takes it away again.
async fn ordered(stage: &Stage, id: &str, max_size: u32) -> Duration {
    let known = server(stage).seen().len();
    let begun = std::time::Instant::now();
    stage.records.create(pool(id, 50, max_size));
    stage.records.running(id, 50).await;
    let seen = server(stage).seen().split_off(known);
    let of_pool = |path: &str| path.contains("/pods") || path.contains("/deployments/");
    let writes = seen
        .iter()
        .filter(|seen| ["POST", "PATCH"].contains(&seen.method.as_str()) && of_pool(&seen.path));
    let last = writes.map(|seen| seen.at - begun).max().unwrap();
    stage
        .records
        .change(id, PoolStatus::PendingDeletion, |_| ());
    stage.records.until(id, |state| state.is_none()).await;
    last
}
