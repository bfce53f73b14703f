//! What to do next: from what is wanted and what there is to operations. Pure; the time and random numbers are
//! given.
//!
//! Every pass looks at everything, so any of its operations may fail, be lost or be done twice: the next pass
//! sees what came of it.

mod grow;
mod message;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bugle_types::pool::{Pool, PoolId, PoolState, PoolStatus};
use tokio::time::Instant;

use crate::manifest::PodPlan;
use crate::names;
use crate::observed::{Observed, Turn, Workload};

pub use grow::{Refusal, ask};

/// What a pool says after somebody else has deleted its Deployment. It stays that way until the pool is updated.
pub const VANISHED: &str = "deployment is deleted";

/// How often a Pod that is pending for too long is told of.
pub const ALARM_EVERY: Duration = Duration::from_secs(15);

/// How long a request that has had its Pod is remembered: longer than anybody asks again for one.
const REMEMBERED: Duration = Duration::from_mins(30);

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Create or change the pool's autoscaler.
    ApplyAutoscaler(PoolId),
    /// Create or change the pool's Deployment.
    ApplyDeployment(PoolId),
    /// Create a Pod, owned by the Deployment with that uid.
    CreateWorker(PoolId, PodPlan, String),
    /// Delete the Pod if it is still the one with that uid.
    DeleteWorker {
        /// The id of its pool.
        pool: String,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// Why, for the log.
        why: &'static str,
    },
    /// Delete the Pod if it is still the one with that uid, and still has no instance.
    RecycleWorker {
        /// The id of its pool.
        pool: String,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// Why, for the log.
        why: &'static str,
    },
    /// Say when the Pod's turn is if the cluster has to take some.
    RankWorker {
        /// The id of its pool.
        pool: String,
        /// Its name.
        name: String,
        /// When.
        turn: Turn,
    },
    /// Delete the autoscaler of that name.
    DeleteAutoscaler {
        /// The id of its pool.
        pool: String,
        /// Its name.
        name: String,
    },
    /// Delete the Deployment if it is still the one with that uid.
    DeleteDeployment {
        /// The id of its pool.
        pool: String,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Write into the pool's record how far it has come.
    Report(PoolId, u64, PoolState),
    /// Take the record of a deleted pool away.
    Remove(PoolId, u64),
    /// Tell the operator about a Pod.
    Alarm {
        /// Its pool.
        pool: PoolId,
        /// Its name.
        worker: String,
        /// What is wrong.
        message: String,
    },
}

/// What the objects of a pool would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Of its Deployment.
    pub deployment: String,
    /// Of its autoscaler, if it has one.
    pub autoscaler: Option<String>,
}

/// What an operation for a pool failed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    /// What went wrong, for the pool's message.
    pub message: String,
    /// Whether the cluster has refused it, rather than not answered.
    pub refused: bool,
    /// Whether it was about a Pod only: the pool itself is there.
    pub worker: bool,
    /// When to try again.
    pub until: Instant,
    /// How often it has failed in a row.
    pub attempts: u32,
}

/// What is known beside records and cluster. Losing it costs time and nothing else.
#[derive(Debug, Default)]
pub struct Memory {
    /// What went wrong last, by pool.
    pub setbacks: BTreeMap<PoolId, Setback>,
    /// Requests for instances that wait for a Pod of the pool.
    pub growing: BTreeMap<PoolId, Vec<String>>,
    /// Requests that have had their Pod, and when.
    pub served: BTreeMap<String, Instant>,
    /// Since when Pods have had no instance, by name.
    pub idle: BTreeMap<String, Instant>,
    /// The names of Pods with instances.
    pub busy: BTreeSet<String>,
    /// When the cluster was told of a Pod's turn last, by uid.
    pub ranked: BTreeMap<String, Instant>,
    /// When the operator was told about a Pod last, by uid.
    pub alarmed: BTreeMap<String, Instant>,
    /// Since when Pods that would be made otherwise today have not been ready, by uid.
    pub outdated: BTreeMap<String, Instant>,
}

impl Memory {
    /// The request has its Pod. It gets no other, whatever becomes of this one.
    pub fn serve(&mut self, pool: &PoolId, request: &str, now: Instant) {
        if let Some(waiting) = self.growing.get_mut(pool) {
            waiting.retain(|known| known != request);
        }
        self.served.insert(request.to_owned(), now);
    }
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The records.
    pub pools: &'a BTreeMap<PoolId, Arc<Pool>>,
    /// What each would become, or why it cannot.
    pub digests: &'a BTreeMap<PoolId, Result<Digests, String>>,
}

