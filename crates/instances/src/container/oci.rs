//! Containers made by a runtime of the Open Container Initiative, such as `runc` or `crun`.
//!
//! A bundle is written for the runtime, and the cell becomes the runtime: `runc run` then is the
//! first process of the cell's process namespace and makes another one inside. What it leaves when
//! it is killed goes with the cell: its mounts with the cell's view of them, its control groups with
//! the cell's, and its state with the instance's folder.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::UnmountFlags;
use serde_json::{Value, json};

use super::backend::Backend;
use super::cell;
use super::orders::{Oci, Orders};
use crate::confinement::seccomp::{NEW_NAMESPACES, REFUSED_IN_CONTAINERS, TYPE_INTO_TERMINAL};
use crate::confinement::starter::{REFUSED, Refused, Step, make_folder};

/// A command that runs bundles.
#[derive(Debug)]
pub(super) struct Runtime {
    command: PathBuf,
    /// Options before the command `run`.
    options: &'static [&'static str],
    /// Whether it refuses a machine whose second version of control groups has controllers while
    /// the first is in use.
    hides_unified: bool,
    filter: Value,
}

/// Where the second version of control groups is on a machine that has both.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

impl Runtime {
    pub(super) fn new(command: &Path) -> Self {
        let is_crun = command.file_name().is_some_and(|name| name == "crun");
        // It would make its group at the root of each tree, beyond the limits of the cell's. So its
        // container stays in the cell's.
        let options: &[_] = if is_crun {
            &["--cgroup-manager=disabled"]
        } else {
            &[]
        };
        Self {
            command: command.to_owned(),
            options,
            hides_unified: is_crun && Path::new(UNIFIED).is_dir(),
            filter: filter(),
        }
    }
}

impl Backend for Runtime {
    fn wants_bare_cells(&self) -> bool {
        true
    }

    fn prepare(&self, orders: &mut Orders, folder: &Path, group: &str) -> Result<(), String> {
        let bundle = folder.join("bundle");
        let failed = |error: std::io::Error| format!("{REFUSED}write a bundle: {error}");
        let root = bundle.join("rootfs");
        fs::create_dir_all(&root).map_err(failed)?;
        for (name, text) in &orders.etc {
            fs::write(bundle.join(name), text).map_err(failed)?;
        }
        let config = self.bundle(orders, &bundle, group);
        let config = serde_json::to_vec(&config).map_err(|error| failed(error.into()))?;
        fs::write(bundle.join("config.json"), config).map_err(failed)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut run = vec![
            text(&self.command),
            "--root".to_owned(),
            text(&folder.join("state")),
        ];
        run.extend(self.options.iter().map(|&option| option.to_owned()));
        run.extend([
            "run".to_owned(),
            "--bundle".to_owned(),
            text(&bundle),
            group.to_owned(),
        ]);
        orders.oci = Some(Oci {
            command: run,
            root,
            hide_unified: self.hides_unified,
        });
        Ok(())
    }
}

impl Runtime {
    fn bundle(&self, orders: &Orders, bundle: &Path, group: &str) -> Value {
        let environment = orders.environment.iter();
        let environment: Vec<_> = environment
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let namespaces = ["pid", "ipc", "uts", "mount", "cgroup"];
        let namespaces = namespaces.map(|kind| json!({"type": kind}));
        let masked = cell::MASKED.map(|path| format!("/{path}"));
        let sealed = cell::READ_ONLY.map(|path| format!("/{path}"));
        let limit = |kind: &str, value: u64| json!({"type": kind, "hard": value, "soft": value});
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": orders.uid, "gid": orders.gid},
                "args": orders.argv,
                "env": environment,
                "cwd": orders.directory,
                "capabilities": {},
                "noNewPrivileges": true,
                "rlimits": [
                    limit("RLIMIT_CORE", 0),
                    limit("RLIMIT_NOFILE", cell::OPEN_FILES),
                    limit("RLIMIT_FSIZE", orders.disk_bytes),
                ],
            },
            "root": {"path": "rootfs", "readonly": orders.read_only},
            "hostname": orders.hostname,
            "mounts": mounts(orders, bundle),
            "linux": {
                // The network is the cell's.
                "namespaces": namespaces,
                // Below the cell's own, which has the limits.
                "cgroupsPath": group,
                "maskedPaths": masked,
                "readonlyPaths": sealed,
                "seccomp": self.filter,
            },
        })
    }
}

