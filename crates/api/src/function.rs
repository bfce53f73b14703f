//! Functions on the wire: the requests of F1–F3 and the function object of every answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::decode::{Below, Field, Shape};

/// Numbers by name, written as integers where they are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Amounts(pub BTreeMap<String, f64>);

impl Serialize for Amounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// Beyond this a double no longer holds every integer.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Number {
            Integer(i64),
            Float(f64),
        }
        let number = |value: &f64| {
            if value.fract() == 0.0 && value.abs() < EXACT {
                #[expect(clippy::cast_possible_truncation, reason = "checked in this line's if")]
                Number::Integer(*value as i64)
            } else {
                Number::Float(*value)
            }
        };
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, number(value))))
    }
}

/// The body of F1 (register) and F2 (update). Every field may be absent; what that means is in the
/// contract's tables 3.1 and 3.2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct FunctionRequest {
    /// `0@{service}@{name}`, `0-{service}-{name}` or a bare name. F1 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For instance `python3.11`. F1 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The draft's revision. F2 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision_id: Option<String>,
    /// At most 1024 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// At most 64 characters; Python: `module.function`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// `faas`, `yrlib` (default), `agent`, `custom` or `posix-runtime-custom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Thousandths of a core, 300 to 16000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<i64>,
    /// MB, 128 to 1073741824.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<i64>,
    /// Seconds; 900 when absent, at most 8640000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// For instance `{"NPU/Ascend910/count": 1}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_resources: Option<Amounts>,
    /// Variables of the function; encrypted at rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<BTreeMap<String, String>>,
    /// `initializer` and `pre_stop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_handler: Option<BTreeMap<String, String>>,
    /// Seconds for each of `extendedHandler`; `pre_stop` 0 to 180.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_timeout: Option<BTreeMap<String, i64>>,
    /// Instances that are kept, as text; `"0"` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_instance: Option<String>,
    /// The most instances, as text; `"100"` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_instance: Option<String>,
    /// Calls that one instance serves at once, as text; `"100"` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_num: Option<String>,
    /// `local`, `copy`, `s3` or `working_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_type: Option<String>,
    /// The folder of the code, for `local`, `copy` and `working_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_path: Option<String>,
    /// The package, for `s3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_code_path: Option<S3CodePath>,
    /// The Pod pool that new instances may come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_id: Option<String>,
    /// Resource groups, the most wanted first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_affinity_selectors: Option<Vec<ResourceAffinitySelector>>,
    /// An older name of `resourceAffinitySelectors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_policies: Option<Vec<ResourceAffinitySelector>>,
    /// Agent sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_agent_session: Option<bool>,
    /// Session contexts that never share an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_session_ctx: Option<bool>,
    /// Layer version URNs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<String>>,
    /// Free texts by name. F1 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    /// `custom` switches the range check of cpu and memory off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_type: Option<String>,
    /// An accelerator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// Instances kept warm (yrlib).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_instance: Option<i64>,
    /// Hooks of kinds other than faas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_handler: Option<BTreeMap<String, String>>,
    /// Reserved for code managed through an upload interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_upload_type: Option<String>,
    /// Whether the function reports metrics of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_metrics: Option<bool>,
    /// Whether it may be invoked without a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_func_public: Option<bool>,
    /// Seconds an instance may idle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_time: Option<i64>,
    /// Published for kinds other than faas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<String>,
    /// The root file system of instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Rootfs>,
    /// `docker`, `supervisor` or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_type: Option<String>,
    /// Timers of the autoscaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_scale_config: Option<AutoScaleConfig>,
    /// How requests are spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_policy: Option<String>,
    /// How instances are scaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_policy: Option<String>,
    /// The preferred zone.
    #[serde(rename = "priorityAz", skip_serializing_if = "Option::is_none")]
    pub priority_az: Option<String>,
    /// Container settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_meta_data: Option<ExtendedMetaData>,
    /// Through which interface it came; never part of a body.
    #[serde(skip)]
    pub interface: Interface,
}

/// The interface that a registration came through: each has its own rule for names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// openYuanrong's.
    #[default]
    OpenYuanrong,
    /// FunctionGraph's, whose names may have a `_` inside.
    FunctionGraph,
}

/// A package in an object store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct S3CodePath {
    /// Bucket name.
    pub bucket_id: String,
    /// Object name.
    pub object_id: String,
    /// Address of the store.
    pub bucket_url: String,
    /// A token for it; stored, never published.
    pub token: String,
    /// What `sha512sum` prints of the package.
    pub sha512: String,
}

