//! One node: what it says of itself, and what is counted on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bugle_instances::InstanceId;
use bugle_types::{ParseError, Resources, TenantId};

use super::Placed;
use super::class::Place;
use super::tree::Bounds;

/// The longest name of a node, as of a host.
const LONGEST_ID: usize = 63;

/// The name of a node: 1 to 63 of `a-z 0-9 - .`, which begins and ends with a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        let fine = bytes.len() <= LONGEST_ID
            && ends.iter().all(|end| end.is_some_and(|byte| plain(*byte)))
            && bytes
                .iter()
                .all(|&byte| plain(byte) || b"-.".contains(&byte));
        if fine {
            Ok(Self(text.into()))
        } else {
            Err(ParseError::new(
                "node",
                text,
                "1 to 63 of a-z 0-9 - . with a letter or digit at both ends",
            ))
        }
    }
}

/// What a node has for instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu: u64,
    /// MiB.
    pub memory: u64,
    /// Other resources and devices by name (`NPU/Ascend910B/count`), in thousandths.
    pub custom: BTreeMap<String, i64>,
}

/// Whether a node gets instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It does.
    #[default]
    Live,
    /// It ends what it has and gets nothing more.
    Draining,
    /// It does not answer.
    Dead,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Draining => "draining",
            Self::Dead => "dead",
        })
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub id: NodeId,
    /// What it has.
    pub capacity: Capacity,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The Pod pool that it is of.
    pub pool: Option<String>,
    /// The group of that pool; counts as a label key.
    pub group: Option<String>,
    /// Whether it gets instances.
    pub health: Health,
}

impl NodeView {
    /// Whether it has a label of this name, or is of the group.
    pub(super) fn has_key(&self, key: &str) -> bool {
        self.labels.contains_key(key) || self.group.as_deref() == Some(key)
    }
}

/// What a node has that was not placed here: other gateways did that, or one that is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Others {
    /// Instances.
    pub instances: usize,
    /// Thousandths of a core that they may use.
    pub cpu: u64,
    /// MiB that they may use.
    pub memory: u64,
    /// Other resources that they have, by the node's names, in thousandths.
    pub custom: BTreeMap<String, i64>,
    /// Whose they are.
    pub tenants: BTreeSet<TenantId>,
}

/// A node as it is at this moment, for people.
#[derive(Clone, Copy, Debug)]
pub struct NodeStatus<'a> {
    /// What it says of itself.
    pub view: &'a NodeView,
    /// Instances on it, those that come up included.
    pub instances: usize,
    /// Thousandths of a core that they may use.
    pub cpu_used: u64,
    /// MiB that they may use.
    pub memory_used: u64,
    /// Tenants that have an instance there, with how many.
    pub tenants: &'a BTreeMap<TenantId, u32>,
    /// What else it has; none if it never said.
    pub others: Option<&'a Others>,
}

/// A node with what is counted on it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) view: NodeView,
    pub(super) place: Place,
    pub(super) instances: BTreeSet<InstanceId>,
    cpu_used: u64,
    memory_used: u64,
    devices_used: BTreeMap<String, i64>,
    tenants: BTreeMap<TenantId, u32>,
    pub(super) others: Option<Others>,
}

/// The load of a node that is full; loads are parts of it.
const FULL: u64 = 1_000_000;

impl Node {
    pub(super) fn new(view: NodeView, place: Place) -> Self {
        Self {
            view,
            place,
            instances: BTreeSet::new(),
            cpu_used: 0,
            memory_used: 0,
            devices_used: BTreeMap::new(),
            tenants: BTreeMap::new(),
            others: None,
        }
    }

