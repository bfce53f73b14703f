//! Decisions, with time as a number.

use std::collections::BTreeMap;

use bugle_types::pool::{IdleRecycle, IdleTime, PoolResources, PoolSpec, PoolStatus};
use bugle_types::{CpuMillis, MemoryMib};
use proptest::prelude::*;

use super::super::workers::GUEST_IDLE;
use super::*;

const ROOM: Room = Room {
    cpu_millis: 4000,
    memory_mib: 4096,
};
const DRAIN: Duration = Duration::from_secs(30);
const MOST: usize = 40;

/// A pool whose workers have one core and 512 MiB.
fn pool(id: &str, size: u32, max_size: u32) -> Pool {
    let amounts: BTreeMap<_, _> = [("cpu", "1"), ("memory", "512Mi")]
        .map(|(name, amount)| (name.to_owned(), amount.parse().unwrap()))
        .into();
    Pool {
        spec: PoolSpec {
            group: format!("group-of-{id}").parse().unwrap(),
            labels: BTreeMap::from([("shared".to_owned(), "1".to_owned())]),
            resources: PoolResources {
                requests: amounts.clone(),
                limits: amounts,
            },
            idle: IdleRecycle {
                reserved: IdleTime::Unset,
                scaled: IdleTime::After(Duration::from_secs(10)),
            },
            ..PoolSpec::new(id.parse().unwrap(), size, max_size)
        },
        state: PoolState::default(),
        revision: 1,
    }
}

/// A core with what the world would answer: processes are made at once, records are written.
struct World {
    core: Core,
    pools: BTreeMap<PoolId, Arc<Pool>>,
    now: Instant,
    killed: Vec<InstanceId>,
    next: u128,
}

impl World {
    fn new(pools: impl IntoIterator<Item = Pool>) -> Self {
        let pools = pools
            .into_iter()
            .map(|pool| (pool.spec.id.clone(), Arc::new(pool)));
        let mut world = Self {
            core: Core::new(ROOM, MOST, DRAIN),
            pools: pools.collect(),
            now: Instant::now(),
            killed: Vec::new(),
            next: 0,
        };
        world.settle();
        world
    }

    /// Does what is to be done until nothing is; never more often than makes sense.
    fn settle(&mut self) {
        self.core.want(&self.pools, self.now);
        for _ in 0..20 {
            let steps = self.core.steps(self.now);
            if steps.is_empty() {
                return;
            }
            for step in steps {
                self.carry_out(step);
            }
            self.core.want(&self.pools, self.now);
        }
        panic!("it does not come to rest");
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Make(worker) => assert!(self.core.made(worker, self.now)),
            Step::End(_) => {}
            Step::Kill(instance) => {
                self.killed.push(instance);
                self.core.gone(instance, self.now);
            }
            Step::Report(id, revision, state) => {
                let pool = Arc::make_mut(self.pools.get_mut(&id).unwrap());
                assert_eq!(pool.revision, revision);
                assert!(pool.state.status.may_become(state.status));
                pool.state = state;
                pool.revision += 1;
            }
            Step::Remove(id, _) => drop(self.pools.remove(&id)),
        }
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Pool)) {
        let pool = self.pools.get_mut(&id.parse::<PoolId>().unwrap());
        let pool = Arc::make_mut(pool.unwrap());
        change(pool);
        pool.revision += 1;
        self.settle();
    }

    fn delete(&mut self, id: &str) {
        self.change(id, |pool| pool.state.status = PoolStatus::PendingDeletion);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    fn state(&self, id: &str) -> &PoolState {
        &self.pools[&id.parse::<PoolId>().unwrap()].state
    }

    fn workers(&self, id: &str) -> Vec<WorkerId> {
        let kept = self.core.pools.get(&id.parse::<PoolId>().unwrap());
        kept.map_or_else(Vec::new, |kept| kept.workers.keys().copied().collect())
    }

    /// Places an instance as a driver does, waiting as long as it is told to.
    fn start(&mut self, choice: &PoolChoice, memory: u64) -> (InstanceId, Placing) {
        self.next += 1;
        let instance = InstanceId(self.next);
        let mut asked = false;
        for _ in 0..3 {
            let placing = self.place(instance, choice, memory, &mut asked);
            if placing != Placing::Wait {
                return (instance, placing);
            }
            self.settle();
        }
        (instance, Placing::Wait)
    }

    fn place(
        &mut self,
        instance: InstanceId,
        choice: &PoolChoice,
        memory: u64,
        asked: &mut bool,
    ) -> Placing {
        let resources = Resources {
            cpu: CpuMillis(100),
            memory: MemoryMib(memory),
            custom: Vec::new(),
        };
        self.core
            .place(instance, choice, &resources, asked, self.now)
    }

    fn refusal(&mut self, choice: &PoolChoice, memory: u64) -> String {
        match self.start(choice, memory).1 {
            Placing::Refused(reason) => reason,
            other => panic!("{other:?}"),
        }
    }
}

