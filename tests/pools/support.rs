//! A platform with pools.

use std::time::Duration;

use bugle_testkit::{Answer, Platform, eventually};
use serde_json::{Value, json};

/// What a machine under test needs to prepare a process, with all its neighbours.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) const POOLS: &str = "/serverless/v1/podpools";

/// A small pool, with these fields instead of its own.
pub(crate) fn pool(id: &str, fields: Value) -> Value {
    let amounts = json!({"cpu": "300m", "memory": "128Mi"});
    let mut pool = json!({
        "id": id, "size": 1, "resources": {"requests": amounts, "limits": amounts},
    });
    let Value::Object(fields) = fields else {
        panic!("fields are an object");
    };
    pool.as_object_mut().unwrap().extend(fields);
    pool
}

/// Creates pools, whatever becomes of it.
pub(crate) async fn create(platform: &Platform, pools: &[Value]) -> Answer {
    platform
        .control
        .post(POOLS, &json!({ "pools": pools }))
        .await
}

/// Creates pools that are good.
pub(crate) async fn created(platform: &Platform, pools: &[Value]) {
    let answer = create(platform, pools).await.expect(200);
    assert_eq!(
        answer.json(),
        json!({"code": 0, "message": "", "result": {"failed_pools": null}})
    );
}

/// The pool as it is shown; null when there is none.
pub(crate) async fn shown(platform: &Platform, id: &str) -> Value {
    let answer = platform.control.get(&format!("{POOLS}?id={id}")).await;
    answer.expect(200).json()["result"]["pools"][0].clone()
}

/// Waits until the pool is as it should be.
pub(crate) async fn becomes(
    platform: &Platform,
    id: &str,
    what: &str,
    good: impl Fn(&Value) -> bool,
) -> Value {
    eventually(&format!("pool {id} {what}"), PATIENCE, async || {
        let pool = shown(platform, id).await;
        if good(&pool) {
            Ok(pool)
        } else {
            Err(pool.to_string())
        }
    })
    .await
}

/// Waits until the pool runs with so many workers.
pub(crate) async fn runs(platform: &Platform, id: &str, ready: u64) -> Value {
    let what = format!("runs with {ready} workers");
    becomes(platform, id, &what, |pool| {
        pool["status"] == 4 && pool["ready_count"] == ready
    })
    .await
}

/// Waits until there is no such pool.
pub(crate) async fn goes(platform: &Platform, id: &str) {
    becomes(platform, id, "is gone", Value::is_null).await;
}
