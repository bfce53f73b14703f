//! What ends the programs when the platform itself is killed.
//!
//! A platform that stops ends its programs. One that is killed cannot, and programs that nobody
//! calls any more would stay for ever. So one small process of the system's shell reads the process
//! groups that exist from a pipe, and kills those that are left when the pipe ends.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use parking_lot::Mutex;
use rustix::process::Pid;

/// Ignores the signals of a terminal, which the platform handles by stopping. The leader is named
/// as well, since it may have left its group; that of a confined program takes everything with it.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
groups=' '
while read -r change group; do
    case $change in
        +) groups="$groups$group " ;;
        -) groups="${groups%% $group *} ${groups#* $group }" ;;
    esac
done
for group in $groups; do
    kill -s KILL -- "-$group" "$group"
done
"#;

/// Knows the process groups of programs, and has a process that ends them after the platform.
#[derive(Debug, Default)]
pub(crate) struct Guard(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    groups: BTreeSet<i32>,
    shell: Option<Shell>,
}

#[derive(Debug)]
struct Shell {
    child: Child,
    /// Taken when it is to end.
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// From now on this group ends with the platform.
    ///
    /// # Errors
    ///
    /// The shell cannot be started.
    pub(crate) fn add(&self, group: Pid) -> io::Result<()> {
        let group = group.as_raw_nonzero().get();
        let mut state = self.0.lock();
        state.groups.insert(group);
        if let Some(shell) = &mut state.shell
            && shell.write(&format!("+ {group}\n")).is_ok()
        {
            return Ok(());
        }
        // The first program, or a shell that somebody has killed.
        let mut shell = Shell::start()?;
        for group in &state.groups {
            shell.write(&format!("+ {group}\n"))?;
        }
        state.shell = Some(shell);
        Ok(())
    }

    /// Forgets a group. To be called before its leader is reaped: after that the number may be
    /// somebody else's.
    pub(crate) fn remove(&self, group: Pid) {
        let group = group.as_raw_nonzero().get();
        let mut state = self.0.lock();
        state.groups.remove(&group);
        if let Some(shell) = &mut state.shell
            && shell.write(&format!("- {group}\n")).is_err()
        {
            state.shell = None;
        }
    }
}

impl Shell {
    fn start() -> io::Result<Self> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "bugle-guard"])
            .current_dir("/")
            .env_clear()
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        match &mut self.pipe {
            Some(pipe) => pipe.write_all(line.as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Drop for Shell {
    /// Waits for the shell, which ends with its pipe.
    fn drop(&mut self) {
        self.pipe = None;
        _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("sleep")
            .arg("60")
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        (child, pid)
    }

    #[test]
    fn groups_that_are_left_end_with_the_pipe_and_others_do_not() {
        let guard = Guard::default();
        let mut sleepers: Vec<_> = (0..3).map(|_| sleeper()).collect();
        for (_, pid) in &sleepers {
            guard.add(*pid).unwrap();
        }
        guard.remove(sleepers[1].1);
        drop(guard);
        let ended = |at: usize, sleepers: &mut Vec<(Child, Pid)>| {
            sleepers[at].0.try_wait().unwrap().is_some()
        };
        assert!(!ended(1, &mut sleepers));
        for at in [0, 2] {
            sleepers[at].0.wait().unwrap();
        }
        sleepers[1].0.kill().unwrap();
        sleepers[1].0.wait().unwrap();
    }

    #[test]
    fn a_guard_that_was_killed_is_replaced_and_knows_all_groups() {
        let guard = Guard::default();
        let (mut one, mut other) = (sleeper(), sleeper());
        guard.add(one.1).unwrap();
        let shell = guard.0.lock().shell.as_ref().unwrap().child.id();
        let shell = Pid::from_raw(shell.cast_signed()).unwrap();
        rustix::process::kill_process(shell, rustix::process::Signal::KILL).unwrap();
        if let Some(shell) = &mut guard.0.lock().shell {
            shell.child.wait().unwrap();
        }
        guard.add(other.1).unwrap();
        drop(guard);
        one.0.wait().unwrap();
        other.0.wait().unwrap();
    }
}
