//! Looks at the machine and says what the platform will find: what is in order, what is weaker than
//! it could be, what will fail, and what to do about it. Changes nothing.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use bugle_instances::Lack;
use bugle_store::{EtcdStore, Examined, Kind};

use crate::config::Config;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, for instance `data directory`.
    pub name: String,
    /// How it is.
    pub state: State,
    /// What was found.
    pub text: String,
    /// What to do, unless it is in order.
    pub fix: Option<String>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In order.
    Ok,
    /// The platform runs, but something is missing or weaker than it could be.
    Warning,
    /// The platform will not run.
    Failed,
}

impl Finding {
    fn new(name: &str, state: State, text: String, fix: Option<String>) -> Self {
        Self {
            name: name.to_owned(),
            state,
            text,
            fix,
        }
    }

    fn ok(name: &str, text: String) -> Self {
        Self::new(name, State::Ok, text, None)
    }
}

/// Instances, sockets and clients each cost a few descriptors.
const COMFORTABLE_DESCRIPTORS: u64 = 4096;

/// The store stops taking writes on a full disk; below this it is time to act.
const COMFORTABLE_DISK_MIB: u64 = 1024;

/// Examines the machine as the platform with `config` would meet it.
pub fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![data_folder(&config.server.data_dir)];
    findings.extend(disk(&config.server.data_dir));
    if config.store.kind == Kind::Etcd {
        findings.push(etcd(config));
    }
    findings.push(port("control port", config.server.control_listen));
    findings.push(port("gateway port", config.server.gateway_listen));
    if let Ok(Some(address)) = config.nodes.address() {
        findings.push(port("port of nodes", address));
    }
    findings.push(descriptors());
    findings.extend(code_roots(config));
    findings.extend(interpreters(config));
    findings.extend(confinement(config));
    findings.extend(containers(config));
    findings
}

fn data_folder(folder: &Path) -> Finding {
    const NAME: &str = "data directory";
    let existing = nearest_existing(folder);
    let shown = folder.display();
    match tempfile::Builder::new()
        .prefix(".bugle-doctor")
        .tempfile_in(&existing)
    {
        Ok(_) if existing == folder => Finding::ok(NAME, format!("{shown} can be written")),
        Ok(_) => Finding::ok(NAME, format!("{shown} will be made")),
        Err(error) => Finding::new(
            NAME,
            State::Failed,
            format!("{} cannot be written: {error}", existing.display()),
            Some("choose another folder with --data-dir, or change its owner".to_owned()),
        ),
    }
}

/// The oldest etcd whose watch and transactions are what the store relies on.
const OLDEST_ETCD: (u32, u32) = (3, 4);

/// A database of etcd's beyond this slows it down; it takes no more than 8 GiB in any case.
const COMFORTABLE_ETCD_MIB: u64 = 6 * 1024;

fn etcd(config: &Config) -> Finding {
    const NAME: &str = "etcd";
    let members = config.etcd.endpoints.join(", ");
    let found = match EtcdStore::examine(&config.etcd) {
        Ok(found) => found,
        // It says what to do itself.
        Err(failure) => return Finding::new(NAME, State::Failed, failure.to_string(), None),
    };
    let Examined {
        version,
        size,
        has_leader,
        is_full,
    } = found;
    let size = size / (1024 * 1024);
    let text = format!("{members} has version {version} and a database of {size} MiB");
    let warning = |text, fix: &str| Finding::new(NAME, State::Warning, text, Some(fix.to_owned()));
    if !is_new_enough(&version) {
        let (major, minor) = OLDEST_ETCD;
        let fix = format!("use etcd {major}.{minor} or newer");
        return Finding::new(NAME, State::Failed, text, Some(fix));
    }
    if is_full {
        return warning(
            format!("{text}, which is full"),
            "compact and defragment it, or raise its --quota-backend-bytes, then run \
             `etcdctl alarm disarm`",
        );
    }
    if !has_leader {
        return warning(
            format!("{text}, but no leader"),
            "start the other members: without most of them every change is refused",
        );
    }
    if size > COMFORTABLE_ETCD_MIB {
        return warning(
            text,
            "let etcd compact itself (--auto-compaction-retention) and defragment it",
        );
    }
    Finding::ok(NAME, text)
}

fn is_new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    found >= OLDEST_ETCD
}

fn nearest_existing(folder: &Path) -> PathBuf {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let found = absolute.ancestors().find(|path| path.is_dir());
    found.unwrap_or_else(|| Path::new("/")).to_owned()
}

fn disk(folder: &Path) -> Option<Finding> {
    let space = rustix::fs::statvfs(nearest_existing(folder)).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize) / (1024 * 1024);
    let text = format!("{free} MiB free for the data directory");
    Some(if free >= COMFORTABLE_DISK_MIB {
        Finding::ok("disk", text)
    } else {
        let fix = "free some space: on a full disk every change is refused".to_owned();
        Finding::new("disk", State::Warning, text, Some(fix))
    })
}

