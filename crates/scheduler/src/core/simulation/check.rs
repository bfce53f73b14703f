//! What must hold, seen from the world's own books.

use std::collections::BTreeSet;

use bugle_types::{InstanceLabel, Scale};

use super::super::{Key, Set, Ticket};
use super::{Process, World};

impl World {
    pub(super) fn is_late(&self, ticket: Ticket) -> bool {
        self.deadlines
            .get(&ticket)
            .is_some_and(|at| *at <= self.now)
    }

    fn bounds(&self, set: &Set) -> Scale {
        let labelled = |label: &InstanceLabel| {
            let known = self.spec.labels.iter().find(|known| known.label == *label);
            known.map_or(Scale { min: 0, max: 0 }, |known| known.scale)
        };
        let scale = set.label.as_ref().map_or(self.spec.scale, labelled);
        let reserved = set.resources == self.spec.resources;
        let min = if reserved { scale.min } else { 0 };
        Scale { min, ..scale }
    }

    /// The maximum may have been lowered below what lives; but nothing is started beyond it, nothing
    /// too early after a failure, and nothing that nobody needs.
    pub(super) fn check_start(&self, key: Key) {
        let seed = self.seed;
        let process = &self.processes[&key];
        let (set, bounds) = (&process.set, self.bounds(&process.set));
        let elsewhere = self.elsewhere.map(|count| count as usize);
        let elsewhere = elsewhere.unwrap_or_else(|| panic!("seed {seed}: others may have as many"));
        let alive = self.processes.len() + elsewhere;
        let here = self
            .processes
            .values()
            .filter(|p| p.set.label == set.label)
            .count();
        let in_set = here + if set.label.is_none() { elsewhere } else { 0 };
        assert!(
            alive <= self.spec.scale.max as usize && in_set <= bounds.max as usize,
            "seed {seed}: {alive} instances alive, {in_set} of {set:?}"
        );
        let held = self.held.get(set).is_some_and(|until| self.now < *until);
        assert!(
            !held,
            "seed {seed}: {key:?} is started too soon after a failure"
        );
        let leaving = self.leaving();
        let live = self
            .processes
            .iter()
            .filter(|(key, process)| process.superseded.is_none() && !leaving.contains(key))
            .map(|(_, process)| process);
        let of_set = live.clone().filter(|p| p.set == *set);
        let slots_coming: u32 = of_set
            .clone()
            .filter(|p| !p.ready)
            .map(|p| p.concurrency)
            .sum();
        let waiting = self
            .waiting
            .values()
            .filter(|wanted| *wanted == set)
            .count();
        let for_calls = ((slots_coming - process.concurrency) as usize) < waiting;
        let for_minimum = of_set.count() <= bounds.min as usize;
        let for_update = live.count() == 1 && self.now <= self.updated + self.config.switch();
        assert!(
            for_calls || for_minimum || for_update,
            "seed {seed}: nobody needs {key:?}"
        );
    }

    /// The instances that get no further call. Of those beyond a lowered maximum and of those that
    /// make room only the core knows which it chose.
    fn leaving(&self) -> BTreeSet<Key> {
        let described = self.core.describe().into_iter();
        described
            .filter(|(_, _, state, _)| *state == crate::InstanceState::Draining)
            .map(|(key, ..)| key)
            .collect()
    }

    pub(super) fn check(&self) {
        let seed = self.seed;
        self.core.compare_with_definition(&[], self.now);
        let (queued, starting, ready, ending) = self.core.counts();
        assert_eq!(
            starting + ready + ending,
            self.processes.len(),
            "seed {seed}: lost count"
        );
        assert_eq!(
            queued,
            self.waiting.len(),
            "seed {seed}: somebody waits nowhere"
        );
        assert!(
            queued <= self.config.queue_limit,
            "seed {seed}: the queue is too long"
        );
        let leaving = self.leaving();
        for wanted in self.waiting.values() {
            for (key, process) in &self.processes {
                let usable = process.ready
                    && !leaving.contains(key)
                    && !process.told_to_end
                    && process.overdue == 0
                    && process.superseded.is_none()
                    && process.set.serves(wanted);
                let free = process.running.len() < process.concurrency as usize;
                assert!(
                    !(usable && free),
                    "seed {seed}: a call waits beside a free slot"
                );
            }
        }
    }

    pub(super) fn check_settled(&self) {
        let seed = self.seed;
        assert!(
            self.waiting.is_empty() && self.running.is_empty(),
            "seed {seed}: calls are left"
        );
        let asked = self.tickets;
        assert_eq!(
            self.answered.len() as u64,
            asked,
            "seed {seed}: each call has one answer"
        );
        let alive = u32::try_from(self.processes.len()).expect("small");
        let labels = self
            .spec
            .labels
            .iter()
            .map(|known| Some(known.label.clone()));
        let sets = labels.chain([None]).map(|label| Set {
            label,
            resources: self.spec.resources.clone(),
            place: None,
        });
        let minima: Vec<(Set, u32)> = sets
            .map(|set| (set.clone(), self.bounds(&set).min))
            .collect();
        let wanted: u32 = minima.iter().map(|(_, min)| min).sum();
        assert_eq!(
            alive,
            wanted.min(self.spec.scale.max),
            "seed {seed}: the minimum is left and nothing else"
        );
        for (set, min) in minima {
            let serves = |p: &&Process| p.ready && p.superseded.is_none() && p.set == set;
            let serving = self.processes.values().filter(serves).count();
            let enough = serving == min as usize || wanted > self.spec.scale.max;
            assert!(
                enough,
                "seed {seed}: {serving} instances of {set:?}, {min} wanted"
            );
        }
    }
}
