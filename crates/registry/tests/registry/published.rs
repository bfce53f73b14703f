//! The published values, key by key (contract 7.1–7.2).

use bugle_types::Code;
use serde_json::{Value, json};

use super::{Desk, NAME, REVISION, refusal, with};

const TIME: &str = "2026-03-01 09:33:28.978 UTC";

/// A function with a value in every field that is published.
fn everything() -> Value {
    json!({
        "description": "d", "handler": "h.main", "tags": {"t": "u"}, "idleTime": 7, "isFuncPublic": true,
        "autoScaleConfig": {"slaQuota": 5}, "storageType": "copy", "codePath": "/opt/code",
        "customResources": {"ssd": 1.5}, "minInstance": "1", "maxInstance": "10",
        "concurrentNum": "2", "poolId": "pool1",
        "resourceAffinitySelectors": [{"group": "rg1", "priority": 1}, {"group": "rg2"}],
        "schedulePolicy": "concurrency", "scalePolicy": "p", "timeout": 600,
        "extendedHandler": {"initializer": "h.init", "pre_stop": "h.stop"},
        "extendedTimeout": {"initializer": 600, "pre_stop": 10}, "warmup": "w",
        "enableMetrics": true, "enableAgentSession": true, "enableSessionCtx": true,
        "priorityAz": "az1", "sandboxType": "docker", "cacheInstance": 3, "device": {"model": "m"},
        "extendedMetaData": {"custom_container_config": {"image": "i", "uid": 3},
            "custom_health_check": {"timeoutSeconds": 4}},
        "codeUploadType": "u",
    })
}

fn key(root: &str, version: &str) -> String {
    format!("/{root}/functions/business/yrk/tenant/default/function/{NAME}/version/{version}")
}

fn rootfs() -> Value {
    json!({"runtime": "", "type": "", "imageurl": "", "user": "", "ports": null, "path": "",
        "readonly": false, "storageInfo": {"endpoint": "", "bucket": "", "object": "",
        "accessKey": "", "secretKey": ""}, "mountpoint": "", "mounts": null})
}

fn code(storage: &str, path: &str) -> Value {
    json!({"codeUploadType": "u", "sha512": "", "storage_type": storage, "code_path": path,
        "appId": "", "bucketId": "", "objectId": "", "bucketUrl": "", "code_type": "",
        "code_url": "", "code_filename": "", "func_code": {"file": "", "link": ""}})
}

fn container() -> Value {
    json!({"control_path": "", "image": "i", "command": null, "args": null, "working_dir": "",
        "uid": 3, "gid": 0})
}

fn health() -> Value {
    json!({"timeoutSeconds": 4, "periodSeconds": 0, "failureThreshold": 0})
}

fn instances() -> Value {
    json!({"maxInstance": 10, "minInstance": 1, "concurrentNum": 2, "instanceType": "",
        "idleMode": false, "poolLabel": "rg1,rg2", "poolId": "pool1", "diskLimit": 0,
        "schedulePolicy": "concurrency", "scalePolicy": "p"})
}

