//! How long many decisions took, in a size that does not grow with their number.

use std::time::Duration;

/// Each doubling has 2 to this power of buckets, so a quantile is told 3 % too high at most.
const FINE: u32 = 5;

/// How often something took how long.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// By bucket, as far as one was needed.
    counts: Vec<u64>,
    count: u64,
    most: Duration,
}

impl Times {
    pub(super) fn add(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket(nanos);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
        self.most = self.most.max(took);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What the longest took.
    pub fn most(&self) -> Duration {
        self.most
    }

    /// What so many of a thousand took at most.
    pub fn quantile(&self, thousandths: u64) -> Duration {
        let wanted = (self.count * thousandths).div_ceil(1000);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map_or(Duration::ZERO, |bucket| upper_end(bucket).min(self.most))
    }
}

/// Small numbers have a bucket each; larger ones share theirs with all that begin with the same bits.
fn bucket(nanos: u64) -> usize {
    let dropped = (nanos | 1 << FINE).ilog2() - FINE;
    usize::try_from((u64::from(dropped) << FINE) + (nanos >> dropped)).expect("a few hundred")
}

fn upper_end(bucket: usize) -> Duration {
    let dropped = (bucket >> FINE).saturating_sub(1);
    let leading = u128::try_from(bucket - (dropped << FINE)).expect("a few dozen");
    let nanos = ((leading + 1) << dropped) - 1;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_hardly_above_the_truth_and_never_below() {
        let mut times = Times::default();
        for nanos in (1..=1000).map(|n: u64| n.pow(3)) {
            times.add(Duration::from_nanos(nanos));
        }
        for thousandths in [1, 20, 500, 990, 999] {
            let (told, truth) = (times.quantile(thousandths), thousandths.pow(3));
            assert!(
                (truth..=truth + truth / 32).contains(&told.as_nanos().try_into().unwrap()),
                "{told:?} for {truth} ns"
            );
        }
        assert_eq!(
            (times.count(), times.most()),
            (1000, Duration::from_secs(1))
        );
        assert_eq!(times.quantile(1000), times.most());
    }

    #[test]
    fn of_nothing_each_quantile_is_nothing() {
        assert_eq!(Times::default().quantile(990), Duration::ZERO);
    }

    #[test]
    fn the_longest_time_has_a_bucket() {
        assert_eq!(upper_end(bucket(u64::MAX)), Duration::from_nanos(u64::MAX));
    }
}
