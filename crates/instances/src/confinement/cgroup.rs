//! Limits of memory, processor and processes: one control group for each instance.
//!
//! Version 1 has a tree for each controller, version 2 one tree for all; a machine may have both, and
//! then each controller is in one of them. Where the trees are is read from `/proc/self`, and ours
//! are made below the groups that the platform itself is in. Everything here is reading and writing
//! small files, which blocks for as long as the kernel does: to move a process takes milliseconds on
//! version 1, so groups are filled before they are needed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bugle_types::Resources;
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// What a limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    Memory,
    Processes,
    Processor,
}

impl Controller {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Processes, Self::Processor];

    /// What it limits, for people.
    pub(super) fn subject(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processes => "process count",
            Self::Processor => "processor",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processes => "pids",
            Self::Processor => "cpu",
        }
    }
}

/// Which files a controller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A directory in which groups of one or more controllers are made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tree {
    version: Version,
    /// Where the platform's own group is.
    own: PathBuf,
    controllers: Vec<Controller>,
}

/// The groups of one platform.
#[derive(Debug)]
pub(crate) struct Cgroups {
    trees: Vec<Tree>,
    /// Where the platform's own group is in the trees that it does not use. A container's runtime
    /// uses them.
    others: Vec<PathBuf>,
    /// The directory of this platform in each tree.
    name: String,
    next: AtomicU64,
    processes: u32,
    /// Groups without processes or limits. To make one and to remove it takes the kernel as long as
    /// to start a process.
    spare: Mutex<Vec<Spare>>,
}

/// A group that was used and can be again.
#[derive(Debug)]
struct Spare {
    name: String,
    /// The memory that is still charged to it, in bytes.
    leftover: u64,
}

/// One instance's group. It is emptied when this is dropped and its processes are gone.
#[derive(Debug)]
pub(crate) struct Cgroup {
    place: Place,
    leftover: u64,
}

/// Where a group is: the directory of this name in every tree.
#[derive(Clone, Debug)]
struct Place {
    shared: Arc<Cgroups>,
    name: String,
    holds: Holds,
}

/// What is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// Processes.
    Processes,
    /// A runtime, and the group that it makes for a container.
    Runtime,
}

/// What a group has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// The most memory used, in bytes.
    pub(crate) peak_memory: u64,
    /// Processes that were killed for want of memory.
    pub(crate) killed: u64,
}

/// How the names of our directories begin; the process id and its start follow.
const PREFIX: &str = "bugle-";

/// How many of them this process has made.
static PLATFORMS: AtomicU64 = AtomicU64::new(0);

/// The period of the processor limit, in microseconds: the kernel's own default.
const PERIOD: u64 = 100_000;

/// How many groups are kept, and what may be charged to one of them: the kernel lets go of some of
/// what an instance used when it likes.
const MAX_SPARE: usize = 32;
const MAX_LEFTOVER: u64 = 1024 * 1024;

/// How often and after which time a group is asked to go; the last processes of a killed instance
/// need a moment.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

