//! Instances of the function that another scheduler has, where several share the functions.
//!
//! A function is scheduled by one of them at a time. When it changes hands, the one before gives
//! its instances no further call and lets the running ones finish; until those are gone, they
//! count against the bounds here. As long as nobody has said how many there are, nothing starts.
//!
//! Instances on nodes outlive the scheduler that started them. Until one takes them in or they end,
//! they are *orphans*, which count as well: some run a call whose caller is gone. Who takes a
//! function over holds its starts back until it has seen them, so that they are used.

use std::collections::BTreeMap;

use bugle_types::InstanceLabel;
use tokio::time::Instant;

use super::instances::Group;
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

    fn total(&self) -> u32 {
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
        self.held = false;
    }

    /// Starts wait, or do so no more.
    pub(super) fn hold_starts(&mut self, held: bool, now: Instant, actions: &mut Vec<Action>) {
        self.held = held;
        self.scale(now, actions);
    }

    /// So many run without a scheduler.
    pub(super) fn orphaned(&mut self, census: Census, now: Instant, actions: &mut Vec<Action>) {
        self.orphans = census;
        self.scale(now, actions);
    }

    /// One orphan of this label is not one any more; false if there is none. It is the caller's to
    /// count it.
    pub(super) fn take_orphan(&mut self, label: Option<&InstanceLabel>) -> bool {
        let mut orphans = self.orphans.iter_mut();
        let found = orphans.find(|(known, count)| known.as_ref() == label && **count > 0);
        found.map(|(_, count)| *count -= 1).is_some()
    }

    /// It stays one.
    pub(super) fn leave_orphan(&mut self, label: Option<InstanceLabel>) {
        *self.orphans.entry(label).or_default() += 1;
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
        self.instances.change_all(|key, instance| {
            // A start is abandoned, which is the same as its end.
            instance.state = State::Stopping;
            actions.push(Action::Kill(key));
        });
    }

    /// Others have said what they have.
    pub(super) fn counted(&mut self, census: Census, now: Instant, actions: &mut Vec<Action>) {
        self.elsewhere = Elsewhere::Known(census);
        self.scale(now, actions);
    }

    /// Whether it is known what others have.
    pub(super) fn is_counted(&self) -> bool {
        self.elsewhere != Elsewhere::Unknown
    }

    /// Whether instances may start, as far as others are concerned.
    pub(super) fn may_start(&self) -> bool {
        self.is_counted() && !self.held
    }

    /// Instances that are not here and count all the same.
    pub(super) fn not_here(&self) -> u32 {
        let orphans = self.orphans.values();
        let orphans = orphans.fold(0, |sum: u32, n| sum.saturating_add(*n));
        self.elsewhere.total().saturating_add(orphans)
    }

    /// All instances of a label that count against its bound, wherever they are.
    pub(super) fn in_set(&self, label: Option<&InstanceLabel>) -> u32 {
        let of_label = self
            .instances
            .groups()
            .filter(|group| group.set.label.as_ref() == label);
        let here = of_label.map(Group::all).fold(0, u32::saturating_add);
        let orphans = self.orphans.iter();
        let orphans = orphans.filter(|(known, _)| known.as_ref() == label);
        let orphans = orphans.fold(0, |sum: u32, (_, n)| sum.saturating_add(*n));
        here.saturating_add(self.elsewhere.of(label))
            .saturating_add(orphans)
    }
}

/// What the shell shows of it.
impl Core {
    /// Whether it is known what others have, or the function does not take calls here anyway.
    pub(crate) fn knows_others(&self) -> bool {
        self.is_counted() || self.life != Life::Open
    }

    /// Whether the function is scheduled elsewhere.
    pub(crate) fn has_moved(&self) -> bool {
        self.life == Life::Moved
    }

    /// The instances that are not gone.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::new();
        for group in self.instances.groups() {
            *census.entry(group.set.label.clone()).or_default() += group.all();
        }
        census
    }
}
