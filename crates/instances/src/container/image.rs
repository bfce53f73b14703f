//! What an image and a function together say about a container: pure decisions, nothing is started.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bugle_types::{ContainerSpec, Resources};
use rustix::process::Signal;

use super::config::ContainerConfig;
use super::orders::Bind;
use super::search;
use crate::{BoxFuture, StartError, StartRequest};

/// Has images ready to run.
pub trait Images: Send + Sync {
    /// The image of a function, pulled if it is not there yet.
    ///
    /// Cancel safe: who waits may go away.
    ///
    /// # Errors
    ///
    /// The image cannot be had; the text says why and what to do.
    fn ready<'a>(&'a self, spec: &'a ContainerSpec) -> BoxFuture<'a, Result<Rootfs, StartError>>;
}

/// An image that is unpacked.
#[derive(Clone)]
pub struct Rootfs {
    /// Its layers in the form of overlayfs, lowest first.
    pub layers: Vec<PathBuf>,
    /// What it says about its start.
    pub config: ImageConfig,
    /// Keeps the layers from being removed.
    pub hold: Arc<dyn Send + Sync>,
}

impl fmt::Debug for Rootfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rootfs")
            .field("layers", &self.layers)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What an image says about its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The program, and its first arguments.
    pub entrypoint: Vec<String>,
    /// Its arguments, or the program.
    pub cmd: Vec<String>,
    /// Variables, in order.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// The signal that asks it to end, by name or number; none is `SIGTERM`.
    pub stop_signal: Option<String>,
}

/// The signals that images name to be stopped by.
const STOP_SIGNALS: [(&str, Signal); 13] = [
    ("TERM", Signal::TERM),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("HUP", Signal::HUP),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
    ("ABRT", Signal::ABORT),
    ("ALRM", Signal::ALARM),
    ("CONT", Signal::CONT),
    ("PIPE", Signal::PIPE),
    ("URG", Signal::URG),
];

/// What asks a container to end, spelled `SIGINT`, `INT` or `2`.
///
/// # Errors
///
/// The image names one that is not known here; `SIGTERM` will have to do.
pub(super) fn stop_signal(image: &ImageConfig) -> Result<Signal, String> {
    let Some(named) = &image.stop_signal else {
        return Ok(Signal::TERM);
    };
    let known = if let Ok(number) = named.parse::<i32>() {
        Signal::from_named_raw(number)
    } else {
        let name = named.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let found = STOP_SIGNALS.iter().find(|(known, _)| *known == name);
        found.map(|(_, signal)| *signal)
    };
    known.ok_or_else(|| {
        format!("the image's StopSignal {named:?} is not known here; SIGTERM is sent instead")
    })
}

/// What a container runs as (`container-image` contract 2.2).
pub(super) fn argv(image: &ImageConfig, spec: &ContainerSpec) -> Result<Vec<String>, String> {
    let (command, args) = match (&spec.command[..], &spec.args[..]) {
        ([], []) => (&image.entrypoint, &image.cmd),
        // The image's arguments were meant for its own program.
        (_, []) => (&spec.command, &spec.args),
        ([], _) => (&image.entrypoint, &spec.args),
        (_, _) => (&spec.command, &spec.args),
    };
    let argv: Vec<_> = command.iter().chain(args).cloned().collect();
    if argv.is_empty() {
        return Err(search::NOTHING.to_owned());
    }
    if argv.iter().any(|argument| argument.contains('\0')) {
        return Err("the command has a character that no command can have".to_owned());
    }
    Ok(argv)
}

/// Where a container starts.
pub(super) fn directory(image: &ImageConfig, spec: &ContainerSpec) -> String {
    let own = spec.working_dir.as_ref().or(image.working_dir.as_ref());
    let own = own.filter(|path| path.starts_with('/'));
    own.map_or_else(|| "/".to_owned(), Clone::clone)
}

/// The whole environment (`container-image` contract 3.1): what the image says, then the platform,
/// then the function.
pub(super) fn environment(
    image: &ImageConfig,
    request: &StartRequest,
    user: &BTreeMap<String, String>,
    layers: &[PathBuf],
) -> Result<Vec<(String, String)>, String> {
    let mut all: BTreeMap<String, String> = image.env.iter().cloned().collect();
    let path = || search::DEFAULT_PATH.to_owned();
    all.entry("PATH".to_owned()).or_insert_with(path);
    all.entry("HOME".to_owned())
        .or_insert_with(|| home(layers, uid_of(request)));
    all.extend(of_platform(request, user)?);
    for (name, value) in user {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("the environment variable {name:?} cannot be set"));
        }
        if name.starts_with("RUNTIME_") {
            continue;
        }
        let before = all.get(name).filter(|_| name == "LD_LIBRARY_PATH");
        let value = match before {
            Some(before) => format!("{before}:{value}"),
            None => value.clone(),
        };
        all.insert(name.clone(), value);
    }
    Ok(all.into_iter().collect())
}