impl Cgroups {
    /// Makes this platform's directories and removes those of platforms that are gone.
    ///
    /// Returns what could be had, with the reason for each controller that could not.
    pub(super) fn prepare(processes: u32) -> (Option<Arc<Self>>, Vec<(Controller, String)>) {
        let read = |name: &str| {
            let path = Path::new("/proc/self").join(name);
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let trees = match (read("cgroup"), read("mountinfo")) {
            (Ok(groups), Ok(mounts)) => trees(&groups, &mounts),
            (Err(error), _) | (_, Err(error)) => {
                return (None, Controller::ALL.map(|one| (one, error.clone())).into());
            }
        };
        Self::prepare_in(trees, processes)
    }

    fn prepare_in(
        trees: Vec<Tree>,
        processes: u32,
    ) -> (Option<Arc<Self>>, Vec<(Controller, String)>) {
        let pid = std::process::id();
        let number = PLATFORMS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{pid}-{}-{number}", started(pid));
        let mut usable = Vec::new();
        let mut missing = Vec::new();
        let mut others = Vec::new();
        for tree in trees {
            remove_leftovers(&tree.own);
            if tree.controllers.is_empty() {
                others.push(tree.own);
                continue;
            }
            match tree.prepare(&name) {
                Ok(()) => usable.push(tree),
                Err(error) => {
                    let own = tree.own.display();
                    missing.extend(
                        tree.controllers
                            .iter()
                            .map(|&one| (one, format!("{own}: {error}"))),
                    );
                }
            }
        }
        for one in Controller::ALL {
            let known = usable.iter().any(|tree| tree.controllers.contains(&one));
            if !known && !missing.iter().any(|(missing, _)| *missing == one) {
                let reason = format!("the kernel offers no {} controller here", one.name());
                missing.push((one, reason));
            }
        }
        if usable.is_empty() {
            return (None, missing);
        }
        let cgroups = Self {
            trees: usable,
            others,
            name,
            next: AtomicU64::new(1),
            processes,
            spare: Mutex::default(),
        };
        (Some(Arc::new(cgroups)), missing)
    }

    /// Makes a group with `pid` in it. Blocks for milliseconds on version 1.
    ///
    /// # Errors
    ///
    /// A file could not be written; nothing of the group is left.
    pub(crate) fn enclose(self: &Arc<Self>, pid: u32) -> io::Result<Cgroup> {
        self.enclose_all(pid, Holds::Processes)
    }

    /// The same for what may be a runtime that makes groups below its own.
    ///
    /// # Errors
    ///
    /// As of [`Self::enclose`].
    pub(crate) fn enclose_all(self: &Arc<Self>, pid: u32, holds: Holds) -> io::Result<Cgroup> {
        let spare = self.spare.lock().pop();
        let is_new = spare.is_none();
        let Spare { name, leftover } = spare.unwrap_or_else(|| Spare {
            name: self.next.fetch_add(1, Ordering::Relaxed).to_string(),
            leftover: 0,
        });
        let place = Place {
            shared: Arc::clone(self),
            name,
            holds,
        };
        let group = Cgroup { place, leftover };
        for (tree, dir) in group.place.dirs() {
            if is_new {
                fs::create_dir(&dir)?;
            }
            if tree.controllers.contains(&Controller::Processes) {
                put(&dir, "pids.max", &self.processes.to_string())?;
            }
            let own = match (holds, tree.version) {
                (Holds::Processes, _) | (_, Version::One) => dir,
                (Holds::Runtime, Version::Two) => {
                    // A group either has processes or passes controllers on. Runtimes make their
                    // groups beside their own then.
                    tree.pass_on(&dir)?;
                    let below = dir.join("runtime");
                    fs::create_dir(&below)?;
                    below
                }
            };
            put(&own, "cgroup.procs", &pid.to_string())?;
        }
        Ok(group)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for tree in &self.trees {
            // What still has processes is left to the next platform.
            remove_with_groups(&tree.own.join(&self.name));
        }
    }
}

impl Place {
    fn dirs(&self) -> impl Iterator<Item = (&Tree, PathBuf)> {
        let of_platform = &self.shared.name;
        let dir = move |tree: &Tree| tree.own.join(of_platform).join(&self.name);
        self.shared.trees.iter().map(move |tree| (tree, dir(tree)))
    }

    fn name_for_runtime(&self) -> String {
        format!("{}-{}", self.shared.name, self.name)
    }

    fn of(&self, controller: Controller) -> Option<(Version, PathBuf)> {
        let mut dirs = self.dirs();
        let (tree, dir) = dirs.find(|(tree, _)| tree.controllers.contains(&controller))?;
        Some((tree.version, dir))
    }

    /// Makes the group a spare one, or removes it, once its processes are gone. Blocks until then, but
    /// for a second at most.
    fn give_up(self) {
        // What a runtime leaves in a group is its own affair.
        let reusable = self.holds == Holds::Processes;
        let has_room = || self.shared.spare.lock().len() < MAX_SPARE;
        let leftover = (reusable && has_room() && self.becomes_empty()).then(|| self.reset());
        match leftover.flatten() {
            Some(leftover) => {
                let name = self.name;
                self.shared.spare.lock().push(Spare { name, leftover });
            }
            None => self.remove(),
        }
    }

    fn remove(&self) {
        for (_, dir) in self.dirs() {
            remove(&dir);
        }
        if self.holds == Holds::Runtime {
            let name = self.name_for_runtime();
            for own in &self.shared.others {
                remove(&own.join(&name));
            }
        }
    }

