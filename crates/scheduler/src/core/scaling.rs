//! How many instances there are: starts for who waits and for the minimum, stops for who idles.

use std::sync::Arc;
use std::time::Duration;

use bugle_types::Scale;
use tokio::time::Instant;

use super::instance::{Code, Instance, State};
use super::instances::Group;
use crate::InstanceState;

use super::{Action, Core, Key, Life, Rejection, Set, after};

/// What an instance is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Calls that wait.
    Calls,
    /// The minimum, or the first instance of new code.
    Minimum,
}

/// Which bound keeps an instance from being started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// That of its set.
    Set,
    /// That of the function.
    Function,
}

/// How long a call waits before a busy instance that cannot serve it gives up its place to one that
/// can. Long enough to serve a burst of others in between, short beside the wait that calls bear.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether a call that waits for its pool still has something to wait for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
            place: None,
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
        if let Some(rolling) = &self.rolling {
            // At least one instance of the new code, whoever waits.
            let first = rolling.first.clone();
            let current = self.instances.any(Group::is_live_and_current);
            self.start_some(&first, u32::from(!current), Why::Minimum, now, actions);
        }
    }

    /// Instances of the newest code that come up and will serve `set`.
    pub(super) fn coming(&self, set: &Set) -> u32 {
        self.instances
            .group(set, Code::Newest)
            .map_or(0, |group| group.starting)
    }

    /// Instances of the newest code in `set` that serve or will.
    pub(super) fn serving(&self, set: &Set) -> u32 {
        self.instances
            .group(set, Code::Newest)
            .map_or(0, Group::live)
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
        if missing == 0 || !self.may_start() {
            return;
        }
        if let Some(retry_at) = self.held_until(set, why, now) {
            self.arm(retry_at);
            return;
        }
        let allowed = self.bounds(set).max;
        let in_set = self.in_set(set.label.as_ref());
        let room_in_set = allowed.saturating_sub(in_set);
        let room = self.spec.scale.max.saturating_sub(self.alive());
        for _ in 0..missing.min(room_in_set).min(room) {
            self.start(set, actions);
        }
        if missing > room_in_set && allowed > 0 {
            self.make_room(set, Limit::Set, why, now, actions);
        } else if missing > room && allowed > 0 {
            self.make_room(set, Limit::Function, why, now, actions);
        }
    }

    fn start(&mut self, set: &Set, actions: &mut Vec<Action>) {
        let key = self.come_up(set.clone());
        actions.push(Action::Start(key, set.clone(), Arc::clone(&self.spec)));
    }

    /// Counts one more instance, which comes up.
    pub(super) fn come_up(&mut self, set: Set) -> Key {
        let key = Key(self.next_key);
        self.next_key += 1;
        let instance = Instance {
            set,
            spec: Arc::clone(&self.spec),
            code: Code::Newest,
            state: State::Starting,
            idle: self.spec.idle.unwrap_or_else(|| self.config.idle()),
            has_answered: false,
        };
        self.instances.insert(key, instance);
        key
    }

    /// Retires an instance of another set, so that one of `set` can start. Without it a call that
    /// asks for other resources or another label would wait behind instances that idle, or for ever
    /// behind instances that others keep busy.
    fn make_room(
        &mut self,
        set: &Set,
        limit: Limit,
        why: Why,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let bridging = self.rolling.is_some() && self.instances.any(Group::is_live_and_current);
        if why == Why::Minimum && bridging {
            // The old code serves until the first instance of the new is up; the rest can wait.
            return;
        }
        let counts = |other: &Set| limit == Limit::Function || other.label == set.label;
        let on_its_way = |group: &Group| group.stopping > 0 && counts(&group.set);
        if self.instances.any(on_its_way) {
            return;
        }
        let others = self
            .instances
            .groups()
            .filter(|group| (group.set != *set || group.code == Code::Older) && counts(&group.set));
        let idle = others.filter_map(|group| self.idle_surplus(group).next());
        let victim = match idle.min() {
            Some((_, key)) => Some(key),
            None if why == Why::Calls => self.busy_victim(set, counts, now),
            None => None,
        };
        if let Some(key) = victim {
            self.retire(key, actions);
        }
    }

    /// The instance that ends after its calls for a call that no living one can serve, once that has
    /// been patient.
    fn busy_victim(
        &mut self,
        set: &Set,
        counts: impl Fn(&Set) -> bool,
        now: Instant,
    ) -> Option<Key> {
        let patient_until = after(self.queue.oldest(set)?, PATIENCE);
        let draining = |group: &Group| group.draining > 0 && counts(&group.set);
        if self.has_hope(set) || self.instances.any(draining) {
            return None;
        }
        if now < patient_until {
            self.arm(patient_until);
            return None;
        }
        let ready = self.instances.iter().filter(|(_, instance)| {
            matches!(instance.state, State::Ready { .. })
                && counts(&instance.set)
                && self.is_surplus(instance)
        });
        ready
            .min_by_key(|(_, instance)| instance.in_flight())
            .map(|(key, _)| key)
    }

    /// Whether the minimum of its set holds without `instance`.
    fn is_surplus(&self, instance: &Instance) -> bool {
        instance.code == Code::Older || self.serving(&instance.set) > self.bounds(&instance.set).min
    }

    /// Everything that time brings.
    pub(super) fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.armed = None;
        self.be_patient(now);
        for ticket in self.queue.take_late(now) {
            actions.push(Action::Reject(ticket, Rejection::Timeout));
        }
        if self
            .rolling
            .as_ref()
            .is_some_and(|rolling| rolling.until <= now)
        {
            self.switch(actions);
        }
        for key in self.idled_out(now) {
            self.retire(key, actions);
        }
        self.scale(now, actions);
        self.rearm(now);
    }

    /// Lets calls wait on whose instance is still coming up because its pool grows.
    fn be_patient(&mut self, now: Instant) {
        if self.spec.pool.pool.is_none() {
            return;
        }
        let mut queue = std::mem::take(&mut self.queue);
        queue.postpone_late(now, |set, since| {
            let until = after(since, self.config.pool_wait);
            let coming = |group: &Group| group.starting > 0 && self.could_serve(group, set);
            let hope = until > now && self.instances.any(coming);
            hope.then(|| until.min(after(now, LOOK_AGAIN)))
        });
        self.queue = queue;
    }

    /// The idle instances of `group` without which the minimum of its set holds, and when the idle
    /// clock of each runs out: those first whose clock runs out first.
    fn idle_surplus(&self, group: &Group) -> impl Iterator<Item = (Instant, Key)> {
        let spare = if group.code == Code::Newest {
            group.live().saturating_sub(self.bounds(&group.set).min)
        } else {
            u32::MAX
        };
        group
            .idle()
            .take(usize::try_from(spare).unwrap_or(usize::MAX))
    }

    /// The instances whose idle clock has run out and without which the minima hold: those of older
    /// code first, in order of age.
    pub(super) fn idled_out(&self, now: Instant) -> Vec<Key> {
        let of_code = |code: Code| {
            let groups = self.instances.groups();
            let groups = groups.filter(move |group| group.code == code);
            let idle = groups.flat_map(|group| {
                self.idle_surplus(group)
                    .take_while(|(until, _)| *until <= now)
            });
            idle.map(|(_, key)| key)
        };
        let mut keys: Vec<Key> = of_code(Code::Older).collect();
        keys.sort_unstable();
        keys.extend(of_code(Code::Newest));
        keys
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

    /// Arms the timer for whatever is due next.
    pub(super) fn rearm(&mut self, now: Instant) {
        let groups = self.instances.groups();
        let idle = groups.filter_map(|group| self.idle_surplus(group).next());
        let next = idle
            .map(|(until, _)| until)
            .chain(self.retries(now))
            .chain(self.queue.deadline())
            .chain(self.rolling.as_ref().map(|rolling| rolling.until))
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
        for group in self.instances.groups() {
            counts.1 += group.starting as usize;
            counts.2 += group.ready() as usize;
            counts.3 += (group.draining + group.stopping) as usize;
        }
        counts
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
            .map(|(key, i)| (key, i.set.clone(), shown(i.state), i.in_flight()))
            .collect()
    }

    /// Why the last start that failed did; none once one has succeeded.
    pub(crate) fn last_start_error(&self) -> Option<&bugle_instances::StartError> {
        self.last_error.as_ref()
    }
}