/// Everything to do now, in its order.
pub fn decide(
    now: Instant,
    wanted: Wanted<'_>,
    observed: &Observed,
    memory: &mut Memory,
    random: &mut impl FnMut() -> u128,
) -> Vec<Operation> {
    memory
        .setbacks
        .retain(|id, _| wanted.pools.contains_key(id) || observed.has(id.as_str()));
    memory.served.retain(|_, since| now < *since + REMEMBERED);
    memory
        .growing
        .retain(|id, requests| wanted.pools.contains_key(id) && !requests.is_empty());
    memory
        .idle
        .retain(|name, _| observed.workers.contains_key(name));
    let known: Vec<&str> = observed
        .workers
        .values()
        .map(|worker| worker.uid.as_str())
        .collect();
    memory
        .alarmed
        .retain(|uid, _| known.contains(&uid.as_str()));
    memory
        .outdated
        .retain(|uid, _| known.contains(&uid.as_str()));
    memory.ranked.retain(|uid, _| known.contains(&uid.as_str()));
    let mut operations = orphans(now, wanted, observed, memory);
    for (id, pool) in wanted.pools {
        if pool.state.status == PoolStatus::PendingDeletion {
            take_down(id, pool, observed, memory, now, &mut operations);
            continue;
        }
        let Some(digests) = wanted.digests.get(id) else {
            continue;
        };
        let mut one = Decision {
            now,
            id,
            pool,
            observed,
            memory: &mut *memory,
            operations: &mut operations,
        };
        match digests {
            Ok(digests) => one.keep(digests, random),
            Err(why) => one.fail(why.clone()),
        }
    }
    operations
}

/// What belongs to no pool, unless the cluster has just kept it.
fn orphans(
    now: Instant,
    wanted: Wanted<'_>,
    observed: &Observed,
    memory: &Memory,
) -> Vec<Operation> {
    let waits = |id: &PoolId| {
        let setback = memory.setbacks.get(id);
        setback.is_some_and(|setback| setback.until > now)
    };
    let orphan = |pool: &String| {
        pool.parse::<PoolId>()
            .map_or(true, |id| !wanted.pools.contains_key(&id) && !waits(&id))
    };
    let mut operations = Vec::new();
    for (name, scaler) in &observed.autoscalers {
        if orphan(&scaler.pool) && !scaler.terminating {
            operations.push(Operation::DeleteAutoscaler {
                pool: scaler.pool.clone(),
                name: name.clone(),
            });
        }
    }
    for (name, workload) in &observed.deployments {
        if orphan(&workload.pool) && !workload.terminating {
            operations.push(delete(name, workload));
        }
    }
    for (name, worker) in &observed.workers {
        if orphan(&worker.pool) && !worker.terminating {
            operations.push(Operation::DeleteWorker {
                pool: worker.pool.clone(),
                name: name.clone(),
                uid: worker.uid.clone(),
                why: "its pool is gone",
            });
        }
    }
    operations
}

fn delete(name: &str, workload: &Workload) -> Operation {
    Operation::DeleteDeployment {
        pool: workload.pool.clone(),
        name: name.to_owned(),
        uid: workload.uid.clone(),
    }
}

fn delete_autoscaler(pool: &PoolId) -> Operation {
    Operation::DeleteAutoscaler {
        pool: pool.to_string(),
        name: names::autoscaler(pool),
    }
}

/// Deletes everything of a pool; when nothing is left, its record.
fn take_down(
    id: &PoolId,
    pool: &Pool,
    observed: &Observed,
    memory: &mut Memory,
    now: Instant,
    operations: &mut Vec<Operation>,
) {
    memory.growing.remove(id);
    let workload = observed.deployments.get(&names::deployment(id));
    let scaler = observed.autoscalers.get(&names::autoscaler(id));
    let workers = || observed.of(id.as_str());
    if workload.is_none() && scaler.is_none() && workers().next().is_none() {
        operations.push(Operation::Remove(id.clone(), pool.revision));
        return;
    }
    let setback = memory.setbacks.get(id);
    if let Some(setback) = setback {
        let state = PoolState {
            msg: setback.message.clone(),
            ..pool.state.clone()
        };
        report(id, pool, state, operations);
    }
    if setback.is_some_and(|setback| setback.until > now) {
        return;
    }
    if let Some(workload) = workload.filter(|workload| !workload.terminating) {
        operations.push(delete(&names::deployment(id), workload));
    }
    // Pods that an instance has for itself are no longer the Deployment's.
    for (name, worker) in workers().filter(|(_, worker)| !worker.terminating) {
        operations.push(Operation::DeleteWorker {
            pool: worker.pool.clone(),
            name: name.clone(),
            uid: worker.uid.clone(),
            why: "its pool is deleted",
        });
    }
    if scaler.is_some_and(|scaler| !scaler.terminating) {
        operations.push(delete_autoscaler(id));
    }
}

