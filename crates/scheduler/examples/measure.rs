//! Measures what the scheduler adds to a call and to a registered function.
//!
//! `cargo run --release -p bugle-scheduler --example measure`
//!
//! One thread, simulated instances, nothing else: the time from the demand to the lease and back, and
//! the memory of functions that nobody calls. Figures are the best of several rounds, because
//! whatever disturbs a round makes it slower.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bugle_scheduler::testing::{Script, SimDriver, spec};
use bugle_scheduler::{Config, Demand, Function, Lease, Metrics, Scheduler};
use futures_util::FutureExt as _;
use tokio::time::Instant;

const ROUNDS: u32 = 7;
const CALLS: u32 = 200_000;
const FUNCTIONS: u32 = 100_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime needs no resources that could be short");
    runtime.block_on(async {
        for instances in [1, 10, 100, 1000] {
            let nanos = warm(instances).await;
            show(
                &format!("slot taken and given back, {instances} instances"),
                nanos,
                "ns",
            );
        }
        show(
            "slot handed to the next waiting call",
            handed_over().await,
            "ns",
        );
        show("call queued behind 999 and cancelled", queued().await, "ns");
        show("herd of 1000 on a cold function", herd().await, "ns a call");
        show(
            "registered function that nobody called",
            idle_memory(),
            "bytes",
        );
    });
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
fn show(what: &str, figure: u128, unit: &str) {
    println!("{what:<45} {figure:>8} {unit}");
}

fn scheduler() -> Scheduler {
    let script: Script = Arc::new(|_| (Duration::ZERO, "1".to_owned()));
    let driver = SimDriver::new(Duration::ZERO, script);
    Scheduler::new(Config::default(), driver, Metrics::default())
}

fn function(concurrency: u32, max: u32) -> Function {
    let scheduler = scheduler();
    let spec = spec("measured", "1", concurrency, 0, max);
    let id = spec.id.clone();
    scheduler.upsert(spec);
    scheduler.find(&id).expect("it was just added")
}

fn demand() -> Demand {
    Demand {
        resources: None,
        label: None,
        place: None,
        deadline: Instant::now() + Duration::from_hours(1),
    }
}

async fn lease(function: &Function) -> Lease {
    let lease = function.acquire(demand()).await;
    lease.expect("simulated instances start")
}

/// With all instances but one busy, so that the search sees all of them.
async fn warm(instances: u32) -> u128 {
    let function = function(1, instances);
    let mut held = Vec::new();
    for _ in 0..instances {
        held.push(lease(&function).await);
    }
    held.pop();
    let demand = demand();
    let mut best = u128::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..CALLS / instances.min(100) {
            let lease = function.acquire(demand.clone()).await;
            drop(black_box(lease.expect("there is a free slot")));
        }
        best = best.min(begin.elapsed().as_nanos() / u128::from(CALLS / instances.min(100)));
    }
    best
}

async fn handed_over() -> u128 {
    let function = function(1, 1);
    let mut held = lease(&function).await;
    let mut best = u128::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..CALLS {
            let mut next = Box::pin(function.acquire(demand()));
            assert!((&mut next).now_or_never().is_none(), "it waits");
            drop(held);
            held = next.await.expect("the slot was handed over");
        }
        best = best.min(begin.elapsed().as_nanos() / u128::from(CALLS));
    }
    best
}

async fn queued() -> u128 {
    let function = function(1, 1);
    let _held = lease(&function).await;
    let mut waiting = Vec::new();
    for _ in 0..999 {
        let mut next = Box::pin(function.acquire(demand()));
        assert!((&mut next).now_or_never().is_none(), "it waits");
        waiting.push(next);
    }
    let calls = CALLS / 20;
    let mut best = u128::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..calls {
            let mut next = Box::pin(function.acquire(demand()));
            assert!((&mut next).now_or_never().is_none(), "it waits");
        }
        best = best.min(begin.elapsed().as_nanos() / u128::from(calls));
    }
    best
}

async fn herd() -> u128 {
    let mut best = u128::MAX;
    for _ in 0..ROUNDS {
        let function = function(100, 100);
        let begin = Instant::now();
        let calls = (0..1000).map(|_| lease(&function));
        black_box(futures_util::future::join_all(calls).await);
        best = best.min(begin.elapsed().as_nanos() / 1000);
    }
    best
}

fn idle_memory() -> u128 {
    let scheduler = scheduler();
    let before = resident();
    for number in 0..FUNCTIONS {
        scheduler.upsert(spec(&format!("f{number}"), "1", 1, 0, 100));
    }
    let bytes = resident().saturating_sub(before);
    black_box(&scheduler);
    u128::from(bytes / u64::from(FUNCTIONS))
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux shows it");
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("the second figure is the resident pages") * 4096
}
