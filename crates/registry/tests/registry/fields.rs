//! Every field of a request: its default, its range, and the message outside of it (contract 3.1).

use serde_json::{Value, json};

use super::{Desk, small, update_from, with};

/// What is wrong with a body that differs from a good one by `fields`.
async fn refusal(fields: Value) -> (u32, String) {
    let desk = Desk::new().await;
    let body = with(small("0@svc@f"), fields);
    let error = desk.register(body).await.unwrap_err();
    assert!(desk.keys().await.is_empty(), "nothing is written");
    (error.code.number(), said(&error))
}

/// The message without the advice that ends it.
fn said(error: &bugle_api::Error) -> String {
    let advised = error.message.strip_suffix(". check input parameters");
    advised.unwrap_or(&error.message).to_owned()
}

#[tokio::test]
async fn each_rule_of_a_field_has_its_code_and_message() {
    let (long, wordy) = ("x".repeat(65), "ß".repeat(1025));
    let pool = "pool id can contain only lowercase letters;digits and - it cannot start or end with \
                - and cannot exceed 40 characters or less than 1 characters";
    for (fields, message) in [
        (json!({"name": null}), "name: non zero value required"),
        (json!({"name": ""}), "name: non zero value required"),
        (json!({"runtime": null}), "runtime: non zero value required"),
        (json!({"runtime": "cobol"}), "runtime cobol is not valid"),
        (json!({"cpu": null}), "CPU not in range [300, 16000]"),
        (json!({"cpu": 299}), "CPU not in range [300, 16000]"),
        (json!({"cpu": 16001}), "CPU not in range [300, 16000]"),
        (
            json!({"memory": null}),
            "memory not in range [128, 1073741824]",
        ),
        (
            json!({"memory": 127}),
            "memory not in range [128, 1073741824]",
        ),
        (
            json!({"memory": 1_073_741_825_i64}),
            "memory not in range [128, 1073741824]",
        ),
        (
            json!({"handler": long}),
            &format!("FunctionBasicInfo.handler: {long} does not validate as maxstringlength(64)"),
        ),
        (
            json!({"description": wordy}),
            &format!(
                "FunctionBasicInfo.description: {wordy} does not validate as maxstringlength(1024)"
            ),
        ),
        (json!({"poolId": "-a"}), pool),
        (json!({"poolId": "Pool"}), pool),
        (json!({"poolId": "p".repeat(41)}), pool),
        (
            json!({"kind": "lambda"}),
            "kind lambda is not valid, must be faas, yrlib, agent, custom or posix-runtime-custom",
        ),
        (
            json!({"minInstance": "2", "maxInstance": "1"}),
            "the value of minInstance 2 must be smaller than that of maxInstance 1",
        ),
        (
            json!({"minInstance": "-1"}),
            "the value of minInstance -1 should be bigger than 0",
        ),
        (
            json!({"maxInstance": "1001"}),
            "the value of maxInstance 1001  must be smaller than that of workerInstanceMax 1000",
        ),
        (
            json!({"concurrentNum": "1001"}),
            "the value of concurrentNum 1001  must be smaller than that of workerConcurrentNumMax 1000",
        ),
        (
            json!({"concurrentNum": "0"}),
            "the value of concurrentNum 0 should be bigger than 1 ",
        ),
        (
            json!({"minInstance": " 1"}),
            "minInstance must be an integer",
        ),
        (
            json!({"maxInstance": "x"}),
            "maxInstance must be an integer",
        ),
        (
            json!({"concurrentNum": "1.5"}),
            "concurrentNum must be an integer",
        ),
        (
            json!({"storageType": "ftp"}),
            "storageType ftp is not valid, must be local, copy, s3 or working_dir",
        ),
        (
            json!({"layers": ["a", "b"]}),
            "the number of function reference layers cannot exceed 1",
        ),
    ] {
        assert_eq!(
            refusal(fields.clone()).await,
            (4104, message.to_owned()),
            "{fields}"
        );
    }
}

#[tokio::test]
async fn all_broken_fields_are_named_at_once() {
    let fields = json!({"name": null, "runtime": null, "poolId": "-"});
    let (code, message) = refusal(fields).await;
    assert_eq!(code, 4104);
    assert_eq!(
        message.split(';').next(),
        Some("name: non zero value required")
    );
    assert!(
        message.contains("runtime: non zero value required"),
        "{message}"
    );
    assert!(message.contains("pool id can contain only"), "{message}");
}

