//! `bugle new`: a function's folder from a template inside the binary.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::arguments::Global;
use crate::failure::{Failure, Outcome, exit};
use crate::manifest;
use crate::output;

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
}

impl Template {
    fn handler(self) -> &'static str {
        match self {
            Self::Hello => include_str!("../../templates/hello/handler.py"),
            Self::Http => include_str!("../../templates/http/handler.py"),
            Self::Stream => include_str!("../../templates/stream/handler.py"),
            Self::Async => include_str!("../../templates/async/handler.py"),
        }
    }

    fn event(self) -> &'static str {
        match self {
            Self::Hello | Self::Http => r#"{"name": "Ada"}"#,
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
    let manifest = format!(
        "name = \"{name}\"\nhandler = \"handler.handler\"\n# Thousandths of a core, MB, seconds.\n\
         cpu = 500\nmemory = 256\ntimeout = 30\n"
    );
    let readme = format!(
        "# {short}\n\nRun it, and have it deployed again on each save:\n\n    bugle dev .\n\nCall it:\n\n\
         \x20   bugle invoke {name} '{event}'\n"
    );
    for (file, text) in [
        ("handler.py", template.handler()),
        (manifest::FILE, &manifest),
        ("README.md", &readme),
    ] {
        let path = folder.join(file);
        std::fs::write(&path, text).map_err(|error| Failure::file(&path, &error))?;
    }
    Ok(())
}
