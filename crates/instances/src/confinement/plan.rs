//! What an interpreter is told about confinement. It carries the plan out and decides nothing.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::gate::Files;
use super::seccomp::{self, Profile};
use super::{Config, Level, Network};

const NEW_MOUNTS: u32 = 0x0002_0000;
const NEW_CGROUPS: u32 = 0x0200_0000;
const NEW_HOST_NAME: u32 = 0x0400_0000;
const NEW_MESSAGES: u32 = 0x0800_0000;
const NEW_NETWORK: u32 = 0x4000_0000;

const MIB: u64 = 1024 * 1024;

/// What a program of the system is made of. Links among them stay links.
const SYSTEM: [&str; 7] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32",
];

/// What programs read in `/etc`: names of hosts and services, certificates, the time zone, and where
/// libraries are. Nothing here tells of the machine's users or programs.
const SETTINGS: [&str; 15] = [
    "alternatives",
    "gai.conf",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "pki/ca-trust",
    "pki/tls",
    "protocols",
    "resolv.conf",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
];

/// Those that change while the machine runs.
const CHANGING: [&str; 2] = ["hosts", "resolv.conf"];

/// The plan. `runtimes/python/_bugle/confine.py` and `starter` read it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Whether an instance becomes `uid` and `gid`.
    pub(super) change_user: bool,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(crate) pid_namespace: bool,
    /// Flags of `unshare` for an instance, other than its process namespace.
    pub(super) namespaces: u32,
    /// Flags of `unshare` for the parent: what instances may share, because they cannot change it.
    pub(super) shared_namespaces: u32,
    pub(super) hostname: Cow<'static, str>,
    pub(super) mounts: Option<Mounts>,
    /// Names of resource limits and their values.
    pub(super) limits: Vec<(Cow<'static, str>, u64)>,
    pub(super) drop_capabilities: bool,
    /// The filter's instructions in hexadecimal.
    pub(super) seccomp: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mounts {
    /// A directory to build on; empty.
    pub(super) stage: PathBuf,
    /// What is shown and can be executed.
    pub(super) binds: Vec<PathBuf>,
    pub(super) links: Vec<(PathBuf, PathBuf)>,
    /// What is made in `/etc`.
    pub(super) files: Vec<(Cow<'static, str>, String)>,
    /// What is shown in `/etc` as it is now; copied, since every mount costs at every start.
    pub(super) copies: Vec<Cow<'static, str>>,
    /// What is shown in `/etc` as it will be.
    pub(super) etc: Vec<Cow<'static, str>>,
    pub(super) tmp_bytes: u64,
    pub(super) shm_bytes: u64,
    pub(super) inodes: u64,
}

/// The plan for what an interpreter runs that is installed below `prefix`, or for a program, which may read what is below
/// `packages` as well.
///
/// # Errors
///
/// The stage cannot be made, or the machine has no filter.
pub(super) fn plan(
    config: &Config,
    level: Level,
    prefix: Option<&Path>,
    packages: &[PathBuf],
    stage: &Path,
) -> Result<Plan, String> {
    let isolated = level == Level::Full;
    let (mut namespaces, mut shared_namespaces) = (0, 0);
    if isolated {
        namespaces = NEW_MOUNTS | NEW_MESSAGES;
        shared_namespaces = NEW_CGROUPS | NEW_HOST_NAME;
        if config.network == Network::None {
            namespaces |= NEW_NETWORK;
        }
    }
    let confined = level != Level::Off;
    let filter = if confined {
        seccomp::filter(Profile::Function).ok_or_else(|| {
            let processor = std::env::consts::ARCH;
            format!("there is no filter of system calls for {processor}; set confinement.enabled")
        })?
    } else {
        Vec::new()
    };
    Ok(Plan {
        change_user: isolated,
        uid: config.uid,
        gid: config.gid,
        pid_namespace: isolated,
        namespaces,
        shared_namespaces,
        hostname: if isolated { "function" } else { "" }.into(),
        mounts: if isolated {
            Some(mounts(config, prefix, packages, stage)?)
        } else {
            None
        },
        limits: if confined { limits(config) } else { Vec::new() },
        drop_capabilities: confined,
        seccomp: hexadecimal(&filter),
    })
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        _ = write!(text, "{byte:02x}");
    }
    text
}

fn limits(config: &Config) -> Vec<(Cow<'static, str>, u64)> {
    vec![
        ("CORE".into(), 0),
        ("NOFILE".into(), config.open_files),
        ("FSIZE".into(), config.file_mb * MIB),
        ("MEMLOCK".into(), 64 * 1024),
    ]
}

/// What an interpreter is made of. Not all of its prefix: that may be somebody's home.
fn of_interpreter(prefix: &Path) -> impl Iterator<Item = PathBuf> {
    let folders = ["bin", "lib", "lib64", "ssl"].map(|name| prefix.join(name));
    folders.into_iter().filter(|path| path.is_dir())
}

fn mounts(
    config: &Config,
    prefix: Option<&Path>,
    packages: &[PathBuf],
    stage: &Path,
) -> Result<Mounts, String> {
    fs::create_dir_all(stage).map_err(|error| format!("make {}: {error}", stage.display()))?;
    let mut links = Vec::new();
    let mut binds: Vec<PathBuf> = Vec::new();
    for path in SYSTEM.map(PathBuf::from) {
        match fs::read_link(&path) {
            Ok(target) => links.push((path, target)),
            Err(_) if path.is_dir() => binds.push(path),
            Err(_) => {}
        }
    }
    let of_interpreter = prefix.into_iter().flat_map(of_interpreter);
    let more = config.read_only_paths.iter().chain(packages).cloned();
    for path in of_interpreter.chain(more) {
        if !path.is_absolute() || !path.try_exists().unwrap_or(false) {
            return Err(format!(
                "confinement.read_only_paths: {} is not a path that exists",
                path.display()
            ));
        }
        if !binds.iter().any(|bound| path.starts_with(bound)) {
            binds.push(path);
        }
    }
    let present = |name: &&str| fs::metadata(Path::new("/etc").join(name)).is_ok();
    let (copies, shown) = SETTINGS
        .into_iter()
        .filter(present)
        .map(Cow::Borrowed)
        .partition(|name| {
            !CHANGING.contains(&&**name) && Path::new("/etc").join(&**name).is_file()
        });
    let Config { uid, gid, .. } = config;
    let passwd = format!(
        "root:x:0:0:root:/:/usr/sbin/nologin\nfunction:x:{uid}:{gid}:function:/tmp:/usr/sbin/nologin\n"
    );
    Ok(Mounts {
        stage: stage.to_owned(),
        binds,
        links,
        files: vec![
            ("passwd".into(), passwd),
            ("group".into(), format!("root:x:0:\nfunction:x:{gid}:\n")),
        ],
        copies,
        etc: shown,
        tmp_bytes: config.tmp_mb * MIB,
        shm_bytes: config.shared_memory_mb * MIB,
        inodes: config.tmp_files,
    })
}

/// What may be done with files where an instance has no root of its own. `own` is for the files that
/// instances write, `code` where functions are.
pub(super) fn files(config: &Config, prefix: Option<&Path>, own: &Path, code: &[PathBuf]) -> Files {
    let settings = SETTINGS.iter().map(|name| Path::new("/etc").join(name));
    let read = SYSTEM.iter().map(PathBuf::from).chain(settings);
    let read = read
        .chain(["/etc/passwd", "/etc/group", "/proc"].map(PathBuf::from))
        .chain(prefix.into_iter().flat_map(of_interpreter))
        .chain(config.read_only_paths.iter().cloned())
        .chain(code.iter().cloned());
    let devices = ["null", "zero", "full", "random", "urandom"];
    let devices = devices.map(|name| Path::new("/dev").join(name));
    let there = |path: &PathBuf| fs::metadata(path).is_ok();
    Files {
        read: read.filter(there).collect(),
        write: devices
            .into_iter()
            .chain([own.to_owned()])
            .filter(there)
            .collect(),
    }
}
