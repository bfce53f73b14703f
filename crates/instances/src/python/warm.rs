//! Which parents there are that have packages imported already, and which one a start gets.
//!
//! A start may only get a parent that has imported nothing but what the function imports itself, so
//! that a function meets the same modules as without it. What no parent has yet is wanted, and one
//! parent at a time is made for it; nobody waits for that. Nothing here starts or ends a process.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::imports::Wanted;

/// How long a set that could not be imported is not tried again.
const GIVEN_UP_FOR: Duration = Duration::from_mins(10);
/// How many such sets are remembered.
const MAX_GIVEN_UP: usize = 256;
/// How long a parent is kept at least. Making one takes about a second of processor time, so that
/// functions with many different sets must not have them made without end.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// A parent, as far as this module has to do with it.
pub(super) trait Parent {
    /// Whether it has ended.
    fn is_gone(&self) -> bool;
    /// Ends it if it has no instances; returns whether.
    fn retire(&self) -> bool;
}

/// The parents of one interpreter.
#[derive(Debug)]
pub(super) struct Sets<P> {
    limit: usize,
    parents: Vec<Grown<P>>,
    growing: Option<BTreeSet<String>>,
    given_up: Vec<(BTreeSet<String>, Instant)>,
}

#[derive(Debug)]
struct Grown<P> {
    parent: Arc<P>,
    /// What it was asked to import.
    set: BTreeSet<String>,
    /// What it has imported because of that.
    loaded: HashSet<String>,
    age: u64,
    made: Instant,
    used: Instant,
}

/// What becomes of a start.
#[derive(Debug)]
pub(super) struct Choice<P> {
    /// The parent that has most of what is wanted.
    pub(super) parent: Option<Arc<P>>,
    /// Whether the caller has to make one for what is wanted, and to tell how that went.
    pub(super) grow: bool,
}

impl<P: Parent> Sets<P> {
    /// None, and never more than `limit`.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            parents: Vec::new(),
            growing: None,
            given_up: Vec::new(),
        }
    }

    /// How many parents there are.
    pub(super) fn count(&self) -> usize {
        let alive = |grown: &&Grown<P>| !grown.parent.is_gone();
        self.parents.iter().filter(alive).count()
    }

    /// Chooses for a function that imports `wanted`.
    pub(super) fn choose(&mut self, wanted: &Wanted, now: Instant) -> Choice<P> {
        self.forget(wanted.age);
        let best = self.parents.iter_mut().filter(|grown| grown.suits(wanted));
        let best = best.max_by_key(|grown| grown.has_of(wanted));
        let (parent, has) = match best {
            Some(grown) => {
                grown.used = now;
                (Some(Arc::clone(&grown.parent)), grown.has_of(wanted))
            }
            None => (None, 0),
        };
        let grow = has < wanted.modules.len() && self.may_grow(wanted, now) && self.has_room(now);
        if grow {
            self.growing = Some(wanted.modules.clone());
        }
        Choice { parent, grow }
    }

    /// Takes a parent that was made for `wanted` and has `loaded`.
    pub(super) fn grown(
        &mut self,
        parent: Arc<P>,
        wanted: &Wanted,
        loaded: HashSet<String>,
        now: Instant,
    ) {
        self.growing = None;
        self.parents.push(Grown {
            parent,
            set: wanted.modules.clone(),
            loaded,
            age: wanted.age,
            made: now,
            used: now,
        });
    }

    /// Takes note that no parent could be made for `wanted`.
    pub(super) fn give_up(&mut self, wanted: &Wanted, now: Instant) {
        self.growing = None;
        if self.given_up.len() == MAX_GIVEN_UP {
            self.given_up.remove(0);
        }
        self.given_up.push((wanted.modules.clone(), now));
    }

    /// Forgets those that have ended, and ends those whose packages have changed since.
    fn forget(&mut self, age: u64) {
        let stale = |grown: &Grown<P>| grown.age < age && grown.parent.retire();
        self.parents
            .retain(|grown| !grown.parent.is_gone() && !stale(grown));
    }

    fn may_grow(&mut self, wanted: &Wanted, now: Instant) -> bool {
        self.given_up
            .retain(|(_, at)| now.duration_since(*at) < GIVEN_UP_FOR);
        let is_wanted = |set: &BTreeSet<String>| *set == wanted.modules;
        self.growing.is_none()
            && !self.given_up.iter().any(|(set, _)| is_wanted(set))
            // One that the function cannot use because of a module of its own.
            && !self
                .parents
                .iter()
                .any(|grown| grown.age == wanted.age && is_wanted(&grown.set))
    }

    /// Whether there may be one more; makes room by ending the one that was not used for longest.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.parents.len() < self.limit {
            return true;
        }
        let mut by_use: Vec<usize> = (0..self.parents.len()).collect();
        by_use.sort_by_key(|&index| self.parents[index].used);
        let idle = by_use.into_iter().find(|&index| {
            let grown = &self.parents[index];
            now.duration_since(grown.made) >= KEPT_FOR && grown.parent.retire()
        });
        idle.map(|index| self.parents.remove(index)).is_some()
    }
}

impl<P> Grown<P> {
    /// Whether a function meets nothing in it that it would not have met anyway.
    fn suits(&self, wanted: &Wanted) -> bool {
        let top = |name: &str| name.split('.').next().unwrap_or(name).to_owned();
        self.age == wanted.age
            && self.set.is_subset(&wanted.modules)
            && !self
                .loaded
                .iter()
                .any(|name| wanted.own.contains(&top(name)))
    }

