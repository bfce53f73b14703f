//! What is measured, each scenario on a platform of its own.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::ensure;

use crate::Effort;
use crate::cluster;
use crate::exchange;
use crate::figures::Figures;
use crate::images;
use crate::load::{self, Until, Whole as _};
use crate::packages;
use crate::peers;
use crate::platform::{Folders, Platform, python, registration};
use crate::processes;
use crate::scale;
use crate::warm::{self, EVENT};

type Scenario = fn(&Path, Effort, &mut Figures) -> anyhow::Result<()>;

/// Every scenario by name.
pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("warm", warm::warm),
    ("peers", warm::peers),
    ("steady", warm::steady),
    ("http", exchange::http),
    ("cold", cold),
    ("fastapi", fastapi),
    ("packages", packages::packages),
    ("registry", registry),
    ("idle", idle),
    ("ready", ready),
    ("burst", scale::burst),
    ("density", scale::density),
    ("sustained", scale::sustained),
    ("overload", scale::overload),
    ("many", scale::many),
    ("images", images::pull),
    ("containers", crate::containers::containers),
    ("save", crate::save::save),
    ("nodes", cluster::nodes),
    ("etcd", cluster::etcd),
    ("starts", cluster::starts),
    ("placement", cluster::placement),
    ("pool", cluster::pool),
    ("million", cluster::million),
];

/// Those that the quick run leaves out: they take minutes, or programs that take minutes to build.
pub(crate) const LONG: &[&str] = &["etcd", "starts", "placement", "pool", "million"];

fn cold(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    let platform = Platform::start(binary, &folders.data, &folders.code)?;
    let mut paths = Vec::new();
    // One more than counted: the first call also starts the warm interpreter.
    for number in 0..=effort.cold_starts {
        let folder = folders.function(&format!("cold-{number}"))?;
        paths.push(platform.register(&format!("0@bench@cold-{number}"), &folder)?);
    }
    let mut calls = Vec::new();
    let mut interpreters = Vec::new();
    for path in &paths {
        let request = load::request(platform.gateway, path, Some(EVENT));
        let begin = Instant::now();
        let (status, body) = load::once(platform.gateway, &request)?;
        calls.push(milliseconds(begin));
        ensure!(status == 200, "{status}: {body}");

        let begin = Instant::now();
        let bare = Command::new(&python().program)
            .args(["-I", "-S", "-c", "import json"])
            .stdin(Stdio::null())
            .status()?;
        interpreters.push(milliseconds(begin));
        ensure!(bare.success(), "python3 failed: {bare}");
    }
    let (calls, interpreters) = (calls.split_off(1), interpreters.split_off(1));
    let ratios = calls
        .iter()
        .zip(&interpreters)
        .map(|(call, bare)| call / bare)
        .collect();
    let mut sorted = calls.clone();
    sorted.sort_by(f64::total_cmp);
    let p99 = sorted[(sorted.len() * 99).div_ceil(100) - 1];
    figures.add(
        "cold_p50_ms",
        "ms",
        "first call to a new function, from connect to answer",
        calls,
    );
    figures.add("cold_p99_ms", "ms", "the same, 99th percentile", vec![p99]);
    let what = "first call ÷ `python3 -I -S -c 'import json'`";
    figures.add("cold_ratio", "", what, ratios);
    Ok(())
}

/// Imports what real functions import, and uses it.
const FASTAPI: &str = "\
import fastapi
import httpx
import pydantic


class Event(pydantic.BaseModel):
    name: str


app = fastapi.FastAPI()


def handler(event, context):
    return {'ok': Event(**event).name == 'bugle' and httpx.__version__ != ''}
";

/// First calls to functions with large imports, once the platform has seen such functions: from
/// the operator's packages, and from a folder of each function's own.
fn fastapi(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let lib = peers::libraries()?;
    let setting = format!("python.packages={}", lib.display());
    let mut calls = first_calls_with_imports(binary, effort.fastapi_starts, &[&setting], |_| {
        Ok(()) // Nothing beside the handler.
    })?;
    let measured = calls.split_off(1);
    let what = "first call to a new function that imports fastapi, httpx and pydantic";
    figures.add("cold_fastapi_p50_ms", "ms", what, measured);
    let what = "the very first of them, of which nothing is known";
    figures.add("cold_fastapi_first_ms", "ms", what, calls);
    let mut calls = first_calls_with_imports(binary, effort.fastapi_starts, &[], |folder| {
        link(&lib, &folder.join("lib"))
    })?;
    let what = "the same where each function brings them in its own `lib`";
    figures.add("cold_fastapi_own_ms", "ms", what, calls.split_off(1));
    Ok(())
}

