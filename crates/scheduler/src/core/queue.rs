//! Waiting calls in the order of their arrival.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{Set, Ticket};

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    set: Set,
    deadline: Instant,
}

/// The queue of a function. First come, first served, among those that an instance may serve.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Waiting>);

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, ticket: Ticket, set: Set, deadline: Instant) {
        self.0.push_back(Waiting {
            ticket,
            set,
            deadline,
        });
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        self.0.retain(|waiting| waiting.ticket != ticket);
    }

    /// The first call whose set is `wanted`.
    pub(super) fn take_first(&mut self, wanted: impl Fn(&Set) -> bool) -> Option<Ticket> {
        let place = self.0.iter().position(|waiting| wanted(&waiting.set))?;
        self.0.remove(place).map(|waiting| waiting.ticket)
    }

    /// All calls whose set is `wanted`, in order.
    pub(super) fn take_if(&mut self, wanted: impl Fn(&Set) -> bool) -> Vec<Ticket> {
        self.take(|waiting| wanted(&waiting.set))
    }

    /// All calls of `set`, in order.
    pub(super) fn take_set(&mut self, set: &Set) -> Vec<Ticket> {
        self.take_if(|waiting| waiting == set)
    }

    /// All calls that waited too long, in order.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<Ticket> {
        self.take(|waiting| waiting.deadline <= now)
    }

    fn take(&mut self, wanted: impl Fn(&Waiting) -> bool) -> Vec<Ticket> {
        let mut taken = Vec::new();
        self.0.retain(|waiting| {
            let take = wanted(waiting);
            if take {
                taken.push(waiting.ticket);
            }
            !take
        });
        taken
    }

    /// When the first call has waited too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(|waiting| waiting.deadline).min()
    }

    /// The sets that calls wait for and how many calls each, in the order of their first call.
    pub(super) fn demand(&self) -> Vec<(Set, u32)> {
        let mut demand: Vec<(Set, u32)> = Vec::new();
        for waiting in &self.0 {
            match demand.iter_mut().find(|(set, _)| *set == waiting.set) {
                Some((_, count)) => *count += 1,
                None => demand.push((waiting.set.clone(), 1)),
            }
        }
        demand
    }
}
