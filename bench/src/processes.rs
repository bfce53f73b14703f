//! What the processes of a platform take, as the kernel tells it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::platform::wait;

/// A platform is idle when nothing has changed for so long. One that is ready goes on reading its lists
/// and making parents of instances, and a process counts twice between its fork and its program.
const STILL: Duration = Duration::from_secs(1);

/// The longest that one may take to be idle.
const PATIENCE: Duration = Duration::from_mins(1);

/// Memory that comes and goes with being looked at.
const JITTER_KIB: u32 = 512;

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

/// The same, once neither the processes nor their memory change any more.
pub(crate) fn idle_rss_mib(root: u32) -> anyhow::Result<f64> {
    let look = || -> anyhow::Result<(Vec<u32>, u32)> {
        let tree = tree(root)?;
        let kib = tree.iter().map(|process| process.rss_kib).sum();
        Ok((tree.iter().map(|process| process.pid).collect(), kib))
    };
    let begin = Instant::now();
    let (mut known, mut since) = (look()?, Instant::now());
    while since.elapsed() < STILL {
        ensure!(begin.elapsed() < PATIENCE, "process {root} is never idle");
        wait(STILL / 20);
        let now = look()?;
        if now.0 != known.0 || now.1.abs_diff(known.1) > JITTER_KIB {
            (known, since) = (now, Instant::now());
        }
    }
    rss_mib(root)
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

/// Control groups that a platform may keep for its next instances.
const KEPT_GROUPS: usize = 32;

/// How deep below a tree of control groups a platform may be.
const GROUP_DEPTH: u32 = 5;

/// What a platform holds of the system's, beside memory and time.
#[derive(Debug)]
pub(crate) struct Held([usize; 5]);

impl Held {
    /// The kinds, in words.
    pub(crate) const KINDS: &str = "processes, descriptors, mounts, namespaces and control groups";

    /// By the platform that is this process.
    pub(crate) fn by(pid: u32) -> anyhow::Result<Self> {
        let tree = tree(pid)?;
        let own = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let mounts = std::fs::read_to_string(own("mountinfo"))?.lines().count();
        // Namespaces without a process have a descriptor or a mount.
        let namespaces: HashSet<PathBuf> = tree
            .iter()
            .flat_map(|process| entries(Path::new(&format!("/proc/{}/ns", process.pid))))
            .filter_map(|link| std::fs::read_link(link).ok())
            .collect();
        let trees = entries(Path::new("/sys/fs/cgroup")).into_iter();
        let prefix = format!("bugle-{pid}-");
        let groups = trees.map(|path| groups(&path, &prefix, GROUP_DEPTH)).max();
        Ok(Self([
            tree.len(),
            entries(&own("fd")).len(),
            mounts,
            namespaces.len(),
            groups.unwrap_or_default(),
        ]))
    }

    /// How much more that is than `before`, and than may be kept.
    pub(crate) fn more_than(&self, before: &Self) -> usize {
        let mut allowed = before.0;
        allowed[4] += KEPT_GROUPS;
        let pairs = self.0.iter().zip(&allowed);
        pairs
            .map(|(now, allowed)| now.saturating_sub(*allowed))
            .sum()
    }
}

/// What is in a directory; nothing for one that is gone.
fn entries(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The groups of instances in a tree, or in the only tree from one of its directories on.
fn groups(path: &Path, prefix: &str, depth: u32) -> usize {
    if depth == 0 || !path.is_dir() || path.is_symlink() {
        return 0;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let inside = entries(path).into_iter();
    if name.starts_with(prefix) {
        return inside.filter(|path| path.is_dir()).count();
    }
    inside.map(|path| groups(&path, prefix, depth - 1)).sum()
}
