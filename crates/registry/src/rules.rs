//! What a request may say (contract 3.1, 3.2), and the record it makes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bugle_api::{
    AutoScaleConfig, Error, FunctionRequest, Interface, ResourceAffinitySelector, Rootfs,
    S3CodePath,
};
use bugle_types::{CpuMillis, FunctionName, Kind, MemoryMib, Resources, Runtime};

use crate::config::MAX_TIMEOUT;
use crate::record::{Hooks, Package, VersionPart};
use crate::{Config, image};

const HANDLER_LENGTH: usize = 64;
const DESCRIPTION_LENGTH: usize = 1024;

/// The most memory in MiB where the configured range is lifted.
const MOST_MEMORY: i64 = MemoryMib::MOST.0.cast_signed();

/// The longest that `pre_stop` may take, in seconds.
const MAX_PRE_STOP: i64 = 180;

pub(crate) const NAME_FORMAT: &str = "format is 0@{serviceName}@{funcName} or \
    0-{serviceName}-{funcName}; serviceName can only contains letters、digits and cannot exceed 16 \
    characters; funcName can only contains lowercase letters、digits、- and cannot exceed 127 \
    characters or end with -";

const POOL_ID: &str = "pool id can contain only lowercase letters;digits and - it cannot start or \
    end with - and cannot exceed 40 characters or less than 1 characters";

/// Which request is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// F1.
    Register,
    /// F2.
    Update,
}

/// Numbers of a request that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) timeout: i64,
    pub(crate) min_instance: i64,
    pub(crate) max_instance: i64,
    pub(crate) concurrent_num: i64,
}

/// Steps 2 and 3 of the checks: every field by itself, all violations at once; then what depends on
/// the configuration, the first violation.
pub(crate) fn check(
    config: &Config,
    request: &FunctionRequest,
    purpose: Purpose,
) -> Result<Checked, Error> {
    fields(request, purpose)?;
    settings(config, request, purpose)
}

fn fields(request: &FunctionRequest, purpose: Purpose) -> Result<(), Error> {
    let mut violations = Vec::new();
    let too_long = |field: &str, text: &Option<String>, limit: usize| {
        let text = text
            .as_deref()
            .filter(|text| text.chars().count() > limit)?;
        Some(format!(
            "FunctionBasicInfo.{field}: {text} does not validate as maxstringlength({limit})"
        ))
    };
    violations.extend(too_long("handler", &request.handler, HANDLER_LENGTH));
    violations.extend(too_long(
        "description",
        &request.description,
        DESCRIPTION_LENGTH,
    ));
    let pool = request.pool_id.as_deref().unwrap_or_default();
    if !pool.is_empty() && !is_pool_id(pool) {
        violations.push(POOL_ID.to_owned());
    }
    if purpose == Purpose::Register {
        match request.name.as_deref().unwrap_or_default() {
            "" => violations.push("name: non zero value required".to_owned()),
            name if !is_name(name, request.interface) => {
                violations.push(NAME_FORMAT.to_owned());
            }
            _ => {}
        }
        if request.runtime.as_deref().unwrap_or_default().is_empty() {
            violations.push("runtime: non zero value required".to_owned());
        }
    }
    if violations.is_empty() {
        return Ok(());
    }
    violations.sort();
    Err(Error::field(violations.join(";")))
}

fn is_name(name: &str, interface: Interface) -> bool {
    name.parse::<FunctionName>().is_ok()
        && (interface == Interface::FunctionGraph || !name.contains('_'))
}

fn is_pool_id(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 40
        && bytes.iter().all(|&c| inner(c) || c == b'-')
        && inner(bytes[0])
        && inner(bytes[bytes.len() - 1])
}

fn settings(
    config: &Config,
    request: &FunctionRequest,
    purpose: Purpose,
) -> Result<Checked, Error> {
    if request
        .layers
        .as_ref()
        .is_some_and(|layers| layers.len() > config.max_layers)
    {
        let limit = config.max_layers;
        return Err(Error::field(format!(
            "the number of function reference layers cannot exceed {limit}"
        )));
    }
    resources(config, request)?;
    custom_resources(request)?;
    if purpose == Purpose::Register {
        let runtime = request.runtime.as_deref().unwrap_or_default();
        let name = canonical_runtime(runtime);
        if !config.runtimes.iter().any(|known| *known == *name) {
            return Err(Error::field(format!("runtime {runtime} is not valid")));
        }
    }
    let [min_instance, max_instance, concurrent_num] = counts(config, request)?;
    kind(request)?;
    let storage = request.storage_type.as_deref().unwrap_or_default();
    if !["", "local", "copy", "s3", "working_dir"].contains(&storage) {
        return Err(Error::field(format!(
            "storageType {storage} is not valid, must be local, copy, s3 or working_dir"
        )));
    }
    let timeout = match request.timeout.unwrap_or(0) {
        ..=0 => config.default_timeout_seconds,
        seconds => seconds.min(MAX_TIMEOUT),
    };
    Ok(Checked {
        timeout,
        min_instance,
        max_instance,
        concurrent_num,
    })
}

