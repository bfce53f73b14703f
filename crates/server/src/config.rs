//! The effective configuration: defaults, one TOML file, the environment, flags, in that order.
//!
//! Every key can be given in each layer: `[scheduler] idle_seconds = 5`,
//! `BUGLE_SCHEDULER__IDLE_SECONDS=5`, `--set scheduler.idle_seconds=5`. Unknown keys are errors.
//! Only this module turns layers into a [`Config`], and only the binary reads the environment and
//! hands it in.

mod check;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// Everything the platform can be told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens and keeps its data.
    pub server: ServerConfig,
    /// The invocation gateway.
    pub gateway: bugle_gateway::Config,
    /// When instances come and go.
    pub scheduler: bugle_scheduler::Config,
    /// Python instances.
    pub python: bugle_instances::Config,
    /// Code packages.
    pub packages: bugle_artifacts::Config,
    /// Addresses that users name.
    pub addresses: bugle_artifacts::address::Config,
    /// Instances that are programs of their own.
    pub programs: bugle_instances::ProgramConfig,
    /// Container images.
    pub images: bugle_images::Config,
    /// How instances are confined.
    pub confinement: bugle_instances::ConfinementConfig,
    /// Instances that are containers.
    pub containers: bugle_instances::ContainerConfig,
    /// Pod pools.
    pub pools: bugle_pools::Config,
    /// The cluster that pools may be made on.
    pub kubernetes: bugle_kubernetes::Config,
    /// Other machines that host instances.
    pub nodes: crate::nodes::NodesConfig,
    /// Limits of functions and their names.
    pub registry: bugle_registry::Config,
    /// The store.
    pub store: bugle_store::Config,
    /// The etcd of the store, where it is in one.
    pub etcd: bugle_store::EtcdConfig,
    /// Other gateways on the same etcd.
    pub cluster: crate::sharing::ClusterConfig,
    /// Logs of functions.
    pub logs: crate::logs::Config,
    /// The platform's own log.
    pub telemetry: crate::telemetry::Config,
}

/// Where the platform listens and keeps its data.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// The folder of the store, the key file, caches and logs; made at first start with mode 0700.
    pub data_dir: PathBuf,
    /// The address of the control API; port 0 takes any free one.
    pub control_listen: SocketAddr,
    /// The address of the invocation gateway; port 0 takes any free one.
    pub gateway_listen: SocketAddr,
    /// The folders below which function code may live. Empty: the folder in which the platform was
    /// started, unless that is `/`. `code` in the data folder always counts.
    pub code_roots: Vec<PathBuf>,
    /// Listens on addresses other than loopback although nobody has to log in: whoever reaches the
    /// ports can run code on this machine.
    pub insecure_listen_without_authentication: bool,
    /// Threads that serve calls; 0 takes half of the machine's cores, at least one.
    pub data_threads: usize,
    /// How long running calls may take to finish when the platform stops, in seconds.
    pub shutdown_grace_seconds: u64,
    /// The region in the URNs of FunctionGraph's interface.
    pub region: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("bugle-data"),
            control_listen: (Ipv4Addr::LOCALHOST, 31182).into(),
            gateway_listen: (Ipv4Addr::LOCALHOST, 8888).into(),
            code_roots: Vec::new(),
            insecure_listen_without_authentication: false,
            data_threads: 0,
            shutdown_grace_seconds: 30,
            region: "local".to_owned(),
        }
    }
}

/// What the layers hold, as the binary collected them.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The data folder for those who name none; it counts as a default.
    pub data_dir: Option<PathBuf>,
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment; names that do not start with `BUGLE_` or have no `__` are not ours.
    pub environment: Vec<(String, String)>,
    /// Keys from flags, as nested tables.
    pub flags: Table,
}

/// The layer that decided a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The configuration file.
    File,
    /// An environment variable.
    Environment,
    /// A flag.
    Flag,
}

impl Origin {
    /// The word for it, as a dump shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

/// A configuration and where each value came from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The values.
    pub config: Config,
    /// The layer of each value, by dotted key.
    pub origins: BTreeMap<String, Origin>,
}