fn uid_of(request: &StartRequest) -> u32 {
    match &request.spec.code {
        bugle_types::CodeLocation::Image(spec) => spec.uid,
        _ => bugle_types::DEFAULT_CONTAINER_USER,
    }
}

fn of_platform(
    request: &StartRequest,
    user: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, String> {
    let spec = &request.spec;
    let Resources { cpu, memory, .. } = &request.resources;
    let user_data = serde_json::to_string(user).map_err(|error| error.to_string())?;
    let mut all = vec![
        ("RUNTIME_PROJECT_ID", spec.id.tenant.to_string()),
        ("RUNTIME_FUNC_NAME", spec.id.name.short().to_owned()),
        (
            "RUNTIME_FUNC_VERSION",
            spec.id.version.shown(spec.kind).to_owned(),
        ),
        ("RUNTIME_PACKAGE", spec.id.name.service().to_owned()),
        ("RUNTIME_HANDLER", spec.handler.clone()),
        ("RUNTIME_TIMEOUT", spec.timeout.as_secs().to_string()),
        ("RUNTIME_USERDATA", user_data),
        ("RUNTIME_CPU", cpu.0.to_string()),
        ("RUNTIME_MEMORY", memory.0.to_string()),
        ("RUNTIME_MAX_RESP_BODY_SIZE", "6291456".to_owned()),
        ("RUNTIME_CODE_ROOT", "/opt/function/code".to_owned()),
        ("RUNTIME_ROOT", "/home/snuser/runtime".to_owned()),
        ("RUNTIME_LOG_DIR", "/home/snuser/log".to_owned()),
        ("PORT", bugle_types::CONTAINER_PORT.to_string()),
        ("HOSTNAME", request.id.to_string()),
    ];
    if let Some(hook) = &spec.initializer {
        all.push(("RUNTIME_INITIALIZER_HANDLER", hook.handler.clone()));
        let seconds = hook.timeout.as_secs().to_string();
        all.push(("RUNTIME_INITIALIZER_TIMEOUT", seconds));
    }
    let owned = |(name, value): (&str, String)| (name.to_owned(), value);
    Ok(all.into_iter().map(owned).collect())
}

/// The longest list of users that is read.
const USERS: u64 = 1024 * 1024;

/// The home of a user as the image has it.
fn home(layers: &[PathBuf], uid: u32) -> String {
    // The highest layer that has the list has the list that counts. A directory above it may be a
    // link; then there is no home, for nothing is followed on this side.
    let texts = layers.iter().rev().filter_map(|layer| users(layer));
    let found = texts.into_iter().next().and_then(|text| {
        text.lines().find_map(|line| {
            let mut fields = line.split(':').skip(2);
            let own = fields.next()?.parse() == Ok(uid);
            fields
                .nth(2)
                .filter(|home| own && home.starts_with('/'))
                .map(str::to_owned)
        })
    });
    found.unwrap_or_else(|| "/".to_owned())
}

fn users(layer: &Path) -> Option<String> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    use std::io::Read as _;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let layer = rustix::fs::open(layer, flags, Mode::empty()).ok()?;
    let file = rustix::fs::openat2(
        layer,
        "etc/passwd",
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    );
    let file = std::fs::File::from(file.ok()?);
    // A whiteout is a device, which says that the list was taken away.
    if !file.metadata().ok()?.is_file() {
        return Some(String::new());
    }
    let mut text = Vec::new();
    file.take(USERS).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The directories of the machine that a function has asked for.
///
/// # Errors
///
/// One that the operator does not list.
pub(super) fn binds(spec: &ContainerSpec, config: &ContainerConfig) -> Result<Vec<Bind>, String> {
    let bind = |mount: &bugle_types::Mount| {
        let name = &mount.name;
        let listed = config.mounts.get(name).filter(|of| of.path.is_absolute());
        let listed = listed.ok_or_else(|| {
            format!(
                "failed to mount {name}: the operator of the platform has not listed it in \
                 containers.mounts"
            )
        })?;
        Ok(Bind {
            source: listed.path.clone(),
            target: mount.target.clone(),
            read_only: !listed.writable,
        })
    };
    spec.mounts.iter().map(bind).collect()
}

/// The files in `/etc` that say who and where a container is.
pub(super) fn etc(hostname: &str, resolv_conf: String) -> Vec<(String, String)> {
    let hosts =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    [
        ("hosts", hosts),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", resolv_conf),
    ]
    .map(|(name, text)| (name.to_owned(), text))
    .into()
}

#[cfg(test)]
mod tests;