#[tokio::test]
async fn a_function_service_is_published_as_the_contract_shows() {
    let desk = Desk::new().await;
    desk.registered(everything()).await;
    let urn = format!("sn:cn:yrk:default:function:{NAME}");
    let meta = json!({"layers": [], "name": NAME, "description": "d", "functionUrn": urn,
            "reversedConcurrency": 0, "tenantId": "default", "tags": {"t": "u"},
            "functionUpdateTime": "", "functionVersionUrn": format!("{urn}:latest"),
            "revisionId": REVISION, "codeSize": 0, "codeSha512": "", "handler": "h.main",
            "runtime": "python3.11", "timeout": 600, "version": "latest",
            "versionDescription": "latest", "deadLetterConfig": "", "businessId": "yrk",
            "functionType": "", "func_id": "", "func_name": "f", "domain_id": "",
            "project_name": "", "service": "svc", "dependencies": "", "enable_cloud_debug": "",
            "isStatefulFunction": false, "isBridgeFunction": false, "isStreamEnable": false,
            "type": "", "created": TIME, "enable_auth_in_header": false, "dns_domain_cfg": null,
            "vpcTriggerImage": "", "idleTime": 7,
            "autoScaleConfig": {"slaQuota": 5, "scaleDownTime": -1, "burstScaleNum": -1},
            "isFuncPublic": true});
    let extended = json!({"image_name": "", "role": {"xrole": "", "app_xrole": ""},
            "func_vpc": null, "endpoint_tenant_vpc": null, "mount_config": null,
            "strategy_config": {"concurrency": 0}, "extend_config": "",
            "initializer": {"initializer_handler": "h.init", "initializer_timeout": 600},
            "pre_stop": {"pre_stop_handler": "h.stop", "pre_stop_timeout": 10},
            "heartbeat": {"heartbeat_handler": ""}, "enterprise_project_id": "",
            "log_tank_service": {"logGroupId": "", "logStreamId": ""},
            "tracing_config": {"tracing_ak": "", "tracing_sk": "", "project_name": ""},
            "custom_container_config": container(), "custom_health_check": health(),
            "async_config_loaded": false, "restore_hook": {},
            "network_controller": {"disable_public_network": false, "trigger_access_vpcs": null},
            "user_agency": {"accessKey": "", "secretKey": "", "token": ""},
            "priority_az": "az1", "enable_metrics": true, "enable_agent_session": true,
            "enable_session_ctx": true});
    let expected = json!({
        "funcMetaData": meta,
        "codeMetaData": code("copy", "/opt/code"),
        "envMetaData": {"environment": "{}", "encrypted_user_data": "",
            "cryptoAlgorithm": "NO_CRYPTO"},
        "resourceMetaData": {"cpu": 500, "memory": 256, "gpu_memory": 0,
            "enable_dynamic_memory": false, "customResources": "{\"ssd\":1.5}",
            "enable_tmp_expansion": false, "ephemeral_storage": 0},
        "instanceMetaData": instances(),
        "extendedMetaData": extended,
        "rootfs": rootfs(), "sandboxType": "docker",
    });
    assert_eq!(desk.value(&key("sn", "latest")).await, expected);
    let bounds = format!(
        "/instances/business/yrk/cluster/cluster001/tenant/default/function/{NAME}/version/latest"
    );
    assert_eq!(
        desk.value(&bounds).await,
        json!({"instanceMetaData": instances()})
    );
    let status = format!("/repo/FunctionStatus/yrk/default//{NAME}/latest/");
    assert_eq!(
        desk.value(&status).await,
        json!({"Status": "unavailable", "InstanceNum": 0})
    );
    assert_eq!(
        desk.keys().await,
        [
            bounds.as_str(),
            &status,
            &format!("/repo/FunctionVersion/yrk/default//{NAME}/latest/"),
            &key("sn", "latest"),
        ],
        "and nothing else"
    );
}

#[tokio::test]
async fn other_kinds_are_published_as_the_contract_shows() {
    for (kind, root, hook) in [("yrlib", "yr", "yrlib_handler.init"), ("agent", "sn", "")] {
        let desk = Desk::new().await;
        desk.registered(with(everything(), json!({"kind": kind})))
            .await;
        let urn = format!("sn:cn:yrk:default:function:{NAME}");
        let value = desk.value(&key(root, "$latest")).await;
        let hooks = &value["funcMetaData"]["hookHandler"];
        assert_eq!(hooks["init"].as_str().unwrap_or_default(), hook);
        let meta = json!({"layers": [], "name": NAME, "description": "d", "functionUrn": urn,
            "reversedConcurrency": 0, "tags": {"t": "u"}, "functionUpdateTime": "",
            "functionVersionUrn": format!("{urn}:$latest"), "codeSize": 0, "codeSha256": "",
            "codeSha512": "", "handler": "h.main", "runtime": "python3.11", "timeout": 600,
            "version": "$latest", "versionDescription": "$latest", "deadLetterConfig": "",
            "latestVersionUpdateTime": "", "publishTime": TIME, "businessId": "yrk",
            "tenantId": "default", "domain_id": "", "project_name": "", "revisionId": REVISION,
            "created": TIME, "statefulFlag": false, "hookHandler": hooks, "idleTime": 7,
            "isFuncPublic": true, "kind": kind});
        assert_eq!(value["funcMetaData"], meta);
        assert_eq!(value["codeMetaData"], code("copy", "/opt/code"));
        let resources = json!({"cpu": 500, "memory": 256, "customResources": "{\"ssd\":1.5}"});
        assert_eq!(value["resourceMetaData"], resources);
        assert_eq!(value["instanceMetaData"], json!(null));
        let extended = json!({"image_name": "", "role": {"xrole": "", "app_xrole": ""},
            "mount_config": null, "strategy_config": {"concurrency": 0}, "extend_config": "",
            "initializer": {"initializer_handler": "", "initializer_timeout": 0},
            "pre_stop": {"pre_stop_handler": "", "pre_stop_timeout": 0},
            "enterprise_project_id": "", "log_tank_service": {"logGroupId": "", "logStreamId": ""},
            "tracing_config": {"tracing_ak": "", "tracing_sk": "", "project_name": ""},
            "user_type": "", "instance_meta_data": {"maxInstance": 10, "minInstance": 1,
            "concurrentNum": 2, "cacheInstance": 3, "poolLabel": "", "poolId": ""},
            "extended_handler": {"initializer": "h.init", "pre_stop": "h.stop"},
            "extended_timeout": {"initializer": 600, "pre_stop": 10}, "device": {"model": "m"},
            "custom_container_config": container(), "custom_health_check": health(),
            "priority_az": "az1", "enable_metrics": true, "enable_agent_session": true,
            "enable_session_ctx": true});
        assert_eq!(value["extendedMetaData"], extended);
        assert_eq!(
            (&value["warmup"], &value["rootfs"]),
            (&json!("w"), &rootfs())
        );
        assert_eq!(value["sandboxType"], "docker");
    }
}

