//! Each rule by itself.

use std::sync::Arc;
use std::time::Duration;

use bugle_instances::StartError;
use bugle_types::{CpuMillis, FunctionSpec, LabelledScale, Resources, Scale};
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
            label: None,
            resources: self.core.spec.resources.clone(),
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
        self.now += Duration::from_secs(seconds);
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
fn a_failed_initializer_answers_at_once_and_heals() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    let actions = world.call();
    let key = started(&actions);
    let failed = Rejection::Start(init_error());
    let actions = world.on(Event::StartFailed(key, init_error()));
    assert_eq!(actions, [Action::Reject(Ticket(1), failed.clone())]);
    assert_eq!(
        world.call(),
        [Action::Reject(Ticket(2), failed)],
        "known for a second"
    );
    world.pass(1);
    let actions = world.call();
    let key = world.up(&actions);
    assert_eq!(world.on(Event::Answered(key)), []);
}

#[test]
fn failures_in_a_row_wait_longer_each_time() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    for pause in [1, 2, 4, 8, 16, 16] {
        let actions = world.call();
        world.on(Event::StartFailed(started(&actions), init_error()));
        world.pass(pause - 1);
        assert_eq!(
            starts(&world.call()),
            [],
            "too early after {pause} s less one"
        );
        world.pass(1);
    }
}

#[test]
fn a_failing_platform_is_tried_again_while_the_call_waits() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    let mut actions = world.call();
    let error = StartError::Platform("no process".to_owned());
    for _ in 0..2 {
        assert_eq!(
            world.on(Event::StartFailed(started(&actions), error.clone())),
            []
        );
        actions = world.pass(1);
    }
    let told = world.on(Event::StartFailed(started(&actions), error.clone()));
    assert_eq!(told, [Action::Reject(Ticket(1), Rejection::Start(error))]);
}

#[test]
fn an_overdue_instance_gets_no_call_and_is_killed_when_the_others_are_done() {
    let mut world = World::new(spec("f", "1", 2, 0, 5));
    let actions = world.call();
    let key = world.up(&actions);
    world.call();
    assert_eq!(world.on(Event::Overdue(key)), []);
    assert_eq!(starts(&world.call()).len(), 1, "replaced for whoever comes");
    assert_eq!(world.on(Event::Answered(key)), [Action::Kill(key)]);
}

#[test]
fn an_update_starts_the_new_code_then_switches_then_drains_the_old() {
    let mut world = World::new(spec("f", "1", 2, 0, 5));
    let actions = world.call();
    let old = world.up(&actions);
    let actions = world.on(Event::Changed(Arc::new(spec("f", "2", 2, 0, 5))));
    let new = started(&actions);
    assert_eq!(
        world.call(),
        [Action::Assign {
            ticket: Ticket(2),
            key: old
        }],
        "until the new is up"
    );
    assert_eq!(world.on(Event::Started(new)), []);
    assert_eq!(
        world.call(),
        [Action::Assign {
            ticket: Ticket(3),
            key: new
        }]
    );
    assert_eq!(world.on(Event::Answered(old)), []);
    assert_eq!(world.on(Event::Answered(old)), [Action::Stop(old)]);
}

#[test]
fn new_code_that_comes_up_too_slowly_is_waited_for() {
    let mut world = World::new(spec("f", "1", 2, 0, 5));
    let actions = world.call();
    let old = world.up(&actions);
    world.on(Event::Answered(old));
    let actions = world.on(Event::Changed(Arc::new(spec("f", "2", 2, 0, 5))));
    let new = started(&actions);
    assert_eq!(world.pass(1), [Action::Stop(old)]);
    assert_eq!(world.call(), []);
    assert_eq!(
        world.on(Event::Started(new)),
        [Action::Assign {
            ticket: Ticket(2),
            key: new
        }]
    );
}

#[test]
fn new_code_that_fails_shows_its_failure() {
    let mut world = World::new(spec("f", "1", 2, 0, 5));
    let actions = world.call();
    let old = world.up(&actions);
    world.on(Event::Answered(old));
    let actions = world.on(Event::Changed(Arc::new(spec("f", "2", 2, 0, 5))));
    let new = started(&actions);
    assert_eq!(
        world.on(Event::StartFailed(new, init_error())),
        [Action::Stop(old)]
    );
    assert_eq!(
        world.call(),
        [Action::Reject(Ticket(2), Rejection::Start(init_error()))]
    );
}

#[test]
fn an_update_at_the_maximum_makes_room_first() {
    let mut world = World::new(spec("f", "1", 1, 0, 1));
    let actions = world.call();
    let old = world.up(&actions);
    world.on(Event::Answered(old));
    let actions = world.on(Event::Changed(Arc::new(spec("f", "2", 1, 0, 1))));
    assert_eq!(actions, [Action::Stop(old)]);
    assert_eq!(world.call(), []);
    let actions = world.on(Event::Exited(old));
    let new = started(&actions);
    assert_eq!(
        world.on(Event::Started(new)),
        [Action::Assign {
            ticket: Ticket(2),
            key: new
        }]
    );
}