/// A configuration that cannot be used. Each text names the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration file {} is not TOML: {message}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Line and reason.
        message: String,
    },
    /// A key does not exist.
    #[error("{place} sets {key}, which does not exist")]
    UnknownKey {
        /// The dotted key.
        key: String,
        /// What set it: a file, a variable or a flag, by name where there is one.
        place: String,
    },
    /// A value has the wrong form.
    #[error("{place} sets {key} to a wrong value: {message}")]
    WrongValue {
        /// The dotted key.
        key: String,
        /// What set it: a file, a variable or a flag, by name where there is one.
        place: String,
        /// What is expected.
        message: String,
    },
    /// Listening where anybody could reach an interface without login.
    #[error(
        "{key} is {address}, which other machines can reach, and nobody has to log in yet: whoever \
         reaches it can run code here. Listen on 127.0.0.1, or insist with \
         --insecure-listen-without-authentication"
    )]
    NotLoopback {
        /// The dotted key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// A range of ports without a port.
    #[error(
        "programs.first_port is {first} and programs.last_port is {last}; the first is at least 1 \
         and not above the last"
    )]
    NoPorts {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
    /// A code root that is no folder.
    #[error("server.code_roots: {} is not a folder that can be read", path.display())]
    CodeRoot {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Merges the layers.
///
/// # Errors
///
/// [`Error`] for the first key that is unknown, has a wrong value, or contradicts another.
pub fn load(layers: &Layers) -> Result<Effective, Error> {
    let defaults = defaults(layers.data_dir.clone());
    let mut merged = defaults.clone();
    let mut origins = BTreeMap::new();
    walk(&defaults, "", &mut |key, _| {
        origins.insert(key.to_owned(), Origin::Default);
    });

    let file = layers
        .file
        .as_deref()
        .map(read_file)
        .transpose()?
        .unwrap_or_default();
    let environment = environment_table(&layers.environment, &defaults)?;
    for (table, origin) in [
        (&file, Origin::File),
        (&environment, Origin::Environment),
        (&layers.flags, Origin::Flag),
    ] {
        let place = |key: &str| place(origin, key, layers.file.as_deref());
        overlay(&mut merged, table, "", &place, &mut |key| {
            origins.insert(key, origin);
        })?;
    }
    let place = |origin, key: &str| place(origin, key, layers.file.as_deref());
    let config = typed(&merged, &defaults, &origins, &place)?;
    check::check(&config)?;
    Ok(Effective { config, origins })
}

/// All dotted keys, in order.
pub fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    walk(&defaults(None), "", &mut |key, _| keys.push(key.to_owned()));
    keys
}

/// The built-in values, with the data folder of those who name none.
fn defaults(data_dir: Option<PathBuf>) -> Table {
    let mut config = Config::default();
    if let Some(folder) = data_dir {
        config.server.data_dir = folder;
    }
    Table::try_from(config).expect("every configuration struct is made of TOML values")
}

/// What set a key, in the words of the person who did.
fn place(origin: Origin, key: &str, file: Option<&Path>) -> String {
    match (origin, file) {
        (Origin::File, Some(file)) => format!("configuration file {}", file.display()),
        (Origin::Environment, _) => {
            let name = key.replacen('.', "__", 1).to_uppercase();
            format!("the environment variable BUGLE_{name}")
        }
        (Origin::Flag, _) => "a flag".to_owned(),
        (Origin::Default | Origin::File, _) => "a default".to_owned(),
    }
}

impl Effective {
    /// All keys as TOML, each with the layer that decided it.
    pub fn dump(&self) -> String {
        let table = Table::try_from(self.config.clone())
            .expect("every configuration struct is made of TOML values");
        let mut text = String::new();
        for (section, values) in &table {
            let Value::Table(values) = values else {
                continue;
            };
            if !text.is_empty() {
                text.push('\n');
            }
            let _ = writeln!(text, "[{section}]");
            for (key, value) in values {
                let origin = self.origins.get(&format!("{section}.{key}"));
                let origin = origin.map_or("default", |origin| origin.name());
                let hidden = Value::String("(not shown)".to_owned());
                let is_secret = key.contains("secret") && value.as_str() != Some("");
                let value = if is_secret { &hidden } else { value };
                let _ = writeln!(text, "{key} = {value}  # {origin}");
            }
        }
        text
    }
}

fn read_file(path: &Path) -> Result<Table, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    text.parse()
        .map_err(|error: toml::de::Error| Error::NotToml {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })
}

