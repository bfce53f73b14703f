//! P1–P4, as clients see them.

use bugle_testkit::{Site, StartOptions};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::support::{POOLS, becomes, create, created, goes, pool, runs, shown};

#[tokio::test]
async fn a_pool_lives_from_its_creation_to_its_deletion() {
    let site = Site::new();
    let platform = site.start().await;
    created(
        &platform,
        &[pool("small", json!({"size": 2, "group": "g"}))],
    )
    .await;
    let shown = runs(&platform, "small", 2).await;
    assert_eq!(shown["msg"], "Running");
    assert_eq!(shown["labels"], Value::Null);
    let path = format!("{POOLS}/small");
    let resized = platform
        .control
        .put(&path, &json!({"size": 3}))
        .await
        .expect(200);
    assert_eq!(
        resized.json(),
        json!({"code": 0, "message": "", "result": null})
    );
    let shown = runs(&platform, "small", 3).await;
    assert_eq!((&shown["size"], &shown["max_size"]), (&json!(3), &json!(3)));
    let _ = platform
        .control
        .put(&path, &json!({"size": 1}))
        .await
        .expect(200);
    runs(&platform, "small", 1).await;
    let deleted = platform.control.delete(&format!("{POOLS}?group=g")).await;
    assert_eq!(deleted.expect(200).json()["code"], 0);
    goes(&platform, "small").await;
    let again = platform.control.delete(&format!("{POOLS}?id=small")).await;
    assert_eq!(again.expect(404).json()["code"], 4120);
    created(&platform, &[pool("small", json!({}))]).await;
    runs(&platform, "small", 1).await;
    platform.finish().await;
}

#[tokio::test]
async fn those_that_fail_are_named_with_their_reasons_and_the_others_are_stored() {
    let site = Site::new();
    let platform = site.start().await;
    let pools = [
        pool("good", json!({"size": 0})),
        pool("Bad", json!({"size": -1})),
        pool("labels", json!({"labels": {"-": "x"}})),
        pool("good", json!({})),
    ];
    let answer = create(&platform, &pools).await.expect(200).json();
    assert_eq!(answer["code"], 4104);
    assert_eq!(
        answer["result"]["failed_pools"],
        json!(["Bad", "labels", "good"])
    );
    let errors = answer["result"]["errors"].as_array().unwrap();
    for (error, reasons) in errors.iter().zip([
        &["pod pool id can contain only", "size is less than 0"][..],
        &["labels: name \"-\" must be"],
        &["id: good,err: pool id already exists or is deleting"],
    ]) {
        for reason in reasons {
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(reason), "{message}");
            assert!(answer["message"].as_str().unwrap().contains(message));
        }
    }
    runs(&platform, "good", 0).await;
    let answer = create(&platform, &pools[1..2]).await.expect(500).json();
    assert_eq!(answer["result"]["failed_pools"], json!(["Bad"]));
    platform.finish().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_ignored_and_told_and_read_only_fields_are_passed_over() {
    let site = Site::new();
    let platform = site.start().await;
    let odd = pool(
        "odd",
        json!({
            "volumes": "{nope", "volume_mounts": "[{\"name\":\"v\",\"mountPath\":\"/v\"}]",
            "labels": {"yr-idle-to-recycle": 5}, "status": 4, "ready_count": 7, "msg": 1,
        }),
    );
    created(&platform, &[odd]).await;
    let shown = runs(&platform, "odd", 1).await;
    let msg = shown["msg"].as_str().unwrap();
    assert!(
        msg.starts_with("Running; ignored: volumes: it is not JSON"),
        "{msg}"
    );
    assert!(msg.contains("volume_mounts[0]"), "{msg}");
    assert_eq!(shown["labels"], json!({"yr-idle-to-recycle": "5"}));
    platform.finish().await;
}

