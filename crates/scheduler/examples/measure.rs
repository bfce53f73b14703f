//! Measures what the scheduler adds to a call and to a registered function.
//!
//! `cargo run --release -p bugle-scheduler --example measure`
//!
//! One thread, simulated instances, nothing else: the time from the demand to the lease and back, what
//! the start of an instance costs beside others, and the memory of functions that nobody calls. Figures
//! are the best of several rounds, because whatever disturbs a round makes it slower.

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
        // First, while no other has left memory that can be used again.
        show(
            "registered function that nobody called",
            idle_memory(),
            "bytes",
        );
        for instances in [1, 10, 100, 1000, 10_000] {
            let of = |what: &str| format!("{what}, {instances} instances");
            show(&of("start"), starts(instances).await, "ns");
            show(&of("end"), ends(instances).await, "ns");
            show(
                &of("only free slot taken and back"),
                warm(instances).await,
                "ns",
            );
            let packed = mixed(instances, 0).await;
            show(&of("slot taken, half are free"), packed, "ns");
            let shared = mixed(instances, instances.div_ceil(2)).await;
            show(&of("same, half of them reserved"), shared, "ns");
            let handed_over = handed_over(instances).await;
            show(&of("slot handed to the next call"), handed_over, "ns");
        }
        show("call queued behind 999 and cancelled", queued().await, "ns");
        show("herd of 1000 on a cold function", herd().await, "ns a call");
    });
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
fn show(what: &str, figure: u128, unit: &str) {
    println!("{what:<47} {figure:>8} {unit}");
}

fn scheduler() -> Scheduler {
    let script: Script = Arc::new(|_| (Duration::ZERO, "1".to_owned()));
    let driver = SimDriver::new(Duration::ZERO, script);
    let config = Config {
        queue_limit: 100_000,
        ..Config::default()
    };
    Scheduler::new(config, driver, Metrics::default())
}

fn function(concurrency: u32, min: u32, max: u32) -> Function {
    let scheduler = scheduler();
    let spec = spec("measured", "1", concurrency, min, max);
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

/// So many leases, each of which starts the instances it needs.
async fn leases(function: &Function, count: u32) -> Vec<Lease> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(lease(function).await);
    }
    held
}

/// Rounds of so many calls, fewer where each took longer.
fn calls(instances: u32) -> u32 {
    CALLS / instances.clamp(1, 100)
}

/// For as many calls at once. The clock by which simulated instances start adds a millisecond to all of
/// them together.
async fn starts(instances: u32) -> u128 {
    let function = function(1, 0, instances);
    let begin = Instant::now();
    let calls = (0..instances).map(|_| lease(&function));
    black_box(futures_util::future::join_all(calls).await);
    begin.elapsed().as_nanos() / u128::from(instances)
}

/// Of all instances but one, each with the call that it runs.
async fn ends(instances: u32) -> u128 {
    let function = function(1, 0, instances + 1);
    let mut held = leases(&function, instances + 1).await;
    let last = held.pop();
    let begin = Instant::now();
    for lease in held {
        lease.instance().kill();
        lease.lost();
        // Its end is noticed before the next.
        tokio::task::yield_now().await;
    }
    while function.census().values().sum::<u32>() > 1 {
        tokio::task::yield_now().await;
    }
    drop(black_box(last));
    begin.elapsed().as_nanos() / u128::from(instances)
}

/// With all instances but one busy.
async fn warm(instances: u32) -> u128 {
    let function = function(1, 0, instances);
    let mut held = leases(&function, instances).await;
    held.pop();
    let demand = demand();
    let mut best = u128::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..calls(instances) {
            let lease = function.acquire(demand.clone()).await;
            drop(black_box(lease.expect("there is a free slot")));
        }
        best = best.min(begin.elapsed().as_nanos() / u128::from(calls(instances)));
    }
    best
}

/// Of instances with ten slots each, half of which are taken: calls end in any order, and another comes
/// for each.
async fn mixed(instances: u32, min: u32) -> u128 {
    let function = function(10, min, instances);
    let mut held = leases(&function, instances * 10).await;
    let mut number = 1_u32;
    let mut some = |count: usize| {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        number as usize % count
    };
    for _ in 0..instances * 5 {
        held.swap_remove(some(held.len()));
    }
    let demand = demand();
    let mut best = u128::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..calls(instances) {
            held.swap_remove(some(held.len()));
            let lease = function.acquire(demand.clone()).await;
            held.push(lease.expect("there is a free slot"));
        }
        best = best.min(begin.elapsed().as_nanos() / u128::from(calls(instances)));
    }
    best
}

async fn handed_over(instances: u32) -> u128 {
    let function = function(1, 0, instances);
    let mut held = leases(&function, instances).await;
    let mut best = u128::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..calls(instances) {
            let mut next = Box::pin(function.acquire(demand()));
            assert!((&mut next).now_or_never().is_none(), "it waits");
            held.pop();
            held.push(next.await.expect("the slot was handed over"));
        }
        best = best.min(begin.elapsed().as_nanos() / u128::from(calls(instances)));
    }
    best
}

async fn queued() -> u128 {
    let function = function(1, 0, 1);
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
        let function = function(100, 0, 100);
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