/// A resource group that instances should run in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ResourceAffinitySelector {
    /// The group's name.
    pub group: String,
    /// Reserved.
    pub priority: i64,
}

/// An accelerator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Device {
    /// Model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// High-bandwidth memory.
    #[serde(skip_serializing_if = "says_nothing")]
    pub hbm: f64,
    /// Type.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub device_type: String,
    /// How many.
    #[serde(skip_serializing_if = "says_nothing")]
    pub count: f64,
    /// Latency.
    #[serde(skip_serializing_if = "says_nothing")]
    pub latency: f64,
    /// Streams.
    #[serde(skip_serializing_if = "says_nothing")]
    pub stream: f64,
}

impl Device {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        let Self {
            model,
            hbm,
            device_type,
            count,
            latency,
            stream,
        } = self;
        model.is_empty() && device_type.is_empty() && [hbm, count, latency, stream] == [&0.0; 4]
    }
}

/// The root file system of instances (contract 3.1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Rootfs {
    /// The container runtime.
    pub runtime: String,
    /// `local`, `image` or `s3`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The image, for `image`.
    pub imageurl: String,
    /// The user inside.
    pub user: String,
    /// Published ports, `[tcp:|udp:]<port>`.
    pub ports: Option<Vec<String>>,
    /// The folder, for `local`.
    pub path: String,
    /// Whether it may be written.
    pub readonly: bool,
    /// The object, for `s3`.
    #[serde(rename = "storageInfo")]
    pub storage_info: StorageInfo,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Further mounts.
    pub mounts: Option<Vec<Mount>>,
}

impl Rootfs {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        let Self {
            runtime,
            kind,
            imageurl,
            user,
            ports,
            path,
            readonly,
            storage_info,
            mountpoint,
            mounts,
        } = self;
        [runtime, kind, imageurl, user, path, mountpoint]
            .into_iter()
            .all(String::is_empty)
            && ports.is_none()
            && !readonly
            && storage_info.is_empty()
            && mounts.is_none()
    }
}

/// An object that holds a root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct StorageInfo {
    /// Address of the store.
    pub endpoint: String,
    /// Bucket name.
    pub bucket: String,
    /// Object name.
    pub object: String,
    /// Key; masked in answers.
    pub access_key: String,
    /// Secret; masked in answers.
    pub secret_key: String,
}

impl StorageInfo {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        let Self {
            endpoint,
            bucket,
            object,
            access_key,
            secret_key,
        } = self;
        [endpoint, bucket, object, access_key, secret_key]
            .into_iter()
            .all(String::is_empty)
    }
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Mount {
    /// On the host.
    pub source: String,
    /// Inside.
    pub target: String,
    /// Whether it may be written.
    pub readonly: bool,
}

/// Timers of the autoscaler; 0 or absent is the platform's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct AutoScaleConfig {
    /// Milliseconds.
    pub sla_quota: i64,
    /// Milliseconds.
    pub scale_down_time: i64,
    /// Calls.
    pub burst_scale_num: i64,
}

/// Container settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ExtendedMetaData {
    /// How the container runs.
    pub custom_container_config: CustomContainerConfig,
    /// How its health is checked.
    pub custom_health_check: CustomHealthCheck,
    /// `POST /init`.
    #[serde(skip_serializing_if = "says_nothing")]
    pub initializer: Initializer,
    /// How it is told to end.
    #[serde(skip_serializing_if = "says_nothing")]
    pub runtime_graceful_shutdown: RuntimeGracefulShutdown,
    /// What it can reach.
    #[serde(skip_serializing_if = "says_nothing")]
    pub network_controller: NetworkController,
    /// Directories of the host that it sees.
    #[serde(skip_serializing_if = "says_nothing")]
    pub mount_config: MountConfig,
    /// What it may write in all, in MB: 512 (also for 0) or 10240.
    #[serde(skip_serializing_if = "says_nothing")]
    pub ephemeral_storage: i64,
    /// The agency that FunctionGraph's clients name; kept, and without meaning here.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub xrole: String,
    /// The variables that FunctionGraph's clients named as secrets: their values are not given back
    /// there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret_variables: Vec<String>,
}

/// The initializer of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Initializer {
    /// `-` makes `POST /init` a part of the start, `none` leaves it out; empty tries it once for an
    /// image that takes events.
    pub initializer_handler: String,
    /// Seconds, 1 to 300; 3 when absent.
    pub initializer_timeout: i64,
}

