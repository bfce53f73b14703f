//! What is published of a function version, as the specification that runs it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use bugle_api::{
    CustomContainerConfig, CustomHealthCheck, FuncMount, MountConfig, NetworkController,
    RuntimeGracefulShutdown,
};
use bugle_store::{Error, KeyValue, Revision, Store};
use bugle_types::pool::PoolChoice;
use bugle_types::{
    CodeLocation, ContainerNetwork, ContainerSpec, CpuMillis, DEFAULT_CONTAINER_DISK_MIB,
    DEFAULT_CONTAINER_USER, FunctionId, FunctionSpec, Generation, HealthCheck, Hook, ImageRuntime,
    Initialization, InstanceLabel, Kind, LabelledScale, MemoryMib, Mount, Resources, Runtime,
    Scale, SealedEnvironment,
};
use serde::Deserialize;

use crate::fingerprint::Fingerprint;
use crate::json::{self, Fields};
use crate::keys;
use crate::published::{ALGORITHM, VARIABLE_PREFIX};

/// The most labels that are read of a function at once.
const CHUNK: usize = 1000;

/// The bounds under each label of a function version.
pub(crate) type Labels = BTreeMap<InstanceLabel, Scale>;

/// A function version as it is in the store.
#[derive(Debug)]
pub(crate) struct Current {
    /// Without labels.
    pub(crate) spec: FunctionSpec,
    /// When it was published.
    pub(crate) revision: Revision,
    pub(crate) under_faas: bool,
    pub(crate) fingerprint: Fingerprint,
}

impl Current {
    /// The function version that `item` publishes; none, with a word in the log, if it cannot be
    /// read.
    pub(crate) fn of(id: &FunctionId, faas: bool, item: &KeyValue) -> Option<Self> {
        let parsed =
            read(id, faas, item).and_then(|spec| Ok((spec, Fingerprint::of(&item.value)?)));
        match parsed {
            Ok((spec, fingerprint)) => Some(Self {
                spec,
                revision: item.mod_revision,
                under_faas: faas,
                fingerprint,
            }),
            Err(error) => {
                tracing::warn!(function = %id, %error, "a published function cannot be read");
                None
            }
        }
    }

    /// The function version that is published under one of its keys.
    pub(crate) async fn find(store: &dyn Store, id: &FunctionId) -> Result<Option<Self>, Error> {
        for (key, faas) in keys::published_of(id) {
            if let Some(item) = store.get(&key).await?
                && let Some(current) = Self::of(id, faas, &item)
            {
                return Ok(Some(current));
            }
        }
        Ok(None)
    }
}

/// The specification of a function version as the store has it now, without anybody being told.
///
/// # Errors
///
/// What the store says when it cannot be read.
pub async fn specification(
    store: &dyn Store,
    id: &FunctionId,
) -> Result<Option<FunctionSpec>, Error> {
    let Some(current) = Current::find(store, id).await? else {
        return Ok(None);
    };
    let labels = listed(&labels(store, id).await?);
    Ok(Some(FunctionSpec {
        labels,
        ..current.spec
    }))
}

