//! What a container was before it became one.
//!
//! The platform executes itself under the name [`NAME`]. That process is single-threaded and the
//! first of a process namespace. It goes as far as it can while nobody waits: namespaces, `/proc`,
//! `/sys` and `/dev` with what is hidden in them, the network. Then it is parked, until it is told
//! which image to become, and does what is left: the root, the user, the filter, the program.
//!
//! What the image brings is not trusted. So nothing is looked up in it before it is the root, where
//! no link leads out, and nothing that this process has open gets into the program.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::netlink;
use super::orders::{self, Bind, Orders, Park};
use super::search;
use crate::confinement::starter::REFUSED;
use crate::confinement::starter::{
    Refused, Step, close_inherited, filter, keep, limit, make_folder, remount_read_only, unshare,
};

/// The name under which the platform's binary is a cell.
pub(crate) const NAME: &str = "bugle-cell";

/// What a cell answers when it is parked.
pub(super) const PARKED: &str = "parked";

/// Parts of `/proc` that tell of the machine; as other runtimes hide them.
pub(super) const MASKED: [&str; 11] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/firmware",
];

/// Parts of `/proc` that change the machine.
pub(super) const READ_ONLY: [&str; 5] = [
    "proc/bus",
    "proc/fs",
    "proc/irq",
    "proc/sys",
    "proc/sysrq-trigger",
];

/// The most open files of a process (`container-image` contract 3.2).
pub(super) const OPEN_FILES: u64 = 2048;

const QUIET: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Parks this process and becomes a container; returns only what prevented it.
pub(crate) fn run() -> Option<()> {
    close_inherited();
    let mut control = UnixStream::from(keep(io::stdin().as_fd())?);
    let park: Park = orders::receive(&mut control).ok()??;
    let cell = match Cell::park(&park) {
        Ok(cell) => cell,
        Err(refused) => return orders::send(&mut control, &refused).ok(),
    };
    orders::send(&mut control, &PARKED).ok()?;
    // A platform that has died says nothing, and then nothing is to be done.
    let orders: Orders = orders::receive(&mut control).ok()??;
    let refused = cell.become_container(&park, orders);
    orders::send(&mut control, &refused).ok()
}

/// What was made while nobody waited. The descriptors are of mounts below the stage.
struct Parked {
    proc: OwnedFd,
    sys: OwnedFd,
    dev: OwnedFd,
}

/// A process in new namespaces, with its mounts if it makes them itself.
enum Cell {
    Bare,
    Furnished(Parked),
}

impl Cell {
    fn park(park: &Park) -> Result<Self, Refused> {
        rustix::process::umask(Mode::from_raw_mode(0o022));
        // As it is seen from outside: inside all paths begin here.
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut namespaces = UnshareFlags::NEWNS
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWNET;
        if !park.bare {
            // Who makes groups needs to see where it is among them.
            namespaces |= UnshareFlags::NEWCGROUP;
        }
        unshare(namespaces.bits())?;
        // When the machine runs out of memory, an instance goes before the platform does.
        _ = fs::write("/proc/self/oom_score_adj", "500");
        // What the machine mounts from now on is seen here, and what it takes away is not held.
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", slave).step("receive the machine's mounts")?;
        if park.bare {
            let proc = Path::new("/proc");
            rustix::mount::mount("proc", proc, "proc", QUIET, c"").step("mount /proc")?;
            make_network(park, proc)?;
            return Ok(Self::Bare);
        }
        for (name, value) in &park.limits {
            limit(name, *value)?;
        }
        for capability in CapabilitySet::all().iter() {
            // Those that this kernel does not have are refused, and not needed.
            _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
        Parked::build(park, &groups).map(Self::Furnished)
    }

    /// Returns only why that was not possible.
    fn become_container(self, park: &Park, orders: Orders) -> Refused {
        match self {
            Self::Bare => super::oci::become_runtime(&orders),
            Self::Furnished(parked) => match parked.enter(&park.stage.join("root"), &orders) {
                Ok(()) => execute(park, orders),
                Err(refused) => refused,
            },
        }
    }
}

impl Parked {
    fn build(park: &Park, groups: &str) -> Result<Self, Refused> {
        let stage = &park.stage;
        mount_tmpfs(
            stage,
            QUIET.difference(MountFlags::NODEV),
            "mode=755,size=1m",
        )?;
        let place = |name: &str| stage.join(name);
        for name in ["root", "proc", "sys", "dev"] {
            make_folder(&place(name))?;
        }
        make_dev(&place("dev"), park.shm_bytes)?;
        rustix::mount::mount("proc", place("proc"), "proc", QUIET, c"").step("mount /proc")?;
        make_network(park, &place("proc"))?;
        rustix::mount::mount("sysfs", place("sys"), "sysfs", QUIET, c"").step("mount /sys")?;
        show_groups(groups, &place("sys/fs/cgroup"));
        remount_read_only(&place("sys"), QUIET)?;
        for path in READ_ONLY.map(place) {
            if fs::symlink_metadata(&path).is_ok() {
                rustix::mount::mount_bind(&path, &path).step(format!("show {}", path.display()))?;
                remount_read_only(&path, QUIET)?;
            }
        }
        let null = place("dev/null");
        for path in MASKED.map(place) {
            mask(&path, &null)?;
        }
        Ok(Self {
            proc: open_place(&place("proc"))?,
            sys: open_place(&place("sys"))?,
            dev: open_place(&place("dev"))?,
        })
    }

