//! The way of a call: to an instance at once, or through the queue, and what its end means for the instance.

use tokio::time::Instant;

use super::instance::{Instance, State};
use super::{Action, Core, Key, Life, Rejection, Set, Ticket, after};

impl Core {
    /// Takes a free slot for a call of `set`, if there is one: the way of a call to a warm function.
    pub(crate) fn take_slot(&mut self, set: &Set) -> Option<Key> {
        if self.life != Life::Open || self.spec.scale.max == 0 {
            return None;
        }
        let key = self.choose(set)?;
        self.instances.get_mut(&key)?.take_slot();
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

    /// Whether `instance` serves calls of `set`, now or when it is up.
    pub(super) fn could_serve(&self, instance: &Instance, set: &Set) -> bool {
        let live = matches!(instance.state, State::Starting | State::Ready { .. });
        live && instance.set.serves(set) && self.is_usable(instance)
    }

    /// Whether the code of `instance` may still be used.
    fn is_usable(&self, instance: &Instance) -> bool {
        instance.current || self.rolling.is_some()
    }

    /// The instance for a call of `set`: among the oldest `minInstance` ones the emptiest, so that
    /// they share the load; else the busiest with a free slot, so that others become idle. Exact
    /// resources come before larger ones, new code before old.
    fn choose(&self, set: &Set) -> Option<Key> {
        let reserved = usize::try_from(self.bounds(set).min).unwrap_or(usize::MAX);
        let mut seen_reserved = 0;
        let mut best: Option<((bool, bool, bool, i64), Key)> = None;
        for (&key, instance) in &self.instances {
            let State::Ready { in_flight, .. } = instance.state else {
                continue;
            };
            if !self.is_usable(instance) || !instance.set.serves(set) {
                continue;
            }
            let current = instance.current;
            let exact = instance.set == *set;
            let is_reserved = exact && current && seen_reserved < reserved;
            seen_reserved += usize::from(is_reserved);
            if in_flight >= instance.spec.concurrency.get() {
                continue;
            }
            let load = i64::from(in_flight);
            let rank = (
                current,
                exact,
                is_reserved,
                if is_reserved { -load } else { load },
            );
            if best.as_ref().is_none_or(|(other, _)| rank > *other) {
                best = Some((rank, key));
            }
        }
        best.map(|(_, key)| key)
    }

    pub(super) fn answered(&mut self, key: Key, now: Instant, actions: &mut Vec<Action>) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        if !instance.has_answered {
            instance.has_answered = true;
            if instance.current {
                self.failures.remove(&instance.set);
            }
        }
        match &mut instance.state {
            State::Ready {
                in_flight,
                idle_since,
            } => {
                *in_flight = in_flight.saturating_sub(1);
                if *in_flight == 0 {
                    *idle_since = now;
                }
                self.serve_waiting(key, actions);
            }
            State::Draining { in_flight, .. } => {
                *in_flight = in_flight.saturating_sub(1);
                self.stop_if_drained(key, actions);
            }
            State::Starting | State::Stopping => {}
        }
    }

    pub(super) fn given_up(&mut self, key: Key, now: Instant, actions: &mut Vec<Action>) {
        let Some(instance) = self.instances.get_mut(&key) else {
            return;
        };
        // Only the other calls are waited for: nobody waits for this one any more.
        match &mut instance.state {
            State::Ready { in_flight, .. } => {
                let in_flight = in_flight.saturating_sub(1);
                instance.state = State::Draining {
                    in_flight,
                    kill: true,
                };
            }
            State::Draining { in_flight, kill } => {
                *in_flight = in_flight.saturating_sub(1);
                *kill = true;
            }
            State::Starting | State::Stopping => {}
        }
        self.stop_if_drained(key, actions);
        self.scale(now, actions);
    }

    /// Gives waiting calls to the instance as long as both last.
    pub(super) fn serve_waiting(&mut self, key: Key, actions: &mut Vec<Action>) {
        if self.queue.is_empty() {
            // The common case at the end of every call: only the idle clock may need a timer.
            if let Some(instance) = self.instances.get(&key)
                && let State::Ready {
                    in_flight: 0,
                    idle_since,
                } = instance.state
            {
                let idle = instance.spec.idle.unwrap_or_else(|| self.config.idle());
                self.arm(after(idle_since, idle));
            }
            return;
        }
        while let Some(instance) = self.instances.get(&key) {
            if !self.is_usable(instance) || !instance.has_free_slot() {
                return;
            }
            let set = instance.set.clone();
            let Some(ticket) = self.queue.take_first(|wanted| set.serves(wanted)) else {
                return;
            };
            if let Some(instance) = self.instances.get_mut(&key) {
                instance.take_slot();
            }
            actions.push(Action::Assign { ticket, key });
        }
    }
}
