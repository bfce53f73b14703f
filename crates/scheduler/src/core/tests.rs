//! Each rule by itself: how calls are served and when instances come and go; the rest is below
//! `tests/`.

mod failure;
mod history;
mod set;
mod update;

use std::sync::Arc;
use std::time::Duration;

use bugle_instances::StartError;
use bugle_types::{FunctionSpec, LabelledScale, Scale};
use tokio::time::Instant;

use super::{Action, Core, Event, Key, Rejection, Set, Ticket};
use crate::Config;
use crate::testing::spec;

/// A core with a clock that the test moves.
struct World {
    core: Core,
    now: Instant,
    tickets: u64,
}

impl World {
    fn new(spec: FunctionSpec) -> Self {
        let core = Core::new(Arc::new(spec), Arc::new(Config::default()));
        let mut world = Self {
            core,
            now: Instant::now(),
            tickets: 0,
        };
        let spec = Arc::clone(&world.core.spec);
        world.on(Event::Changed(spec));
        world
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.core.on(event, self.now, &mut actions);
        actions
    }

    fn set(&self) -> Set {
        Set {
            resources: self.core.spec.resources.clone(),
            ..Set::default()
        }
    }

    fn call(&mut self) -> Vec<Action> {
        let set = self.set();
        self.call_of(set)
    }

    fn call_of(&mut self, set: Set) -> Vec<Action> {
        self.tickets += 1;
        let deadline = self.now + Duration::from_hours(1);
        self.on(Event::Request {
            ticket: Ticket(self.tickets),
            set,
            deadline,
        })
    }

    fn pass(&mut self, seconds: u64) -> Vec<Action> {
        self.pass_millis(seconds * 1000)
    }

    fn pass_millis(&mut self, millis: u64) -> Vec<Action> {
        self.now += Duration::from_millis(millis);
        self.on(Event::Tick)
    }

    /// A running instance: from a start that was just asked for.
    fn up(&mut self, actions: &[Action]) -> Key {
        let key = started(actions);
        self.on(Event::Started(key));
        key
    }
}

fn started(actions: &[Action]) -> Key {
    match starts(actions).as_slice() {
        [key] => *key,
        other => panic!("one start expected, got {other:?} of {actions:?}"),
    }
}

fn starts(actions: &[Action]) -> Vec<Key> {
    let start = |action: &Action| match action {
        Action::Start(key, ..) => Some(*key),
        _ => None,
    };
    actions.iter().filter_map(start).collect()
}

fn assigned(actions: &[Action]) -> Key {
    match actions {
        [Action::Assign { key, .. }] => *key,
        other => panic!("an assignment expected, got {other:?}"),
    }
}

/// A function with labelled sets, each with its minimum and maximum, and a maximum for all.
fn labelled(sets: &[(&str, u32, u32)], max: u32) -> FunctionSpec {
    let set = |&(label, min, max): &(&str, u32, u32)| LabelledScale {
        label: label.parse().unwrap(),
        scale: Scale { min, max },
    };
    let mut spec = spec("f", "1", 1, 0, max);
    spec.labels = sets.iter().map(set).collect();
    spec
}

fn of_label(label: &str) -> Set {
    Set {
        label: Some(label.parse().unwrap()),
        ..Set::default()
    }
}

fn init_error() -> StartError {
    StartError::Initialization {
        message: "boom".to_owned(),
        trace: None,
    }
}

#[test]
fn the_first_call_starts_an_instance_at_once_and_gets_it() {
    let mut world = World::new(spec("f", "1", 10, 0, 5));
    let actions = world.call();
    let key = started(&actions);
    let actions = world.on(Event::Started(key));
    assert_eq!(
        actions,
        [Action::Assign {
            ticket: Ticket(1),
            key
        }]
    );
    assert_eq!(
        world.call(),
        [Action::Assign {
            ticket: Ticket(2),
            key
        }]
    );
}

#[test]
fn a_herd_starts_what_it_needs_and_no_more() {
    let mut world = World::new(spec("f", "1", 10, 0, 5));
    let count: usize = (0..25).map(|_| starts(&world.call()).len()).sum();
    assert_eq!(count, 3);
    let count: usize = (0..900).map(|_| starts(&world.call()).len()).sum();
    assert_eq!(count, 2, "the maximum holds");
}

#[test]
fn the_minimum_starts_without_a_call_and_stays() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    let actions = world.on(Event::Changed(Arc::new(spec("f", "1", 1, 2, 5))));
    let keys = starts(&actions);
    assert_eq!(keys.len(), 2);
    for key in &keys {
        world.on(Event::Started(*key));
    }
    assert_eq!(world.pass(3600), []);
    let again = world.on(Event::Exited(keys[0]));
    assert_eq!(
        starts(&again),
        [],
        "an idle death without any answer waits a moment"
    );
    assert_eq!(starts(&world.pass(1)).len(), 1);
}

#[test]
fn an_instance_goes_when_its_own_idle_clock_runs_out() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    let actions = world.call();
    let first = world.up(&actions);
    let actions = world.call();
    let second = world.up(&actions);
    world.on(Event::Answered(second));
    world.pass(50);
    world.on(Event::Answered(first));
    assert_eq!(world.pass(10), [Action::Stop(second)]);
    assert_eq!(world.pass(49), []);
    assert_eq!(world.pass(1), [Action::Stop(first)]);
}

#[test]
fn nothing_is_due_when_nothing_goes_on() {
    let mut world = World::new(spec("f", "1", 1, 1, 5));
    let keys = world.core.keys(|_| true);
    world.on(Event::Started(keys[0]));
    world.pass(1000);
    assert_eq!(world.core.due(), None);
}

#[test]
fn calls_wait_their_turn_at_the_maximum() {
    let mut world = World::new(spec("f", "1", 1, 0, 1));
    let actions = world.call();
    let key = world.up(&actions);
    assert_eq!(world.call(), []);
    assert_eq!(world.call(), []);
    assert_eq!(
        world.on(Event::Answered(key)),
        [Action::Assign {
            ticket: Ticket(2),
            key
        }]
    );
    assert_eq!(
        world.pass(30),
        [Action::Reject(Ticket(3), Rejection::Timeout)]
    );
}

#[test]
fn a_full_queue_refuses() {
    let mut world = World::new(spec("f", "1", 1, 0, 1));
    for _ in 0..1000 {
        world.call();
    }
    assert_eq!(
        world.call(),
        [Action::Reject(Ticket(1001), Rejection::QueueFull)]
    );
}

#[test]
fn a_function_with_maximum_zero_is_disabled() {
    let mut world = World::new(spec("f", "1", 1, 0, 0));
    assert_eq!(
        world.call(),
        [Action::Reject(Ticket(1), Rejection::Disabled)]
    );
}

#[test]
fn reserved_instances_share_the_load_and_others_are_packed() {
    let mut world = World::new(spec("f", "1", 2, 2, 4));
    let keys = world.core.keys(|_| true);
    for key in &keys {
        world.on(Event::Started(*key));
    }
    let first = assigned(&world.call());
    let second = assigned(&world.call());
    assert_ne!(first, second, "spread over the minimum");
    world.call();
    world.call();
    let actions = world.call();
    let third = world.up(&actions);
    world.on(Event::Answered(third));
    let keys = (0..2).map(|_| assigned(&world.call()));
    assert_eq!(keys.collect::<Vec<_>>(), [third, third]);
    let actions = world.call();
    let fourth = world.up(&actions);
    world.on(Event::Answered(third));
    world.on(Event::Answered(fourth));
    assert_eq!(assigned(&world.call()), third, "packed on the busiest");
}
