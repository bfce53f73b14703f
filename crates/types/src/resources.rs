//! What an instance may use.

use std::fmt;

use serde::{Deserialize, Serialize};

/// CPU in thousandths of a core.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct CpuMillis(pub u32);

impl CpuMillis {
    /// The most that can be counted.
    pub const MOST: Self = Self(u32::MAX);
}

impl fmt::Display for CpuMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m", self.0)
    }
}

/// Memory in MiB (the contract's `MB`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct MemoryMib(pub u64);

impl MemoryMib {
    /// The most that an instance may be meant to have, 4 PiB: sums of it, and its bytes, can be counted.
    pub const MOST: Self = Self(0xffff_ffff);
}

impl fmt::Display for MemoryMib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

/// The resources of an instance; the key by which instances of a function are pooled
/// (`scaling` contract 2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resources {
    /// CPU share.
    pub cpu: CpuMillis,
    /// Memory limit.
    pub memory: MemoryMib,
    /// Other resources by name (`NPU/.+/count`), in order of name; the amount in thousandths, so
    /// that resources can be compared and hashed.
    pub custom: Vec<(String, i64)>,
}

impl Resources {
    /// The most of a custom resource: beyond it a thousandth is no longer exact, and no machine has as many of anything.
    pub const MOST_CUSTOM: f64 = 1e12;
}
