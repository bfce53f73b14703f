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
