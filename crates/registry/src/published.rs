//! What watchers see of a function: the published values (contract 7.2.2–7.2.4).
//!
//! An openYuanrong cluster can read them, with one exception: the variables are encrypted, and the
//! algorithm says so, unless the operator wants them in clear (`registry.publish_environment`).

use std::collections::BTreeMap;

use bugle_api::Caller;
use bugle_types::{FunctionName, Kind, SealedEnvironment};

use crate::json::Object;
use crate::record::{ContainerPart, Record, VersionPart};

/// The name of the algorithm of encrypted variables.
pub(crate) const ALGORITHM: &str = "BUGLE_AES256_GCM";

/// What is before the names of variables under `/yr/functions`, where they are clear.
pub(crate) const VARIABLE_PREFIX: &str = "func-";

/// The initializer's time limit when none is given, in seconds.
const INITIALIZER_TIMEOUT: i64 = 30;

/// The published value of a function version.
pub(crate) fn value(caller: &Caller, name: &FunctionName, record: &Record) -> Vec<u8> {
    Object::write(4096, |value| match record.kind() {
        Kind::Faas => faas(value, caller, name, record),
        kind => other(value, caller, name, record, kind),
    })
}

fn faas(value: &mut Object<'_>, caller: &Caller, name: &FunctionName, record: &Record) {
    let version = &record.function_version;
    value.object("funcMetaData", |meta| {
        function(meta, caller, name, record);
        meta.field("isStatefulFunction", false)
            .field("isBridgeFunction", false)
            .field("isStreamEnable", false)
            .field("enable_auth_in_header", false)
            .field("dns_domain_cfg", ())
            .field("autoScaleConfig", &version.auto_scale_config)
            .field("func_name", name.short())
            .field("service", name.service());
        for unused in [
            "functionType",
            "func_id",
            "dependencies",
            "enable_cloud_debug",
            "type",
            "vpcTriggerImage",
        ] {
            meta.field(unused, "");
        }
    });
    value.object("codeMetaData", |part| code(part, version));
    value.object("envMetaData", |part| environment(part, version));
    value.object("resourceMetaData", |part| {
        part.field("cpu", version.cpu)
            .field("memory", version.memory)
            .field("gpu_memory", 0)
            .field("enable_dynamic_memory", false)
            .field("customResources", custom_resources(version))
            .field("enable_tmp_expansion", false)
            .field("ephemeral_storage", 0);
    });
    value.object("instanceMetaData", |part| instance_meta_data(part, version));
    value.object("extendedMetaData", |part| extended_faas(part, version));
    value
        .field("rootfs", &version.rootfs_spec_meta)
        .field("sandboxType", &version.sandbox_type);
}

/// What is published of a function of any kind.
fn function(meta: &mut Object<'_>, caller: &Caller, name: &FunctionName, record: &Record) {
    let version = &record.function_version;
    let function = &record.function;
    let urn = caller.urn(name.clone()).to_string();
    meta.field("layers", [(); 0])
        .field("name", &function.name)
        .field("description", &function.description)
        .field("functionUrn", &urn)
        .field("reversedConcurrency", 0)
        .field("tenantId", &caller.tenant)
        .field("tags", &function.tag)
        .field("functionUpdateTime", &function.update_time)
        .field("functionVersionUrn", format!("{urn}:{}", version.version))
        .field("revisionId", &version.revision_id)
        .field("codeSize", 0)
        .field("codeSha512", &version.package.signature)
        .field("handler", &version.handler)
        .field("runtime", &version.runtime)
        .field("timeout", version.timeout)
        .field("version", &version.version)
        .field("versionDescription", &version.description)
        .field("deadLetterConfig", "")
        .field("businessId", bugle_types::BUSINESS)
        .field("domain_id", "")
        .field("project_name", "")
        .field("created", &function.create_time)
        .field("idleTime", version.idle_time)
        .field("isFuncPublic", version.is_func_public);
}