/// The kind that a request names.
pub(crate) fn kind(request: &FunctionRequest) -> Result<Kind, Error> {
    let kind = request.kind.as_deref().unwrap_or_default();
    kind.parse().map_err(|_| {
        Error::field(format!(
            "kind {kind} is not valid, must be faas, yrlib, agent, custom or posix-runtime-custom"
        ))
    })
}

fn resources(config: &Config, request: &FunctionRequest) -> Result<(), Error> {
    let own_pool = request.pool_type.as_deref() == Some("custom");
    let device = request
        .device
        .as_ref()
        .is_some_and(|device| !device.is_empty());
    let (cpu, memory) = (request.cpu.unwrap_or(0), request.memory.unwrap_or(0));
    let Config {
        min_cpu,
        max_cpu,
        min_memory,
        max_memory,
        ..
    } = config;
    if own_pool || device {
        // The range does not apply; what an instance is given must still make sense.
        if cpu < 0 || memory < 0 {
            return Err(Error::field("CPU and memory cannot be negative"));
        }
        within("CPU", cpu, 0, CpuMillis::MOST.0.into())?;
        return within("memory", memory, 0, MOST_MEMORY);
    }
    within("CPU", cpu, *min_cpu, *max_cpu)?;
    within("memory", memory, *min_memory, *max_memory)
}

fn within(what: &str, amount: i64, min: i64, max: i64) -> Result<(), Error> {
    if (min..=max).contains(&amount) {
        return Ok(());
    }
    Err(Error::field(format!("{what} not in range [{min}, {max}]")))
}

/// Custom resources are counted in thousandths. What is below zero asks for nothing.
fn custom_resources(request: &FunctionRequest) -> Result<(), Error> {
    let mut amounts = request.custom_resources.iter().flat_map(|of| &of.0);
    match amounts.find(|(_, amount)| **amount > Resources::MOST_CUSTOM) {
        None => Ok(()),
        Some((name, _)) => Err(Error::field(format!(
            "customResources: {name} not in range [0, {}]",
            Resources::MOST_CUSTOM
        ))),
    }
}

fn counts(config: &Config, request: &FunctionRequest) -> Result<[i64; 3], Error> {
    let number = |field: &str, text: &Option<String>, default: i64| match text.as_deref() {
        None | Some("") => Ok(default),
        Some(text) => text
            .parse::<i64>()
            .map_err(|_| Error::field(format!("{field} must be an integer"))),
    };
    let min = number(
        "minInstance",
        &request.min_instance,
        config.default_min_instance,
    )?;
    let max = number(
        "maxInstance",
        &request.max_instance,
        config.default_max_instance,
    )?;
    let concurrent = number(
        "concurrentNum",
        &request.concurrent_num,
        config.default_concurrent_num,
    )?;
    let Config {
        max_instance_limit,
        concurrent_num_limit,
        ..
    } = config;
    // The blanks are the original's.
    let broken = if min > max {
        format!("the value of minInstance {min} must be smaller than that of maxInstance {max}")
    } else if min < 0 {
        format!("the value of minInstance {min} should be bigger than 0")
    } else if max > *max_instance_limit {
        format!(
            "the value of maxInstance {max}  must be smaller than that of workerInstanceMax \
             {max_instance_limit}"
        )
    } else if concurrent > *concurrent_num_limit {
        format!(
            "the value of concurrentNum {concurrent}  must be smaller than that of \
             workerConcurrentNumMax {concurrent_num_limit}"
        )
    } else if concurrent < 1 {
        format!("the value of concurrentNum {concurrent} should be bigger than 1 ")
    } else {
        return Ok([min, max, concurrent]);
    };
    Err(Error::field(broken))
}

/// Rules that are checked after the function was looked up: the root file system and `pre_stop`.
pub(crate) fn late(kind: Kind, version: &VersionPart) -> Result<(), Error> {
    rootfs(&version.rootfs_spec_meta)?;
    let hooked = version.extended_handler.contains_key("pre_stop");
    let pre_stop = version
        .extended_timeout
        .get("pre_stop")
        .copied()
        .unwrap_or(0);
    if kind == Kind::Faas && hooked && !(0..=MAX_PRE_STOP).contains(&pre_stop) {
        return Err(Error::parameter("preStop timeOut must between 0 and 180"));
    }
    Ok(())
}

