//! Network namespaces that are wired to this machine by cables that can be cut.
//!
//! Needs root and the `ip` of iproute2. Everything is named after this process, and what an earlier one
//! left behind because it was killed is removed first.

use std::process::Command as Blocking;

use tokio::process::Command;

/// What the names of all begin with; the number of a process follows.
const PREFIX: &str = "bgl";

/// Namespaces on one bridge. They are gone when this is dropped.
pub(crate) struct Wires {
    name: String,
    subnet: String,
    count: usize,
}

fn ip(arguments: &str) {
    let done = try_ip(arguments);
    assert!(done.is_ok(), "ip {arguments}: {done:?}");
}

fn try_ip(arguments: &str) -> Result<String, String> {
    let output = Blocking::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("iproute2 is installed");
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Removes what a process made.
fn remove(process: u32) {
    let ours = format!("{PREFIX}{process}");
    for line in try_ip("netns list").unwrap_or_default().lines() {
        let name = line.split(' ').next().unwrap_or_default();
        if name
            .strip_prefix(&*ours)
            .is_some_and(|rest| rest.starts_with('-'))
        {
            // Its end of the cable goes with it, and the other end with that.
            _ = try_ip(&format!("netns delete {name}"));
        }
    }
    _ = try_ip(&format!("link delete {ours}"));
}

/// Removes what processes made that are no more.
fn tidy() {
    let list = try_ip("netns list").unwrap_or_default();
    let owners = list.lines().filter_map(|line| {
        let digits = line.strip_prefix(PREFIX)?.split('-').next()?;
        digits.parse().ok()
    });
    for owner in owners {
        if !bugle_testkit::is_running(owner) {
            remove(owner);
        }
    }
}

impl Wires {
    /// Makes so many namespaces and connects them.
    pub(crate) fn new(count: usize) -> Self {
        tidy();
        let process = std::process::id();
        let name = format!("{PREFIX}{process}");
        // Another process at the same time gets another one, as far as there are any.
        let subnet = format!("10.{}.{}", 128 + process / 250 % 100, process % 250);
        let wires = Self {
            name,
            subnet,
            count,
        };
        let bridge = &wires.name;
        ip(&format!("link add {bridge} type bridge"));
        ip(&format!("address add {}/24 dev {bridge}", wires.here()));
        ip(&format!("link set {bridge} up"));
        for number in 0..count {
            let (space, cable) = (wires.space(number), wires.cable(number));
            let address = format!("{}.{}", wires.subnet, number + 2);
            ip(&format!("netns add {space}"));
            ip(&format!(
                "link add {cable} type veth peer name eth0 netns {space}"
            ));
            ip(&format!("link set {cable} master {bridge} up"));
            ip(&format!("-n {space} address add {address}/24 dev eth0"));
            ip(&format!("-n {space} link set eth0 up"));
            ip(&format!("-n {space} link set lo up"));
        }
        wires
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    fn space(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    fn cable(&self, number: usize) -> String {
        format!("{}v{number}", self.name)
    }

    /// The address of this machine for those in the namespaces.
    pub(crate) fn here(&self) -> String {
        format!("{}.1", self.subnet)
    }

    /// Begins a command that runs in a namespace.
    pub(crate) fn enter(&self, number: usize) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.space(number)));
        command.arg(bugle_testkit::binary());
        command
    }

    /// Cuts a cable.
    pub(crate) fn cut(&self, number: usize) {
        ip(&format!("link set {} down", self.cable(number)));
    }

    /// Mends it.
    pub(crate) fn mend(&self, number: usize) {
        ip(&format!("link set {} up", self.cable(number)));
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        remove(std::process::id());
    }
}
