//! Hours of traffic with crashes, slow and failing starts, bursts and updates, from a seed.
//!
//! The world around the core is simulated event by event; after each the rules of the module's head
//! are checked from the outside: the world keeps its own books of what is alive and who runs what.
//! A failing seed is named in the panic; run it alone with `one_seed`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::StartError;
use bugle_types::{CpuMillis, FunctionSpec, Generation, Resources, Scale};
use tokio::time::Instant;

use super::{Action, Core, Event, Key, Rejection, Set, Ticket};
use crate::Config;
use crate::testing::spec;

/// Seeds of one run, and simulated seconds of each: together far beyond the 10,000 seconds that are
/// promised.
const SEEDS: u64 = 60;
const SECONDS: u64 = 600;

/// After the traffic ends, everything must settle within this.
const SETTLING: Duration = Duration::from_mins(5);

/// A small generator of good enough numbers (xorshift*), so that a seed means the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
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
}

/// An instance in the world's books.
#[derive(Debug)]
struct Process {
    ready: bool,
    told_to_end: bool,
    generation: Generation,
    concurrency: u32,
    set: Set,
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
    tickets: u64,
    /// The old code may be used until then.
    changed_at: Instant,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let max = u32::try_from(1 + dice.below(8)).expect("small");
        let min = u32::try_from(dice.below(u64::from(max) + 1)).expect("small");
        let concurrency = u32::try_from(1 + dice.below(5)).expect("small");
        let spec = Arc::new(spec("f", "1", concurrency, min, max));
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
            tickets: 0,
            changed_at: now,
        };
        world.tell(Event::Changed(spec));
        for coming in [
            Coming::Arrival,
            Coming::Burst,
            Coming::Crash,
            Coming::Change,
            Coming::Cancel,
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
        let set = Set {
            label: None,
            resources,
        };
        self.waiting.insert(ticket, set.clone());
        let deadline = self.now + Duration::from_secs(5 + self.dice.below(60));
        self.tell(Event::Request {
            ticket,
            set,
            deadline,
        });
    }

    fn change(&mut self) {
        let mut spec = FunctionSpec::clone(&self.spec);
        spec.scale.max = u32::try_from(1 + self.dice.below(8)).expect("small");
        spec.scale.min =
            u32::try_from(self.dice.below(u64::from(spec.scale.max) + 1)).expect("small");
        if self.dice.chance(60) {
            spec.generation = Generation(format!("{}", self.numbered).into());
            spec.concurrency = u32::try_from(1 + self.dice.below(5))
                .expect("small")
                .try_into()
                .expect("> 0");
            self.changed_at = self.now;
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
            self.processes.remove(&key);
            let error = if self.dice.chance(50) {
                StartError::Platform("no process".to_owned())
            } else {
                StartError::Initialization {
                    message: "boom".to_owned(),
                    trace: None,
                }
            };
            self.tell(Event::StartFailed(key, error));
        } else {
            process.ready = true;
            self.tell(Event::Started(key));
        }
    }

    fn call_ends(&mut self, key: Key, ticket: Ticket) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if process.running.remove(&ticket) {
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
            self.tell(Event::Overdue(key));
        }
    }

    fn gone(&mut self, key: Key) {
        let Some(process) = self.processes.remove(&key) else {
            return;
        };
        let was_starting = !process.ready;
        self.tell(if was_starting && !process.told_to_end {
            let cause = bugle_instances::ExitCause::Signal(9);
            Event::StartFailed(key, StartError::Exited(cause))
        } else {
            Event::Exited(key)
        });
        // Their leases end after the instance is known to be gone, as in the shell.
        for ticket in process.running {
            self.running.remove(&ticket);
            self.answer(ticket);
            self.tell(Event::Answered(key));
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
                let old = process.generation != self.spec.generation;
                let late = self.now > self.changed_at + self.config.switch();
                assert!(!(old && late), "seed {seed}: old code after the switch");
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
                assert_ne!(rejection, Rejection::UnknownLabel, "seed {seed}");
                self.answer(ticket);
            }
            Action::Start(key, set, spec) => {
                let process = Process {
                    ready: false,
                    told_to_end: false,
                    generation: spec.generation.clone(),
                    concurrency: spec.concurrency.get(),
                    set,
                    running: BTreeSet::new(),
                    overdue: 0,
                };
                assert_eq!(
                    spec.generation, self.spec.generation,
                    "seed {seed}: old code is started"
                );
                self.processes.insert(key, process);
                self.check_maximum_at_start();
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

    /// The maximum may have been lowered below what lives; but nothing is started beyond it.
    fn check_maximum_at_start(&self) {
        let alive = self.processes.len();
        let max = self.spec.scale.max as usize;
        assert!(
            alive <= max,
            "seed {}: {alive} instances alive, {max} allowed",
            self.seed
        );
    }

    fn check(&self) {
        let seed = self.seed;
        let (queued, starting, ready, ending) = self.core.counts();
        assert_eq!(
            starting + ready + ending,
            self.processes.len(),
            "seed {seed}: lost count"
        );
        assert_eq!(
            queued,
            self.waiting.len(),
            "seed {seed}: somebody waits nowhere"
        );
        assert!(
            queued <= self.config.queue_limit,
            "seed {seed}: the queue is too long"
        );
        // Instances beyond a lowered maximum finish their calls and get no more: only the core knows
        // which it chose.
        let described = self.core.describe().into_iter();
        let leaving: BTreeSet<Key> = described
            .filter(|(_, _, state, _)| *state == crate::InstanceState::Draining)
            .map(|(key, ..)| key)
            .collect();
        for wanted in self.waiting.values() {
            for (key, process) in &self.processes {
                let usable = process.ready
                    && !leaving.contains(key)
                    && !process.told_to_end
                    && process.overdue == 0
                    && process.generation == self.spec.generation
                    && process.set.serves(wanted);
                let free = process.running.len() < process.concurrency as usize;
                assert!(
                    !(usable && free),
                    "seed {seed}: a call waits beside a free slot"
                );
            }
        }
    }

    fn check_settled(&self) {
        let seed = self.seed;
        let Scale { min, .. } = self.spec.scale;
        assert!(
            self.waiting.is_empty() && self.running.is_empty(),
            "seed {seed}: calls are left"
        );
        let asked = self.tickets;
        assert_eq!(
            self.answered.len() as u64,
            asked,
            "seed {seed}: each call has one answer"
        );
        let serving = self.processes.values().filter(|process| {
            process.ready
                && !process.told_to_end
                && process.generation == self.spec.generation
                && process.set.resources == self.spec.resources
        });
        assert_eq!(
            serving.count(),
            min as usize,
            "seed {seed}: settled at the minimum"
        );
        assert_eq!(
            self.processes.len(),
            min as usize,
            "seed {seed}: nothing else is left"
        );
    }
}

#[test]
fn every_rule_holds_through_hours_of_trouble() {
    for seed in 1..=SEEDS {
        World::new(seed).run();
    }
}
