//! What pools become.

use std::time::Duration;

use bugle_types::pool::{IdleRecycle, IdleTime, PoolResources};
use serde_json::json;

use super::*;
use crate::testing;

fn config() -> Config {
    Config {
        image: "bugle:1".into(),
        ..Config::default()
    }
}

fn rendered_of(pool: &PoolSpec) -> Value {
    json(&deployment(&config(), pool).unwrap())
}

fn pod_spec(pool: &PoolSpec) -> Value {
    rendered_of(pool)["spec"]["template"]["spec"].clone()
}

#[test]
fn a_fixed_pool_becomes_a_deployment_of_its_size() {
    let mut pool = testing::pool("p1", 3, 3);
    pool.labels.insert("app".into(), "mine".into());
    pool.labels.insert("tier".into(), "x".into());
    pool.pending_threshold = Some(Duration::from_secs(30));
    let object = rendered_of(&pool);
    assert_eq!(object["metadata"]["name"], "function-agent-p1");
    assert_eq!(object["spec"]["replicas"], 3);
    assert_eq!(
        object["spec"]["selector"],
        json!({"matchLabels": {"app": "function-agent-p1"}})
    );
    let template = &object["spec"]["template"]["metadata"];
    let labels = json!({
        "app": "function-agent-p1",
        "app.kubernetes.io/managed-by": "bugle",
        "bugle/pool": "p1",
        "default": "default",
        "tier": "x",
        "yr-reuse": "false",
    });
    assert_eq!(template["labels"], labels);
    assert_eq!(
        template["annotations"],
        json!({"yr-pod-pending-duration-threshold": "30"})
    );
}

#[test]
fn every_pod_keeps_the_restricted_profile_and_has_no_token() {
    let mut pool = testing::pool("p1", 1, 1);
    pool.init_image = Some("prepare:1".into());
    let spec = pod_spec(&pool);
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        spec["securityContext"]["seccompProfile"],
        json!({"type": "RuntimeDefault"})
    );
    for list in ["containers", "initContainers"] {
        let context = &spec[list][0]["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        assert_eq!(spec[field], Value::Null);
    }
}