    /// How many of the wanted modules it has.
    fn has_of(&self, wanted: &Wanted) -> usize {
        let wanted = wanted.modules.iter();
        wanted.filter(|name| self.loaded.contains(*name)).count()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Fake {
        busy: AtomicBool,
        gone: AtomicBool,
    }

    impl Parent for Fake {
        fn is_gone(&self) -> bool {
            self.gone.load(Ordering::Relaxed)
        }

        fn retire(&self) -> bool {
            let idle = !self.busy.load(Ordering::Relaxed);
            self.gone.fetch_or(idle, Ordering::Relaxed);
            idle
        }
    }

    fn wanted(modules: &[&str]) -> Wanted {
        Wanted {
            modules: modules.iter().map(|&name| name.to_owned()).collect(),
            ..Wanted::default()
        }
    }

    /// Has the set made that is wanted; it loads `loaded`.
    fn grow(sets: &mut Sets<Fake>, names: &[&str], loaded: &[&str], now: Instant) -> Arc<Fake> {
        let parent = Arc::<Fake>::default();
        assert!(sets.choose(&wanted(names), now).grow, "{names:?}");
        let loaded = loaded.iter().map(|&name| name.to_owned()).collect();
        sets.grown(Arc::clone(&parent), &wanted(names), loaded, now);
        parent
    }

    fn chosen(sets: &mut Sets<Fake>, wanted: &Wanted, now: Instant) -> Option<*const Fake> {
        let choice = sets.choose(wanted, now);
        choice.parent.map(|parent| Arc::as_ptr(&parent))
    }

    #[test]
    fn a_start_gets_the_parent_that_has_most_and_nothing_else() {
        let now = Instant::now();
        let mut sets = Sets::new(4);
        let small = grow(&mut sets, &["a"], &["a"], now);
        let large = grow(&mut sets, &["a", "b"], &["a", "b"], now);
        let other = grow(&mut sets, &["c"], &["c", "x"], now);
        for (names, expected) in [
            (&["a"][..], Some(&small)),
            (&["a", "b"], Some(&large)),
            (&["b"], None),
            (&["c"], Some(&other)),
        ] {
            let found = chosen(&mut sets, &wanted(names), now);
            assert_eq!(found, expected.map(Arc::as_ptr), "{names:?}");
        }
    }

    #[test]
    fn what_a_set_loads_anyway_needs_no_parent_of_its_own() {
        let now = Instant::now();
        let mut sets = Sets::new(4);
        let web = grow(&mut sets, &["web"], &["web", "check"], now);
        let choice = sets.choose(&wanted(&["check", "web"]), now);
        assert!(!choice.grow);
        assert!(Arc::ptr_eq(&choice.parent.unwrap(), &web));
    }

    #[test]
    fn a_function_with_a_module_of_that_name_gets_another_parent() {
        let now = Instant::now();
        let mut sets = Sets::new(4);
        grow(&mut sets, &["web"], &["web", "check.parts"], now);
        let mut own = wanted(&["web"]);
        own.own.insert("check".to_owned());
        let choice = sets.choose(&own, now);
        assert!(choice.parent.is_none() && !choice.grow);
    }

    #[test]
    fn one_is_made_at_a_time_and_none_for_what_has_failed() {
        let now = Instant::now();
        let mut sets = Sets::<Fake>::new(4);
        let (bad, good) = (wanted(&["bad"]), wanted(&["good"]));
        assert!(sets.choose(&bad, now).grow);
        assert!(!sets.choose(&good, now).grow);
        sets.give_up(&bad, now);
        assert!(!sets.choose(&bad, now).grow);
        assert!(sets.choose(&good, now).grow);
        sets.give_up(&good, now);
        assert!(sets.choose(&bad, now + GIVEN_UP_FOR).grow);
    }

    #[test]
    fn the_least_recently_used_idle_one_makes_room() {
        let now = Instant::now();
        let mut sets = Sets::new(2);
        let busy = grow(&mut sets, &["a"], &["a"], now);
        busy.busy.store(true, Ordering::Relaxed);
        let idle = grow(&mut sets, &["b"], &["b"], now + KEPT_FOR);
        let later = now + KEPT_FOR * 2 - Duration::from_millis(1);
        assert!(!sets.choose(&wanted(&["c"]), later).grow, "too young");
        let later = now + KEPT_FOR * 2;
        let new = grow(&mut sets, &["c"], &["c"], later);
        assert!(idle.is_gone() && !busy.is_gone() && !new.is_gone());
        assert_eq!(sets.count(), 2);
    }

    #[test]
    fn what_was_imported_before_the_packages_changed_is_not_used() {
        let now = Instant::now();
        let mut sets = Sets::new(2);
        let old = grow(&mut sets, &["a"], &["a"], now);
        let mut newer = wanted(&["a"]);
        newer.age = 1;
        let choice = sets.choose(&newer, now);
        assert!(choice.parent.is_none() && choice.grow && old.is_gone());
    }

    #[test]
    fn nothing_is_made_where_none_may_be() {
        let mut sets = Sets::<Fake>::new(0);
        let choice = sets.choose(&wanted(&["a"]), Instant::now());
        assert!(!choice.grow && choice.parent.is_none());
    }
}
