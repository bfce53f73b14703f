//! Hours of traffic with crashes, slow and failing starts, bursts and updates, from a seed.
//!
//! The world around the core is simulated event by event; after each the rules of the module's head
//! are checked from the outside: the world keeps its own books of what is alive and who runs what.
//! A failing seed is named in the panic.

mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::StartError;
use bugle_types::{
    CpuMillis, FunctionSpec, Generation, InstanceLabel, LabelledScale, Resources, Scale,
};
use tokio::time::Instant;

use super::{Action, Core, Event, Key, Rejection, Set, Ticket};
use crate::Config;
use crate::testing::{Dice, spec};

/// Seeds of one run, and simulated seconds of each: together far beyond the 10,000 seconds that are
/// promised.
const SEEDS: u64 = 60;
const SECONDS: u64 = 1000;

/// After the traffic ends, everything must settle within this.
const SETTLING: Duration = Duration::from_mins(5);

fn label(number: u32) -> InstanceLabel {
    format!("label-{number}").parse().expect("a label")
}

/// Bounds of the function and of up to two labelled sets.
fn set_bounds(spec: &mut FunctionSpec, dice: &mut Dice) {
    let max = dice.number(1, 8);
    let min = dice.number(0, max);
    spec.scale = Scale { min, max };
    spec.labels.clear();
    for number in 0..dice.number(0, 2) {
        let max = dice.number(1, 3);
        let min = dice.number(0, max);
        spec.labels.push(LabelledScale {
            label: label(number),
            scale: Scale { min, max },
        });
    }
}

/// Something that will happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Coming {
    Arrival,
    Burst,
    StartEnds(Key),
    CallEnds(Key, Ticket),
    CallIsOverdue(Key, Ticket),
    Gone(Key),
    Crash,
    Change,
    Cancel,
    /// Another scheduler gets the function.
    Leave,
    /// It comes back.
    Return,
    /// Others say how many instances they still have of it.
    Told(u32),
}

/// An instance in the world's books.
#[derive(Debug)]
struct Process {
    ready: bool,
    told_to_end: bool,
    concurrency: u32,
    set: Set,
    /// When its code was superseded.
    superseded: Option<Instant>,
    has_answered: bool,
    running: BTreeSet<Ticket>,
    /// Calls that were answered without it, and on which it still works.
    overdue: u32,
}

