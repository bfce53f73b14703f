//! What came back, counted: of the same size after a second and after a day.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Answer, Durations, Error};

/// Kinds of failures that are told apart; a function may answer with any status.
const MOST_KINDS: usize = 32;

/// Bytes of a message that are kept as an example.
const EXAMPLE: usize = 1 << 10;

/// What a failure is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An answer with a status or a code of failure.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The platform's own code; 0 when the failure is the function's answer.
        code: u32,
    },
    /// No connection.
    Connect,
    /// A connection that broke, or an answer that is none.
    Broken,
    /// No answer in time.
    Timeout,
    /// Whatever is rarer than the kinds before.
    Other,
}

/// Failures of one kind.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    /// How many.
    pub count: u64,
    /// How many of them said when to come back.
    pub retry_after: u64,
    /// What the first of them said.
    pub example: String,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How long the calls that succeeded took.
    pub latencies: Durations,
    /// Answers that waited for the start of an instance.
    pub cold: u64,
    /// Answers that did not.
    pub warm: u64,
    /// Calls that did not succeed.
    pub failures: BTreeMap<Kind, Failures>,
}

impl Tally {
    /// Counts a call.
    pub fn add(&mut self, latency: Duration, outcome: Result<&Answer, &Error>) {
        let answer = match outcome {
            Ok(answer) => answer,
            // It is neither a success nor a failure of what is measured.
            Err(Error::Stopped) => return,
            Err(error) => {
                let kind = match error {
                    Error::Connect { .. } => Kind::Connect,
                    Error::Timeout { .. } => Kind::Timeout,
                    _ => Kind::Broken,
                };
                return self.fail(kind, false, || error.text());
            }
        };
        match answer.is_cold() {
            Some(true) => self.cold += 1,
            Some(false) => self.warm += 1,
            None => {}
        }
        if answer.is_success() {
            self.latencies.add(latency);
        } else {
            let kind = Kind::Answer {
                status: answer.status,
                code: answer.code,
            };
            self.fail(kind, answer.retry_after, || {
                let length = answer.body.len().min(EXAMPLE);
                String::from_utf8_lossy(&answer.body[..length]).into_owned()
            });
        }
    }

    fn fail(&mut self, kind: Kind, retry_after: bool, example: impl FnOnce() -> String) {
        let is_known = self.failures.contains_key(&kind);
        let kind = if is_known || self.failures.len() < MOST_KINDS {
            kind
        } else {
            Kind::Other
        };
        let failures = self.failures.entry(kind).or_insert_with(|| Failures {
            example: example(),
            ..Failures::default()
        });
        failures.count += 1;
        failures.retry_after += u64::from(retry_after);
    }

    /// Calls that succeeded.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.latencies.count()
    }

    /// Calls that did not.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().map(|failures| failures.count).sum()
    }

    /// All calls that came to an end.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.succeeded() + self.failed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: u32) -> Answer {
        Answer {
            status,
            code,
            body: format!("{status} {code}").into_bytes(),
            ..Answer::default()
        }
    }

    #[test]
    fn failures_are_told_apart_up_to_a_bound() {
        let mut tally = Tally::default();
        for status in 400..500 {
            let answer = answer(status, 0);
            tally.add(Duration::ZERO, Ok(&answer));
            tally.add(Duration::ZERO, Ok(&answer));
        }
        assert_eq!((tally.failed(), tally.succeeded()), (200, 0));
        assert_eq!(tally.failures.len(), MOST_KINDS + 1);
        assert_eq!(tally.failures.values().next().unwrap().example, "400 0");
    }

    #[test]
    fn an_answer_with_a_code_of_failure_is_one() {
        let mut tally = Tally::default();
        tally.add(Duration::from_millis(1), Ok(&answer(200, 4010)));
        tally.add(Duration::from_millis(2), Ok(&answer(302, 0)));
        tally.add(Duration::from_millis(3), Err(&Error::Stopped));
        assert_eq!((tally.failed(), tally.succeeded()), (1, 1));
        assert!((tally.latencies.quantile_ms(0.5) - 2.0).abs() < 0.01);
    }
}
