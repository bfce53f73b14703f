//! The process group of one program.
//!
//! The platform is the parent. It kills by process group, and only while the leader is not reaped:
//! until then its number, which is the group's, cannot be another's.
//!
//! A program that is confined begins as a *starter* (`confinement::starter`), which confines itself
//! and becomes the program; all of it is the same process.

use std::collections::BTreeMap;
use std::convert::identity;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bugle_types::Resources;
use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::guard::Guard;
use super::network::Network;
use crate::child::{Ended, Parent};
use crate::confinement::starter::{self, REFUSED};
use crate::confinement::{Cgroup, Confinement, Level};

/// How long a process may take to confine itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// All that decides how a program's process is made.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// The command line.
    pub(crate) argv: Vec<OsString>,
    /// The whole environment.
    pub(crate) environment: BTreeMap<&'a str, String>,
    /// The working directory.
    pub(crate) directory: &'a Path,
    /// What the instance may use.
    pub(crate) resources: &'a Resources,
}

/// A process that was just started.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) process: Arc<Process>,
    /// Becomes readable when the process has ended.
    pub(crate) pidfd: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// What it is limited by.
    pub(crate) group: Option<Cgroup>,
    /// Its network, unless that is the platform's own.
    pub(crate) network: Option<Arc<Network>>,
}

/// The leader of a process group. Dropping it ends the group.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    guard: Arc<Guard>,
    life: Mutex<Life>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Runs, or waits to be reaped.
    There,
    Reaped,
}

/// Why no process was made.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// The program cannot be run.
    Program(String),
    /// The platform could not start anything.
    Platform(String),
}

/// Starts a program as the leader of a process group of its own. This is the only place where a
/// program's process is made.
///
/// Blocks until the new program was loaded.
///
/// # Errors
///
/// The program cannot be executed, or the system has no room for it.
pub(crate) fn spawn(
    launch: &Launch<'_>,
    guard: &Arc<Guard>,
    confinement: &Confinement,
) -> Result<Spawned, NotStarted> {
    loop {
        let level = confinement.level();
        confinement.suffices().map_err(NotStarted::Platform)?;
        if level == Level::Off {
            return spawn_free(launch, guard, confinement);
        }
        match spawn_confined(launch, guard, confinement) {
            Err(NotStarted::Platform(problem)) => {
                let refused = problem.starts_with(REFUSED);
                if !refused || !confinement.refused(level, &problem) {
                    return Err(NotStarted::Platform(problem));
                }
            }
            Ok(spawned) => {
                confinement.works(level);
                return Ok(spawned);
            }
            Err(program) => return Err(program),
        }
    }
}

