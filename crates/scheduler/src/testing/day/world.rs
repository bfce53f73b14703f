//! The simulated world: what comes when, and the books that are kept of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{InstanceId, StartError};
use bugle_types::{Resources, TenantId};
use tokio::time::Instant;

use super::nodes::view;
use super::{Report, Size};
use crate::Config;
use crate::core::{Action, Core, Event, Key, Set, Ticket};
use crate::placement::{Health, NodeId, Placement, PoolRule, Request, Tenancy};
use crate::testing::Dice;

/// The longest that a call runs, in milliseconds; most are much shorter.
pub(super) const LONGEST_CALL: u64 = 20_000;

/// How long a start waits for room, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What comes at a time that is known already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Coming {
    Second,
    Arrival(u32),
    Tick(u32, Instant),
    StartEnds(u32, Key),
    LookAgain(u32, Key, Instant),
    CallEnds(u32, Key, Ticket),
    Gone(u32, Key),
    Death,
    Drain,
    Empty(u32),
    Back(u32),
    Whole(u32),
}

/// A function in the world's books.
pub(super) struct Function {
    pub(super) core: Core,
    pub(super) tenant: TenantId,
    pub(super) set: Set,
    pub(super) max: usize,
    pub(super) minimum: usize,
    /// Calls that an instance runs at once.
    pub(super) at_once: usize,
    pub(super) tickets: u64,
    pub(super) armed: Option<Instant>,
    pub(super) instances: BTreeMap<Key, Books>,
    pub(super) waiting: BTreeSet<Ticket>,
    /// Whether a start ever found no room; then nothing is promised of its minimum.
    pub(super) crowded: bool,
}

/// An instance in the world's books.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) node: Option<u32>,
    pub(super) up: bool,
    pub(super) ends: bool,
    pub(super) running: BTreeSet<Ticket>,
}

pub(super) struct World {
    pub(super) size: Size,
    pub(super) dice: Dice,
    pub(super) config: Arc<Config>,
    pub(super) now: Instant,
    pub(super) end: Instant,
    agenda: BinaryHeap<Reverse<(Instant, u64, Coming)>>,
    numbered: u64,
    pub(super) functions: Vec<Option<Box<Function>>>,
    pub(super) placement: Placement,
    /// What is on each node, by the world's books.
    pub(super) on_node: Vec<BTreeMap<(u32, Key), Resources>>,
    pub(super) health: Vec<Health>,
    names: HashMap<NodeId, u32>,
    pub(super) alive: usize,
    pub(super) report: Report,
}

fn identity(function: u32, key: Key) -> InstanceId {
    InstanceId(u128::from(function) << 64 | u128::from(key.0))
}

impl World {
    pub(super) fn new(size: Size) -> Self {
        let now = Instant::now();
        let mut placement = Placement::new(Tenancy::Shared);
        let mut names = HashMap::new();
        for number in 0..size.nodes {
            let view = view(number);
            names.insert(view.id.clone(), number);
            placement.join(view);
        }
        let nodes = usize::try_from(size.nodes).expect("nodes fit into memory");
        let mut world = Self {
            size,
            dice: Dice::new(size.seed),
            config: Arc::new(Config::default()),
            now,
            end: now + Duration::from_secs(u64::from(size.seconds)),
            agenda: BinaryHeap::new(),
            numbered: 0,
            functions: Vec::new(),
            placement,
            on_node: vec![BTreeMap::new(); nodes],
            health: vec![Health::Live; nodes],
            names,
            alive: 0,
            report: Report::default(),
        };
        world.functions.resize_with(
            usize::try_from(size.functions).expect("functions fit into memory"),
            || None,
        );
        // Those that keep instances are in use from the start.
        for number in 0..size.functions / 100 {
            world.on(number, Event::Tick);
        }
        world.later(Duration::ZERO, Coming::Second);
        world.later(Duration::from_secs(30), Coming::Death);
        world.later(Duration::from_secs(45), Coming::Drain);
        world
    }

    pub(super) fn later(&mut self, wait: Duration, what: Coming) {
        self.at(self.now + wait, what);
    }

