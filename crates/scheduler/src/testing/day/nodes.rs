//! Nodes that die, drain and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::world::{Coming, LONGEST_CALL, World};
use crate::core::{Event, Key};
use crate::placement::{Capacity, Health, NodeView};

/// How long a node that died or was drained is away.
const AWAY: Duration = Duration::from_mins(10);

/// A node as it is new.
pub(super) fn view(number: u32) -> NodeView {
    NodeView {
        id: format!("node-{number}").parse().expect("a name of a node"),
        capacity: Capacity {
            cpu: 16_000,
            memory: 32_768,
            custom: BTreeMap::new(),
        },
        labels: BTreeMap::new(),
        pool: Some(format!("pool-{}", number % 10)),
        group: Some(format!("group-{}", number % 3)),
        health: Health::Live,
    }
}

impl World {
    fn some_live_node(&mut self) -> Option<u32> {
        let node = self.dice.number(0, self.size.nodes - 1);
        (self.health[node as usize] == Health::Live).then_some(node)
    }

    pub(super) fn death(&mut self) {
        if self.now >= self.end {
            return;
        }
        let wait = Duration::from_secs(60 + self.dice.below(120));
        self.later(wait, Coming::Death);
        let Some(node) = self.some_live_node() else {
            return;
        };
        self.report.deaths += 1;
        self.health[node as usize] = Health::Dead;
        let named = view(node).id;
        let gone = self.placement.leave(&named);
        let there = std::mem::take(&mut self.on_node[node as usize]);
        assert_eq!(gone.len(), there.len(), "both books agree");
        let mut hurt = BTreeSet::new();
        for (number, key) in there.into_keys() {
            self.alive -= 1;
            if let Some(books) = self.function(number).instances.remove(&key) {
                self.report.lost += books.running.len() as u64;
                self.on(number, Event::Lost(key));
                hurt.insert(number);
            }
        }
        for number in hurt {
            self.later(Duration::from_secs(3), Coming::Whole(number));
        }
        self.later(AWAY, Coming::Back(node));
    }

    pub(super) fn drain(&mut self) {
        if self.now >= self.end {
            return;
        }
        let wait = Duration::from_secs(60 + self.dice.below(120));
        self.later(wait, Coming::Drain);
        let Some(node) = self.some_live_node() else {
            return;
        };
        self.report.drains += 1;
        self.health[node as usize] = Health::Draining;
        self.placement.set_health(&view(node).id, Health::Draining);
        let there: Vec<(u32, Key)> = self.on_node[node as usize].keys().copied().collect();
        for (number, key) in there {
            self.on(number, Event::Leaving(key));
        }
        // The longest call, and one that was placed in the moment before.
        let wait = Duration::from_millis(LONGEST_CALL) + Duration::from_secs(2);
        self.later(wait, Coming::Empty(node));
        self.later(AWAY, Coming::Back(node));
    }

    pub(super) fn empty(&self, node: u32) {
        let (seed, left) = (self.size.seed, self.on_node[node as usize].len());
        assert_eq!(left, 0, "seed {seed}: node {node} drains and has instances");
    }

    pub(super) fn back(&mut self, node: u32) {
        self.health[node as usize] = Health::Live;
        self.placement.join(view(node));
    }
}
