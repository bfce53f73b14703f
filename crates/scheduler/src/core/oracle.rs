//! What the core reads off its books, found by looking at every instance instead: the definition of
//! who gets a call and who has idled long enough, which tests compare with what the core chooses.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::instance::{Code, Instance, State};
use super::{Core, Key, Set};

/// Idle instances with the time at which the idle clock of each runs out.
type Idle = Vec<(Instant, Key)>;

impl Core {
    /// # Panics
    ///
    /// If the core and the definition do not agree, on calls of `sets` or of any set that there is.
    pub(super) fn compare_with_definition(&self, sets: &[Set], now: Instant) {
        self.instances.check();
        let known = self.instances.iter().map(|(_, instance)| &instance.set);
        let sets: BTreeSet<&Set> = known.chain(sets).collect();
        for set in sets {
            assert_eq!(self.choose(set), self.chosen(set), "for a call of {set:?}");
            assert_eq!(self.has_hope(set), self.is_hopeful(set), "for {set:?}");
            let current =
                |instance: &Instance| instance.set == *set && instance.code == Code::Newest;
            let coming = self.keys(|i| current(i) && i.state == State::Starting);
            assert_eq!(self.coming(set) as usize, coming.len(), "of {set:?}");
            let serving = self.keys(|i| current(i) && i.is_live());
            assert_eq!(self.serving(set) as usize, serving.len(), "of {set:?}");
        }
        let mut idle = self.idle_by_definition();
        idle.retain(|(until, _)| *until <= now);
        let idle: Vec<Key> = idle.into_iter().map(|(_, key)| key).collect();
        assert_eq!(self.idled_out(now), idle);
    }

    /// The instance for a call of `set`: among the oldest `minInstance` ones the emptiest, else the
    /// busiest with a free slot; exact resources before larger ones, new code before old.
    fn chosen(&self, set: &Set) -> Option<Key> {
        let reserved = self.bounds(set).min;
        let mut seen_reserved = 0;
        let mut best: Option<((bool, bool, bool, i64), Key)> = None;
        for (key, instance) in self.instances.iter() {
            let State::Ready { in_flight, .. } = instance.state else {
                continue;
            };
            let usable = instance.code == Code::Newest || self.rolling.is_some();
            if !usable || !instance.set.serves(set) {
                continue;
            }
            let current = instance.code == Code::Newest;
            let exact = instance.set == *set;
            let is_reserved = exact && current && seen_reserved < reserved;
            seen_reserved += u32::from(is_reserved);
            if in_flight >= instance.spec.concurrency.get() {
                continue;
            }
            let load = i64::from(in_flight);
            let load = if is_reserved { -load } else { load };
            let rank = (current, exact, is_reserved, load);
            if best.is_none_or(|(other, _)| rank > other) {
                best = Some((rank, key));
            }
        }
        best.map(|(_, key)| key)
    }

    fn is_hopeful(&self, set: &Set) -> bool {
        let usable = |instance: &Instance| instance.code == Code::Newest || self.rolling.is_some();
        let mut instances = self.instances.iter().map(|(_, instance)| instance);
        instances.any(|instance| instance.is_live() && usable(instance) && instance.set.serves(set))
    }

    /// The idle instances without which the minima hold, and when the idle clock of each runs out: of
    /// older code first; of a set those whose clock runs out first.
    fn idle_by_definition(&self) -> Idle {
        let mut surplus = Idle::new();
        let mut sets: BTreeMap<&Set, (u32, Idle)> = BTreeMap::new();
        for (key, instance) in self.instances.iter() {
            let idle = instance.idle_until().map(|until| (until, key));
            if instance.is_live() && instance.code == Code::Newest {
                let (serving, candidates) = sets.entry(&instance.set).or_default();
                *serving += 1;
                candidates.extend(idle);
            } else {
                surplus.extend(idle);
            }
        }
        for (set, (serving, mut candidates)) in sets {
            let spare = serving.saturating_sub(self.bounds(set).min);
            candidates.sort_unstable();
            candidates.truncate(spare as usize);
            surplus.append(&mut candidates);
        }
        surplus
    }
}