fn port(name: &str, address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(name, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::new(
            name,
            State::Warning,
            format!("{address} is in use, perhaps by a running bugle"),
            Some(
                "`bugle list` talks to a running one; another port: --control-listen, \
                  --gateway-listen"
                    .to_owned(),
            ),
        ),
        Err(error) => Finding::new(
            name,
            State::Failed,
            format!("{address} cannot be listened on: {error}"),
            Some("choose another address with --control-listen or --gateway-listen".to_owned()),
        ),
    }
}

fn descriptors() -> Finding {
    const NAME: &str = "open files";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    match limit.maximum {
        None => Finding::ok(NAME, "no limit".to_owned()),
        Some(maximum) if maximum >= COMFORTABLE_DESCRIPTORS => {
            Finding::ok(NAME, format!("up to {maximum}"))
        }
        Some(maximum) => Finding::new(
            NAME,
            State::Warning,
            format!(
                "up to {maximum}, enough for about {} instances",
                maximum / 4
            ),
            Some("raise the hard limit, for instance with `ulimit -Hn 65536`".to_owned()),
        ),
    }
}

fn code_roots(config: &Config) -> Vec<Finding> {
    crate::roots::code_roots(&config.server)
        .into_iter()
        .map(|root| match std::fs::read_dir(&root) {
            Ok(_) => Finding::ok("code root", root.display().to_string()),
            Err(_) if root.starts_with(&config.server.data_dir) => {
                Finding::ok("code root", format!("{} will be made", root.display()))
            }
            Err(error) => Finding::new(
                "code root",
                State::Warning,
                format!("{}: {error}", root.display()),
                Some("make the folder, or name another with --code-root".to_owned()),
            ),
        })
        .collect()
}

fn interpreters(config: &Config) -> Vec<Finding> {
    let found = bugle_instances::PythonDriver::discover(&config.python);
    let mut findings: Vec<Finding> = found
        .iter()
        .map(|interpreter| {
            let name = interpreter.version.to_string();
            let path = interpreter.path.display();
            match &interpreter.problem {
                None => Finding::ok(&name, format!("{path} ({})", interpreter.full_version)),
                Some(problem) => Finding::new(
                    &name,
                    State::Warning,
                    format!("{path}: {problem}"),
                    Some("functions of this runtime cannot be invoked until it works".to_owned()),
                ),
            }
        })
        .collect();
    if !found
        .iter()
        .any(|interpreter| interpreter.problem.is_none())
    {
        findings.push(Finding::new(
            "Python",
            State::Warning,
            "no interpreter from python3.6 to python3.13 was found".to_owned(),
            Some("install one, or name its folder in python.search_paths".to_owned()),
        ));
    }
    findings
}

/// One finding for what is done, and one for each measure that is not.
fn confinement(config: &Config) -> Vec<Finding> {
    const NAME: &str = "confinement";
    let measures = match bugle_instances::foresee_confinement(&config.confinement) {
        Ok(measures) => measures,
        Err(error) => {
            let text = format!("what can be done here is not known: {error}");
            return vec![Finding::new(NAME, State::Failed, text, None)];
        }
    };
    let (on, off): (Vec<_>, Vec<_>) = measures.into_iter().partition(|measure| measure.on);
    let state = if config.confinement.require {
        State::Failed
    } else {
        State::Warning
    };
    let mut findings = Vec::new();
    if !on.is_empty() {
        let names: Vec<&str> = on.iter().map(|measure| measure.name).collect();
        findings.push(Finding::ok(NAME, format!("{} are on", names.join(", "))));
    }
    findings.extend(off.into_iter().map(|measure| {
        Finding::new(
            NAME,
            state,
            format!("{} is off: {}", measure.name, measure.detail),
            Some("run only functions that you trust with it; see docs/security.md".to_owned()),
        )
    }));
    findings
}

/// One finding for what containers have here, and one for each thing that they lack.
fn containers(config: &Config) -> Vec<Finding> {
    const NAME: &str = "containers";
    let needs = bugle_instances::foresee_containers(&config.containers, &data_dir(config));
    let mut found = Vec::new();
    let mut findings = Vec::new();
    for need in needs {
        match need.found {
            Ok(what) => found.push(what),
            Err(Lack { what, fix }) => {
                findings.push(Finding::new(NAME, State::Warning, what, Some(fix)));
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(NAME, found.join(", ")));
    }
    findings
}

/// What the first container would lack on this machine, if anything: what is wrong, and what to do.
pub fn lacking_for_containers(config: &Config) -> Option<(String, String)> {
    let needs = bugle_instances::foresee_containers(&config.containers, &data_dir(config));
    let lack = needs.into_iter().find_map(|need| need.found.err());
    lack.map(|Lack { what, fix }| (what, fix))
}

fn data_dir(config: &Config) -> PathBuf {
    nearest_existing(&config.server.data_dir)
}