    /// Whether the group has no process, now or soon.
    fn becomes_empty(&self) -> bool {
        self.dirs().all(|(_, dir)| {
            let procs = dir.join("cgroup.procs");
            again(|| match fs::read_to_string(&procs) {
                Ok(procs) => procs.is_empty().then_some(true),
                Err(_) => Some(false),
            })
            .unwrap_or(false)
        })
    }

    /// Takes the limits away; returns what is still charged. None if the group cannot be used again:
    /// what version 2 has counted cannot be set back.
    fn reset(&self) -> Option<u64> {
        for (tree, dir) in self.dirs() {
            if tree.version == Version::Two {
                return None;
            }
            if tree.controllers.contains(&Controller::Processor) {
                present(put(&dir, "cpu.cfs_quota_us", "-1")).ok()?;
            }
        }
        let Some((_, dir)) = self.of(Controller::Memory) else {
            return Some(0);
        };
        let usage = fs::read_to_string(dir.join("memory.usage_in_bytes")).ok()?;
        let leftover = usage.trim().parse().ok()?;
        if leftover > MAX_LEFTOVER || counted(Version::One, &dir).killed > 0 {
            return None;
        }
        present(put(&dir, "memory.memsw.limit_in_bytes", "-1")).ok()?;
        put(&dir, "memory.limit_in_bytes", "-1").ok()?;
        put(&dir, "memory.max_usage_in_bytes", "0").ok()?;
        Some(leftover)
    }
}

impl Cgroup {
    /// What a runtime in this group calls the one that it makes. By this name it is found in the
    /// trees that only runtimes use.
    pub(crate) fn name_for_runtime(&self) -> String {
        self.place.name_for_runtime()
    }

    /// Limits what is in the group to the resources of a function.
    ///
    /// # Errors
    ///
    /// The first file that could not be written; the others have been tried.
    pub(crate) fn limit(&self, resources: &Resources) -> io::Result<()> {
        let memory = self.limit_memory(resources.memory.0 * 1024 * 1024);
        let processor = self.weigh_processor(u64::from(resources.cpu.0));
        memory.and(processor)
    }

    fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        let bytes = bytes.to_string();
        match self.place.of(Controller::Memory) {
            None => Ok(()),
            Some((Version::One, dir)) => {
                put(&dir, "memory.limit_in_bytes", &bytes)?;
                // Absent where the kernel does not account for swap.
                present(put(&dir, "memory.memsw.limit_in_bytes", &bytes))
            }
            Some((Version::Two, dir)) => {
                put(&dir, "memory.max", &bytes)?;
                present(put(&dir, "memory.swap.max", "0"))?;
                present(put(&dir, "memory.oom.group", "1"))
            }
        }
    }

    /// Gives the group its part of a busy machine.
    fn weigh_processor(&self, millis: u64) -> io::Result<()> {
        match self.place.of(Controller::Processor) {
            None => Ok(()),
            Some((version, dir)) => weigh(version, &dir, millis),
        }
    }

    /// Limits the processor time. Not before the code is loaded: that would take seconds.
    ///
    /// # Errors
    ///
    /// The file could not be written.
    pub(crate) fn limit_processor(&self, millis: u32) -> io::Result<()> {
        // The kernel takes no less than a millisecond.
        let quota = (u64::from(millis) * PERIOD / 1000).max(1000);
        match self.place.of(Controller::Processor) {
            None => Ok(()),
            Some((Version::One, dir)) => put(&dir, "cpu.cfs_quota_us", &quota.to_string()),
            Some((Version::Two, dir)) => put(&dir, "cpu.max", &format!("{quota} {PERIOD}")),
        }
    }

    /// Sets the most processes and threads, in place of what the operator has said of all groups.
    ///
    /// # Errors
    ///
    /// The file could not be written.
    pub(crate) fn limit_processes(&self, most: u32) -> io::Result<()> {
        match self.place.of(Controller::Processes) {
            None => Ok(()),
            Some((_, dir)) => put(&dir, "pids.max", &most.to_string()),
        }
    }

    /// Becomes readable when the group is out of memory. None on version 2, where the kernel then
    /// ends all of the group by itself, and where memory is not counted.
    ///
    /// # Errors
    ///
    /// The system has no descriptors.
    pub(crate) fn out_of_memory(&self) -> io::Result<Option<OwnedFd>> {
        use rustix::event::{EventfdFlags, eventfd};
        let Some((Version::One, dir)) = self.place.of(Controller::Memory) else {
            return Ok(None);
        };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = fs::File::open(dir.join("memory.oom_control"))?;
        let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        put(&dir, "cgroup.event_control", &line)?;
        Ok(Some(event))
    }