#[test]
fn requests_without_a_limit_are_limits_and_the_worker_knows_them() {
    let mut pool = testing::pool("p1", 1, 1);
    let amount = |name: &str, text: &str| (name.to_owned(), text.parse().unwrap());
    pool.resources = PoolResources {
        requests: [amount("cpu", "600m"), amount("memory", "1Gi")].into(),
        limits: [amount("memory", "2Gi")].into(),
    };
    let worker = pod_spec(&pool)["containers"][0].clone();
    assert_eq!(
        worker["resources"]["limits"],
        json!({"cpu": "600m", "memory": "2Gi"})
    );
    assert_eq!(
        worker["resources"]["requests"],
        json!({"cpu": "600m", "memory": "1Gi"})
    );
    let variables = worker["env"].as_array().unwrap();
    let value = |name: &str| {
        variables
            .iter()
            .find(|variable| variable["name"] == name)
            .unwrap()["value"]
            .clone()
    };
    assert_eq!(
        (value("CPU4COMP"), value("MEM4COMP")),
        (json!("600"), json!("2048"))
    );
    assert_eq!(
        value("INIT_LABELS"),
        json!(r#"{"resource.owner":"default"}"#)
    );
}

#[test]
fn a_pool_cannot_replace_the_platforms_variables() {
    let mut pool = testing::pool("p1", 1, 1);
    pool.environment = [
        ("POD_NAME".to_owned(), "other".to_owned()),
        ("MINE".to_owned(), "1".to_owned()),
    ]
    .into();
    let worker = pod_spec(&pool)["containers"][0].clone();
    let names: Vec<_> = worker["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].clone())
        .collect();
    assert_eq!(names.iter().filter(|name| *name == "POD_NAME").count(), 1);
    assert!(names.contains(&json!("MINE")));
}

#[test]
fn pools_are_kept_apart_from_each_other_unless_they_say_otherwise() {
    let mut pool = testing::pool("p1", 1, 1);
    let rule = "preferredDuringSchedulingIgnoredDuringExecution";
    let term = pod_spec(&pool)["affinity"]["podAntiAffinity"][rule][0].clone();
    assert_eq!(
        (&term["weight"], &term["podAffinityTerm"]["topologyKey"]),
        (&json!(100), &json!("kubernetes.io/hostname"))
    );
    let others = json!([
        {"key": "bugle/pool", "operator": "Exists"},
        {"key": "bugle/pool", "operator": "NotIn", "values": ["p1"]},
    ]);
    assert_eq!(
        term["podAffinityTerm"]["labelSelector"]["matchExpressions"],
        others
    );
    let own = json!({"podAntiAffinity": {rule: [{"weight": 1, "podAffinityTerm": {"topologyKey": "zone"}}]}});
    pool.affinities = Some(own.clone());
    assert_eq!(pod_spec(&pool)["affinity"], own);
}

#[test]
fn a_scalable_pools_deployment_is_empty_and_owns_its_pods() {
    let mut pool = testing::pool("p1", 1, 4);
    pool.labels.insert(IDLE_LABEL.into(), "7".into());
    let seconds = |seconds| IdleTime::After(Duration::from_secs(seconds));
    pool.idle = IdleRecycle {
        reserved: IdleTime::Unlimited,
        scaled: seconds(9),
    };
    assert_eq!(rendered_of(&pool)["spec"]["replicas"], 0);
    let made = |origin, request: Option<&str>| {
        let plan = PodPlan {
            name: "n".into(),
            origin,
            request: request.map(str::to_owned),
        };
        json(&pod(&config(), &pool, &plan, "uid").unwrap())
    };
    let reserved = made(Origin::Reserved, None);
    let labels = &reserved["metadata"]["labels"];
    assert_eq!(
        (&labels[IDLE_LABEL], &labels["yr-reuse"]),
        (&json!("unlimited"), &Value::Null)
    );
    assert_eq!(reserved["metadata"]["annotations"]["yr-pod-pool"], "p1");
    let owner = &reserved["metadata"]["ownerReferences"][0];
    assert_eq!(
        (
            &owner["kind"],
            &owner["name"],
            &owner["controller"],
            &owner["uid"]
        ),
        (
            &json!("Deployment"),
            &json!("function-agent-p1"),
            &json!(true),
            &json!("uid")
        )
    );
    let scaled = made(Origin::Scaled, Some("r"));
    assert_eq!(scaled["metadata"]["labels"][IDLE_LABEL], "9");
    assert_eq!(scaled["metadata"]["annotations"]["bugle/request"], "r");
}

#[test]
fn an_autoscaler_targets_the_deployment_and_has_the_replicas_to_itself() {
    let mut pool = testing::pool("p1", 2, 2);
    pool.autoscaler = Some(json!({"minReplicas": 1, "maxReplicas": 4}));
    assert_eq!(rendered_of(&pool)["spec"]["replicas"], Value::Null);
    let scaler = json(&autoscaler(&pool).unwrap().unwrap());
    assert_eq!(scaler["metadata"]["name"], "function-agent-p1-hpa");
    assert_eq!(
        scaler["spec"]["scaleTargetRef"],
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "function-agent-p1"})
    );
}

#[test]
fn directories_of_nodes_are_mounted_where_the_operator_allows_it() {
    let mut pool = testing::pool("p1", 1, 1);
    let mut config = config();
    config.host_paths = vec!["/data/models".into()];
    let refused =
        |config: &Config, pool: &PoolSpec| deployment(config, pool).unwrap_err().to_string();
    let volume =
        |path: &str| vec![json!({"name": "v", "hostPath": {"path": path, "type": "Directory"}})];
    for path in ["/", "/data", "/data/models2", "/data/models/../../etc"] {
        pool.volumes = volume(path);
        assert!(
            refused(&config, &pool).contains("kubernetes.host_paths"),
            "{path}"
        );
    }
    pool.volumes = volume("/data/models/a");
    assert!(deployment(&config, &pool).is_ok());
}

#[test]
fn tokens_and_the_platforms_own_secret_are_out_of_reach() {
    let mut pool = testing::pool("p1", 1, 1);
    let config = Config {
        join_secret: "join".into(),
        ..config()
    };
    let secrets = [
        json!({"name": "v", "secret": {"secretName": "join"}}),
        json!({"name": "v", "projected": {"sources": [{"secret": {"name": "join"}}]}}),
        json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
    ];
    for volume in secrets {
        pool.volumes = vec![volume];
        assert!(deployment(&config, &pool).is_err());
    }
    pool.volumes = vec![json!({"name": "v", "emptyDir": {}})];
    for path in [
        "/var/run/secrets/kubernetes.io/serviceaccount",
        "/home/sn/podInfo",
        "//run/bugle",
        "run/./bugle/",
        "/tmp/../run/bugle/x",
        "/var/run/bugle",
        "/run/secrets",
    ] {
        pool.volume_mounts = vec![json!({"name": "v", "mountPath": path})];
        assert!(deployment(&config, &pool).is_err(), "{path}");
    }
    pool.volume_mounts = vec![json!({"name": "v", "mountPath": "/run/bugles"})];
    assert!(deployment(&config, &pool).is_ok());
}