/// The durations of the very first call, and of the first calls to `count` further functions once
/// the platform has had time to learn from it; `prepare` completes the folder of a function.
fn first_calls_with_imports(
    binary: &Path,
    count: usize,
    configuration: &[&str],
    prepare: impl Fn(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f64>> {
    let folders = Folders::new()?;
    let platform = Platform::start_with(binary, &folders.data, &folders.code, configuration)?;
    let mut paths = Vec::new();
    for number in 0..=count {
        let name = format!("fastapi-{number}");
        let folder = folders.function_with(&name, FASTAPI)?;
        prepare(&folder)?;
        let fields = serde_json::json!({"idleTime": 5, "memory": 512});
        paths.push(platform.register_with(&format!("0@bench@{name}"), &folder, &fields)?);
    }
    let mut calls = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        if number == 1 && !configuration.is_empty() {
            platform.wait("a parent with the packages", |platform| {
                Ok(platform.metric("bugle_instances_warm_parents")? > 0.0)
            })?;
        }
        let request = load::request(platform.gateway, path, Some(EVENT));
        let begin = Instant::now();
        let (status, body) = load::once(platform.gateway, &request)?;
        calls.push(milliseconds(begin));
        ensure!(status == 200 && body.contains("true"), "{status}: {body}");
    }
    Ok(calls)
}

/// Copies a folder with hard links where they can be made, so that every function has its own.
fn link(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link(&entry.path(), &to)?;
        } else if std::fs::hard_link(entry.path(), &to).is_err() {
            std::fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

fn registry(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    let platform = Platform::start(binary, &folders.data, &folders.code)?;
    let control = platform.control;
    let mut registered = 0;
    for (connections, name, what) in [
        (
            16,
            "register_per_s_c16",
            "durable registrations, 16 clients",
        ),
        (64, "register_per_s", "durable registrations, 64 clients"),
    ] {
        let folder = folders.code.clone();
        let round = load::closed_loop(
            control,
            connections,
            Until::Elapsed(effort.registry),
            move |number| {
                let body = registration(&format!("0@bench@r{connections}-{number}"), &folder);
                load::request(control, "/serverless/v1/functions", Some(&body))
            },
        )?
        .whole()?;
        registered = round.tally.succeeded();
        figures.add(name, "/s", what, vec![round.rate()]);
    }
    let round = load::closed_loop(
        control,
        64,
        Until::Elapsed(effort.registry),
        move |number| {
            let function = number % registered;
            let path =
                format!("/serverless/v1/functions/0@bench@r64-{function}?versionNumber=latest");
            load::request(control, &path, None)
        },
    )?
    .whole()?;
    figures.add(
        "get_per_s",
        "/s",
        "queries of one function, 64 clients",
        vec![round.rate()],
    );
    Ok(())
}

fn idle(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let mut rounds = Vec::new();
    for _ in 0..effort.starts {
        let folders = Folders::new()?;
        let platform = Platform::start(binary, &folders.data, &folders.code)?;
        rounds.push(processes::idle_rss_mib(platform.pid())?);
    }
    figures.add(
        "idle_rss_mb",
        "MiB",
        "all processes of a fresh platform",
        rounds,
    );
    Ok(())
}

fn ready(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    {
        let platform = Platform::start(binary, &folders.data, &folders.code)?;
        platform.register_many(effort.stored, "stored", &folders.code)?;
    }
    let mut full = Vec::new();
    let mut empty = Vec::new();
    for _ in 0..effort.starts {
        let platform = Platform::start(binary, &folders.data, &folders.code)?;
        full.push(platform.ready.as_secs_f64() * 1e3);
        let fresh = Folders::new()?;
        let platform = Platform::start(binary, &fresh.data, &fresh.code)?;
        empty.push(platform.ready.as_secs_f64() * 1e3);
    }
    figures.add(
        "ready_ms",
        "ms",
        "start of the process to ready, empty store",
        empty,
    );
    figures.add(
        "ready_ms_10k",
        "ms",
        "the same with 10,000 functions, after kill -9",
        full,
    );
    Ok(())
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}
