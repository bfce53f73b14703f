//! A day of bursty traffic over thousands of nodes, from a seed, with the real cores.
//!
//! Every function has its own core and all share one [`Placement`], as in the platform; the world
//! around them is simulated event by event. Few functions are hot, the long tail is mostly cold;
//! nodes die, drain and come back. The world keeps books of its own, and panics with the seed when a
//! rule is broken:
//!
//! - a node never has more than it has room for, and a node that drains or is dead gets nothing;
//! - a function never has more instances than its maximum;
//! - each call is answered once: by its instance, with a reason, or with the loss of its node;
//! - a drain fails no call and ends with an empty node;
//! - what a dead node took from a minimum is replaced within three seconds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{InstanceId, StartError};
use bugle_types::{CpuMillis, MemoryMib, Resources, TenantId};
use tokio::time::Instant;

use super::{Dice, spec};
use crate::Config;
use crate::core::{Action, Core, Event, Key, Set, Ticket};
use crate::placement::{Capacity, Health, NodeId, NodeView, Placement, PoolRule, Request, Tenancy};

/// How much is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes, of 16 cores and 32 GiB.
    pub nodes: u32,
    /// Functions, each hundredth of which is hot.
    pub functions: u32,
    /// Instances that each hot function keeps; one more than twice as many is its maximum.
    pub minimum: u32,
    /// Seconds of traffic.
    pub seconds: u32,
    /// Calls in a second, beside the bursts.
    pub rate: u32,
    /// Where the numbers come from.
    pub seed: u64,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Calls that were made.
    pub calls: u64,
    /// Calls that got an answer from an instance.
    pub served: u64,
    /// Calls that were refused with a reason.
    pub refused: u64,
    /// Calls that were answered with the loss of their node.
    pub lost: u64,
    /// Instances that were started.
    pub starts: u64,
    /// The most that there were at once.
    pub most_instances: usize,
    /// Nodes that died.
    pub deaths: u32,
    /// Nodes that were drained.
    pub drains: u32,
    /// What each placement took, in nanoseconds, in order.
    pub placements: Vec<u64>,
    /// What each call took from its arrival to the end of the decision, starts included.
    pub decisions: Vec<u64>,
}

impl Report {
    /// The figure below which so many of a thousand are.
    pub fn quantile(figures: &[u64], thousandths: usize) -> u64 {
        let at = figures.len().saturating_sub(1) * thousandths / 1000;
        figures.get(at).copied().unwrap_or(0)
    }
}

/// Simulates it.
///
/// # Panics
///
/// If a rule is broken; the text names the seed.
pub fn run(size: Size) -> Report {
    let mut world = World::new(size);
    world.run();
    world.end()
}

/// How long a node that died or was drained is away.
const AWAY: Duration = Duration::from_mins(10);

/// The longest that a call runs, in milliseconds; most are much shorter.
const LONGEST_CALL: u64 = 20_000;

/// How long a start waits for room, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Coming {
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
struct Function {
    core: Core,
    tenant: TenantId,
    set: Set,
    max: usize,
    minimum: usize,
    tickets: u64,
    armed: Option<Instant>,
    instances: BTreeMap<Key, Books>,
    waiting: BTreeSet<Ticket>,
    /// Whether a start ever found no room; then nothing is promised of its minimum.
    crowded: bool,
}

#[derive(Debug, Default)]
struct Books {
    node: Option<u32>,
    up: bool,
    ends: bool,
    running: BTreeSet<Ticket>,
}

struct World {
    size: Size,
    dice: Dice,
    config: Arc<Config>,
    now: Instant,
    end: Instant,
    agenda: BinaryHeap<Reverse<(Instant, u64, Coming)>>,
    numbered: u64,
    functions: Vec<Option<Box<Function>>>,
    placement: Placement,
    /// What is on each node, by the world's books.
    on_node: Vec<BTreeMap<(u32, Key), Resources>>,
    health: Vec<Health>,
    names: HashMap<NodeId, u32>,
    alive: usize,
    report: Report,
}

fn identity(function: u32, key: Key) -> InstanceId {
    InstanceId(u128::from(function) << 64 | u128::from(key.0))
}

