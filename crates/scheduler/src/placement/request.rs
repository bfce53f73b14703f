//! What an instance asks of a node, and why it got none.

use std::fmt::Write as _;

use bugle_instances::InstanceId;
use bugle_types::pool::PoolChoice;
use bugle_types::{Resources, TenantId};

/// One instance that needs a node.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Which instance.
    pub instance: InstanceId,
    /// Whose.
    pub tenant: &'a TenantId,
    /// What it needs.
    pub resources: &'a Resources,
    /// Where it may run: groups are tried in their order.
    pub choice: &'a PoolChoice,
    /// What its pool's nodes are to it.
    pub pool: PoolRule,
}

/// What nodes of the pool are to an instance that names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolRule {
    /// They come first.
    #[default]
    First,
    /// It runs nowhere else.
    Only,
}

/// Why an instance has no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// No node takes instances.
    #[error(
        "no node takes instances: none has joined, or all drain or are gone; see `bugle node list`"
    )]
    NoNodes,
    /// No node is of the groups that the function asks for.
    #[error("no node is in the groups {keys}, which the function asks for (affinity not met)")]
    NoGroup {
        /// The groups.
        keys: String,
    },
    /// No node is of the pool that the function names.
    #[error("no worker of pool {pool}, which the function names, takes instances")]
    NoWorkers {
        /// The pool.
        pool: String,
    },
    /// No node would be large enough if it were empty.
    #[error("none of {nodes} nodes is large enough for an instance with {wanted}")]
    TooLarge {
        /// What it needs.
        wanted: String,
        /// How many nodes could have been it.
        nodes: usize,
    },
    /// All are full.
    #[error("none of {nodes} nodes has room for an instance with {wanted}")]
    Full {
        /// What it needs.
        wanted: String,
        /// How many nodes could have been it.
        nodes: usize,
    },
}

/// Resources in words.
pub(super) fn shown(resources: &Resources) -> String {
    let mut text = format!("{} CPU and {}", resources.cpu, resources.memory);
    for (name, thousandths) in &resources.custom {
        let (whole, rest) = (thousandths / 1000, thousandths % 1000);
        // Writing to a string does not fail.
        let _ = match rest {
            0 => write!(text, ", {whole} {name}"),
            rest => write!(text, ", {whole}.{rest:03} {name}"),
        };
    }
    text
}

/// How many of the least loaded nodes are compared by tenant.
const COMPARED: usize = 8;

/// Loads that differ by less are about the same: a twentieth of a node.
const ABOUT: u32 = 50_000;

/// The least loaded nodes that a search has found.
#[derive(Debug, Default)]
pub(super) struct Best {
    found: [Option<Candidate>; COMPARED],
    count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    load: u32,
    of_tenant: u32,
    number: usize,
}

impl Best {
    /// The load below which a node would still be one of them.
    pub(super) fn limit(&self) -> u32 {
        if self.count < COMPARED {
            return u32::MAX;
        }
        let loads = self.found.iter().flatten().map(|found| found.load);
        loads.max().unwrap_or(u32::MAX)
    }

    /// Adds a node; the new limit.
    pub(super) fn offer(&mut self, number: usize, load: u32, of_tenant: u32) -> u32 {
        let candidate = Some(Candidate {
            load,
            of_tenant,
            number,
        });
        if self.count < COMPARED {
            self.found[self.count] = candidate;
            self.count += 1;
            return self.limit();
        }
        let worst = self
            .found
            .iter_mut()
            .max_by_key(|found| found.map_or(0, |found| found.load));
        if let Some(worst) = worst {
            *worst = candidate;
        }
        self.limit()
    }

    /// Of the about least loaded ones that with the fewest instances of the tenant.
    pub(super) fn choice(&self) -> Option<usize> {
        let found = || self.found.iter().flatten();
        let least = found().map(|found| found.load).min()?;
        found()
            .filter(|found| found.load <= least.saturating_add(ABOUT))
            .min_by_key(|found| (found.of_tenant, found.load, found.number))
            .map(|found| found.number)
    }
}
