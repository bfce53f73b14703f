//! Beyond one machine: calls over a node, a store in etcd, starts on many nodes, placement, a pool on
//! Kubernetes, and a platform with a million functions.
//!
//! What has no process of its own, or would need a cluster, is measured by examples of the crates that
//! do it; they print one figure a line, as JSON.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Effort;
use crate::figures::Figures;
use crate::load::{self, Until, Whole as _};
use crate::platform::{Folders, Helper, Platform, pause, registration};
use crate::processes;
use crate::warm::{EVENT, interleaved, p50};

/// The longest that something else than a platform may take to be there.
const PATIENCE: Duration = Duration::from_mins(1);

/// A warm call over one node beside the same call on one machine.
pub(crate) fn nodes(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let (here, there) = (Folders::new()?, Folders::new()?);
    let direct = Platform::start(binary, &here.data, &here.code)?;
    let configuration = ["nodes.listen=127.0.0.1:0", "nodes.local=false"];
    let over = Platform::start_with(binary, &there.data, &there.code, &configuration)?;
    let _node = join(binary, &over, &there)?;
    let mut contenders = Vec::new();
    for (platform, folders) in [(&over, &there), (&direct, &here)] {
        let path = platform.register("0@bench@hop", &folders.function("hop")?)?;
        let request = load::request(platform.gateway, &path, Some(EVENT));
        let (status, body) = load::once(platform.gateway, &request)?;
        ensure!(status == 200, "{status}: {body}");
        contenders.push((platform.gateway, path));
    }
    let contenders: [(SocketAddr, String); 2] =
        contenders.try_into().ok().context("there are two")?;
    let pairs = interleaved(&contenders, 1, effort)?;
    let side = |side: usize| pairs.iter().map(move |pair| p50(&pair[side]));
    let what = "p50 of a warm call over one node ÷ the same on one machine, 1 connection";
    let ratios = side(0).zip(side(1)).map(|(over, direct)| over / direct);
    figures.add("hop_p50_ratio", "", what, ratios.collect());
    let what = "p50 of a warm call over one node, 1 connection";
    figures.add("hop_p50_ms", "ms", what, side(0).collect());
    Ok(())
}

/// Starts a node of this platform, and waits until it takes instances.
fn join(binary: &Path, platform: &Platform, folders: &Folders) -> anyhow::Result<Helper> {
    let request = load::request(platform.control, "/bugle/v1/nodes/tokens", Some("{}"));
    let made = wait_for("a token for a node", || {
        let (status, body) = load::once(platform.control, &request)?;
        Ok((status == 201).then_some(body))
    })?;
    let made: Value = serde_json::from_str(&made)?;
    let text = |key: &str| made[key].as_str().context("a token is incomplete");
    let data = folders.data.with_extension("node");
    let child = Command::new(binary)
        .args(["node", "--name", "bench", "--join", text("address")?])
        .args(["--token", text("token")?, "--data-dir"])
        .arg(&data)
        .arg("--code-root")
        .arg(&folders.code)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(data.with_extension("node.log"))?)
        .spawn()
        .with_context(|| binary.display().to_string())?;
    let node = Helper(child);
    let request = load::request(platform.control, "/bugle/v1/nodes", None);
    wait_for("a node", || {
        let (_, body) = load::once(platform.control, &request)?;
        let list: Value = serde_json::from_str(&body)?;
        let mut nodes = list["nodes"].as_array().into_iter().flatten();
        Ok(nodes.any(|node| node["state"] == "live").then_some(()))
    })?;
    Ok(node)
}

fn wait_for<T>(
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Ok(None) | Err(_) => {}
        }
        ensure!(begin.elapsed() < PATIENCE, "{what} is not there");
        pause();
    }
}

/// Registrations of a platform whose store is an etcd, beside plain puts to the same etcd.
pub(crate) fn etcd(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    const CLIENTS: usize = 16;
    /// A platform that was just started warms up its first runtime when a function wants it: once in
    /// its life, and not what a registration costs.
    const SETTLED: Duration = Duration::from_secs(2);
    let seconds = effort.registry.as_secs();
    let (mut rates, mut ratios) = (Vec::new(), Vec::new());
    for pair in 0..effort.starts {
        // All pairs together are more than an etcd holds.
        let folder = TempDir::new()?;
        let (_etcd, address) = start_etcd(folder.path())?;
        let folders = Folders::new()?;
        let plain = || {
            let arguments = [
                "--plain".to_owned(),
                address.clone(),
                CLIENTS.to_string(),
                seconds.to_string(),
            ];
            figure_of(binary, "etcd_rates", &arguments, "etcd_plain_puts_per_s")
        };
        // An etcd gets slower the more there is in it, and the machine is not always as fast.
        let before = plain()?;
        let endpoints = format!("etcd.endpoints={address}");
        let configuration = ["store.kind=etcd", &endpoints];
        let platform = Platform::start_with(binary, &folders.data, &folders.code, &configuration)?;
        let (control, code) = (platform.control, folders.code.clone());
        has_read_its_lists(control)?;
        let round = load::warmed_loop(
            control,
            CLIENTS,
            (SETTLED, Until::Elapsed(effort.registry)),
            move |number| {
                let body = registration(&format!("0@bench@e{pair}-{number}"), &code);
                load::request(control, "/serverless/v1/functions", Some(&body))
            },
        )?
        .whole()?;
        drop(platform);
        rates.push(round.rate());
        ratios.push(round.rate() / f64::midpoint(before, plain()?));
    }
    let what = "registrations over etcd, 16 clients";
    figures.add("etcd_register_per_s", "/s", what, rates);
    let what = "the same ÷ plain puts of as many bytes to the same etcd, before and after";
    figures.add("etcd_register_ratio", "", what, ratios);
    Ok(())
}