/// How a container is told to end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RuntimeGracefulShutdown {
    /// Seconds that it may take after `GET /shutdown`; 0 does not ask it.
    pub max_shutdown_timeout: i64,
}

/// What a container can reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NetworkController {
    /// Whether it reaches nothing outside.
    pub disable_public_network: bool,
}

/// Directories of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MountConfig {
    /// At most five.
    pub func_mounts: Vec<FuncMount>,
}

/// A directory of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct FuncMount {
    /// `host`.
    pub mount_type: String,
    /// Its name in the operator's list.
    pub mount_resource: String,
    /// Where the container sees it.
    pub local_mount_path: String,
}

/// Whether a value is as it is read where it was left out, so that it may be. For what holds texts
/// `is_empty` is better: to compare two empty ones takes ten times as long as two kilobytes on some
/// processors, because their bytes are nowhere.
pub fn says_nothing<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How a container runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CustomContainerConfig {
    /// Path of the control interface.
    pub control_path: String,
    /// The image.
    pub image: String,
    /// Its entry point.
    pub command: Option<Vec<String>>,
    /// Its arguments.
    pub args: Option<Vec<String>>,
    /// Its working directory.
    pub working_dir: String,
    /// Its user.
    pub uid: i64,
    /// Its group.
    pub gid: i64,
}

impl CustomContainerConfig {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        let Self {
            control_path,
            image,
            command,
            args,
            working_dir,
            uid,
            gid,
        } = self;
        [control_path, image, working_dir]
            .into_iter()
            .all(String::is_empty)
            && command.is_none()
            && args.is_none()
            && [uid, gid] == [&0; 2]
    }
}

/// How the health of a container is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct CustomHealthCheck {
    /// Seconds.
    pub timeout_seconds: i64,
    /// Seconds.
    pub period_seconds: i64,
    /// Failures in a row.
    pub failure_threshold: i64,
}

const fn value(name: &'static str) -> Field {
    Field(name, Below::Value)
}

const SELECTOR: &[Field] = &[value("group"), value("priority")];

impl Shape for FunctionRequest {
    const FIELDS: &'static [Field] = &[
        value("name"),
        value("runtime"),
        value("revisionId"),
        value("description"),
        value("handler"),
        value("kind"),
        value("cpu"),
        value("memory"),
        value("timeout"),
        value("customResources"),
        value("environment"),
        value("extendedHandler"),
        value("extendedTimeout"),
        value("minInstance"),
        value("maxInstance"),
        value("concurrentNum"),
        value("storageType"),
        value("codePath"),
        Field(
            "s3CodePath",
            Below::Object(&[
                value("bucketId"),
                value("objectId"),
                value("bucketUrl"),
                value("token"),
                value("sha512"),
            ]),
        ),
        value("poolId"),
        Field("resourceAffinitySelectors", Below::List(SELECTOR)),
        Field("schedulePolicies", Below::List(SELECTOR)),
        value("enableAgentSession"),
        value("enableSessionCtx"),
        value("layers"),
        value("tags"),
        value("poolType"),
        Field(
            "device",
            Below::Object(&[
                value("model"),
                value("hbm"),
                value("type"),
                value("count"),
                value("latency"),
                value("stream"),
            ]),
        ),
        value("cacheInstance"),
        value("hookHandler"),
        value("codeUploadType"),
        value("enableMetrics"),
        value("isFuncPublic"),
        value("idleTime"),
        value("warmup"),
        Field(
            "rootfs",
            Below::Object(&[
                value("runtime"),
                value("type"),
                value("imageurl"),
                value("user"),
                value("ports"),
                value("path"),
                value("readonly"),
                Field(
                    "storageInfo",
                    Below::Object(&[
                        value("endpoint"),
                        value("bucket"),
                        value("object"),
                        value("accessKey"),
                        value("secretKey"),
                    ]),
                ),
                value("mountpoint"),
                Field(
                    "mounts",
                    Below::List(&[value("source"), value("target"), value("readonly")]),
                ),
            ]),
        ),
        value("sandboxType"),
        Field(
            "autoScaleConfig",
            Below::Object(&[
                value("slaQuota"),
                value("scaleDownTime"),
                value("burstScaleNum"),
            ]),
        ),
        value("schedulePolicy"),
        value("scalePolicy"),
        value("priorityAz"),
        Field(
            "extendedMetaData",
            Below::Object(&[
                Field(
                    "custom_container_config",
                    Below::Object(&[
                        value("control_path"),
                        value("image"),
                        value("command"),
                        value("args"),
                        value("working_dir"),
                        value("uid"),
                        value("gid"),
                    ]),
                ),
                Field(
                    "custom_health_check",
                    Below::Object(&[
                        value("timeoutSeconds"),
                        value("periodSeconds"),
                        value("failureThreshold"),
                    ]),
                ),
                Field(
                    "initializer",
                    Below::Object(&[value("initializer_handler"), value("initializer_timeout")]),
                ),
                Field(
                    "runtime_graceful_shutdown",
                    Below::Object(&[value("maxShutdownTimeout")]),
                ),
                Field(
                    "network_controller",
                    Below::Object(&[value("disable_public_network")]),
                ),
                Field(
                    "mount_config",
                    Below::Object(&[Field(
                        "func_mounts",
                        Below::List(&[
                            value("mount_type"),
                            value("mount_resource"),
                            value("local_mount_path"),
                        ]),
                    )]),
                ),
                value("ephemeral_storage"),
                value("xrole"),
                value("secret_variables"),
            ]),
        ),
    ];
}

