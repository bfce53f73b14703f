//! What the loss of a node does to its Pods.

use std::time::Instant;

use serde_json::{Value, json};

use crate::deletion::{self, Options, is_ready};
use crate::objects::{self, Owners, Write, is_terminating};
use crate::resources::Resource;
use crate::store::{Key, Store};

use super::deployment::snapshot;
use super::kubelet::Kubelet;

/// Whether its kubelet answers.
pub(super) fn node_is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
    ready.any(|condition| condition["status"] == "True")
}

/// Pods of a node that is gone are gone; Pods of one that is silent are not ready and, after a while, to be
/// deleted.
pub(super) fn step(store: &mut Store, kubelet: &mut Kubelet, now: Instant) {
    let nodes = snapshot(store, "nodes");
    for (key, pod) in snapshot(store, "pods") {
        let Some(name) = pod["spec"]["nodeName"].as_str() else {
            continue;
        };
        match nodes.iter().find(|(key, _)| key.name == name) {
            None => {
                store.remove(&key);
            }
            Some((_, node)) if node_is_ready(node) => kubelet.heard_of(&pod),
            Some(_) => silent(store, kubelet, now, &key, &pod),
        }
    }
}

fn silent(store: &mut Store, kubelet: &mut Kubelet, now: Instant, key: &Key, pod: &Value) {
    if is_ready(pod) {
        let mut new = pod.clone();
        for condition in new["status"]["conditions"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            if condition["type"] == "Ready" {
                condition["status"] = json!("False");
                condition["reason"] = json!("NodeNotReady");
                condition["lastTransitionTime"] = json!(objects::now());
            }
        }
        let write = Write::of_controller("kube-controller-manager", "status");
        let pods = Resource::of("pods");
        let _unchanged = objects::update(store, pods, key, new, &write, Owners::FromDifference);
    }
    if kubelet.silent_for_too_long(pod, now) && !is_terminating(pod) {
        // Nobody on the node confirms it: the Pod stays until the node is back or taken away.
        let _waits = deletion::delete(store, Resource::of("pods"), key, &Options::default());
    }
}
