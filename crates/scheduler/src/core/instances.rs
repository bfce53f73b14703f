//! The instances of a function, and the books that are kept of them.
//!
//! A call wants the emptiest or the busiest instance, a start how many there are, the timer whose idle
//! clock runs out first. To look at all of them for it makes every call the slower the more there are;
//! so those that are alike form a *group*, which has the answers at hand. They are right only if each
//! change of an instance changes them too: therefore nothing here hands out a mutable instance, and
//! [`Instances::change`] and [`Instances::change_all`] are the ways to one.

mod group;

use std::collections::BTreeMap;
use std::ops::Index;

use super::instance::{Code, Instance};
use super::{Key, Set};
use group::Entry;
pub(super) use group::Group;

/// All that are not gone.
#[derive(Debug, Default)]
pub(super) struct Instances {
    all: BTreeMap<Key, Instance>,
    /// Those of older code first, then in order of set; none is empty. A list, because most functions
    /// have one, with one instance: a map would take more memory than everything else here.
    groups: Vec<Group>,
}

impl Instances {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, key: Key) -> Option<&Instance> {
        self.all.get(&key)
    }

    /// All, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Instance)> {
        self.all.iter().map(|(key, instance)| (*key, instance))
    }

    /// Those of older code first, then in order of set.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// Whether there is a group like that.
    pub(super) fn any(&self, wanted: impl FnMut(&Group) -> bool) -> bool {
        self.groups.iter().any(wanted)
    }

    /// The instances of `set` with this code.
    pub(super) fn group(&self, set: &Set, code: Code) -> Option<&Group> {
        let place = place(&self.groups, set, code).ok()?;
        self.groups.get(place)
    }

    /// Adds an instance under a key that there was none under.
    pub(super) fn insert(&mut self, key: Key, instance: Instance) {
        self.enter(key, &instance);
        self.all.insert(key, instance);
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Instance> {
        let instance = self.all.remove(&key)?;
        if let Ok(place) = place(&self.groups, &instance.set, instance.code) {
            let group = &mut self.groups[place];
            group.update(key, Some(Entry::of(&instance)), None);
            if group.all() == 0 {
                self.groups.remove(place);
            }
        }
        Some(instance)
    }

    /// Changes an instance, and the books with it; none if it is gone. It stays in its set and with its
    /// code.
    pub(super) fn change<R>(
        &mut self,
        key: Key,
        change: impl FnOnce(&mut Instance) -> R,
    ) -> Option<R> {
        let instance = self.all.get_mut(&key)?;
        let before = Entry::of(instance);
        let changed = change(instance);
        let after = Entry::of(instance);
        if before != after
            && let Some(group) = group_of(&mut self.groups, instance)
        {
            group.update(key, Some(before), Some(after));
        }
        Some(changed)
    }

    /// Changes all instances, and writes the books anew.
    pub(super) fn change_all(&mut self, mut change: impl FnMut(Key, &mut Instance)) {
        self.groups.clear();
        let mut all = std::mem::take(&mut self.all);
        for (&key, instance) in &mut all {
            change(key, instance);
            self.enter(key, instance);
        }
        self.all = all;
    }

    fn enter(&mut self, key: Key, instance: &Instance) {
        let place = match place(&self.groups, &instance.set, instance.code) {
            Ok(place) => place,
            Err(place) => {
                self.groups.reserve_exact(1);
                let group = Group::new(instance.set.clone(), instance.code);
                self.groups.insert(place, group);
                place
            }
        };
        self.groups[place].update(key, None, Some(Entry::of(instance)));
    }

    /// # Panics
    ///
    /// If the books are not those of the instances that there are.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut anew = Self::default();
        for (key, instance) in &self.all {
            anew.enter(*key, instance);
        }
        assert_eq!(self.groups, anew.groups, "the books are wrong");
    }
}

/// Where the group is among all, or would be.
fn place(groups: &[Group], set: &Set, code: Code) -> Result<usize, usize> {
    groups.binary_search_by(|group| group.order(set, code))
}

/// The group that an instance is in.
fn group_of<'a>(groups: &'a mut [Group], instance: &Instance) -> Option<&'a mut Group> {
    match groups {
        // Spares nearly every call the comparison of sets.
        [only] => Some(only),
        groups => {
            let place = place(groups, &instance.set, instance.code).ok()?;
            groups.get_mut(place)
        }
    }
}

impl Index<Key> for Instances {
    type Output = Instance;

    fn index(&self, key: Key) -> &Instance {
        &self.all[&key]
    }
}