/// The body of F3 (publish).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct PublishRequest {
    /// The draft's revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision_id: Option<String>,
    /// The label; made from the time when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_number: Option<String>,
    /// What the version is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_desc: Option<String>,
    /// The function's kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

impl Shape for PublishRequest {
    const FIELDS: &'static [Field] = &[
        value("revisionId"),
        value("versionNumber"),
        value("versionDesc"),
        value("kind"),
    ];
}

/// One version of a function, in the contract's order of fields (3.0).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct FunctionObject {
    /// The URN with version.
    pub id: String,
    /// When the function was registered.
    pub create_time: String,
    /// When it was last updated; empty if never.
    pub update_time: String,
    /// The URN without version.
    pub function_urn: String,
    /// Its name.
    pub name: String,
    /// Its tenant.
    pub tenant_id: String,
    /// Always `yrk`.
    pub business_id: String,
    /// Its product, normally empty.
    pub product_id: String,
    /// Always 0.
    pub reversed_concurrency: i64,
    /// What it is for.
    pub description: String,
    /// The request's `tags`.
    pub tag: Option<BTreeMap<String, String>>,
    /// The URN with version, to invoke it.
    pub function_version_urn: String,
    /// Needed to update and to publish.
    pub revision_id: String,
    /// Where the code is.
    pub storage_type: String,
    /// Size of an uploaded package.
    pub code_size: i64,
    /// The request's `s3CodePath.sha512`, despite the name.
    pub code_sha256: String,
    /// The folder of the code.
    pub code_path: String,
    /// The request's `s3CodePath.bucketId`.
    pub bucket_id: String,
    /// The request's `s3CodePath.objectId`.
    pub object_id: String,
    /// The handler.
    pub handler: String,
    /// Layer version URNs.
    pub layers: Option<Vec<String>>,
    /// Thousandths of a core.
    pub cpu: i64,
    /// MB.
    pub memory: i64,
    /// The runtime, normalised.
    pub runtime: String,
    /// Seconds.
    pub timeout: i64,
    /// `latest`, `$latest` or the label.
    pub version_number: String,
    /// What the version is.
    pub version_desc: String,
    /// Its variables.
    pub environment: BTreeMap<String, String>,
    /// Other resources.
    pub custom_resources: Option<Amounts>,
    /// Always 0.
    pub stateful_flag: i64,
    /// When it was last changed.
    pub last_modified: String,
    /// When the version was published; of the draft, when it was registered.
    #[serde(rename = "Published")]
    pub published: String,
    /// Instances that are kept.
    pub min_instance: i64,
    /// The most instances.
    pub max_instance: i64,
    /// Calls that one instance serves at once.
    pub concurrent_num: i64,
    /// Whether it reports metrics of its own.
    pub enable_metrics: bool,
    /// Layers in detail.
    pub func_layer: Option<Vec<FuncLayer>>,
    /// Always `unavailable`: nothing ever changes it in the original.
    pub status: String,
    /// Always 0.
    pub instance_num: i64,
    /// The accelerator.
    pub device: Device,
    /// The kind.
    pub kind: String,
    /// The root file system; its secrets are masked.
    pub rootfs: Rootfs,
    /// The preferred zone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub priority_az: String,
    /// `docker`, `supervisor` or empty.
    pub sandbox_type: String,
    /// When it was registered.
    pub created: String,
    /// The image, for a function that is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerObject>,
}

