//! Everything that is sent to a cluster, against the schemas of the Kubernetes versions that are supported.
//!
//! The schemas come with `kubernetes-validate` and Helm's own engine with `helm-python-sdk`, both Python packages; what is
//! missing is installed into the target folder.
#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bugle_kubernetes::{Config, manifest};
use bugle_types::pool::{IdleRecycle, IdleTime, PoolResources, PoolSpec};
use serde_json::{Value, json};

const PACKAGES: [&str; 2] = ["kubernetes-validate==1.37.0", "helm-python-sdk==0.2.2"];

/// Where the packages are.
fn packages() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes-tools");
    let done = folder.join("complete");
    if !done.try_exists().unwrap() {
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
        ]);
        let status = pip.arg(&folder).args(PACKAGES).status().unwrap();
        assert!(status.success(), "pip cannot install {PACKAGES:?}");
        std::fs::write(done, "").unwrap();
    }
    folder
}

fn pool(id: &str, size: u32, max_size: u32) -> PoolSpec {
    let amount = |name: &str, text: &str| (name.to_owned(), text.parse().unwrap());
    PoolSpec {
        reuse: true,
        labels: [("tier".to_owned(), "x".to_owned())].into(),
        environment: [("MINE".to_owned(), "1".to_owned())].into(),
        resources: PoolResources {
            requests: [
                amount("cpu", "600m"),
                amount("memory", "512Mi"),
                amount("example.com/gpu", "1"),
            ]
            .into(),
            limits: [amount("memory", "1Gi")].into(),
        },
        node_selector: [("disk".to_owned(), "ssd".to_owned())].into(),
        ..PoolSpec::new(id.parse().unwrap(), size, max_size)
    }
}

/// Every field that a user can write, in a form that the API takes.
fn full() -> PoolSpec {
    PoolSpec {
        image: Some("example.com/worker:1".to_owned()),
        init_image: Some("example.com/prepare:1".to_owned()),
        volumes: vec![
            json!({"name": "host", "hostPath": {"path": "/data/a", "type": "Directory"}}),
            json!({"name": "map", "configMap": {"name": "m", "defaultMode": 420, "items": [{"key": "k", "path": "p"}]}}),
            json!({"name": "empty", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
            json!({"name": "secret", "secret": {"secretName": "s", "optional": true}}),
            json!({"name": "claim", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}}),
            json!({"name": "several", "projected": {"sources": [{"configMap": {"name": "m"}}]}}),
        ],
        volume_mounts: vec![
            json!({"name": "empty", "mountPath": "/scratch", "readOnly": false, "subPath": "a"}),
        ],
        affinities: Some(json!({
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]},
            ]}},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}},
            ]},
        })),
        runtime_class_name: Some("gvisor".to_owned()),
        tolerations: vec![json!({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"})],
        autoscaler: Some(json!({
            "minReplicas": 1,
            "maxReplicas": 5,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
        })),
        topology_spread: vec![json!({
            "maxSkew": 1,
            "topologyKey": "zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"a": "b"}},
        })],
        pending_threshold: Some(Duration::from_secs(30)),
        ..pool("full", 2, 2)
    }
}

fn manifests() -> Vec<Value> {
    let config = Config {
        service_account: "worker".to_owned(),
        join_address: "bugle:31183".to_owned(),
        join_secret: "join".to_owned(),
        host_paths: vec!["/data".to_owned()],
        health_port: 8080,
        ..Config::default()
    };
    let mut scalable = pool("scalable", 1, 4);
    scalable.idle = IdleRecycle {
        reserved: IdleTime::Unlimited,
        scaled: IdleTime::After(Duration::from_mins(1)),
    };
    let pools = [pool("small", 0, 0), scalable, full()];
    pools
        .iter()
        .flat_map(|pool| manifest::rendered(&config, pool).unwrap())
        .collect()
}

#[test]
fn every_manifest_fits_the_schemas_of_all_supported_versions() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("manifests.json");
    let manifests = manifests();
    std::fs::write(&file, json!(manifests).to_string()).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .arg(root.join("tests/schemas/check.py"))
        .arg(&file)
        .arg(root.join("../../deploy/helm/bugle"))
        .env("PYTHONPATH", packages())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}{errors}",
        String::from_utf8_lossy(&output.stdout)
    );
    let count: usize = String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(
        count > manifests.len() + 20,
        "{count} manifests were checked"
    );
}