struct World {
    seed: u64,
    dice: Dice,
    core: Core,
    config: Arc<Config>,
    spec: Arc<FunctionSpec>,
    begin: Instant,
    now: Instant,
    agenda: BTreeMap<(Instant, u64), Coming>,
    numbered: u64,
    processes: BTreeMap<Key, Process>,
    waiting: BTreeMap<Ticket, Set>,
    running: BTreeMap<Ticket, Key>,
    answered: BTreeSet<Ticket>,
    deadlines: BTreeMap<Ticket, Instant>,
    tickets: u64,
    /// Before then no instance of the set may be started: its last start failed.
    held: BTreeMap<Set, Instant>,
    /// When the code was changed last.
    updated: Instant,
    /// How many instances others have; none while nobody has said it.
    elsewhere: Option<u32>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let concurrency = dice.number(1, 5);
        let mut spec = spec("f", "1", concurrency, 0, 1);
        set_bounds(&mut spec, &mut dice);
        let spec = Arc::new(spec);
        let config = Arc::new(Config {
            idle_seconds: 1 + dice.below(60),
            queue_limit: usize::try_from(5 + dice.below(100)).expect("small"),
            ..Config::default()
        });
        let now = Instant::now();
        let mut world = Self {
            seed,
            dice,
            core: Core::new(Arc::clone(&spec), Arc::clone(&config)),
            config,
            spec: Arc::clone(&spec),
            begin: now,
            now,
            agenda: BTreeMap::new(),
            numbered: 0,
            processes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            answered: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            tickets: 0,
            held: BTreeMap::new(),
            updated: now,
            elsewhere: Some(0),
        };
        world.tell(Event::Changed(spec));
        for coming in [
            Coming::Arrival,
            Coming::Burst,
            Coming::Crash,
            Coming::Change,
            Coming::Cancel,
            Coming::Leave,
        ] {
            world.plan(1000, coming);
        }
        world
    }

    fn run(mut self) {
        let end = self.begin + Duration::from_secs(SECONDS);
        self.run_until(end, true);
        // No more traffic: what is open must end, and the function settle.
        self.run_until(end + SETTLING, false);
        self.check_settled();
        self.shut_down();
    }

    fn run_until(&mut self, end: Instant, traffic: bool) {
        loop {
            let planned = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let next = planned.into_iter().chain(self.core.due()).min();
            let Some(at) = next.filter(|at| *at <= end) else {
                break;
            };
            self.now = at.max(self.now);
            if planned == Some(at) {
                if let Some((_, coming)) = self.agenda.pop_first() {
                    self.happen(&coming, traffic);
                }
            } else {
                self.tell(Event::Tick);
            }
            self.check();
        }
        self.now = end;
    }

    fn plan(&mut self, within_millis: u64, coming: Coming) {
        let at = self.now + Duration::from_millis(1 + self.dice.below(within_millis));
        self.numbered += 1;
        self.agenda.insert((at, self.numbered), coming);
    }

    fn happen(&mut self, coming: &Coming, traffic: bool) {
        match *coming {
            Coming::Arrival if traffic => {
                self.arrive();
                self.plan(2000, Coming::Arrival);
            }
            Coming::Burst if traffic => {
                for _ in 0..self.dice.below(60) {
                    self.arrive();
                }
                self.plan(120_000, Coming::Burst);
            }
            Coming::Crash if traffic => {
                let keys: Vec<Key> = self.processes.keys().copied().collect();
                if !keys.is_empty() {
                    let victim =
                        keys[usize::try_from(self.dice.below(keys.len() as u64)).expect("small")];
                    self.gone(victim);
                }
                self.plan(40_000, Coming::Crash);
            }
            Coming::Change if traffic => {
                self.change();
                self.plan(60_000, Coming::Change);
            }
            Coming::Cancel if traffic => {
                if let Some((&ticket, _)) = self.waiting.first_key_value() {
                    self.waiting.remove(&ticket);
                    self.answered.insert(ticket);
                    self.tell(Event::Cancelled(ticket));
                }
                self.plan(10_000, Coming::Cancel);
            }
            Coming::Leave if traffic => {
                self.tell(Event::Moved);
                self.plan(20_000, Coming::Return);
            }
            Coming::Return => {
                self.elsewhere = None;
                self.tell(Event::Opened);
                self.tell(Event::Changed(Arc::clone(&self.spec)));
                let count = self.dice.number(0, 4);
                self.plan(3000, Coming::Told(count));
                self.plan(200_000, Coming::Leave);
            }
            Coming::Told(count) => {
                self.elsewhere = Some(count);
                let census = (count > 0).then_some((None, count));
                self.tell(Event::Elsewhere(census.into_iter().collect()));
                if let Some(fewer) = count.checked_sub(1) {
                    self.plan(3000, Coming::Told(fewer));
                }
            }
            Coming::StartEnds(key) => self.start_ends(key),
            Coming::CallEnds(key, ticket) => self.call_ends(key, ticket),
            Coming::CallIsOverdue(key, ticket) => self.call_is_overdue(key, ticket),
            Coming::Gone(key) => self.gone(key),
            _ => {}
        }
    }

    fn arrive(&mut self) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let mut resources = self.spec.resources.clone();
        if self.dice.chance(10) {
            resources = Resources {
                cpu: CpuMillis(9000),
                ..resources
            };
        }
        let label = self.dice.chance(25).then(|| label(self.dice.number(0, 2)));
        let set = Set {
            label,
            resources,
            place: None,
        };
        self.waiting.insert(ticket, set.clone());
        // As the shell does it.
        if let Some(key) = self.core.take_slot(&set) {
            return self.act(Action::Assign { ticket, key });
        }
        let deadline = self.now + Duration::from_secs(5 + self.dice.below(60));
        let limit = self.now + self.config.acquire(None);
        self.deadlines.insert(ticket, deadline.min(limit));
        self.tell(Event::Request {
            ticket,
            set,
            deadline,
        });
    }

    fn change(&mut self) {
        let mut spec = FunctionSpec::clone(&self.spec);
        set_bounds(&mut spec, &mut self.dice);
        if self.dice.chance(60) {
            spec.generation = Generation(format!("{}", self.numbered).into());
            spec.concurrency = self.dice.number(1, 5).try_into().expect("it is not 0");
            self.held.clear();
            self.updated = self.now;
            for process in self.processes.values_mut() {
                process.superseded.get_or_insert(self.now);
            }
        }
        self.spec = Arc::new(spec);
        self.tell(Event::Changed(Arc::clone(&self.spec)));
    }

    fn start_ends(&mut self, key: Key) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if process.told_to_end {
            self.processes.remove(&key);
            self.tell(Event::Exited(key));
        } else if self.dice.chance(15) {
            let error = match self.dice.below(5) {
                0 | 1 => StartError::Platform("no process".to_owned()),
                2 => StartError::Unsupported("no interpreter".to_owned()),
                3 => StartError::NoRoom("no worker".to_owned()),
                _ => StartError::Initialization {
                    message: "boom".to_owned(),
                    trace: None,
                },
            };
            self.start_failed(key, error);
        } else {
            process.ready = true;
            if process.superseded.is_none() {
                self.held.remove(&process.set);
            }
            self.tell(Event::Started(key));
        }
    }

    fn start_failed(&mut self, key: Key, error: StartError) {
        let Some(process) = self.processes.remove(&key) else {
            return;
        };
        let pause = match error {
            StartError::Unsupported(_) | StartError::NoRoom(_) => None,
            StartError::Platform(_) => Some(Duration::from_millis(200)),
            _ => Some(Duration::from_secs(1)),
        };
        if let Some(pause) = pause.filter(|_| process.superseded.is_none()) {
            let held = self.held.entry(process.set).or_insert(self.now);
            *held = (self.now + pause).max(*held);
        }
        self.tell(Event::StartFailed(key, error));
    }

    fn call_ends(&mut self, key: Key, ticket: Ticket) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if process.running.remove(&ticket) {
            if process.superseded.is_none() && !process.has_answered {
                self.held.remove(&process.set);
            }
            process.has_answered = true;
            self.running.remove(&ticket);
            self.answer(ticket);
            self.tell(Event::Answered(key));
        }
    }

    fn call_is_overdue(&mut self, key: Key, ticket: Ticket) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if process.running.remove(&ticket) {
            process.overdue += 1;
            self.running.remove(&ticket);
            self.answer(ticket);
            self.tell(Event::GivenUp(key));
        }
    }

    fn gone(&mut self, key: Key) {
        let starts = |process: &Process| !process.ready && !process.told_to_end;
        if self.processes.get(&key).is_some_and(starts) {
            let cause = bugle_instances::ExitCause::Signal(9);
            return self.start_failed(key, StartError::Exited(cause));
        }
        let Some(mut process) = self.processes.remove(&key) else {
            return;
        };
        // The caller of a lost call may know before the watcher of the process does, or after.
        let noticed_first = self.dice.number(0, 5) as usize;
        let before: Vec<Ticket> = process
            .running
            .iter()
            .copied()
            .take(noticed_first)
            .collect();
        for ticket in before {
            process.running.remove(&ticket);
            process.told_to_end = true;
            self.running.remove(&ticket);
            self.answer(ticket);
            // It is not gone for the core yet, but may get no call any more.
            self.processes.insert(key, process);
            self.tell(Event::GivenUp(key));
            process = self.processes.remove(&key).expect("it was put there");
        }
        self.tell(Event::Exited(key));
        for ticket in process.running {
            self.running.remove(&ticket);
            self.answer(ticket);
            self.tell(Event::GivenUp(key));
        }
    }

    fn answer(&mut self, ticket: Ticket) {
        assert!(
            self.answered.insert(ticket),
            "seed {}: {ticket:?} was answered twice",
            self.seed
        );
    }

    fn tell(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.core.on(event, self.now, &mut actions);
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        let seed = self.seed;
        match action {
            Action::Assign { ticket, key } => {
                let wanted = self
                    .waiting
                    .remove(&ticket)
                    .unwrap_or_else(|| panic!("seed {seed}: {ticket:?} does not wait"));
                let process = self
                    .processes
                    .get_mut(&key)
                    .unwrap_or_else(|| panic!("seed {seed}: {key:?} is gone"));
                assert!(
                    process.ready && !process.told_to_end,
                    "seed {seed}: {key:?} takes no calls"
                );
                assert!(
                    process.set.serves(&wanted),
                    "seed {seed}: {key:?} is too small"
                );
                let limit = self.config.switch();
                let late = process.superseded.is_some_and(|at| self.now > at + limit);
                assert!(!late, "seed {seed}: old code after the switch");
                assert_eq!(
                    process.overdue, 0,
                    "seed {seed}: {key:?} hangs and got a call"
                );
                process.running.insert(ticket);
                let running = u32::try_from(process.running.len()).expect("small");
                assert!(
                    running <= process.concurrency,
                    "seed {seed}: {running} calls at once"
                );
                self.running.insert(ticket, key);
                if self.dice.chance(2) {
                    self.plan(10_000, Coming::CallIsOverdue(key, ticket));
                } else {
                    self.plan(3000, Coming::CallEnds(key, ticket));
                }
            }
            Action::Reject(ticket, rejection) => {
                assert!(
                    self.waiting.remove(&ticket).is_some(),
                    "seed {seed}: {ticket:?} does not wait"
                );
                let told_early = rejection == Rejection::Timeout && !self.is_late(ticket);
                assert!(!told_early, "seed {seed}: {ticket:?} had time left");
                self.answer(ticket);
            }
            Action::Start(key, set, spec) => {
                let process = Process {
                    ready: false,
                    told_to_end: false,
                    concurrency: spec.concurrency.get(),
                    set,
                    superseded: None,
                    has_answered: false,
                    running: BTreeSet::new(),
                    overdue: 0,
                };
                assert_eq!(
                    spec.generation, self.spec.generation,
                    "seed {seed}: old code is started"
                );
                self.processes.insert(key, process);
                self.check_start(key);
                let slow = if self.dice.chance(5) { 20_000 } else { 300 };
                self.plan(slow, Coming::StartEnds(key));
            }
            Action::Stop(key) | Action::Kill(key) => {
                if let Some(process) = self.processes.get_mut(&key) {
                    let kill = matches!(action, Action::Kill(_));
                    assert!(
                        process.running.is_empty(),
                        "seed {seed}: {key:?} is ended with calls"
                    );
                    assert!(
                        kill || process.overdue == 0,
                        "seed {seed}: a hanging instance is asked to stop"
                    );
                    process.told_to_end = true;
                    if process.ready {
                        self.plan(2000, Coming::Gone(key));
                    }
                }
            }
        }
    }

    fn shut_down(&mut self) {
        self.tell(Event::ShuttingDown);
        self.run_until(self.now + SETTLING, false);
        assert!(self.processes.is_empty(), "seed {}: still alive", self.seed);
    }
}

#[test]
fn every_rule_holds_through_hours_of_trouble() {
    for seed in 1..=SEEDS {
        World::new(seed).run();
    }
}
