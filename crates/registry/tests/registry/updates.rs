//! F2: what an update keeps, what it resets, and when it is refused (contract 3.2).

use bugle_api::FunctionsApi as _;
use bugle_types::Code;
use serde_json::{Value, json};

use super::{Desk, NAME, invalid, not_found, refusal, request, with};

/// A function with everything set.
fn full() -> Value {
    json!({
        "description": "d", "handler": "h.main", "customResources": {"x": 1},
        "environment": {"K": "v"}, "extendedHandler": {"initializer": "i"},
        "extendedTimeout": {"initializer": 7}, "minInstance": "1", "maxInstance": "2",
        "concurrentNum": "3", "storageType": "s3", "codePath": "/c", "tags": {"t": "u"},
        "s3CodePath": {"bucketId": "b", "objectId": "o", "sha512": "s", "bucketUrl": "u", "token": "t"},
        "poolId": "pool1", "resourceAffinitySelectors": [{"group": "g1"}, {"group": "g2"}],
        "enableAgentSession": true, "enableSessionCtx": true, "enableMetrics": true,
        "isFuncPublic": true, "cacheInstance": 4, "idleTime": 5, "priorityAz": "az",
        "warmup": "w", "schedulePolicy": "concurrency", "scalePolicy": "sp",
        "codeUploadType": "c", "autoScaleConfig": {"slaQuota": 1, "scaleDownTime": 2, "burstScaleNum": 3},
        "rootfs": {"type": "local", "path": "/r"}, "device": {"model": "m"}, "sandboxType": "docker",
        "extendedMetaData": {
            "custom_container_config": {"image": "i"}, "custom_health_check": {"timeoutSeconds": 1},
        },
    })
}

async fn record(desk: &Desk) -> Value {
    let key = format!("/repo/FunctionVersion/yrk/default//{NAME}/latest/");
    desk.value(&key).await
}

#[tokio::test]
async fn what_is_left_out_is_kept_or_reset_as_the_table_says() {
    let desk = Desk::new().await;
    let before = desk.registered(full()).await;
    let old = record(&desk).await;
    desk.clock.step(1000);
    let after = desk.updated(json!({"timeout": 5})).await.unwrap();
    let new = record(&desk).await;
    for kept in [
        "Handler",
        "CustomResources",
        "Environment",
        "ExtendedHandler",
        "ExtendedTimeout",
        "Kind",
        "Runtime",
        "SandboxType",
        "PublishTime",
        "Version",
        "HookHandler",
    ] {
        let field = |record: &Value| record["FunctionVersion"][kept].clone();
        assert_eq!(field(&new), field(&old), "{kept} is kept");
        assert_ne!(field(&new), json!(null), "{kept} is a field");
    }
    for kept in ["Name", "Description", "Tag", "CreateTime"] {
        assert_eq!(
            new["Function"][kept], old["Function"][kept],
            "{kept} is kept"
        );
    }
    // What is not set is left out.
    for (reset, value) in [
        ("MinInstance", json!(null)),
        ("MaxInstance", json!(100)),
        ("ConcurrentNum", json!(100)),
        ("PoolID", json!(null)),
        ("PoolLabel", json!(null)),
        ("EnableAgentSession", json!(null)),
        ("EnableSessionCtx", json!(null)),
        ("EnableMetrics", json!(null)),
        ("IsFuncPublic", json!(null)),
        ("CacheInstance", json!(null)),
        ("IdleTime", json!(null)),
        ("PriorityAZ", json!(null)),
        ("WarmupType", json!(null)),
        ("SchedulePolicy", json!(null)),
        ("ScalePolicy", json!(null)),
        (
            "AutoScaleConfig",
            json!({"slaQuota": -1, "scaleDownTime": -1, "burstScaleNum": -1}),
        ),
        ("Device", json!(null)),
    ] {
        assert_ne!(old["FunctionVersion"][reset], value, "{reset} was set");
        assert_eq!(new["FunctionVersion"][reset], value, "{reset} is reset");
    }
    for part in [
        "Package",
        "RootfsSpecMeta",
        "CustomContainerConfig",
        "CustomHealthCheck",
    ] {
        let text = new["FunctionVersion"][part].to_string();
        for left in ["\"b\"", "\"o\"", "\"/r\"", "\"i\"", ":1"] {
            assert!(!text.contains(left), "{part} is reset: {text}");
        }
    }
    assert_eq!(after.update_time, "2026-03-01 09:33:29.978 UTC");
    assert_eq!(after.last_modified, after.update_time);
    assert_eq!(after.created, before.created);
    assert_ne!(after.revision_id, before.revision_id);
    assert_eq!(after.id, before.id);
}

#[tokio::test]
async fn only_maps_can_be_emptied_and_only_those_of_variables_and_handlers() {
    let desk = Desk::new().await;
    desk.registered(full()).await;
    desk.updated(json!({
        "description": "", "handler": "", "environment": {}, "extendedHandler": {},
        "customResources": {}, "extendedTimeout": {},
    }))
    .await
    .unwrap();
    let shown = desk.get(NAME, "").await.unwrap();
    assert_eq!(
        (shown.description.as_str(), shown.handler.as_str()),
        ("d", "h.main")
    );
    assert_eq!(shown.environment.len(), 0);
    let record = record(&desk).await;
    assert_eq!(record["FunctionVersion"]["ExtendedHandler"], json!(null));
    assert_eq!(
        record["FunctionVersion"]["ExtendedTimeout"],
        json!({"initializer": 7})
    );
    assert_eq!(
        record["FunctionVersion"]["CustomResources"],
        json!({"x": 1})
    );
}

