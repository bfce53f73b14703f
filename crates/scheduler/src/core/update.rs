//! What a change of the function does to its instances.
//!
//! Other bounds only start or retire some. Other code replaces all: one instance of the new code
//! starts, and until it is up, has failed or took too long, the old ones go on serving; then they
//! get no further call and end with the last one they have. The maximum holds all the while: where
//! it is reached, an old instance goes before the first new one starts.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use bugle_types::{FunctionSpec, InstanceLabel};
use tokio::time::Instant;

use super::instance::{Code, State};
use super::instances::Group;
use super::{Action, Core, Key, Life, Rejection, Set, after};

/// An update that goes on: instances of older code may still get calls.
#[derive(Clone, Debug)]
pub(super) struct Rolling {
    /// Until then.
    pub(super) until: Instant,
    /// The set of the first instance of the new code.
    pub(super) first: Set,
}

impl Core {
    pub(super) fn changed(
        &mut self,
        spec: Arc<FunctionSpec>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let other_code = spec.generation != self.spec.generation;
        self.spec = spec;
        if self.life != Life::Open {
            return;
        }
        self.refuse_waiting(actions);
        if other_code {
            self.failures.clear();
            self.replace(now, actions);
        }
        self.scale(now, actions);
        self.fit(actions);
        self.rearm(now);
    }

    /// Tells waiting calls that the new specification does not serve them.
    fn refuse_waiting(&mut self, actions: &mut Vec<Action>) {
        let refused: Vec<(Set, Rejection)> = self
            .queue
            .demand()
            .into_iter()
            .filter_map(|(set, _)| self.refusal(&set).map(|rejection| (set, rejection)))
            .collect();
        for (set, rejection) in refused {
            for ticket in self.queue.take_set(&set) {
                actions.push(Action::Reject(ticket, rejection.clone()));
            }
        }
    }

    /// Begins to replace the instances of older code.
    fn replace(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let generation = &self.spec.generation;
        self.instances.change_all(|_, instance| {
            let is_newest = instance.spec.generation == *generation;
            instance.code = if is_newest { Code::Newest } else { Code::Older };
        });
        for key in
            self.keys(|instance| instance.state == State::Starting && instance.code == Code::Older)
        {
            self.retire(key, actions);
        }
        let ready = self.keys(|instance| matches!(instance.state, State::Ready { .. }));
        let back = self.instances.any(Group::is_live_and_current);
        if ready.is_empty() || back {
            // Nothing to bridge the time with, or nothing to bridge: older code is back.
            self.switch(actions);
            return;
        }
        let until = after(now, self.config.switch());
        // What an earlier update already superseded is not used any longer for this one.
        let until = self
            .rolling
            .take()
            .map_or(until, |earlier| earlier.until.min(until));
        let label = ready
            .iter()
            .map(|key| &self.instances[*key].set.label)
            .min();
        let first = Set {
            label: label.cloned().flatten(),
            resources: self.spec.resources.clone(),
            place: None,
        };
        self.rolling = Some(Rolling { until, first });
        self.arm(until);
        // The first instance of the new code needs a place.
        if self.alive() >= self.spec.scale.max {
            let load = |key: &&Key| self.instances[**key].in_flight();
            if let Some(&emptiest) = ready.iter().min_by_key(load) {
                self.retire(emptiest, actions);
            }
        }
    }

    /// From now on only the newest code gets calls.
    pub(super) fn switch(&mut self, actions: &mut Vec<Action>) {
        self.rolling = None;
        let live_and_old = |group: &Group| group.code == Code::Older && group.live() > 0;
        if !self.instances.any(live_and_old) {
            // Every start comes here.
            return;
        }
        for key in self.keys(|instance| instance.code == Code::Older) {
            self.retire(key, actions);
        }
    }

    /// Retires instances that are more than lowered bounds allow: the emptiest first, of those the
    /// youngest.
    fn fit(&mut self, actions: &mut Vec<Action>) {
        let mut in_set: BTreeMap<Option<InstanceLabel>, u32> = BTreeMap::new();
        let mut live = Vec::new();
        for (key, instance) in self.instances.iter() {
            if instance.is_live() {
                live.push((instance.in_flight(), Reverse(key)));
                *in_set.entry(instance.set.label.clone()).or_default() += 1;
            }
        }
        live.sort_unstable();
        let mut total = u32::try_from(live.len()).unwrap_or(u32::MAX);
        for (_, Reverse(key)) in live {
            let set = &self.instances[key].set;
            let allowed = self.bounds(set).max;
            let Some(count) = in_set.get_mut(&set.label) else {
                continue;
            };
            if total > self.spec.scale.max || *count > allowed {
                total -= 1;
                *count -= 1;
                self.retire(key, actions);
            }
        }
    }
}