/// Whether anything is published under the name of the function version; cheap for names that
/// nobody registered.
///
/// # Errors
///
/// What the store says when it cannot be read.
pub async fn is_published(store: &dyn Store, id: &FunctionId) -> Result<bool, Error> {
    for (key, _) in keys::published_of(id) {
        if store.get(&key).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The bounds of a function version's labels in this cluster.
pub(crate) async fn labels(store: &dyn Store, id: &FunctionId) -> Result<Labels, Error> {
    let mut found = Labels::new();
    // The layout leaves the product out (contract 2.7): the labels are of the function without one.
    if id.product.is_some() {
        return Ok(found);
    }
    for prefix in keys::labels_of(id) {
        let mut after: Option<bytes::Bytes> = None;
        loop {
            let range = store.range(&prefix, after.as_deref(), CHUNK).await?;
            for item in &range.items {
                if let Some(key) = keys::parse_label(&item.key)
                    && let Some(scale) = bounds(item)
                {
                    found.insert(key.label, scale);
                }
            }
            after = range.items.last().map(|item| item.key.clone());
            if !range.more {
                break;
            }
        }
    }
    Ok(found)
}

/// Labels as a specification lists them.
pub(crate) fn listed(labels: &Labels) -> Vec<LabelledScale> {
    labels
        .iter()
        .map(|(label, scale)| LabelledScale {
            label: label.clone(),
            scale: *scale,
        })
        .collect()
}

/// What must be known of a function version that nobody has called.
#[derive(Debug)]
pub(crate) struct Outline {
    pub(crate) runtime: Runtime,
    /// Instances that are kept without a call.
    pub(crate) min: u32,
}

impl Outline {
    /// None for what cannot be read; a call says why.
    pub(crate) fn of(item: &KeyValue) -> Option<Self> {
        let (mut function, mut scale, mut extended) = (None, None, None);
        for (name, value) in Fields::of(&item.value) {
            match name {
                b"funcMetaData" => function = Some(value),
                b"instanceMetaData" if value.starts_with(b"{") => scale = Some(value),
                b"extendedMetaData" => extended = Some(value),
                _ => {}
            }
            // What is behind is long.
            if function.is_some() && scale.is_some() {
                break;
            }
        }
        let scale = scale.or_else(|| Fields::find(extended?, "instance_meta_data"));
        let min = |scale| json::read(Fields::find(scale, "minInstance")?);
        let runtime: Cow<'_, str> = json::read(Fields::find(function?, "runtime")?)?;
        Some(Self {
            runtime: Runtime::from_name(&runtime),
            min: scale.and_then(min).map_or(0, count),
        })
    }
}

fn count(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

/// A published value as a specification, without labels.
fn read(id: &FunctionId, faas: bool, item: &KeyValue) -> serde_json::Result<FunctionSpec> {
    let value: Published = serde_json::from_slice(&item.value)?;
    let meta = &value.func_meta_data;
    let scale = value
        .instance_meta_data
        .as_ref()
        .or(value.extended_meta_data.instance_meta_data.as_ref())
        .cloned()
        .unwrap_or_default();
    let kind = match (faas, value.instance_meta_data.is_some()) {
        (true, true) => Kind::Faas,
        (true, false) => Kind::Agent,
        (false, _) => meta.kind.parse().unwrap_or(Kind::Yrlib),
    };
    let seconds = |number: i64| Duration::from_secs(u64::try_from(number).unwrap_or(0));
    let extended = &value.extended_meta_data;
    let (runtime, code) = match extended.container(&meta.runtime) {
        Some((runtime, container)) => (runtime, CodeLocation::Image(Box::new(container))),
        None => (
            Runtime::from_name(&meta.runtime),
            code(&value.code_meta_data),
        ),
    };
    let hook = |handler: &str, timeout: i64| {
        let handler = handler.to_owned();
        (!handler.is_empty()).then(|| Hook {
            handler,
            timeout: seconds(timeout),
        })
    };
    Ok(FunctionSpec {
        id: id.clone(),
        kind,
        generation: Generation(meta.revision_id.as_str().into()),
        runtime,
        handler: meta.handler.clone(),
        initializer: hook(
            &extended.initializer.initializer_handler,
            extended.initializer.initializer_timeout,
        )
        .filter(|_| is_initialized(&code)),
        pre_stop: hook(
            &extended.pre_stop.pre_stop_handler,
            extended.pre_stop.pre_stop_timeout,
        ),
        timeout: seconds(meta.timeout),
        resources: Resources {
            cpu: CpuMillis(count(value.resource_meta_data.cpu)),
            memory: MemoryMib(u64::from(count(value.resource_meta_data.memory))),
            custom: custom_resources(&value.resource_meta_data.custom_resources),
        },
        concurrency: NonZeroU32::new(count(scale.concurrent_num)).unwrap_or(NonZeroU32::MIN),
        scale: Scale {
            min: count(scale.min_instance),
            max: count(scale.max_instance),
        },
        labels: Vec::new(),
        idle: (meta.idle_time > 0).then(|| seconds(meta.idle_time)),
        pool: PoolChoice::new(&scale.pool_id, &scale.pool_label),
        code,
        environment: environment(&value.env_meta_data, faas),
    })
}

fn custom_resources(text: &str) -> Vec<(String, i64)> {
    let amounts: BTreeMap<String, f64> = serde_json::from_str(text).unwrap_or_default();
    let thousandths = |amount: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a saturating cast is meant"
        )]
        let amount = (amount * 1000.0).round() as i64;
        amount
    };
    amounts
        .into_iter()
        .map(|(name, amount)| (name, thousandths(amount)))
        .filter(|(_, amount)| *amount > 0)
        .collect()
}

fn code(code: &CodeMetaData) -> CodeLocation {
    match code.storage_type.as_str() {
        "copy" => CodeLocation::Copy(code.code_path.clone()),
        "s3" => CodeLocation::S3 {
            bucket: code.bucket_id.clone(),
            object: code.object_id.clone(),
            endpoint: code.bucket_url.clone(),
            sha512: code.sha512.clone(),
        },
        _ if code.code_path.is_empty() => CodeLocation::None,
        _ => CodeLocation::Local(code.code_path.clone()),
    }
}

/// The variables of a published value. Those that are clear, as a meta service writes them whatever
/// algorithm it names, stay so.
fn environment(environment: &EnvMetaData, faas: bool) -> SealedEnvironment {
    let text = &environment.environment;
    if environment.crypto_algorithm == ALGORITHM {
        return SealedEnvironment(text.clone());
    }
    let variables: BTreeMap<String, String> = serde_json::from_str(text).unwrap_or_default();
    if variables.is_empty() {
        return SealedEnvironment::default();
    }
    let bare = |name: String| match name.strip_prefix(VARIABLE_PREFIX) {
        Some(bare) if !faas => bare.to_owned(),
        _ => name,
    };
    let named = variables.into_iter();
    SealedEnvironment::clear(&named.map(|(name, value)| (bare(name), value)).collect())
}