    fn at(&mut self, at: Instant, what: Coming) {
        self.numbered += 1;
        self.agenda.push(Reverse((at, self.numbered, what)));
    }

    pub(super) fn run(&mut self) {
        while let Some(Reverse((at, _, what))) = self.agenda.pop() {
            self.now = at;
            self.happen(what);
            self.report.most_instances = self.report.most_instances.max(self.alive);
        }
    }

    fn happen(&mut self, what: Coming) {
        match what {
            Coming::Second => self.second(),
            Coming::Arrival(function) => self.arrival(function),
            Coming::Tick(function, at) => {
                let known = self.function(function);
                if known.armed == Some(at) {
                    known.armed = None;
                    self.on(function, Event::Tick);
                }
            }
            Coming::StartEnds(function, key) => {
                if let Some(books) = self.function(function).instances.get_mut(&key)
                    && !books.ends
                {
                    books.up = true;
                    self.on(function, Event::Started(key));
                }
            }
            Coming::LookAgain(function, key, until) => self.place(function, key, until),
            Coming::CallEnds(function, key, ticket) => {
                let known = self.function(function).instances.get_mut(&key);
                if known.is_some_and(|books| books.running.remove(&ticket)) {
                    self.report.served += 1;
                    self.on(function, Event::Answered(key));
                }
            }
            Coming::Gone(function, key) => self.gone(function, key),
            Coming::Death => self.death(),
            Coming::Drain => self.drain(),
            Coming::Empty(node) => self.empty(node),
            Coming::Back(node) => self.back(node),
            Coming::Whole(function) => {
                let (seed, known) = (self.size.seed, self.function(function));
                let up = known
                    .instances
                    .values()
                    .filter(|books| books.up && !books.ends);
                assert!(
                    known.crowded || up.count() >= known.minimum,
                    "seed {seed}: the minimum of function {function} was not replaced in time"
                );
            }
        }
    }

    fn arrival(&mut self, number: u32) {
        self.report.calls += 1;
        let deadline = self.now + Duration::from_hours(1);
        let function = self.function(number);
        let ticket = Ticket(function.tickets);
        function.tickets += 1;
        function.waiting.insert(ticket);
        let set = function.set.clone();
        let begin = Instant::now();
        self.on(
            number,
            Event::Request {
                ticket,
                set,
                deadline,
            },
        );
        self.report.decisions.add(begin.elapsed());
    }

    /// Tells a core of an event and does what it says.
    pub(super) fn on(&mut self, number: u32, event: Event) {
        let now = self.now;
        let function = self.function(number);
        let mut actions = Vec::new();
        function.core.on(event, now, &mut actions);
        if let Some(due) = function.core.due()
            && function.armed.is_none_or(|armed| due < armed)
        {
            function.armed = Some(due);
            self.at(due, Coming::Tick(number, due));
        }
        for action in actions {
            self.act(number, &action);
        }
    }

    fn act(&mut self, number: u32, action: &Action) {
        let seed = self.size.seed;
        match *action {
            Action::Assign { ticket, key } => {
                let function = self.function(number);
                assert!(
                    function.waiting.remove(&ticket),
                    "seed {seed}: answered twice"
                );
                let books = function.instances.get_mut(&key).expect("it lives");
                assert!(
                    books.up && !books.ends,
                    "seed {seed}: a call for a dead instance"
                );
                books.running.insert(ticket);
                let running = books.running.len();
                assert!(
                    running <= function.at_once,
                    "seed {seed}: {running} calls at once in an instance of function {number}"
                );
                let long = self.dice.chance(1);
                let millis = self.dice.below(if long { LONGEST_CALL } else { 200 });
                let wait = Duration::from_millis(1 + millis);
                self.later(wait, Coming::CallEnds(number, key, ticket));
            }
            Action::Reject(ticket, _) => {
                let answered = self.function(number).waiting.remove(&ticket);
                assert!(answered, "seed {seed}: answered twice");
                self.report.refused += 1;
            }
            Action::Start(key, _, _) => {
                self.report.starts += 1;
                self.alive += 1;
                let function = self.function(number);
                function.instances.insert(key, Books::default());
                let (count, max) = (function.instances.len(), function.max);
                assert!(
                    count <= max,
                    "seed {seed}: function {number} has more than {max}"
                );
                let until = self.now + PATIENCE;
                self.place(number, key, until);
            }
            Action::Stop(key) | Action::Kill(key) => {
                if let Some(books) = self.function(number).instances.get_mut(&key) {
                    books.ends = true;
                    self.later(Duration::from_millis(5), Coming::Gone(number, key));
                }
            }
        }
    }

