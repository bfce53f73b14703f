//! The server against a real one: the recorded requests are sent again, in their order, and the answers
//! compared.
//!
//! `recorded/exchange.jsonl` holds requests to a Kubernetes 1.36.3 server and its answers; discovery is cut to
//! the kinds and subresources that this server has. Compared are the status code, the reason and the shape: the same
//! fields with the same types everywhere, the same values but for names that end at random, uids, times,
//! revisions, addresses, and sentences for people. [`DEVIATIONS`] is everything that is not the same.

use std::collections::BTreeSet;
use std::time::Duration;

use bugle_apiserver::{ApiServer, Options};
use serde_json::{Value, json};

use crate::http::send;

/// Paths that differ, by the exchange (empty: all of them), and why.
const DEVIATIONS: &[(&str, &str, &str)] = &[
    (
        "",
        "metadata.annotations.deployment.kubernetes.io/revision",
        "what the controllers have done since the last request is a matter of time",
    ),
    (
        "",
        "spec.volumes[].projected.sources",
        "the token's volume has what its cluster's flavour adds",
    ),
    (
        "",
        "metadata.labels.topology.kubernetes.io/zone",
        "the nodes have no zones",
    ),
    (
        "",
        "status.conditions[].observedGeneration",
        "only the real scheduler writes it",
    ),
    (
        "",
        "status.conditions[].reason",
        "the recorded kubelet gives reasons for readiness as well",
    ),
    (
        "",
        "status.conditions[].message",
        "the recorded kubelet gives reasons for readiness as well",
    ),
    (
        "34",
        "status",
        "what the controllers have done since the last request is a matter of time",
    ),
    (
        "35",
        "status",
        "what the controllers have done since the last request is a matter of time",
    ),
    (
        "40",
        "status",
        "what the controllers have done since the last request is a matter of time",
    ),
    (
        "42",
        "status",
        "what the controllers have done since the last request is a matter of time",
    ),
    ("55", "status", "an autoscaler had scaled the recorded one"),
    (
        "55",
        "metadata.generation",
        "an autoscaler had scaled the recorded one",
    ),
    (
        "55",
        "spec.replicas",
        "an autoscaler had scaled the recorded one",
    ),
    (
        "53",
        "metadata.annotations",
        "here the Pod's fate is asked for in an annotation",
    ),
    (
        "57",
        "spec.template.metadata.annotations",
        "here the Pod's fate is asked for in an annotation",
    ),
    (
        "57",
        "metadata.generation",
        "an autoscaler had scaled the recorded one",
    ),
    (
        "57",
        "spec.replicas",
        "an autoscaler had scaled the recorded one",
    ),
    (
        "57",
        "status",
        "what the controllers have done since the last request is a matter of time",
    ),
    (
        "47",
        "status",
        "autoscalers are stored, and nothing scales them",
    ),
    (
        "47",
        "metadata.managedFields",
        "autoscalers are stored, and nothing scales them",
    ),
    (
        "40",
        "metadata.annotations",
        "what the controllers have done since the last request is a matter of time",
    ),
    (
        "42",
        "metadata.annotations",
        "what the controllers have done since the last request is a matter of time",
    ),
];

/// Values that differ from run to run, by the last part of their path.
const VARYING: &[&str] = &[
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "time",
    "startTime",
    "startedAt",
    "lastTransitionTime",
    "lastUpdateTime",
    "continue",
    "message",
    "hostIP",
    "podIP",
    "ip",
    "nodeName",
    "containerID",
    "imageID",
    "pod-template-hash",
    "generateName",
    "manager",
    "serverAddress",
];

