//! The processes of instances, as the machine sees them: an instance counts its own from one.

use std::fs;
use std::time::Duration;

/// Every process of the machine.
fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn status(pid: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"))?;
    Some(line.trim().to_owned())
}

/// Whether the process is there and is no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    status(pid, "State").is_some_and(|state| !state.starts_with('Z'))
}

/// Waits until the process is gone.
pub(crate) async fn gone(pid: u32) {
    while is_alive(pid) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> u32 {
    status(pid, "PPid").unwrap().parse().unwrap()
}

/// The process that the instance with the process `instance` knows as `inner`.
pub(crate) fn outside(instance: u32, inner: u32) -> u32 {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = (namespace(instance), inner.to_string());
    let found = all().find(|&pid| {
        let inside = status(pid, "NSpid").unwrap_or_default();
        let inside = inside.split_whitespace().next_back().map(str::to_owned);
        inside.as_ref() == Some(&wanted.1) && namespace(pid) == wanted.0
    });
    found.unwrap_or_else(|| panic!("{instance} has no process {inner}"))
}

/// The processes of this test that were given a function.
pub(crate) fn instances() -> Vec<u32> {
    let started = |pid: &u32| {
        status(*pid, "Name").is_some_and(|name| name.starts_with("py:"))
            && status(*pid, "PPid")
                .and_then(|parent| status(parent.parse().ok()?, "PPid"))
                .is_some_and(|parent| parent == std::process::id().to_string())
    };
    all().filter(started).collect()
}
