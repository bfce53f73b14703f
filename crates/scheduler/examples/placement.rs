//! A day of traffic over ten thousand nodes with a hundred thousand instances.
//!
//! `cargo run --release -p bugle-scheduler --features testing --example placement [SECONDS] [SEED]`
//!
//! The real cores of all functions and the real placement, in a simulated world that checks every
//! step. What is printed at the end are the times of the decisions: one placement, and one call from
//! its arrival to the end of what it sets off.

use bugle_scheduler::testing::day::{Report, Size, run};

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut number = |otherwise| match numbers.next() {
        Some(number) => number.expect("SECONDS and SEED are numbers"),
        None => otherwise,
    };
    let seconds = u32::try_from(number(86_400)).expect("no more than a century");
    let report = run(Size {
        nodes: 10_000,
        functions: 100_000,
        minimum: 95,
        seconds,
        rate: 100,
        seed: number(1),
    });
    let Report {
        calls,
        served,
        refused,
        lost,
        starts,
        most_instances,
        deaths,
        drains,
        placements,
        decisions,
    } = &report;
    println!("calls {calls}: {served} served, {refused} refused, {lost} lost with their node");
    println!(
        "{starts} starts, at most {most_instances} instances; {deaths} deaths, {drains} drains"
    );
    for (what, figures) in [("placement", placements), ("call", decisions)] {
        let [half, most, nearly] = [500, 990, 999].map(|part| Report::quantile(figures, part));
        println!(
            "{what:<10} p50 {half:>8} ns   p99 {most:>8} ns   p99.9 {nearly:>8} ns   ({})",
            figures.len()
        );
    }
}