#[tokio::test]
async fn names_follow_their_grammar() {
    let desk = Desk::new().await;
    let longest = format!("0@{}@{}", "S".repeat(16), "f".repeat(128));
    for name in [
        "0@svc@f",
        "0-svc-f",
        "0@Svc9@a-b",
        "plain",
        "0@svc@9.F",
        longest.as_str(),
    ] {
        let registered = desk.register(small(name)).await;
        assert!(registered.is_ok(), "{name}: {registered:?}");
    }
    for name in [
        "0@svc",
        "0@@f",
        "1@svc@f",
        "0@svc@f-",
        "0@s_c@f",
        "0@svc@f/../g",
        "reserve-instance",
        &format!("0@{}@f", "s".repeat(17)),
        &format!("0@s@{}", "f".repeat(129)),
    ] {
        let error = desk.register(small(name)).await.unwrap_err();
        assert_eq!(error.code.number(), 4104, "{name}");
        assert!(
            error
                .message
                .starts_with("format is 0@{serviceName}@{funcName}"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_timeout_is_clamped_by_both_register_and_update() {
    for (sent, kept) in [
        (json!(null), 900),
        (json!(0), 900),
        (json!(-1), 900),
        (json!(8_640_000), 8_640_000),
        (json!(8_640_001), 8_640_000),
    ] {
        let desk = Desk::new().await;
        let body = with(small("0@svc@f"), json!({"timeout": sent}));
        let function = desk.register(body).await.unwrap();
        assert_eq!(function.timeout, kept, "{sent}");
        let body = update_from(&function, json!({"timeout": sent}));
        let function = desk.update("0@svc@f", body).await.unwrap();
        assert_eq!(function.timeout, kept, "{sent}");
    }
}

#[tokio::test]
async fn a_pool_or_device_of_its_own_lifts_the_range_of_resources() {
    let desk = Desk::new().await;
    let body = json!({"cpu": 1, "memory": 1, "poolType": "custom"});
    assert!(desk.register(with(small("0@svc@a"), body)).await.is_ok());
    let body = json!({"cpu": 1, "memory": -1, "poolType": "custom"});
    let error = desk
        .register(with(small("0@svc@b"), body))
        .await
        .unwrap_err();
    assert_eq!(said(&error), "CPU and memory cannot be negative");
}

#[tokio::test]
async fn amounts_that_cannot_be_counted_are_refused_where_the_range_is_lifted() {
    let desk = Desk::new().await;
    for (fields, range) in [
        (
            json!({"cpu": 4_294_967_296_u64, "poolType": "custom"}),
            "CPU not in range [0, 4294967295]",
        ),
        (
            json!({"memory": i64::MAX, "device": {"model": "m"}}),
            "memory not in range [0, 4294967295]",
        ),
        (
            json!({"customResources": {"NPU/x/count": 1e13}}),
            "customResources: NPU/x/count not in range [0, 1000000000000]",
        ),
    ] {
        let body = with(small("0@svc@a"), fields);
        let error = desk.register(body).await.unwrap_err();
        assert_eq!(said(&error), range);
    }
    let most = json!({"cpu": u32::MAX, "memory": u32::MAX, "poolType": "custom"});
    assert!(desk.register(with(small("0@svc@a"), most)).await.is_ok());
}

#[tokio::test]
async fn the_time_of_pre_stop_has_its_range() {
    let hook = |seconds: i64| json!({"extendedHandler": {"pre_stop": "h.stop"}, "extendedTimeout": {"pre_stop": seconds}});
    let desk = Desk::new().await;
    assert!(
        desk.register(with(small("0@svc@a"), hook(180)))
            .await
            .is_ok()
    );
    for seconds in [-1, 181] {
        let error = desk
            .register(with(small("0@svc@b"), hook(seconds)))
            .await
            .unwrap_err();
        assert_eq!(error.code.number(), 4104);
        assert_eq!(said(&error), "preStop timeOut must between 0 and 180");
    }
}

#[tokio::test]
async fn root_file_systems_follow_their_rules() {
    let local = "when rootfs type is 'local', path must be set";
    for (rootfs, message) in [
        (
            json!({"path": "/r"}),
            "when rootfs path is set, type must be 'local'",
        ),
        (json!({"type": "local"}), local),
        (
            json!({"imageurl": "i"}),
            "when rootfs imageurl is set, type must be 'image'",
        ),
        (
            json!({"type": "image"}),
            "when rootfs type is 'image', imageurl must be set",
        ),
        (
            json!({"type": "s3"}),
            "when rootfs type is 's3', storageInfo.endpoint must be set",
        ),
        (
            json!({"type": "s3", "storageInfo": {"endpoint": "e"}}),
            "when rootfs type is 's3', storageInfo.bucket must be set",
        ),
        (
            json!({"type": "s3", "storageInfo": {"endpoint": "e", "bucket": "b"}}),
            "when rootfs type is 's3', storageInfo.object must be set",
        ),
        (
            json!({"storageInfo": {"bucket": "b"}}),
            "storageInfo can only be set when rootfs type is 's3'",
        ),
        (
            json!({"type": "zip"}),
            "invalid rootfs type: zip, must be 'local', 'image', or 's3'",
        ),
    ] {
        let fields = json!({"rootfs": rootfs});
        assert_eq!(
            refusal(fields).await,
            (4104, message.to_owned()),
            "{rootfs}"
        );
    }
}
