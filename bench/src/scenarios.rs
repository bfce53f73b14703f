//! What is measured, each scenario on a platform of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::ensure;

use crate::Effort;
use crate::figures::Figures;
use crate::load::{self, Until};
use crate::open_loop::{self, Schedule};
use crate::peers::Peer;
use crate::platform::{Folders, Platform, python, registration};
use crate::processes;
use crate::scale;

type Scenario = fn(&Path, Effort, &mut Figures) -> anyhow::Result<()>;

/// Every scenario by name.
pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("warm", warm),
    ("steady", steady),
    ("cold", cold),
    ("registry", registry),
    ("idle", idle),
    ("ready", ready),
    ("burst", scale::burst),
    ("density", scale::density),
    ("sustained", scale::sustained),
    ("overload", scale::overload),
    ("many", scale::many),
];

/// 90 bytes, as in the research that the goals come from.
const EVENT: &str =
    r#"{"name": "bugle", "numbers": [1, 2, 3, 4, 5], "nested": {"key": "value", "flag": true}}"#;

fn warm(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    let platform = Platform::start(binary, &folders.data, &folders.code)?;
    let path = platform.register("0@bench@warm", &folders.function("warm")?)?;
    let peer = Peer::uvicorn(&folders.code)?;
    let contenders = [(platform.gateway, path), (peer.address, "/".to_owned())];
    for (address, path) in &contenders {
        let (status, body) = load::once(*address, &load::request(*address, path, Some(EVENT)))?;
        ensure!(
            status == 200 && body.replace(' ', "") == r#"{"ok":true}"#,
            "{status}: {body}"
        );
    }
    for (connections, rate_name, rate_what, latency) in [
        (
            1,
            "warm_rps_ratio_c1",
            "calls/s ÷ uvicorn's, 1 connection",
            true,
        ),
        (
            16,
            "warm_rps_ratio_c16",
            "calls/s ÷ uvicorn's, 16 connections",
            false,
        ),
        (
            64,
            "warm_rps_ratio_c64",
            "calls/s ÷ uvicorn's, 64 connections",
            false,
        ),
    ] {
        let pairs = interleaved(&contenders, connections, effort)?;
        let ratio = |value: fn(&load::Round) -> f64| -> Vec<f64> {
            pairs
                .iter()
                .map(|[ours, theirs]| value(ours) / value(theirs))
                .collect()
        };
        figures.add(rate_name, "", rate_what, ratio(load::Round::rate));
        let ours = |value: fn(&load::Round) -> f64| pairs.iter().map(|[a, _]| value(a)).collect();
        let theirs = |value: fn(&load::Round) -> f64| pairs.iter().map(|[_, b]| value(b)).collect();
        if latency {
            let p50: fn(&load::Round) -> f64 = |round| round.quantile_ms(0.5);
            let what = "p50 of a call ÷ uvicorn's, 1 connection";
            figures.add("warm_p50_ratio_c1", "", what, ratio(p50));
            figures.add(
                "warm_p50_ms_c1",
                "ms",
                "p50 of a call, 1 connection",
                ours(p50),
            );
            figures.add(
                "uvicorn_p50_ms_c1",
                "ms",
                "p50 of uvicorn, 1 connection",
                theirs(p50),
            );
            let p99: fn(&load::Round) -> f64 = |round| round.quantile_ms(0.99);
            figures.add(
                "warm_p99_ms_c1",
                "ms",
                "p99 of a call, 1 connection",
                ours(p99),
            );
        } else if connections == 16 {
            figures.add(
                "warm_rps_c16",
                "/s",
                "calls, 16 connections",
                ours(load::Round::rate),
            );
            let what = "uvicorn, 16 connections";
            figures.add("uvicorn_rps_c16", "/s", what, theirs(load::Round::rate));
        } else {
            figures.add(
                "warm_rps_c64",
                "/s",
                "calls, 64 connections",
                ours(load::Round::rate),
            );
        }
    }
    Ok(())
}

/// Rounds of both contenders in turn, after a round that does not count.
fn interleaved(
    contenders: &[(SocketAddr, String); 2],
    connections: usize,
    effort: Effort,
) -> anyhow::Result<Vec<[load::Round; 2]>> {
    let side = |(address, path): &(SocketAddr, String)| {
        let request = load::request(*address, path, Some(EVENT));
        load::closed_loop(
            *address,
            connections,
            Until::Elapsed(effort.round),
            move |_| request.clone(),
        )?
        .whole()
    };
    let pair = || Ok([side(&contenders[0])?, side(&contenders[1])?]);
    let _warm_up: [load::Round; 2] = pair()?;
    (0..effort.pairs).map(|_| pair()).collect()
}

/// Calls a second of the open loop: about a fifth of what one connection can do, so that queueing
/// comes from stalls and not from load.
const STEADY_RATE: u32 = 1000;

fn steady(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    let platform = Platform::start(binary, &folders.data, &folders.code)?;
    let path = platform.register("0@bench@steady", &folders.function("steady")?)?;
    let peer = Peer::uvicorn(&folders.code)?;
    let schedule = Schedule {
        rate: STEADY_RATE,
        elapsed: effort.round,
        connections: 16,
    };
    let ours = load::request(platform.gateway, &path, Some(EVENT));
    let theirs = load::request(peer.address, "/", Some(EVENT));
    let pair = || -> anyhow::Result<[load::Round; 2]> {
        Ok([
            open_loop::run(platform.gateway, schedule, &ours)?.whole()?,
            open_loop::run(peer.address, schedule, &theirs)?.whole()?,
        ])
    };
    let _warm_up = pair()?;
    let pairs: Vec<_> = (0..effort.pairs)
        .map(|_| pair())
        .collect::<Result<_, _>>()?;
    let what = "p50 from the due time, 1,000 calls/s, open loop";
    let quantile = |quantile: f64, side: usize| -> Vec<f64> {
        pairs
            .iter()
            .map(|pair| pair[side].quantile_ms(quantile))
            .collect()
    };
    figures.add("steady_p50_ms", "ms", what, quantile(0.5, 0));
    figures.add(
        "steady_p99_ms",
        "ms",
        "the same, 99th percentile",
        quantile(0.99, 0),
    );
    let ratios = quantile(0.99, 0)
        .iter()
        .zip(quantile(0.99, 1))
        .map(|(a, b)| a / b)
        .collect();
    figures.add("steady_p99_ratio", "", "the same ÷ uvicorn's", ratios);
    Ok(())
}

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
        registered = round.answers;
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
        rounds.push(processes::rss_mib(platform.pid())?);
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
