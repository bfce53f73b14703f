//! Pools on Kubernetes, through the whole platform; the cluster is the one for tests, and nothing runs in its Pods.

use bugle_apiserver::{ApiServer, Options};
use bugle_testkit::{Site, StartOptions};
use serde_json::json;

use crate::support::{POOLS, created, goes, pool, runs};

async fn on_cluster(site: &Site) -> (ApiServer, StartOptions) {
    let server = ApiServer::start(Options::default()).await.unwrap();
    let kubeconfig = site.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let options = StartOptions::default()
        .config("pools", "backend", "kubernetes")
        .config("nodes", "listen", "127.0.0.1:0")
        .config("kubernetes", "join_address", "platform.example:31183")
        .config("kubernetes", "kubeconfig", kubeconfig.to_str().unwrap())
        .config("kubernetes", "lease_seconds", "2");
    (server, options)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_made_on_the_cluster_and_nothing_of_it_is_left() {
    let site = Site::new();
    let (server, options) = on_cluster(&site).await;
    let platform = site.start_with(&options).await;
    let volumes = json!({"volumes": "not json", "size": 2});
    created(
        &platform,
        &[
            pool("fixed", volumes),
            pool("scaled", json!({"max_size": 3})),
        ],
    )
    .await;
    let fixed = runs(&platform, "fixed", 2).await;
    let said = fixed["msg"].as_str().unwrap();
    assert!(said.starts_with("Running; ignored: volumes"), "{said}");
    runs(&platform, "scaled", 1).await;
    assert_eq!(server.live_pods("default").len(), 3);
    let deleted = platform
        .control
        .delete(&format!("{POOLS}?group=default"))
        .await;
    let _accepted = deleted.expect(200);
    goes(&platform, "fixed").await;
    goes(&platform, "scaled").await;
    assert!(server.objects("pods", "default").is_empty());
    assert!(server.objects("deployments", "default").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_survive_a_platform_that_is_killed() {
    let site = Site::new();
    let (server, options) = on_cluster(&site).await;
    let platform = site.start_with(&options).await;
    created(&platform, &[pool("kept", json!({"size": 2}))]).await;
    runs(&platform, "kept", 2).await;
    let before = server.objects("pods", "default");
    platform.kill().await;
    let node = before[0]["spec"]["nodeName"].as_str().unwrap();
    server.remove_node(node);
    let platform = site.start_with(&options).await;
    runs(&platform, "kept", 2).await;
    assert_eq!(server.live_pods("default").len(), 2);
}
