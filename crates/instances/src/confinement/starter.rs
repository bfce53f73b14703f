//! What a confined program was before it became the program.
//!
//! The platform executes itself under the name [`NAME`]. That process is single-threaded, is the
//! first of a process namespace, and knows nothing but what it reads from its standard input: a
//! [`Launch`]. It takes away from itself all that the plan names, and executes the program. What
//! goes wrong before that is written back; silence means that the program runs.
//!
//! The steps are those of `runtimes/python/_bugle/confine.py`, which does the same for Python.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use seccompiler::sock_filter;
use serde::{Deserialize, Serialize};

use super::plan::{Mounts, Plan};

/// The name under which the platform's binary is a starter.
pub(crate) const NAME: &str = "bugle-starter";

/// How what the kernel refused begins when it is told.
pub(crate) const REFUSED: &str = "confine: ";

/// What to run, and how it is confined.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) plan: Plan,
    pub(crate) argv: Vec<OsString>,
    /// The whole environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// The function's code, which is the working directory.
    pub(crate) code: PathBuf,
}

/// A step that the kernel refused.
pub(crate) type Refused = String;

/// Becomes the program; returns only what prevented it.
pub(crate) fn run() -> Option<()> {
    close_inherited();
    let mut control = File::from(keep(io::stdin().as_fd())?);
    let mut text = Vec::new();
    control.read_to_end(&mut text).ok()?;
    // A platform that has died says nothing, and then nothing is to be done.
    let launch: Launch = serde_json::from_slice(&text).ok()?;
    let refused = launch.run();
    control.write_all(refused.as_bytes()).ok()
}

/// Closes what the platform's own parent may have left open: it is not for programs. What the
/// platform itself has open does not get here.
pub(crate) fn close_inherited() {
    let open = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| *number > 2).collect::<Vec<_>>() {
        // One of them was the listing, which is closed already.
        _ = nix::unistd::close(number);
    }
}

/// The same descriptor under another number, which the program does not get.
pub(crate) fn keep(descriptor: impl AsFd) -> Option<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(descriptor, 3).ok()
}

pub(crate) trait Step<T> {
    /// Names what was attempted.
    fn step(self, what: impl AsRef<str>) -> Result<T, Refused>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, what: impl AsRef<str>) -> Result<T, Refused> {
        self.map_err(|error| format!("{REFUSED}{}: {}", what.as_ref(), error.into()))
    }
}

impl Launch {
    /// Confines this process and executes the program; returns why that was not possible.
    fn run(self) -> Refused {
        match self.confine() {
            Ok(()) => self.execute(),
            Err(refused) => refused,
        }
    }

    fn execute(self) -> Refused {
        let mut argv = self.argv.into_iter();
        let program = argv.next().unwrap_or_default();
        let error = Command::new(&program)
            .args(argv)
            .env_clear()
            .envs(self.environment)
            .exec();
        format!("{} cannot be run: {error}", Path::new(&program).display())
    }

    fn confine(&self) -> Result<(), Refused> {
        let plan = &self.plan;
        // Folders of the root are for everybody to see, whatever the platform's own mask is.
        rustix::process::umask(Mode::from_raw_mode(0o022));
        for (name, value) in &plan.limits {
            limit(name, *value)?;
        }
        if plan.drop_capabilities {
            for capability in CapabilitySet::all().iter() {
                // Those that this kernel does not have are refused, and not needed.
                _ = rustix::thread::remove_capability_from_bounding_set(capability);
            }
        }
        unshare(plan.namespaces | plan.shared_namespaces)?;
        if plan.namespaces & UnshareFlags::NEWNET.bits() != 0 {
            raise_loopback().step("raise the loopback interface")?;
        }
        if !plan.hostname.is_empty() {
            rustix::system::sethostname(plan.hostname.as_bytes()).step("set the host name")?;
        }
        // When the machine runs out of memory, an instance goes before the platform does. Where it
        // is not allowed, the kernel chooses by size alone.
        _ = fs::write("/proc/self/oom_score_adj", "500");
        if let Some(mounts) = &plan.mounts {
            make_root(mounts, &self.code)?;
        }
        let null = File::open("/dev/null").step("open /dev/null")?;
        rustix::stdio::dup2_stdin(null).step("close the standard input")?;
        std::env::set_current_dir(&self.code).map_err(|error| {
            format!(
                "the code {} cannot be entered: {error}",
                self.code.display()
            )
        })?;
        self.give_up_rights()
    }