    /// Places an instance that comes up, or looks again later.
    fn place(&mut self, number: u32, key: Key, until: Instant) {
        let Some(function) = &self.functions[number as usize] else {
            return;
        };
        if function.instances.get(&key).is_none_or(|books| books.ends) {
            return;
        }
        let spec = function.core.spec();
        let request = Request {
            instance: identity(number, key),
            tenant: &function.tenant,
            resources: &function.set.resources,
            choice: &spec.pool,
            pool: PoolRule::First,
        };
        let begin = Instant::now();
        let placed = self.placement.place(&request);
        self.report.placements.add(begin.elapsed());
        match placed {
            Ok(node) => self.placed(number, key, self.names[&node]),
            Err(_) if self.now < until => {
                self.function(number).crowded = true;
                self.later(LOOK_AGAIN, Coming::LookAgain(number, key, until));
            }
            Err(why) => {
                self.function(number).instances.remove(&key);
                self.alive -= 1;
                let error = StartError::NoRoom(why.to_string());
                self.on(number, Event::StartFailed(key, error));
            }
        }
    }

    fn placed(&mut self, number: u32, key: Key, node: u32) {
        let seed = self.size.seed;
        let health = self.health[node as usize];
        assert_eq!(
            health,
            Health::Live,
            "seed {seed}: node {node} gets instances"
        );
        let function = self.function(number);
        let books = function.instances.get_mut(&key).expect("it was just there");
        books.node = Some(node);
        let resources = function.set.resources.clone();
        let here = &mut self.on_node[node as usize];
        here.insert((number, key), resources);
        let cpu: u64 = here.values().map(|used| u64::from(used.cpu.0)).sum();
        let memory: u64 = here.values().map(|used| used.memory.0).sum();
        assert!(
            cpu <= 16_000 && memory <= 32_768,
            "seed {seed}: node {node} has {cpu}m and {memory} MiB"
        );
        let millis = if self.dice.chance(10) { 900 } else { 20 };
        let wait = Duration::from_millis(3 + self.dice.below(millis));
        self.later(wait, Coming::StartEnds(number, key));
    }

    /// An instance ended as it was told.
    fn gone(&mut self, number: u32, key: Key) {
        let Some(books) = self.function(number).instances.remove(&key) else {
            return;
        };
        assert!(
            books.running.is_empty(),
            "a call was cut off in seed {}",
            self.size.seed
        );
        self.alive -= 1;
        if let Some(node) = books.node {
            self.on_node[node as usize].remove(&(number, key));
        }
        self.placement.release(identity(number, key));
        self.on(number, Event::Exited(key));
    }

    /// Everything has settled: each call has its answer, and only the minima are left.
    pub(super) fn end(self) -> Report {
        let seed = self.size.seed;
        for (number, function) in self.functions.iter().enumerate() {
            let Some(function) = function else { continue };
            assert!(
                function.waiting.is_empty(),
                "seed {seed}: a call of {number} waits for ever"
            );
            let running = function
                .instances
                .values()
                .any(|books| !books.running.is_empty());
            assert!(!running, "seed {seed}: a call of {number} runs for ever");
            let (left, minimum) = (function.instances.len(), function.minimum);
            assert!(
                left == minimum || function.crowded,
                "seed {seed}: function {number} has {left} instances and not {minimum}"
            );
        }
        let Report {
            calls,
            served,
            refused,
            lost,
            ..
        } = self.report;
        assert_eq!(
            calls,
            served + refused + lost,
            "seed {seed}: each call has one answer"
        );
        self.report
    }
}
