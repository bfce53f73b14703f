//! What an instance is kept from, and by which means.
//!
//! The platform decides here and the interpreter's parent carries it out
//! (`runtimes/python/_bugle/confine.py`), before any user code runs. Whether the kernel lets it is
//! found out by doing it: a parent confines a trial process before it is used. Where that fails the
//! next level is tried, unless the operator requires the first; nothing is left out silently.

mod cgroup;
mod config;
mod gate;
mod plan;
pub(crate) mod seccomp;
pub(crate) mod starter;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::container::cell;
use cgroup::Controller;
pub(crate) use cgroup::{Cgroup, Cgroups, Counted, Holds, started};
pub use config::{Config, Network, Processor};
pub(crate) use gate::{Files, Gate};
pub(crate) use plan::Plan;

/// How much is taken away from instances, from most to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Another user, namespaces, a root of its own, no capabilities, a filter of system calls.
    Full,
    /// No new privileges, no capabilities, a filter of system calls and resource limits only.
    Process,
    /// Nothing.
    Off,
}

impl Level {
    fn next(self) -> Option<Self> {
        match self {
            Self::Full => Some(Self::Process),
            Self::Process | Self::Off => None,
        }
    }
}

/// One thing that is done to confine instances, or is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// What it is about, such as `memory`.
    pub name: &'static str,
    /// Whether it is taken.
    pub on: bool,
    /// What is done, or why it is not.
    pub detail: String,
}

/// What a platform with this configuration would do here, as far as it can be known without a trial.
///
/// # Errors
///
/// The system gives no thread.
pub fn foresee(config: &Config) -> io::Result<Vec<Measure>> {
    Ok(Confinement::new(config.clone(), Surroundings::default())?.measures())
}

/// Whether this process is to become a program instead of a platform; see [`become_program`].
pub fn is_starter() -> bool {
    let name = std::env::args_os().next();
    name.is_some_and(|name| name == starter::NAME || name == cell::NAME)
}

/// Confines this process as its standard input says and becomes that program. Returns only when it
/// cannot, which it has told then.
pub fn become_program() {
    // There is nobody to tell when nobody has said what to run.
    _ = if std::env::args_os()
        .next()
        .is_some_and(|name| name == cell::NAME)
    {
        cell::run()
    } else {
        starter::run()
    };
}

/// What confinement is built on, and what instances are kept from.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// A directory of the platform's own.
    pub folder: PathBuf,
    /// Ports that instances may not connect to, beside those of the configuration.
    pub ports: BTreeSet<u16>,
    /// Where code may be.
    pub code: Vec<PathBuf>,
}

/// Decides how instances are confined. One for all drivers of a platform.
#[derive(Debug)]
pub struct Confinement {
    config: Config,
    surroundings: Surroundings,
    gate: Gate,
    /// Why instances reach all ports, where they do.
    no_ports: Option<String>,
    cgroups: Option<Arc<Cgroups>>,
    /// The controllers that are not to be had, with the reasons.
    missing: Vec<(Controller, String)>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What works as far as is known.
    level: Level,
    /// Why the level above does not.
    reason: String,
    /// Whether something was confined at this level. Then a refusal is a mishap, and not what the
    /// machine is like: nobody brings the level down by making a start fail.
    proven: bool,
}

impl Confinement {
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn new(config: Config, surroundings: Surroundings) -> io::Result<Self> {
        let (cgroups, missing) = if config.enabled {
            Cgroups::prepare(config.processes)
        } else {
            (None, Vec::new())
        };
        let (level, reason) = if !config.enabled {
            (Level::Off, "confinement.enabled is false")
        } else if rustix::process::geteuid().is_root() {
            (Level::Full, "")
        } else {
            (Level::Process, "the platform does not run as root")
        };
        let no_ports = if config.enabled {
            gate::probe_ports().err()
        } else {
            Some(reason.to_owned())
        };
        let mut refused = BTreeSet::new();
        if no_ports.is_none() {
            refused.clone_from(&surroundings.ports);
            refused.extend(&config.refused_ports);
        }
        Ok(Self {
            gate: Gate::open(refused)?,
            no_ports,
            config,
            surroundings,
            cgroups,
            missing,
            state: Mutex::new(State {
                level,
                reason: reason.to_owned(),
                proven: false,
            }),
        })
    }

