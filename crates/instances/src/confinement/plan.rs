//! What an interpreter is told about confinement. It carries the plan out and decides nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Config, Level, Network, seccomp};

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
const SETTINGS: [&str; 20] = [
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "fonts",
    "gai.conf",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
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

/// The plan. `runtimes/python/_bugle/confine.py` reads it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    user: User,
    uid: u32,
    gid: u32,
    pid_namespace: bool,
    /// Flags of `unshare` for an instance, other than its process namespace.
    namespaces: u32,
    hostname: &'static str,
    mounts: Option<Mounts>,
    /// Names of resource limits and their values.
    limits: Vec<(&'static str, u64)>,
    drop_capabilities: bool,
    /// The filter's instructions in hexadecimal.
    seccomp: String,
}

/// Whose rights an instance has.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum User {
    /// The platform's.
    Keep,
    /// Those of `uid` and `gid`.
    Switch,
    /// The platform's, shown as `uid` and `gid` in a user namespace.
    Namespace,
}

#[derive(Clone, Debug, Serialize)]
struct Mounts {
    /// A directory to build on; empty.
    stage: PathBuf,
    /// What is shown and can be executed.
    binds: Vec<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    /// What is made in `/etc`.
    files: Vec<(&'static str, String)>,
    /// What is shown in `/etc`.
    etc: Vec<&'static str>,
    tmp_bytes: u64,
    shm_bytes: u64,
    inodes: u64,
}

/// The plan for an interpreter that is installed below `prefix`, whose instances see `code`.
///
/// # Errors
///
/// The stage cannot be made, or the machine has no filter.
pub(super) fn plan(
    config: &Config,
    level: Level,
    prefix: &Path,
    stage: &Path,
    code: &[PathBuf],
) -> Result<Plan, String> {
    let isolated = matches!(level, Level::Full | Level::UserNamespace);
    let mut namespaces = 0;
    if isolated {
        namespaces = NEW_MOUNTS | NEW_CGROUPS | NEW_HOST_NAME | NEW_MESSAGES;
        if config.network == Network::None {
            namespaces |= NEW_NETWORK;
        }
    }
    let confined = level != Level::Off;
    let filter = if confined {
        seccomp::filter().ok_or_else(|| {
            let processor = std::env::consts::ARCH;
            format!("there is no filter of system calls for {processor}; set confinement.enabled")
        })?
    } else {
        Vec::new()
    };
    Ok(Plan {
        user: match level {
            Level::Full => User::Switch,
            Level::UserNamespace => User::Namespace,
            Level::Process | Level::Off => User::Keep,
        },
        uid: config.uid,
        gid: config.gid,
        pid_namespace: isolated,
        namespaces,
        hostname: if isolated { "function" } else { "" },
        mounts: if isolated {
            Some(mounts(config, prefix, stage, code)?)
        } else {
            None
        },
        limits: if confined { limits(config) } else { Vec::new() },
        drop_capabilities: confined,
        seccomp: hexadecimal(&filter),
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        _ = write!(text, "{byte:02x}");
    }
    text
}

fn limits(config: &Config) -> Vec<(&'static str, u64)> {
    vec![
        ("CORE", 0),
        ("NOFILE", config.open_files),
        ("FSIZE", config.file_mb * MIB),
        ("MEMLOCK", 64 * 1024),
    ]
}

fn mounts(
    config: &Config,
    prefix: &Path,
    stage: &Path,
    code: &[PathBuf],
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
    // Not all of the prefix: it may be somebody's home.
    let of_interpreter = ["bin", "lib", "lib64", "ssl"].map(|name| prefix.join(name));
    let of_interpreter = of_interpreter.into_iter().filter(|path| path.is_dir());
    let shown = code.iter().cloned().chain(of_interpreter);
    for path in shown.chain(config.read_only_paths.iter().cloned()) {
        if code.contains(&path) {
            // Made when there is something to keep in it.
            let made = fs::create_dir_all(&path);
            made.map_err(|error| format!("make {}: {error}", path.display()))?;
        }
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
    let Config { uid, gid, .. } = config;
    let passwd = format!(
        "root:x:0:0:root:/:/usr/sbin/nologin\nfunction:x:{uid}:{gid}:function:/tmp:/usr/sbin/nologin\n"
    );
    Ok(Mounts {
        stage: stage.to_owned(),
        binds,
        links,
        files: vec![
            ("passwd", passwd),
            ("group", format!("root:x:0:\nfunction:x:{gid}:\n")),
        ],
        etc: SETTINGS
            .into_iter()
            .filter(|name| fs::metadata(Path::new("/etc").join(name)).is_ok())
            .collect(),
        tmp_bytes: config.tmp_mb * MIB,
        shm_bytes: config.shared_memory_mb * MIB,
        inodes: config.tmp_files,
    })
}