#[test]
fn other_bounds_keep_the_instances() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    let actions = world.call();
    let first = world.up(&actions);
    let actions = world.call();
    let second = world.up(&actions);
    world.on(Event::Answered(second));
    let actions = world.on(Event::Changed(Arc::new(spec("f", "1", 1, 0, 1))));
    assert_eq!(actions, [Action::Stop(second)], "the idle one goes");
    assert_eq!(world.on(Event::Answered(first)), []);
}

#[test]
fn other_resources_get_instances_of_their_own() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    let large = Set {
        label: None,
        resources: Resources {
            cpu: CpuMillis(4000),
            ..Resources::default()
        },
    };
    let actions = world.call();
    let small = world.up(&actions);
    world.on(Event::Answered(small));
    let actions = world.call_of(large);
    let key = started(&actions);
    assert_eq!(
        world.on(Event::Started(key)),
        [Action::Assign {
            ticket: Ticket(2),
            key
        }],
        "a smaller instance does not serve it"
    );
    world.call();
    world.on(Event::Answered(key));
    let actions = world.call();
    assert_eq!(
        actions,
        [Action::Assign {
            ticket: Ticket(4),
            key
        }],
        "a larger one is borrowed"
    );
}

#[test]
fn an_idle_instance_of_other_resources_makes_room() {
    let mut world = World::new(spec("f", "1", 1, 0, 1));
    let actions = world.call();
    let small = world.up(&actions);
    world.on(Event::Answered(small));
    let large = Set {
        label: None,
        resources: Resources {
            cpu: CpuMillis(4000),
            ..Resources::default()
        },
    };
    assert_eq!(world.call_of(large), [Action::Stop(small)]);
    assert_eq!(starts(&world.on(Event::Exited(small))).len(), 1);
}

#[test]
fn a_label_has_its_own_instances_and_bounds() {
    let label: bugle_types::InstanceLabel = "gold".parse().unwrap();
    let mut labelled = spec("f", "1", 1, 0, 5);
    labelled.labels = vec![LabelledScale {
        label: label.clone(),
        scale: Scale { min: 1, max: 2 },
    }];
    let mut world = World::new(labelled);
    let reserved = world.core.keys(|_| true);
    assert_eq!(reserved.len(), 1, "the label's minimum");
    world.on(Event::Started(reserved[0]));
    let gold = Set {
        label: Some(label),
        resources: Resources::default(),
    };
    assert_eq!(
        starts(&world.call()).len(),
        1,
        "calls without label do not use it"
    );
    let assigned = world.call_of(gold.clone());
    assert_eq!(
        assigned,
        [Action::Assign {
            ticket: Ticket(2),
            key: reserved[0]
        }]
    );
    assert_eq!(starts(&world.call_of(gold.clone())).len(), 1);
    assert_eq!(starts(&world.call_of(gold)).len(), 0, "the label's maximum");
    let unknown = Set {
        label: Some("tin".parse().unwrap()),
        resources: Resources::default(),
    };
    assert_eq!(
        world.call_of(unknown),
        [Action::Reject(Ticket(5), Rejection::UnknownLabel)]
    );
}

#[test]
fn reserved_instances_share_the_load_and_others_are_packed() {
    let mut world = World::new(spec("f", "1", 2, 2, 4));
    let keys = world.core.keys(|_| true);
    for key in &keys {
        world.on(Event::Started(*key));
    }
    let assigned = |actions: Vec<Action>| match actions.as_slice() {
        [Action::Assign { key, .. }] => *key,
        other => panic!("an assignment expected: {other:?}"),
    };
    let first = assigned(world.call());
    let second = assigned(world.call());
    assert_ne!(first, second, "spread over the minimum");
}

#[test]
fn a_removed_function_tells_who_waits_and_lets_who_runs_finish() {
    let mut world = World::new(spec("f", "1", 1, 0, 1));
    let actions = world.call();
    let key = world.up(&actions);
    world.call();
    assert_eq!(
        world.on(Event::Removed),
        [Action::Reject(Ticket(2), Rejection::Removed)]
    );
    assert_eq!(world.on(Event::Answered(key)), [Action::Stop(key)]);
    assert_eq!(
        world.call(),
        [Action::Reject(Ticket(3), Rejection::Removed)]
    );
}

#[test]
fn a_crash_during_a_call_is_replaced_at_once() {
    let mut world = World::new(spec("f", "1", 1, 0, 1));
    let actions = world.call();
    let key = world.up(&actions);
    world.call();
    assert_eq!(starts(&world.on(Event::Exited(key))).len(), 1);
    assert_eq!(world.on(Event::Exited(key)), [], "told twice");
}