    /// What everything that runs user code is started through.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Where instances are limited, if they can be.
    pub(crate) fn cgroups(&self) -> Option<Arc<Cgroups>> {
        self.cgroups.clone()
    }

    /// The filter of system calls for containers, in hexadecimal; none on this kind of processor.
    pub(crate) fn filter_of_containers() -> Option<String> {
        let filter = seccomp::filter(seccomp::Profile::Container)?;
        Some(plan::hexadecimal(&filter))
    }

    /// What a function's `cpu` means.
    pub(crate) fn processor(&self) -> Processor {
        self.config.processor
    }

    /// Whether every instance has a network to itself.
    pub(crate) fn has_own_network(&self) -> bool {
        self.level() == Level::Full && self.config.network == Network::None
    }

    /// The level that is used.
    pub(crate) fn level(&self) -> Level {
        self.state.lock().level
    }

    /// Whether an instance has to be given its code, because it sees nothing else of the machine.
    pub(crate) fn shows_code(&self) -> bool {
        self.level() == Level::Full
    }

    /// What to do to the instances of an interpreter that is installed below `prefix`, or to a
    /// program; they may read what is below `packages` as well.
    ///
    /// # Errors
    ///
    /// The configuration asks for what the machine does not have.
    pub(crate) fn plan(&self, prefix: Option<&Path>, packages: &[PathBuf]) -> Result<Plan, String> {
        let stage = self.surroundings.folder.join("stage");
        plan::plan(&self.config, self.level(), prefix, packages, &stage)
    }

    /// The files that instances without a root of their own may use; none where they have one.
    ///
    /// # Errors
    ///
    /// The folder for what they write cannot be made.
    pub(crate) fn files(
        &self,
        prefix: Option<&Path>,
        packages: &[PathBuf],
    ) -> Result<Option<Files>, String> {
        if self.level() != Level::Process || gate::probe_files().is_err() {
            return Ok(None);
        }
        let own = self.own_folder();
        std::fs::create_dir_all(&own)
            .map_err(|error| format!("make {}: {error}", own.display()))?;
        let mut code = packages.to_owned();
        code.extend_from_slice(&self.surroundings.code);
        Ok(Some(plan::files(&self.config, prefix, &own, &code)))
    }

    /// What `TMPDIR` is where instances have no `/tmp` of their own.
    pub(crate) fn temporary(&self) -> Option<PathBuf> {
        (self.level() == Level::Process).then(|| self.own_folder())
    }

    fn own_folder(&self) -> PathBuf {
        self.surroundings.folder.join("tmp")
    }

    /// Takes note that something was confined at `level`, which stays from now on.
    pub(crate) fn works(&self, level: Level) {
        let mut state = self.state.lock();
        state.proven |= state.level == level;
    }

    /// Takes note that the kernel refused `level`; returns whether there is another to try.
    pub(crate) fn refused(&self, level: Level, reason: &str) -> bool {
        let mut state = self.state.lock();
        if state.level != level {
            // Another interpreter has been told the same.
            return true;
        }
        let Some(next) = level.next().filter(|_| !state.proven) else {
            return false;
        };
        tracing::warn!(?level, ?next, reason, "instances are confined less");
        state.level = next;
        reason.clone_into(&mut state.reason);
        true
    }

    /// # Errors
    ///
    /// The operator requires a measure that is not taken.
    pub(crate) fn suffices(&self) -> Result<(), String> {
        if !self.config.require {
            return Ok(());
        }
        // Whether the rules of the gate can be taken is known when somebody has gone through it.
        self.gate.run(|| ()).map_err(|error| error.to_string())?;
        match self.measures().into_iter().find(|measure| !measure.on) {
            None => Ok(()),
            Some(Measure { name, detail, .. }) => Err(format!(
                "confinement.require is set, and the measure {name:?} is off: {detail}"
            )),
        }
    }