fn mounts(orders: &Orders, bundle: &Path) -> Vec<Value> {
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "noexec", "mode=755", "size=64k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
    ];
    for (name, _) in &orders.etc {
        let options = ["bind", "rw", "nosuid", "nodev"];
        mounts.push(bind(&bundle.join(name), &format!("/etc/{name}"), &options));
    }
    if orders.read_only {
        mounts.push(bind(
            &orders.tmp,
            "/tmp",
            &["bind", "rw", "nosuid", "nodev"],
        ));
    }
    for one in &orders.binds {
        let access = if one.read_only { "ro" } else { "rw" };
        mounts.push(bind(
            &one.source,
            &one.target,
            &["bind", access, "nosuid", "nodev"],
        ));
    }
    mounts
}

fn mount(target: &str, kind: &str, options: &[&str]) -> Value {
    json!({"destination": target, "type": kind, "source": kind, "options": options})
}

fn bind(source: &Path, target: &str, options: &[&str]) -> Value {
    json!({"destination": target, "type": "bind", "source": source, "options": options})
}

/// What the native filter refuses, by name: the runtime makes its own program of it.
fn filter() -> Value {
    const EPERM: u32 = 1;
    const ENOSYS: u32 = 38;
    const ANY_OF_FAMILIES: std::ops::Range<u32> = 3..16;
    const INET6: u32 = 10;
    const NETLINK: u32 = 16;
    let refuse = |names: &[&str], errno: u32, args: Value| json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args});
    let argument =
        |index: u32, value: u32, op: &str| json!([{"index": index, "value": value, "op": op}]);
    let mut calls = vec![
        refuse(&REFUSED_IN_CONTAINERS, EPERM, json!([])),
        refuse(&["clone3"], ENOSYS, json!([])),
        refuse(&["socket"], EPERM, argument(0, NETLINK, "SCMP_CMP_GT")),
    ];
    for family in ANY_OF_FAMILIES.filter(|family| *family != INET6) {
        calls.push(refuse(
            &["socket"],
            EPERM,
            argument(0, family, "SCMP_CMP_EQ"),
        ));
    }
    for request in TYPE_INTO_TERMINAL {
        calls.push(refuse(
            &["ioctl"],
            EPERM,
            argument(1, request, "SCMP_CMP_EQ"),
        ));
    }
    for bit in (0..32)
        .map(|bit| 1_u32 << bit)
        .filter(|bit| NEW_NAMESPACES & bit != 0)
    {
        let has = json!([{"index": 0, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}]);
        calls.push(refuse(&["clone"], EPERM, has));
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls})
}

/// Becomes the runtime; returns only what prevented it.
pub(super) fn become_runtime(orders: &Orders) -> Refused {
    let Some(oci) = &orders.oci else {
        return format!("{REFUSED}there is no command for the container");
    };
    match prepare(oci, orders) {
        Ok(()) => {
            let error = Command::new(&oci.command[0])
                .args(&oci.command[1..])
                .env_clear()
                .env("PATH", super::search::DEFAULT_PATH)
                .env("XDG_RUNTIME_DIR", "/run")
                .stdin(Stdio::null())
                .exec();
            format!(
                "{REFUSED}run {}: {error}; install it, or set containers.runtime to native",
                oci.command[0]
            )
        }
        Err(refused) => refused,
    }
}

fn prepare(oci: &Oci, orders: &Orders) -> Result<(), Refused> {
    make_folder(&oci.root)?;
    if oci.hide_unified {
        rustix::mount::unmount(UNIFIED, UnmountFlags::DETACH).step("hide control groups")?;
    }
    cell::mount_image(&oci.root, orders)
}
