//! `bugle export`: the whole store as a file.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bugle_server::config::Config;
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
    let file = if path == Path::new("-") {
        None
    } else {
        Some(made(path)?)
    };
    let exported = {
        let _progress = output::Progress::start(global.quiet, "reading the store");
        written(&config, path, file.as_ref())
    };
    match exported {
        Ok(lines) => {
            if !global.quiet {
                output::note(&format!("{lines} keys exported"));
            }
            Ok(())
        }
        Err(failure) => {
            if file.is_some() {
                // A part of an export is none; it was made above.
                let _ = std::fs::remove_file(path);
            }
            Err(failure)
        }
    }
}

/// Exports, and has the file on disk with its name before it returns how many keys there are.
fn written(config: &Config, path: &Path, file: Option<&File>) -> Outcome<u64> {
    let mut to: Box<dyn Write> = match file {
        Some(file) => Box::new(BufWriter::new(file)),
        None => Box::new(BufWriter::new(std::io::stdout().lock())),
    };
    let exported = runtime()?.block_on(transfer::export(config, &mut *to));
    let lines = exported.map_err(|error| refused(&error))?.lines;
    drop(to);
    if let Some(file) = file {
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let folder = File::open(folder.unwrap_or_else(|| Path::new(".")));
        file.sync_all()
            .and_then(|()| folder?.sync_all())
            .map_err(|error| Failure::file(path, &error))?;
    }
    Ok(lines)
}

fn made(path: &Path) -> Outcome<File> {
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
