//! A day of traffic over ten thousand nodes with a hundred thousand instances.
//!
//! `cargo run --release -p bugle-scheduler --features testing --example placement [SECONDS] [SEED]`
//!
//! The real cores of all functions and the real placement, in a simulated world that checks every
//! step. What is told at the end are the times of the decisions: one placement, and one call from
//! its arrival to the end of what it sets off. The figure that has a goal is printed as JSON.

use std::time::Duration;

use bugle_scheduler::testing::day::{Report, Size, run};

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
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
    eprintln!("calls {calls}: {served} served, {refused} refused, {lost} lost with their node");
    eprintln!(
        "{starts} starts, at most {most_instances} instances; {deaths} deaths, {drains} drains"
    );
    for (what, figures) in [("placement", placements), ("call", decisions)] {
        let [half, most, nearly] = [500, 990, 999].map(|part| Report::quantile(figures, part));
        eprintln!(
            "{what:<10} p50 {half:>8} ns   p99 {most:>8} ns   p99.9 {nearly:>8} ns   ({})",
            figures.len()
        );
    }
    let nearly = Duration::from_nanos(Report::quantile(placements, 990));
    let micros = nearly.as_secs_f64() * 1e6;
    println!(r#"{{"name":"place_p99_us","value":{micros:.3}}}"#);
}