/// A command that is run with nothing of the platform's.
pub(crate) fn bare(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn spawn_free(
    launch: &Launch<'_>,
    guard: &Arc<Guard>,
    confinement: &Confinement,
) -> Result<Spawned, NotStarted> {
    let (program, arguments) = launch.split()?;
    let mut command = bare(program);
    command
        .args(arguments)
        .envs(&launch.environment)
        .current_dir(launch.directory);
    let child = confinement.gate().run(move || command.spawn());
    let child = child.and_then(identity).map_err(|error| {
        let program = Path::new(program).display();
        NotStarted::Program(format!("{program} cannot be run: {error}"))
    })?;
    own(child, guard)
}

fn spawn_confined(
    launch: &Launch<'_>,
    guard: &Arc<Guard>,
    confinement: &Confinement,
) -> Result<Spawned, NotStarted> {
    let failed = |error: io::Error| NotStarted::Platform(format!("start a program: {error}"));
    let (program, _) = launch.split()?;
    let plan = confinement.plan(None, &[]).map_err(NotStarted::Platform)?;
    let files = confinement.files(None, &[]).map_err(NotStarted::Platform)?;
    let apart = plan.pid_namespace;
    let orders = starter::Launch {
        plan,
        argv: launch.argv.clone(),
        environment: launch
            .environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        code: launch.directory.to_owned(),
    };
    let orders = serde_json::to_vec(&orders).map_err(|error| failed(error.into()))?;
    let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
    // This very program, also when its file was replaced by a newer one.
    let mut command = bare(OsStr::new("/proc/self/exe"));
    command
        .arg0(starter::NAME)
        .current_dir("/")
        .stdin(OwnedFd::from(theirs));
    let own_file = std::env::current_exe().ok();
    let files = files.map(|mut files| {
        files.read.extend(own_file);
        files
    });
    let child = confinement.gate().run(move || {
        if let Some(files) = files {
            files.refuse_others().map_err(io::Error::other)?;
        }
        if apart {
            starter::next_child_is_first_of_its_namespace()?;
        }
        command.spawn()
    });
    let mut spawned = own(child.and_then(identity).map_err(failed)?, guard)?;
    if let Some(cgroups) = confinement.cgroups() {
        let group = cgroups.enclose(spawned.process.pid()).map_err(failed)?;
        group.limit(launch.resources).map_err(failed)?;
        spawned.group = Some(group);
    }
    ours.write_all(&orders)
        .and_then(|()| ours.shutdown(Shutdown::Write))
        .and_then(|()| ours.set_read_timeout(Some(PATIENCE)))
        .map_err(failed)?;
    let mut said = String::new();
    ours.read_to_string(&mut said).map_err(failed)?;
    if said.is_empty() {
        if confinement.has_own_network() {
            let network = File::open(format!("/proc/{}/ns/net", spawned.process.pid()));
            let network = Network::new(network.map_err(failed)?.into());
            spawned.network = Some(Arc::new(network));
        }
        return Ok(spawned);
    }
    if said.starts_with(REFUSED) {
        return Err(NotStarted::Platform(said));
    }
    tracing::debug!(program = %Path::new(program).display(), said, "a program did not run");
    Err(NotStarted::Program(said))
}

/// From here on the process ends when the value is dropped.
///
/// # Errors
///
/// The guard cannot be told, or the system has no descriptors.
pub(crate) fn own(mut child: process::Child, guard: &Arc<Guard>) -> Result<Spawned, NotStarted> {
    let failed = |error: io::Error| NotStarted::Platform(format!("start a program: {error}"));
    let pid = Pid::from_raw(child.id().cast_signed());
    let pid = pid.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    let process = Arc::new(Process {
        pid,
        guard: Arc::clone(guard),
        life: Mutex::new(Life::There),
    });
    guard.add(pid).map_err(failed)?;
    tracing::debug!(pid = %pid, "program started");
    let output = child.stdout.take().zip(child.stderr.take());
    let (stdout, stderr) = output.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
    Ok(Spawned {
        pidfd: pidfd.map_err(|error| failed(error.into()))?,
        process,
        stdout: stdout.into(),
        stderr: stderr.into(),
        group: None,
        network: None,
    })
}

impl Launch<'_> {
    fn split(&self) -> Result<(&OsString, &[OsString]), NotStarted> {
        let parts = self.argv.split_first();
        parts.ok_or_else(|| NotStarted::Program("there is no program to run".to_owned()))
    }
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Asks the whole group to end, or ends it where nobody would listen.
    pub(crate) fn terminate(&self) {
        self.signal(if self.hears(Signal::TERM) {
            Signal::TERM
        } else {
            Signal::KILL
        });
    }

    /// Asks the leader alone to end, by the signal that it expects for that; the rest of the group is
    /// its own to end. Where it would not hear it the whole group is ended.
    pub(crate) fn ask_leader(&self, signal: Signal) {
        if !self.hears(signal) {
            return self.signal(Signal::KILL);
        }
        let life = self.life.lock();
        if *life == Life::There {
            // As for the group.
            _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Whether the leader does anything on a signal: the kernel keeps the first process of a
    /// namespace from those that it does not handle. What cannot be looked up is taken for yes.
    fn hears(&self, signal: Signal) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid));
        let heard = status.ok().and_then(|status| {
            // Who blocks it waits for it in another way.
            Some(has_signal(&status, "SigCgt:", signal)? || has_signal(&status, "SigBlk:", signal)?)
        });
        heard.unwrap_or(true)
    }

    /// Sends a signal to the whole group; does nothing when it is gone.
    pub(crate) fn signal(&self, signal: Signal) {
        let life = self.life.lock();
        if *life == Life::There {
            // The leader is there at least as a zombie, so this can only fail where all members
            // have changed their user.
            _ = rustix::process::kill_process_group(self.pid, signal);
        }
    }

    /// Ends what is left of the group, and takes the status of the leader, which has ended or does
    /// so at once.
    pub(crate) fn reap(&self) -> Ended {
        let mut life = self.life.lock();
        if *life == Life::Reaped {
            return Ended::Orphaned;
        }
        *life = Life::Reaped;
        _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        self.guard.remove(self.pid);
        match rustix::process::waitpid(Some(self.pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => Ended::Status {
                status: status.as_raw(),
                peak_memory: 0,
            },
            Ok(None) | Err(_) => Ended::Orphaned,
        }
    }
}

