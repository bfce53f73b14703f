//! Changes of the function while it runs.

use std::sync::Arc;

use super::super::{Action, Event, Rejection, Ticket};
use super::{World, init_error, started};
use crate::testing::spec;

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
fn updates_in_a_row_do_not_keep_the_oldest_code_alive() {
    let mut world = World::new(spec("f", "1", 2, 0, 5));
    let actions = world.call();
    let old = world.up(&actions);
    world.on(Event::Answered(old));
    world.on(Event::Changed(Arc::new(spec("f", "2", 2, 0, 5))));
    world.now += std::time::Duration::from_millis(900);
    world.on(Event::Changed(Arc::new(spec("f", "3", 2, 0, 5))));
    world.now += std::time::Duration::from_millis(100);
    assert_eq!(world.on(Event::Tick), [Action::Stop(old)]);
}

#[test]
fn code_that_is_back_before_the_switch_goes_on_with_its_instances() {
    let mut world = World::new(spec("f", "1", 2, 0, 5));
    let actions = world.call();
    let first = world.up(&actions);
    world.on(Event::Answered(first));
    let actions = world.on(Event::Changed(Arc::new(spec("f", "2", 2, 0, 5))));
    let second = started(&actions);
    let actions = world.on(Event::Changed(Arc::new(spec("f", "1", 2, 0, 5))));
    assert_eq!(actions, [Action::Stop(second)]);
    let assigned = Action::Assign {
        ticket: Ticket(2),
        key: first,
    };
    assert_eq!(world.call(), [assigned]);
}

#[test]
fn a_minimum_of_new_code_does_not_end_the_old_before_the_first_is_up() {
    let mut world = World::new(spec("f", "1", 1, 3, 3));
    let old = world.core.keys(|_| true);
    for key in &old {
        world.on(Event::Started(*key));
    }
    let actions = world.on(Event::Changed(Arc::new(spec("f", "2", 1, 3, 3))));
    assert_eq!(actions, [Action::Stop(old[0])], "one makes room");
    let actions = world.on(Event::Exited(old[0]));
    let first = started(&actions);
    assert_eq!(actions.len(), 1, "the others go on serving");
    let actions = world.on(Event::Started(first));
    assert_eq!(actions, [Action::Stop(old[1]), Action::Stop(old[2])]);
}

#[test]
fn calls_that_a_change_leaves_without_a_label_are_told() {
    let mut world = World::new(super::labelled(&[("gold", 0, 1)], 5));
    let actions = world.call_of(super::of_label("gold"));
    let key = started(&actions);
    let actions = world.on(Event::Changed(Arc::new(spec("f", "1", 1, 0, 5))));
    let told = Action::Reject(Ticket(1), Rejection::UnknownLabel);
    assert_eq!(actions, [told, Action::Stop(key)]);
}
