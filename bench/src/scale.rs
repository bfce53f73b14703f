//! Many at once: calls, instances, starts, functions.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use crate::Effort;
use crate::figures::Figures;
use crate::load::{self, Until, Whole as _};
use crate::platform::{self, Folders, Platform, invocation};
use crate::processes::{self, Held};

const EVENT: &str = r#"{"name": "bugle"}"#;

/// How long the handler of a burst takes, in milliseconds.
const BURST_HANDLER: f64 = 50.0;
const BURST_CALLS: usize = 500;
/// Calls that one instance serves at once.
const BURST_CONCURRENCY: usize = 100;

/// Calls at once to a function that was never called.
pub(crate) fn burst(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let (mut failures, mut extra, mut p99, mut decisions) = (vec![], vec![], vec![], vec![]);
    for round in 0..effort.starts {
        let folders = Folders::new()?;
        let platform = Platform::start(binary, &folders.data, &folders.code)?;
        let handler =
            "import time\n\ndef handler(event, context):\n    time.sleep(0.05)\n    return 1\n";
        let folder = folders.function_with("burst", handler)?;
        // The warm parent is there before: it is the machine's, not the function's.
        let warm = platform.register("0@bench@warm", &folder)?;
        load::once(
            platform.gateway,
            &load::request(platform.gateway, &warm, Some(EVENT)),
        )?;
        let fields = json!({"maxInstance": "100", "concurrentNum": BURST_CONCURRENCY.to_string()});
        let path = platform.register_with(&format!("0@bench@burst-{round}"), &folder, &fields)?;
        let started = platform.metric(STARTED)?;
        let request = load::request(platform.gateway, &path, Some(EVENT));
        let until = Until::Sent(u64::try_from(BURST_CALLS)?);
        let done = load::closed_loop(platform.gateway, BURST_CALLS, until, move |_| {
            request.clone()
        })?;
        failures.push(count(done.tally.failed()));
        let needed = count(u64::try_from(BURST_CALLS.div_ceil(BURST_CONCURRENCY))?);
        extra.push((platform.metric(STARTED)? - started - needed).max(0.0));
        p99.push(done.tally.latencies.quantile_ms(0.99) / BURST_HANDLER);
        decisions.push(decision(&platform, &folders)?);
    }
    figures.add(
        "burst_failures",
        "",
        "failed of 500 calls at once to a cold function",
        failures,
    );
    figures.add(
        "burst_extra_instances",
        "",
        "instances beyond the five that 500 calls need",
        extra,
    );
    figures.add(
        "burst_p99_ratio",
        "",
        "p99 of these calls ÷ the 50 ms of their handler",
        p99,
    );
    let what = "first queued call to the decision to start an instance";
    figures.add("scale_decision_ms", "ms", what, decisions);
    Ok(())
}

const STARTED: &str = "bugle_cold_starts_total{result=\"ready\"}";
const READY: &str = "bugle_instances{state=\"ready\"}";

/// How long a cold call waited before its instance began to start, as its answer says.
fn decision(platform: &Platform, folders: &Folders) -> anyhow::Result<f64> {
    let folder = folders.function("decision")?;
    let path = platform.register("0@bench@decision", &folder)?;
    let request = load::request(platform.gateway, &path, Some(EVENT));
    let summary = load::summary(platform.gateway, &request)?;
    ensure!(
        summary["start"] == "cold",
        "the call was not cold: {summary}"
    );
    summary["queue_ms"]
        .as_f64()
        .ok_or_else(|| anyhow::anyhow!("no queue time: {summary}"))
}

/// Memory of idle instances.
pub(crate) fn density(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    for (instances, name, what) in [
        (
            1_usize,
            "instance_private_mb_1",
            "private memory of the only idle instance",
        ),
        (
            100,
            "instance_private_mb",
            "private memory of each of 100 idle instances",
        ),
        (
            500,
            "instance_private_mb_500",
            "private memory of each of 500 idle instances",
        ),
    ] {
        if instances > effort.instances {
            continue;
        }
        let folders = Folders::new()?;
        let platform = Platform::start(binary, &folders.data, &folders.code)?;
        let folder = folders.function("idle")?;
        let number = instances.to_string();
        let fields = json!({"minInstance": number, "maxInstance": number, "concurrentNum": "1"});
        platform.register_with("0@bench@idle", &folder, &fields)?;
        let wanted = count(u64::try_from(instances)?);
        platform.wait("all instances ready", |platform| {
            Ok(platform.metric(READY)? >= wanted)
        })?;
        let processes = processes::tree(platform.pid())?;
        let own: Vec<f64> = processes
            .iter()
            .filter(|process| process.name.starts_with("py:"))
            .map(|process| processes::private_mib(process.pid))
            .collect();
        ensure!(own.len() == instances, "{} instances", own.len());
        figures.add(name, "MiB", what, vec![own.iter().sum::<f64>() / wanted]);
    }
    Ok(())
}

/// How long a platform may take to let go of what instances held after they have gone.
const SETTLE: Duration = Duration::from_secs(10);

