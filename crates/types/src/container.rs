//! How an image runs as a function.
//!
//! A [`ContainerSpec`] is what registration left valid of `custom_container_config` and of what
//! belongs to it: whoever starts a container needs no defaults of its own and checks nothing again.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The user and the group that a container runs as when none is named.
pub const DEFAULT_CONTAINER_USER: u32 = 1003;

/// The port on which the server of an image listens, inside the container's own network.
pub const CONTAINER_PORT: u16 = 8000;

/// What a container may write in all when nothing else is said, in MiB.
pub const DEFAULT_CONTAINER_DISK_MIB: u32 = 512;

/// An image, and what the function overrides of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The image, as the user named it: `host[:port]/path[:tag][@digest]`.
    pub image: String,
    /// What the name stood for when the version was registered, `sha256:…`. None if the registry
    /// could not be asked then: the start asks it.
    pub digest: Option<String>,
    /// Takes the place of the image's entry point; empty leaves it.
    pub command: Vec<String>,
    /// Takes the place of the image's arguments; empty leaves them, unless `command` is given.
    pub args: Vec<String>,
    /// Absolute; none is the image's.
    pub working_dir: Option<String>,
    /// The user it runs as, never root.
    pub uid: u32,
    /// The group it runs as, never root's.
    pub gid: u32,
    /// Whether `POST /init` is part of its start.
    pub initialization: Initialization,
    /// What it can reach.
    pub network: ContainerNetwork,
    /// How it is found to be ill while it runs; none looks at its process alone.
    pub health: Option<HealthCheck>,
    /// How long its server may take to end after `GET /shutdown`; none does not ask it.
    pub shutdown: Option<Duration>,
    /// What it may write in all, in MiB.
    pub disk_mib: u32,
    /// Directories of the host that it sees.
    pub mounts: Vec<Mount>,
}

/// Whether `POST /init` is part of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Initialization {
    /// It is, within the time of the function's initializer, and its failure is that of the start.
    Strict,
    /// It is tried once, whatever comes of it.
    Auto,
    /// It is not.
    Never,
}

/// What a container can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContainerNetwork {
    /// What the machine's network reaches, from behind its address.
    Nat,
    /// Nothing.
    None,
}

/// Asks `GET /healthz` while a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The longest that one answer may take.
    pub timeout: Duration,
    /// From one question to the next.
    pub period: Duration,
    /// So many failures in a row end the instance.
    pub failures: NonZeroU32,
}

/// A directory of the host inside a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mount {
    /// Its name in the operator's list, which says where it is.
    pub name: String,
    /// Where the container sees it; absolute and no directory of the system.
    pub target: String,
}
