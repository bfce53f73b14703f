//! How many instances there are: starts for who waits and for the minimum, stops for who idles.

use std::sync::Arc;

use bugle_types::Scale;
use tokio::time::Instant;

use super::instance::{Instance, State};
use crate::InstanceState;

use super::{Action, Core, Hold, Key, Life, Rejection, Set};

/// What an instance is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Calls that wait.
    Calls,
    /// The minimum, or the first instance of new code.
    Minimum,
}

impl Core {
    /// The bounds of a set. The minimum belongs to the function's own resources; what calls ask for
    /// beside them comes and goes.
    pub(super) fn bounds(&self, set: &Set) -> Scale {
        let scale = match &set.label {
            None => self.spec.scale,
            Some(label) => {
                let labelled = self.spec.labels.iter().find(|known| known.label == *label);
                labelled.map_or(Scale { min: 0, max: 0 }, |labelled| labelled.scale)
            }
        };
        let min = if set.resources == self.spec.resources {
            scale.min
        } else {
            0
        };
        Scale {
            min: min.min(scale.max),
            max: scale.max,
        }
    }

    /// The sets that have a minimum.
    fn reserved_sets(&self) -> Vec<Set> {
        let set = |label| Set {
            label,
            resources: self.spec.resources.clone(),
        };
        let labelled = self
            .spec
            .labels
            .iter()
            .filter(|labelled| labelled.scale.min > 0);
        let mut sets: Vec<Set> = labelled
            .map(|labelled| set(Some(labelled.label.clone())))
            .collect();
        if self.spec.scale.min > 0 {
            sets.push(set(None));
        }
        sets
    }

    /// Starts what is missing. Called after everything that adds demand or makes room.
    pub(super) fn scale(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.life != Life::Open {
            return;
        }
        if let Some(deadline) = self.queue.deadline() {
            self.arm(deadline);
        }
        for (set, waiting) in self.queue.demand() {
            let coming = self
                .coming(&set)
                .saturating_mul(self.spec.concurrency.get());
            let missing = waiting
                .saturating_sub(coming)
                .div_ceil(self.spec.concurrency.get());
            self.start_some(&set, missing, Why::Calls, now, actions);
        }
        for set in self.reserved_sets() {
            let missing = self.bounds(&set).min.saturating_sub(self.serving(&set));
            self.start_some(&set, missing, Why::Minimum, now, actions);
        }
        if self.old_until.is_some() {
            // At least one instance of the new code, whoever waits.
            let set = Set {
                label: None,
                resources: self.spec.resources.clone(),
            };
            let current = self
                .instances
                .values()
                .any(|instance| self.is_live(instance));
            self.start_some(&set, u32::from(!current), Why::Minimum, now, actions);
        }
    }

    /// Instances of the newest code that come up and will serve `set`.
    fn coming(&self, set: &Set) -> u32 {
        self.count(|i| i.state == State::Starting && self.is_current(i) && i.set == *set)
    }

    /// Instances of the newest code in `set` that serve or will.
    fn serving(&self, set: &Set) -> u32 {
        self.count(|instance| self.is_live(instance) && instance.set == *set)
    }

    fn is_live(&self, instance: &Instance) -> bool {
        let live = matches!(instance.state, State::Starting | State::Ready { .. });
        live && self.is_current(instance)
    }