#[tokio::test]
async fn pages_are_counted_from_one_and_the_last_changed_comes_first() {
    let site = Site::new();
    let platform = site.start_with(&nobody_makes_them()).await;
    let pools: Vec<Value> = (0..12).map(|n| pool(&format!("p{n}"), json!({}))).collect();
    created(&platform, &pools).await;
    let list = async |query: &str| {
        let answer = platform.control.get(&format!("{POOLS}?{query}")).await;
        answer.expect(200).json()["result"].clone()
    };
    let ids = |list: &Value| -> Vec<String> {
        let pools = list["pools"].as_array().unwrap();
        pools
            .iter()
            .map(|pool| pool["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = list("").await;
    assert_eq!((first["count"].clone(), ids(&first).len()), (json!(12), 10));
    assert_eq!(ids(&first)[0], "p11");
    assert_eq!(ids(&list("offset=2").await), ["p1", "p0"]);
    assert_eq!(ids(&list("offset=9&limit=5").await), [""; 0]);
    assert_eq!(list("limit=0").await, json!({"count": 0, "pools": null}));
    assert_eq!(list("group=nobody").await, json!({"count": 0, "pools": []}));
    let wrong = platform
        .control
        .get(&format!("{POOLS}?limit=abc"))
        .await
        .expect(500);
    assert_eq!(
        wrong.json()["message"],
        "strconv.Atoi: parsing \"abc\": invalid syntax. check input parameters"
    );
    platform.finish().await;
}

#[tokio::test]
async fn without_a_back_end_pools_stay_pending_and_refuse_changes() {
    let site = Site::new();
    let platform = site.start_with(&nobody_makes_them()).await;
    created(&platform, &[pool("p", json!({}))]).await;
    let refused = platform
        .control
        .put(&format!("{POOLS}/p"), &json!({"size": 2}))
        .await;
    assert_eq!(
        refused.expect(500).json()["message"],
        "pool status is 0 , not allowed to update. check input parameters"
    );
    let _ = platform
        .control
        .delete(&format!("{POOLS}?id=p"))
        .await
        .expect(200);
    assert_eq!(shown(&platform, "p").await["status"], 6);
    let refused = platform
        .control
        .put(&format!("{POOLS}/p"), &json!({"size": 2}))
        .await;
    assert_eq!(
        refused.expect(500).json()["message"],
        "the pod pool has already deleted, id: p. check input parameters"
    );
    platform.finish().await;
}

#[tokio::test]
async fn pools_survive_a_killed_server_and_their_workers_come_back() {
    let site = Site::new();
    let platform = site.start().await;
    created(
        &platform,
        &[pool("kept", json!({"size": 2})), pool("going", json!({}))],
    )
    .await;
    runs(&platform, "kept", 2).await;
    let _ = platform
        .control
        .delete(&format!("{POOLS}?id=going"))
        .await
        .expect(200);
    platform.kill().await;
    let platform = site.start().await;
    runs(&platform, "kept", 2).await;
    goes(&platform, "going").await;
    platform.finish().await;
}

#[tokio::test]
async fn hostile_bodies_are_refused_and_harm_nobody() {
    let site = Site::new();
    let platform = site.start_with(&nobody_makes_them()).await;
    let deep = "[".repeat(100_000);
    let bodies = [
        String::new(),
        "{".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        r#"{"pools":{}}"#.to_owned(),
        r#"{"pools":[7]}"#.to_owned(),
        r#"{"pools":[{"id":"a","size":1.5}]}"#.to_owned(),
        r#"{"pools":[{"id":"a","size":99999999999999999999}]}"#.to_owned(),
        r#"{"pools":[{"id":"a","labels":{"x":{}}}]}"#.to_owned(),
        format!(r#"{{"pools":[{{"id":"a","volumes":"{deep}"}}]}}"#),
        format!(r#"{{"pools":{deep}}}"#),
        format!(r#"{{"pools":[{}]}}"#, vec!["{}"; 2000].join(",")),
    ];
    for body in bodies {
        let shown: String = body.chars().take(80).collect();
        let request = Request::post(POOLS).body(Bytes::from(body)).unwrap();
        let answer = platform.control.send(request).await.unwrap().expect(500);
        let code = answer.json()["code"].as_u64().unwrap();
        assert!(matches!(code, 4104 | 130_600), "{shown}: {code}");
    }
    let huge = pool("a", json!({"volumes": "x".repeat(3 << 20)}));
    let _ = create(&platform, &[huge]).await.expect(413);
    for path in ["..", "%2e%2e%2f", "a%00b", "%ff", &"x".repeat(5000)] {
        let path = format!("{POOLS}/{path}");
        let answer = platform.control.put(&path, &json!({"size": 1})).await;
        assert!(
            matches!(answer.status, 307 | 404),
            "{path}: {}",
            answer.status
        );
    }
    let none = platform.control.get(POOLS).await.expect(200).json();
    assert_eq!(none["result"]["count"], 0);
    platform.finish().await;
}

#[tokio::test]
async fn a_pool_that_the_machine_has_no_room_for_says_so() {
    let site = Site::new();
    let options = StartOptions::default().config("pools", "memory_mib", "300");
    let platform = site.start_with(&options).await;
    created(&platform, &[pool("large", json!({"size": 3}))]).await;
    let shown = becomes(&platform, "large", "has what fits", |pool| {
        pool["ready_count"] == 2
    })
    .await;
    assert_eq!(shown["status"], 1);
    let msg = shown["msg"].as_str().unwrap();
    assert!(
        msg.contains("2 of 3 workers are ready") && msg.contains("pools.memory_mib"),
        "{msg}"
    );
    platform.finish().await;
}

fn nobody_makes_them() -> StartOptions {
    StartOptions::default().config("pools", "backend", "none")
}
