//! Days of a cluster in a moment: pools come, change and go; Pods start late, get lost and are thrown out; the
//! cluster refuses, loses answers and is seen late; the controller crashes. Whatever happens, it comes to rest with
//! exactly what was asked for.

use std::collections::BTreeSet;

use bugle_types::pool::IdleTime;
use proptest::prelude::*;

use super::*;
use crate::manifest::PodPlan;
use crate::observed::{Phase, Scaler, Worker};
use crate::testing;

const POOLS: [(&str, u32, u32); 3] = [("fixed", 3, 3), ("scaled", 1, 4), ("empty", 0, 2)];

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    Create(usize),
    Delete(usize),
    Resize(usize, u32),
    Ask(usize),
    /// Some Pod becomes ready, is lost, or is thrown out.
    Ready(usize),
    Lose(usize),
    Evict(usize),
    /// Some Pod has an instance from now on, or none.
    Use(usize, bool),
    /// Pods are made otherwise from now on.
    Change,
    /// Somebody deletes the Deployment.
    Sabotage(usize),
    Pass,
    /// A pass whose operations fail from the given one on; true if the cluster says no.
    Fail(usize, bool),
    /// What is known of the cluster is brought up to date.
    Look,
    Crash,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let pool = 0..POOLS.len();
    prop_oneof![
        2 => pool.clone().prop_map(Event::Create),
        1 => pool.clone().prop_map(Event::Delete),
        1 => (pool.clone(), 0..5_u32).prop_map(|(pool, size)| Event::Resize(pool, size)),
        3 => pool.clone().prop_map(Event::Ask),
        6 => (0..16_usize).prop_map(Event::Ready),
        1 => (0..16_usize).prop_map(Event::Lose),
        1 => (0..16_usize).prop_map(Event::Evict),
        2 => (0..16_usize, any::<bool>()).prop_map(|(at, busy)| Event::Use(at, busy)),
        1 => Just(Event::Change),
        1 => pool.prop_map(Event::Sabotage),
        8 => Just(Event::Pass),
        2 => (0..4_usize, any::<bool>()).prop_map(|(at, refused)| Event::Fail(at, refused)),
        4 => Just(Event::Look),
        1 => Just(Event::Crash),
        2 => (1..200_u64).prop_map(Event::Wait),
    ]
}

struct World {
    now: Instant,
    records: BTreeMap<PoolId, Arc<Pool>>,
    revision: u64,
    cluster: Observed,
    /// What the controller knows of it.
    seen: Observed,
    memory: Memory,
    number: u128,
    requests: Vec<(PoolId, String)>,
    /// How many Pods were made for each request.
    made: BTreeMap<String, u32>,
    /// What Pods are made from, by number.
    template: u32,
    /// The Pods with instances.
    busy: BTreeSet<String>,
}

