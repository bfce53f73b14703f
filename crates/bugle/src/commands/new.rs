//! `bugle new`: a function's folder from a template inside the binary.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::arguments::Global;
use crate::failure::{Failure, Outcome, exit};
use crate::manifest;
use crate::output;

/// The mode of a file that is only read, before the umask.
const PLAIN: u32 = 0o666;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bugle new hello && bugle dev hello")]
pub(crate) struct Arguments {
    /// Name of the function; also of the folder, without its service.
    name: String,
    /// What the function does.
    #[arg(short, long, value_enum, default_value_t = Template::Hello)]
    template: Template,
    /// The folder; the function's name when it is missing.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Template {
    /// Takes JSON, answers JSON.
    Hello,
    /// Chooses status, headers and body of its answer.
    Http,
    /// Sends events while it works.
    Stream,
    /// A coroutine.
    Async,
    /// A program in JavaScript.
    Node,
    /// A program in shell.
    Shell,
}

/// The language of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    /// A handler that the platform loads.
    Python,
    /// A program that serves HTTP.
    Program,
}

impl Language {
    /// The mode of the handler's file, before the umask.
    fn mode(self) -> u32 {
        match self {
            Self::Python => PLAIN,
            Self::Program => 0o777,
        }
    }
}

impl Template {
    fn language(self) -> Language {
        match self {
            Self::Hello | Self::Http | Self::Stream | Self::Async => Language::Python,
            Self::Node | Self::Shell => Language::Program,
        }
    }

    fn handler(self) -> &'static str {
        match self {
            Self::Hello => include_str!("../../templates/hello/handler.py"),
            Self::Http => include_str!("../../templates/http/handler.py"),
            Self::Stream => include_str!("../../templates/stream/handler.py"),
            Self::Async => include_str!("../../templates/async/handler.py"),
            Self::Node => include_str!("../../templates/node/bootstrap"),
            Self::Shell => include_str!("../../templates/shell/bootstrap"),
        }
    }

    fn event(self) -> &'static str {
        match self {
            Self::Hello | Self::Http | Self::Node | Self::Shell => r#"{"name": "Ada"}"#,
            Self::Stream => r#"{"text": "one two three"}"#,
            Self::Async => r#"{"numbers": [1, 2, 3]}"#,
        }
    }
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Outcome {
    let Arguments {
        name,
        template,
        dir,
    } = arguments;
    let full = crate::names::full(name);
    full.parse::<bugle_types::FunctionName>().map_err(|error| {
        Failure::usage(format!(
            "{error}; a name has letters, digits and '-', for instance hello"
        ))
    })?;
    let short = name.rsplit('@').next().unwrap_or(name);
    let folder = dir.clone().unwrap_or_else(|| PathBuf::from(short));
    make(&folder, name, short, *template)?;
    let shown = folder.display();
    if !global.quiet {
        output::note(&format!("made {shown}; run it with `bugle dev {shown}`"));
    }
    Ok(())
}

fn make(folder: &Path, name: &str, short: &str, template: Template) -> Outcome {
    std::fs::create_dir(folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::new(
            exit::CONFLICT,
            format!(
                "{} exists already; choose another with --dir",
                folder.display()
            ),
        ),
        _ => Failure::file(folder, &error),
    })?;
    let event = template.event();
    let (file, runs) = match template.language() {
        Language::Python => ("handler.py", "handler = \"handler.handler\""),
        Language::Program => (
            "bootstrap",
            "runtime = \"posix-custom-runtime\"\nhandler = \"bootstrap\"",
        ),
    };
    let manifest = format!(
        "name = \"{name}\"\n{runs}\n# Thousandths of a core, MB, seconds.\n\
         cpu = 500\nmemory = 256\ntimeout = 30\n"
    );
    let readme = format!(
        "# {short}\n\nRun it, and have it deployed again on each save:\n\n    bugle dev .\n\nCall it:\n\n\
         \x20   bugle invoke {name} '{event}'\n"
    );
    for (file, text, mode) in [
        (file, template.handler(), template.language().mode()),
        (manifest::FILE, &manifest, PLAIN),
        ("README.md", &readme, PLAIN),
    ] {
        let path = folder.join(file);
        write(&path, text, mode).map_err(|error| Failure::file(&path, &error))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    options.open(path)?.write_all(text.as_bytes())
}
