//! What a measurement came to, for people and for programs.

use std::fmt::Write as _;

use bugle_load::{Durations, Failures, Kind, Round, Tally, Watch};
use serde::Serialize;

use super::Arguments;
use crate::failure::Outcome;
use crate::names;
use crate::output;
use crate::session::Session;

/// More of a message does not help to recognise it.
const LONGEST_MESSAGE: usize = 200;

/// The share of calls that may find all connections in use before the reader is warned.
const TOLERABLE: f64 = 0.01;

/// The same for the generator's own delay: its 99th percentile in milliseconds …
const TOLERABLE_DELAY: f64 = 1.0;
/// … and as a part of that of the latencies.
const TOLERABLE_PART: f64 = 0.1;

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    function: String,
    mode: &'static str,
    connections: u16,
    /// It was ended early.
    interrupted: bool,
    warm_up_seconds: u32,
    seconds: f64,
    /// Calls a second that were asked for; none in a closed loop.
    asked_per_second: Option<u32>,
    /// Calls a second that came to an end.
    answered_per_second: f64,
    calls: Calls,
    /// Of the calls that succeeded; none if none did.
    latency_ms: Option<Latency>,
    /// How late calls left that nothing held back: part of the latencies, and not the platform's.
    /// None in a closed loop.
    client_delay_ms: Option<Latency>,
    /// None if no answer told.
    cold_starts: Option<ColdStarts>,
    failures: Vec<FailureClass>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Calls {
    total: u64,
    succeeded: u64,
    failed: u64,
    held: u64,
    unsent: u64,
    unfinished: u64,
}

#[derive(Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct ColdStarts {
    calls: u64,
    share: f64,
    in_warm_up: u64,
}

#[derive(Debug, Serialize)]
struct FailureClass {
    kind: &'static str,
    status: Option<u16>,
    code: Option<u32>,
    count: u64,
    /// Of them, those that said when to come back.
    retry_after: u64,
    message: String,
}

impl Report {
    pub(super) fn new(
        session: &Session,
        arguments: &Arguments,
        watch: &Watch,
        round: &Round,
    ) -> Self {
        let event = &arguments.event;
        let tally = &round.tally;
        let seconds = round.elapsed.as_secs_f64();
        let calls = Calls {
            total: tally.calls(),
            succeeded: tally.succeeded(),
            failed: tally.failed(),
            held: round.held,
            unsent: round.unsent,
            unfinished: round.unfinished,
        };
        Self {
            function: names::urn(&event.name, &session.tenant, event.version.as_deref()),
            mode: if arguments.closed { "closed" } else { "open" },
            connections: arguments.connections,
            interrupted: watch.is_stopped(),
            warm_up_seconds: arguments.warm_up,
            seconds: digits(seconds),
            asked_per_second: (!arguments.closed).then_some(arguments.rate),
            answered_per_second: digits(per(calls.total, seconds)),
            latency_ms: Latency::new(&tally.latencies),
            client_delay_ms: Latency::new(&round.delays),
            cold_starts: ColdStarts::new(tally, &round.warm_up),
            failures: tally.failures.iter().map(FailureClass::new).collect(),
            warnings: warnings(arguments.connections, &calls, round),
            calls,
        }
    }

    /// Shows it, and what is doubtful about it.
    pub(super) fn show(&self, session: &Session) -> Outcome {
        output::show(session.format, self, || self.screen())?;
        for warning in &self.warnings {
            output::note(&format!("bugle: {warning}"));
        }
        Ok(())
    }

    fn screen(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let mut row = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:<12} {value}");
        };
        row("function", &self.function);
        let rate = self.answered_per_second;
        let connections = self.connections;
        match self.asked_per_second {
            Some(asked) => row("rate", &format!("{rate} calls/s of {asked} asked for")),
            None => row(
                "rate",
                &format!("{rate} calls/s at {connections} connections"),
            ),
        }
        let Calls {
            total,
            failed,
            unfinished,
            ..
        } = self.calls;
        let mut calls = format!("{total} in {} s, {failed} failed", self.seconds);
        if unfinished > 0 {
            let _ = write!(calls, ", {unfinished} given up");
        }
        row("calls", &calls);
        if let Some(latency) = &self.latency_ms {
            row("latency", &latency.line());
        }
        if let Some(cold) = &self.cold_starts {
            row("cold starts", &cold.line());
        }
        if !self.failures.is_empty() {
            let rows = self.failures.iter().map(FailureClass::row);
            let header = ["FAILED", "STATUS", "CODE", "FIRST MESSAGE"];
            text.push('\n');
            text.push_str(&output::table(header, rows));
        }
        text
    }
}

