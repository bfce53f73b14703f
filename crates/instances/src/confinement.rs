//! What an instance is kept from, and by which means.
//!
//! The platform decides here and the interpreter's parent carries it out
//! (`runtimes/python/_bugle/confine.py`), before any user code runs. Whether the kernel lets it is
//! found out by doing it: a parent confines a trial process before it is used. Where that fails the
//! next level is tried, unless the operator requires the first; nothing is left out silently.

mod cgroup;
mod config;
mod plan;
mod seccomp;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub(crate) use cgroup::{Cgroup, Cgroups, Counted};
pub use config::{Config, Network, Processor};
pub(crate) use plan::Plan;

/// How much is taken away from instances, from most to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Another user, namespaces, a root of its own, no capabilities, a filter of system calls.
    Full,
    /// The same within a user namespace: the platform's own user under another number.
    UserNamespace,
    /// No new privileges, no capabilities, a filter of system calls and resource limits only.
    Process,
    /// Nothing.
    Off,
}

impl Level {
    fn next(self) -> Option<Self> {
        match self {
            Self::Full => Some(Self::UserNamespace),
            Self::UserNamespace => Some(Self::Process),
            Self::Process | Self::Off => None,
        }
    }
}

/// Decides how instances are confined.
#[derive(Debug)]
pub(crate) struct Confinement {
    config: Config,
    stage: PathBuf,
    /// Where code may be.
    code: Vec<PathBuf>,
    cgroups: Option<Arc<Cgroups>>,
    /// The level that works as far as is known, and why those above do not.
    state: Mutex<(Level, Vec<(Level, String)>)>,
}

impl Confinement {
    /// `stage` is a directory of the platform's own; it stays empty. `code` is where
    /// code may be.
    pub(crate) fn new(config: Config, stage: PathBuf, code: Vec<PathBuf>) -> Self {
        let level = match (config.enabled, rustix::process::geteuid().is_root()) {
            (false, _) => Level::Off,
            (true, true) => Level::Full,
            (true, false) => Level::UserNamespace,
        };
        let (cgroups, missing) = if config.enabled {
            Cgroups::prepare(config.processes)
        } else {
            (None, Vec::new())
        };
        for (controller, reason) in &missing {
            tracing::warn!(?controller, reason, "instances are not limited");
        }
        Self {
            cgroups,
            config,
            stage,
            code,
            state: Mutex::new((level, Vec::new())),
        }
    }

    /// Where instances are limited, if they can be.
    pub(crate) fn cgroups(&self) -> Option<Arc<Cgroups>> {
        self.cgroups.clone()
    }

    /// What a function's `cpu` means.
    pub(crate) fn processor(&self) -> Processor {
        self.config.processor
    }

    /// The level that is used.
    pub(crate) fn level(&self) -> Level {
        self.state.lock().0
    }

    /// Whether an instance has to be given its code, because it sees nothing else of the machine.
    pub(crate) fn shows_code(&self) -> bool {
        self.level() == Level::Full
    }

    /// What to do to the instances of an interpreter that is installed below `prefix`.
    pub(crate) fn plan(&self, prefix: &Path) -> Result<Plan, String> {
        let level = self.level();
        // Whoever has no rights of its own cannot be handed a tree, and sees all code from the start.
        let code = if level == Level::UserNamespace {
            self.code.as_slice()
        } else {
            &[]
        };
        plan::plan(&self.config, level, prefix, &self.stage, code)
    }

    /// Takes note that the kernel refused `level`; returns whether there is another to try.
    pub(crate) fn refused(&self, level: Level, reason: &str) -> bool {
        let mut state = self.state.lock();
        if state.0 != level {
            // Another interpreter has been told the same.
            return true;
        }
        match level.next() {
            Some(next) if !self.config.require => {
                tracing::warn!(?level, ?next, reason, "instances are confined less");
                state.0 = next;
                state.1.push((level, reason.to_owned()));
                true
            }
            _ => false,
        }
    }
}
