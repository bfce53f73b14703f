//! Any events in any order, from a seed: after each of them the core must choose as its definition
//! says.
//!
//! The [simulation](super::super::simulation) knows what its instances do; here nobody does, so that
//! states come about that a sound world does not see, and there are more instances, sets and changes.

use std::sync::Arc;
use std::time::Duration;

use bugle_instances::StartError;
use bugle_types::pool::PoolChoice;
use bugle_types::{CpuMillis, FunctionSpec, Generation, LabelledScale, Resources, Scale};
use tokio::time::Instant;

use super::super::{Action, Census, Core, Event, Key, Set, Ticket};
use crate::testing::{Dice, spec};
use crate::{Config, InstanceState};

const SEEDS: u64 = 24;
const EVENTS: u32 = 1500;

struct History {
    dice: Dice,
    core: Core,
    spec: FunctionSpec,
    now: Instant,
    tickets: u64,
    /// How many instances there may be at most.
    size: u32,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let size = if dice.chance(30) { 150 } else { 12 };
        let mut spec = spec("f", "0", 1, 0, size);
        if dice.chance(30) {
            spec.pool.pool = Some("pool".parse().expect("a name"));
        }
        let config = Config {
            idle_seconds: 1 + dice.below(20),
            queue_limit: 100,
            ..Config::default()
        };
        Self {
            dice,
            core: Core::new(Arc::new(spec.clone()), Arc::new(config)),
            spec,
            now: Instant::now(),
            tickets: 0,
            size,
        }
    }

    fn resources(&mut self) -> Resources {
        let mut resources = Resources::default();
        if self.dice.chance(25) {
            resources.cpu = CpuMillis(500 * self.dice.number(1, 4));
        }
        if self.dice.chance(10) {
            let amount = i64::from(self.dice.number(1, 2));
            resources.custom.push(("gpu".to_owned(), amount));
        }
        resources
    }

    /// What a call may ask for: often the same as others.
    fn set(&mut self) -> Set {
        let label = (self.dice.chance(25)).then(|| format!("label-{}", self.dice.number(0, 2)));
        let place = PoolChoice {
            groups: vec!["elsewhere".to_owned()],
            ..PoolChoice::default()
        };
        Set {
            label: label.map(|label| label.parse().expect("a label")),
            resources: if self.dice.chance(70) {
                self.spec.resources.clone()
            } else {
                self.resources()
            },
            place: self.dice.chance(10).then(|| Arc::new(place)),
        }
    }

    fn bounds(&mut self) -> Scale {
        let max = self.dice.number(0, self.size);
        let min = if self.dice.chance(40) { 0 } else { max / 2 };
        Scale { min, max }
    }

    fn change(&mut self) -> Event {
        if self.dice.chance(50) {
            let generation = self.dice.number(0, 3).to_string();
            self.spec.generation = Generation(generation.into());
        }
        if self.dice.chance(50) {
            self.spec.scale = self.bounds();
            self.spec.labels = (0..self.dice.number(0, 2))
                .map(|number| LabelledScale {
                    label: format!("label-{number}").parse().expect("a label"),
                    scale: self.bounds(),
                })
                .collect();
        }
        if self.dice.chance(30) {
            let concurrency = self.dice.number(1, 6);
            self.spec.concurrency = concurrency.try_into().expect("it is not 0");
        }
        if self.dice.chance(20) {
            self.spec.resources = self.resources();
        }
        if self.dice.chance(20) {
            let idle = Duration::from_secs(self.dice.below(20));
            self.spec.idle = self.dice.chance(50).then_some(idle);
        }
        Event::Changed(Arc::new(self.spec.clone()))
    }

    fn request(&mut self) -> Option<Event> {
        self.tickets += 1;
        let set = self.set();
        // As the shell does it.
        if self.core.take_slot(&set).is_some() {
            return None;
        }
        let deadline = self.now + Duration::from_secs(self.dice.below(60));
        Some(Event::Request {
            ticket: Ticket(self.tickets),
            set,
            deadline,
        })
    }

    /// Some instance: of those that are like that, if there are any.
    fn some(&mut self, wanted: InstanceState) -> Key {
        let all = self.core.describe();
        let alike = all.iter().filter(|(_, _, state, _)| *state == wanted);
        let alike: Vec<Key> = alike.map(|(key, ..)| *key).collect();
        match alike.len() {
            0 => Key(self.dice.below(20)),
            count => alike[usize::try_from(self.dice.below(count as u64)).expect("small")],
        }
    }

    fn census(&mut self) -> Census {
        let count = self.dice.number(0, 3);
        (count > 0).then_some((None, count)).into_iter().collect()
    }

    fn event(&mut self) -> Option<Event> {
        let (starting, ready) = (InstanceState::Starting, InstanceState::Ready);
        Some(match self.dice.below(1000) {
            0..400 => return self.request(),
            400..540 => Event::Started(self.some(starting)),
            540..555 => {
                let error = match self.dice.below(4) {
                    0 => StartError::Platform("no process".to_owned()),
                    1 => StartError::NoRoom("no worker".to_owned()),
                    2 => StartError::Unsupported("no interpreter".to_owned()),
                    _ => super::init_error(),
                };
                Event::StartFailed(self.some(starting), error)
            }
            555..800 => Event::Answered(self.some(ready)),
            800..815 => Event::Answered(self.some(InstanceState::Draining)),
            815..830 => Event::GivenUp(self.some(ready)),
            830..840 => Event::Exited(self.some(ready)),
            840..880 => Event::Exited(self.some(InstanceState::Draining)),
            880..885 => Event::Lost(self.some(ready)),
            885..895 => Event::Leaving(self.some(ready)),
            895..905 => Event::Cancelled(Ticket(self.dice.below(self.tickets + 1))),
            905..920 => self.change(),
            920..925 => Event::Moved,
            925..935 => Event::Opened,
            935..955 => Event::Elsewhere(self.census()),
            955..960 => Event::Orphans(self.census()),
            960..970 => Event::Hold(self.dice.chance(20)),
            970..971 => Event::Fenced,
            971..980 => {
                let set = self.set();
                Event::Started(self.core.adopt(set)?)
            }
            _ => Event::Tick,
        })
    }

    fn run(mut self) {
        for _ in 0..EVENTS {
            self.now += Duration::from_millis(self.dice.below(300));
            if let Some(event) = self.event() {
                let mut actions: Vec<Action> = Vec::new();
                self.core.on(event, self.now, &mut actions);
            }
            let sets = [self.set(), self.set()];
            self.core.compare_with_definition(&sets, self.now);
        }
    }
}

#[test]
fn whatever_happens_the_choice_is_that_of_the_definition() {
    for seed in 1..=SEEDS {
        History::new(seed).run();
    }
}
