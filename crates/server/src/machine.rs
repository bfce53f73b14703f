//! What this machine has for instances: its cores and its memory, or less where a control group says so.
//!
//! In a container the machine is larger than what may be used of it. The limits of all control groups that this
//! process is in count, of either version.

use std::fs;
use std::path::{Path, PathBuf};

use bugle_pools::Room;

/// What there is. Nothing is cached: limits may be changed while the process runs.
pub(crate) fn room() -> Room {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let cores = u64::try_from(cores)
        .unwrap_or(u64::MAX)
        .saturating_mul(1000);
    let known = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = total(&known).unwrap_or_default() / 1024;
    let limits = Limits::read(Path::new("/"));
    Room {
        cpu_millis: limits.cpu_millis.map_or(cores, |limit| limit.min(cores)),
        memory_mib: limits.memory_mib.map_or(memory, |limit| limit.min(memory)),
    }
}

/// The machine's memory in KiB, out of what the kernel says of it.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The least that any control group of this process may use.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limits {
    cpu_millis: Option<u64>,
    memory_mib: Option<u64>,
}

impl Limits {
    /// Reads them from a file system, whose root is `/` outside of tests.
    fn read(root: &Path) -> Self {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mounted = root.join("sys/fs/cgroup");
        let mut limits = Self::default();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            if controllers.is_empty() {
                for group in ancestors(&mounted, path) {
                    limits.memory(number(&group.join("memory.max")));
                    limits.cpu(quota(&read(&group.join("cpu.max"))));
                }
                continue;
            }
            let hierarchy = mounted.join(controllers);
            let of = |name| controllers.split(',').any(|known| known == name);
            for group in ancestors(&hierarchy, path) {
                if of("memory") {
                    limits.memory(number(&group.join("memory.limit_in_bytes")));
                }
                if of("cpu") {
                    let (most, period) = ("cpu.cfs_quota_us", "cpu.cfs_period_us");
                    let both = format!("{} {}", read(&group.join(most)), read(&group.join(period)));
                    limits.cpu(quota(&both));
                }
            }
        }
        limits
    }

    fn memory(&mut self, bytes: Option<u64>) {
        let found = bytes.map(|bytes| bytes / (1024 * 1024));
        self.memory_mib = self.memory_mib.into_iter().chain(found).min();
    }

    fn cpu(&mut self, millis: Option<u64>) {
        self.cpu_millis = self.cpu_millis.into_iter().chain(millis).min();
    }
}

/// A control group and all those that it is in. In a container its own is often the root of what can be seen, whatever
/// its path is outside; then that is left of it.
fn ancestors(mounted: &Path, path: &str) -> Vec<PathBuf> {
    let path = Path::new(path.trim_start_matches('/'));
    path.ancestors().map(|part| mounted.join(part)).collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn number(file: &Path) -> Option<u64> {
    read(file).parse().ok()
}

/// Thousandths of a core, out of microseconds that may be used and those in which they may be.
fn quota(text: &str) -> Option<u64> {
    let (most, period) = text.split_once(' ')?;
    let most: u64 = most.parse().ok()?;
    let period: u64 = period.trim().parse().ok().filter(|period| *period > 0)?;
    Some((most.saturating_mul(1000) / period).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn limits(cpu: Option<u64>, memory: Option<u64>) -> Limits {
        Limits {
            cpu_millis: cpu,
            memory_mib: memory,
        }
    }

    #[test]
    fn the_memory_of_the_machine_is_read() {
        let text = "MemTotal:       16384000 kB\nMemFree:   1 kB\n";
        assert_eq!(total(text), Some(16_384_000));
        assert_eq!(total("nothing"), None);
        assert!(room().cpu_millis >= 1 && room().memory_mib > 0);
    }

    #[test]
    fn the_least_limit_of_all_control_groups_counts() {
        let root = system(&[
            ("proc/self/cgroup", "0::/pods/one\n"),
            ("sys/fs/cgroup/pods/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/pods/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/pods/one/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/one/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(Limits::read(root.path()), limits(Some(500), Some(1024)));
    }

    #[test]
    fn a_container_sees_its_own_limits_at_the_root() {
        let root = system(&[
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "536870912\n"),
            ("sys/fs/cgroup/cpu.max", "150000 100000\n"),
        ]);
        assert_eq!(Limits::read(root.path()), limits(Some(1500), Some(512)));
    }

    #[test]
    fn control_groups_of_the_first_version_count_too() {
        let root = system(&[
            (
                "proc/self/cgroup",
                "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(Limits::read(root.path()), limits(None, Some(256)));
    }

    #[test]
    fn without_control_groups_there_is_no_limit() {
        assert_eq!(Limits::read(system(&[]).path()), Limits::default());
    }
}
