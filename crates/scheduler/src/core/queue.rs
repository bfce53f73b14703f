//! Waiting calls in the order of their arrival.
//!
//! Calls of a set stand in one line. Joining, leaving and being served cost the logarithm of the
//! length, so that a long queue, which means overload, is not what makes the platform slow.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::{Set, Ticket};

#[derive(Debug)]
struct Waiting {
    set: Set,
    since: Instant,
    deadline: Instant,
}

/// The queue of a function. First come, first served, among those that an instance may serve.
#[derive(Debug, Default)]
pub(super) struct Queue {
    calls: BTreeMap<Ticket, Waiting>,
    /// The calls of each set; no line is empty.
    lines: BTreeMap<Set, BTreeSet<Ticket>>,
    deadlines: BTreeSet<(Instant, Ticket)>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Adds a call at the end: tickets are numbered in the order of arrival.
    pub(super) fn push(&mut self, ticket: Ticket, set: Set, since: Instant, deadline: Instant) {
        self.deadlines.insert((deadline, ticket));
        self.lines.entry(set.clone()).or_default().insert(ticket);
        let waiting = Waiting {
            set,
            since,
            deadline,
        };
        self.calls.insert(ticket, waiting);
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        let Some(waiting) = self.calls.remove(&ticket) else {
            return;
        };
        self.deadlines.remove(&(waiting.deadline, ticket));
        if let Some(line) = self.lines.get_mut(&waiting.set) {
            line.remove(&ticket);
            if line.is_empty() {
                self.lines.remove(&waiting.set);
            }
        }
    }

    /// The first call whose set is `wanted`.
    pub(super) fn take_first(&mut self, wanted: impl Fn(&Set) -> bool) -> Option<Ticket> {
        let lines = self.lines.iter().filter(|(set, _)| wanted(set));
        let ticket = lines.filter_map(|(_, line)| line.first().copied()).min()?;
        self.remove(ticket);
        Some(ticket)
    }

    /// All calls of `set`, in order.
    pub(super) fn take_set(&mut self, set: &Set) -> Vec<Ticket> {
        let tickets: Vec<Ticket> = self.lines.get(set).into_iter().flatten().copied().collect();
        self.take(tickets)
    }

    /// All calls, in order.
    pub(super) fn take_all(&mut self) -> Vec<Ticket> {
        let tickets = self.calls.keys().copied().collect();
        self.take(tickets)
    }

    /// Lets calls that waited too long go on waiting until then, if there is such a time: from what they wait for and
    /// since when.
    pub(super) fn postpone_late(
        &mut self,
        now: Instant,
        until: impl Fn(&Set, Instant) -> Option<Instant>,
    ) {
        let late = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        let late: Vec<Ticket> = late.map(|(_, ticket)| *ticket).collect();
        for ticket in late {
            if let Some(waiting) = self.calls.get_mut(&ticket)
                && let Some(until) = until(&waiting.set, waiting.since)
            {
                self.deadlines.remove(&(waiting.deadline, ticket));
                self.deadlines.insert((until, ticket));
                waiting.deadline = until;
            }
        }
    }

