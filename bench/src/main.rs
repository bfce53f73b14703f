//! Measures Bugle beside its peers in one run and writes the figures by name.
//!
//! Every ratio is the median of interleaved pairs (Bugle, peer, Bugle, peer, …) under the same load
//! generator, so that the machine's moods cancel. Absolute figures are medians of their rounds and
//! mean little on another machine. Figures go to `target/bench/results.json`, the table to standard
//! output and, with `--write`, into `docs/benchmarks.md`.
#![expect(clippy::print_stdout, reason = "a command that prints its results")]
#![expect(clippy::print_stderr, reason = "progress of what takes long")]

mod cluster;
mod containers;
mod exchange;
mod figures;
mod images;
mod load;
mod packages;
mod peers;
mod platform;
mod processes;
mod save;
mod scale;
mod scenarios;
mod warm;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;

use crate::figures::Figures;

/// Measures Bugle beside its peers.
#[derive(Parser, Debug)]
struct Arguments {
    /// Shorter rounds: the whole run takes less than three minutes.
    #[arg(long)]
    quick: bool,
    /// Writes the table into docs/benchmarks.md.
    #[arg(long)]
    write: bool,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/bugle")]
    binary: PathBuf,
    /// Only the scenarios whose names contain one of these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// How long and how often is measured.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Interleaved pairs of a ratio.
    pairs: usize,
    /// Length of one side of a pair.
    round: Duration,
    /// Connections with which a function that is a web server is asked.
    http_connections: &'static [usize],
    /// Rounds of each further peer.
    peer_rounds: usize,
    /// Length of one of them.
    peer_round: Duration,
    /// Functions called for the first time.
    cold_starts: usize,
    /// The same with large imports.
    fastapi_starts: usize,
    /// Length of a registry round.
    registry: Duration,
    /// Functions in the store whose opening is timed.
    stored: usize,
    /// How often a start, a burst or an overload is measured.
    starts: usize,
    /// The most idle instances.
    instances: usize,
    /// For how long functions are started.
    sustained: Duration,
    /// Functions of a large platform.
    many: usize,
    /// How often an image is pulled by each side.
    image_pulls: usize,
    /// The image's size ÷ 1 GB.
    image_share: f64,
    /// Containers that are started one after the other.
    container_starts: usize,
    /// How often a hundred are started and stopped.
    container_rounds: usize,
    /// How often a pool is made on Kubernetes.
    pools: usize,
}

impl Effort {
    const FULL: Self = Self {
        pairs: 9,
        round: Duration::from_secs(4),
        http_connections: &[1, 16, 64],
        peer_rounds: 5,
        peer_round: Duration::from_secs(2),
        cold_starts: 100,
        fastapi_starts: 30,
        registry: Duration::from_secs(5),
        stored: 10_000,
        starts: 7,
        instances: 500,
        sustained: Duration::from_mins(1),
        many: 100_000,
        image_pulls: 5,
        image_share: 1.0,
        container_starts: 100,
        container_rounds: 20,
        pools: 50,
    };
    const QUICK: Self = Self {
        pairs: 5,
        round: Duration::from_millis(800),
        http_connections: &[16],
        peer_rounds: 1,
        peer_round: Duration::from_millis(400),
        cold_starts: 100,
        fastapi_starts: 7,
        registry: Duration::from_secs(3),
        stored: 10_000,
        starts: 3,
        instances: 100,
        sustained: Duration::from_secs(8),
        many: 100_000,
        image_pulls: 1,
        image_share: 0.15,
        container_starts: 30,
        container_rounds: 1,
        pools: 20,
    };
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let effort = if arguments.quick {
        Effort::QUICK
    } else {
        Effort::FULL
    };
    let binary = std::path::absolute(&arguments.binary)?;
    anyhow::ensure!(
        binary.is_file(),
        "{} does not exist; build it with `cargo build --release`, or run `cargo xtask bench`",
        binary.display()
    );
    let only = &arguments.only;
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| name.contains(only));
    let mut figures = Figures::default();
    for (name, scenario) in scenarios::ALL {
        // Asked for by name, it is measured at any effort.
        if only.is_empty() && arguments.quick && scenarios::LONG.contains(name) {
            eprintln!("{name} is left to the full run");
        } else if wanted(name) {
            eprint!("measuring {name} …");
            let begin = Instant::now();
            scenario(&binary, effort, &mut figures).with_context(|| format!("scenario {name}"))?;
            eprintln!(" {:.1} s", begin.elapsed().as_secs_f64());
        }
    }
    let folder = PathBuf::from("target/bench");
    std::fs::create_dir_all(&folder)?;
    figures.write_json(&folder.join("results.json"))?;
    let table = figures.table();
    println!("{table}");
    if arguments.write {
        figures::write_document(
            &PathBuf::from("docs/benchmarks.md"),
            &table,
            arguments.quick,
        )?;
    }
    let broken = figures.broken();
    if broken.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("should be 0 on any machine: {}", broken.join(", "));
    Ok(ExitCode::FAILURE)
}