/// First calls, one after the other on a few connections, for long.
pub(crate) fn sustained(
    binary: &Path,
    effort: Effort,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    let platform = Platform::start(binary, &folders.data, &folders.code)?;
    let folder = folders.function("cold")?;
    let warm = platform.register_with("0@bench@warm", &folder, &json!({"idleTime": 1}))?;
    let gateway = platform.gateway;
    load::once(gateway, &load::request(gateway, &warm, Some(EVENT)))?;
    let gone = |platform: &Platform| Ok(platform.metric(READY)? == 0.0);
    platform.wait("no instance", gone)?;
    let before = Held::by(platform.pid())?;
    // More than can be started in the time.
    let functions = usize::try_from(effort.sustained.as_secs())? * 1000;
    platform.register_many_with(functions, "cold", &folder, &json!({"idleTime": 1}))?;
    let cpu = processes::cpu_seconds(platform.pid())?;
    let begin = Instant::now();
    let until = Until::Elapsed(effort.sustained);
    let round = load::closed_loop(gateway, 4, until, move |number| {
        let path = invocation(&format!("0@bench@cold-{number}"));
        load::request(gateway, &path, Some(EVENT))
    })?
    .whole()?;
    let elapsed = begin.elapsed().as_secs_f64();
    let cpu = processes::cpu_seconds(platform.pid())? - cpu;
    let starts = count(round.tally.succeeded());
    figures.add(
        "cold_per_s",
        "/s",
        "first calls, sustained, 4 at once",
        vec![starts / elapsed],
    );
    let what = "first calls per second of processor time, everything of the platform counted";
    figures.add("cold_per_s_core", "/s", what, vec![starts / cpu]);
    platform.wait("no instance", gone)?;
    // What still ends is no leak; what is left after this is one.
    let begin = Instant::now();
    let leaked = loop {
        let now = Held::by(platform.pid())?;
        let leaked = now.more_than(&before);
        if leaked == 0 {
            break 0;
        }
        if begin.elapsed() > SETTLE {
            eprintln!("{}: {before:?} before, {now:?} after", Held::KINDS);
            break leaked;
        }
        platform::pause();
    };
    let what = format!("{} more than before, once all are idle", Held::KINDS);
    figures.add("cold_leaked", "", what, vec![count(u64::try_from(leaked)?)]);
    Ok(())
}

/// Calls that may wait while the load is too much: few, so that the rest is refused within a round.
const OVERLOAD_QUEUE: &str = "scheduler.queue_limit=64";
/// More than may wait, so that it is the platform that refuses, and not the generator that holds.
const OVERLOAD_CONNECTIONS: usize = 512;

/// Twice the load that saturates a function.
pub(crate) fn overload(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    let (data, code) = (&folders.data, &folders.code);
    let platform = Platform::start_with(binary, data, code, &[OVERLOAD_QUEUE])?;
    let handler =
        "import time\n\ndef handler(event, context):\n    time.sleep(0.01)\n    return 1\n";
    let folder = folders.function_with("overload", handler)?;
    let fields = json!({"maxInstance": "4", "minInstance": "4", "concurrentNum": "1"});
    let path = platform.register_with("0@bench@overload", &folder, &fields)?;
    platform.wait("all instances ready", |platform| {
        Ok(platform.metric(READY)? >= 4.0)
    })?;
    let gateway = platform.gateway;
    let request = load::request(gateway, &path, Some(EVENT));
    let (mut ratios, mut shares, mut broken) = (vec![], vec![], vec![]);
    for _ in 0..effort.starts {
        let saturating = request.clone();
        let until = Until::Elapsed(effort.round);
        let peak = load::closed_loop(gateway, 8, until, move |_| saturating.clone())?;
        let peak = peak.whole()?.rate();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "some hundred calls a second"
        )]
        let rate = (peak * 2.0) as u32;
        let over = load::open_loop(gateway, rate, effort.round, OVERLOAD_CONNECTIONS, &request)?;
        ratios.push(over.rate() / peak);
        let tally = &over.tally;
        shares.push(count(tally.failed()) / count(tally.calls()));
        let proper = tally.failures.iter().filter(|(kind, _)| {
            matches!(kind, bugle_load::Kind::Answer { status, .. } if *status == TOO_MANY_REQUESTS)
        });
        let proper: u64 = proper.map(|(_, failures)| failures.retry_after).sum();
        broken.push(count(tally.failed() - proper));
    }
    let what = "goodput at twice the saturating load ÷ peak goodput";
    figures.add("overload_goodput_ratio", "", what, ratios);
    let what = "calls that were refused meanwhile";
    figures.add("overload_refused_share", "", what, shares);
    let what = "refusals without status 429 and `Retry-After`";
    figures.add("overload_improper_refusals", "", what, broken);
    Ok(())
}

const TOO_MANY_REQUESTS: u16 = 429;

/// A hundred thousand functions.
pub(crate) fn many(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    {
        let platform = Platform::start(binary, &folders.data, &folders.code)?;
        platform.register_many(effort.many, "many", &folders.code)?;
    }
    let platform = Platform::start(binary, &folders.data, &folders.code)?;
    let what =
        "all processes of an idle platform with 100,000 functions, parents of instances among them";
    figures.add(
        "idle_rss_100k_mb",
        "MiB",
        what,
        vec![processes::idle_rss_mib(platform.pid())?],
    );
    let ready = platform.ready.as_secs_f64() * 1e3;
    figures.add(
        "ready_ms_100k",
        "ms",
        "start to ready with 100,000 functions",
        vec![ready],
    );
    let control = platform.control;
    for (name, path, what) in [
        (
            "list_ms_100k",
            "/serverless/v1/functions?pageIndex=500&pageSize=100",
            "a page of 100 in the middle of 100,000 functions",
        ),
        (
            "get_ms_100k",
            "/serverless/v1/functions/0@bench@many-777?versionNumber=latest",
            "one of 100,000 functions",
        ),
    ] {
        let request = load::request(control, path, None);
        let round = load::closed_loop(control, 1, Until::Sent(200), move |_| request.clone())?;
        figures.add(
            name,
            "ms",
            what,
            vec![round.whole()?.tally.latencies.quantile_ms(0.5)],
        );
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn count(number: u64) -> f64 {
    number as f64
}
