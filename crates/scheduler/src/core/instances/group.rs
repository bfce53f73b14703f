//! Instances that are alike, and who of them is the emptiest, the busiest, the longest without a call.

use std::cmp::{Ordering, Reverse};

use tokio::time::Instant;

use crate::core::instance::{Code, Instance, Phase};
use crate::core::{Key, Set};

/// The instances of a set with the newest code, or with older code.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(in crate::core) struct Group {
    pub(in crate::core) set: Set,
    pub(in crate::core) code: Code,
    /// How many come up, finish their calls, were told to end.
    pub(in crate::core) starting: u32,
    pub(in crate::core) draining: u32,
    pub(in crate::core) stopping: u32,
    /// Those that take calls, oldest first.
    ready: Sorted<Key>,
    /// Of these the ones with a free slot and how many calls each runs, the emptiest first; of equal
    /// ones the youngest, so that the choice of most calls is the last.
    free: Sorted<(u32, Reverse<Key>)>,
    /// Those that run no call and when the idle clock of each runs out.
    idle: Sorted<(Instant, Key)>,
}

/// What the books say of an instance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    phase: Phase,
    /// How many calls it runs, if it has a free slot.
    free: Option<u32>,
    /// When its idle clock runs out.
    idle: Option<Instant>,
}

impl Entry {
    pub(super) fn of(instance: &Instance) -> Self {
        Self {
            phase: instance.phase(),
            free: instance.has_free_slot().then(|| instance.in_flight()),
            idle: instance.idle_until(),
        }
    }
}

impl Group {
    pub(super) fn new(set: Set, code: Code) -> Self {
        Self {
            set,
            code,
            starting: 0,
            draining: 0,
            stopping: 0,
            ready: Sorted::default(),
            free: Sorted::default(),
            idle: Sorted::default(),
        }
    }

    /// How it stands to the group of this set and code.
    pub(super) fn order(&self, set: &Set, code: Code) -> Ordering {
        self.code.cmp(&code).then_with(|| self.set.cmp(set))
    }

    /// How many take calls.
    pub(in crate::core) fn ready(&self) -> u32 {
        u32::try_from(self.ready.0.len()).unwrap_or(u32::MAX)
    }

    /// How many take calls or will.
    pub(in crate::core) fn live(&self) -> u32 {
        self.starting.saturating_add(self.ready())
    }

    pub(in crate::core) fn is_live_and_current(&self) -> bool {
        self.live() > 0 && self.code == Code::Newest
    }

    /// How many there are.
    pub(in crate::core) fn all(&self) -> u32 {
        self.live()
            .saturating_add(self.draining)
            .saturating_add(self.stopping)
    }

    /// The instance for a call of this very set, of whose oldest instances so many are reserved: the
    /// emptiest of those; else the busiest. Of equal ones the oldest.
    pub(in crate::core) fn choose(&self, reserved: u32) -> Option<Key> {
        // If none that is reserved has a free slot, the busiest of all that have one is not reserved.
        self.emptiest(reserved)
            .or_else(|| self.busiest().map(|(_, Reverse(key))| key))
    }

    /// Of the oldest instances, so many, the emptiest with a free slot.
    fn emptiest(&self, reserved: u32) -> Option<Key> {
        let reserved = reserved.min(self.ready()) as usize;
        let youngest = self.ready.0[..reserved].last()?;
        let mut rest = self.free.0.as_slice();
        // Of those with equally many calls the oldest is looked at: no more steps than slots.
        while let Some((calls, _)) = rest.first() {
            let (alike, busier) = rest.split_at(rest.partition_point(|(other, _)| other == calls));
            if let Some((_, Reverse(oldest))) = alike.last()
                && oldest <= youngest
            {
                return Some(*oldest);
            }
            rest = busier;
        }
        None
    }

    /// The busiest with a free slot, after how many calls it runs; of equal ones the oldest. The
    /// greatest of several groups is the busiest of all of them.
    pub(in crate::core) fn busiest(&self) -> Option<(u32, Reverse<Key>)> {
        self.free.0.last().copied()
    }

    /// Those that run no call and when the idle clock of each runs out, the earliest first.
    pub(in crate::core) fn idle(&self) -> impl Iterator<Item = (Instant, Key)> {
        self.idle.0.iter().copied()
    }

    /// Writes down what an instance was and what it is now; none while it is not of this group.
    pub(super) fn update(&mut self, key: Key, before: Option<Entry>, after: Option<Entry>) {
        let phase = |entry: Option<Entry>| Some(entry?.phase);
        if phase(before) != phase(after) {
            if let Some(count) = self.count_of(phase(before)) {
                *count -= 1;
            }
            if let Some(count) = self.count_of(phase(after)) {
                *count += 1;
            }
            let ready = |entry| (phase(entry) == Some(Phase::Ready)).then_some(key);
            self.ready.replace(ready(before), ready(after));
        }
        let free = |entry: Option<Entry>| entry?.free.map(|calls| (calls, Reverse(key)));
        self.free.replace(free(before), free(after));
        let idle = |entry: Option<Entry>| entry?.idle.map(|until| (until, key));
        self.idle.replace(idle(before), idle(after));
    }

    fn count_of(&mut self, phase: Option<Phase>) -> Option<&mut u32> {
        match phase? {
            Phase::Starting => Some(&mut self.starting),
            Phase::Ready => None,
            Phase::Draining => Some(&mut self.draining),
            Phase::Stopping => Some(&mut self.stopping),
        }
    }
}

/// A set as a list in order.
///
/// With few instances, as most functions have, it takes a third of the time and of the memory of a
/// tree. With ten thousand it is no slower either: what a call moves is near the end, because calls go
/// to the busiest, or moves past those only that run as many calls.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
struct Sorted<T>(Vec<T>);

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord + Copy> Sorted<T> {
    /// Takes `before` out and puts `after` in.
    fn replace(&mut self, before: Option<T>, after: Option<T>) {
        if before == after {
            return;
        }
        let from = before.and_then(|item| self.0.binary_search(&item).ok());
        let to = after.and_then(|item| Some((self.0.binary_search(&item).err()?, item)));
        match (from, to) {
            // Only what lies between the two places moves.
            (Some(from), Some((to, item))) if from < to => {
                self.0.copy_within(from + 1..to, from);
                self.0[to - 1] = item;
            }
            (Some(from), Some((to, item))) => {
                self.0.copy_within(to..from, to + 1);
                self.0[to] = item;
            }
            (Some(from), None) => {
                self.0.remove(from);
            }
            (None, Some((to, item))) => self.0.insert(to, item),
            (None, None) => {}
        }
    }
}
