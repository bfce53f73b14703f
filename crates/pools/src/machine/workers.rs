//! One pool and its workers.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use bugle_instances::InstanceId;
use bugle_types::pool::{IdleTime, Origin, Pool, PoolId, PoolState, PoolStatus};
use tokio::time::{Duration, Instant};

use super::amounts::Amounts;
use super::core::Step;

/// A worker; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WorkerId(pub(super) u64);

/// A share of the machine, with a process that waits.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) origin: Origin,
    pub(super) phase: Phase,
    /// It takes nothing any more and goes when it is empty.
    pub(super) leaving: bool,
    /// What its instances may have together.
    pub(super) has: Amounts,
    /// What is set aside for it.
    pub(super) reserved: Amounts,
    pub(super) instances: BTreeMap<InstanceId, Amounts>,
    pub(super) idle_since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its process is not asked for yet.
    Bare,
    /// Its process is being made.
    Making,
    /// Its process waits.
    Ready,
}

impl Worker {
    fn used(&self) -> Amounts {
        let mut used = Amounts::default();
        for amounts in self.instances.values() {
            used.add(amounts);
        }
        used
    }

    /// Whether an instance can run on it. One that runs shows that.
    fn is_ready(&self) -> bool {
        !self.leaving && (self.phase == Phase::Ready || !self.instances.is_empty())
    }

    fn takes(&self, needs: &Amounts) -> bool {
        let mut used = self.used();
        used.add(needs);
        self.is_ready() && used.fits(&self.has)
    }
}

/// How long a worker that another machine's pool has here may be without an instance, if the pool does
/// not say.
pub(super) const GUEST_IDLE: Duration = Duration::from_mins(1);

/// A pool, and what there is of it.
#[derive(Debug)]
pub(super) struct Kept {
    /// As it is recorded.
    pub(super) pool: Arc<Pool>,
    /// Whether this machine keeps the pool's size and its record. Of a pool that another one keeps there
    /// are workers here as long as instances need them.
    pub(super) mine: bool,
    /// False when the record is gone and workers still have instances.
    pub(super) recorded: bool,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) deleting_since: Option<Instant>,
    /// Why there are fewer workers than wanted.
    pub(super) trouble: Option<String>,
    /// When a worker that could not be made is tried again.
    pub(super) retry: Option<Instant>,
}

