//! Which Pods an instance may use: groups in their order, labels that a call names, devices.

use bugle_testkit::{Registered, Site};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::stage::{Stage, pool};

/// In which pools instances of the function are, by name.
async fn pools(stage: &Stage<'_>) -> Vec<String> {
    let nodes = stage.nodes().await.into_values();
    let mut used: Vec<String> = nodes
        .filter(|node| node.instances > 0)
        .map(|node| node.pool)
        .collect();
    used.sort();
    used
}

async fn invoke(stage: &Stage<'_>, function: &Registered, labels: &str) -> (u16, String) {
    let headers = [("x-pool-label", labels)];
    let answer = stage.platform.try_invoke(function, "0", &headers).await;
    let answer = answer.unwrap();
    (answer.status, answer.text())
}

fn selector(group: &str, priority: i64) -> Value {
    json!({"group": group, "priority": priority})
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_pools_are_used_in_their_order() {
    let site = Site::new();
    let stage = Stage::start(&site).await;
    stage
        .create(&pool("slow", json!({"group": "bronze"})))
        .await;
    stage.create(&pool("fast", json!({"group": "gold"}))).await;
    stage.runs("slow", 1).await;
    stage.runs("fast", 1).await;
    let selectors = json!([selector("gold", 1), selector("bronze", 2)]);
    let fields = json!({"resourceAffinitySelectors": selectors, "cpu": 900});
    let who = stage.function("who", fields).await;
    let _first = stage.platform.invoke(&who, "0").await.expect(200);
    assert_eq!(pools(&stage).await, ["fast"], "it comes first");
    // The first group is full now.
    let both = (0..2).map(|_| stage.platform.invoke(&who, "1"));
    for answer in join_all(both).await {
        let _instance = answer.expect(200);
    }
    assert_eq!(pools(&stage).await, ["fast", "slow"]);
    stage.platform.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_chooses_pods_by_their_labels() {
    let site = Site::new();
    let stage = Stage::start_with(&site, |options| {
        options.config("nodes", "place_seconds", "1")
    })
    .await;
    let east = json!({"labels": {"zone-east": "1"}});
    stage.create(&pool("east", east)).await;
    let west = json!({"labels": {"zone-west": "1"}});
    stage.create(&pool("west", west)).await;
    stage.runs("east", 1).await;
    stage.runs("west", 1).await;
    let who = stage.function("who", json!({})).await;
    let (status, west) = invoke(&stage, &who, "zone-nowhere,zone-west").await;
    assert_eq!(
        (status, pools(&stage).await),
        (200, vec!["west".to_owned()])
    );
    let (status, east) = invoke(&stage, &who, "zone-east").await;
    assert_eq!(status, 200);
    assert_eq!(pools(&stage).await, ["east", "west"]);
    assert_ne!(east, west);
    assert_eq!(invoke(&stage, &who, "zone-east").await, (200, east));
    let (status, said) = invoke(&stage, &who, "zone-nowhere").await;
    assert_ne!(status, 200);
    assert!(
        said.contains("no node is in the groups zone-nowhere"),
        "{said}"
    );
    let (status, _) = invoke(&stage, &who, "zone-nowhere,unUseAntiOtherLabels").await;
    assert_eq!(status, 200, "a wish, not a condition");
    stage.platform.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_a_pod_are_counted_by_the_name_that_functions_use() {
    let site = Site::new();
    let file = site.path().join("devices.toml");
    let devices = "[nodes]\nplace_seconds = 1\n[kubernetes.devices]\n\"example.com/npu\" = \"NPU/Ascend910B/count\"\n";
    std::fs::write(&file, devices).unwrap();
    let file = ["--config", file.to_str().unwrap()];
    let stage = Stage::start_with(&site, |options| options.arguments(file)).await;
    let amounts = json!({"cpu": "2", "memory": "1Gi", "example.com/npu": "2"});
    for node in ["node-1", "node-2", "node-3"] {
        stage
            .cluster
            .server
            .change("nodes", "", node, "status", |node| {
                node["status"]["allocatable"]["example.com/npu"] = json!("2");
                node["status"]["capacity"]["example.com/npu"] = json!("2");
            });
    }
    let resources = json!({"resources": {"requests": amounts, "limits": amounts}});
    stage.create(&pool("npu", resources)).await;
    stage.runs("npu", 1).await;
    let needs =
        |count| json!({"poolId": "npu", "customResources": {"NPU/Ascend910.*/count": count}});
    let both = stage.function("both", needs(2)).await;
    let one = stage.function("one", needs(1)).await;
    let busy = stage.platform.invoke(&both, "4");
    let refused = async {
        stage.platform.until_called(&both, 1).await;
        stage.platform.invoke(&one, "0").await
    };
    let (busy, refused) = tokio::join!(busy, refused);
    let _instance = busy.expect(200);
    let said = refused.text();
    assert!(said.contains("1 NPU/Ascend910.*/count"), "{said}");
    stage.platform.finish().await;
}