fn extended_faas(extended: &mut Object<'_>, version: &VersionPart) {
    extended_of_all(extended);
    hooks(extended, version);
    let container = version.container.as_ref();
    mounts(extended, container);
    network(extended, container);
    extended
        .field("func_vpc", ())
        .field("endpoint_tenant_vpc", ())
        .object("heartbeat", |part| {
            part.field("heartbeat_handler", "");
        })
        .field("custom_container_config", &version.custom_container_config)
        .field("custom_health_check", &version.custom_health_check)
        .field("async_config_loaded", false)
        .object("restore_hook", |_| {})
        .object("user_agency", |part| {
            part.field("accessKey", "")
                .field("secretKey", "")
                .field("token", "");
        });
    when_set(extended, version);
}

/// What is there and empty whatever the function is.
fn extended_of_all(extended: &mut Object<'_>) {
    extended
        .field("image_name", "")
        .object("role", |part| {
            part.field("xrole", "").field("app_xrole", "");
        })
        .object("strategy_config", |part| {
            part.field("concurrency", 0);
        })
        .field("extend_config", "")
        .field("enterprise_project_id", "")
        .object("log_tank_service", |part| {
            part.field("logGroupId", "").field("logStreamId", "");
        })
        .object("tracing_config", |part| {
            part.field("tracing_ak", "")
                .field("tracing_sk", "")
                .field("project_name", "");
        });
}

/// The handlers that run outside of calls, and their time limits in seconds.
fn hooks(extended: &mut Object<'_>, version: &VersionPart) {
    let (initializer, timeout) = hook(version, "initializer", INITIALIZER_TIMEOUT);
    let (pre_stop, pre_stop_timeout) = hook(version, "pre_stop", 0);
    hooks_of(
        extended,
        (initializer, timeout),
        (pre_stop, pre_stop_timeout),
    );
}

fn hooks_of(extended: &mut Object<'_>, initializer: (&str, i64), pre_stop: (&str, i64)) {
    extended
        .object("initializer", |part| {
            part.field("initializer_handler", initializer.0)
                .field("initializer_timeout", initializer.1);
        })
        .object("pre_stop", |part| {
            part.field("pre_stop_handler", pre_stop.0)
                .field("pre_stop_timeout", pre_stop.1);
        });
}

fn hook<'a>(version: &'a VersionPart, key: &str, default: i64) -> (&'a str, i64) {
    let Some(handler) = version.extended_handler.get(key) else {
        return ("", 0);
    };
    let timeout = version.extended_timeout.get(key).copied();
    (handler, timeout.unwrap_or(default))
}

fn mounts(extended: &mut Object<'_>, container: Option<&ContainerPart>) {
    extended.field("mount_config", container.map(|part| &part.mount_config));
}

fn network(extended: &mut Object<'_>, container: Option<&ContainerPart>) {
    let disabled = container.is_some_and(|part| part.network_controller.disable_public_network);
    extended.object("network_controller", |part| {
        part.field("disable_public_network", disabled)
            .field("trigger_access_vpcs", ());
    });
}

fn other(
    value: &mut Object<'_>,
    caller: &Caller,
    name: &FunctionName,
    record: &Record,
    kind: Kind,
) {
    let version = &record.function_version;
    value.object("funcMetaData", |meta| {
        function(meta, caller, name, record);
        meta.field("codeSha256", "")
            .field("latestVersionUpdateTime", "")
            .field("publishTime", &version.publish_time)
            .field("statefulFlag", false)
            .field("hookHandler", &version.hook_handler)
            .field("kind", kind.name());
    });
    value.object("codeMetaData", |part| code(part, version));
    value.object("envMetaData", |part| environment(part, version));
    value.object("resourceMetaData", |part| {
        part.field("cpu", version.cpu)
            .field("memory", version.memory)
            .field("customResources", custom_resources(version));
    });
    value.object("extendedMetaData", |part| extended_other(part, version));
    value
        .field("warmup", &version.warmup_type)
        .field("rootfs", &version.rootfs_spec_meta)
        .field("sandboxType", &version.sandbox_type);
}

