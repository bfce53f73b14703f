//! The Pod of a worker.

use std::collections::BTreeMap;

use bugle_types::pool::{PoolSpec, Quantity};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EnvVar,
    EnvVarSource, HTTPGetAction, ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity,
    PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext,
    Toleration, TopologySpreadConstraint, Volume, VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{Error, join, typed};
use crate::config::Config;
use crate::names;

/// Where a worker finds its Pod's labels, as lines `key="value"`.
pub(super) const LABELS_FOLDER: &str = "/home/sn/podInfo";

/// The volume with them.
const LABELS_VOLUME: &str = "pod-info";

/// Where no volume of a pool may be mounted.
const RESERVED: [&str; 4] = [
    LABELS_FOLDER,
    "/var/run/secrets",
    join::TOKEN_FOLDER,
    join::DATA_FOLDER,
];

/// Volumes of the platform; a pool takes other names.
const OURS: [&str; 3] = [LABELS_VOLUME, join::TOKEN_VOLUME, join::DATA_VOLUME];

/// The specification of a pool's Pods.
pub(super) fn spec(config: &Config, pool: &PoolSpec) -> Result<PodSpec, Error> {
    let mounts = mounts(pool)?;
    let mut volumes = volumes(config, pool)?;
    volumes.push(labels_volume());
    if config.joins() {
        volumes.extend(join::volumes(config, pool));
    }
    let init = pool
        .init_image
        .clone()
        .unwrap_or_else(|| config.init_image.clone());
    let init = (!init.is_empty()).then(|| {
        let mut container = container("function-agent-init", init);
        container.volume_mounts = Some(mounts.clone());
        vec![container]
    });
    let account = &config.service_account;
    Ok(PodSpec {
        affinity: Some(affinity(pool)?),
        automount_service_account_token: Some(false),
        containers: vec![worker(config, pool, mounts)],
        enable_service_links: Some(false),
        init_containers: init,
        node_selector: (!pool.node_selector.is_empty()).then(|| pool.node_selector.clone()),
        runtime_class_name: pool.runtime_class_name.clone(),
        security_context: Some(PodSecurityContext {
            fs_group: Some(config.user.into()),
            run_as_group: Some(config.user.into()),
            run_as_non_root: Some(true),
            run_as_user: Some(config.user.into()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        service_account_name: (!account.is_empty()).then(|| account.clone()),
        termination_grace_period_seconds: config.joins().then(|| join::grace(config)),
        tolerations: some(
            pool.tolerations
                .iter()
                .map(|toleration| typed::<Toleration>("tolerations", toleration.clone()))
                .collect::<Result<_, _>>()?,
        ),
        topology_spread_constraints: some(
            pool.topology_spread
                .iter()
                .map(|constraint| {
                    typed::<TopologySpreadConstraint>(
                        "topology_spread_constraints",
                        constraint.clone(),
                    )
                })
                .collect::<Result<_, _>>()?,
        ),
        volumes: Some(volumes),
        ..PodSpec::default()
    })
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A container that may do as little as any.
fn container(name: &str, image: String) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add: None,
                drop: Some(vec!["ALL".to_owned()]),
            }),
            privileged: Some(false),
            run_as_non_root: Some(true),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn worker(config: &Config, pool: &PoolSpec, mut mounts: Vec<VolumeMount>) -> Container {
    mounts.push(VolumeMount {
        name: LABELS_VOLUME.to_owned(),
        mount_path: LABELS_FOLDER.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    let image = pool.image.clone().unwrap_or_else(|| config.image.clone());
    let mut arguments = config.arguments.clone();
    let mut env = variables(pool);
    if config.joins() {
        mounts.extend(join::mounts());
        arguments.extend(join::arguments(config, pool));
    }
    env.extend(pool_variables(pool, &env));
    let probed = config.joins() && config.health_port != 0;
    Container {
        args: some(arguments),
        env: Some(env),
        liveness_probe: probed.then(|| alive(config.health_port)),
        readiness_probe: probed.then(|| ready(config.health_port)),
        resources: resources(pool),
        volume_mounts: Some(mounts),
        ..container("runtime-manager", image)
    }
}

/// A worker that is connected to the platform can have instances.
fn ready(port: u16) -> Probe {
    Probe {
        period_seconds: Some(2),
        ..probe("/readyz", port)
    }
}

/// One that does not answer at all is started anew.
fn alive(port: u16) -> Probe {
    Probe {
        failure_threshold: Some(6),
        initial_delay_seconds: Some(10),
        period_seconds: Some(10),
        ..probe("/healthz", port)
    }
}

fn probe(path: &str, port: u16) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(port.into()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// The pool's own variables. It cannot replace one of the platform's.
fn pool_variables(pool: &PoolSpec, ours: &[EnvVar]) -> Vec<EnvVar> {
    let free = |name: &String| !name.is_empty() && ours.iter().all(|known| known.name != *name);
    let chosen = pool.environment.iter().filter(|(name, _)| free(name));
    chosen
        .map(|(name, value)| EnvVar {
            name: name.clone(),
            value: Some(value.clone()),
            value_from: None,
        })
        .collect()
}

/// The platform's variables.
fn variables(pool: &PoolSpec) -> Vec<EnvVar> {
    let from_pod = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    };
    let variable = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    };
    let limits = pool.resources.effective_limits();
    let mut all = vec![
        from_pod("POD_NAME", "metadata.name"),
        from_pod("POD_IP", "status.podIP"),
        from_pod("HOST_IP", "status.hostIP"),
        from_pod("NODE_ID", "metadata.name"),
        variable("INIT_LABELS", r#"{"resource.owner":"default"}"#.to_owned()),
        variable("POOL_ID", pool.id.to_string()),
    ];
    all.extend(
        limits
            .get("cpu")
            .map(|cpu| variable("CPU4COMP", cpu.millis().to_string())),
    );
    all.extend(
        limits
            .get("memory")
            .map(|memory| variable("MEM4COMP", memory.mebi().to_string())),
    );
    all.push(from_pod("POD_UID", "metadata.uid"));
    all.extend(join::limits());
    all
}

fn resources(pool: &PoolSpec) -> Option<ResourceRequirements> {
    let amounts = |map: BTreeMap<String, Quantity>| {
        let map: BTreeMap<_, _> = map
            .into_iter()
            .map(|(name, amount)| (name, Amount(amount.as_str().to_owned())))
            .collect();
        (!map.is_empty()).then_some(map)
    };
    let requirements = ResourceRequirements {
        claims: None,
        limits: amounts(pool.resources.effective_limits()),
        requests: amounts(pool.resources.requests.clone()),
    };
    (requirements != ResourceRequirements::default()).then_some(requirements)
}

/// The volumes of the pool, as far as the platform allows them.
fn volumes(config: &Config, pool: &PoolSpec) -> Result<Vec<Volume>, Error> {
    pool.volumes
        .iter()
        .map(|value| {
            let volume: Volume = typed("volumes", value.clone())?;
            allowed(config, &volume, value)?;
            Ok(volume)
        })
        .collect()
}

fn allowed(config: &Config, volume: &Volume, value: &Value) -> Result<(), Error> {
    let refuse = |what: String, why| Err(Error::Forbidden { what, why });
    let name = &volume.name;
    if OURS.contains(&name.as_str()) {
        return refuse(
            format!("volume name {name}"),
            "the platform uses it, take another",
        );
    }
    if let Some(host) = &volume.host_path {
        let below = |folder: &String| {
            let rest = host.path.strip_prefix(folder.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let climbs = host.path.split('/').any(|part| part == "..");
        if climbs || !config.host_paths.iter().any(below) {
            let why = "the operator has to list the directory in kubernetes.host_paths";
            return refuse(
                format!("volume {name}: the directory {} of the node", host.path),
                why,
            );
        }
    }
    let claim = volume.persistent_volume_claim.as_ref();
    if let Some(claim) = claim.filter(|claim| config.is_claim_of_ours(&claim.claim_name)) {
        let why = "the platform keeps its own data there";
        return refuse(
            format!("volume {name}: the claim {}", claim.claim_name),
            why,
        );
    }
    // Wherever a Secret may be named: alone, or among the sources of a projection.
    let secrets = volume
        .secret
        .iter()
        .filter_map(|secret| secret.secret_name.as_deref());
    let sources = volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten());
    let projected =
        sources.filter_map(|source| source.secret.as_ref().map(|secret| secret.name.as_str()));
    let mut named = secrets.chain(projected);
    if named.any(|secret| secret == config.join_secret) {
        let why = "workers join the platform with it";
        return refuse(
            format!("volume {name}: the Secret {}", config.join_secret),
            why,
        );
    }
    if value.to_string().contains("\"serviceAccountToken\"") {
        let why = "functions get no access to the cluster";
        return refuse(format!("volume {name}: a service account's token"), why);
    }
    Ok(())
}

fn mounts(pool: &PoolSpec) -> Result<Vec<VolumeMount>, Error> {
    pool.volume_mounts
        .iter()
        .map(|value| {
            let mount: VolumeMount = typed("volume_mounts", value.clone())?;
            let path = resolved(&mount.mount_path);
            if RESERVED
                .iter()
                .any(|reserved| path.starts_with(&resolved(reserved)))
            {
                return Err(Error::Forbidden {
                    what: format!("a mount at {}", mount.mount_path),
                    why: "the platform uses it, take another directory",
                });
            }
            Ok(mount)
        })
        .collect()
}

/// The parts of a path as a machine reads it: `//run/./x/../bugle` is `/run/bugle`.
fn resolved(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    // The one is a link to the other.
    if parts.starts_with(&["var", "run"]) {
        parts.remove(0);
    }
    parts
}

fn labels_volume() -> Volume {
    Volume {
        name: LABELS_VOLUME.to_owned(),
        downward_api: Some(DownwardAPIVolumeSource {
            default_mode: None,
            items: Some(vec![DownwardAPIVolumeFile {
                path: "labels".to_owned(),
                field_ref: Some(ObjectFieldSelector {
                    api_version: None,
                    field_path: "metadata.labels".to_owned(),
                }),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..Volume::default()
    }
}

/// What the pool says; pools that say nothing about other Pods are kept apart from each other.
fn affinity(pool: &PoolSpec) -> Result<Affinity, Error> {
    let given = pool.affinities.clone().unwrap_or_else(|| json!({}));
    let mut affinity: Affinity = typed("affinities", given)?;
    if affinity.pod_anti_affinity.is_none() {
        affinity.pod_anti_affinity = Some(apart(pool));
    }
    Ok(affinity)
}

/// Rather not beside workers of other pools.
fn apart(pool: &PoolSpec) -> PodAntiAffinity {
    let rule = |key: &str, operator: &str, values: Option<Vec<String>>| LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values,
    };
    let others = LabelSelector {
        match_expressions: Some(vec![
            rule(names::POOL, "Exists", None),
            rule(names::POOL, "NotIn", Some(vec![pool.id.to_string()])),
        ]),
        ..LabelSelector::default()
    };
    PodAntiAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
            weight: 100,
            pod_affinity_term: PodAffinityTerm {
                label_selector: Some(others),
                topology_key: "kubernetes.io/hostname".to_owned(),
                ..PodAffinityTerm::default()
            },
        }]),
        required_during_scheduling_ignored_during_execution: None,
    }
}