fn on(pool: &str) -> PoolChoice {
    PoolChoice::new(pool, "")
}

fn of(groups: &str) -> PoolChoice {
    PoolChoice::new("", groups)
}

fn here(placing: &Placing) -> WorkerId {
    match placing {
        Placing::Here(worker) => *worker,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pool_comes_up_with_as_many_workers_as_it_asks_for() {
    let world = World::new([pool("a", 3, 3), pool("b", 0, 2)]);
    let PoolState {
        status,
        msg,
        ready_count,
    } = world.state("a");
    assert_eq!(
        (*status, msg.as_str(), *ready_count),
        (PoolStatus::Running, "Running", 3)
    );
    assert_eq!(
        world.state("b").status,
        PoolStatus::Running,
        "none were asked for"
    );
}

#[test]
fn a_worker_that_died_is_not_counted_and_is_replaced() {
    let mut world = World::new([pool("a", 2, 2)]);
    let dead = world.workers("a")[0];
    world.core.spent(dead);
    let steps = world.core.steps(world.now);
    let [Step::Make(made), Step::Report(_, _, state)] = steps.as_slice() else {
        panic!("{steps:?}");
    };
    assert_eq!(*made, dead);
    assert_eq!((state.status, state.ready_count), (PoolStatus::Running, 1));
    assert_eq!(state.msg, "Running: 1 of 2 workers are ready");
    assert_eq!(world.core.steps(world.now).len(), 1, "it is asked for once");
    assert!(world.core.made(dead, world.now));
    world.settle();
    assert_eq!(world.state("a").ready_count, 2);
}

#[test]
fn what_cannot_be_made_is_tried_again_later_and_told() {
    let mut world = World::new([]);
    let id: PoolId = "a".parse().unwrap();
    world.pools.insert(id, Arc::new(pool("a", 1, 1)));
    world.core.want(&world.pools, world.now);
    let steps = world.core.steps(world.now);
    let Step::Make(worker) = steps[0] else {
        panic!("{steps:?}")
    };
    world
        .core
        .failed(worker, "no more processes".to_owned(), world.now);
    world.settle();
    assert_eq!(world.state("a").status, PoolStatus::Creating);
    assert_eq!(
        world.state("a").msg,
        "Creating: 0 of 1 workers are ready: no more processes"
    );
    assert_eq!(world.core.due(), Some(world.now + RETRY));
    world.pass(RETRY);
    assert_eq!(world.state("a").msg, "Running");
}

#[test]
fn workers_beyond_the_machine_are_not_made_until_there_is_room() {
    let mut world = World::new([pool("a", 3, 3), pool("b", 3, 3)]);
    let state = world.state("b");
    assert_eq!((state.status, state.ready_count), (PoolStatus::Creating, 1));
    assert!(state.msg.contains("pools.cpu_millis"), "{}", state.msg);
    world.delete("a");
    assert_eq!(world.state("b").msg, "Running");
    assert_eq!(world.workers("a"), []);
}

#[test]
fn an_instance_takes_a_worker_of_its_pool_and_gives_it_back() {
    let mut world = World::new([pool("a", 2, 2)]);
    let (first, one) = world.start(&on("a"), 400);
    let (_, two) = world.start(&on("a"), 400);
    assert_ne!(here(&one), here(&two), "the one with the most left");
    let reason = world.refusal(&on("a"), 400);
    assert_eq!(
        reason,
        "no worker of a has 100m CPU and 400 MiB left: pool a does not grow beyond its size, 2"
    );
    world.core.gone(first, world.now);
    assert_eq!(here(&world.start(&on("a"), 400).1), here(&one));
    assert_eq!(
        world.start(&on("nobody"), 1).1,
        Placing::Free,
        "there is no such pool"
    );
    assert_eq!(world.start(&PoolChoice::default(), 1).1, Placing::Free);
}

#[test]
fn a_pool_grows_by_one_worker_for_an_instance_up_to_its_maximum() {
    let mut world = World::new([pool("a", 0, 2)]);
    let (one, _) = world.start(&on("a"), 400);
    let (two, _) = world.start(&on("a"), 400);
    assert_eq!(world.state("a").ready_count, 2);
    let reason = world.refusal(&on("a"), 400);
    assert!(
        reason.ends_with("pool a has all of its 2 workers (max_size)"),
        "{reason}"
    );
    let reason = world.refusal(&on("a"), 600);
    assert!(
        reason.ends_with("a worker of pool a never has that much"),
        "{reason}"
    );
    world.core.gone(one, world.now);
    assert_eq!(world.core.due(), Some(world.now + Duration::from_secs(10)));
    world.pass(Duration::from_secs(10));
    assert_eq!(world.state("a").ready_count, 1, "the idle one went");
    world.core.gone(two, world.now);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.state("a").ready_count, 0);
}

#[test]
fn one_request_lets_a_pool_grow_once() {
    let mut world = World::new([pool("a", 0, 3)]);
    let (instance, mut asked) = (InstanceId(1), false);
    assert_eq!(
        world.place(instance, &on("a"), 400, &mut asked),
        Placing::Wait
    );
    assert_eq!(
        world.place(instance, &on("a"), 400, &mut asked),
        Placing::Wait
    );
    assert_eq!(world.workers("a").len(), 1);
    // Another takes what came up; it was bound to nobody.
    world.settle();
    here(&world.place(InstanceId(2), &on("a"), 400, &mut true));
    let placing = world.place(instance, &on("a"), 400, &mut asked);
    assert!(matches!(placing, Placing::Refused(_)), "{placing:?}");
}

#[test]
fn groups_decide_which_workers_may_be_used_and_in_which_order() {
    let mut world = World::new([pool("a", 1, 1), pool("b", 1, 1)]);
    let (a, b) = (world.workers("a")[0], world.workers("b")[0]);
    let both = of("group-of-b,group-of-a");
    assert_eq!(here(&world.start(&both, 400).1), b);
    assert_eq!(here(&world.start(&both, 400).1), a);
    assert!(
        world
            .refusal(&both, 400)
            .starts_with("no worker of b, a has")
    );
    assert_eq!(
        world.refusal(&of("none"), 1),
        "there is no pool of the groups none"
    );
    assert_eq!(
        world.start(&of("none,unUseAntiOtherLabels"), 1).1,
        Placing::Free
    );
    assert_eq!(
        world.start(&of("group-of-a,unUseAntiOtherLabels"), 400).1,
        Placing::Free
    );
    assert_eq!(
        here(&world.start(&of("shared"), 50).1),
        a,
        "a label counts as a group"
    );
    let own_first = PoolChoice::new("b", "shared");
    assert_eq!(here(&world.start(&own_first, 50).1), b);
}

#[test]
fn nothing_is_placed_before_the_pools_are_known() {
    let mut core = Core::new(ROOM, MOST, DRAIN);
    let now = Instant::now();
    let placing = core.place(
        InstanceId(1),
        &on("a"),
        &Resources::default(),
        &mut false,
        now,
    );
    assert_eq!(placing, Placing::Wait);
}

#[test]
fn a_smaller_pool_lets_its_idle_workers_go_first_and_busy_ones_finish() {
    let mut world = World::new([pool("a", 3, 3)]);
    let (instance, busy) = world.start(&on("a"), 400);
    let resize = |size| {
        move |pool: &mut Pool| {
            (pool.spec.size, pool.spec.max_size) = (size, size);
            pool.state.status = PoolStatus::PendingUpdate;
        }
    };
    world.change("a", resize(1));
    assert_eq!(world.workers("a"), [here(&busy)]);
    world.change("a", resize(0));
    assert_eq!(world.workers("a").len(), 1, "its instance runs");
    assert!(matches!(world.start(&on("a"), 1).1, Placing::Refused(_)));
    world.core.gone(instance, world.now);
    world.settle();
    assert_eq!(world.workers("a"), []);
    assert_eq!(world.state("a").status, PoolStatus::Running);
}

#[test]
fn a_deleted_pool_drains_and_is_gone() {
    let mut world = World::new([pool("a", 2, 2)]);
    let (instance, _) = world.start(&on("a"), 400);
    world.delete("a");
    let state = world.state("a");
    assert_eq!(
        (state.status, state.ready_count),
        (PoolStatus::PendingDeletion, 0)
    );
    assert_eq!(world.workers("a").len(), 1);
    world.pass(DRAIN);
    assert_eq!(world.killed, [instance]);
    assert!(world.pools.is_empty() && world.core.pools.is_empty());
    assert_eq!(world.core.due(), None, "an idle machine sleeps");
}

#[test]
fn workers_that_ask_for_nothing_are_bounded_too() {
    let mut free = pool("a", 250, 250);
    free.spec.resources.requests.clear();
    let world = World::new([free]);
    assert_eq!(world.workers("a").len(), MOST);
    let msg = &world.state("a").msg;
    assert!(
        msg.starts_with("Creating: 40 of 250 workers are ready: "),
        "{msg}"
    );
    assert!(msg.ends_with("raise pools.max_workers"), "{msg}");
}

#[test]
fn a_time_beyond_all_clocks_never_comes() {
    let mut endless = pool("a", 0, 1);
    endless.spec.idle.scaled = IdleTime::After(Duration::from_secs(u64::MAX));
    let mut world = World::new([endless]);
    let (instance, _) = world.start(&on("a"), 400);
    world.core.gone(instance, world.now);
    world.pass(Duration::from_hours(24));
    assert_eq!((world.workers("a").len(), world.core.due()), (1, None));
    world.core.drain = Duration::MAX;
    let (_, placing) = world.start(&on("a"), 400);
    here(&placing);
    world.delete("a");
    assert_eq!((world.killed.len(), world.core.due()), (0, None));
}

#[test]
fn a_pool_of_another_machine_has_workers_here_while_instances_need_them() {
    let mut world = World::new([]);
    for (id, size) in [("a", 2), ("b", 1)] {
        world
            .pools
            .insert(id.parse().unwrap(), Arc::new(pool(id, size, size)));
    }
    let before = world.pools.clone();
    world.core.want(&world.pools, world.now);
    world.core.share(|id| id.as_str() == "b");
    world.settle();
    assert_eq!((world.workers("a").len(), world.workers("b").len()), (0, 1));
    let (first, one) = world.start(&on("a"), 400);
    let (_, two) = world.start(&of("group-of-a"), 400);
    assert_ne!(here(&one), here(&two));
    let reason = world.refusal(&on("a"), 400);
    assert!(reason.contains("has all of its 2 workers"), "{reason}");
    let id: PoolId = "a".parse().unwrap();
    assert_eq!(
        world.pools[&id], before[&id],
        "its record is another's to write"
    );
    world.core.gone(first, world.now);
    world.settle();
    assert_eq!(world.workers("a").len(), 2, "the next instance may need it");
    assert_eq!(world.core.due(), Some(world.now + GUEST_IDLE));
    world.pass(GUEST_IDLE);
    assert_eq!(world.workers("a"), [here(&two)]);
    world.core.share(|_| true);
    world.settle();
    assert_eq!(world.state("a").msg, "Running", "it is this machine's now");
    assert_eq!(world.workers("a").len(), 2);
}

#[derive(Clone, Debug)]
enum Happening {
    Start(usize, u64),
    End(usize),
    Die(usize),
    Resize(usize, u32),
    Pass(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..3_usize, 1..700_u64).prop_map(|(pool, memory)| Happening::Start(pool, memory)),
        (0..20_usize).prop_map(Happening::End),
        (0..20_usize).prop_map(Happening::Die),
        (0..3_usize, 0..6_u32).prop_map(|(pool, size)| Happening::Resize(pool, size)),
        (1..20_u64).prop_map(Happening::Pass),
    ]
}