/// What is doubtful about the measurement.
fn warnings(connections: u16, calls: &Calls, round: &Round) -> Vec<String> {
    let Calls {
        total,
        held,
        unsent,
        ..
    } = *calls;
    let due = total + unsent;
    let mut warnings = Vec::new();
    if round.elapsed.is_zero() && round.warm_up.calls() > 0 {
        warnings.push("it was over before the warm-up was: nothing counts".to_owned());
    }
    if unsent > 0 || share(held, due) > TOLERABLE {
        let mut text = format!(
            "{} of {due} calls were due while all {connections} connections were in use",
            held + unsent
        );
        if unsent > 0 {
            let _ = write!(
                text,
                ", and {unsent} of them never left: the latencies are too good"
            );
        }
        text.push_str("; a lower --rate or more --connections may help");
        warnings.push(text);
    }
    let delay = round.delays.quantile_ms(0.99);
    let latency = round.tally.latencies.quantile_ms(0.99);
    if delay > TOLERABLE_DELAY && delay > latency * TOLERABLE_PART {
        warnings.push(format!(
            "this machine is too busy to keep the rate: one call of a hundred left {} ms late or \
             more, and that is part of the latencies",
            digits(delay)
        ));
    }
    warnings
}

impl Latency {
    fn new(durations: &Durations) -> Option<Self> {
        let quantile = |quantile| digits(durations.quantile_ms(quantile));
        (durations.count() > 0).then(|| Self {
            mean: digits(durations.mean_ms()),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: quantile(1.0),
        })
    }

    fn line(&self) -> String {
        let Self {
            mean: _,
            p50,
            p90,
            p99,
            p99_9,
            max,
        } = self;
        format!("p50 {p50} · p90 {p90} · p99 {p99} · p99.9 {p99_9} · max {max} ms")
    }
}

impl ColdStarts {
    /// None where no answer says how it was served: a stream's head goes out before that is known.
    fn new(tally: &Tally, warm_up: &Tally) -> Option<Self> {
        let told = tally.cold + tally.warm;
        (told > 0).then(|| Self {
            calls: tally.cold,
            share: digits(share(tally.cold, told)),
            in_warm_up: warm_up.cold,
        })
    }

    fn line(&self) -> String {
        let Self {
            calls,
            share,
            in_warm_up,
        } = self;
        let percent = digits(share * 100.0);
        format!("{calls} calls ({percent} %), and {in_warm_up} in the warm-up")
    }
}

impl FailureClass {
    fn new((kind, failures): (&Kind, &Failures)) -> Self {
        let (name, status, code) = match kind {
            Kind::Answer { status, code } => ("answer", Some(*status), Some(*code)),
            Kind::Connect => ("connect", None, None),
            Kind::Broken => ("broken", None, None),
            Kind::Timeout => ("timeout", None, None),
            Kind::Other => ("other", None, None),
        };
        Self {
            kind: name,
            status,
            code,
            count: failures.count,
            retry_after: failures.retry_after,
            message: message(&failures.example),
        }
    }

    fn row(&self) -> [String; 4] {
        let status = match self.status {
            Some(status) => status.to_string(),
            None => self.kind.to_owned(),
        };
        // The function's own answers have no code.
        let code = self.code.filter(|code| *code != 0);
        [
            self.count.to_string(),
            status,
            code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
            self.message.clone(),
        ]
    }
}

/// What an answer says, on one line.
fn message(example: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(example).ok();
    let message = parsed
        .as_ref()
        .and_then(|value| value.get("message")?.as_str())
        .unwrap_or(example);
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(LONGEST_MESSAGE).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn per(count: u64, whole: f64) -> f64 {
    if whole > 0.0 {
        count as f64 / whole
    } else {
        0.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn share(part: u64, whole: u64) -> f64 {
    per(part, whole as f64)
}

/// As many digits as a measurement is worth: three behind the point, none in front of it lost.
fn digits(value: f64) -> f64 {
    let scale = match value.abs() {
        value if value < 10.0 => 1000.0,
        value if value < 1000.0 => 10.0,
        _ => 1.0,
    };
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_are_as_long_as_they_are_worth() {
        for (value, shown) in [
            (0.123_456, "0.123"),
            (12.345, "12.3"),
            (12_345.6, "12346"),
            (99.96, "100"),
            (0.0, "0"),
        ] {
            assert_eq!(digits(value).to_string(), shown);
        }
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(
            message("{\"message\": \"too\\nmany\", \"code\": 1}"),
            "too many"
        );
        assert_eq!(message("<html>\n  no"), "<html> no");
        assert_eq!(message(&"x".repeat(999)).len(), LONGEST_MESSAGE);
    }

    #[test]
    fn a_rate_that_was_not_kept_is_said() {
        let mut round = Round::default();
        let mut calls = Calls {
            total: 1000,
            succeeded: 1000,
            failed: 0,
            held: 0,
            unsent: 0,
            unfinished: 0,
        };
        round.tally.latencies.add(Duration::from_millis(30));
        round.delays.add(Duration::from_millis(2));
        assert!(warnings(64, &calls, &round).is_empty());
        round.delays.add(Duration::from_millis(4));
        assert!(warnings(64, &calls, &round)[0].contains("ms late or more"));
        calls.unsent = 500;
        assert!(warnings(64, &calls, &round)[0].contains("500 of them never left"));
    }
}