    pub(super) fn status(&self) -> NodeStatus<'_> {
        NodeStatus {
            view: &self.view,
            instances: self.instances.len(),
            cpu_used: self.cpu_used,
            memory_used: self.memory_used,
            tenants: &self.tenants,
            others: self.others.as_ref(),
        }
    }

    /// Instances of a tenant.
    pub(super) fn count_of(&self, tenant: &TenantId) -> u32 {
        self.tenants.get(tenant).copied().unwrap_or(0)
    }

    /// Whether nobody else has an instance here.
    pub(super) fn belongs_to(&self, tenant: &TenantId) -> bool {
        let mut others = self.others.iter().flat_map(|others| &others.tenants);
        if others.any(|other| other != tenant) {
            return false;
        }
        match self.tenants.len() {
            0 => true,
            1 => self.tenants.contains_key(tenant),
            _ => false,
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        if self.view.health != Health::Live {
            return Bounds::NOTHING;
        }
        let Capacity { cpu, memory, .. } = self.view.capacity;
        let others = self.others.as_ref();
        let others = others.map_or((0, 0), |others| (others.cpu, others.memory));
        let cpu_used = self.cpu_used.saturating_add(others.0);
        let memory_used = self.memory_used.saturating_add(others.1);
        // The fuller of the two says how full the node is.
        let part = |used: u64, of: u64| used.saturating_mul(FULL) / of.max(1);
        let load = part(cpu_used, cpu).max(part(memory_used, memory));
        Bounds {
            cpu: cpu.saturating_sub(cpu_used),
            memory: memory.saturating_sub(memory_used),
            load: u32::try_from(load).unwrap_or(u32::MAX).min(u32::MAX - 1),
        }
    }

    /// The devices that would be taken for what is wanted; none if there are not enough.
    pub(super) fn devices(&self, wanted: &[(String, i64)]) -> Option<Vec<(String, i64)>> {
        let mut taken: Vec<(String, i64)> = Vec::new();
        for (name, amount) in wanted.iter().filter(|(_, amount)| *amount > 0) {
            let device = self.view.capacity.custom.iter().find(|(device, has)| {
                let used = self.devices_used.get(*device).copied().unwrap_or(0);
                let others = self.others.as_ref();
                let others = others.and_then(|others| others.custom.get(*device));
                let used = used.saturating_add(others.copied().unwrap_or(0));
                let twice = taken.iter().filter(|(other, _)| other == *device);
                let used = twice.fold(used, |sum, (_, more)| sum.saturating_add(*more));
                device_matches(name, device) && has.saturating_sub(used) >= *amount
            });
            taken.push((device?.0.clone(), *amount));
        }
        Some(taken)
    }

    /// Whether it would be large enough if it were empty.
    pub(super) fn could_hold(&self, wanted: &Resources) -> bool {
        let Capacity {
            cpu,
            memory,
            custom,
        } = &self.view.capacity;
        let devices = wanted.custom.iter().all(|(name, amount)| {
            let mut devices = custom.iter();
            *amount <= 0
                || devices.any(|(device, has)| device_matches(name, device) && has >= amount)
        });
        *cpu >= u64::from(wanted.cpu.0) && *memory >= wanted.memory.0 && devices
    }

    pub(super) fn take(&mut self, placed: &Placed) {
        self.cpu_used += u64::from(placed.resources.cpu.0);
        self.memory_used += placed.resources.memory.0;
        for (name, amount) in &placed.devices {
            *self.devices_used.entry(name.clone()).or_default() += amount;
        }
        *self.tenants.entry(placed.tenant.clone()).or_default() += 1;
    }

    pub(super) fn give_back(&mut self, placed: &Placed) {
        let cpu = u64::from(placed.resources.cpu.0);
        self.cpu_used = self.cpu_used.saturating_sub(cpu);
        self.memory_used = self.memory_used.saturating_sub(placed.resources.memory.0);
        for (name, amount) in &placed.devices {
            if let Some(used) = self.devices_used.get_mut(name) {
                *used -= amount;
            }
        }
        if let Some(count) = self.tenants.get_mut(&placed.tenant) {
            *count -= 1;
            if *count == 0 {
                self.tenants.remove(&placed.tenant);
            }
        }
    }
}

/// Whether a resource that is asked for is the one that a node has: the same name, or a device
/// (`TYPE/model/kind`) whose model fits a pattern in which `.+` and `.*` stand for anything.
pub(super) fn device_matches(wanted: &str, device: &str) -> bool {
    if wanted == device {
        return true;
    }
    let (Some(wanted), Some(device)) = (device_parts(wanted), device_parts(device)) else {
        return false;
    };
    let same = wanted.0 == device.0 && wanted.2 == device.2;
    same && model_matches(wanted.1, device.1)
}

fn device_parts(name: &str) -> Option<(&str, &str, &str)> {
    let (kind, rest) = name.split_once('/')?;
    let (model, unit) = rest.rsplit_once('/')?;
    Some((kind, model, unit))
}

fn model_matches(pattern: &str, model: &str) -> bool {
    let wild = pattern
        .find(".*")
        .into_iter()
        .chain(pattern.find(".+"))
        .min();
    let Some(at) = wild else {
        return pattern == model;
    };
    let least = usize::from(pattern[at..].starts_with(".+"));
    let Some(rest) = model.strip_prefix(&pattern[..at]) else {
        return false;
    };
    let after = &pattern[at + 2..];
    let ends = rest.char_indices().map(|(end, _)| end).chain([rest.len()]);
    ends.skip(least)
        .any(|end| model_matches(after, &rest[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_devices_by_their_model() {
        assert!(device_matches(
            "NPU/Ascend910.*/count",
            "NPU/Ascend910B/count"
        ));
        assert!(device_matches(
            "NPU/Ascend910.*/count",
            "NPU/Ascend910/count"
        ));
        assert!(device_matches("GPU/.+/count", "GPU/A100/count"));
        assert!(!device_matches("GPU/.+/count", "GPU//count"));
        assert!(!device_matches("GPU/.+/count", "NPU/A100/count"));
        assert!(!device_matches(
            "NPU/Ascend910.*/HBM",
            "NPU/Ascend910B/count"
        ));
        assert!(device_matches("ssd", "ssd"));
        assert!(!device_matches("ssd", "hdd"));
    }

    #[test]
    fn a_node_is_named_like_a_host() {
        for good in ["a", "node-1", "10.0.0.1", "worker.example"] {
            assert_eq!(good.parse::<NodeId>().unwrap().to_string(), good);
        }
        for bad in ["", "-a", "a-", "A", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?}");
        }
    }
}