/// The bounds that the value of a label holds.
pub(crate) fn bounds(item: &KeyValue) -> Option<Scale> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Value {
        instance_meta_data: InstanceMetaData,
    }
    let Value {
        instance_meta_data: bounds,
    } = serde_json::from_slice(&item.value).ok()?;
    Some(Scale {
        min: count(bounds.min_instance),
        max: count(bounds.max_instance),
    })
}

/// The parts of a published value that matter here.
#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the contract's names")]
#[serde(rename_all = "camelCase")]
struct Published {
    func_meta_data: FuncMetaData,
    code_meta_data: CodeMetaData,
    env_meta_data: EnvMetaData,
    resource_meta_data: ResourceMetaData,
    instance_meta_data: Option<InstanceMetaData>,
    #[serde(default)]
    extended_meta_data: ExtendedMetaData,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FuncMetaData {
    revision_id: String,
    handler: String,
    runtime: String,
    timeout: i64,
    #[serde(default)]
    idle_time: i64,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct CodeMetaData {
    sha512: String,
    storage_type: String,
    code_path: String,
    #[serde(rename = "bucketId")]
    bucket_id: String,
    #[serde(rename = "objectId")]
    object_id: String,
    #[serde(rename = "bucketUrl")]
    bucket_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvMetaData {
    environment: String,
    crypto_algorithm: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceMetaData {
    cpu: i64,
    memory: i64,
    custom_resources: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InstanceMetaData {
    max_instance: i64,
    min_instance: i64,
    concurrent_num: i64,
    #[serde(default)]
    pool_id: String,
    #[serde(default)]
    pool_label: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ExtendedMetaData {
    initializer: Initializer,
    pre_stop: PreStop,
    instance_meta_data: Option<InstanceMetaData>,
    custom_container_config: CustomContainerConfig,
    custom_health_check: CustomHealthCheck,
    image_digest: String,
    runtime_graceful_shutdown: RuntimeGracefulShutdown,
    #[serde(deserialize_with = "or_default")]
    network_controller: NetworkController,
    #[serde(deserialize_with = "or_default")]
    mount_config: MountConfig,
    ephemeral_storage: i64,
}

/// The original writes null where there is nothing.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl ExtendedMetaData {
    /// The runtime and the container of a function that is an image.
    fn container(&self, runtime: &str) -> Option<(Runtime, ContainerSpec)> {
        let config = &self.custom_container_config;
        if config.image.is_empty() {
            return None;
        }
        let Runtime::Image(kind) = Runtime::of_image(runtime) else {
            return None;
        };
        let initialization = match (self.initializer.initializer_handler.trim(), kind) {
            ("", ImageRuntime::Event) => Initialization::Auto,
            ("", ImageRuntime::Http) | (NEVER, _) => Initialization::Never,
            _ => Initialization::Strict,
        };
        let network = if self.network_controller.disable_public_network {
            ContainerNetwork::None
        } else {
            ContainerNetwork::Nat
        };
        let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let disk = u32::try_from(self.ephemeral_storage).unwrap_or(0);
        let container = ContainerSpec {
            image: config.image.clone(),
            digest: filled(&self.image_digest),
            command: config.command.clone().unwrap_or_default(),
            args: config.args.clone().unwrap_or_default(),
            working_dir: filled(&config.working_dir),
            uid: user(config.uid),
            gid: user(config.gid),
            initialization,
            network,
            health: health(&self.custom_health_check),
            shutdown: span(self.runtime_graceful_shutdown.max_shutdown_timeout),
            disk_mib: if disk == 0 {
                DEFAULT_CONTAINER_DISK_MIB
            } else {
                disk
            },
            mounts: self.mount_config.func_mounts.iter().map(mount).collect(),
        };
        Some((Runtime::Image(kind), container))
    }
}

/// The handler that says that there is no initializer.
const NEVER: &str = "none";

/// Whether the initializer that is named is one: for an image a name can say that it has none.
fn is_initialized(code: &CodeLocation) -> bool {
    match code {
        CodeLocation::Image(container) => container.initialization == Initialization::Strict,
        _ => true,
    }
}

/// -1 and 0 name nobody.
fn user(id: i64) -> u32 {
    u32::try_from(id)
        .ok()
        .filter(|id| *id != 0)
        .unwrap_or(DEFAULT_CONTAINER_USER)
}

fn span(seconds: i64) -> Option<Duration> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs)
}

/// Only a check that says everything is made.
fn health(check: &CustomHealthCheck) -> Option<HealthCheck> {
    Some(HealthCheck {
        timeout: span(check.timeout_seconds)?,
        period: span(check.period_seconds)?,
        failures: NonZeroU32::new(u32::try_from(check.failure_threshold).ok()?)?,
    })
}

fn mount(mount: &FuncMount) -> Mount {
    Mount {
        name: mount.mount_resource.clone(),
        target: mount.local_mount_path.clone(),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Initializer {
    initializer_handler: String,
    initializer_timeout: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PreStop {
    pre_stop_handler: String,
    pre_stop_timeout: i64,
}
