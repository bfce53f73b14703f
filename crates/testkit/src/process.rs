//! Signals, and what the machine says about processes.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Sends SIGKILL to a process. One that is gone already is no mistake.
pub fn kill(pid: u32) {
    send(pid, Signal::KILL);
}

/// Interrupts a process as Ctrl-C does. One that is gone already is no mistake.
pub fn interrupt(pid: u32) {
    send(pid, Signal::INT);
}

/// Asks a process to end. One that is gone already is no mistake.
pub fn terminate(pid: u32) {
    send(pid, Signal::TERM);
}

/// Stops a process until it [goes on](resume).
pub fn pause(pid: u32) {
    send(pid, Signal::STOP);
}

/// Lets a process go on that was paused.
pub fn resume(pid: u32) {
    send(pid, Signal::CONT);
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // The only expected failure is that it has just ended.
        let _gone = kill_process(pid, signal);
    }
}

/// Whether the process is there and not a zombie.
pub fn is_running(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The state is the first field behind the command, which is in parentheses and may hold any.
    !matches!(
        stat.rsplit(") ").next().map(|rest| rest.as_bytes()[0]),
        Some(b'Z' | b'X') | None
    )
}

/// The processes that a process has started, in order.
pub fn children_of(pid: u32) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
    }
    found.sort_unstable();
    found
}

/// The processes whose environment, command line or working directory names `path`.
pub fn processes_using(path: &Path) -> Vec<u32> {
    let needle = path.to_string_lossy();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let names = |file: &str| {
            let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(&*needle)
        };
        let works_there = std::fs::read_link(entry.path().join("cwd"))
            .is_ok_and(|directory| directory.starts_with(path));
        if pid != std::process::id() && (works_there || names("cmdline") || names("environ")) {
            found.push(pid);
        }
    }
    found
}