impl World {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            records: BTreeMap::new(),
            revision: 0,
            cluster: Observed::default(),
            seen: Observed::default(),
            memory: Memory::default(),
            number: 0,
            requests: Vec::new(),
            made: BTreeMap::new(),
            template: 0,
            busy: BTreeSet::new(),
        }
    }

    fn id(pool: usize) -> PoolId {
        POOLS[pool].0.parse().unwrap()
    }

    fn write(&mut self, id: &PoolId, change: impl FnOnce(&mut Pool)) {
        let Some(known) = self.records.get(id) else {
            return;
        };
        let mut pool = Pool::clone(known);
        change(&mut pool);
        self.revision += 1;
        pool.revision = self.revision;
        self.records.insert(id.clone(), Arc::new(pool));
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Create(pool) => {
                let (name, size, max_size) = POOLS[*pool];
                self.revision += 1;
                let new = Pool {
                    spec: testing::pool(name, size, max_size),
                    state: PoolState::default(),
                    revision: self.revision,
                };
                self.records
                    .entry(Self::id(*pool))
                    .or_insert_with(|| Arc::new(new));
            }
            Event::Delete(pool) => self.write(&Self::id(*pool), |pool| {
                pool.state.status = PoolStatus::PendingDeletion;
            }),
            Event::Resize(pool, size) => self.write(&Self::id(*pool), |pool| {
                use PoolStatus::{Creating, Failed, Running, Updating};
                if !matches!(pool.state.status, Creating | Updating | Running | Failed) {
                    return;
                }
                pool.spec.size = if pool.spec.scalable {
                    *size.min(&pool.spec.max_size)
                } else {
                    *size
                };
                pool.spec.max_size = pool.spec.max_size.max(*size);
                pool.state.status = PoolStatus::PendingUpdate;
            }),
            Event::Ask(pool) => {
                let request = format!("request-{}", self.requests.len());
                self.requests.push((Self::id(*pool), request));
                self.ask_again();
            }
            Event::Ready(at) => self.worker(*at, |worker| {
                (worker.phase, worker.ready) = (Phase::Running, true);
            }),
            Event::Evict(at) => self.worker(*at, |worker| {
                (worker.phase, worker.ready) = (Phase::Failed, false);
            }),
            Event::Lose(at) => {
                if let Some(name) = self.cluster.workers.keys().nth(*at).cloned() {
                    self.cluster.workers.remove(&name);
                }
            }
            Event::Use(at, busy) => {
                if let Some(name) = self.cluster.workers.keys().nth(*at) {
                    self.busy.remove(name);
                    self.busy.extend(busy.then(|| name.clone()));
                }
            }
            Event::Change => self.template += 1,
            Event::Sabotage(pool) => {
                let name = names::deployment(&Self::id(*pool));
                self.cluster.deployments.remove(&name);
                self.cluster
                    .workers
                    .retain(|_, worker| names::deployment(&worker.pool.parse().unwrap()) != name);
            }
            Event::Pass => self.pass(usize::MAX, false),
            Event::Fail(at, refused) => self.pass(*at, *refused),
            Event::Look => self.seen = self.cluster.clone(),
            Event::Crash => {
                self.memory = Memory::default();
                self.seen = self.cluster.clone();
                self.ask_again();
            }
            Event::Wait(seconds) => self.now += Duration::from_secs(*seconds),
        }
        self.controllers();
        self.nothing_is_too_much();
    }

    /// Those who wait for an instance ask until they have one.
    fn ask_again(&mut self) {
        for (id, request) in &self.requests {
            if let Some(pool) = self.records.get(id)
                && !self.made.contains_key(request)
            {
                let _refused = ask(pool, &self.seen, &mut self.memory, request);
            }
        }
    }

    fn worker(&mut self, at: usize, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.cluster.workers.values_mut().nth(at) {
            change(worker);
        }
    }

    fn digests(&self) -> BTreeMap<PoolId, Result<Digests, String>> {
        let digest = |pool: &Pool| {
            let replicas = if pool.spec.scalable {
                0
            } else {
                pool.spec.size
            };
            Ok(Digests {
                deployment: format!("{}-{replicas}", self.template),
                autoscaler: None,
            })
        };
        self.records
            .iter()
            .map(|(id, pool)| (id.clone(), digest(pool)))
            .collect()
    }

    fn decide(&mut self) -> Vec<Operation> {
        let ready = self.cluster.workers.iter().filter(|(_, pod)| pod.ready);
        let idle = ready.filter(|(name, _)| !self.busy.contains(*name));
        self.memory.idle = idle.map(|(name, _)| (name.clone(), self.now)).collect();
        let (pools, digests) = (self.records.clone(), self.digests());
        let number = &mut self.number;
        let wanted = Wanted {
            pools: &pools,
            digests: &digests,
        };
        decide(self.now, wanted, &self.seen, &mut self.memory, &mut || {
            *number += 1;
            *number
        })
    }

    /// One pass. Operations from the given one on fail.
    fn pass(&mut self, failing: usize, refused: bool) {
        let operations = self.decide();
        self.nobody_loses_what_it_uses(&operations);
        for (at, operation) in operations.into_iter().enumerate() {
            if at < failing {
                self.carry_out(operation);
            } else if let Operation::ApplyDeployment(id) | Operation::CreateWorker(id, ..) =
                &operation
            {
                let setback = Setback {
                    message: "Create Deployment Failed, ErrorCode is 403".to_owned(),
                    refused,
                    worker: matches!(operation, Operation::CreateWorker(..)),
                    until: self.now + Duration::from_secs(5),
                    attempts: 1,
                };
                self.memory.setbacks.insert(id.clone(), setback);
            }
        }
    }

    /// What the executor does: the cluster changes, and its answer is known at once.
    fn carry_out(&mut self, operation: Operation) {
        match operation {
            Operation::ApplyDeployment(id) => {
                let Some(Ok(digests)) = self.digests().remove(&id) else {
                    return;
                };
                self.number += 1;
                let name = names::deployment(&id);
                let uid = self
                    .cluster
                    .deployments
                    .get(&name)
                    .map_or_else(|| self.number.to_string(), |known| known.uid.clone());
                let workload = Workload {
                    pool: id.to_string(),
                    uid,
                    digest: digests.deployment,
                    terminating: false,
                    failure: None,
                };
                self.cluster
                    .deployments
                    .insert(name.clone(), workload.clone());
                self.seen.deployments.insert(name, workload);
                self.memory.setbacks.remove(&id);
            }
            Operation::CreateWorker(id, plan, owner) => {
                // The owner may be gone already; then the Pod goes at once.
                if self
                    .cluster
                    .deployments
                    .values()
                    .any(|workload| workload.uid == owner)
                {
                    self.add(&id, &plan);
                }
                if let Some(request) = &plan.request {
                    self.memory.serve(&id, request, self.now);
                }
                self.memory.setbacks.remove(&id);
            }
            Operation::DeleteWorker { name, uid, .. }
            | Operation::RecycleWorker { name, uid, .. } => {
                for state in [&mut self.cluster, &mut self.seen] {
                    if state
                        .workers
                        .get(&name)
                        .is_some_and(|worker| worker.uid == uid)
                    {
                        state.workers.remove(&name);
                    }
                }
            }
            Operation::DeleteDeployment { name, uid, pool } => {
                for state in [&mut self.cluster, &mut self.seen] {
                    if state
                        .deployments
                        .get(&name)
                        .is_some_and(|workload| workload.uid == uid)
                    {
                        state.deployments.remove(&name);
                        state.workers.retain(|_, worker| worker.pool != pool);
                    }
                }
            }
            Operation::Report(id, revision, state) => self.report(&id, revision, state),
            Operation::Remove(id, revision) => {
                if self
                    .records
                    .get(&id)
                    .is_some_and(|pool| pool.revision == revision)
                {
                    self.records.remove(&id);
                }
            }
            Operation::ApplyAutoscaler(_)
            | Operation::DeleteAutoscaler { .. }
            | Operation::RankWorker { .. }
            | Operation::Alarm { .. } => {}
        }
    }

    fn report(&mut self, id: &PoolId, revision: u64, state: PoolState) {
        let current = self
            .records
            .get(id)
            .filter(|pool| pool.revision == revision);
        if let Some(pool) = current {
            assert!(
                pool.state.status.may_become(state.status),
                "{} to {}",
                pool.state.status,
                state.status
            );
            self.write(id, |pool| pool.state = state);
        }
    }

    fn add(&mut self, id: &PoolId, plan: &PodPlan) {
        let scalable = self.records.get(id).is_some_and(|pool| pool.spec.scalable);
        let digest = self.digests().remove(id).and_then(Result::ok);
        let digest = digest
            .filter(|_| scalable)
            .map(|digests| digests.deployment);
        let worker = Worker {
            pool: id.to_string(),
            uid: plan.name.clone(),
            phase: Phase::Pending,
            ready: false,
            terminating: false,
            counted: true,
            trouble: None,
            request: plan.request.clone(),
            digest,
            turn: Turn::First,
            idle: IdleTime::Unset,
            threshold: Duration::from_mins(2),
            first_seen: self.now,
            created: String::new(),
        };
        if let Some(request) = &plan.request {
            *self.made.entry(request.clone()).or_default() += 1;
        }
        self.cluster
            .workers
            .insert(plan.name.clone(), worker.clone());
        self.seen.workers.insert(plan.name.clone(), worker);
    }

    /// The cluster's own part: fixed pools have as many Pods as their Deployment says.
    fn controllers(&mut self) {
        let workloads: Vec<_> = self.cluster.deployments.values().cloned().collect();
        for workload in workloads {
            let pool = workload.pool.as_str();
            let (_, replicas) = workload.digest.rsplit_once('-').unwrap();
            let replicas: usize = replicas.parse().unwrap();
            let id: PoolId = pool.parse().unwrap();
            if POOLS
                .iter()
                .any(|(name, size, max)| *name == pool && max > size)
            {
                continue;
            }
            let live: Vec<_> = self
                .cluster
                .of(pool)
                .filter(|(_, worker)| worker.is_live())
                .map(|(name, _)| name.clone())
                .collect();
            for _ in live.len()..replicas {
                self.number += 1;
                let plan = PodPlan {
                    name: names::pod(&id, self.number),
                    origin: bugle_types::pool::Origin::Reserved,
                    request: None,
                };
                let seen = self.seen.clone();
                self.add(&id, &plan);
                // Only a watch would have told.
                self.seen = seen;
            }
            for name in live.iter().skip(replicas) {
                self.cluster.workers.remove(name);
            }
        }
    }

    /// Pods that would be made otherwise today go one after the other, and none that has an instance.
    fn nobody_loses_what_it_uses(&self, operations: &[Operation]) {
        let mut recycled = BTreeSet::new();
        for operation in operations {
            let Operation::RecycleWorker { name, .. } = operation else {
                continue;
            };
            assert!(!self.busy.contains(name), "{name} is in use");
            let pool = self.seen.workers[name].pool.clone();
            let current = self.seen.deployments[&format!("{}{pool}", names::PREFIX)].clone();
            let mut pods = self.seen.of(&pool).map(|(_, pod)| pod);
            let on_its_way = pods.find(|pod| {
                pod.is_live() && !pod.ready && pod.digest.as_ref() == Some(&current.digest)
            });
            assert!(on_its_way.is_none(), "{pool}: {on_its_way:?}");
            assert!(recycled.insert(pool.clone()), "two at once: {operations:?}");
        }
    }

    fn nothing_is_too_much(&self) {
        assert!(
            self.made.values().all(|count| *count == 1),
            "a request has got more than one Pod"
        );
        for (id, pool) in self.records.iter().filter(|(_, pool)| pool.spec.scalable) {
            let live = self
                .cluster
                .of(id.as_str())
                .filter(|(_, worker)| worker.is_live())
                .count();
            assert!(
                live <= usize::try_from(pool.spec.max_size).unwrap(),
                "{id} has {live} Pods"
            );
        }
    }

    /// No more trouble: everything becomes ready, and every pass is seen through.
    fn come_to_rest(&mut self) {
        for _ in 0..100 {
            for worker in self
                .cluster
                .workers
                .values_mut()
                .filter(|worker| worker.phase == Phase::Pending)
            {
                (worker.phase, worker.ready) = (Phase::Running, true);
            }
            self.now += Duration::from_secs(10);
            self.happens(&Event::Look);
            let before = (self.revision, self.number);
            if self.decide().is_empty() && before.0 == self.revision {
                return;
            }
            self.happens(&Event::Pass);
        }
        panic!("there is always something to do: {:?}", self.decide());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_ends_with_what_was_asked_for(events in proptest::collection::vec(event(), 1..120)) {
        let mut world = World::new();
        for event in &events {
            world.happens(event);
        }
        world.come_to_rest();
        let known: BTreeSet<_> = world.records.keys().map(PoolId::to_string).collect();
        for workload in world.cluster.deployments.values() {
            prop_assert!(known.contains(&workload.pool), "an orphan is left");
        }
        for (id, pool) in &world.records {
            let live: Vec<_> = world.cluster.of(id.as_str()).collect();
            prop_assert!(live.iter().all(|(_, worker)| worker.is_live()), "what has ended is left");
            let outdated = |worker: &Worker| {
                let current = world.cluster.deployments.get(&names::deployment(id));
                worker.digest.is_some() && worker.digest != current.map(|current| current.digest.clone())
            };
            let spared = live.iter().filter(|(_, worker)| outdated(worker));
            prop_assert!(
                spared.clone().all(|(name, _)| world.busy.contains(*name)),
                "an idle Pod was not replaced"
            );
            let count = u32::try_from(live.len()).unwrap();
            prop_assert_eq!(pool.state.ready_count, count);
            if pool.state.status == PoolStatus::Failed {
                prop_assert!(pool.state.msg.starts_with(VANISHED), "{}", pool.state.msg);
            } else {
                prop_assert_eq!((pool.state.status, pool.state.msg.as_str()), (PoolStatus::Running, "Running"));
                prop_assert!(count >= pool.spec.size);
            }
        }
    }
}

/// The autoscaler's part is too small to be simulated; that its objects are of the same kind is what matters.
#[test]
fn an_autoscaler_of_no_pool_goes_like_everything_else() {
    let mut world = World::new();
    let scaler = Scaler {
        pool: "gone".into(),
        digest: String::new(),
        terminating: false,
    };
    world
        .seen
        .autoscalers
        .insert("function-agent-gone-hpa".into(), scaler);
    assert_eq!(
        world.decide(),
        [Operation::DeleteAutoscaler {
            pool: "gone".into(),
            name: "function-agent-gone-hpa".into(),
        }]
    );
}
