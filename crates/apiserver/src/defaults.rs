//! What the server writes into an object where the client said nothing.

use serde_json::{Value, json};

use crate::resources::Resource;

/// Fills in the defaults of the kind.
pub(crate) fn fill(resource: &Resource, object: &mut Value) {
    match resource.plural {
        "pods" => {
            each(object, "/spec", pod_spec);
            set(object, "/spec/enableServiceLinks", &json!(true));
        }
        "deployments" => each(object, "/spec", deployment),
        "replicasets" => {
            set(object, "/spec/replicas", &json!(1));
            each(object, "/spec/template/spec", pod_spec);
        }
        "horizontalpodautoscalers" => set(object, "/spec/minReplicas", &json!(1)),
        "secrets" => set(object, "/type", &json!("Opaque")),
        "namespaces" => {
            let name = object["metadata"]["name"].clone();
            set(object, "/metadata/labels", &json!({}));
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            set(object, "/spec", &json!({"finalizers": ["kubernetes"]}));
            set(object, "/status", &json!({}));
            set(object, "/status/phase", &json!("Active"));
        }
        _ => {}
    }
}

/// Sets the value unless there is one; its parent has to be there.
fn set(object: &mut Value, pointer: &str, value: &Value) {
    let Some((parent, field)) = pointer.rsplit_once('/') else {
        return;
    };
    if let Some(Value::Object(fields)) = object.pointer_mut(parent) {
        fields.entry(field).or_insert_with(|| value.clone());
    }
}

/// Does it to the object at the pointer, if there is one.
fn each(value: &mut Value, pointer: &str, fill: impl FnOnce(&mut Value)) {
    if let Some(value) = value.pointer_mut(pointer).filter(|value| value.is_object()) {
        fill(value);
    }
}

/// Does it to every item of the list at the pointer.
fn each_item(value: &mut Value, pointer: &str, fill: impl Fn(&mut Value)) {
    let items = value.pointer_mut(pointer).and_then(Value::as_array_mut);
    items.into_iter().flatten().for_each(fill);
}

fn deployment(spec: &mut Value) {
    set(spec, "/replicas", &json!(1));
    set(spec, "/strategy", &json!({}));
    set(spec, "/strategy/type", &json!("RollingUpdate"));
    if spec["strategy"]["type"] == "RollingUpdate" {
        set(spec, "/strategy/rollingUpdate", &json!({}));
        set(
            spec,
            "/strategy/rollingUpdate/maxUnavailable",
            &json!("25%"),
        );
        set(spec, "/strategy/rollingUpdate/maxSurge", &json!("25%"));
    }
    set(spec, "/revisionHistoryLimit", &json!(10));
    set(spec, "/progressDeadlineSeconds", &json!(600));
    each(spec, "/template/spec", pod_spec);
}

fn pod_spec(spec: &mut Value) {
    for (field, value) in [
        ("/restartPolicy", json!("Always")),
        ("/terminationGracePeriodSeconds", json!(30)),
        ("/dnsPolicy", json!("ClusterFirst")),
        ("/securityContext", json!({})),
        ("/schedulerName", json!("default-scheduler")),
    ] {
        set(spec, field, &value);
    }
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        set(spec, "/serviceAccount", &account);
    }
    each_item(spec, "/containers", container);
    each_item(spec, "/initContainers", container);
    each_item(spec, "/volumes", |volume| {
        for source in ["configMap", "secret", "projected", "downwardAPI"] {
            set(volume, &format!("/{source}/defaultMode"), &json!(420));
        }
        set(volume, "/hostPath/type", &json!(""));
        each_item(volume, "/downwardAPI/items", |item| {
            set(item, "/fieldRef/apiVersion", &json!("v1"));
        });
    });
}

fn container(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    let latest = !name.contains(':') && !name.contains('@') || name.ends_with(":latest");
    let pull = if latest { "Always" } else { "IfNotPresent" };
    set(container, "/imagePullPolicy", &json!(pull));
    set(container, "/resources", &json!({}));
    set(
        container,
        "/terminationMessagePath",
        &json!("/dev/termination-log"),
    );
    set(container, "/terminationMessagePolicy", &json!("File"));
    each(container, "/resources", requests_from_limits);
    each_item(container, "/ports", |port| {
        set(port, "/protocol", &json!("TCP"));
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        for (field, value) in [
            ("timeoutSeconds", 1),
            ("periodSeconds", 10),
            ("successThreshold", 1),
            ("failureThreshold", 3),
        ] {
            set(container, &format!("/{probe}/{field}"), &json!(value));
        }
        set(
            container,
            &format!("/{probe}/httpGet/scheme"),
            &json!("HTTP"),
        );
        set(container, &format!("/{probe}/httpGet/path"), &json!("/"));
    }
    each_item(container, "/env", |variable| {
        set(variable, "/valueFrom/fieldRef/apiVersion", &json!("v1"));
    });
}

/// A limit without a request is the request.
fn requests_from_limits(resources: &mut Value) {
    let Some(limits) = resources["limits"].as_object().cloned() else {
        return;
    };
    set(resources, "/requests", &json!({}));
    for (name, limit) in limits {
        if resources["requests"][&name].is_null() {
            resources["requests"][&name] = limit;
        }
    }
}

/// What admission adds to a new Pod.
pub(crate) fn admit_pod(pod: &mut Value) {
    let spec = &mut pod["spec"];
    set(spec, "/serviceAccountName", &json!("default"));
    let account = spec["serviceAccountName"].clone();
    set(spec, "/serviceAccount", &account);
    set(spec, "/priority", &json!(0));
    set(spec, "/preemptionPolicy", &json!("PreemptLowerPriority"));
    tolerations(spec);
    if spec.get("automountServiceAccountToken") != Some(&json!(false)) {
        mount_token(spec);
    }
    pod["status"] = json!({"phase": "Pending", "qosClass": quality(&pod["spec"])});
}

fn tolerations(spec: &mut Value) {
    set(spec, "/tolerations", &json!([]));
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        if let Some(items) = spec["tolerations"].as_array_mut()
            && !items.iter().any(|item| item["key"] == key)
        {
            items.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

fn mount_token(spec: &mut Value) {
    let name = format!("kube-api-access-{}", crate::objects::suffix());
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]);
    set(spec, "/volumes", &json!([]));
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.push(json!({"name": name, "projected": {"sources": sources, "defaultMode": 420}}));
    }
    for list in ["/containers", "/initContainers"] {
        each_item(spec, list, |container| {
            set(container, "/volumeMounts", &json!([]));
            if let Some(mounts) = container["volumeMounts"].as_array_mut() {
                let path = "/var/run/secrets/kubernetes.io/serviceaccount";
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": path}));
            }
        });
    }
}

/// The class of service that follows from requests and limits.
fn quality(spec: &Value) -> &'static str {
    let containers = || spec["containers"].as_array().into_iter().flatten();
    let asks = |container: &Value, kind: &str| {
        let map = container["resources"][kind].as_object();
        map.is_some_and(|map| !map.is_empty())
    };
    let guaranteed = containers().all(|container| {
        let resources = &container["resources"];
        let both = |name: &str| {
            !resources["limits"][name].is_null()
                && resources["limits"][name] == resources["requests"][name]
        };
        both("cpu") && both("memory")
    });
    if guaranteed {
        "Guaranteed"
    } else if containers().any(|container| asks(container, "requests") || asks(container, "limits"))
    {
        "Burstable"
    } else {
        "BestEffort"
    }
}