    fn give_up_rights(&self) -> Result<(), Refused> {
        use rustix::process::{Gid, Uid};
        let plan = &self.plan;
        if plan.change_user {
            let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
            rustix::thread::set_thread_groups(&[]).step("leave all groups")?;
            rustix::thread::set_thread_res_gid(gid, gid, gid).step("change the group")?;
            rustix::thread::set_thread_res_uid(uid, uid, uid).step("change the user")?;
        }
        if plan.drop_capabilities {
            // Not there before Linux 4.3, and then there is nothing to clear.
            _ = rustix::thread::clear_ambient_capability_set();
            let none = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            rustix::thread::set_capabilities(None, none).step("drop capabilities")?;
        }
        rustix::thread::set_no_new_privs(true).step("refuse new privileges")?;
        if plan.seccomp.is_empty() {
            return Ok(());
        }
        let filter =
            filter(&plan.seccomp).ok_or_else(|| format!("{REFUSED}the filter is not one"))?;
        seccompiler::apply_filter(&filter)
            .map_err(|error| format!("{REFUSED}filter system calls: {error}"))
    }
}

pub(crate) fn limit(name: &str, value: u64) -> Result<(), Refused> {
    let resource = match name {
        "CORE" => Resource::Core,
        "NOFILE" => Resource::Nofile,
        "FSIZE" => Resource::Fsize,
        "MEMLOCK" => Resource::Memlock,
        _ => return Err(format!("{REFUSED}there is no limit {name}")),
    };
    // The hard limit may be lower already, and only some may raise it.
    let hard = rustix::process::getrlimit(resource).maximum;
    let value = Some(hard.map_or(value, |hard| hard.min(value)));
    let limit = Rlimit {
        current: value,
        maximum: value,
    };
    rustix::process::setrlimit(resource, limit).step(format!("limit {name}"))
}

pub(crate) fn unshare(namespaces: u32) -> Result<(), Refused> {
    unshare_these(UnshareFlags::from_bits_retain(namespaces)).step("make namespaces")
}

#[expect(
    deprecated,
    reason = "unsound for shared file descriptors, which are never among these flags"
)]
fn unshare_these(flags: UnshareFlags) -> io::Result<()> {
    Ok(rustix::thread::unshare(flags)?)
}

/// Has the next process that this thread starts be the first of a process namespace. To be called
/// once by a thread, which can start no threads after that.
///
/// # Errors
///
/// The kernel refuses it.
pub(crate) fn next_child_is_first_of_its_namespace() -> io::Result<()> {
    unshare_these(UnshareFlags::NEWPID)
        .map_err(|error| io::Error::new(error.kind(), format!("make a process namespace: {error}")))
}

/// A new network has its loopback interface down.
fn raise_loopback() -> io::Result<()> {
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
    const NEW_LINK: u16 = 16;
    const REQUEST: u16 = 1;
    const UP: u32 = 1;
    const LOOPBACK: i32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend_from_slice(&32_u32.to_ne_bytes());
    message.extend_from_slice(&NEW_LINK.to_ne_bytes());
    message.extend_from_slice(&REQUEST.to_ne_bytes());
    // Sequence and sender; family, padding and kind of the device: nothing to say.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&LOOPBACK.to_ne_bytes());
    message.extend_from_slice(&UP.to_ne_bytes());
    message.extend_from_slice(&UP.to_ne_bytes());
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // The protocol of interfaces and routes, `NETLINK_ROUTE`, is number 0.
        None,
    )?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    Ok(())
}

/// Gives this process a root with nothing in it but what the plan shows, and the code.
fn make_root(mounts: &Mounts, code: &Path) -> Result<(), Refused> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).step("make the mounts private")?;
    let root = Root(&mounts.stage);
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    root.mount_tmpfs("", flags, "mode=755,size=4m,nr_inodes=4k")?;
    for path in &mounts.binds {
        root.show(path, MountFlags::NODEV)?;
    }
    for (path, target) in &mounts.links {
        std::os::unix::fs::symlink(target, root.path(path)).step("make a link")?;
    }
    root.make_etc(mounts)?;
    root.make_dev()?;
    let (inodes, quiet) = (mounts.inodes, flags | MountFlags::NOEXEC);
    let space = |bytes: u64| format!("mode=1777,size={bytes},nr_inodes={inodes}");
    for (path, flags, bytes) in [
        ("tmp", flags, mounts.tmp_bytes),
        ("dev/shm", quiet, mounts.shm_bytes),
    ] {
        make_folder(&root.path(path))?;
        root.mount_tmpfs(path, flags, &space(bytes))?;
    }
    make_folder(&root.path("proc"))?;
    rustix::mount::mount("proc", root.path("proc"), "proc", quiet, c"hidepid=2")
        .step("mount /proc")?;
    // Without its own mounts: nobody has said that they may be seen.
    // By its descriptor: a part of its path may have become a link.
    // It is the function's own: what is wrong with it says nothing about the machine.
    let shown = code.display();
    let opened = bugle_artifacts::open_directory(code)
        .map_err(|error| format!("the code {shown} cannot be opened: {error}"))?;
    let place = root.path(code);
    make_folder(&place)?;
    rustix::mount::mount_bind(format!("/proc/self/fd/{}", opened.as_raw_fd()), &place)
        .step(format!("show {}", code.display()))?;
    root.seal(code, MountFlags::NODEV)?;
    root.enter()?;
    for (path, flags) in [
        ("/proc", quiet),
        ("/dev", MountFlags::NOSUID | MountFlags::NOEXEC),
        ("/", flags),
    ] {
        remount_read_only(Path::new(path), flags)?;
    }
    Ok(())
}

