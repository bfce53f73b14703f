//! What is left of containers when they are gone: nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::support::{Machine, on_every_runtime, wanted};

/// How many containers live at once, and how often.
const AT_ONCE: usize = 5;
const ROUNDS: usize = 3;

/// What could be left, as it can be counted.
#[derive(Debug)]
struct Left {
    mounts: usize,
    descriptors: usize,
    children: usize,
    groups: usize,
    directories: usize,
    namespaces: usize,
}

impl Left {
    fn figures(&self) -> [usize; 6] {
        [
            self.mounts,
            self.descriptors,
            self.children,
            self.groups,
            self.directories,
            self.namespaces,
        ]
    }
}

fn left(machine: &Machine) -> Left {
    let count = |path: &str| std::fs::read_dir(path).unwrap().count();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let children = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let children = children.map(|task| {
        let of_task = std::fs::read_to_string(task.path().join("children"));
        of_task.unwrap_or_default().split_whitespace().count()
    });
    let containers = machine.folder.path().join("containers");
    let platforms = std::fs::read_dir(&containers)
        .into_iter()
        .flatten()
        .flatten();
    let directories = platforms.map(|one| std::fs::read_dir(one.path()).map_or(0, Iterator::count));
    Left {
        mounts: mounts.lines().count(),
        descriptors: count("/proc/self/fd"),
        children: children.sum(),
        groups: groups(Path::new("/sys/fs/cgroup"), 5),
        directories: directories.sum(),
        namespaces: namespaces(),
    }
}

/// Groups of this process's platforms that have processes.
fn groups(dir: &Path, depth: u32) -> usize {
    let own = format!("bugle-{}-", std::process::id());
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders
        .map(|entry| {
            let deeper = if depth > 0 {
                groups(&entry.path(), depth - 1)
            } else {
                0
            };
            let path = entry.path();
            let ours = path.to_string_lossy().contains(&own);
            let procs = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            deeper + usize::from(ours && !procs.trim().is_empty())
        })
        .sum()
}

/// Networks that processes of this test are in, or their descendants.
fn namespaces() -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let marked = processes.filter(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let ours = format!("bugle-{}-", std::process::id());
        !command.is_empty() && groups.contains(&ours)
    });
    let networks = marked.filter_map(|entry| std::fs::read_link(entry.path().join("ns/net")).ok());
    networks.collect::<BTreeSet<_>>().len()
}

/// Waits until nothing is left but what was there `before`.
async fn is_as(before: &Left, machine: &Machine) {
    let mut now = left(machine);
    for _ in 0..500 {
        // The kernel frees some of it later.
        let pairs = now.figures().into_iter().zip(before.figures());
        if pairs.into_iter().all(|(now, before)| now <= before) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        now = left(machine);
    }
    panic!("{now:?} is left, and before it was {before:?}");
}

#[test]
fn containers_that_were_stopped_or_killed_leave_nothing() {
    crate::support::on_every_runtime_with(&|config| config.prepared = 0, async |machine| {
        // What is made once stays.
        machine.usual().await.0.stop(Duration::from_secs(5)).await;
        let quiet = Left {
            children: 1,
            groups: 0,
            directories: 1,
            namespaces: 0,
            ..left(&machine)
        };
        for round in 0..ROUNDS {
            let starts = (0..AT_ONCE).map(|_| machine.start(wanted()));
            let running = futures_util::future::join_all(starts).await;
            let ends = running.iter().map(async |one| {
                one.run("echo text >/tmp/file; sleep 100 >/dev/null 2>&1 &")
                    .await;
                if round % 2 == 0 {
                    one.0.kill();
                } else {
                    one.0.stop(Duration::from_secs(5)).await;
                }
                one.0.exited().await
            });
            futures_util::future::join_all(ends).await;
        }
        is_as(&quiet, &machine).await;
    });
}

#[test]
fn cells_that_nobody_used_go_with_the_driver() {
    on_every_runtime(async |machine| {
        let folder = std::sync::Arc::clone(&machine.folder);
        machine.usual().await;
        drop(machine);
        let containers = folder.path().join("containers");
        for _ in 0..500 {
            if std::fs::read_dir(&containers).unwrap().next().is_none() && namespaces() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "{} networks and files in {} are left",
            namespaces(),
            containers.display()
        );
    });
}
