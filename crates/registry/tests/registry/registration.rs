//! F1: what is refused with which words, what is filled in, what is clamped (contract 3.1).

use bugle_registry::Config;
use bugle_types::Code;
use serde_json::{Value, json};

use super::{Desk, NAME, REVISION, invalid, refusal, small_with};

#[tokio::test]
async fn of_the_rules_across_fields_the_first_failure_is_told() {
    let desk = Desk::new().await;
    let order = [
        (
            "layers",
            json!(["a", "b"]),
            "the number of function reference layers cannot exceed 1",
        ),
        ("cpu", json!(0), "CPU not in range [300, 16000]"),
        ("memory", json!(0), "memory not in range [128, 1073741824]"),
        ("runtime", json!("cobol"), "runtime cobol is not valid"),
        ("minInstance", json!("x"), "minInstance must be an integer"),
        ("maxInstance", json!("x"), "maxInstance must be an integer"),
        (
            "concurrentNum",
            json!("x"),
            "concurrentNum must be an integer",
        ),
    ];
    for first in 0..order.len() {
        let wrong = order[first..].iter();
        let fields = wrong.map(|(name, value, _)| ((*name).to_owned(), value.clone()));
        let refused = desk
            .register(small_with(Value::Object(fields.collect())))
            .await;
        assert_eq!(refusal(refused), invalid(order[first].2));
    }
}

