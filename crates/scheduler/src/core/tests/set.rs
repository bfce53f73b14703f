//! Sets: other resources, labels, and the room they take from each other.

use bugle_types::{CpuMillis, Resources};

use super::super::{Action, Event, Rejection, Set, Ticket};
use super::{World, assigned, labelled, of_label, started, starts};
use crate::testing::spec;

#[test]
fn other_resources_get_instances_of_their_own() {
    let mut world = World::new(spec("f", "1", 1, 0, 5));
    let large = Set {
        resources: Resources {
            cpu: CpuMillis(4000),
            ..Resources::default()
        },
        ..Set::default()
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
        resources: Resources {
            cpu: CpuMillis(4000),
            ..Resources::default()
        },
        ..Set::default()
    };
    assert_eq!(world.call_of(large), [Action::Stop(small)]);
    assert_eq!(starts(&world.on(Event::Exited(small))).len(), 1);
}

#[test]
fn a_label_has_its_own_instances_and_bounds() {
    let mut world = World::new(labelled(&[("gold", 1, 2)], 5));
    let reserved = world.core.keys(|_| true);
    assert_eq!(reserved.len(), 1, "the label's minimum");
    world.on(Event::Started(reserved[0]));
    let gold = of_label("gold");
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
    assert_eq!(
        world.call_of(of_label("tin")),
        [Action::Reject(Ticket(5), Rejection::UnknownLabel)]
    );
}

#[test]
fn a_full_label_does_not_end_the_instances_of_others() {
    let mut world = World::new(labelled(&[("gold", 0, 1)], 5));
    let actions = world.call();
    let plain = world.up(&actions);
    world.on(Event::Answered(plain));
    let actions = world.call_of(of_label("gold"));
    world.up(&actions);
    assert_eq!(
        world.call_of(of_label("gold")),
        [],
        "the idle instance without label is of no use to it"
    );
}

#[test]
fn labels_share_the_maximum_of_the_function() {
    let mut world = World::new(labelled(&[("gold", 0, 2), ("tin", 0, 2)], 3));
    for label in ["gold", "gold", "tin"] {
        let actions = world.call_of(of_label(label));
        world.up(&actions);
    }
    assert_eq!(world.call_of(of_label("tin")), []);
    assert_eq!(world.core.alive(), 3);
}

#[test]
fn a_call_that_no_instance_can_serve_is_not_starved_by_others() {
    let mut world = World::new(spec("f", "1", 1, 0, 1));
    let actions = world.call();
    let small = world.up(&actions);
    let large = Set {
        resources: Resources {
            cpu: CpuMillis(4000),
            ..Resources::default()
        },
        ..Set::default()
    };
    assert_eq!(world.call_of(large), []);
    world.call();
    assert_eq!(world.pass(1), [], "the small one finishes its call first");
    assert_eq!(world.on(Event::Answered(small)), [Action::Stop(small)]);
    let key = started(&world.on(Event::Exited(small)));
    assert_eq!(assigned(&world.on(Event::Started(key))), key);
}

#[test]
fn a_minimum_is_not_given_up_for_other_resources() {
    let mut world = World::new(spec("f", "1", 1, 1, 1));
    let key = world.core.keys(|_| true)[0];
    world.on(Event::Started(key));
    let large = Set {
        resources: Resources {
            cpu: CpuMillis(4000),
            ..Resources::default()
        },
        ..Set::default()
    };
    assert_eq!(world.call_of(large), []);
    assert_eq!(world.pass(2), []);
}
