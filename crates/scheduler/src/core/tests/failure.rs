//! Starts that fail, calls that are given up, instances that die.

use std::sync::Arc;
use std::time::Duration;

use bugle_instances::StartError;
use bugle_types::{CpuMillis, Resources};

use super::super::{Action, Event, Rejection, Set, Ticket};
use super::{World, assigned, init_error, started, starts};
use crate::testing::spec;

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
    assert_eq!(world.on(Event::GivenUp(key)), []);
    assert_eq!(starts(&world.call()).len(), 1, "replaced for whoever comes");
    assert_eq!(world.on(Event::Answered(key)), [Action::Kill(key)]);
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

#[test]
fn failures_long_ago_do_not_count() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    for _ in 0..4 {
        let actions = world.call();
        world.on(Event::StartFailed(started(&actions), init_error()));
        world.pass(3600);
    }
    let actions = world.call();
    world.on(Event::StartFailed(started(&actions), init_error()));
    world.pass(1);
    assert_eq!(
        starts(&world.call()).len(),
        1,
        "it waits one second as after the first"
    );
}

#[test]
fn failures_of_resources_that_nobody_asks_for_again_are_forgotten() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    for cpu in 1..1000 {
        let resources = Resources {
            cpu: CpuMillis(cpu),
            ..Resources::default()
        };
        let actions = world.call_of(Set {
            resources,
            ..Set::default()
        });
        world.on(Event::StartFailed(started(&actions), init_error()));
        world.pass(1);
    }
    assert!(world.core.failures.len() < 20);
}

#[test]
fn a_minimum_that_does_not_come_up_is_tried_again_without_a_call() {
    let mut world = World::new(spec("f", "1", 1, 1, 5));
    let mut key = world.core.keys(|_| true)[0];
    for pause in [1, 2, 4] {
        assert_eq!(starts(&world.on(Event::StartFailed(key, init_error()))), []);
        assert_eq!(starts(&world.pass(pause - 1)), []);
        key = started(&world.pass(1));
    }
}

#[test]
fn what_cannot_run_here_is_said_at_once_and_tried_with_each_call() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    let error = StartError::Unsupported("no interpreter".to_owned());
    for number in 1..=3 {
        let actions = world.call();
        let told = world.on(Event::StartFailed(started(&actions), error.clone()));
        let rejection = Rejection::Start(error.clone());
        assert_eq!(told, [Action::Reject(Ticket(number), rejection)]);
    }
}

#[test]
fn what_finds_no_room_waits_for_the_instance_that_there_is() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    let first = world.call();
    let key = world.up(&first);
    let error = StartError::NoRoom("all workers are taken".to_owned());
    let second = world.call();
    let told = world.on(Event::StartFailed(started(&second), error.clone()));
    assert_eq!(told, [], "neither told nor tried again at once");
    assert_eq!(starts(&world.pass_millis(99)), []);
    let again = started(&world.pass_millis(1));
    assert_eq!(world.on(Event::StartFailed(again, error.clone())), []);
    assert_eq!(starts(&world.pass_millis(199)), []);
    let again = started(&world.pass_millis(1));
    assert_eq!(world.on(Event::StartFailed(again, error)), []);
    assert_eq!(assigned(&world.on(Event::Answered(key))), key);
}

#[test]
fn what_finds_no_room_waits_for_those_that_come_up() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    let (first, second) = (world.call(), world.call());
    let error = StartError::NoRoom("all workers are taken".to_owned());
    let told = world.on(Event::StartFailed(started(&first), error.clone()));
    assert_eq!(told, [], "the other one has room");
    let told = world.on(Event::StartFailed(started(&second), error.clone()));
    let rejected = |ticket| Action::Reject(Ticket(ticket), Rejection::Start(error.clone()));
    assert_eq!(
        told,
        [rejected(1), rejected(2)],
        "nothing is left to wait for"
    );
    assert_eq!(
        starts(&world.call()).len(),
        1,
        "each call is an attempt then"
    );
}

#[test]
fn starts_that_fail_together_count_as_one() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    let keys: Vec<_> = (0..3).flat_map(|_| starts(&world.call())).collect();
    for key in keys {
        world.on(Event::StartFailed(key, init_error()));
    }
    world.pass(1);
    assert_eq!(starts(&world.call()).len(), 1);
}

#[test]
fn a_crash_loop_of_the_minimum_slows_down() {
    let mut world = World::new(spec("f", "1", 1, 1, 5));
    let mut key = world.core.keys(|_| true)[0];
    for pause in [1, 2, 4, 8, 16, 16] {
        world.on(Event::Started(key));
        assert_eq!(starts(&world.on(Event::Exited(key))), []);
        assert_eq!(starts(&world.pass(pause - 1)), []);
        key = started(&world.pass(1));
    }
}

#[test]
fn a_call_that_is_lost_with_its_instance_leaves_no_slot_behind() {
    let mut world = World::new(spec("f", "1", 1, 0, 1));
    let actions = world.call();
    let key = world.up(&actions);
    world.call();
    assert_eq!(
        world.on(Event::GivenUp(key)),
        [Action::Kill(key)],
        "the dead instance is not given the next call"
    );
    let actions = world.on(Event::Exited(key));
    let next = started(&actions);
    assert_eq!(
        world.on(Event::Started(next)),
        [Action::Assign {
            ticket: Ticket(2),
            key: next
        }]
    );
}

#[test]
fn a_limit_that_means_for_ever_does_not_overflow() {
    let mut endless = spec("f", "1", 1, 0, 1);
    endless.idle = Some(Duration::MAX);
    let mut world = World::new(endless);
    let actions = world.call();
    let key = world.up(&actions);
    assert_eq!(world.on(Event::Answered(key)), []);
    assert_eq!(world.pass(1_000_000), []);
    world.on(Event::Changed(Arc::new(spec("f", "2", 1, 0, 1))));
}