#[tokio::test]
async fn switches_and_hooks_are_published_only_when_they_are_set() {
    let desk = Desk::new().await;
    let times = json!({"initializer": 9, "pre_stop": 9});
    desk.registered(json!({"extendedTimeout": times})).await;
    let value = desk.value(&key("sn", "latest")).await;
    let extended = &value["extendedMetaData"];
    for absent in [
        "priority_az",
        "enable_metrics",
        "enable_agent_session",
        "enable_session_ctx",
    ] {
        assert_eq!(extended.get(absent), None, "{absent}");
    }
    let unset = json!({"initializer_handler": "", "initializer_timeout": 0});
    assert_eq!(
        extended["initializer"], unset,
        "a time without a handler is dropped"
    );
    desk.updated(json!({"extendedHandler": {"initializer": "i", "pre_stop": "p"}, "extendedTimeout": {"x": 1}}))
        .await
        .unwrap();
    let value = desk.value(&key("sn", "latest")).await;
    let extended = &value["extendedMetaData"];
    assert_eq!(
        extended["initializer"]["initializer_timeout"], 30,
        "by default"
    );
    assert_eq!(extended["pre_stop"]["pre_stop_timeout"], 0, "by default");
}

#[tokio::test]
async fn the_place_of_code_is_published_for_its_storage() {
    let s3 =
        json!({"bucketId": "b", "objectId": "o", "bucketUrl": "u", "sha512": "s", "token": "t"});
    for (storage, path, bucket) in [
        ("local", "/c", ""),
        ("copy", "/c", ""),
        ("working_dir", "/c", ""),
        ("s3", "", "b"),
    ] {
        let desk = Desk::new().await;
        let fields = json!({"storageType": storage, "codePath": "/c", "s3CodePath": s3});
        desk.registered(fields).await;
        let value = desk.value(&key("sn", "latest")).await;
        let code = &value["codeMetaData"];
        assert_eq!(
            (&code["code_path"], &code["bucketId"]),
            (&json!(path), &json!(bucket))
        );
        assert_eq!(code["sha512"], "s");
        assert!(
            !value.to_string().contains("\"t\""),
            "the token is never published"
        );
    }
}

#[tokio::test]
async fn an_update_and_a_version_are_published_too() {
    let desk = Desk::new().await;
    desk.registered(json!({"handler": "h.one"})).await;
    desk.published(["v1"]).await;
    desk.updated(json!({"handler": "h.two"})).await.unwrap();
    for (version, handler) in [("v1", "h.one"), ("latest", "h.two")] {
        let meta = &desk.value(&key("sn", version)).await["funcMetaData"];
        assert_eq!(
            (&meta["version"], &meta["handler"]),
            (&json!(version), &json!(handler))
        );
    }
    let record = format!("/repo/FunctionVersion/yrk/default//{NAME}/latest/");
    assert_eq!(
        desk.value(&record).await["Function"]["Version"],
        "v1",
        "the last label"
    );
}

#[tokio::test]
async fn a_record_of_a_newer_program_is_left_alone() {
    let desk = Desk::new().await;
    desk.registered(json!({})).await;
    let key = format!("/repo/FunctionVersion/yrk/default//{NAME}/latest/");
    for (field, value, words) in [
        ("BugleFormat", json!(2), "use a newer bugle"),
        ("BugleFormat", json!("x"), "failed to unmarshal"),
    ] {
        let mut record = desk.value(&key).await;
        record[field] = value;
        let then = vec![bugle_store::Op::Put(
            key.clone().into(),
            record.to_string().into(),
        )];
        desk.store
            .txn(bugle_store::Txn {
                when: Vec::new(),
                then,
            })
            .await
            .unwrap();
        let (code, message) = refusal(desk.get(NAME, "").await);
        assert_eq!(code, Code::UnmarshalFailed);
        assert!(message.contains(words), "{message}");
    }
}