#[tokio::test]
async fn a_described_root_file_system_runs_in_runsc() {
    for (at, (rootfs, runtime)) in [
        (json!({}), ""),
        (
            json!({"readonly": true, "user": "u", "ports": ["tcp:80"]}),
            "",
        ),
        (json!({"type": "local", "path": "/r"}), "runsc"),
        (
            json!({"type": "local", "path": "/r", "runtime": "kata"}),
            "kata",
        ),
        (json!({"mountpoint": "/m"}), "runsc"),
        (
            json!({"mounts": [{"source": "/a", "target": "/b"}]}),
            "runsc",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let desk = Desk::new().await;
        let stored = desk.registered(json!({"rootfs": rootfs})).await.rootfs;
        assert_eq!(stored.runtime, runtime, "case {at}");
    }
}

#[tokio::test]
async fn what_a_request_leaves_out_is_filled_in() {
    let desk = Desk::new().await;
    let body = json!({"name": NAME, "runtime": "python3.9", "cpu": 300, "memory": 128});
    let function = desk.register(body).await.unwrap();
    let time = "2026-03-01 09:33:28.978 UTC";
    let urn = format!("sn:cn:yrk:default:function:{NAME}");
    let mut expected = json!({
        "id": format!("{urn}:$latest"), "createTime": time, "updateTime": "", "functionUrn": urn,
        "name": NAME, "tenantId": "default", "businessId": "yrk", "productId": "",
        "reversedConcurrency": 0, "description": "", "tag": null,
        "functionVersionUrn": format!("{urn}:$latest"), "revisionId": REVISION, "storageType": "",
        "codeSize": 0, "codeSha256": "", "codePath": "", "bucketId": "", "objectId": "",
        "handler": "", "layers": null, "cpu": 300, "memory": 128, "runtime": "python3.9",
        "timeout": 900,
    });
    let rest = json!({
        "versionNumber": "$latest", "versionDesc": "$latest", "environment": {},
        "customResources": null, "statefulFlag": 0, "lastModified": time, "Published": time,
        "minInstance": 0, "maxInstance": 100, "concurrentNum": 100, "enableMetrics": false,
        "funcLayer": [], "status": "unavailable", "instanceNum": 0, "device": {}, "kind": "yrlib",
        "rootfs": {
            "runtime": "", "type": "", "imageurl": "", "user": "", "ports": null, "path": "",
            "readonly": false, "storageInfo": {
                "endpoint": "", "bucket": "", "object": "", "accessKey": "", "secretKey": "",
            }, "mountpoint": "", "mounts": null,
        },
        "sandboxType": "", "created": time,
    });
    expected
        .as_object_mut()
        .unwrap()
        .extend(rest.as_object().unwrap().clone());
    assert_eq!(serde_json::to_value(function).unwrap(), expected);
}

#[tokio::test]
async fn what_a_request_says_is_shown_again() {
    let desk = Desk::new().await;
    let shown = desk
        .registered(json!({
            "description": "d", "handler": "h.main", "tags": {"a": "b"}, "environment": {"K": "v"}, "minInstance": "+1",
            "maxInstance": "1000", "concurrentNum": "1000", "customResources": {"x": 1, "y": 1.5},
            "enableMetrics": true, "sandboxType": "docker", "priorityAz": "az1",
            "device": {"model": "m", "count": 2.0}, "timeout": 8_640_000, "storageType": "s3",
            "s3CodePath": {"bucketId": "b", "objectId": "o", "sha512": "abc", "token": "t"},
        }))
        .await;
    let shown = serde_json::to_value(shown).unwrap();
    for (field, value) in [
        ("description", json!("d")),
        ("tag", json!({"a": "b"})),
        ("environment", json!({"K": "v"})),
        ("minInstance", json!(1)),
        ("maxInstance", json!(1000)),
        ("concurrentNum", json!(1000)),
        ("customResources", json!({"x": 1, "y": 1.5})),
        ("enableMetrics", json!(true)),
        ("sandboxType", json!("docker")),
        ("priorityAz", json!("az1")),
        ("device", json!({"model": "m", "count": 2.0})),
        ("timeout", json!(8_640_000)),
        ("storageType", json!("s3")),
        ("bucketId", json!("b")),
        ("objectId", json!("o")),
        ("codeSha256", json!("abc")),
        ("handler", json!("h.main")),
        ("versionNumber", json!("latest")),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
}

#[tokio::test]
async fn the_ranges_include_their_ends_and_can_be_configured() {
    for fields in [
        json!({"cpu": 300, "memory": 128}),
        json!({"cpu": 16000, "memory": 1_073_741_824}),
        json!({"minInstance": "0", "maxInstance": "0"}),
        json!({"concurrentNum": "1"}),
        json!({"description": "ß".repeat(1024), "handler": "ß".repeat(64)}),
        json!({"poolId": "a".repeat(40)}),
        json!({"cpu": 1, "memory": 1, "poolType": "custom"}),
        json!({"cpu": 1, "memory": 1, "device": {"model": "m"}}),
        json!({"minInstance": "", "maxInstance": "", "concurrentNum": ""}),
        json!({"layers": []}),
    ] {
        Desk::new().await.registered(fields).await;
    }
    let config = Config {
        min_cpu: 1,
        max_instance_limit: 5,
        default_max_instance: 4,
        ..Config::default()
    };
    let desk = Desk::with(config).await;
    assert_eq!(desk.registered(json!({"cpu": 1})).await.max_instance, 4);
    let refused = desk.updated(json!({"maxInstance": "6"})).await;
    assert!(refusal(refused).1.contains("workerInstanceMax 5"));
}

#[tokio::test]
async fn a_path_without_a_storage_type_is_a_local_folder() {
    let desk = Desk::new().await;
    let function = desk.registered(json!({"codePath": "/opt/code"})).await;
    assert_eq!(function.storage_type, "local");
    assert_eq!(function.code_path, "/opt/code");
}

#[tokio::test]
async fn a_layer_that_is_not_there_is_missed() {
    let desk = Desk::new().await;
    let refused = desk
        .register(small_with(
            json!({"layers": ["sn:cn:yrk:default:layer:l:1"]}),
        ))
        .await;
    let expected = (Code::KVNotFound, "KV not exist in etcd".to_owned());
    assert_eq!(refusal(refused), expected);
}

#[tokio::test]
async fn metadata_that_no_transaction_holds_is_refused_as_a_parameter() {
    let desk = Desk::new().await;
    let huge = json!({"environment": {"K": "x".repeat(2 << 20)}});
    let (code, message) = refusal(desk.register(small_with(huge)).await);
    assert_eq!(code, Code::InvalidUserParam);
    assert!(
        message.contains("the metadata of the function holds"),
        "{message}"
    );
    assert_eq!(desk.keys().await, [""; 0]);
}

#[tokio::test]
async fn times_and_revisions_keep_their_zeros() {
    let desk = Desk::new().await;
    desk.clock.step(-978);
    let function = desk.registered(json!({})).await;
    assert_eq!(function.create_time, "2026-03-01 09:33:28.000 UTC");
    assert_eq!(function.revision_id, "20260301093328000");
    assert_eq!(
        (function.update_time.as_str(), &function.last_modified),
        ("", &function.created)
    );
    desk.clock.step(50);
    let updated = desk.updated(json!({})).await.unwrap();
    assert_eq!(updated.update_time, "2026-03-01 09:33:28.050 UTC");
    assert_eq!(updated.last_modified, updated.update_time);
    assert_eq!(
        updated.published, function.create_time,
        "of a draft: when it was registered"
    );
}
