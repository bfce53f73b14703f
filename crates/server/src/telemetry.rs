//! The platform's own log: for people on a terminal, as JSON otherwise.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// The platform's own log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `human`, `json`, or `auto`: human on a terminal.
    pub format: Format,
    /// What is logged, as `level` or `target=level` separated by commas.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            level: "info".to_owned(),
        }
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// One line for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. Does nothing if the process logs already.
///
/// # Errors
///
/// The text says what is wrong with `telemetry.level`.
pub fn start(config: &Config) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|error| format!("telemetry.level {:?}: {error}", config.level))?;
    let human = match config.format {
        Format::Auto => std::io::stderr().is_terminal(),
        Format::Human => true,
        Format::Json => false,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    // A second start in one process (tests, `dev` beside `serve`) keeps the first subscriber.
    let _ = if human {
        builder.with_target(false).compact().try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    Ok(())
}
