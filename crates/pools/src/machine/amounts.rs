//! Amounts of resources that are added and compared.

use std::collections::BTreeMap;
use std::fmt;

use bugle_types::Resources;
use bugle_types::pool::{PoolSpec, Quantity};

use crate::Room;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    cpu_millis: u64,
    memory_mib: u64,
    /// By name, in thousandths.
    custom: BTreeMap<String, u64>,
}

impl Amounts {
    /// What an instance needs.
    pub(super) fn of(resources: &Resources) -> Self {
        let thousandths = |amount: i64| u64::try_from(amount).unwrap_or_default();
        Self {
            cpu_millis: resources.cpu.0.into(),
            memory_mib: resources.memory.0,
            custom: resources
                .custom
                .iter()
                .map(|(name, amount)| (name.clone(), thousandths(*amount)))
                .collect(),
        }
    }

    /// What a machine has.
    pub(super) fn of_room(room: Room) -> Self {
        Self {
            cpu_millis: room.cpu_millis,
            memory_mib: room.memory_mib,
            custom: BTreeMap::new(),
        }
    }

    /// What a worker has for its instances; what the pool does not limit is the machine's.
    pub(super) fn capacity(spec: &PoolSpec, room: Room) -> Self {
        let limits = spec.resources.effective_limits();
        let memory = limits.get("memory").map(|memory| memory.units() >> 20);
        Self {
            cpu_millis: limits.get("cpu").map_or(room.cpu_millis, Quantity::millis),
            memory_mib: memory.unwrap_or(room.memory_mib),
            custom: custom(&limits),
        }
    }

    /// What is set aside for a worker.
    pub(super) fn reserved(spec: &PoolSpec) -> Self {
        let requests = &spec.resources.requests;
        Self {
            cpu_millis: requests.get("cpu").map_or(0, Quantity::millis),
            memory_mib: requests.get("memory").map_or(0, Quantity::mebi),
            custom: custom(requests),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.cpu_millis = self.cpu_millis.saturating_add(other.cpu_millis);
        self.memory_mib = self.memory_mib.saturating_add(other.memory_mib);
        for (name, amount) in &other.custom {
            let sum = self.custom.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    /// Whether this is there, in `all`.
    pub(super) fn fits(&self, all: &Self) -> bool {
        let has = |name| all.custom.get(name).copied().unwrap_or_default();
        self.cpu_millis <= all.cpu_millis
            && self.memory_mib <= all.memory_mib
            && self
                .custom
                .iter()
                .all(|(name, amount)| *amount <= has(name))
    }

    /// What is left beside `used`, for comparison: memory first, which cannot be shared.
    pub(super) fn left(&self, used: &Self) -> (u64, u64) {
        (
            self.memory_mib.saturating_sub(used.memory_mib),
            self.cpu_millis.saturating_sub(used.cpu_millis),
        )
    }
}

impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m CPU and {} MiB", self.cpu_millis, self.memory_mib)?;
        for (name, amount) in &self.custom {
            write!(f, " and {}.{:03} {name}", amount / 1000, amount % 1000)?;
        }
        Ok(())
    }
}

fn custom(amounts: &BTreeMap<String, Quantity>) -> BTreeMap<String, u64> {
    amounts
        .iter()
        .filter(|(name, _)| name.contains('/'))
        .map(|(name, amount)| (name.clone(), amount.millis()))
        .collect()
}
