//! The nodes' part in the life of a Pod, played from its annotations.
//!
//! `fake.kubelet/outcome` is one of `image-pull`, `crash-loop`, `never-ready`, `succeed`, `fail`, `evict`
//! and `pending`; an image named `no-such-image` cannot be pulled either. `fake.kubelet/start-delay`, `ready-delay`, `stop-delay` and `life` are seconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::objects::{self, Owners, Write, is_terminating, now, uid};
use crate::resources::Resource;
use crate::store::{Key, Store};

use crate::server::Hosts;

use super::deployment::snapshot;
use super::nodes::node_is_ready;

/// How long things take where a Pod says nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delays {
    /// From the binding to running containers.
    pub(crate) start: Duration,
    /// From there to readiness.
    pub(crate) ready: Duration,
    /// From the deletion to the end.
    pub(crate) stop: Duration,
    /// How long a node may be silent before its Pods are to be replaced.
    pub(crate) silence: Duration,
}

/// What is known about Pods beside their objects.
#[derive(Debug)]
pub(crate) struct Kubelet {
    delays: Delays,
    hosts: Hosts,
    pods: BTreeMap<String, Track>,
    addresses: u32,
}

#[derive(Debug)]
struct Track {
    bound: Instant,
    address: u32,
    stage: Stage,
    stopping: Option<Instant>,
    silent: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Bound,
    Creating,
    Started,
    Settled,
    Ended,
}

/// What the Pod asks to become of it.
pub(super) fn outcome(pod: &Value) -> Option<&str> {
    let asked = pod["metadata"]["annotations"]["fake.kubelet/outcome"].as_str();
    let image = pod["spec"]["containers"][0]["image"].as_str();
    let missing = image.is_some_and(|image| image.contains("no-such-image"));
    asked.or_else(|| missing.then_some("image-pull"))
}

