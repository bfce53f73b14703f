//! How a function runs at this moment, for people.

use std::fmt;
use std::time::Duration;

use bugle_instances::{InstanceId, StartError};
use bugle_types::{InstanceLabel, Resources};

/// A snapshot of one function.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Its instances, oldest first.
    pub instances: Vec<InstanceStatus>,
    /// Calls that wait.
    pub queued: usize,
    /// Why the last start that failed did, unless one succeeded since.
    pub last_start_error: Option<StartError>,
}

/// One instance.
#[derive(Clone, Debug)]
pub struct InstanceStatus {
    /// Its identity.
    pub id: InstanceId,
    /// What it is doing.
    pub state: InstanceState,
    /// Its process, once it runs.
    pub pid: Option<u32>,
    /// Its labelled set.
    pub label: Option<InstanceLabel>,
    /// What it may use.
    pub resources: Resources,
    /// Calls that it runs.
    pub in_flight: u32,
    /// How long ago it was started.
    pub age: Duration,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// It comes up.
    Starting,
    /// It takes calls.
    Ready,
    /// It finishes its calls and goes.
    Draining,
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        })
    }
}
