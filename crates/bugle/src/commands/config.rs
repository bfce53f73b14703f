//! `bugle config`: checks or shows the configuration.

use bugle_server::config::Effective;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::arguments::Global;
use crate::failure::Outcome;
use crate::output;
use crate::settings::Settings;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bugle config dump --set scheduler.idle_seconds=5")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Says whether the configuration can be used.
    Check(Settings),
    /// Prints every key with its value and where that came from; as TOML, unless -o says otherwise.
    Dump(Settings),
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Outcome {
    match &arguments.action {
        Action::Check(settings) => {
            settings.load()?;
            output::line("the configuration is in order")
        }
        Action::Dump(settings) => {
            let effective = settings.load()?;
            output::show(global.output, &document(&effective), || effective.dump())
        }
    }
}

/// `{section: {key: {value, origin}}}`.
fn document(effective: &Effective) -> Value {
    let mut sections = serde_json::to_value(&effective.config)
        .expect("every configuration struct is made of JSON values");
    for (key, origin) in &effective.origins {
        let pointer = format!("/{}", key.replace('.', "/"));
        if let Some(value) = sections.pointer_mut(&pointer) {
            *value = json!({"value": value.take(), "origin": origin.name()});
        }
    }
    sections
}