    /// What has been counted so far; zeros where nothing is.
    pub(crate) fn counted(&self) -> Counted {
        let memory = self.place.of(Controller::Memory);
        let mut counted =
            memory.map_or_else(Counted::default, |(version, dir)| counted(version, &dir));
        counted.peak_memory = counted.peak_memory.saturating_sub(self.leftover);
        counted
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let place = self.place.clone();
        match Handle::try_current() {
            Ok(runtime) => _ = runtime.spawn_blocking(move || place.give_up()),
            Err(_) => place.give_up(),
        }
    }
}

fn counted(version: Version, dir: &Path) -> Counted {
    let (peak, events) = match version {
        Version::One => ("memory.max_usage_in_bytes", "memory.oom_control"),
        Version::Two => ("memory.peak", "memory.events"),
    };
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let killed = read(events)
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
    Counted {
        peak_memory: read(peak).trim().parse().unwrap_or(0),
        killed: killed.unwrap_or(0),
    }
}

/// Removes a group once its processes are gone. Blocks until then, but for a second at most.
fn remove(dir: &Path) {
    again(|| {
        // What a container's runtime has made there, and did not live to remove.
        remove_groups_in(dir);
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => None,
            // Gone, or nothing that trying again would change.
            Ok(()) | Err(_) => Some(()),
        }
    });
}

/// Tries until there is an answer, or for too long.
#[expect(clippy::disallowed_methods, reason = "runs where blocking is allowed")]
fn again<T>(attempt: impl Fn() -> Option<T>) -> Option<T> {
    for _ in 0..ATTEMPTS {
        if let Some(answer) = attempt() {
            return Some(answer);
        }
        std::thread::sleep(PAUSE);
    }
    None
}

impl Tree {
    /// Makes the directory of the platform, with the controllers on in what is below it.
    fn prepare(&self, name: &str) -> io::Result<()> {
        let dir = self.own.join(name);
        if self.version == Version::One {
            fs::create_dir_all(&dir)?;
            return self.weigh(&dir);
        }
        if !self.passes_on(&self.own)? {
            // A group either has processes or passes controllers on, so this process moves down.
            let down = self.own.join(format!("{name}-platform"));
            fs::create_dir_all(&down)?;
            put(&down, "cgroup.procs", "0")?;
            self.pass_on(&self.own)?;
        }
        fs::create_dir_all(&dir)?;
        self.weigh(&dir)?;
        self.pass_on(&dir)
    }