#[test]
fn the_platforms_own_claims_and_the_labels_it_is_selected_by_are_out_of_reach() {
    let config = Config {
        own_pod: Some("my-bugle-0".into()),
        ..config()
    };
    let mut pool = testing::pool("p1", 1, 1);
    let mut claim = |name: &str| {
        pool.volumes = vec![json!({"name": "v", "persistentVolumeClaim": {"claimName": name}})];
        deployment(&config, &pool)
    };
    for ours in ["data-my-bugle-0", "data-my-bugle-12"] {
        assert!(claim(ours).unwrap_err().to_string().contains(ours));
    }
    for theirs in ["models", "data-other-0", "data-my-bugle-x", "my-bugle-0"] {
        assert!(claim(theirs).is_ok(), "{theirs}");
    }
    for label in ["app.kubernetes.io/name", "app.kubernetes.io/instance"] {
        let mut pool = testing::pool("p1", 1, 1);
        pool.labels.insert(label.into(), "bugle".into());
        let refused = deployment(&config, &pool).unwrap_err().to_string();
        assert!(refused.contains(label), "{refused}");
    }
}

#[test]
fn a_worker_joins_the_platform_with_the_token_of_its_pool() {
    let mut pool = testing::pool("p1", 1, 1);
    let amount = |name: &str, text: &str| (name.to_owned(), text.parse().unwrap());
    pool.resources = PoolResources {
        requests: [amount("cpu", "1"), amount("example.com/gpu", "2")].into(),
        limits: [amount("huawei.com/Ascend910", "8")].into(),
    };
    let config = Config {
        join_address: "bugle:31183".into(),
        drain_seconds: 5,
        devices: [(
            "huawei.com/Ascend910".to_owned(),
            "NPU/Ascend910/count".to_owned(),
        )]
        .into(),
        ..config()
    };
    let spec = json(&deployment(&config, &pool).unwrap())["spec"]["template"]["spec"].clone();
    let worker = &spec["containers"][0];
    let expected = "node --join bugle:31183 --token-file /run/bugle/token --data-dir /var/lib/bugle \
                    --name $(POD_NAME) --pod $(POD_UID) --pool p1 --group default \
                    --label-file /home/sn/podInfo/labels --cpu $(LIMIT_CPU) --memory $(LIMIT_MEMORY) \
                    --set server.shutdown_grace_seconds=5 --health-port 31184 \
                    --resource example.com/gpu=2 --resource NPU/Ascend910/count=8";
    let arguments = worker["args"].as_array().unwrap().iter();
    let arguments: Vec<_> = arguments
        .map(|argument| argument.as_str().unwrap())
        .collect();
    assert_eq!(arguments.join(" "), expected);
    let limit = worker["env"].as_array().unwrap().iter();
    let limit = limit.filter(|variable| variable["name"] == "LIMIT_CPU");
    let from = json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}});
    assert_eq!(
        limit
            .map(|variable| &variable["valueFrom"])
            .collect::<Vec<_>>(),
        [&from]
    );
    assert_eq!(worker["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(spec["terminationGracePeriodSeconds"], 15);
    let volumes = spec["volumes"].as_array().unwrap().iter();
    let secret: Vec<_> = volumes
        .filter(|volume| volume["name"] == "bugle-join")
        .collect();
    let items = json!([{"key": "p1", "path": "token"}]);
    assert_eq!(secret[0]["secret"]["items"], items, "no other pool's");
    for path in ["/run/bugle", "/var/lib/bugle/x"] {
        pool.volumes = vec![json!({"name": "v", "emptyDir": {}})];
        pool.volume_mounts = vec![json!({"name": "v", "mountPath": path})];
        assert!(deployment(&config, &pool).is_err(), "{path}");
    }
}

#[test]
fn the_digest_changes_with_what_is_applied_and_with_nothing_else() {
    let digest =
        |pool: &PoolSpec| rendered_of(pool)["metadata"]["annotations"]["bugle/manifest"].clone();
    let mut pool = testing::pool("p1", 2, 2);
    let before = digest(&pool);
    pool.ignored.push("volumes: not a JSON array".into());
    assert_eq!(digest(&pool), before);
    pool.size = 3;
    assert_ne!(digest(&pool), before);
}
