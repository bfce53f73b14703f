//! The way of a call: to an instance at once, or through the queue, and what its end means for the instance.

use std::cmp::Reverse;

use tokio::time::Instant;

use super::instance::{Code, Instance, Phase};
use super::instances::Group;
use super::{Action, Core, Key, Life, Rejection, Set, Ticket, after};

impl Core {
    /// Takes a free slot for a call of `set`, if there is one: the way of a call to a warm function.
    pub(crate) fn take_slot(&mut self, set: &Set) -> Option<Key> {
        if self.life != Life::Open || self.spec.scale.max == 0 {
            return None;
        }
        let key = self.choose(set)?;
        self.instances.change(key, Instance::take_slot)?;
        Some(key)
    }

    pub(super) fn request(
        &mut self,
        ticket: Ticket,
        set: Set,
        deadline: Instant,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if let Some(rejection) = self.refusal(&set) {
            actions.push(Action::Reject(ticket, rejection));
            return;
        }
        if let Some(key) = self.take_slot(&set) {
            actions.push(Action::Assign { ticket, key });
            return;
        }
        if let Some(error) = self.known_failure(&set, now) {
            actions.push(Action::Reject(ticket, Rejection::Start(error)));
            return;
        }
        if self.queue.len() >= self.config.queue_limit() {
            actions.push(Action::Reject(ticket, Rejection::QueueFull));
            return;
        }
        let limit = self
            .config
            .acquire(self.spec.initializer.as_ref().map(|hook| hook.timeout));
        let deadline = deadline.min(after(now, limit));
        self.queue.push(ticket, set, now, deadline);
        self.scale(now, actions);
    }

    pub(super) fn refusal(&self, set: &Set) -> Option<Rejection> {
        let label_is_known = set
            .label
            .as_ref()
            .is_none_or(|label| self.spec.labels.iter().any(|known| known.label == *label));
        match self.life {
            Life::Removed => Some(Rejection::Removed),
            Life::Moved => Some(Rejection::Moved),
            Life::ShuttingDown => Some(Rejection::ShuttingDown),
            Life::Open if self.spec.scale.max == 0 => Some(Rejection::Disabled),
            Life::Open if !label_is_known => Some(Rejection::UnknownLabel),
            Life::Open => None,
        }
    }

    /// Whether an instance of `group` serves calls of `set`, now or when it is up.
    pub(super) fn could_serve(&self, group: &Group, set: &Set) -> bool {
        group.live() > 0 && group.set.serves(set) && self.is_usable(group.code)
    }

    /// Whether instances with this code get calls.
    fn is_usable(&self, code: Code) -> bool {
        code == Code::Newest || self.rolling.is_some()
    }

    /// The instance for a call of `set`: among the oldest `minInstance` ones the emptiest, so that
    /// they share the load; else the busiest with a free slot, so that others become idle. Exact
    /// resources come before larger ones, new code before old.
    pub(super) fn choose(&self, set: &Set) -> Option<Key> {
        let newest = self.choose_with(Code::Newest, set, self.bounds(set).min);
        if newest.is_some() || !self.is_usable(Code::Older) {
            return newest;
        }
        self.choose_with(Code::Older, set, 0)
    }

    /// The same among instances with this code, of whose oldest in `set` so many are reserved.
    fn choose_with(&self, code: Code, set: &Set, reserved: u32) -> Option<Key> {
        let exact = self.instances.group(set, code);
        exact.and_then(|group| group.choose(reserved)).or_else(|| {
            let larger = self
                .instances
                .groups()
                .filter(|group| group.code == code && group.set != *set && group.set.serves(set));
            let busiest = larger.filter_map(Group::busiest);
            busiest.max().map(|(_, Reverse(key))| key)
        })
    }

    pub(super) fn answered(&mut self, key: Key, now: Instant, actions: &mut Vec<Action>) {
        let Some((first, phase)) = self.instances.change(key, |instance| {
            let first = !std::mem::replace(&mut instance.has_answered, true);
            instance.end_call(now);
            (first, instance.phase())
        }) else {
            return;
        };
        if first {
            let instance = &self.instances[key];
            if instance.code == Code::Newest {
                self.failures.remove(&instance.set);
            }
        }
        match phase {
            Phase::Ready => self.serve_waiting(key, actions),
            Phase::Draining => self.stop_if_drained(key, actions),
            Phase::Starting | Phase::Stopping => {}
        }
    }

    pub(super) fn given_up(&mut self, key: Key, now: Instant, actions: &mut Vec<Action>) {
        let given_up = self.instances.change(key, Instance::give_call_up);
        if given_up.is_none() {
            return;
        }
        self.stop_if_drained(key, actions);
        self.scale(now, actions);
    }

    /// Gives waiting calls to the instance as long as both last.
    pub(super) fn serve_waiting(&mut self, key: Key, actions: &mut Vec<Action>) {
        if self.queue.is_empty() {
            // The common case at the end of every call: only the idle clock may need a timer.
            if let Some(until) = self.instances.get(key).and_then(Instance::idle_until) {
                self.arm(until);
            }
            return;
        }
        while let Some(instance) = self.instances.get(key) {
            if !self.is_usable(instance.code) || !instance.has_free_slot() {
                return;
            }
            let set = &instance.set;
            let Some(ticket) = self.queue.take_first(|wanted| set.serves(wanted)) else {
                return;
            };
            self.instances.change(key, Instance::take_slot);
            actions.push(Action::Assign { ticket, key });
        }
    }
}