    /// Makes the image this process's root.
    fn enter(self, root: &Path, orders: &Orders) -> Result<(), Refused> {
        mount_image(root, orders)?;
        let image = open_place(root)?;
        for (name, mounted) in [("proc", &self.proc), ("sys", &self.sys), ("dev", &self.dev)] {
            attach(mounted, &place_in(&image, name)?, name)?;
        }
        // What is shown of the machine is opened while the machine is still in sight.
        let sources = orders.binds.iter().map(Source::open);
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        let tmp = if orders.read_only {
            Some(clone_tree(&orders.tmp)?)
        } else {
            None
        };
        std::env::set_current_dir(root).step("enter the root")?;
        rustix::process::pivot_root(".", ".").step("change the root")?;
        // The old root lies over the new one, and `..` would lead there, until it is taken away.
        rustix::mount::unmount(".", UnmountFlags::DETACH).step("take the old root away")?;
        std::env::set_current_dir("/").step("enter the root")?;
        // From here on every path is one of the image's.
        write_etc(&orders.etc)?;
        for source in &sources {
            source.attach()?;
        }
        if let Some(tmp) = &tmp {
            attach(tmp, &place_in(&image, "tmp")?, "/tmp")?;
            remount(Path::new("/tmp"), MountFlags::NOSUID | MountFlags::NODEV)?;
        }
        make_folder(Path::new(&orders.directory))?;
        if orders.read_only {
            remount_read_only(Path::new("/"), MountFlags::NOSUID | MountFlags::NODEV)?;
        }
        rustix::system::sethostname(orders.hostname.as_bytes()).step("set the host name")?;
        let null = File::open("/dev/null").step("open /dev/null")?;
        rustix::stdio::dup2_stdin(null).step("close the standard input")
    }
}

/// A directory of the machine on its way into a container.
struct Source<'a> {
    bind: &'a Bind,
    tree: OwnedFd,
}

impl<'a> Source<'a> {
    fn open(bind: &'a Bind) -> Result<Self, Refused> {
        let tree = clone_tree(&bind.source)?;
        Ok(Self { bind, tree })
    }

    fn attach(&self) -> Result<(), Refused> {
        let target = Path::new(&self.bind.target);
        fs::create_dir_all(target).map_err(|error| {
            format!(
                "failed to mount {}: make {}: {error}",
                self.bind.source.display(),
                target.display()
            )
        })?;
        attach(&self.tree, &open_place(target)?, &self.bind.target)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        if self.bind.read_only {
            return remount_read_only(target, flags);
        }
        remount(target, flags)
    }
}

/// A mount of its own of what is at `path`, which is nowhere yet.
fn clone_tree(path: &Path) -> Result<OwnedFd, Refused> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, path, flags).map_err(|error| {
        format!(
            "failed to mount {}: {}",
            path.display(),
            io::Error::from(error)
        )
    })
}

fn attach(what: &OwnedFd, place: &OwnedFd, name: &str) -> Result<(), Refused> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(what, "", place, "", flags).step(format!("mount {name}"))
}

fn remount(path: &Path, flags: MountFlags) -> Result<(), Refused> {
    rustix::mount::mount_remount(path, flags | MountFlags::BIND, c"")
        .step(format!("mount {}", path.display()))
}

