//! `cargo xtask`: what developers and CI run.
//!
//! `test` is the one command that installs what the tests need and runs every check there is, in the
//! order in which a mistake shows soonest; CI runs nothing else. `check` is its quick beginning.
//! `bench` measures. Nothing is skipped in silence: the summary names what did not run, and why.
#![expect(clippy::print_stdout, reason = "a command that prints what it does")]

mod checks;
mod dependencies;
mod prepare;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};
use clap::Parser;

use crate::report::Report;

/// Checks, tests and measures Bugle.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Installs what the tests need and runs every check.
    Test,
    /// Runs the quick checks: format, lints, dependency rule, unit tests.
    Check,
    /// Measures a release build; figures go to target/bench/results.json.
    Bench {
        /// Arguments of the benchmark, for instance `--quick` or `--write`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let task = Task::parse();
    let root = root()?;
    std::env::set_current_dir(&root).with_context(|| root.display().to_string())?;
    match task {
        Task::Test => Ok(finish(&checks::all())),
        Task::Check => Ok(finish(&checks::quick())),
        Task::Bench { arguments } => bench(&arguments).map(|()| ExitCode::SUCCESS),
    }
}

fn finish(report: &Report) -> ExitCode {
    println!("\n{}", report.summary());
    if report.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Programs that measure what has no process of its own: package, name, features. The first is for
/// every run, the others for the full one.
const EXAMPLES: [(&str, &str, &str); 5] = [
    ("bugle-instances", "containers", ""),
    ("bugle-store", "etcd_rates", ""),
    ("bugle-node", "starts", ""),
    ("bugle-scheduler", "placement", "testing"),
    ("bugle-kubernetes", "pool", ""),
];

fn bench(arguments: &[String]) -> anyhow::Result<()> {
    // One after the other: together they would share features, and build everything again.
    for package in ["bugle", "bugle-bench"] {
        run(cargo().args(["build", "--release", "--package", package]))?;
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let only = arguments
        .iter()
        .any(|argument| argument.starts_with("--only"));
    let count = if quick && !only { 1 } else { EXAMPLES.len() };
    for (package, example, features) in &EXAMPLES[..count] {
        let mut build = cargo();
        build.args([
            "build",
            "--release",
            "--package",
            package,
            "--example",
            example,
        ]);
        run(build.args(["--features", features]))?;
    }
    run(Command::new("target/release/bugle-bench").args(arguments))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// The cargo that runs this.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The folder of the workspace.
fn root() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("xtask lies in the workspace")?;
    Ok(root.to_owned())
}