/// The variables `BUGLE_SECTION__KEY` as tables. A value is read as the type that the key has by
/// default, so that `BUGLE_GATEWAY__X=5` is a number and a list is separated by commas.
fn environment_table(variables: &[(String, String)], defaults: &Table) -> Result<Table, Error> {
    let mut table = Table::new();
    for (name, text) in variables {
        let Some((section, key)) = name.strip_prefix("BUGLE_").and_then(|n| n.split_once("__"))
        else {
            continue;
        };
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        let like = defaults.get(&section).and_then(|section| section.get(&key));
        let Some(like) = like else {
            return Err(Error::UnknownKey {
                key: format!("{section}.{key}"),
                place: format!("the environment variable {name}"),
            });
        };
        let value = value_like(text, like);
        let section = table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(key, value);
        }
    }
    Ok(table)
}

/// Reads `text` as a value of the type of `like`, else as a string (which is then refused where it
/// does not fit, with the key's name).
pub fn value_like(text: &str, like: &Value) -> Value {
    let parsed = match like {
        Value::Integer(_) => text.parse().ok().map(Value::Integer),
        Value::Float(_) => text.parse().ok().map(Value::Float),
        Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
        Value::Array(_) => {
            let parts = text.split(',').filter(|part| !part.is_empty());
            Some(Value::Array(
                parts.map(|part| Value::String(part.to_owned())).collect(),
            ))
        }
        _ => None,
    };
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The default of a dotted key, or nothing if there is no such key; for flags that name any key.
pub fn default_of(key: &str) -> Option<Value> {
    let (section, key) = key.split_once('.')?;
    defaults(None).get(section)?.get(key).cloned()
}

fn walk(table: &Table, prefix: &str, visit: &mut impl FnMut(&str, &Value)) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Table(inner) if !inner.is_empty() => walk(inner, &path, visit),
            value => visit(&path, value),
        }
    }
}

fn overlay(
    target: &mut Table,
    layer: &Table,
    prefix: &str,
    place: &impl Fn(&str) -> String,
    decided: &mut impl FnMut(String),
) -> Result<(), Error> {
    for (key, value) in layer {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match (target.get_mut(key), value) {
            // What is empty by default has names of the operator's own, and is taken as a whole.
            (Some(Value::Table(names)), Value::Table(value)) if names.is_empty() => {
                names.clone_from(value);
                decided(path);
            }
            (Some(Value::Table(inner)), Value::Table(value)) => {
                overlay(inner, value, &path, place, decided)?;
            }
            (Some(Value::Table(_)), _) => {
                return Err(Error::WrongValue {
                    place: place(&path),
                    key: path,
                    message: "it is a section of keys".to_owned(),
                });
            }
            (Some(slot), value) => {
                *slot = value.clone();
                decided(path);
            }
            (None, _) => {
                return Err(Error::UnknownKey {
                    place: place(&path),
                    key: path,
                });
            }
        }
    }
    Ok(())
}

/// Turns the merged tables into a [`Config`]. To name the culprit of a wrong value, each key that a
/// layer set is tried on its own over the defaults.
fn typed(
    merged: &Table,
    defaults: &Table,
    origins: &BTreeMap<String, Origin>,
    place: &impl Fn(Origin, &str) -> String,
) -> Result<Config, Error> {
    let Err(all) = merged.clone().try_into::<Config>() else {
        return Ok(merged.clone().try_into().expect("it was read a line above"));
    };
    for (path, origin) in origins
        .iter()
        .filter(|(_, origin)| **origin != Origin::Default)
    {
        let mut one = defaults.clone();
        let Some((section, key)) = path.split_once('.') else {
            continue;
        };
        let value = merged.get(section).and_then(|section| section.get(key));
        if let (Some(Value::Table(section)), Some(value)) = (one.get_mut(section), value) {
            section.insert(key.to_owned(), value.clone());
        }
        if let Err(error) = one.try_into::<Config>() {
            return Err(Error::WrongValue {
                key: path.clone(),
                place: place(*origin, path),
                message: error.message().to_owned(),
            });
        }
    }
    Err(Error::WrongValue {
        key: "the configuration".to_owned(),
        place: "a layer".to_owned(),
        message: all.message().to_owned(),
    })
}

#[cfg(test)]
mod tests;