fn view(number: u32) -> NodeView {
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
    fn new(size: Size) -> Self {
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

    fn later(&mut self, wait: Duration, what: Coming) {
        self.at(self.now + wait, what);
    }

    fn at(&mut self, at: Instant, what: Coming) {
        self.numbered += 1;
        self.agenda.push(Reverse((at, self.numbered, what)));
    }

    fn run(&mut self) {
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
            Coming::Back(node) => {
                self.health[node as usize] = Health::Live;
                self.placement.join(view(node));
            }
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

    /// One second of traffic: more by day than by night, and a burst now and then.
    fn second(&mut self) {
        if self.now >= self.end {
            return;
        }
        let left = (self.end - self.now).as_secs() % 86_400;
        let by_day = 50 + (left.abs_diff(43_200) * 100) / 43_200;
        let calls = u64::from(self.size.rate) * by_day / 100;
        for _ in 0..calls {
            let function = self.some_function();
            let wait = Duration::from_micros(self.dice.below(1_000_000));
            self.later(wait, Coming::Arrival(function));
        }
        if self.dice.chance(4) {
            let function = self.some_function();
            for _ in 0..self.dice.number(100, 900) {
                let wait = Duration::from_micros(self.dice.below(300_000));
                self.later(wait, Coming::Arrival(function));
            }
        }
        self.later(Duration::from_secs(1), Coming::Second);
    }

    /// Most calls are of the hot ones.
    fn some_function(&mut self) -> u32 {
        let hot = self.size.functions / 100;
        if self.dice.chance(70) {
            self.dice.number(0, hot - 1)
        } else {
            self.dice.number(hot, self.size.functions - 1)
        }
    }

    fn function(&mut self, number: u32) -> &mut Function {
        let (size, config) = (self.size, &self.config);
        self.functions[number as usize].get_or_insert_with(|| {
            let hot = number < size.functions / 100;
            let minimum = if hot { size.minimum } else { 0 };
            let max = 2 * minimum + 20;
            let concurrency = if number.is_multiple_of(4) { 10 } else { 1 };
            let mut spec = spec(&format!("f{number}"), "1", concurrency, minimum, max);
            spec.resources = Resources {
                cpu: CpuMillis(300 + 100 * (number % 8)),
                memory: MemoryMib(128 * u64::from(1 + number % 8)),
                custom: Vec::new(),
            };
            let keys = (number.is_multiple_of(5)).then(|| format!("group-{}", number % 3));
            spec.pool.groups.extend(keys);
            let tenant = format!("tenant-{}", number % 500);
            Box::new(Function {
                set: Set {
                    resources: spec.resources.clone(),
                    ..Set::default()
                },
                core: Core::new(Arc::new(spec), Arc::clone(config)),
                tenant: tenant.parse().expect("a name of a tenant"),
                max: usize::try_from(max).expect("small"),
                minimum: usize::try_from(minimum).expect("small"),
                tickets: 0,
                armed: None,
                instances: BTreeMap::new(),
                waiting: BTreeSet::new(),
                crowded: false,
            })
        })
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
        self.report.decisions.push(nanos(begin));
    }

    /// Tells a core of an event and does what it says.
    fn on(&mut self, number: u32, event: Event) {
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
        self.report.placements.push(nanos(begin));
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

    fn some_live_node(&mut self) -> Option<u32> {
        let node = self.dice.number(0, self.size.nodes - 1);
        (self.health[node as usize] == Health::Live).then_some(node)
    }

    fn death(&mut self) {
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

    fn drain(&mut self) {
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

    fn empty(&self, node: u32) {
        let (seed, left) = (self.size.seed, self.on_node[node as usize].len());
        assert_eq!(left, 0, "seed {seed}: node {node} drains and has instances");
    }

    /// Everything has settled: each call has its answer, and only the minima are left.
    fn end(mut self) -> Report {
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
        self.report.placements.sort_unstable();
        self.report.decisions.sort_unstable();
        self.report
    }
}

fn nanos(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_while_of_traffic_over_two_hundred_nodes_breaks_no_rule() {
        for seed in 1..3 {
            let report = run(Size {
                nodes: 200,
                functions: 2000,
                minimum: 40,
                seconds: 800,
                rate: 25,
                seed,
            });
            assert!(report.deaths > 3 && report.drains > 3);
            assert!(report.served > report.calls * 9 / 10, "{report:?}");
        }
    }

    #[test]
    fn nodes_that_are_too_small_for_all_break_no_rule_either() {
        let report = run(Size {
            nodes: 30,
            functions: 3000,
            minimum: 4,
            seconds: 600,
            rate: 100,
            seed: 7,
        });
        assert!(report.most_instances > 200);
    }
}