fn open_place(path: &Path) -> Result<OwnedFd, Refused> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).step(format!("open {}", path.display()))
}

/// A directory in the image to mount on. Not a link: what hides parts of `/proc` has to lie where
/// programs look for them.
fn place_in(image: &OwnedFd, name: &str) -> Result<OwnedFd, Refused> {
    let everybody = Mode::from_raw_mode(0o755);
    if let Err(error) = rustix::fs::mkdirat(image, name, everybody)
        && error != Errno::EXIST
    {
        let error = io::Error::from(error);
        return Err(format!("/{name} cannot be made in the image: {error}"));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(image, name, flags, Mode::empty()).map_err(|_| {
        format!("/{name} of the image is not a directory; an image must leave it free")
    })
}

/// Puts the layers and the instance's own changes on top of each other.
pub(super) fn mount_image(root: &Path, orders: &Orders) -> Result<(), Refused> {
    let open = |path: &std::path::PathBuf| open_place(path);
    let layers = orders.layers.iter().rev().map(open);
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open(&orders.upper)?, open(&orders.work)?);
    // By descriptors: the kernel takes a page of options, and paths of sixty layers are longer.
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lower = layers.iter().map(name).collect::<Vec<_>>().join(":");
    let options = format!(
        "lowerdir={lower},upperdir={},workdir={}",
        name(&upper),
        name(&work)
    );
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mount = |options: String| {
        let options = CString::new(options).map_err(io::Error::other)?;
        rustix::mount::mount("overlay", root, "overlay", flags, options.as_c_str())
            .map_err(io::Error::from)
    };
    // Nothing of it outlives the instance, so nothing has to reach the disk. Before Linux 5.10
    // there was no such option.
    mount(format!("{options},volatile"))
        .or_else(|_| mount(options))
        .map_err(|error| {
            format!(
                "{REFUSED}put {} layers and {} together: {error}; the platform's data must be on a \
                 file system that overlayfs can write to, which another overlayfs is not",
                layers.len(),
                orders.upper.display()
            )
        })
}

/// Writes the platform's own files, in place of the image's.
fn write_etc(files: &[(String, String)]) -> Result<(), Refused> {
    make_folder(Path::new("/etc"))?;
    for (name, text) in files {
        let path = Path::new("/etc").join(name);
        let what = format!("write {}", path.display());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).step(what),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o644).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .step(what)?;
    }
    Ok(())
}

fn mount_tmpfs(target: &Path, flags: MountFlags, options: &str) -> Result<(), Refused> {
    let options = CString::new(options).step("options of a mount")?;
    rustix::mount::mount("tmpfs", target, "tmpfs", flags, options.as_c_str())
        .step(format!("mount {}", target.display()))
}

fn make_dev(dev: &Path, shm_bytes: u64) -> Result<(), Refused> {
    use rustix::fs::FileType;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_tmpfs(dev, flags, "mode=755,size=64k")?;
    let everybody = Mode::from_raw_mode(0o666);
    for (name, minor) in [
        ("null", (1, 3)),
        ("zero", (1, 5)),
        ("full", (1, 7)),
        ("random", (1, 8)),
        ("urandom", (1, 9)),
        ("tty", (5, 0)),
    ] {
        let what = format!("make /dev/{name}");
        let device = rustix::fs::makedev(minor.0, minor.1);
        let target = dev.join(name);
        rustix::fs::mknodat(CWD, &target, FileType::CharacterDevice, everybody, device)
            .step(&what)?;
        rustix::fs::chmod(&target, everybody).step(&what)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        std::os::unix::fs::symlink(target, dev.join(name)).step("make a link")?;
    }
    for name in ["pts", "shm", "mqueue"] {
        make_folder(&dev.join(name))?;
    }
    let terminals = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    rustix::mount::mount("devpts", dev.join("pts"), "devpts", flags, terminals)
        .step("mount /dev/pts")?;
    mount_tmpfs(
        &dev.join("shm"),
        QUIET,
        &format!("mode=1777,size={shm_bytes}"),
    )?;
    // Absent where the kernel has no message queues, and then nobody can look for it.
    _ = rustix::mount::mount("mqueue", dev.join("mqueue"), "mqueue", QUIET, c"");
    remount_read_only(dev, flags)
}

