//! The platform's configuration from files, the environment and flags.

use std::path::PathBuf;

use bugle_server::config::{Effective, Layers, default_of, load, value_like};
use bugle_types::report;
use clap::Args;
use toml::{Table, Value};

use crate::failure::{Failure, Outcome, exit};

/// Flags that set keys of the configuration.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Configuration file; otherwise bugle.toml here, then in the user's configuration folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of the platform's data.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address of the control API; port 0 takes any free one.
    #[arg(long, value_name = "ADDR")]
    pub(crate) control_listen: Option<String>,
    /// Address of the invocation gateway; port 0 takes any free one.
    #[arg(long, value_name = "ADDR")]
    pub(crate) gateway_listen: Option<String>,
    /// Folder below which function code may live; may be given more than once.
    #[arg(long, value_name = "DIR")]
    pub(crate) code_root: Vec<PathBuf>,
    /// Listens on other addresses than loopback although nobody has to log in: whoever reaches
    /// the ports can run code on this machine.
    #[arg(long)]
    pub(crate) insecure_listen_without_authentication: bool,
    /// Form of the log: auto, human or json.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// What is logged, for instance `info` or `debug`.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Any key, as SECTION.KEY=VALUE; may be given more than once.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

impl Settings {
    /// The effective configuration.
    ///
    /// # Errors
    ///
    /// Exit code 64, with the key that is wrong.
    pub(crate) fn load(&self) -> Outcome<Effective> {
        let layers = Layers {
            file: self.config.clone().or_else(found_file),
            environment: std::env::vars().collect(),
            flags: self.flags()?,
        };
        load(&layers).map_err(|error| Failure::new(exit::CONFIGURATION, report(&error)))
    }

    fn flags(&self) -> Outcome<Table> {
        let mut flags = Table::new();
        let mut put = |section: &str, key: &str, value: Value| {
            let section = flags
                .entry(section.to_owned())
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(key.to_owned(), value);
            }
        };
        let text = |path: &PathBuf| Value::String(path.to_string_lossy().into_owned());
        let data_dir = self
            .data_dir
            .clone()
            .or_else(|| default_data_dir(self.config.as_ref()));
        if let Some(folder) = &data_dir {
            put("server", "data_dir", text(folder));
        }
        for (key, value) in [
            ("control_listen", &self.control_listen),
            ("gateway_listen", &self.gateway_listen),
        ] {
            if let Some(value) = value {
                put("server", key, value.clone().into());
            }
        }
        if !self.code_root.is_empty() {
            let roots = self.code_root.iter().map(text).collect();
            put("server", "code_roots", Value::Array(roots));
        }
        if self.insecure_listen_without_authentication {
            put(
                "server",
                "insecure_listen_without_authentication",
                true.into(),
            );
        }
        for (key, value) in [("format", &self.log_format), ("level", &self.log_level)] {
            if let Some(value) = value {
                put("telemetry", key, value.clone().into());
            }
        }
        for setting in &self.set {
            let (path, value) = setting.split_once('=').ok_or_else(|| {
                Failure::usage(format!("--set {setting}: SECTION.KEY=VALUE is expected"))
            })?;
            let like = default_of(path).ok_or_else(|| {
                let text = format!("--set {path}: there is no such key; see `bugle config dump`");
                Failure::new(exit::CONFIGURATION, text)
            })?;
            if let Some((section, key)) = path.split_once('.') {
                put(section, key, value_like(value, &like));
            }
        }
        Ok(flags)
    }
}

/// The file that is read when none is named.
fn found_file() -> Option<PathBuf> {
    let here = PathBuf::from("bugle.toml");
    let there = user_folder("XDG_CONFIG_HOME", ".config").map(|f| f.join("bugle/bugle.toml"));
    [Some(here), there]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}

/// The data folder when nothing names one: the user's, so that the platform finds its functions
/// again wherever it is started. A configuration file or variable that names one wins.
fn default_data_dir(file: Option<&PathBuf>) -> Option<PathBuf> {
    let named_by_variable = std::env::var_os("BUGLE_SERVER__DATA_DIR").is_some();
    let named_by_file = file.cloned().or_else(found_file).is_some_and(|path| {
        let table = std::fs::read_to_string(path)
            .ok()
            .and_then(|text| text.parse::<Table>().ok());
        table.is_some_and(|table| {
            table
                .get("server")
                .is_some_and(|server| server.get("data_dir").is_some())
        })
    });
    if named_by_variable || named_by_file {
        return None;
    }
    user_folder("XDG_DATA_HOME", ".local/share").map(|folder| folder.join("bugle"))
}

fn user_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    named.or_else(|| std::env::home_dir().map(|home| home.join(below_home)))
}