fn rootfs(rootfs: &Rootfs) -> Result<(), Error> {
    let Rootfs {
        kind,
        path,
        imageurl,
        storage_info: info,
        ..
    } = rootfs;
    let missing =
        |field: &str| format!("when rootfs type is 's3', storageInfo.{field} must be set");
    let broken = if !path.is_empty() && kind != "local" {
        "when rootfs path is set, type must be 'local'".to_owned()
    } else if kind == "local" && path.is_empty() {
        "when rootfs type is 'local', path must be set".to_owned()
    } else if !imageurl.is_empty() && kind != "image" {
        "when rootfs imageurl is set, type must be 'image'".to_owned()
    } else if kind == "image" && imageurl.is_empty() {
        "when rootfs type is 'image', imageurl must be set".to_owned()
    } else if kind == "s3" && info.endpoint.is_empty() {
        missing("endpoint")
    } else if kind == "s3" && info.bucket.is_empty() {
        missing("bucket")
    } else if kind == "s3" && info.object.is_empty() {
        missing("object")
    } else if kind != "s3" && !info.is_empty() {
        "storageInfo can only be set when rootfs type is 's3'".to_owned()
    } else if !["", "local", "image", "s3"].contains(&kind.as_str()) {
        format!("invalid rootfs type: {kind}, must be 'local', 'image', or 's3'")
    } else {
        return Ok(());
    };
    Err(Error::parameter(broken))
}

/// The runtime of images may be spelled in any case.
fn canonical_runtime(runtime: &str) -> Cow<'_, str> {
    match Runtime::from_name(runtime) {
        image @ Runtime::Image(_) => image.to_string().into(),
        _ => runtime.into(),
    }
}

/// The runtime under the name that the kind uses (contract 2.8).
pub(crate) fn normal_runtime(kind: Kind, runtime: &str) -> String {
    match (kind, &*canonical_runtime(runtime)) {
        (Kind::Faas, "java1.8") => "java8",
        (Kind::Faas, other) => other,
        (_, "java8") => "java1.8",
        (_, other) => other,
    }
    .to_owned()
}

/// Puts what a request says into a version: fields that it leaves out keep their value or are reset,
/// as the contract's table 3.2 says; on a fresh version both are the same. Texts that must be
/// encrypted are left to the caller.
pub(crate) fn apply(
    version: &mut VersionPart,
    description: &mut String,
    request: FunctionRequest,
    checked: Checked,
    kind: Kind,
) {
    if let Some(text) = request.description.filter(|text| !text.is_empty()) {
        *description = text;
    }
    if let Some(handler) = request.handler.filter(|handler| !handler.is_empty()) {
        version.handler = handler;
    }
    let none_yet = version.custom_resources.is_none();
    if let Some(amounts) = request
        .custom_resources
        .filter(|new| none_yet || !new.0.is_empty())
    {
        version.custom_resources = Some(amounts);
    }
    if let Some(handlers) = request.extended_handler {
        version.extended_handler = handlers;
    }
    if let Some(timeouts) = request
        .extended_timeout
        .filter(|timeouts| !timeouts.is_empty())
    {
        version.extended_timeout = timeouts;
    }
    kind.name().clone_into(&mut version.kind);
    version.cpu = request.cpu.unwrap_or(0);
    version.memory = request.memory.unwrap_or(0);
    version.timeout = checked.timeout;
    version.min_instance = checked.min_instance;
    version.max_instance = checked.max_instance;
    version.concurrent_num = checked.concurrent_num;
    let s3 = request.s3_code_path.unwrap_or_default();
    let path = request.code_path.unwrap_or_default();
    let storage = request.storage_type.unwrap_or_default();
    version.package = package(
        storage,
        path,
        s3,
        request.code_upload_type.unwrap_or_default(),
    );
    version.pool_id = request.pool_id.unwrap_or_default();
    version.pool_label = groups(
        request
            .resource_affinity_selectors
            .or(request.schedule_policies),
    );
    version.enable_metrics = request.enable_metrics.unwrap_or(false);
    version.enable_agent_session = request.enable_agent_session.unwrap_or(false);
    version.enable_session_ctx = request.enable_session_ctx.unwrap_or(false);
    version.is_func_public = request.is_func_public.unwrap_or(false);
    version.cache_instance = request.cache_instance.unwrap_or(0);
    version.idle_time = request.idle_time.unwrap_or(0);
    version.priority_az = request.priority_az.unwrap_or_default();
    version.warmup_type = request.warmup.unwrap_or_default();
    version.schedule_policy = request.schedule_policy.unwrap_or_default();
    version.scale_policy = request.scale_policy.unwrap_or_default();
    version.auto_scale_config = timers(&request.auto_scale_config.unwrap_or_default());
    version.device = request.device.unwrap_or_default();
    version.rootfs_spec_meta = with_runtime(request.rootfs.unwrap_or_default());
    image::apply(version, request.extended_meta_data);
    version.hook_handler = hooks(
        kind,
        &version.runtime,
        request.hook_handler.unwrap_or_default(),
    );
}

