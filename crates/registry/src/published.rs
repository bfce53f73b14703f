//! What watchers see of a function: the published values (contract 7.2.2–7.2.4).
//!
//! An openYuanrong cluster can read them, with one exception: the variables are encrypted, and the
//! algorithm says so, unless the operator wants them in clear (`registry.publish_environment`).

use std::collections::BTreeMap;

use bugle_api::Caller;
use bugle_types::{FunctionName, Kind, SealedEnvironment};
use serde_json::{Map, Value, json};

use crate::record::{Record, VersionPart};

/// The name of the algorithm of encrypted variables.
pub(crate) const ALGORITHM: &str = "BUGLE_AES256_GCM";

/// What is before the names of variables under `/yr/functions`, where they are clear.
pub(crate) const VARIABLE_PREFIX: &str = "func-";

/// The initializer's time limit when none is given, in seconds.
const INITIALIZER_TIMEOUT: i64 = 30;

/// The published value of a function version.
pub(crate) fn value(caller: &Caller, name: &FunctionName, record: &Record) -> Vec<u8> {
    let value = match record.kind() {
        Kind::Faas => faas(caller, name, record),
        kind => other(caller, name, record, kind),
    };
    serde_json::to_vec(&value).expect("published values are made of JSON values")
}

fn faas(caller: &Caller, name: &FunctionName, record: &Record) -> Value {
    let version = &record.function_version;
    let function = &record.function;
    let urn = caller.urn(name.clone()).to_string();
    json!({
        "funcMetaData": {
            "layers": [], "name": function.name, "description": function.description,
            "functionUrn": urn, "reversedConcurrency": 0, "tenantId": caller.tenant,
            "tags": function.tag, "functionUpdateTime": function.update_time,
            "functionVersionUrn": format!("{urn}:{}", version.version),
            "revisionId": version.revision_id, "codeSize": 0,
            "codeSha512": version.package.signature, "handler": version.handler,
            "runtime": version.runtime, "timeout": version.timeout, "version": version.version,
            "versionDescription": version.description, "deadLetterConfig": "",
            "businessId": bugle_types::BUSINESS, "functionType": "", "func_id": "",
            "func_name": name.short(), "domain_id": "", "project_name": "",
            "service": name.service(), "dependencies": "", "enable_cloud_debug": "",
            "isStatefulFunction": false, "isBridgeFunction": false, "isStreamEnable": false,
            "type": "", "created": function.create_time, "enable_auth_in_header": false,
            "dns_domain_cfg": null, "vpcTriggerImage": "", "idleTime": version.idle_time,
            "autoScaleConfig": version.auto_scale_config, "isFuncPublic": version.is_func_public,
        },
        "codeMetaData": code(version),
        "envMetaData": environment(version),
        "resourceMetaData": {
            "cpu": version.cpu, "memory": version.memory, "gpu_memory": 0,
            "enable_dynamic_memory": false, "customResources": custom_resources(version),
            "enable_tmp_expansion": false, "ephemeral_storage": 0,
        },
        "instanceMetaData": instance_meta_data(version),
        "extendedMetaData": extended_faas(version),
        "rootfs": version.rootfs_spec_meta,
        "sandboxType": version.sandbox_type,
    })
}

fn extended_faas(version: &VersionPart) -> Value {
    let (initializer, initializer_timeout) = hook(version, "initializer", INITIALIZER_TIMEOUT);
    let (pre_stop, pre_stop_timeout) = hook(version, "pre_stop", 0);
    let mut extended = json!({
        "image_name": "", "role": {"xrole": "", "app_xrole": ""}, "func_vpc": null,
        "endpoint_tenant_vpc": null, "mount_config": null,
        "strategy_config": {"concurrency": 0}, "extend_config": "",
        "initializer": {
            "initializer_handler": initializer, "initializer_timeout": initializer_timeout,
        },
        "pre_stop": {"pre_stop_handler": pre_stop, "pre_stop_timeout": pre_stop_timeout},
        "heartbeat": {"heartbeat_handler": ""}, "enterprise_project_id": "",
        "log_tank_service": {"logGroupId": "", "logStreamId": ""},
        "tracing_config": {"tracing_ak": "", "tracing_sk": "", "project_name": ""},
        "custom_container_config": version.custom_container_config,
        "custom_health_check": version.custom_health_check, "async_config_loaded": false,
        "restore_hook": {},
        "network_controller": {"disable_public_network": false, "trigger_access_vpcs": null},
        "user_agency": {"accessKey": "", "secretKey": "", "token": ""},
    });
    if let Value::Object(extended) = &mut extended {
        when_set(extended, version);
    }
    extended
}