    /// Lets all instances together have the whole machine: the kernel's default would let them have
    /// as much as one other process.
    fn weigh(&self, dir: &Path) -> io::Result<()> {
        if !self.controllers.contains(&Controller::Processor) {
            return Ok(());
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        weigh(self.version, dir, cores as u64 * 1000)
    }

    fn passes_on(&self, dir: &Path) -> io::Result<bool> {
        let on = fs::read_to_string(dir.join("cgroup.subtree_control"))?;
        let on: Vec<&str> = on.split_whitespace().collect();
        Ok(self.controllers.iter().all(|one| on.contains(&one.name())))
    }

    fn pass_on(&self, dir: &Path) -> io::Result<()> {
        let names: Vec<String> = self
            .controllers
            .iter()
            .map(|one| format!("+{}", one.name()))
            .collect();
        put(dir, "cgroup.subtree_control", &names.join(" "))
    }
}

/// Writes a file that exists.
fn put(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let path = dir.join(name);
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Gives a group so many thousandths of what the kernel gives by default.
fn weigh(version: Version, dir: &Path, millis: u64) -> io::Result<()> {
    match version {
        Version::One => put(
            dir,
            "cpu.shares",
            &(millis * 1024 / 1000).max(2).to_string(),
        ),
        Version::Two => put(
            dir,
            "cpu.weight",
            &(millis / 10).clamp(1, 10_000).to_string(),
        ),
    }
}

/// Takes a file that does not exist for one that was not needed.
fn present(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// When a process started, in ticks since the machine did; with its id it is unique.
pub(crate) fn started(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name is in parentheses and may hold anything.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let field = after_name.split_whitespace().nth(19);
    field.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Removes what platforms that are gone have left in `own`.
fn remove_leftovers(own: &Path) {
    let Ok(entries) = fs::read_dir(own) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let mut parts = owner.split('-').map(str::parse::<u64>);
        let (Some(Ok(pid)), Some(Ok(since))) = (parts.next(), parts.next()) else {
            continue;
        };
        if u32::try_from(pid).is_ok_and(|pid| started(pid) == since && since != 0) {
            continue;
        }
        // What ran in them was killed with its platform; a group with processes stays.
        remove_with_groups(&entry.path());
    }
}

/// Removes a platform's directory and the groups in it, as far as they are empty.
fn remove_with_groups(dir: &Path) {
    remove_groups_in(dir);
    _ = fs::remove_dir(dir);
}

fn remove_groups_in(dir: &Path) {
    for group in fs::read_dir(dir).into_iter().flatten().flatten() {
        if group.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_with_groups(&group.path());
        }
    }
}

/// All trees that this process is in, also those without a controller of ours, from `/proc/self/cgroup` and `mountinfo`.
fn trees(groups: &str, mounts: &str) -> Vec<Tree> {
    let mut found: Vec<Tree> = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = if names.is_empty() {
            Version::Two
        } else {
            Version::One
        };
        let Some((root, point)) = mount_of(version, names, mounts) else {
            continue;
        };
        // Seen from within a container, the path may be above what is mounted.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("");
        let own = point.join(below.trim_start_matches('/'));
        let controllers: Vec<Controller> = match version {
            Version::One => {
                let names: Vec<&str> = names.split(',').collect();
                let ours = Controller::ALL.into_iter();
                ours.filter(|one| names.contains(&one.name())).collect()
            }
            Version::Two => {
                let offered = fs::read_to_string(own.join("cgroup.controllers"));
                let offered = offered.unwrap_or_default();
                let offered: Vec<&str> = offered.split_whitespace().collect();
                let ours = Controller::ALL.into_iter();
                ours.filter(|one| offered.contains(&one.name())).collect()
            }
        };
        found.push(Tree {
            version,
            own,
            controllers,
        });
    }
    found
}

/// The part of a tree that is mounted, and where.
fn mount_of<'a>(version: Version, names: &str, mounts: &'a str) -> Option<(&'a str, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let mounted = match version {
            Version::Two => kind == "cgroup2",
            Version::One => {
                let options: Vec<&str> = options.split(',').collect();
                kind == "cgroup" && names.split(',').all(|name| options.contains(&name))
            }
        };
        mounted.then(|| (root, PathBuf::from(point)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(version: Version) -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree {
            version,
            own: dir.path().to_owned(),
            controllers: Controller::ALL.into(),
        };
        (dir, tree)
    }

    /// A group in a folder of ordinary files, as the kernel would have made them.
    fn group(version: Version, files: &[&str]) -> (tempfile::TempDir, Cgroup, PathBuf) {
        let (dir, tree) = tree(version);
        let shared = Arc::new(Cgroups {
            trees: vec![tree],
            others: Vec::new(),
            name: "bugle-1-2".to_owned(),
            next: AtomicU64::new(1),
            processes: 256,
            spare: Mutex::default(),
        });
        let place = Place {
            shared,
            name: "7".to_owned(),
            holds: Holds::Processes,
        };
        let group = Cgroup { place, leftover: 0 };
        let folder = dir.path().join("bugle-1-2/7");
        fs::create_dir_all(&folder).unwrap();
        for file in files {
            fs::write(folder.join(file), "").unwrap();
        }
        (dir, group, folder)
    }

    fn resources() -> Resources {
        let mut resources = Resources::default();
        resources.memory.0 = 64;
        resources.cpu.0 = 500;
        resources
    }

    #[test]
    fn the_files_of_version_one_are_written() {
        let files = ["memory.limit_in_bytes", "cpu.shares", "cpu.cfs_quota_us"];
        let (_dir, group, folder) = group(Version::One, &files);
        group.limit(&resources()).unwrap();
        group.limit_processor(500).unwrap();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(files.map(read), ["67108864", "512", "50000"]);
    }

    #[test]
    fn the_files_of_version_two_are_written() {
        let files = [
            "memory.max",
            "memory.swap.max",
            "memory.oom.group",
            "cpu.weight",
            "cpu.max",
        ];
        let (_dir, group, folder) = group(Version::Two, &files);
        group.limit(&resources()).unwrap();
        group.limit_processor(500).unwrap();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(
            files.map(read),
            ["67108864", "0", "1", "50", "50000 100000"]
        );
    }

    #[test]
    fn a_limit_that_cannot_be_written_is_told_with_the_file() {
        let (_dir, group, _folder) = group(Version::Two, &[]);
        let error = group.limit(&resources()).unwrap_err().to_string();
        assert!(error.contains("memory.max"), "{error}");
    }

    #[test]
    fn what_was_counted_is_read_in_both_versions() {
        let expected = Counted {
            peak_memory: 4096,
            killed: 2,
        };
        let (_one, group, folder) = self::group(Version::One, &[]);
        fs::write(folder.join("memory.max_usage_in_bytes"), "4096\n").unwrap();
        fs::write(
            folder.join("memory.oom_control"),
            "under_oom 0\noom_kill 2\n",
        )
        .unwrap();
        assert_eq!(group.counted(), expected);
        let (_two, group, folder) = self::group(Version::Two, &[]);
        fs::write(folder.join("memory.peak"), "4096\n").unwrap();
        fs::write(folder.join("memory.events"), "oom 1\noom_kill 2\n").unwrap();
        assert_eq!(group.counted(), expected);
    }

    #[test]
    fn a_group_that_is_given_up_is_used_again_without_its_limits() {
        let files = ["cgroup.procs", "cpu.cfs_quota_us", "memory.limit_in_bytes"];
        let (_dir, group, folder) = group(Version::One, &files);
        fs::write(folder.join("memory.max_usage_in_bytes"), "900").unwrap();
        fs::write(folder.join("memory.usage_in_bytes"), "300\n").unwrap();
        // What another kind of instance was given.
        fs::write(folder.join("pids.max"), "1024").unwrap();
        let shared = Arc::clone(&group.place.shared);
        drop(group);
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(files.map(read), ["", "-1", "-1"]);
        let group = shared.enclose(42).unwrap();
        assert_eq!(read("cgroup.procs"), "42");
        assert!(read("pids.max").starts_with("256"));
        fs::write(folder.join("memory.max_usage_in_bytes"), "1000").unwrap();
        assert_eq!(group.counted().peak_memory, 700);
    }

    #[test]
    fn a_group_that_ran_out_of_memory_or_keeps_much_is_not_used_again() {
        for (killed, usage) in [("1", "0"), ("0", "5000000")] {
            let files = ["cgroup.procs", "cpu.cfs_quota_us", "memory.limit_in_bytes"];
            let (_dir, group, folder) = group(Version::One, &files);
            fs::write(folder.join("memory.usage_in_bytes"), usage).unwrap();
            fs::write(
                folder.join("memory.oom_control"),
                format!("oom_kill {killed}"),
            )
            .unwrap();
            let shared = Arc::clone(&group.place.shared);
            drop(group);
            assert!(shared.spare.lock().is_empty(), "{killed} {usage}");
        }
    }

    #[test]
    fn the_trees_of_a_machine_with_both_versions_are_found() {
        let groups = "8:pids:/\n4:memory:/box/a\n2:cpuacct,cpu:/\n1:name=systemd:/\n0::/\n";
        let mounts = "\
            30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            31 25 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
            32 25 0:28 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            33 25 0:29 / /nowhere/unified rw - cgroup2 cgroup2 rw\n";
        let found = trees(groups, mounts);
        let found: Vec<_> = found
            .iter()
            .map(|tree| (tree.own.to_str().unwrap(), tree.controllers.as_slice()))
            .collect();
        let expected: [(&str, &[Controller]); 4] = [
            ("/sys/fs/cgroup/pids/", &[Controller::Processes]),
            ("/sys/fs/cgroup/memory/a", &[Controller::Memory]),
            ("/sys/fs/cgroup/cpu/", &[Controller::Processor]),
            ("/nowhere/unified/", &[]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_a_platform_that_is_gone_has_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let own = format!(
            "bugle-{}-{}",
            std::process::id(),
            started(std::process::id())
        );
        for name in ["bugle-1-1/5", "bugle-x", "others", own.as_str()] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        remove_leftovers(dir.path());
        let mut left: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [own.as_str(), "bugle-x", "others"]);
    }
}
