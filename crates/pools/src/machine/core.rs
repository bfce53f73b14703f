//! What becomes of workers, and which of them takes an instance. No clock, no I/O.
//!
//! Rules that hold after every call: workers together have no more than the machine, and are no more
//! than it may have; instances on a worker together have no more than the worker; a pool grows to no
//! more than `max_size` workers, leaving ones aside; a worker that leaves takes no instance.
//!
//! Where several machines share the records, each pool is kept by one of them: it makes `size` workers
//! and writes the record. The others make a worker when an instance needs one and let it go when it
//! idles; they write nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bugle_instances::InstanceId;
use bugle_types::Resources;
use bugle_types::pool::{Origin, Pool, PoolChoice, PoolId, PoolState};
use tokio::time::{Duration, Instant};

use super::amounts::Amounts;
use super::workers::{Kept, Phase, Worker, WorkerId};
use crate::Room;

/// The pause after a worker could not be made.
const RETRY: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Prepare a process for the worker, and say how that went.
    Make(WorkerId),
    /// Let go of what was prepared.
    End(WorkerId),
    /// End an instance.
    Kill(InstanceId),
    /// Record how far a pool has come.
    Report(PoolId, u64, PoolState),
    /// Take a record away.
    Remove(PoolId, u64),
}

/// Where an instance goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Placing {
    /// To this worker.
    Here(WorkerId),
    /// Anywhere: no pool has to do with it.
    Free,
    /// Nowhere yet: a worker is being made.
    Wait,
    /// Nowhere, and why.
    Refused(String),
}

/// All pools of the machine.
#[derive(Debug)]
pub(super) struct Core {
    room: Room,
    /// The most workers that there may be.
    most: usize,
    drain: Duration,
    pools: BTreeMap<PoolId, Kept>,
    /// What all workers have set aside, and how many there are.
    taken: (Amounts, usize),
    /// Whether the records were read at all.
    read: bool,
    next: u64,
}

impl Core {
    pub(super) fn new(room: Room, most: usize, drain: Duration) -> Self {
        Self {
            room,
            most,
            drain,
            pools: BTreeMap::new(),
            taken: (Amounts::default(), 0),
            read: false,
            next: 0,
        }
    }

    /// The pools that this machine keeps are those that `mine` says.
    pub(super) fn share(&mut self, mine: impl Fn(&PoolId) -> bool) {
        for (id, kept) in &mut self.pools {
            kept.mine = mine(id);
        }
    }

    /// The pools are these.
    pub(super) fn want(&mut self, pools: &BTreeMap<PoolId, Arc<Pool>>, now: Instant) {
        self.read = true;
        for (id, kept) in &mut self.pools {
            kept.recorded = pools.contains_key(id);
        }
        for (id, pool) in pools {
            let kept = self
                .pools
                .entry(id.clone())
                .or_insert_with(|| Kept::new(Arc::clone(pool)));
            kept.pool = Arc::clone(pool);
            let has = Amounts::capacity(&pool.spec, self.room);
            // One that was deleted and made anew has the name in common, and no worker.
            for worker in kept.workers.values_mut() {
                worker.leaving |= worker.has != has;
            }
        }
        for kept in self.pools.values_mut() {
            kept.deleting_since = match kept.deleting_since {
                _ if !kept.is_leaving() => None,
                None => Some(now),
                since => since,
            };
        }
    }

    /// Everything to be done now. What is asked of the world is not asked twice; what is recorded is
    /// compared with what there is.
    pub(super) fn steps(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        for kept in self.pools.values_mut() {
            kept.release(now, self.drain, &mut steps);
        }
        self.taken = self.count();
        let ids: Vec<PoolId> = self.pools.keys().cloned().collect();
        // What one pool gave back another may take in the same pass.
        for id in &ids {
            self.fill(id, now);
        }
        for (id, kept) in &mut self.pools {
            kept.order(&mut steps);
            kept.record(id, &mut steps);
        }
        self.pools
            .retain(|_, kept| kept.recorded || !kept.workers.is_empty());
        steps
    }