#[tokio::test]
async fn what_is_sent_replaces_what_was_there() {
    let desk = Desk::new().await;
    desk.registered(full()).await;
    let changed = desk
        .updated(json!({
            "description": "d2", "handler": "h2.main", "environment": {"L": "w"}, "cpu": 700,
            "memory": 256, "customResources": {"y": 2}, "storageType": "copy", "codePath": "/c2",
            "minInstance": "2", "maxInstance": "9", "concurrentNum": "4",
        }))
        .await
        .unwrap();
    let shown = serde_json::to_value(&changed).unwrap();
    for (field, value) in [
        ("description", json!("d2")),
        ("handler", json!("h2.main")),
        ("environment", json!({"L": "w"})),
        ("cpu", json!(700)),
        ("memory", json!(256)),
        ("customResources", json!({"y": 2})),
        ("storageType", json!("copy")),
        ("codePath", json!("/c2")),
        ("minInstance", json!(2)),
        ("maxInstance", json!(9)),
        ("concurrentNum", json!(4)),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    let queried = desk.get(NAME, "").await.unwrap();
    assert_eq!(queried.revision_id, changed.revision_id);
}

#[tokio::test]
async fn name_runtime_tags_and_kind_cannot_be_changed() {
    let desk = Desk::new().await;
    desk.registered(json!({"tags": {"a": "b"}})).await;
    let fields =
        json!({"name": "other", "runtime": "cobol", "tags": {"c": "d"}, "sandboxType": "x"});
    let after = desk.updated(fields).await.unwrap();
    assert_eq!(
        (after.name.as_str(), after.runtime.as_str()),
        (NAME, "python3.11")
    );
    assert_eq!(after.tag.unwrap()["a"], "b");
    assert_eq!(
        (after.kind.as_str(), after.sandbox_type.as_str()),
        ("faas", "")
    );
    for kind in [json!("yrlib"), json!(null)] {
        let refused = desk.updated(json!({"kind": kind})).await;
        assert_eq!(refusal(refused), not_found(NAME), "no draft of that kind");
    }
}

#[tokio::test]
async fn rules_come_in_the_contracts_order() {
    let desk = Desk::new().await;
    let update = async |segment: &str, fields: Value| {
        let body = with(json!({"kind": "faas", "cpu": 600, "memory": 512}), fields);
        refusal(
            desk.registry
                .update(&desk.caller, segment, request(body))
                .await,
        )
    };
    let wrong_cpu = invalid("CPU not in range [300, 16000]");
    assert_eq!(
        update("a_b", json!({"cpu": 0})).await,
        wrong_cpu,
        "fields before the name"
    );
    assert_eq!(update("a_b", json!({})).await, invalid("invalid URN: a_b"));
    let foreign = "sn:cn:yrk:other:function:f";
    let message = format!("invalid URN: {foreign}");
    assert_eq!(
        update(foreign, json!({})).await,
        (Code::InvalidQueryURN, message)
    );
    assert_eq!(
        update("0-svc-fn", json!({})).await,
        not_found("fn"),
        "before the revision"
    );
    assert_eq!(update(NAME, json!({})).await, not_found(NAME));
    desk.registered(json!({})).await;
    let bad_rootfs = json!({"rootfs": {"type": "nfs"}});
    let (code, _) = update(NAME, bad_rootfs.clone()).await;
    assert_eq!(
        code,
        Code::RevisionIDError,
        "the revision before the root file system"
    );
    let (code, message) = refusal(desk.updated(bad_rootfs).await);
    assert_eq!(code, Code::InvalidUserParam);
    assert!(message.starts_with("invalid rootfs type: nfs"), "{message}");
}

#[tokio::test]
async fn a_function_can_be_updated_by_its_urn() {
    let desk = Desk::new().await;
    let function = desk.registered(json!({})).await;
    for segment in [function.function_urn, function.function_version_urn] {
        let revision = desk.get(NAME, "").await.unwrap().revision_id;
        let body = json!({"kind": "faas", "cpu": 600, "memory": 512, "revisionId": revision});
        let updated = desk
            .registry
            .update(&desk.caller, &segment, request(body))
            .await;
        assert_eq!(updated.unwrap().name, NAME);
    }
}

#[tokio::test]
async fn hooks_are_made_for_the_stored_kind() {
    let desk = Desk::new().await;
    let fields = json!({"kind": "yrlib", "hookHandler": {"init": "a"}});
    desk.registered(fields).await;
    let fields = json!({"kind": null, "hookHandler": {"init": "b"}});
    desk.updated(fields).await.unwrap();
    let key = format!("/repo/FunctionVersion/yrk/default//{NAME}/$latest/");
    let hooks = &desk.value(&key).await["FunctionVersion"]["HookHandler"];
    assert_eq!(hooks["init"], "b");
    assert_eq!(hooks["call"], "yrlib_handler.call");
}