    /// Every measure, whether taken or not.
    pub fn measures(&self) -> Vec<Measure> {
        let State { level, reason, .. } = &*self.state.lock();
        let taken = |name, least: Level, detail: String| Measure {
            name,
            on: *level <= least,
            detail: if *level <= least {
                detail
            } else {
                reason.clone()
            },
        };
        let Config { uid, gid, .. } = self.config;
        let mut measures = vec![
            taken("user", Level::Full, format!("uid {uid}, gid {gid}")),
            Self::files_measure(*level, reason),
            self.ports_measure(*level, reason),
            taken("namespaces", Level::Full, self.namespaces().to_owned()),
            taken("capabilities", Level::Process, "none".to_owned()),
            taken("system calls", Level::Process, "filtered".to_owned()),
        ];
        for controller in Controller::ALL {
            let missing = self.missing.iter().find(|(one, _)| *one == controller);
            let (on, detail) = match (missing, level) {
                (_, Level::Off) => (false, reason.clone()),
                (Some((_, reason)), _) => (false, reason.clone()),
                (None, _) => (true, self.limit_of(controller)),
            };
            measures.push(Measure {
                name: controller.subject(),
                on,
                detail,
            });
        }
        measures
    }

    fn files_measure(level: Level, reason: &str) -> Measure {
        let (on, detail) = match (level, gate::probe_files()) {
            (Level::Full, _) => (true, "a root of its own".to_owned()),
            (Level::Process, Ok(())) => (
                true,
                "the system's, all code, and a folder that instances share".to_owned(),
            ),
            (Level::Process, Err(missing)) => (false, format!("{reason}, and {missing}")),
            (Level::Off, _) => (false, reason.to_owned()),
        };
        Measure {
            name: "files",
            on,
            detail,
        }
    }

    fn ports_measure(&self, level: Level, reason: &str) -> Measure {
        let problem = self.no_ports.as_deref().or_else(|| self.gate.problem());
        let (on, detail) = match problem {
            _ if level == Level::Off => (false, reason.to_owned()),
            _ if level == Level::Full && self.config.network == Network::None => {
                (true, "only itself".to_owned())
            }
            None => (true, "not the platform's ports".to_owned()),
            Some(missing) => (false, missing.to_owned()),
        };
        Measure {
            name: "network",
            on,
            detail,
        }
    }

    fn namespaces(&self) -> &'static str {
        match self.config.network {
            Network::Host => "processes, mounts, messages, host name, control groups",
            Network::None => "processes, mounts, messages, host name, control groups, network",
        }
    }

    fn limit_of(&self, controller: Controller) -> String {
        match (controller, self.config.processor) {
            (Controller::Memory, _) => "limited to the function's memory".to_owned(),
            (Controller::Processes, _) => format!("at most {}", self.config.processes),
            (Controller::Processor, Processor::Share) => "shared by the function's cpu".to_owned(),
            (Controller::Processor, Processor::Limit) => "limited to the function's cpu".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_done_is_told_with_the_reason() {
        let config = Config {
            enabled: false,
            ..Config::default()
        };
        for measure in foresee(&config).unwrap() {
            assert!(!measure.on, "{measure:?}");
            assert_eq!(measure.detail, "confinement.enabled is false");
        }
    }

    #[test]
    fn a_refused_level_is_followed_by_the_next_and_refused_to_who_requires_it() {
        let config = Config {
            require: true,
            ..Config::default()
        };
        let confinement = Confinement::new(config, Surroundings::default()).unwrap();
        confinement.state.lock().level = Level::Full;
        assert!(confinement.refused(Level::Full, "no namespaces here"));
        assert_eq!(confinement.level(), Level::Process);
        let error = confinement.suffices().unwrap_err();
        assert!(
            error.contains("user") && error.contains("no namespaces here"),
            "{error}"
        );
        assert!(!confinement.refused(Level::Process, "no filter either"));
    }

    #[test]
    fn a_level_that_has_worked_is_not_given_up() {
        let confinement = Confinement::new(Config::default(), Surroundings::default()).unwrap();
        confinement.state.lock().level = Level::Full;
        confinement.works(Level::Full);
        assert!(!confinement.refused(Level::Full, "no room just now"));
        assert_eq!(confinement.level(), Level::Full);
    }
}
