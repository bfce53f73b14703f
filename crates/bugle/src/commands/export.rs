//! `bugle export`: the whole store as a file.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bugle_server::transfer;
use clap::Args;

use super::serve::runtime;
use crate::arguments::Global;
use crate::failure::{Failure, Outcome, exit};
use crate::output;
use crate::settings::Settings;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bugle export functions.jsonl
  bugle export - --set store.kind=etcd | gzip > functions.jsonl.gz

The platform of an embedded store has to be stopped first; one that serves from etcd may run. Keep
environment.key of the data folder beside the export: variables of functions stay encrypted with it.")]
pub(crate) struct Arguments {
    /// The file, which must not exist yet, or - for standard output.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Outcome {
    let config = arguments.settings.load()?.config;
    let path = &arguments.file;
    let is_file = path != Path::new("-");
    let mut to: Box<dyn Write> = if is_file {
        Box::new(BufWriter::new(made(path)?))
    } else {
        Box::new(BufWriter::new(std::io::stdout().lock()))
    };
    let exported = {
        let _progress = output::Progress::start(global.quiet, "reading the store");
        runtime()?.block_on(transfer::export(&config, &mut *to))
    };
    drop(to);
    match exported {
        Ok(exported) => {
            let lines = exported.lines;
            if !global.quiet {
                output::note(&format!("{lines} keys exported"));
            }
            Ok(())
        }
        Err(error) => {
            if is_file {
                // A part of an export is none; it was made above.
                let _ = std::fs::remove_file(path);
            }
            Err(refused(&error))
        }
    }
}

fn made(path: &Path) -> Outcome<std::fs::File> {
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| Failure::file(path, &error))
}

pub(crate) fn refused(error: &transfer::TransferError) -> Failure {
    let failure = |code| Failure::new(code, bugle_types::report(error));
    match error {
        transfer::TransferError::Conflict(_) => failure(exit::CONFLICT)
            .hint("--overwrite writes them all the same; --dry-run only looks"),
        _ => failure(exit::REFUSED),
    }
}