fn exchanges() -> Vec<Value> {
    let lines = include_str!("recorded/exchange.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

struct Replay {
    server: ApiServer,
    url: String,
}

impl Replay {
    fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        send(
            &self.url,
            method,
            path,
            &[
                ("Authorization", "Bearer admin"),
                ("Content-Type", "application/json"),
            ],
            &body,
        )
        .body()
    }

    fn deployment(&self, name: &str, image: &str, cpu: &str) {
        let container = json!({"name": "agent", "image": image, "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}});
        self.admin("POST", "/apis/apps/v1/namespaces/record/deployments", &json!({
            "metadata": {"name": name, "labels": {"pool": name}},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"pool": name}}, "template": {
                "metadata": {"labels": {"pool": name}, "annotations": if name == "broken" { json!({"fake.kubelet/outcome": "image-pull", "fake.kubelet/ready-delay": "60"}) } else { Value::Null }},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
            }},
        }));
    }

    /// Waits until as many Pods of the pool are in that state as there are.
    async fn until(&self, pool: &str, count: usize, fits: impl Fn(&Value) -> bool) {
        self.server
            .until(|server| {
                let pods = server.objects("pods", "record");
                let mut pods = pods
                    .iter()
                    .filter(|pod| pod["metadata"]["labels"]["pool"] == pool);
                let (mut all, mut good) = (0, 0);
                for pod in &mut pods {
                    all += 1;
                    good +=
                        usize::from(fits(pod) && pod["metadata"]["deletionTimestamp"].is_null());
                }
                all == count && good == count
            })
            .await;
        let settled = |server: &ApiServer| {
            let deployments = server.objects("deployments", "record");
            deployments.iter().all(|deployment| {
                deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
            })
        };
        self.server.until(settled).await;
    }

    /// What happened between the recorded requests.
    async fn before(&self, name: &str) {
        let ready = |pod: &Value| pod["status"]["conditions"][2]["status"] == "True";
        match &name[..2] {
            "24" => {
                self.until("pool", 2, ready).await;
                let available = |server: &ApiServer| {
                    server
                        .objects("deployments", "record")
                        .iter()
                        .any(|object| object["status"]["readyReplicas"] == 2)
                };
                self.server.until(available).await;
            }
            "43" | "47" => self.until("ssa", 1, ready).await,
            "49" => {
                self.until("pool", 2, ready).await;
                let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"pool": "pool"}}}});
                self.admin(
                    "POST",
                    "/apis/policy/v1/namespaces/record/poddisruptionbudgets",
                    &budget,
                );
            }
            "50" => {
                self.admin(
                    "DELETE",
                    "/apis/policy/v1/namespaces/record/poddisruptionbudgets/b",
                    &Value::Null,
                );
            }
            "53" => {
                self.deployment("broken", "peer/no-such-image:1", "100m");
                let failed = |pod: &Value| {
                    pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                        == "ErrImagePull"
                };
                self.until("broken", 1, failed).await;
            }
            "54" => {
                self.deployment("big", "peer/agent:1", "1k");
                self.until("big", 1, |pod| {
                    pod["status"]["conditions"][0]["reason"] == "Unschedulable"
                })
                .await;
                self.until("pool", 2, ready).await;
            }
            "56" => self.until("ssa", 1, ready).await,
            "90" => {
                self.server.create_namespace("record");
                self.server.compact();
            }
            _ => {}
        }
    }

    /// Puts our names where the recording has its own.
    fn path(&self, recorded: &str) -> String {
        let mut path = recorded.to_owned();
        for pool in ["pool", "ssa"] {
            let prefix = format!("/pods/{pool}-");
            if let Some(at) = path.find(&prefix) {
                let end = path[at + 6..]
                    .find('/')
                    .map_or(path.len(), |end| at + 6 + end);
                let pods = self.server.objects("pods", "record");
                let pod = pods
                    .iter()
                    .find(|pod| pod["metadata"]["labels"]["pool"] == pool)
                    .unwrap();
                path.replace_range(at + 6..end, pod["metadata"]["name"].as_str().unwrap());
            }
        }
        path
    }
}

fn headers(name: &str, content_type: &Value) -> Vec<(&'static str, String)> {
    let token = match &name[..2] {
        "22" => Some("nobody"),
        "23" => None,
        "48" => Some("account"),
        _ => Some("admin"),
    };
    let accept = match &name[..2] {
        "06" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        "30" => "application/json;as=Table;v=v1;g=meta.k8s.io",
        _ => "application/json",
    };
    let mut headers = vec![("Accept", accept.to_owned())];
    headers.extend(token.map(|token| ("Authorization", format!("Bearer {token}"))));
    headers.extend(
        content_type
            .as_str()
            .map(|kind| ("Content-Type", kind.to_owned())),
    );
    headers
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Everything in which the two differ.
fn compare(path: &str, wanted: &Value, found: &Value, differences: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            let keys: BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
            for key in keys {
                let below = format!("{path}.{key}").trim_start_matches('.').to_owned();
                match (wanted.get(key), found.get(key)) {
                    (Some(wanted), Some(found)) => compare(&below, wanted, found, differences),
                    (Some(_), None) => differences.push(format!("{below}: missing")),
                    _ => differences.push(format!("{below}: too much")),
                }
            }
        }
        (Value::Array(wanted), Value::Array(found)) => {
            if wanted.len() != found.len() {
                differences.push(format!(
                    "{path}: {} items, not {}",
                    found.len(),
                    wanted.len()
                ));
            }
            for (wanted, found) in wanted.iter().zip(found) {
                compare(&format!("{path}[]"), wanted, found, differences);
            }
        }
        _ if kind_of(wanted) != kind_of(found) => {
            differences.push(format!(
                "{path}: {} instead of {}",
                kind_of(found),
                kind_of(wanted)
            ));
        }
        _ => {
            let last = path.rsplit(['.', ']']).next().unwrap_or_default();
            let random = last == "name" && wanted.as_str().is_some_and(|name| name.len() > 10);
            if wanted != found && !random && !VARYING.contains(&last) {
                differences.push(format!("{path}: {found} instead of {wanted}"));
            }
        }
    }
}

