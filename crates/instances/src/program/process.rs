//! The process group of one program.
//!
//! The platform is the parent. It kills by process group, and only while the leader is not reaped:
//! until then its number, which is the group's, cannot be another's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bugle_types::Resources;
use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::guard::Guard;
use crate::child::{Ended, Parent};

/// All that decides how a program's process is made.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    /// The command line.
    pub(super) argv: Vec<OsString>,
    /// The whole environment.
    pub(super) environment: BTreeMap<&'a str, String>,
    /// The working directory.
    pub(super) directory: &'a Path,
    /// What the instance may use.
    pub(super) resources: &'a Resources,
    /// Where it listens.
    pub(super) port: u16,
}

/// A process that was just started.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) process: Arc<Process>,
    /// Becomes readable when the process has ended.
    pub(super) pidfd: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// The leader of a process group. Dropping it ends the group.
#[derive(Debug)]
pub(super) struct Process {
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

/// Starts a program as the leader of a process group of its own. This is the only place where a
/// program's process is made.
///
/// Blocks until the new program was loaded.
///
/// # Errors
///
/// The program cannot be executed, or the system has no room for it.
pub(super) fn spawn(launch: Launch<'_>, guard: &Arc<Guard>) -> io::Result<Spawned> {
    let Launch {
        argv,
        environment,
        directory,
        resources,
        port,
    } = launch;
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(directory)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::InvalidData)?;
    // From here on the group ends when this value is dropped.
    let process = Arc::new(Process {
        pid,
        guard: Arc::clone(guard),
        life: Mutex::new(Life::There),
    });
    guard.add(pid)?;
    tracing::debug!(pid = %pid, port, memory = resources.memory.0, "program started");
    let output = child.stdout.take().zip(child.stderr.take());
    let (stdout, stderr) = output.ok_or(io::ErrorKind::BrokenPipe)?;
    Ok(Spawned {
        pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty())?,
        process,
        stdout: stdout.into(),
        stderr: stderr.into(),
    })
}

impl Process {
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Sends a signal to the whole group; does nothing when it is gone.
    pub(super) fn signal(&self, signal: Signal) {
        let life = self.life.lock();
        if *life == Life::There {
            // The leader is there at least as a zombie, so this can only fail where all members
            // have changed their user.
            _ = rustix::process::kill_process_group(self.pid, signal);
        }
    }

    /// Ends what is left of the group, and takes the status of the leader, which has ended or does
    /// so at once.
    pub(super) fn reap(&self) -> Ended {
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
            port: 1,
        };
        spawn(launch, &Arc::new(Guard::default())).unwrap()
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