/// The folder that becomes the root.
struct Root<'a>(&'a Path);

impl Root<'_> {
    /// Where something is before this is the root.
    fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        self.0.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    fn mount_tmpfs(&self, inside: &str, flags: MountFlags, options: &str) -> Result<(), Refused> {
        let options = std::ffi::CString::new(options).step("options of a mount")?;
        let target = self.path(inside);
        rustix::mount::mount("tmpfs", &target, "tmpfs", flags, options.as_c_str())
            .step(format!("mount /{inside}"))
    }

    /// Shows a file or folder of the machine, read-only, at the same place.
    fn show(&self, path: &Path, flags: MountFlags) -> Result<(), Refused> {
        let target = self.path(path);
        if path.is_dir() {
            make_folder(&target)?;
        } else {
            make_folder(target.parent().unwrap_or(self.0))?;
            File::create(&target).step(format!("make {}", path.display()))?;
        }
        rustix::mount::mount_bind_recursive(path, &target)
            .step(format!("show {}", path.display()))?;
        self.seal(path, flags)
    }

    fn seal(&self, path: &Path, flags: MountFlags) -> Result<(), Refused> {
        remount_read_only(&self.path(path), flags | MountFlags::NOSUID)
    }

    fn make_etc(&self, mounts: &Mounts) -> Result<(), Refused> {
        let etc = self.path("etc");
        make_folder(&etc)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        self.mount_tmpfs("etc", flags, "mode=755,size=8m")?;
        for name in &mounts.copies {
            let target = etc.join(&**name);
            make_folder(target.parent().unwrap_or(&etc))?;
            fs::copy(Path::new("/etc").join(&**name), &target).step(format!("copy /etc/{name}"))?;
        }
        for (name, text) in &mounts.files {
            fs::write(etc.join(&**name), text).step(format!("write /etc/{name}"))?;
        }
        let sealed = MountFlags::NODEV | MountFlags::NOEXEC;
        for name in &mounts.etc {
            self.show(&Path::new("/etc").join(&**name), sealed)?;
        }
        self.seal(Path::new("/etc"), sealed)
    }

    fn make_dev(&self) -> Result<(), Refused> {
        let dev = self.path("dev");
        make_folder(&dev)?;
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        self.mount_tmpfs("dev", flags, "mode=755,size=64k")?;
        let everybody = Mode::from_raw_mode(0o666);
        for name in ["null", "zero", "full", "random", "urandom"] {
            let what = format!("make /dev/{name}");
            let device = rustix::fs::stat(format!("/dev/{name}"))
                .step(&what)?
                .st_rdev;
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
        ] {
            std::os::unix::fs::symlink(target, dev.join(name)).step("make a link")?;
        }
        Ok(())
    }

    /// Makes this the root; the old one is gone.
    fn enter(&self) -> Result<(), Refused> {
        std::env::set_current_dir(self.0).step("enter the root")?;
        rustix::process::pivot_root(".", ".").step("change the root")?;
        // The old root lies over the new one until it is taken away.
        rustix::mount::unmount(".", UnmountFlags::DETACH).step("take the old root away")?;
        std::env::set_current_dir("/").step("enter the root")
    }
}

pub(crate) fn make_folder(path: &Path) -> Result<(), Refused> {
    fs::create_dir_all(path).step(format!("make {}", path.display()))
}

pub(crate) fn remount_read_only(path: &Path, flags: MountFlags) -> Result<(), Refused> {
    let flags = flags | MountFlags::BIND | MountFlags::RDONLY;
    rustix::mount::mount_remount(path, flags, c"")
        .step(format!("make {} read-only", path.display()))
}

/// The instructions of a filter, from their hexadecimal form.
pub(crate) fn filter(hexadecimal: &str) -> Option<Vec<sock_filter>> {
    let digits = hexadecimal.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect::<Option<_>>()?;
    let mut instructions = Vec::with_capacity(bytes.len() / 8);
    for one in bytes.chunks(8) {
        let &[code_low, code_high, jt, jf, a, b, c, d] = one else {
            return None;
        };
        instructions.push(sock_filter {
            code: u16::from_ne_bytes([code_low, code_high]),
            jt,
            jf,
            k: u32::from_ne_bytes([a, b, c, d]),
        });
    }
    Some(instructions)
}
