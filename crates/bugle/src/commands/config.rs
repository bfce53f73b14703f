//! `bugle config`: checks or shows the configuration.

use clap::{Args, Subcommand};

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
    /// Prints every key with its value and where that came from.
    Dump(Settings),
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    match &arguments.action {
        Action::Check(settings) => {
            settings.load()?;
            output::line("the configuration is in order")
        }
        Action::Dump(settings) => output::line(settings.load()?.dump().trim_end()),
    }
}
