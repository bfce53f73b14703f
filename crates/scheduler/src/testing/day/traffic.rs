//! Which calls come when, and of which functions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bugle_types::{CpuMillis, MemoryMib, Resources};

use super::world::{Coming, Function, World};
use crate::core::{Core, Set};
use crate::testing::spec;

/// There is a burst for so many other calls, of 500 calls in the middle: every sixth call is of one.
const CALLS_FOR_A_BURST: u64 = 2500;

/// So few calls in a second have as many bursts as these.
const LITTLE: u64 = 100;

const DAY: u64 = 86_400;

/// How many thousandths of the busiest traffic there are so many seconds before the end. A day begins
/// and ends at its busiest, so that a short run is busy; more than half of that lasts for three hours,
/// and at midnight there is a twentieth.
fn by_time_of_day(left: u64) -> u64 {
    let half = DAY / 2;
    let from_midnight = (left % DAY).abs_diff(half) * 1000 / half;
    50 + 950 * from_midnight.pow(5) / 1000_u64.pow(5)
}

impl World {
    /// One second of traffic, with a burst to one function now and then: at least as often as by day in
    /// a world with little traffic.
    pub(super) fn second(&mut self) {
        if self.now >= self.end {
            return;
        }
        let left = (self.end - self.now).as_secs();
        if left + 60 < u64::from(self.size.seconds) {
            let fewest = &mut self.report.fewest_instances;
            *fewest = Some(fewest.map_or(self.alive, |known| known.min(self.alive)));
        }
        let calls = u64::from(self.size.rate) * by_time_of_day(left) / 1000;
        for _ in 0..calls {
            let function = self.some_function();
            let wait = Duration::from_micros(self.dice.below(1_000_000));
            self.later(wait, Coming::Arrival(function));
        }
        let due = calls.max(LITTLE) + self.dice.below(CALLS_FOR_A_BURST);
        for _ in 0..due / CALLS_FOR_A_BURST {
            let function = self.some_function();
            for _ in 0..self.dice.number(100, 900) {
                let wait = Duration::from_micros(self.dice.below(300_000));
                self.later(wait, Coming::Arrival(function));
            }
        }
        self.later(Duration::from_secs(1), Coming::Second);
    }

    /// Most calls are of the hot ones.
    fn some_function(&mut self) -> u32 {
        let hot = self.size.functions / 100;
        if self.dice.chance(70) {
            self.dice.number(0, hot - 1)
        } else {
            self.dice.number(hot, self.size.functions - 1)
        }
    }

    pub(super) fn function(&mut self, number: u32) -> &mut Function {
        let (size, config) = (self.size, &self.config);
        self.functions[number as usize].get_or_insert_with(|| {
            let hot = number < size.functions / 100;
            let minimum = if hot { size.minimum } else { 0 };
            let max = 2 * minimum + 20;
            let concurrency = if number.is_multiple_of(4) { 10 } else { 1 };
            let mut spec = spec(&format!("f{number}"), "1", concurrency, minimum, max);
            spec.resources = Resources {
                cpu: CpuMillis(300 + 100 * (number % 8)),
                memory: MemoryMib(128 * u64::from(1 + number % 8)),
                custom: Vec::new(),
            };
            let keys = (number.is_multiple_of(5)).then(|| format!("group-{}", number % 3));
            spec.pool.groups.extend(keys);
            let tenant = format!("tenant-{}", number % 500);
            Box::new(Function {
                set: Set {
                    resources: spec.resources.clone(),
                    ..Set::default()
                },
                core: Core::new(Arc::new(spec), Arc::clone(config)),
                tenant: tenant.parse().expect("a name of a tenant"),
                max: usize::try_from(max).expect("small"),
                minimum: usize::try_from(minimum).expect("small"),
                at_once: usize::try_from(concurrency).expect("small"),
                tickets: 0,
                armed: None,
                instances: BTreeMap::new(),
                waiting: BTreeSet::new(),
                crowded: false,
            })
        })
    }
}
