//! The checks, in order.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::report::{Outcome, Report, parse_counts};
use crate::{cargo, dependencies, prepare};

type Check = (&'static str, fn() -> Outcome);

/// What shows most mistakes in the shortest time.
const QUICK: &[Check] = &[
    ("format", format),
    ("dependency rule", dependency_rule),
    ("lints", lints),
    ("unit and crate tests", unit_tests),
];

/// What needs the built platform.
const WHOLE: &[Check] = &[
    ("documentation of the crates", crate_documents),
    ("tests in the documentation", documentation_tests),
    ("build of the platform", build),
    ("system tests", system_tests),
    ("kill -9 under write load", durability_tests),
    ("conformance", conformance),
    ("examples", examples),
    ("release build", release_build),
    ("benchmark, quick", benchmark),
    ("commands of the documents", documented_commands),
];

/// Everything, on a machine that is made ready first.
pub(crate) fn all() -> Report {
    let mut report = Report::default();
    let programs: Check = ("programs the tests need", prepare::machine);
    run(&mut report, &[programs]);
    let ready = report.is_success();
    for checks in [QUICK, WHOLE] {
        if ready {
            run(&mut report, checks);
        } else {
            skip(&mut report, checks, "programs are missing");
        }
    }
    report
}

/// The quick ones.
pub(crate) fn quick() -> Report {
    let mut report = Report::default();
    run(&mut report, QUICK);
    report
}

fn run(report: &mut Report, checks: &[Check]) {
    for (name, check) in checks {
        println!("\n=== {name}");
        let begin = Instant::now();
        let outcome = check();
        report.add(name, outcome, begin.elapsed());
    }
}

fn skip(report: &mut Report, checks: &[Check], why: &str) {
    for (name, _) in checks {
        report.add(name, Outcome::skipped(why), Duration::ZERO);
    }
}

fn format() -> Outcome {
    command(cargo().args(["fmt", "--all", "--check"]))
}

fn dependency_rule() -> Outcome {
    match dependencies::violations() {
        Ok(found) if found.is_empty() => Outcome::passed(),
        Ok(found) => Outcome::failed(found.join("; ")),
        Err(error) => Outcome::failed(format!("{error:#}")),
    }
}

fn lints() -> Outcome {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    command(cargo().args(arguments))
}

fn crate_documents() -> Outcome {
    let arguments = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ];
    command(
        cargo()
            .args(arguments)
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )
}

fn unit_tests() -> Outcome {
    tests(&["--workspace", "--exclude", "bugle-tests"], Parallel::Yes)
}

fn documentation_tests() -> Outcome {
    counted(cargo().args(["test", "--workspace", "--doc", "--quiet"]))
}

fn build() -> Outcome {
    command(cargo().args(["build", "--package", "bugle"]))
}

/// The tests of the system that have no step of their own.
const SYSTEM: &[&str] = &[
    "functions",
    "function_graph",
    "http_functions",
    "streaming",
    "scaling",
    "failures",
    "etcd",
    "operation",
    "api_description",
    "command_line",
    "programs",
    "containers",
    "isolation",
    "loading",
    "packages",
    "images",
    "pools",
    "kubernetes",
    "nodes",
    "gateways",
];

fn system_tests() -> Outcome {
    let targets: Vec<_> = SYSTEM.iter().flat_map(|name| ["--test", name]).collect();
    tests(
        &[&["--package", "bugle-tests"], targets.as_slice()].concat(),
        Parallel::Yes,
    )
}

fn durability_tests() -> Outcome {
    system_test("durability", Parallel::No)
}

fn conformance() -> Outcome {
    system_test("conformance", Parallel::Yes)
}

fn examples() -> Outcome {
    system_test("examples", Parallel::Yes)
}

fn release_build() -> Outcome {
    command(cargo().args(["build", "--release", "--package", "bugle"]))
}

/// Prints its figures; what it judges does not depend on how fast or busy the machine is.
fn benchmark() -> Outcome {
    match crate::bench(&["--quick".to_owned()]) {
        Ok(()) => Outcome::passed(),
        Err(error) => Outcome::failed(format!("{error:#}")),
    }
}

fn documented_commands() -> Outcome {
    system_test("documents", Parallel::No)
}

fn system_test(name: &str, parallel: Parallel) -> Outcome {
    tests(&["--package", "bugle-tests", "--test", name], parallel)
}

/// Whether tests share the machine; those that measure time do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parallel {
    Yes,
    No,
}

/// Runs tests with nextest where it is installed, else with cargo's own runner.
fn tests(selection: &[&str], parallel: Parallel) -> Outcome {
    let nextest = cargo()
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let mut command = cargo();
    if nextest {
        command
            .args(["nextest", "run", "--no-fail-fast"])
            .args(selection);
        if parallel == Parallel::No {
            command.args(["--test-threads", "1"]);
        }
    } else {
        // Doc tests have a step of their own.
        command
            .args(["test", "--no-fail-fast", "--all-targets"])
            .args(selection);
        if parallel == Parallel::No {
            command.args(["--", "--test-threads", "1"]);
        }
    }
    counted(&mut command)
}

/// Runs a command whose success is the whole outcome.
fn command(command: &mut Command) -> Outcome {
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Outcome::passed(),
        Ok(status) => Outcome::failed(format!("{status}")),
        Err(error) => Outcome::failed(format!("{command:?}: {error}")),
    }
}

/// Runs a command whose output tells how many tests passed; shows the output as well.
fn counted(command: &mut Command) -> Outcome {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Outcome::failed(format!("{command:?}: {error}")),
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let seen = std::thread::scope(|scope| {
        let other = scope.spawn(|| stderr.map(show).unwrap_or_default());
        let mut seen = stdout.map(show).unwrap_or_default();
        seen.push_str(&other.join().unwrap_or_default());
        seen
    });
    let mut counts = parse_counts(&seen);
    match child.wait() {
        Ok(status) if status.success() => Outcome {
            counts,
            remark: String::new(),
        },
        Ok(status) => {
            counts.failed = counts.failed.max(1);
            Outcome {
                counts,
                remark: format!("{status}"),
            }
        }
        Err(error) => Outcome::failed(format!("{command:?}: {error}")),
    }
}

/// Copies `from` to standard output line by line, and returns it.
fn show(from: impl Read) -> String {
    let mut seen = String::new();
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    while lines
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        let text = String::from_utf8_lossy(&line);
        // Whoever reads the output may have gone away; the checks go on.
        let _ = std::io::stdout().write_all(text.as_bytes());
        seen.push_str(&text);
        line.clear();
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_test_of_the_whole_platform_is_left_out() {
        let manifest = include_str!("../../tests/Cargo.toml");
        let names = manifest
            .split("[[test]]")
            .skip(1)
            .filter_map(|target| target.split('"').nth(1));
        let own_step = ["durability", "conformance", "examples", "documents"];
        for name in names {
            assert!(SYSTEM.contains(&name) || own_step.contains(&name), "{name}");
        }
    }
}