/// The image of a function, and what the function overrides of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ContainerObject {
    /// What `image` stood for when the code was last changed, `sha256:…`; empty if the registry could
    /// not be asked then.
    pub image_digest: String,
    /// `POST /pre-stop`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pre_stop_handler: String,
    /// Seconds.
    #[serde(skip_serializing_if = "says_nothing")]
    pub pre_stop_timeout: i64,
    /// The settings, as registered.
    #[serde(flatten)]
    pub settings: ExtendedMetaData,
}

/// A layer of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FuncLayer {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: i64,
    /// Its place.
    pub order: i64,
}

/// The answer of F1, F3 and F4.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FunctionAnswer {
    /// 0.
    pub code: u32,
    /// `SUCCESS`.
    pub message: String,
    /// The function.
    pub function: FunctionObject,
}

/// The answer of F2: the documented `function`, and the `result` that the original really sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UpdateAnswer {
    /// 0.
    pub code: u32,
    /// `SUCCESS`.
    pub message: String,
    /// The function.
    pub function: FunctionObject,
    /// The same function.
    pub result: FunctionObject,
}

/// The answer of F5.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionPage {
    /// The versions of the page; null if there is none.
    pub functions: Option<Vec<FunctionObject>>,
    /// The page.
    pub page_info: PageInfo,
}

/// A page, as the request named it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PageInfo {
    /// Its number, as text.
    pub page_index: String,
    /// Its size, as text.
    pub page_size: String,
    /// Versions in all.
    pub total: usize,
}

/// The result of F6.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FunctionList {
    /// The versions of the page.
    pub functions: Option<Vec<FunctionObject>>,
    /// Matches in all.
    pub total: usize,
}

/// The answer of F6.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FunctionListAnswer {
    /// 0.
    pub code: u32,
    /// Empty.
    pub message: String,
    /// The list.
    pub result: FunctionList,
}

/// The answer of F7: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeleteAnswer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_object_keeps_the_contracts_order() {
        let text = serde_json::to_string(&FunctionObject::default()).unwrap();
        let places: Vec<usize> = [
            "\"id\"",
            "\"createTime\"",
            "\"functionVersionUrn\"",
            "\"codeSha256\"",
            "\"Published\"",
            "\"funcLayer\"",
            "\"rootfs\"",
            "\"sandboxType\"",
            "\"created\"",
        ]
        .iter()
        .map(|name| {
            text.find(name)
                .unwrap_or_else(|| panic!("{name} in {text}"))
        })
        .collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn whole_amounts_are_written_as_integers() {
        let amounts = Amounts([("a".to_owned(), 1.0), ("b".to_owned(), 1.5)].into());
        assert_eq!(
            serde_json::to_string(&amounts).unwrap(),
            r#"{"a":1,"b":1.5}"#
        );
    }

    #[test]
    fn every_field_of_a_request_is_listed_for_decoding() {
        let full: serde_json::Value = serde_json::from_str(
            r#"{"name":"", "runtime":"", "revisionId":"", "description":"", "handler":"",
            "kind":"", "cpu":1, "memory":1, "timeout":1, "customResources":{}, "environment":{},
            "extendedHandler":{}, "extendedTimeout":{}, "minInstance":"", "maxInstance":"",
            "concurrentNum":"", "storageType":"", "codePath":"", "s3CodePath":{}, "poolId":"",
            "resourceAffinitySelectors":[], "schedulePolicies":[], "enableAgentSession":true,
            "enableSessionCtx":true, "layers":[], "tags":{}, "poolType":"", "device":{},
            "cacheInstance":1, "hookHandler":{}, "codeUploadType":"", "enableMetrics":true,
            "isFuncPublic":true, "idleTime":1, "warmup":"", "rootfs":{}, "sandboxType":"",
            "autoScaleConfig":{}, "schedulePolicy":"", "scalePolicy":"", "priorityAz":"",
            "extendedMetaData":{}}"#,
        )
        .unwrap();
        let request: FunctionRequest = crate::decode::read(full.to_string().as_bytes()).unwrap();
        let back = serde_json::to_value(&request).unwrap();
        let names = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(names(&back), names(&full));
        assert_eq!(FunctionRequest::FIELDS.len(), names(&full).len());
    }
}