    /// Adds workers up to the size, as far as there is room.
    fn fill(&mut self, id: &PoolId, now: Instant) {
        let missing = self.pools.get(id).map_or(0, Kept::missing);
        for _ in 0..missing {
            if let Err(trouble) = self.add(id, Origin::Reserved, now) {
                if let Some(kept) = self.pools.get_mut(id) {
                    kept.trouble = Some(trouble);
                }
                return;
            }
        }
        if let Some(kept) = self.pools.get_mut(id)
            && kept.retry.is_none()
        {
            kept.trouble = None;
        }
    }

    /// One more worker, or why there cannot be one.
    fn add(&mut self, id: &PoolId, origin: Origin, now: Instant) -> Result<(), String> {
        let all = Amounts::of_room(self.room);
        let kept = self.pools.get_mut(id).ok_or("there is no such pool")?;
        let (taken, count) = &self.taken;
        if *count >= self.most {
            return Err(format!(
                "the machine has {count} workers already, as many as it may; raise \
                 pools.max_workers"
            ));
        }
        let reserved = Amounts::reserved(&kept.pool.spec);
        let mut after = taken.clone();
        after.add(&reserved);
        if !after.fits(&all) {
            return Err(format!(
                "a worker needs {reserved}, and of {all} that the machine has for workers {taken} \
                 are taken; ask for less, or raise pools.cpu_millis and pools.memory_mib"
            ));
        }
        let worker = Worker {
            origin,
            phase: Phase::Bare,
            leaving: false,
            has: Amounts::capacity(&kept.pool.spec, self.room),
            reserved,
            instances: BTreeMap::new(),
            idle_since: now,
        };
        kept.workers.insert(WorkerId(self.next), worker);
        self.next += 1;
        self.taken = (after, count + 1);
        Ok(())
    }

    /// What all workers have set aside, and how many there are.
    fn count(&self) -> (Amounts, usize) {
        let (mut taken, mut count) = (Amounts::default(), 0);
        for worker in self.pools.values().flat_map(|kept| kept.workers.values()) {
            taken.add(&worker.reserved);
            count += 1;
        }
        (taken, count)
    }

    fn pool_of(&mut self, id: WorkerId) -> Option<&mut Kept> {
        self.pools
            .values_mut()
            .find(|kept| kept.workers.contains_key(&id))
    }

    /// The process of a worker waits. False if the worker is not wanted any more.
    pub(super) fn made(&mut self, id: WorkerId, now: Instant) -> bool {
        let worker = self.pool_of(id).and_then(|kept| kept.workers.get_mut(&id));
        let Some(worker) = worker else {
            return false;
        };
        worker.phase = Phase::Ready;
        if worker.instances.is_empty() {
            worker.idle_since = now;
        }
        true
    }

    /// The process of a worker could not be made.
    pub(super) fn failed(&mut self, id: WorkerId, reason: String, now: Instant) {
        self.spent(id);
        if let Some(kept) = self.pool_of(id) {
            kept.trouble = Some(reason);
            kept.retry = Some(now + RETRY);
        }
    }

    /// The process of a worker is gone, or has become an instance.
    pub(super) fn spent(&mut self, id: WorkerId) {
        if let Some(worker) = self.pool_of(id).and_then(|kept| kept.workers.get_mut(&id)) {
            worker.phase = Phase::Bare;
        }
    }

    /// An instance is gone.
    pub(super) fn gone(&mut self, instance: InstanceId, now: Instant) {
        let workers = self
            .pools
            .values_mut()
            .flat_map(|kept| kept.workers.values_mut());
        for worker in workers {
            if worker.instances.remove(&instance).is_some() && worker.instances.is_empty() {
                worker.idle_since = now;
            }
        }
    }