fn seconds(pod: &Value, name: &str) -> Option<Duration> {
    let text = pod["metadata"]["annotations"][format!("fake.kubelet/{name}")].as_str()?;
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

impl Kubelet {
    /// One that has not seen any Pod.
    pub(crate) fn new(delays: Delays, hosts: Hosts) -> Self {
        Self {
            delays,
            hosts,
            pods: BTreeMap::new(),
            addresses: 1,
        }
    }

    /// The node of the Pod answers.
    pub(super) fn heard_of(&mut self, pod: &Value) {
        if let Some(track) = self.pods.get_mut(uid(pod)) {
            track.silent = None;
        }
    }

    /// Whether the node of the Pod has not answered for so long that the Pod is given up.
    pub(super) fn silent_for_too_long(&mut self, pod: &Value, now: Instant) -> bool {
        let silence = self.delays.silence;
        self.pods
            .get_mut(uid(pod))
            .is_some_and(|track| now >= *track.silent.get_or_insert(now) + silence)
    }

    /// Moves every Pod on, and tells when the next one is due.
    pub(super) fn step(&mut self, store: &mut Store, now: Instant) -> Option<Instant> {
        if self.hosts == Hosts::Yours {
            return None;
        }
        let nodes = snapshot(store, "nodes");
        let answers = |pod: &Value| {
            let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            nodes
                .iter()
                .any(|(key, node)| key.name == name && node_is_ready(node))
        };
        let pods = snapshot(store, "pods");
        self.pods
            .retain(|known, _| pods.iter().any(|(_, pod)| uid(pod) == known));
        let mut next: Option<Instant> = None;
        for (key, pod) in &pods {
            let due = if pod["spec"]["nodeName"].is_null() || pod["status"]["phase"].is_null() {
                None
            } else if answers(pod) {
                self.pod(store, key, pod, now)
            } else {
                self.pods
                    .get(uid(pod))
                    .and_then(|track| track.silent)
                    .map(|since| since + self.delays.silence)
            };
            next = next.into_iter().chain(due.filter(|due| *due > now)).min();
        }
        next
    }

    /// Moves one Pod on; gives the time of what comes after that.
    fn pod(&mut self, store: &mut Store, key: &Key, pod: &Value, now: Instant) -> Option<Instant> {
        let addresses = &mut self.addresses;
        let track = self.pods.entry(uid(pod).to_owned()).or_insert_with(|| {
            *addresses += 1;
            Track {
                bound: now,
                address: *addresses,
                stage: Stage::Bound,
                stopping: None,
                silent: None,
            }
        });
        if is_terminating(pod) {
            let stop = seconds(pod, "stop-delay").unwrap_or(self.delays.stop);
            let grace = pod["metadata"]["deletionGracePeriodSeconds"]
                .as_u64()
                .unwrap_or_default();
            let end = *track.stopping.get_or_insert(now) + stop.min(Duration::from_secs(grace));
            if now >= end {
                finish(store, key, pod);
            }
            return Some(end);
        }
        let running = track.bound + seconds(pod, "start-delay").unwrap_or(self.delays.start);
        let settled = running + seconds(pod, "ready-delay").unwrap_or(self.delays.ready);
        let ends = matches!(outcome(pod), Some("succeed" | "fail" | "evict"));
        let life = seconds(pod, "life").or_else(|| ends.then_some(Duration::ZERO));
        let ended = life.map(|life| settled + life);
        let (stage, next) = match track.stage {
            Stage::Bound => (Stage::Creating, Some(running)),
            Stage::Creating if now >= running => (Stage::Started, Some(settled)),
            Stage::Creating => return Some(running),
            Stage::Started if now >= settled => (Stage::Settled, ended),
            Stage::Started => return Some(settled),
            Stage::Settled => match ended {
                Some(ended) if now >= ended => (Stage::Ended, None),
                later => return later,
            },
            Stage::Ended => return None,
        };
        track.stage = stage;
        let status = status(pod, stage, track.address);
        let mut new = pod.clone();
        new["status"] = status;
        let write = Write::of_controller("kubelet", "status");
        let _unchanged = objects::update(
            store,
            Resource::of("pods"),
            key,
            new,
            &write,
            Owners::FromDifference,
        );
        // What is due at once is seen in the next round.
        next
    }
}

/// The end of a Pod's grace period.
pub(crate) fn finish(store: &mut Store, key: &Key, pod: &Value) {
    let held = pod["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|list| !list.is_empty());
    if pod["metadata"]["deletionGracePeriodSeconds"] != 0 {
        let mut ended = pod.clone();
        ended["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        store.put(key.clone(), ended);
    }
    if !held {
        store.remove(key);
    }
}

/// The status of a Pod in that stage.
fn status(pod: &Value, stage: Stage, address: u32) -> Value {
    let outcome = outcome(pod);
    let (phase, state, ready) = match (stage, outcome) {
        (Stage::Bound | Stage::Creating, _) => ("Pending", waiting("ContainerCreating", ""), false),
        (Stage::Started, Some("image-pull")) => {
            ("Pending", waiting("ErrImagePull", "no such image"), false)
        }
        (Stage::Settled, Some("image-pull")) => (
            "Pending",
            waiting("ImagePullBackOff", "Back-off pulling image"),
            false,
        ),
        (Stage::Settled, Some("crash-loop")) => (
            "Running",
            waiting("CrashLoopBackOff", "back-off restarting failed container"),
            false,
        ),
        (Stage::Started, _) | (Stage::Settled, Some("never-ready")) => {
            ("Running", running(), false)
        }
        (Stage::Settled, _) => ("Running", running(), true),
        (Stage::Ended, Some("fail" | "evict")) => ("Failed", terminated(1, "Error"), false),
        (Stage::Ended, _) => ("Succeeded", terminated(0, "Completed"), false),
    };
    let restarts = u8::from(stage == Stage::Settled && outcome == Some("crash-loop"));
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let containers: Vec<_> = containers
        .map(|container| {
            let begun = stage >= Stage::Started && outcome != Some("image-pull");
            let name = container["name"].as_str().unwrap_or_default();
            let mut status = json!({
                "name": name,
                "state": state,
                "lastState": {},
                "ready": ready,
                "restartCount": restarts,
                "image": container["image"],
                "imageID": "",
                "started": begun && phase == "Running",
            });
            if begun {
                status["imageID"] = json!(format!(
                    "fake://{}",
                    container["image"].as_str().unwrap_or_default()
                ));
                status["containerID"] = json!(format!(
                    "fake://{}-{name}",
                    &uid(pod)[..13.min(uid(pod).len())]
                ));
            }
            status
        })
        .collect();
    let mut status = json!({
        "phase": phase,
        "conditions": conditions(ready),
        "hostIP": "10.0.0.2",
        "hostIPs": [{"ip": "10.0.0.2"}],
        "startTime": pod["status"]["startTime"].as_str().map_or_else(now, str::to_owned),
        "containerStatuses": containers,
        "qosClass": pod["status"]["qosClass"],
    });
    if phase != "Pending" {
        let ip = format!(
            "10.{}.{}.{}",
            128 + (address >> 16) % 64,
            (address >> 8) & 255,
            address & 255
        );
        status["podIP"] = json!(ip);
        status["podIPs"] = json!([{"ip": ip}]);
    }
    if stage == Stage::Ended && outcome == Some("evict") {
        status["reason"] = json!("Evicted");
        status["message"] = json!("The node was low on resource: memory.");
    }
    status
}

fn waiting(reason: &str, message: &str) -> Value {
    let mut waiting = json!({"reason": reason});
    if !message.is_empty() {
        waiting["message"] = json!(message);
    }
    json!({"waiting": waiting})
}

fn running() -> Value {
    json!({"running": {"startedAt": now()}})
}

fn terminated(code: u8, reason: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}})
}

fn conditions(ready: bool) -> Value {
    let condition = |kind: &str, holds: bool| {
        let mut condition = json!({
            "type": kind,
            "status": if holds { "True" } else { "False" },
            "lastProbeTime": null,
            "lastTransitionTime": now(),
        });
        if !holds {
            condition["reason"] = json!("ContainersNotReady");
            condition["message"] = json!("containers with unready status");
        }
        condition
    };
    json!([
        condition("PodReadyToStartContainers", true),
        condition("Initialized", true),
        condition("Ready", ready),
        condition("ContainersReady", ready),
        condition("PodScheduled", true),
    ])
}