/// Brings what varies without meaning into one form: the order of conditions and kinds, names with random ends in
/// the cells of tables, and what belongs to whom beyond the managers and operations.
fn normal(name: &str, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Array(entries)) = fields.get_mut("managedFields") {
                if name.starts_with("39") || name.starts_with("40") || name.starts_with("42") {
                    entries.retain(|entry| entry["operation"] == "Apply");
                } else {
                    // Controllers write in more steps than ours do.
                    fields.remove("managedFields");
                }
            }
            for (key, below) in fields.iter_mut() {
                if let (true, Value::Array(items)) = (
                    ["conditions", "resources", "groups", "items", "causes"]
                        .contains(&key.as_str()),
                    &mut *below,
                ) {
                    items.sort_by_key(|item| {
                        [
                            &item["type"],
                            &item["name"],
                            &item["resource"],
                            &item["field"],
                            &item["metadata"]["name"],
                        ]
                        .map(Value::to_string)
                    });
                }
                if key == "columnDefinitions" {
                    below
                        .as_array_mut()
                        .unwrap()
                        .iter_mut()
                        .for_each(|column| column["description"] = json!(""));
                }
                if key == "cells" {
                    below[4] = json!("age");
                }
                normal(name, below);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| normal(name, item)),
        _ => {}
    }
}

fn is_known(name: &str, difference: &str) -> bool {
    DEVIATIONS.iter().any(|(exchange, path, _)| {
        let path_of = difference.split(": ").next().unwrap_or_default();
        name.starts_with(exchange) && path_of.trim_start_matches("items[].").starts_with(path)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_request_is_answered_as_a_real_server_answered_it() {
    let server = ApiServer::start(Options {
        stop_delay: Duration::from_millis(300),
        ..Options::default()
    })
    .await
    .unwrap();
    server.create_namespace("record");
    server.grant(
        "account",
        "system:serviceaccount:record:default",
        Vec::new(),
    );
    let replay = Replay {
        url: server.url(),
        server,
    };
    let mut failures = Vec::new();
    for exchange in exchanges() {
        let name = exchange["name"].as_str().unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(20), replay.before(name)).await;
        assert!(
            waited.is_ok(),
            "{name}: what comes before it did not happen"
        );
        let request = &exchange["request"];
        let path = replay.path(request["path"].as_str().unwrap());
        let path = if name.starts_with("90") {
            format!("{path}&timeoutSeconds=1")
        } else {
            path
        };
        let body = match &request["body"] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other if name.starts_with("33") => stale(other),
            other => other.to_string(),
        };
        let headers = headers(name, &request["content_type"]);
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let found = send(
            &replay.url,
            request["method"].as_str().unwrap(),
            &path,
            &headers,
            &body,
        );
        let wanted = &exchange["response"];
        if wanted["status"] != found.status {
            failures.push(format!(
                "{name}: status {} instead of {}: {}",
                found.status, wanted["status"], found.text
            ));
            continue;
        }
        if let Some(warning) = wanted["headers"]["Warning"].as_str() {
            assert_eq!(
                found.headers.get("warning").map(String::as_str),
                Some(warning),
                "{name}"
            );
        }
        let (mut wanted, mut found) = (wanted["body"].clone(), found.body());
        normal(name, &mut wanted);
        normal(name, &mut found);
        let mut differences = Vec::new();
        compare("", &wanted, &found, &mut differences);
        let differences = differences
            .into_iter()
            .filter(|difference| !is_known(name, difference));
        failures.extend(differences.map(|difference| format!("{name}: {difference}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The recorded write with a revision that our object never has again.
fn stale(object: &Value) -> String {
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = json!("1");
    object["metadata"].as_object_mut().unwrap().remove("uid");
    object.to_string()
}