/// An etcd of its own, from Debian's `etcd-server`.
fn start_etcd(folder: &Path) -> anyhow::Result<(Helper, String)> {
    let free = || -> anyhow::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        Ok(format!("http://{}", listener.local_addr()?))
    };
    let (clients, peers) = (free()?, free()?);
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--listen-client-urls", &clients])
        .args(["--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers])
        .args(["--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}")])
        // A full run writes more than the 2 GiB that etcd takes by itself.
        .args(["--quota-backend-bytes", "8589934592"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("run etcd (Debian's etcd-server)")?;
    let etcd = Helper(child);
    let address: SocketAddr = clients.trim_start_matches("http://").parse()?;
    let request = load::request(address, "/health", None);
    wait_for("etcd", || {
        let (status, _) = load::once(address, &request)?;
        Ok((status == 200).then_some(()))
    })?;
    Ok((etcd, clients))
}

/// Cold starts on nodes that only pretend to start something.
pub(crate) fn starts(binary: &Path, _: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let name = "node_starts_per_s";
    let found = figure_of(binary, "starts", &[], name)?;
    let what = "cold starts by one scheduler on 20 nodes that only pretend to start";
    figures.add(name, "/s", what, vec![found]);
    Ok(())
}

/// A pool on Kubernetes, from its record to the last request that makes it.
pub(crate) fn pool(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let name = "pool_50_ms";
    let found = figures_of(binary, "pool", &[effort.pools.to_string()], name)?;
    let what = "record of a pool of 50 Pods to the last request for one, at an API server that takes 5 ms for each";
    figures.add(name, "ms", what, found);
    Ok(())
}

/// Decisions over ten thousand nodes with a hundred thousand instances, at the busiest time of day.
pub(crate) fn placement(binary: &Path, _: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    const SECONDS: &str = "300";
    let name = "place_p99_us";
    let found = figure_of(binary, "placement", &[SECONDS.to_owned()], name)?;
    let what = "p99 of a placement, 10,000 nodes with 100,000 instances";
    figures.add(name, "µs", what, vec![found]);
    Ok(())
}

/// A platform with a million functions.
pub(crate) fn million(binary: &Path, _: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    const MILLION: usize = 1_000_000;
    let folders = Folders::new()?;
    {
        let platform = Platform::start(binary, &folders.data, &folders.code)?;
        platform.register_many(MILLION, "many", &folders.code)?;
    }
    let platform = Platform::start(binary, &folders.data, &folders.code)?;
    let what = "start to ready with 1,000,000 functions";
    let ready = platform.ready.as_secs_f64();
    figures.add("ready_s_1m", "s", what, vec![ready]);
    has_read_its_lists(platform.control)?;
    let what = "all processes of an idle platform with 1,000,000 functions, all of them listed";
    let memory = processes::idle_rss_mib(platform.pid())?;
    figures.add("idle_rss_1m_mb", "MiB", what, vec![memory]);
    Ok(())
}

/// Waits until a platform that was just started has read the index for its lists, as it does while it
/// is ready already.
fn has_read_its_lists(control: SocketAddr) -> anyhow::Result<()> {
    let last = "/serverless/v1/functions?pageIndex=10000&pageSize=100";
    let (status, _) = load::once(control, &load::request(control, last, None))?;
    ensure!(status == 200, "a list was answered with {status}");
    Ok(())
}

/// Runs an example that lies beside the binary, and returns the figure of this name.
fn figure_of(
    binary: &Path,
    example: &str,
    arguments: &[String],
    name: &str,
) -> anyhow::Result<f64> {
    Ok(figures_of(binary, example, arguments, name)?[0])
}

/// The same for an example that prints the figure of each of its rounds: at least one.
fn figures_of(
    binary: &Path,
    example: &str,
    arguments: &[String],
    name: &str,
) -> anyhow::Result<Vec<f64>> {
    let figures = crate::figures::of_example(binary, example, arguments)?;
    let named = figures.iter().filter(|figure| figure["name"] == name);
    let found: Vec<f64> = named
        .filter_map(|figure| figure["value"].as_f64())
        .collect();
    let printed = json!(figures);
    ensure!(!found.is_empty(), "{example} printed no {name}: {printed}");
    Ok(found)
}
