//! What ran, how it went, and how long it took.

use std::fmt::Write as _;
use std::time::Duration;

/// Tests and checks by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Counts {
    pub(crate) const PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    pub(crate) const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    pub(crate) const SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// How one step went.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) counts: Counts,
    /// Why it failed or was skipped; for a success, nothing or a remark.
    pub(crate) remark: String,
}

impl Outcome {
    pub(crate) fn passed() -> Self {
        Self {
            counts: Counts::PASSED,
            remark: String::new(),
        }
    }

    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self {
            counts: Counts::FAILED,
            remark: why.into(),
        }
    }

    pub(crate) fn skipped(why: impl Into<String>) -> Self {
        Self {
            counts: Counts::SKIPPED,
            remark: why.into(),
        }
    }
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// All steps so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    steps: Vec<Step>,
}

impl Report {
    pub(crate) fn add(&mut self, name: &'static str, outcome: Outcome, took: Duration) {
        self.steps.push(Step {
            name,
            outcome,
            took,
        });
    }

    /// Whether nothing failed.
    pub(crate) fn is_success(&self) -> bool {
        self.totals().failed == 0
    }

    fn totals(&self) -> Counts {
        let mut totals = Counts::default();
        for step in &self.steps {
            totals.add(step.outcome.counts);
        }
        totals
    }

    /// A line for each step, and a last one with the totals.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for Step {
            name,
            outcome: Outcome { counts, remark },
            took,
        } in &self.steps
        {
            let verdict = match *counts {
                Counts { failed: 1.., .. } => "FAILED",
                Counts { passed: 0, .. } => "skipped",
                Counts { .. } => "passed",
            };
            let tests = counts.passed + counts.failed;
            let tests = if tests > 1 {
                format!("{tests} tests")
            } else {
                String::new()
            };
            let seconds = took.as_secs_f64();
            let line = format!("{verdict:8} {seconds:7.1} s  {name:28} {tests:10} {remark}");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let Counts {
            passed,
            failed,
            skipped,
        } = self.totals();
        let _ = write!(text, "{passed} passed, {failed} failed, {skipped} skipped");
        text
    }
}

/// Reads the counts of a test run from what `cargo nextest` or `cargo test` printed.
pub(crate) fn parse_counts(output: &str) -> Counts {
    let mut counts = Counts::default();
    for line in output.lines().map(str::trim) {
        if line.starts_with("Summary [") || line.starts_with("test result:") {
            counts.passed += number_before(line, "passed");
            counts.failed += number_before(line, "failed") + number_before(line, "timed out");
            counts.skipped += number_before(line, "ignored") + number_before(line, "skipped");
        }
    }
    counts
}

fn number_before(line: &str, word: &str) -> usize {
    let before = line
        .split(word)
        .next()
        .filter(|before| before.len() < line.len());
    before
        .and_then(|before| before.trim_end().rsplit([' ', ':']).next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_both_test_runners_are_read() {
        let nextest = "     Summary [   1.2s] 6 tests run: 5 passed (1 slow), 1 failed, 2 skipped";
        let expected = Counts {
            passed: 5,
            failed: 1,
            skipped: 2,
        };
        assert_eq!(parse_counts(nextest), expected);
        let cargo = "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out\n\
                     test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(
            parse_counts(cargo),
            Counts {
                passed: 6,
                failed: 2,
                skipped: 1
            }
        );
        assert_eq!(parse_counts("nothing was run"), Counts::default());
    }

    #[test]
    fn the_last_line_of_the_summary_has_the_totals() {
        let mut report = Report::default();
        report.add("format", Outcome::passed(), Duration::from_secs(1));
        report.add(
            "lints",
            Outcome::failed("two warnings"),
            Duration::from_secs(2),
        );
        report.add("conformance", Outcome::skipped("no cases"), Duration::ZERO);
        assert!(!report.is_success());
        let summary = report.summary();
        assert!(
            summary.ends_with("1 passed, 1 failed, 1 skipped"),
            "{summary}"
        );
        assert!(summary.contains("FAILED       2.0 s  lints"), "{summary}");
    }
}