impl Kept {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            mine: true,
            recorded: true,
            workers: BTreeMap::new(),
            deleting_since: None,
            trouble: None,
            retry: None,
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        !self.recorded || self.pool.state.status == PoolStatus::PendingDeletion
    }

    /// How many workers are to stay.
    pub(super) fn staying(&self) -> usize {
        let stays = |worker: &&Worker| !worker.leaving;
        self.workers.values().filter(stays).count()
    }

    /// How many workers are kept here.
    fn size(&self) -> usize {
        if !self.mine {
            return 0;
        }
        usize::try_from(self.pool.spec.size).unwrap_or(usize::MAX)
    }

    /// Whether instances bring workers into being here.
    pub(super) fn grows(&self) -> bool {
        self.pool.spec.scalable || !self.mine
    }

    /// How many workers are to be added to those that there are.
    pub(super) fn missing(&self) -> usize {
        if self.is_leaving() {
            return 0;
        }
        self.size().saturating_sub(self.staying())
    }

    /// The worker with the most left that has room.
    pub(super) fn roomiest(&mut self, needs: &Amounts) -> Option<(WorkerId, &mut Worker)> {
        self.workers
            .iter_mut()
            .filter(|(_, worker)| worker.takes(needs))
            .max_by_key(|(id, worker)| (worker.has.left(&worker.used()), Reverse(**id)))
            .map(|(id, worker)| (*id, worker))
    }

    /// Whether a worker comes up that could have room.
    pub(super) fn expects(&self, needs: &Amounts) -> bool {
        let coming =
            |worker: &Worker| !worker.is_ready() && !worker.leaving && needs.fits(&worker.has);
        self.workers.values().any(coming)
    }

    /// Workers that are not wanted any more leave; empty ones go.
    pub(super) fn release(&mut self, now: Instant, drain: Duration, steps: &mut Vec<Step>) {
        self.retry = self.retry.filter(|retry| *retry > now);
        if self.is_leaving() {
            let since = self.deleting_since;
            let until = since.and_then(|since| since.checked_add(drain));
            let overdue = until.is_some_and(|until| until <= now);
            for worker in self.workers.values_mut() {
                worker.leaving = true;
                if overdue {
                    steps.extend(worker.instances.keys().copied().map(Step::Kill));
                }
            }
        } else {
            self.retire(now);
        }
        self.workers.retain(|worker, state| {
            let goes = state.leaving && state.instances.is_empty();
            if goes {
                steps.push(Step::End(*worker));
            }
            !goes
        });
    }

    /// Surplus workers leave, the emptiest first: of a fixed pool all, of one that grows those that
    /// idled long enough.
    fn retire(&mut self, now: Instant) {
        let surplus = self.staying().saturating_sub(self.size());
        let mut goes: Vec<_> = self
            .workers
            .iter()
            .filter(|(_, worker)| !worker.leaving)
            .filter(|(_, worker)| {
                let idled = |until| until <= now;
                !self.grows() || self.idle_until(worker).is_some_and(idled)
            })
            .map(|(id, worker)| (worker.instances.len(), Reverse(*id)))
            .collect();
        goes.sort_unstable();
        for (_, Reverse(id)) in goes.into_iter().take(surplus) {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.leaving = true;
            }
        }
    }

    /// When a worker of a pool that grows has idled long enough, if it ever has. One that would be
    /// replaced at once stays.
    fn idle_until(&self, worker: &Worker) -> Option<Instant> {
        let can_go = self.grows()
            && self.staying() > self.size()
            && !worker.leaving
            && worker.instances.is_empty()
            && worker.phase == Phase::Ready;
        let time = match self.pool.spec.idle_time(worker.origin) {
            IdleTime::After(time) => time,
            IdleTime::Unset | IdleTime::Unlimited if !self.mine => GUEST_IDLE,
            IdleTime::Unset | IdleTime::Unlimited => return None,
        };
        // A time beyond all clocks never comes.
        worker.idle_since.checked_add(time).filter(|_| can_go)
    }

    /// Asks for the processes of workers that have none.
    pub(super) fn order(&mut self, steps: &mut Vec<Step>) {
        if self.retry.is_some() {
            return;
        }
        for (id, worker) in &mut self.workers {
            if worker.phase == Phase::Bare && !worker.leaving {
                worker.phase = Phase::Making;
                steps.push(Step::Make(*id));
            }
        }
    }

    /// Has recorded what is not recorded yet.
    pub(super) fn record(&self, id: &PoolId, steps: &mut Vec<Step>) {
        if !self.recorded || !self.mine {
            return;
        }
        let Pool {
            spec,
            state: recorded,
            revision,
        } = &*self.pool;
        if self.is_leaving() && self.workers.is_empty() {
            steps.push(Step::Remove(id.clone(), *revision));
            return;
        }
        let state = self.state();
        let says = |recorded: &PoolState| {
            recorded.status == state.status
                && recorded.ready_count == state.ready_count
                && recorded.msg == spec.message(&state.msg)
        };
        if !says(recorded) {
            steps.push(Step::Report(id.clone(), *revision, state));
        }
    }

    /// How far it has come.
    fn state(&self) -> PoolState {
        let ready = self
            .workers
            .values()
            .filter(|worker| worker.is_ready())
            .count();
        let complete = ready >= self.size();
        let (status, word) = match self.pool.state.status {
            PoolStatus::PendingDeletion => (PoolStatus::PendingDeletion, "Deleting"),
            // Once it ran it is never called less; the message tells what is missing.
            PoolStatus::Running => (PoolStatus::Running, "Running"),
            _ if complete => (PoolStatus::Running, "Running"),
            PoolStatus::PendingUpdate | PoolStatus::Updating => (PoolStatus::Updating, "Updating"),
            PoolStatus::Pending | PoolStatus::Creating | PoolStatus::Failed => {
                (PoolStatus::Creating, "Creating")
            }
        };
        let msg = match &self.trouble {
            _ if complete || self.is_leaving() => word.to_owned(),
            None if status != PoolStatus::Running => word.to_owned(),
            trouble => {
                let size = self.size();
                let trouble = trouble.as_ref().map(|trouble| format!(": {trouble}"));
                let trouble = trouble.unwrap_or_default();
                format!("{word}: {ready} of {size} workers are ready{trouble}")
            }
        };
        PoolState {
            status,
            msg,
            ready_count: u32::try_from(ready).unwrap_or(u32::MAX),
        }
    }

    /// When something is to be done that nothing else will tell of.
    pub(super) fn due(&self, drain: Duration) -> Option<Instant> {
        let busy = self
            .workers
            .values()
            .any(|worker| !worker.instances.is_empty());
        let drained = self
            .deleting_since
            .filter(|_| busy)
            .and_then(|since| since.checked_add(drain));
        let idle = self
            .workers
            .values()
            .filter_map(|worker| self.idle_until(worker));
        [self.retry, drained, idle.min()]
            .into_iter()
            .flatten()
            .min()
    }
}
