//! How a worker becomes a node of the platform: what it is told, and what it is given to join with.

use std::collections::BTreeMap;

use bugle_types::pool::{PoolId, PoolSpec};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, EnvVar, EnvVarSource, KeyToPath, ResourceFieldSelector, Secret,
    SecretVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::worker::LABELS_FOLDER;
use crate::config::Config;

/// Where a worker finds what it joins with.
pub(super) const TOKEN_FOLDER: &str = "/run/bugle";
pub(super) const TOKEN_VOLUME: &str = "bugle-join";

/// Where it keeps who it is, which outlives its container but not its Pod, and all else that it writes.
pub(super) const DATA_FOLDER: &str = "/var/lib/bugle";
pub(super) const DATA_VOLUME: &str = "bugle-data";

/// Variables with the limits of the container, or with what its machine has where it has none.
const CPU: &str = "LIMIT_CPU";
const MEMORY: &str = "LIMIT_MEMORY";

/// What a worker needs beyond the time for its calls, in seconds, before it is killed.
const GRACE: u32 = 10;

/// The Secret with what the workers of these pools join with. It has no labels: whoever installs the platform may have
/// made it, and knows it by theirs.
pub(crate) fn secret(config: &Config, tokens: &BTreeMap<PoolId, String>) -> Secret {
    let data = tokens
        .iter()
        .map(|(pool, token)| (pool.to_string(), ByteString(token.clone().into_bytes())));
    Secret {
        metadata: ObjectMeta {
            name: Some(config.join_secret.clone()),
            ..ObjectMeta::default()
        },
        data: Some(data.collect()),
        ..Secret::default()
    }
}

/// How long a Pod may take to end.
pub(super) fn grace(config: &Config) -> i64 {
    i64::from(config.drain_seconds.saturating_add(GRACE))
}

/// What the limits are at run time: an admission controller may have set others than the pool did.
pub(super) fn limits() -> Vec<EnvVar> {
    let limit = |name: &str, resource: &str, divisor: &str| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            resource_field_ref: Some(ResourceFieldSelector {
                container_name: None,
                divisor: Some(Quantity(divisor.to_owned())),
                resource: resource.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    };
    vec![
        limit(CPU, "limits.cpu", "1m"),
        limit(MEMORY, "limits.memory", "1Mi"),
    ]
}

/// What a worker is started with, after the operator's own arguments.
pub(super) fn arguments(config: &Config, pool: &PoolSpec) -> Vec<String> {
    let mut all = vec![
        "--join".to_owned(),
        config.join_address.clone(),
        "--token-file".to_owned(),
        format!("{TOKEN_FOLDER}/token"),
        "--data-dir".to_owned(),
        DATA_FOLDER.to_owned(),
        "--name".to_owned(),
        "$(POD_NAME)".to_owned(),
        "--pod".to_owned(),
        "$(POD_UID)".to_owned(),
        "--pool".to_owned(),
        pool.id.to_string(),
        "--group".to_owned(),
        pool.group.to_string(),
        "--label-file".to_owned(),
        format!("{LABELS_FOLDER}/labels"),
        "--cpu".to_owned(),
        format!("$({CPU})"),
        "--memory".to_owned(),
        format!("$({MEMORY})"),
        "--set".to_owned(),
        format!("server.shutdown_grace_seconds={}", config.drain_seconds),
    ];
    if config.health_port != 0 {
        all.extend(["--health-port".to_owned(), config.health_port.to_string()]);
    }
    for (name, amount) in pool.resources.effective_limits() {
        // Devices, which only extended resources are; the rest is no thing that functions ask for.
        if name.contains('/') && amount.units() > 0 {
            let name = config.devices.get(&name).unwrap_or(&name);
            all.extend([
                "--resource".to_owned(),
                format!("{name}={}", amount.units()),
            ]);
        }
    }
    all
}

pub(super) fn mounts() -> [VolumeMount; 2] {
    let mount = |name: &str, path: &str, read_only| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    [
        mount(TOKEN_VOLUME, TOKEN_FOLDER, Some(true)),
        mount(DATA_VOLUME, DATA_FOLDER, None),
    ]
}

pub(super) fn volumes(config: &Config, pool: &PoolSpec) -> [Volume; 2] {
    let token = SecretVolumeSource {
        // Nobody but the worker's group reads it.
        default_mode: Some(0o440),
        items: Some(vec![KeyToPath {
            key: pool.id.to_string(),
            mode: None,
            path: "token".to_owned(),
        }]),
        optional: None,
        secret_name: Some(config.join_secret.clone()),
    };
    [
        Volume {
            name: TOKEN_VOLUME.to_owned(),
            secret: Some(token),
            ..Volume::default()
        },
        Volume {
            name: DATA_VOLUME.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        },
    ]
}
