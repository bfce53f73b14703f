//! Pools of the gateways' own machines.

use std::collections::BTreeSet;
use std::time::Duration;

use bugle_testkit::{FunctionSpec, Platform, eventually};
use serde_json::{Value, json};

use crate::finish;
use crate::gates::{BOUND, Gates, WHO, owner, until_members};

const POOLS: &str = "/serverless/v1/podpools";

async fn shown(platform: &Platform) -> Value {
    let found = platform.control.get(&format!("{POOLS}?id=p")).await;
    found.expect(200).json()["result"]["pools"][0].clone()
}

#[tokio::test]
async fn a_pool_is_kept_by_one_gateway_and_serves_the_functions_of_all() {
    let gates = Gates::new(3).await;
    let mut platforms = Vec::new();
    // One has less room than the pool asks for.
    for (number, cpu) in [(0, "4000"), (1, "700"), (2, "4000")] {
        let options = gates.options().config("pools", "cpu_millis", cpu);
        platforms.push(gates.start_with(number, &options).await);
    }
    let all: Vec<&Platform> = platforms.iter().collect();
    until_members(&all).await;
    let amounts = json!({"cpu": "600m", "memory": "256Mi"});
    let pool = json!({"id": "p", "size": 2, "resources": {"requests": amounts, "limits": amounts}});
    let created = all[0].control.post(POOLS, &json!({"pools": [pool]})).await;
    assert_eq!(created.expect(200).json()["code"], 0);
    eventually("the pool has what it can have", BOUND, || async {
        let pool = shown(all[1]).await;
        let crowded = pool["msg"].as_str().unwrap_or_default();
        let crowded = crowded.contains("pools.cpu_millis") && pool["ready_count"] == 1;
        let made = pool["msg"] == "Running" && pool["ready_count"] == 2 || crowded;
        made.then_some(()).ok_or_else(|| pool.to_string())
    })
    .await;
    let before = gates.revision();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(gates.revision(), before, "nobody has anything more to say");
    let (mut owners, mut number) = (BTreeSet::new(), 0);
    while owners.len() < all.len() {
        number += 1;
        assert!(number < 60, "the functions belong to {owners:?} alone");
        let name = format!("p{number}");
        let code = gates.site(0).write_code(&name, "index.py", WHO);
        let spec = FunctionSpec::python(&format!("0@test@{name}"), &code)
            .with("poolId", "p")
            .with("maxInstance", "1");
        let function = all[0].register(&spec).await;
        owners.insert(owner(&all, &function).await);
        let path = format!("/serverless/v1/functions/0@test@{name}");
        let _ = all[0].control.delete(&path).await.expect(200);
    }
    finish(platforms).await;
}