/// Makes the network ready for use, through the `/proc` that shows it.
fn make_network(park: &Park, proc: &Path) -> Result<(), Refused> {
    netlink::raise_loopback().step("raise the loopback interface")?;
    // Low ports are nobody's privilege in a network of one's own; images expect it.
    for (name, value) in [
        ("ip_unprivileged_port_start", "0"),
        ("ping_group_range", "0 2147483647"),
    ] {
        // A kernel without them never allowed it.
        _ = fs::write(proc.join("sys/net/ipv4").join(name), value);
    }
    match park.outside {
        Some(port) => netlink::make_island(port).step("lead connections to the outside"),
        None => Ok(()),
    }
}

/// Shows the control groups of this container, read-only: runtimes of languages size their heaps
/// by them. Nothing depends on it, so what cannot be shown is not.
fn show_groups(groups: &str, place: &Path) {
    let mut old = Vec::new();
    let mut unified = false;
    for line in groups.lines() {
        let mut parts = line.split(':').skip(1);
        let names = parts.next().unwrap_or_default();
        unified |= names.is_empty();
        let limits = |name| matches!(name, "memory" | "cpu" | "cpuacct" | "pids");
        if names.split(',').any(limits) {
            old.push(names);
        }
    }
    if old.is_empty() {
        if unified {
            _ = rustix::mount::mount("cgroup2", place, "cgroup2", QUIET | MountFlags::RDONLY, c"");
        }
        return;
    }
    if mount_tmpfs(place, QUIET, "mode=755,size=16k").is_err() {
        return;
    }
    for names in old {
        let target = place.join(names);
        let Ok(options) = CString::new(names) else {
            continue;
        };
        if fs::create_dir(&target).is_ok()
            && rustix::mount::mount("cgroup", &target, "cgroup", QUIET, options.as_c_str()).is_ok()
        {
            _ = remount_read_only(&target, QUIET);
            for name in names.split(',').filter(|name| *name != names) {
                _ = std::os::unix::fs::symlink(names, place.join(name));
            }
        }
    }
    _ = remount_read_only(place, QUIET);
}

fn mask(path: &Path, null: &Path) -> Result<(), Refused> {
    let Ok(seen) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if seen.is_dir() {
        return mount_tmpfs(path, QUIET | MountFlags::RDONLY, "size=0,mode=555");
    }
    rustix::mount::mount_bind(null, path).step(format!("hide {}", path.display()))
}

/// Gives up all rights and executes the program; returns why that was not possible.
fn execute(park: &Park, orders: Orders) -> Refused {
    // One file alone does not fill the disk between two looks at what was written.
    let limited = limit("FSIZE", orders.disk_bytes);
    if let Err(refused) = limited.and_then(|()| give_up_rights(park, &orders)) {
        return refused;
    }
    // Under the user's own rights: a directory that it may not enter is one that it has not got.
    if let Err(error) = std::env::set_current_dir(&orders.directory) {
        return format!(
            "the working directory {} cannot be entered by user {}: {error}",
            orders.directory, orders.uid
        );
    }
    let path = orders
        .environment
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH");
    let path = path.map_or(search::DEFAULT_PATH, |(_, value)| value);
    let program = match search::find(&orders.argv, path, &orders.directory) {
        Ok(program) => program,
        Err(missing) => return missing,
    };
    let error = Command::new(&program)
        .arg0(&orders.argv[0])
        .args(&orders.argv[1..])
        .env_clear()
        .envs(orders.environment)
        .exec();
    search::explain(&program, orders.uid, &error)
}

fn give_up_rights(park: &Park, orders: &Orders) -> Result<(), Refused> {
    use rustix::process::{Gid, Uid};
    let (uid, gid) = (Uid::from_raw(orders.uid), Gid::from_raw(orders.gid));
    // Programs open `/dev/stdout` by its name.
    for output in [io::stdout().as_fd(), io::stderr().as_fd()] {
        rustix::fs::fchown(output, Some(uid), Some(gid)).step("hand over the output")?;
    }
    rustix::thread::set_thread_groups(&[]).step("leave all groups")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).step("change the group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step("change the user")?;
    // Not there before Linux 4.3, and then there is nothing to clear.
    _ = rustix::thread::clear_ambient_capability_set();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).step("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).step("refuse new privileges")?;
    let filter = filter(&park.seccomp).ok_or_else(|| format!("{REFUSED}the filter is not one"))?;
    seccompiler::apply_filter(&filter)
        .map_err(|error| format!("{REFUSED}filter system calls: {error}"))
}