    /// Finds a worker for an instance, and counts it there. `asked` says whether a pool has grown
    /// for it already, which it does once.
    pub(super) fn place(
        &mut self,
        instance: InstanceId,
        choice: &PoolChoice,
        resources: &Resources,
        asked: &mut bool,
        now: Instant,
    ) -> Placing {
        if choice.is_empty() {
            return Placing::Free;
        }
        if !self.read {
            return Placing::Wait;
        }
        let needs = Amounts::of(resources);
        let pools = self.eligible(choice);
        for id in &pools {
            let kept = self.pools.get_mut(id);
            if let Some((id, worker)) = kept.and_then(|kept| kept.roomiest(&needs)) {
                worker.instances.insert(instance, needs);
                return Placing::Here(id);
            }
        }
        self.without_place(choice, &pools, &needs, asked, now)
    }

    /// The pools whose workers an instance may use, in the order it prefers: of the groups it names,
    /// one after the other; of a group its own pool first. Without groups its own pool alone.
    fn eligible(&self, choice: &PoolChoice) -> Vec<PoolId> {
        let lives = |id: &&PoolId| self.pools.get(*id).is_some_and(|kept| !kept.is_leaving());
        let own = choice.pool.iter().filter(lives);
        if choice.groups.is_empty() {
            return own.cloned().collect();
        }
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for group in &choice.groups {
            let is_of = |id: &&PoolId| {
                let kept = self.pools.get(*id);
                kept.is_some_and(|kept| kept.pool.spec.is_of(group))
            };
            let others = self.pools.keys().filter(lives);
            for id in own.clone().chain(others).filter(is_of) {
                if seen.insert(id) {
                    found.push(id.clone());
                }
            }
        }
        found
    }

    /// What becomes of an instance that no worker takes.
    fn without_place(
        &mut self,
        choice: &PoolChoice,
        pools: &[PoolId],
        needs: &Amounts,
        asked: &mut bool,
        now: Instant,
    ) -> Placing {
        if pools.is_empty() {
            if choice.groups.is_empty() || choice.any {
                return Placing::Free;
            }
            let groups = choice.groups.join(", ");
            return Placing::Refused(format!("there is no pool of the groups {groups}"));
        }
        let guest = |id: &&PoolId| self.pools.get(*id).is_some_and(|kept| !kept.mine);
        let own = choice.pool.as_ref().filter(|own| pools.contains(own));
        // Of a pool that another machine keeps there is nothing here before it is needed.
        let own = own.or_else(|| pools.iter().find(guest));
        let refusal = match own.map(|own| self.grow(own, needs, asked, now)) {
            Some(Ok(())) => return Placing::Wait,
            Some(Err(reason)) => format!(": {reason}"),
            None => String::new(),
        };
        // A worker that comes up may have room.
        let comes = |id| self.pools.get(id).is_some_and(|kept| kept.expects(needs));
        if pools.iter().any(comes) {
            return Placing::Wait;
        }
        if choice.any {
            return Placing::Free;
        }
        let names: Vec<&str> = pools.iter().map(PoolId::as_str).collect();
        let names = names.join(", ");
        Placing::Refused(format!("no worker of {names} has {needs} left{refusal}"))
    }

    /// Lets a pool grow by one worker for an instance.
    fn grow(
        &mut self,
        id: &PoolId,
        needs: &Amounts,
        asked: &mut bool,
        now: Instant,
    ) -> Result<(), String> {
        let kept = self.pools.get(id).ok_or("there is no such pool")?;
        let spec = &kept.pool.spec;
        let max = spec.max_size;
        if !needs.fits(&Amounts::capacity(spec, self.room)) {
            return Err(format!("a worker of pool {id} never has that much"));
        }
        if !kept.grows() {
            return Err(format!("pool {id} does not grow beyond its size, {max}"));
        }
        if kept.staying() >= usize::try_from(max).unwrap_or(usize::MAX) {
            return Err(format!("pool {id} has all of its {max} workers (max_size)"));
        }
        if *asked {
            return Err(format!(
                "pool {id} has grown by a worker, which others took"
            ));
        }
        self.add(id, Origin::Scaled, now)?;
        *asked = true;
        Ok(())
    }

    /// When something is to be done that nothing else will tell of.
    pub(super) fn due(&self) -> Option<Instant> {
        let dues = self.pools.values().filter_map(|kept| kept.due(self.drain));
        dues.min()
    }
}

#[cfg(test)]
mod tests;