fn package(storage: String, path: String, s3: S3CodePath, upload: String) -> Package {
    // A path without a type can only mean the folder itself.
    let storage = if storage.is_empty() && !path.is_empty() {
        "local".to_owned()
    } else {
        storage
    };
    Package {
        storage_type: storage,
        code_upload_type: upload,
        signature: s3.sha512,
        bucket_id: s3.bucket_id,
        object_id: s3.object_id,
        bucket_url: s3.bucket_url,
        token: s3.token,
        code_path: path,
    }
}

fn groups(selectors: Option<Vec<ResourceAffinitySelector>>) -> String {
    let groups: Vec<String> = selectors
        .unwrap_or_default()
        .into_iter()
        .map(|selector| selector.group)
        .collect();
    groups.join(",")
}

/// 0 is written as -1: the platform's default.
fn timers(config: &AutoScaleConfig) -> AutoScaleConfig {
    let set = |value: i64| if value == 0 { -1 } else { value };
    AutoScaleConfig {
        sla_quota: set(config.sla_quota),
        scale_down_time: set(config.scale_down_time),
        burst_scale_num: set(config.burst_scale_num),
    }
}

fn with_runtime(mut rootfs: Rootfs) -> Rootfs {
    let Rootfs {
        runtime,
        kind,
        imageurl,
        path,
        storage_info,
        mountpoint,
        mounts,
        readonly: _,
        user: _,
        ports: _,
    } = &rootfs;
    let texts = [kind, imageurl, path, mountpoint];
    let is_described =
        texts.iter().any(|text| !text.is_empty()) || !storage_info.is_empty() || mounts.is_some();
    if is_described && runtime.is_empty() {
        "runsc".clone_into(&mut rootfs.runtime);
    }
    rootfs
}

/// The hooks, with the handlers of the executor for Python, that for Java, and those for functions
/// of kind `yrlib` in Python and in Java (contract 7.4).
const HOOKS: [(&str, [&str; 4]); 6] = [
    (
        "init",
        [
            "faas_executor.faasInitHandler",
            "org.yuanrong.services.handler.FaaSExecutor.faasInitHandler",
            "yrlib_handler.init",
            "org.yuanrong.handler.InitHandler",
        ],
    ),
    (
        "call",
        [
            "faas_executor.faasCallHandler",
            "org.yuanrong.services.handler.FaaSExecutor.faasCallHandler",
            "yrlib_handler.call",
            "org.yuanrong.handler.CallHandler",
        ],
    ),
    (
        "checkpoint",
        [
            "faas_executor.faasCheckPointHandler",
            "org.yuanrong.services.handler.FaaSExecutor.faasCheckPointHandler",
            "yrlib_handler.checkpoint",
            "org.yuanrong.handler.CheckPointHandler",
        ],
    ),
    (
        "recover",
        [
            "faas_executor.faasRecoverHandler",
            "org.yuanrong.services.handler.FaaSExecutor.faasRecoverHandler",
            "yrlib_handler.recover",
            "org.yuanrong.handler.RecoverHandler",
        ],
    ),
    (
        "shutdown",
        [
            "faas_executor.faasShutDownHandler",
            "org.yuanrong.services.handler.FaaSExecutor.faasShutDownHandler",
            "yrlib_handler.shutdown",
            "org.yuanrong.handler.ShutdownHandler",
        ],
    ),
    (
        "signal",
        [
            "faas_executor.faasSignalHandler",
            "org.yuanrong.services.handler.FaaSExecutor.faasSignalHandler",
            "yrlib_handler.signal",
            "org.yuanrong.handler.SignalHandler",
        ],
    ),
];

/// The hook handlers of a kind (contract 7.4).
fn hooks(kind: Kind, runtime: &str, requested: BTreeMap<String, String>) -> Hooks {
    let own = |column: usize| {
        let own = HOOKS.iter();
        own.map(move |(hook, handlers)| (Cow::from(*hook), Cow::from(handlers[column])))
    };
    let requested = requested.into_iter();
    let requested = requested.map(|(hook, handler)| (hook.into(), handler.into()));
    let is_python = matches!(Runtime::from_name(runtime), Runtime::Python(_));
    let is_java = runtime.starts_with("java");
    match kind {
        Kind::Faas if is_python => own(0).collect(),
        Kind::Faas if is_java => own(1).collect(),
        Kind::Yrlib if is_java => own(3).collect(),
        Kind::Yrlib if runtime.starts_with("cpp") => requested.collect(),
        Kind::Yrlib => own(2).chain(requested).collect(),
        Kind::Custom => requested.collect(),
        Kind::Faas | Kind::Agent | Kind::PosixRuntimeCustom => Hooks::new(),
    }
}
