//! Binds Pods to nodes: selector, taints, and what is free.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::objects::{self, Owners, Write, is_terminating, now};
use crate::quantity::Quantity;
use crate::resources::Resource;
use crate::store::{Key, Object, Store};

use super::deployment::snapshot;
use super::kubelet::outcome;
use super::nodes::node_is_ready;

/// Gives every Pod that has none a node, or says why there is none.
pub(super) fn step(store: &mut Store) {
    let waiting: Vec<_> = store
        .list(Resource::of("pods"), None)
        .filter(|(_, pod)| pod["spec"]["nodeName"].is_null() && !is_terminating(pod))
        .map(|(key, pod)| (key.clone(), Object::clone(pod)))
        .collect();
    if waiting.is_empty() {
        return;
    }
    let nodes = snapshot(store, "nodes");
    let mut load = load(store);
    for (key, pod) in waiting {
        let fitting = nodes
            .iter()
            .filter(|(node, object)| fits(&pod, object, load.get(&node.name)));
        // The one with the fewest Pods, so that they spread.
        let node = fitting.min_by_key(|(node, _)| load.get(&node.name).map_or(0, |used| used.pods));
        match node {
            Some((node, _)) if outcome(&pod) != Some("pending") => {
                load.entry(node.name.clone()).or_default().add(&pod);
                bind(store, &key, &pod, &node.name);
            }
            _ => unschedulable(store, &key, &pod, nodes.len()),
        }
    }
}

#[derive(Debug, Default)]
struct Used {
    pods: usize,
    cpu: i128,
    memory: i128,
}

impl Used {
    fn add(&mut self, pod: &Value) {
        self.pods += 1;
        self.cpu += request(pod, "cpu");
        self.memory += request(pod, "memory");
    }
}

fn request(pod: &Value, name: &str) -> i128 {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers
        .map(|container| amount(&container["resources"]["requests"][name]))
        .sum()
}

fn amount(value: &Value) -> i128 {
    let parsed = value
        .as_str()
        .and_then(|text| text.parse::<Quantity>().ok());
    parsed.unwrap_or_default().0
}

fn load(store: &Store) -> BTreeMap<String, Used> {
    let mut load: BTreeMap<String, Used> = BTreeMap::new();
    for (_, pod) in store.list(Resource::of("pods"), None) {
        let ended = matches!(
            pod["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        );
        if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|_| !ended) {
            load.entry(node.to_owned()).or_default().add(pod);
        }
    }
    load
}

fn fits(pod: &Value, node: &Value, used: Option<&Used>) -> bool {
    let none = Used::default();
    let used = used.unwrap_or(&none);
    let free = |name: &str, used: i128| {
        let whole = &node["status"]["allocatable"][name];
        whole.is_null() || used + request(pod, name) <= amount(whole)
    };
    let selector = pod["spec"]["nodeSelector"].as_object();
    let labels = &node["metadata"]["labels"];
    let selected = selector.is_none_or(|map| map.iter().all(|(key, value)| &labels[key] == value));
    let most = node["status"]["allocatable"]["pods"]
        .as_str()
        .and_then(|text| text.parse().ok());
    selected
        && node_is_ready(node)
        && node["spec"]["unschedulable"] != true
        && tolerated(pod, node)
        && most.is_none_or(|most| used.pods < most)
        && free("cpu", used.cpu)
        && free("memory", used.memory)
}

fn tolerated(pod: &Value, node: &Value) -> bool {
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    taints.all(|taint| {
        let mut tolerations = pod["spec"]["tolerations"].as_array().into_iter().flatten();
        taint["effect"] == "PreferNoSchedule"
            || tolerations.any(|toleration| {
                let effect =
                    toleration["effect"].is_null() || toleration["effect"] == taint["effect"];
                let exists = toleration["operator"] == "Exists";
                let key =
                    toleration["key"] == taint["key"] || (exists && toleration["key"].is_null());
                effect && key && (exists || toleration["value"] == taint["value"])
            })
    })
}

fn bind(store: &mut Store, key: &Key, pod: &Value, node: &str) {
    let mut new = pod.clone();
    new["spec"]["nodeName"] = json!(node);
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now()});
    new["status"]["conditions"] = json!([condition]);
    // A binding is one write of both, and nobody owns its fields.
    store.put(key.clone(), new);
}

fn unschedulable(store: &mut Store, key: &Key, pod: &Value, nodes: usize) {
    let known = pod["status"]["conditions"]
        .as_array()
        .and_then(|list| list.first());
    if known.is_some_and(|condition| condition["reason"] == "Unschedulable") {
        return;
    }
    let mut new = pod.clone();
    new["status"]["conditions"] = json!([{
        "type": "PodScheduled",
        "status": "False",
        "observedGeneration": pod["metadata"]["generation"],
        "lastProbeTime": null,
        "lastTransitionTime": now(),
        "reason": "Unschedulable",
        "message": format!("0/{nodes} nodes are available: {nodes} Insufficient cpu."),
    }]);
    let write = Write::of_controller("kube-scheduler", "status");
    let _unchanged = objects::update(
        store,
        Resource::of("pods"),
        key,
        new,
        &write,
        Owners::FromDifference,
    );
}