/// Whether a signal is in one of the sets that the kernel shows of a process.
fn has_signal(status: &str, set: &str, signal: Signal) -> Option<bool> {
    let set = status.lines().find_map(|line| line.strip_prefix(set))?;
    let set = u64::from_str_radix(set.trim(), 16).ok()?;
    Some(set & (1 << (signal.as_raw() - 1)) != 0)
}

impl Parent for Process {
    fn kill(&self, _number: u64) {
        self.signal(Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.reap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConfinementConfig, Surroundings};
    use bugle_types::{CpuMillis, MemoryMib};

    fn start(script: &str) -> Spawned {
        let resources = Resources {
            cpu: CpuMillis(300),
            memory: MemoryMib(128),
            custom: Vec::new(),
        };
        let launch = Launch {
            argv: ["bash", "-c", script].map(OsString::from).into(),
            environment: BTreeMap::from([("PATH", "/usr/bin:/bin".to_owned())]),
            directory: Path::new("/"),
            resources: &resources,
        };
        let config = ConfinementConfig {
            enabled: false,
            ..ConfinementConfig::default()
        };
        let confinement = Confinement::new(config, Surroundings::default()).unwrap();
        spawn(&launch, &Arc::new(Guard::default()), &confinement).unwrap()
    }

    fn read(pipe: OwnedFd) -> String {
        std::io::read_to_string(std::fs::File::from(pipe)).unwrap()
    }

    #[test]
    fn the_leader_takes_its_group_with_it() {
        let spawned = start("sleep 60 & echo; exit 3");
        let Ended::Status { status, .. } = ({
            // The leader has written when it has its child.
            let mut line = [0; 1];
            rustix::io::read(&spawned.stdout, &mut line).unwrap();
            rustix::process::waitid(
                rustix::process::WaitId::Pid(spawned.process.pid),
                rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
            )
            .unwrap();
            spawned.process.reap()
        }) else {
            panic!("it was our child");
        };
        assert_eq!(status, 3 << 8);
        // The pipe ends only when the background process, which has it as well, is gone.
        assert_eq!(read(spawned.stdout), "");
    }

    #[test]
    fn a_process_that_is_dropped_is_ended() {
        let spawned = start("trap '' TERM; echo; sleep 60 & sleep 60");
        drop(spawned.process);
        read(spawned.stdout);
    }

    #[test]
    fn nothing_of_the_platforms_environment_and_files_comes_through() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let spawned = start("env; ls -l /proc/$$/fd");
        let seen = read(spawned.stdout);
        assert!(seen.contains("PATH=/usr/bin:/bin\n"), "{seen}");
        assert!(!seen.contains("CARGO"), "{seen}");
        let name = file.path().file_name().unwrap().to_str().unwrap();
        assert!(!seen.contains(name), "{seen}");
    }
}
