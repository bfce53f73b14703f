//! Instances of the function that another scheduler has, where several share the functions.
//!
//! A function is scheduled by one of them at a time. When it changes hands, the one before gives
//! its instances no further call and lets the running ones finish; until those are gone, they
//! count against the bounds here. As long as nobody has said how many there are, nothing starts.

use std::collections::BTreeMap;

use bugle_types::InstanceLabel;
use tokio::time::Instant;

use super::{Action, Core, Life, Rejection, State};

/// How many instances there are, by the label of their set.
pub type Census = BTreeMap<Option<InstanceLabel>, u32>;

/// What other schedulers have of the function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// They have not said it yet.
    Unknown,
    /// This many.
    Known(Census),
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self::Known(Census::new())
    }
}

impl Elsewhere {
    fn of(&self, label: Option<&InstanceLabel>) -> u32 {
        let Self::Known(census) = self else { return 0 };
        let of_label = census.iter().find(|(known, _)| known.as_ref() == label);
        of_label.map_or(0, |(_, count)| *count)
    }

    pub(super) fn total(&self) -> u32 {
        let Self::Known(census) = self else { return 0 };
        census.values().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

impl Core {
    /// The function is scheduled here from now on: once it is known what others have, instances may
    /// start.
    pub(super) fn opened(&mut self) {
        if self.life == Life::Moved {
            self.life = Life::Open;
        }
        self.elsewhere = Elsewhere::Unknown;
    }

    /// It is scheduled elsewhere from now on.
    pub(super) fn moved(&mut self, actions: &mut Vec<Action>) {
        if self.life == Life::Open {
            self.close(Life::Moved, &Rejection::Moved, actions);
        }
    }

    /// This scheduler may not use its instances any more.
    pub(super) fn fenced(&mut self, actions: &mut Vec<Action>) {
        self.moved(actions);
        for (key, instance) in &mut self.instances {
            // A start is abandoned, which is the same as its end.
            instance.state = State::Stopping;
            actions.push(Action::Kill(*key));
        }
    }

    /// Others have said what they have.
    pub(super) fn counted(&mut self, census: Census, now: Instant, actions: &mut Vec<Action>) {
        self.elsewhere = Elsewhere::Known(census);
        self.scale(now, actions);
    }

    /// Whether it is known what others have.
    pub(super) fn may_start(&self) -> bool {
        self.elsewhere != Elsewhere::Unknown
    }

    /// All instances of a label that count against its bound, wherever they are.
    pub(super) fn in_set(&self, label: Option<&InstanceLabel>) -> u32 {
        let here = self.count(|instance| instance.set.label.as_ref() == label);
        here.saturating_add(self.elsewhere.of(label))
    }
}

/// What the shell shows of it.
impl Core {
    /// Whether the function is scheduled elsewhere.
    pub(crate) fn has_moved(&self) -> bool {
        self.life == Life::Moved
    }

    /// The instances that are not gone.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::new();
        for instance in self.instances.values() {
            *census.entry(instance.set.label.clone()).or_default() += 1;
        }
        census
    }
}