proptest! {
    #[test]
    fn nothing_is_ever_given_twice(happenings in proptest::collection::vec(happening(), 0..60)) {
        let names = ["a", "b", "c"];
        let mut world = World::new([pool("a", 1, 1), pool("b", 0, 5), pool("c", 2, 2)]);
        let mut running = Vec::new();
        for happening in happenings {
            match happening {
                Happening::Start(pool, memory) => {
                    if let (instance, Placing::Here(_)) = world.start(&on(names[pool]), memory) {
                        running.push(instance);
                    }
                }
                Happening::End(which) if !running.is_empty() => {
                    let instance = running.swap_remove(which % running.len());
                    world.core.gone(instance, world.now);
                }
                Happening::Die(which) => {
                    let all: Vec<_> = names.iter().flat_map(|name| world.workers(name)).collect();
                    if let Some(worker) = all.get(which) {
                        world.core.spent(*worker);
                    }
                }
                Happening::Resize(pool, size) => world.change(names[pool], |pool| {
                    pool.spec.size = size;
                    pool.spec.max_size = if pool.spec.scalable { size.max(5) } else { size };
                }),
                Happening::Pass(seconds) => world.now += Duration::from_secs(seconds),
                Happening::End(_) => {}
            }
            world.settle();
            let (taken, count) = world.core.count();
            prop_assert!(taken.fits(&Amounts::of_room(ROOM)) && count <= MOST);
            for (id, kept) in &world.core.pools {
                let spec = &kept.pool.spec;
                prop_assert!(kept.staying() <= spec.max_size.max(spec.size) as usize, "{id}");
                prop_assert_eq!(kept.pool.state.ready_count as usize, kept.staying());
                for worker in kept.workers.values() {
                    let mut used = Amounts::default();
                    for amounts in worker.instances.values() {
                        used.add(amounts);
                    }
                    prop_assert!(used.fits(&worker.has));
                }
            }
        }
    }
}
