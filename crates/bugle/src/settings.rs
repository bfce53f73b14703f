//! The platform's configuration from files, the environment and flags.

use std::path::PathBuf;

use bugle_server::config::{Effective, Error, Layers, default_of, keys, load, value_like};
use bugle_types::report;
use clap::Args;
use toml::{Table, Value};

use crate::failure::{Failure, Outcome, exit};
use crate::near;

/// Flags that set keys of the configuration.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Configuration")]
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
            // The user's folder, so that the platform finds its functions again wherever it is
            // started.
            data_dir: user_folder("XDG_DATA_HOME", ".local/share")
                .map(|folder| folder.join("bugle")),
            file: self.config.clone().or_else(found_file),
            environment: std::env::vars().collect(),
            flags: self.flags()?,
        };
        load(&layers).map_err(|error| {
            let failure = Failure::new(exit::CONFIGURATION, report(&error));
            match error {
                Error::UnknownKey { key, .. } => failure.hint(meant(&key)),
                Error::WrongValue { key, .. } => match default_of(&key) {
                    Some(value) => failure.hint(format!("its default is {value}")),
                    None => failure,
                },
                _ => failure,
            }
        })
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
        if let Some(folder) = &self.data_dir {
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
                Failure::new(
                    exit::CONFIGURATION,
                    format!("--set {path}: there is no such key"),
                )
                .hint(meant(path))
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

/// What may have been meant by a key that does not exist, or where to find out.
fn meant(key: &str) -> String {
    let keys = keys();
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
    // The right key in the wrong section is the commonest slip.
    let elsewhere = keys.iter().filter(|known| last(known) == last(key));
    let mut suggestions: Vec<&str> = elsewhere.map(String::as_str).collect();
    if suggestions.is_empty() {
        let sections = keys.iter().filter_map(|key| key.split('.').next());
        suggestions = near::near(key, keys.iter().map(String::as_str).chain(sections));
    }
    near::question(&suggestions).unwrap_or_else(|| "`bugle config dump` lists all keys".to_owned())
}

fn user_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    named.or_else(|| std::env::home_dir().map(|home| home.join(below_home)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest_one() {
        for (wrong, right) in [
            (
                "scheduler.idle_secnds",
                "did you mean scheduler.idle_seconds?",
            ),
            ("schedler", "did you mean scheduler?"),
            (
                "gateway.retry_seconds",
                "did you mean scheduler.retry_seconds?",
            ),
            ("x.y", "`bugle config dump` lists all keys"),
        ] {
            assert_eq!(meant(wrong), right);
        }
    }
}