/// A handler that runs outside of calls, and its time limit in seconds.
fn hook<'a>(version: &'a VersionPart, key: &str, default: i64) -> (&'a str, i64) {
    let Some(handler) = version.extended_handler.get(key) else {
        return ("", 0);
    };
    let timeout = version.extended_timeout.get(key).copied();
    (handler, timeout.unwrap_or(default))
}

/// What is published of an image beside the original's settings, in the original's places where it
/// has one.
fn container(extended: &mut Map<String, Value>, version: &VersionPart) {
    let Some(container) = &version.container else {
        return;
    };
    let (initializer, timeout) = hook(version, "initializer", INITIALIZER_TIMEOUT);
    let (pre_stop, pre_stop_timeout) = hook(version, "pre_stop", 0);
    for (name, value) in [
        ("image_digest", json!(container.image_digest)),
        (
            "initializer",
            json!({"initializer_handler": initializer, "initializer_timeout": timeout}),
        ),
        (
            "pre_stop",
            json!({"pre_stop_handler": pre_stop, "pre_stop_timeout": pre_stop_timeout}),
        ),
        (
            "runtime_graceful_shutdown",
            json!(container.runtime_graceful_shutdown),
        ),
        (
            "network_controller",
            json!({
                "disable_public_network": container.network_controller.disable_public_network,
                "trigger_access_vpcs": null,
            }),
        ),
        ("mount_config", json!(container.mount_config)),
        ("ephemeral_storage", json!(container.ephemeral_storage)),
    ] {
        extended.insert(name.to_owned(), value);
    }
}

fn other(caller: &Caller, name: &FunctionName, record: &Record, kind: Kind) -> Value {
    let version = &record.function_version;
    let function = &record.function;
    let urn = caller.urn(name.clone()).to_string();
    let mut extended = json!({
        "image_name": "", "role": {"xrole": "", "app_xrole": ""}, "mount_config": null,
        "strategy_config": {"concurrency": 0}, "extend_config": "",
        "initializer": {"initializer_handler": "", "initializer_timeout": 0},
        "pre_stop": {"pre_stop_handler": "", "pre_stop_timeout": 0},
        "enterprise_project_id": "",
        "log_tank_service": {"logGroupId": "", "logStreamId": ""},
        "tracing_config": {"tracing_ak": "", "tracing_sk": "", "project_name": ""},
        "user_type": "",
        "instance_meta_data": {
            "maxInstance": version.max_instance, "minInstance": version.min_instance,
            "concurrentNum": version.concurrent_num, "cacheInstance": version.cache_instance,
            "poolLabel": "", "poolId": "",
        },
        "extended_handler": version.extended_handler, "extended_timeout": version.extended_timeout,
        "device": version.device, "custom_container_config": version.custom_container_config,
        "custom_health_check": version.custom_health_check,
    });
    if let Value::Object(extended) = &mut extended {
        when_set(extended, version);
    }
    json!({
        "funcMetaData": {
            "layers": [], "name": function.name, "description": function.description,
            "functionUrn": urn, "reversedConcurrency": 0, "tags": function.tag,
            "functionUpdateTime": function.update_time,
            "functionVersionUrn": format!("{urn}:{}", version.version), "codeSize": 0,
            "codeSha256": "", "codeSha512": version.package.signature,
            "handler": version.handler, "runtime": version.runtime, "timeout": version.timeout,
            "version": version.version, "versionDescription": version.description,
            "deadLetterConfig": "", "latestVersionUpdateTime": "",
            "publishTime": version.publish_time, "businessId": bugle_types::BUSINESS,
            "tenantId": caller.tenant, "domain_id": "", "project_name": "",
            "revisionId": version.revision_id, "created": function.create_time,
            "statefulFlag": false, "hookHandler": version.hook_handler,
            "idleTime": version.idle_time, "isFuncPublic": version.is_func_public,
            "kind": kind.name(),
        },
        "codeMetaData": code(version),
        "envMetaData": environment(version),
        "resourceMetaData": {
            "cpu": version.cpu, "memory": version.memory,
            "customResources": custom_resources(version),
        },
        "extendedMetaData": extended,
        "warmup": version.warmup_type,
        "rootfs": version.rootfs_spec_meta,
        "sandboxType": version.sandbox_type,
    })
}