    fn count(&self, wanted: impl Fn(&Instance) -> bool) -> u32 {
        let count = self
            .instances
            .values()
            .filter(|instance| wanted(instance))
            .count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Starts up to `missing` instances of `set`, as far as the bounds and earlier failures allow.
    ///
    /// The bound of a set counts all its instances, those of older resources or code included, and
    /// the bound of the function counts every instance (`scaling` contract 2.3).
    fn start_some(
        &mut self,
        set: &Set,
        missing: u32,
        why: Why,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if missing == 0 {
            return;
        }
        if let Some(failures) = self.failures.get(set)
            && now < failures.retry_at
            && (failures.hold == Hold::Everyone || why == Why::Minimum)
        {
            self.arm(failures.retry_at);
            return;
        }
        for _ in 0..missing {
            let in_set = self.count(|instance| instance.set.label == set.label);
            if in_set >= self.bounds(set).max || self.alive() >= self.spec.scale.max {
                self.make_room(set, actions);
                return;
            }
            let key = Key(self.next_key);
            self.next_key += 1;
            let instance = Instance {
                set: set.clone(),
                spec: Arc::clone(&self.spec),
                state: State::Starting,
                has_answered: false,
            };
            self.instances.insert(key, instance);
            actions.push(Action::Start(key, set.clone(), Arc::clone(&self.spec)));
        }
    }

    /// Stops an idle instance that cannot serve those who wait for `set`, so that one can start that
    /// does. Without it a call that asks for other resources would wait behind idle instances.
    fn make_room(&mut self, set: &Set, actions: &mut Vec<Action>) {
        let leaving = |instance: &Instance| {
            matches!(instance.state, State::Stopping | State::Draining { .. })
        };
        if self.instances.values().any(leaving) {
            // Room is on its way.
            return;
        }
        let victim = self
            .instances
            .iter()
            .filter(|(_, i)| i.is_idle() && !i.set.serves(set) && self.is_surplus(i))
            .min_by_key(|(_, instance)| match instance.state {
                State::Ready { idle_since, .. } => Some(idle_since),
                _ => None,
            })
            .map(|(key, _)| *key);
        if let Some(key) = victim {
            self.retire(key, actions);
        }
    }

    /// Whether the minimum of its set holds without `instance`.
    fn is_surplus(&self, instance: &Instance) -> bool {
        !self.is_current(instance) || self.serving(&instance.set) > self.bounds(&instance.set).min
    }

    /// Retires instances that are more than the bounds allow, idle ones first; after the bounds
    /// were lowered.
    pub(super) fn fit(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let max = self.spec.scale.max;
        loop {
            let live = |i: &&Instance| matches!(i.state, State::Starting | State::Ready { .. });
            let total = u32::try_from(self.instances.values().filter(live).count());
            let over_total = total.unwrap_or(u32::MAX) > max;
            let victim = self
                .instances
                .iter()
                .filter(|(_, instance)| live(instance))
                .filter(|(_, instance)| over_total || self.is_over(instance))
                .min_by_key(|(key, instance)| (instance.in_flight(), std::cmp::Reverse(**key)))
                .map(|(key, _)| *key);
            match victim {
                Some(key) => self.retire(key, actions),
                None => break,
            }
        }
        self.rearm(now);
    }

    /// Whether the set of `instance` holds more than it may.
    fn is_over(&self, instance: &Instance) -> bool {
        let in_set = self.count(|other| {
            other.set.label == instance.set.label
                && matches!(other.state, State::Starting | State::Ready { .. })
        });
        in_set > self.bounds(&instance.set).max
    }

    /// Everything that time brings.
    pub(super) fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.armed = None;
        for ticket in self.queue.take_late(now) {
            actions.push(Action::Reject(ticket, Rejection::Timeout));
        }
        if self.old_until.is_some_and(|until| until <= now) {
            self.switch(actions);
        }
        let idle: Vec<Key> =
            self.keys(|instance| self.idle_until(instance).is_some_and(|t| t <= now));
        for key in idle {
            if self
                .instances
                .get(&key)
                .is_some_and(|instance| self.is_surplus(instance))
            {
                self.retire(key, actions);
            }
        }
        self.scale(now, actions);
        self.rearm(now);
    }

    /// When the idle clock of `instance` runs out.
    fn idle_until(&self, instance: &Instance) -> Option<Instant> {
        match instance.state {
            State::Ready {
                in_flight: 0,
                idle_since,
            } => Some(idle_since + instance.spec.idle.unwrap_or_else(|| self.config.idle())),
            _ => None,
        }
    }

    /// Asks to be told when `at` has come. On the way of a call this is one comparison: the timer
    /// for the oldest idle clock is armed already.
    pub(super) fn arm(&mut self, at: Instant) {
        if self.armed.is_none_or(|armed| at < armed) {
            self.armed = Some(at);
        }
    }

    /// When [`super::Event::Tick`] is due; changes only to an earlier time between ticks.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.armed
    }

    fn rearm(&mut self, now: Instant) {
        let idle = self
            .instances
            .values()
            .filter(|instance| self.is_surplus(instance))
            .filter_map(|instance| self.idle_until(instance));
        let retries = self
            .failures
            .values()
            .map(|failures| failures.retry_at)
            .filter(|at| *at > now);
        let next = idle
            .chain(retries)
            .chain(self.queue.deadline())
            .chain(self.old_until)
            .min();
        if let Some(at) = next {
            self.arm(at);
        }
    }
}

/// What the shell shows of the core.
impl Core {
    /// Calls that wait; instances that come up, take calls, and end.
    pub(crate) fn counts(&self) -> (usize, usize, usize, usize) {
        let mut counts = (self.queue.len(), 0, 0, 0);
        for instance in self.instances.values() {
            match instance.state {
                State::Starting => counts.1 += 1,
                State::Ready { .. } => counts.2 += 1,
                State::Draining { .. } | State::Stopping => counts.3 += 1,
            }
        }
        counts
    }

    /// Instances that are not gone.
    pub(crate) fn alive_count(&self) -> usize {
        self.instances.len()
    }

    /// Whether the instance is not gone.
    pub(crate) fn knows(&self, key: Key) -> bool {
        self.instances.contains_key(&key)
    }

    /// Every instance: its set, state and calls, oldest first.
    pub(crate) fn describe(&self) -> Vec<(Key, Set, InstanceState, u32)> {
        let shown = |state| match state {
            State::Starting => InstanceState::Starting,
            State::Ready { .. } => InstanceState::Ready,
            State::Draining { .. } | State::Stopping => InstanceState::Draining,
        };
        self.instances
            .iter()
            .map(|(key, i)| (*key, i.set.clone(), shown(i.state), i.in_flight()))
            .collect()
    }

    /// Why the last start that failed did; none once one has succeeded.
    pub(crate) fn last_start_error(&self) -> Option<&bugle_instances::StartError> {
        self.last_error.as_ref()
    }
}
