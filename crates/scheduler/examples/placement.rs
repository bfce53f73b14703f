//! A day of bursty traffic over ten thousand nodes, at its busiest with a hundred thousand instances.
//!
//! `cargo run --release -p bugle-scheduler --features testing --example placement [SECONDS] [SEED]`
//!
//! The real cores of all functions and the real placement, in a simulated world that checks every
//! step and panics at the first broken rule. A run of a few minutes is of the busiest time of day.
//! What is told at the end is what there was, and the times of the decisions: one placement, and one
//! call from its arrival to the end of what it sets off. The figure that has a goal is printed as
//! JSON.

use std::time::{Duration, Instant};

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
    let begin = Instant::now();
    let report = run(Size {
        nodes: 10_000,
        functions: 200_000,
        minimum: 30,
        seconds,
        rate: 2700,
        seed: number(1),
    });
    let Report {
        calls,
        served,
        refused,
        lost,
        starts,
        most_instances,
        fewest_instances,
        deaths,
        drains,
        placements,
        decisions,
    } = &report;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    eprintln!(
        "{seconds} s simulated in {:.1?}, no rule was broken",
        begin.elapsed()
    );
    eprintln!("calls {calls}: {served} served, {refused} refused, {lost} lost with their node");
    let fewest = fewest_instances.unwrap_or_default();
    eprintln!("{starts} cold starts, from {fewest} to {most_instances} instances at once");
    eprintln!("{deaths} nodes died, {drains} were drained");
    for (what, times) in [("placement", placements), ("call", decisions)] {
        let [half, nearly, last] = [500, 990, 999].map(|part| micros(times.quantile(part)));
        let (count, most) = (times.count(), micros(times.most()));
        eprintln!(
            "{what:<9} p50 {half:.2} µs, p99 {nearly:.2} µs, p99.9 {last:.2} µs, longest {most:.0} µs ({count})"
        );
    }
    let nearly = micros(placements.quantile(990));
    println!(r#"{{"name":"place_p99_us","value":{nearly:.3}}}"#);
}