    /// All calls that waited too long, the longest first.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<Ticket> {
        let late = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        let tickets = late.map(|(_, ticket)| *ticket).collect();
        self.take(tickets)
    }

    fn take(&mut self, tickets: Vec<Ticket>) -> Vec<Ticket> {
        for ticket in &tickets {
            self.remove(*ticket);
        }
        tickets
    }

    /// When the first call has waited too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Since when the first call of `set` waits.
    pub(super) fn oldest(&self, set: &Set) -> Option<Instant> {
        let first = self.lines.get(set)?.first()?;
        self.calls.get(first).map(|waiting| waiting.since)
    }

    /// The sets that calls wait for and how many calls each, in the order of their first call.
    pub(super) fn demand(&self) -> Vec<(Set, u32)> {
        let mut lines: Vec<_> = self.lines.iter().collect();
        lines.sort_unstable_by_key(|(_, line)| line.first());
        let count = |line: &BTreeSet<Ticket>| u32::try_from(line.len()).unwrap_or(u32::MAX);
        lines
            .into_iter()
            .map(|(set, line)| (set.clone(), count(line)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bugle_types::{CpuMillis, Resources};
    use proptest::collection::vec;
    use proptest::prelude::{Just, Strategy, any, prop_oneof};
    use proptest::{prop_assert_eq, proptest};

    use super::*;

    fn set(cpu: u32) -> Set {
        let cpu = CpuMillis(cpu);
        Set {
            resources: Resources {
                cpu,
                ..Resources::default()
            },
            ..Set::default()
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push { cpu: u32, wait: u64 },
        Remove(u64),
        TakeFirst { cpu: u32 },
        TakeSet { cpu: u32 },
        TakeLate { time: u64 },
        TakeAll,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..3_u32, 0..20_u64).prop_map(|(cpu, wait)| Step::Push { cpu, wait }),
            2 => (0..40_u64).prop_map(Step::Remove),
            4 => (0..3_u32).prop_map(|cpu| Step::TakeFirst { cpu }),
            1 => (0..3_u32).prop_map(|cpu| Step::TakeSet { cpu }),
            1 => (0..20_u64).prop_map(|time| Step::TakeLate { time }),
            1 => Just(Step::TakeAll),
        ]
    }

    /// Takes those out of the plain list that are `wanted`.
    fn take(
        list: &mut Vec<(u64, u32, u64)>,
        wanted: impl Fn(&(u64, u32, u64)) -> bool,
    ) -> Vec<u64> {
        let taken = list
            .iter()
            .filter(|call| wanted(call))
            .map(|call| call.0)
            .collect();
        list.retain(|call| !wanted(call));
        taken
    }

    proptest! {
        #[test]
        fn a_queue_does_what_a_plain_list_would(steps in vec(any_step(), 0..80)) {
            let begin = Instant::now();
            let at = |time: u64| begin + Duration::from_secs(time);
            let numbers = |tickets: Vec<Ticket>| -> Vec<u64> {
                tickets.into_iter().map(|ticket| ticket.0).collect()
            };
            let mut queue = Queue::default();
            let mut list: Vec<(u64, u32, u64)> = Vec::new();
            for (number, step) in (0_u64..).zip(steps) {
                match step {
                    Step::Push { cpu, wait } => {
                        queue.push(Ticket(number), set(cpu), at(number), at(wait));
                        list.push((number, cpu, wait));
                    }
                    Step::Remove(ticket) => {
                        queue.remove(Ticket(ticket));
                        take(&mut list, |call| call.0 == ticket);
                    }
                    Step::TakeFirst { cpu } => {
                        let place = list.iter().position(|call| call.1 <= cpu);
                        let first = place.map(|place| list.remove(place).0);
                        let ticket = queue.take_first(|wanted| set(cpu).serves(wanted));
                        prop_assert_eq!(ticket.map(|ticket| ticket.0), first);
                    }
                    Step::TakeSet { cpu } => {
                        let taken = take(&mut list, |call| call.1 == cpu);
                        prop_assert_eq!(numbers(queue.take_set(&set(cpu))), taken);
                    }
                    Step::TakeLate { time } => {
                        let mut taken = numbers(queue.take_late(at(time)));
                        taken.sort_unstable();
                        prop_assert_eq!(taken, take(&mut list, |call| call.2 <= time));
                    }
                    Step::TakeAll => {
                        prop_assert_eq!(numbers(queue.take_all()), take(&mut list, |_| true));
                    }
                }
                prop_assert_eq!(queue.len(), list.len());
                prop_assert_eq!(queue.deadline(), list.iter().map(|call| at(call.2)).min());
                for cpu in 0..3 {
                    let oldest = list.iter().find(|call| call.1 == cpu).map(|call| at(call.0));
                    prop_assert_eq!(queue.oldest(&set(cpu)), oldest);
                }
                let waiting: u32 = queue.demand().iter().map(|(_, count)| count).sum();
                prop_assert_eq!(waiting as usize, list.len());
            }
        }

        #[test]
        fn what_serves_more_serves_less(cpus in any::<[u8; 3]>(), custom in any::<[u8; 3]>()) {
            let sets: Vec<Set> = cpus.into_iter().zip(custom).map(|(cpu, custom)| {
                let mut set = set(u32::from(cpu % 4));
                set.resources.custom = vec_of(custom % 4);
                set
            }).collect();
            prop_assert_eq!(sets[0].serves(&sets[0]), true);
            if sets[0].serves(&sets[1]) && sets[1].serves(&sets[2]) {
                prop_assert_eq!(sets[0].serves(&sets[2]), true);
            }
        }
    }

    fn vec_of(amount: u8) -> Vec<(String, i64)> {
        match amount {
            0 => Vec::new(),
            amount => vec![("gpu".to_owned(), i64::from(amount))],
        }
    }
}
