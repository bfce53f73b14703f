//! `bugle import`: what `bugle export` wrote, into a store.

use std::path::PathBuf;

use bugle_server::transfer::{self, Existing};
use clap::Args;

use super::export::refused;
use super::serve::runtime;
use crate::arguments::Global;
use crate::failure::Outcome;
use crate::output;
use crate::settings::Settings;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bugle import functions.jsonl --dry-run
  bugle import functions.jsonl --set store.kind=etcd

The whole file is checked before anything is written. The platform has to be stopped; copy
environment.key into the data folder first.")]
pub(crate) struct Arguments {
    /// The file that `bugle export` wrote.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only says what would be written.
    #[arg(long)]
    dry_run: bool,
    /// Also writes keys that are there with other values.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Outcome {
    let config = arguments.settings.load()?.config;
    let existing = if arguments.overwrite {
        Existing::Overwrite
    } else {
        Existing::Refuse
    };
    let imported = {
        let _progress = output::Progress::start(global.quiet, "comparing with the store");
        let import = transfer::import(&config, &arguments.file, existing, arguments.dry_run);
        runtime()?.block_on(import)
    };
    let (found, _) = imported.map_err(|error| refused(&error))?;
    let word = if arguments.dry_run {
        "would be"
    } else {
        "were"
    };
    output::line(&format!(
        "{} keys {word} added, {} {word} replaced, {} are as they are in the file",
        found.new, found.other, found.same
    ))
}
