//! What the processes of a platform take, as the kernel tells it.

use anyhow::ensure;

/// A process of a platform's tree.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    /// The name that it has given itself.
    pub(crate) name: String,
    rss_kib: u32,
}

/// A process and its descendants.
pub(crate) fn tree(root: u32) -> anyhow::Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        all.extend(pid.and_then(process));
    }
    let mut found: Vec<Process> = Vec::new();
    let mut wanted = vec![root];
    while let Some(pid) = wanted.pop() {
        found.extend(all.iter().find(|process| process.pid == pid).cloned());
        let children = all.iter().filter(|process| process.parent == pid);
        wanted.extend(children.map(|process| process.pid));
    }
    ensure!(!found.is_empty(), "process {root} is gone");
    Ok(found)
}

/// None for one that ended while we looked.
fn process(pid: u32) -> Option<Process> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()
    };
    let number = |key: &str| field(key).and_then(|text| text.parse().ok()).unwrap_or(0);
    Some(Process {
        pid,
        parent: number("PPid:"),
        name: field("Name:").unwrap_or_default().to_owned(),
        rss_kib: number("VmRSS:"),
    })
}

/// Resident memory of a process and its descendants, in MiB.
pub(crate) fn rss_mib(root: u32) -> anyhow::Result<f64> {
    let kib: u32 = tree(root)?.iter().map(|process| process.rss_kib).sum();
    Ok(f64::from(kib) / 1024.0)
}

/// Memory that only this process has, in MiB; 0 for one that is gone.
pub(crate) fn private_mib(pid: u32) -> f64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kib = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok());
    f64::from(kib.sum::<u32>()) / 1024.0
}

/// Processor time that a process, its descendants, and those they have waited for have taken, in
/// seconds.
pub(crate) fn cpu_seconds(root: u32) -> anyhow::Result<f64> {
    /// Of the kernel's interface, whatever its own clock does.
    const TICKS: f64 = 100.0;
    let ticks = |process: &Process| -> u64 {
        let path = format!("/proc/{}/stat", process.pid);
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        // The name, which may hold anything, ends with the last parenthesis.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let times = fields.split_whitespace().skip(11).take(4);
        times.filter_map(|time| time.parse::<u64>().ok()).sum()
    };
    let total: u64 = tree(root)?.iter().map(ticks).sum();
    #[expect(
        clippy::cast_precision_loss,
        reason = "some hours are far below 2^52 ticks"
    )]
    Ok(total as f64 / TICKS)
}

/// Open descriptors of a process.
pub(crate) fn descriptors(pid: u32) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