/// Adds a report if it says anything new.
fn report(id: &PoolId, pool: &Pool, state: PoolState, operations: &mut Vec<Operation>) {
    let recorded = PoolState {
        msg: pool.spec.message(&state.msg),
        ..state
    };
    if recorded != pool.state && pool.state.status.may_become(state.status) {
        operations.push(Operation::Report(id.clone(), pool.revision, state));
    }
}

/// What is decided about one pool that is to be there.
struct Decision<'a> {
    now: Instant,
    id: &'a PoolId,
    pool: &'a Pool,
    observed: &'a Observed,
    memory: &'a mut Memory,
    operations: &'a mut Vec<Operation>,
}

impl Decision<'_> {
    fn ready(&self) -> u32 {
        let of_pool = self.observed.of(self.id.as_str());
        let ready =
            of_pool.filter(|(_, worker)| worker.ready && !worker.terminating && worker.counted);
        u32::try_from(ready.count()).unwrap_or(u32::MAX)
    }

    fn report(&mut self, status: PoolStatus, msg: String) {
        let state = PoolState {
            status,
            msg,
            ready_count: self.ready(),
        };
        report(self.id, self.pool, state, self.operations);
    }

    fn fail(&mut self, why: String) {
        self.report(PoolStatus::Failed, why);
    }

    /// Brings the pool to what it is to be, and tells how far it has come.
    fn keep(&mut self, digests: &Digests, random: &mut impl FnMut() -> u128) {
        use PoolStatus::{Creating, Failed, Running, Updating};
        let status = self.pool.state.status;
        let workload = self.observed.deployments.get(&names::deployment(self.id));
        if workload.is_some_and(|workload| workload.terminating) {
            let going = "waits for the former Deployment of the pool to go".to_owned();
            return self.report(status, going);
        }
        let vanished = match status {
            Creating | Updating | Running => workload.is_none(),
            Failed => workload.is_none() && self.pool.state.msg.starts_with(VANISHED),
            _ => false,
        };
        if vanished {
            return self.fail(VANISHED.to_owned());
        }
        let mut setback = self.memory.setbacks.get(self.id).cloned();
        let before = self.operations.len();
        let waits = setback
            .as_ref()
            .is_some_and(|setback| setback.until > self.now);
        let current = self.apply(digests, waits);
        let blocked = setback
            .as_ref()
            .is_some_and(|setback| setback.refused && !setback.worker);
        if let Some(setback) = setback.as_ref().filter(|_| blocked && !current) {
            self.fail(setback.message.clone());
            return;
        }
        if let Some(workload) = workload {
            if current && !waits {
                self.replace_outdated(&digests.deployment);
            }
            self.workers(workload, waits, random);
        }
        if current && !waits && self.operations.len() == before {
            // What failed is not wanted any more, or was done without being seen.
            self.memory.setbacks.remove(self.id);
            setback = None;
        }
        self.alarms();
        let target = self.target();
        let next = match status {
            // Nobody has seen it there yet.
            _ if !current => status,
            Running => Running,
            _ if self.ready() >= target => Running,
            PoolStatus::PendingUpdate | Updating => Updating,
            _ => Creating,
        };
        let message = self.message(next, target, workload, setback.as_ref());
        self.report(next, message);
    }

    /// Applies what is not as it is to be; whether all of it is.
    fn apply(&mut self, digests: &Digests, waits: bool) -> bool {
        let scaler = self.observed.autoscalers.get(&names::autoscaler(self.id));
        let scaled = scaler.map(|scaler| &scaler.digest) == digests.autoscaler.as_ref();
        let workload = self.observed.deployments.get(&names::deployment(self.id));
        let deployed = workload.is_some_and(|workload| workload.digest == digests.deployment);
        if waits {
            return scaled && deployed;
        }
        if !scaled {
            self.operations.push(match digests.autoscaler {
                Some(_) => Operation::ApplyAutoscaler(self.id.clone()),
                None => delete_autoscaler(self.id),
            });
        }
        if !deployed {
            self.operations
                .push(Operation::ApplyDeployment(self.id.clone()));
        }
        scaled && deployed
    }

    /// How many workers have to be ready for the pool to run. An autoscaler's own number counts instead of the
    /// pool's.
    fn target(&self) -> u32 {
        let spec = &self.pool.spec;
        match &spec.autoscaler {
            Some(scaler) => scaler["minReplicas"]
                .as_u64()
                .map_or(1, |least| u32::try_from(least).unwrap_or(u32::MAX)),
            None => spec.size,
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
