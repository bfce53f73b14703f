//! How long things took, of the same size however many there were.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Durations are kept up to an hour …
const LONGEST: u64 = 3_600_000_000_000;
/// … with three digits.
const DIGITS: u8 = 3;

/// A distribution of durations.
#[derive(Clone, Debug)]
pub struct Durations(Histogram<u64>);

impl Default for Durations {
    fn default() -> Self {
        let nanos = Histogram::new_with_bounds(1, LONGEST, DIGITS);
        Self(nanos.expect("an hour and three digits are within bounds"))
    }
}

impl Durations {
    /// Counts one; more than an hour counts as an hour.
    pub fn add(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(LONGEST);
        self.0.saturating_record(nanos);
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// A quantile in milliseconds; 0 without any.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an hour is far below 2^52 ns")]
        let nanos = self.0.value_at_quantile(quantile) as f64;
        nanos / 1e6
    }

    /// The mean in milliseconds; 0 without any.
    #[must_use]
    pub fn mean_ms(&self) -> f64 {
        self.0.mean() / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_all_bounds_is_the_longest() {
        let mut durations = Durations::default();
        durations.add(Duration::from_hours(48));
        durations.add(Duration::MAX);
        assert_eq!(durations.count(), 2);
        assert!(durations.quantile_ms(0.0) >= 3_600_000.0 * 0.99);
    }

    #[test]
    fn nothing_took_no_time() {
        let none = Durations::default();
        assert_eq!(none.count(), 0);
        assert!(none.quantile_ms(1.0) + none.mean_ms() < 1e-9);
    }
}