fn when_set(extended: &mut Map<String, Value>, version: &VersionPart) {
    container(extended, version);
    if !version.priority_az.is_empty() {
        extended.insert("priority_az".to_owned(), version.priority_az.clone().into());
    }
    for (name, value) in [
        ("enable_metrics", version.enable_metrics),
        ("enable_agent_session", version.enable_agent_session),
        ("enable_session_ctx", version.enable_session_ctx),
    ] {
        if value {
            extended.insert(name.to_owned(), true.into());
        }
    }
}

fn code(version: &VersionPart) -> Value {
    let package = &version.package;
    let in_place = matches!(
        package.storage_type.as_str(),
        "local" | "copy" | "working_dir"
    );
    let when = |condition: bool, text: &str| {
        if condition {
            text.to_owned()
        } else {
            String::new()
        }
    };
    json!({
        "codeUploadType": package.code_upload_type, "sha512": package.signature,
        "storage_type": package.storage_type, "code_path": when(in_place, &package.code_path),
        "appId": "", "bucketId": when(!in_place, &package.bucket_id),
        "objectId": when(!in_place, &package.object_id),
        "bucketUrl": when(!in_place, &package.bucket_url), "code_type": "", "code_url": "",
        "code_filename": "", "func_code": {"file": "", "link": ""},
    })
}

fn environment(version: &VersionPart) -> Value {
    if version.environment.is_empty() {
        return json!({
            "environment": "{}", "encrypted_user_data": "", "cryptoAlgorithm": "NO_CRYPTO",
        });
    }
    let algorithm = if SealedEnvironment(version.environment.clone()).is_clear() {
        "NO_CRYPTO"
    } else {
        ALGORITHM
    };
    json!({
        "environment": version.environment, "encrypted_user_data": "",
        "cryptoAlgorithm": algorithm,
    })
}

/// A record as an openYuanrong cluster reads it: with its variables in clear.
pub(crate) fn cleared(record: &Record, variables: BTreeMap<String, String>) -> Record {
    let mut record = record.clone();
    let prefix = match record.kind() {
        Kind::Faas | Kind::Agent => "",
        _ => VARIABLE_PREFIX,
    };
    let variables = variables.into_iter();
    let variables = variables.map(|(name, value)| (format!("{prefix}{name}"), value));
    let variables: BTreeMap<_, _> = variables.collect();
    record.function_version.environment = if variables.is_empty() {
        String::new()
    } else {
        SealedEnvironment::clear(&variables).0
    };
    record
}

fn custom_resources(version: &VersionPart) -> String {
    let amounts = version.custom_resources.clone().unwrap_or_default();
    serde_json::to_string(&amounts).expect("amounts can be written as JSON")
}

fn instance_meta_data(version: &VersionPart) -> Value {
    json!({
        "maxInstance": version.max_instance, "minInstance": version.min_instance,
        "concurrentNum": version.concurrent_num, "instanceType": "", "idleMode": false,
        "poolLabel": version.pool_label, "poolId": version.pool_id, "diskLimit": 0,
        "schedulePolicy": version.schedule_policy, "scalePolicy": version.scale_policy,
    })
}

/// The value of a version's bounds.
pub(crate) fn instances(record: &Record) -> Vec<u8> {
    let value = json!({"instanceMetaData": instance_meta_data(&record.function_version)});
    serde_json::to_vec(&value).expect("published values are made of JSON values")
}

/// The value of a label's bounds.
pub(crate) fn label(max: i64, min: i64) -> Vec<u8> {
    let bounds = VersionPart {
        max_instance: max,
        min_instance: min,
        ..VersionPart::default()
    };
    let value = json!({"instanceMetaData": instance_meta_data(&bounds)});
    serde_json::to_vec(&value).expect("published values are made of JSON values")
}