fn extended_other(extended: &mut Object<'_>, version: &VersionPart) {
    extended_of_all(extended);
    let container = version.container.as_ref();
    // The original has no hooks and no network here; an image's are beside what it has.
    if container.is_some() {
        hooks(extended, version);
        network(extended, container);
    } else {
        hooks_of(extended, ("", 0), ("", 0));
    }
    mounts(extended, container);
    extended
        .field("user_type", "")
        .object("instance_meta_data", |part| {
            part.field("maxInstance", version.max_instance)
                .field("minInstance", version.min_instance)
                .field("concurrentNum", version.concurrent_num)
                .field("cacheInstance", version.cache_instance)
                .field("poolLabel", "")
                .field("poolId", "");
        })
        .field("extended_handler", &version.extended_handler)
        .field("extended_timeout", &version.extended_timeout)
        .field("device", &version.device)
        .field("custom_container_config", &version.custom_container_config)
        .field("custom_health_check", &version.custom_health_check);
    when_set(extended, version);
}

/// What is published only where it is set. What the original has no place for is beside its own.
fn when_set(extended: &mut Object<'_>, version: &VersionPart) {
    if let Some(container) = &version.container {
        extended
            .field("image_digest", &container.image_digest)
            .field(
                "runtime_graceful_shutdown",
                &container.runtime_graceful_shutdown,
            )
            .field("ephemeral_storage", container.ephemeral_storage);
    }
    if !version.priority_az.is_empty() {
        extended.field("priority_az", &version.priority_az);
    }
    for (name, value) in [
        ("enable_metrics", version.enable_metrics),
        ("enable_agent_session", version.enable_agent_session),
        ("enable_session_ctx", version.enable_session_ctx),
    ] {
        if value {
            extended.field(name, true);
        }
    }
}

fn code(code: &mut Object<'_>, version: &VersionPart) {
    let package = &version.package;
    let in_place = matches!(
        package.storage_type.as_str(),
        "local" | "copy" | "working_dir"
    );
    let when = |condition: bool, text| if condition { text } else { "" };
    code.field("codeUploadType", &package.code_upload_type)
        .field("sha512", &package.signature)
        .field("storage_type", &package.storage_type)
        .field("code_path", when(in_place, &package.code_path))
        .field("appId", "")
        .field("bucketId", when(!in_place, &package.bucket_id))
        .field("objectId", when(!in_place, &package.object_id))
        .field("bucketUrl", when(!in_place, &package.bucket_url))
        .field("code_type", "")
        .field("code_url", "")
        .field("code_filename", "")
        .object("func_code", |part| {
            part.field("file", "").field("link", "");
        });
}

fn environment(part: &mut Object<'_>, version: &VersionPart) {
    let sealed = SealedEnvironment(version.environment.clone());
    let (text, algorithm) = match sealed.0.as_str() {
        "" => ("{}", "NO_CRYPTO"),
        text if sealed.is_clear() => (text, "NO_CRYPTO"),
        text => (text, ALGORITHM),
    };
    part.field("environment", text)
        .field("encrypted_user_data", "")
        .field("cryptoAlgorithm", algorithm);
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
    let amounts = version.custom_resources.as_ref();
    amounts.map_or_else(
        || "{}".to_owned(),
        |amounts| serde_json::to_string(amounts).expect("amounts can be written as JSON"),
    )
}

fn instance_meta_data(part: &mut Object<'_>, version: &VersionPart) {
    part.field("maxInstance", version.max_instance)
        .field("minInstance", version.min_instance)
        .field("concurrentNum", version.concurrent_num)
        .field("instanceType", "")
        .field("idleMode", false)
        .field("poolLabel", &version.pool_label)
        .field("poolId", &version.pool_id)
        .field("diskLimit", 0)
        .field("schedulePolicy", &version.schedule_policy)
        .field("scalePolicy", &version.scale_policy);
}

/// The value of a version's bounds.
pub(crate) fn instances(record: &Record) -> Vec<u8> {
    bounds(&record.function_version)
}

/// The value of a label's bounds.
pub(crate) fn label(max: i64, min: i64) -> Vec<u8> {
    bounds(&VersionPart {
        max_instance: max,
        min_instance: min,
        ..VersionPart::default()
    })
}

fn bounds(version: &VersionPart) -> Vec<u8> {
    Object::write(256, |value| {
        value.object("instanceMetaData", |part| instance_meta_data(part, version));
    })
}
