//! The Pods of a pool: made one by one for scalable pools, taken away when they idle or have ended.

use std::time::Duration;

use bugle_types::pool::{IdleTime, Origin};

use super::{ALARM_EVERY, Decision, Operation};
use crate::manifest::PodPlan;
use crate::names;
use crate::observed::{Phase, Turn, Worker, Workload};

/// How long a Pod that was made for a request may take to start.
const START_TIME: Duration = Duration::from_mins(5);

/// How often the cluster is told of one Pod's turn: instances come and go faster than autoscalers decide.
const RANK_EVERY: Duration = Duration::from_secs(30);

/// How long a Pod that would be made otherwise today may be not ready before another takes its place.
const OUTDATED_TIME: Duration = Duration::from_mins(1);

impl Decision<'_> {
    pub(super) fn workers(
        &mut self,
        workload: &Workload,
        waits: bool,
        random: &mut impl FnMut() -> u128,
    ) {
        if waits {
            return;
        }
        self.clear_away();
        self.recycle();
        self.rank();
        if self.pool.spec.scalable {
            self.grow(workload, random);
        }
    }

    fn delete(&mut self, name: &str, worker: &Worker, why: &'static str) {
        self.operations.push(Operation::DeleteWorker {
            pool: worker.pool.clone(),
            name: name.to_owned(),
            uid: worker.uid.clone(),
            why,
        });
    }

    fn recycle_one(&mut self, name: &str, worker: &Worker, why: &'static str) {
        self.operations.push(Operation::RecycleWorker {
            pool: worker.pool.clone(),
            name: name.to_owned(),
            uid: worker.uid.clone(),
            why,
        });
    }

    /// What has ended is in nobody's way, but it is nobody's either.
    fn clear_away(&mut self) {
        let observed = self.observed;
        for (name, worker) in observed.of(self.id.as_str()) {
            if matches!(worker.phase, Phase::Failed | Phase::Succeeded) && !worker.terminating {
                self.delete(name, worker, "it has ended");
            }
            let late = self.now >= worker.first_seen + START_TIME;
            if worker.request.is_some()
                && worker.phase == Phase::Pending
                && !worker.terminating
                && late
            {
                self.delete(name, worker, "it did not start in time");
            }
        }
    }

    /// Replaces Pods that would be made otherwise today, which nobody else does for those of a scalable pool. One that
    /// does not become ready goes after a while, as it may be of an earlier build of the platform and never be. Of
    /// those that are ready one goes at a time, when nobody uses it and the pool is whole: what Pods are made from
    /// today may be worse.
    pub(super) fn replace_outdated(&mut self, digest: &str) {
        let observed = self.observed;
        let workers = || observed.of(self.id.as_str());
        let live = workers().filter(|(_, worker)| worker.is_live()).count();
        let mut changes = self.memory.setbacks.contains_key(self.id)
            || u32::try_from(live).unwrap_or(u32::MAX) < self.pool.spec.size
            || workers().any(|(_, worker)| {
                let current = worker.digest.as_deref() == Some(digest);
                worker.terminating || current && worker.is_live() && !worker.ready
            });
        for (name, worker) in observed.of(self.id.as_str()) {
            let made_as = worker.digest.as_deref();
            let outdated = made_as.is_some_and(|made_as| made_as != digest);
            if !outdated || worker.ready || !worker.is_live() {
                self.memory.outdated.remove(&worker.uid);
            }
            if !outdated || !worker.is_live() {
                continue;
            }
            if worker.ready {
                if !changes && self.memory.idle.contains_key(name) {
                    changes = true;
                    self.recycle_one(name, worker, "it was made otherwise and is idle");
                }
                continue;
            }
            let outdated = &mut self.memory.outdated;
            let since = *outdated.entry(worker.uid.clone()).or_insert(self.now);
            if self.now >= since + OUTDATED_TIME {
                changes = true;
                self.delete(name, worker, "it was made otherwise and is not ready");
            }
        }
    }

    /// Pods that nobody has used for as long as they may idle.
    fn recycle(&mut self) {
        let observed = self.observed;
        for (name, worker) in observed.of(self.id.as_str()) {
            let IdleTime::After(limit) = worker.idle else {
                continue;
            };
            let since = self.memory.idle.get(name);
            // A time beyond all clocks never comes.
            let until = since.and_then(|since| since.checked_add(limit));
            let due = until.is_some_and(|until| self.now >= until);
            if due && worker.phase == Phase::Running && !worker.terminating {
                self.recycle_one(name, worker, "it has been idle");
            }
        }
    }

    /// Has the cluster take Pods without instances first where an autoscaler says how many are to go, as that knows
    /// nothing of instances.
    fn rank(&mut self) {
        if self.pool.spec.autoscaler.is_none() {
            return;
        }
        let observed = self.observed;
        for (name, worker) in observed.of(self.id.as_str()) {
            let turn = if self.memory.busy.contains(name) {
                Turn::Last
            } else {
                Turn::First
            };
            let told = self.memory.ranked.get(&worker.uid);
            let lately = told.is_some_and(|told| self.now < *told + RANK_EVERY);
            if turn != worker.turn && worker.is_live() && !lately {
                self.memory.ranked.insert(worker.uid.clone(), self.now);
                self.operations.push(Operation::RankWorker {
                    pool: worker.pool.clone(),
                    name: name.clone(),
                    turn,
                });
            }
        }
    }

    /// Keeps `size` Pods, and one more for each request that waits, up to `max_size`.
    fn grow(&mut self, workload: &Workload, random: &mut impl FnMut() -> u128) {
        let spec = &self.pool.spec;
        let observed = self.observed;
        let live = observed
            .of(self.id.as_str())
            .filter(|(_, worker)| worker.is_live())
            .count();
        let mut count = u32::try_from(live).unwrap_or(u32::MAX);
        let mut create = |origin, request| {
            let plan = PodPlan {
                name: names::pod(&spec.id, random()),
                origin,
                request,
            };
            Operation::CreateWorker(spec.id.clone(), plan, workload.uid.clone())
        };
        for _ in count..spec.size {
            self.operations.push(create(Origin::Reserved, None));
        }
        count = count.max(spec.size);
        let Some(waiting) = self.memory.growing.get_mut(self.id) else {
            return;
        };
        // A request that has its Pod is answered, and so is one that there is no room for.
        waiting.retain(|request| {
            let made = observed
                .of(spec.id.as_str())
                .any(|(_, worker)| worker.request.as_ref() == Some(request));
            if made || count >= spec.max_size {
                return false;
            }
            count += 1;
            self.operations
                .push(create(Origin::Scaled, Some(request.clone())));
            true
        });
    }

    /// Tells of Pods that are pending for too long, again and again, and of lost ones, once.
    pub(super) fn alarms(&mut self) {
        let observed = self.observed;
        for (name, worker) in observed.of(self.id.as_str()) {
            let Some(message) = self.alarm(worker) else {
                continue;
            };
            let last = self.memory.alarmed.get(&worker.uid);
            let again = worker.phase == Phase::Pending;
            if last.is_some_and(|last| !again || self.now < *last + ALARM_EVERY) {
                continue;
            }
            self.memory.alarmed.insert(worker.uid.clone(), self.now);
            self.operations.push(Operation::Alarm {
                pool: self.id.clone(),
                worker: name.clone(),
                message,
            });
        }
    }

    /// What there is to tell about a Pod.
    pub(super) fn alarm(&self, worker: &Worker) -> Option<String> {
        if worker.terminating {
            return None;
        }
        let alarming = worker.first_seen.checked_add(worker.threshold);
        match worker.phase {
            Phase::Pending if alarming.is_some_and(|since| self.now >= since) => {
                Some(format!("which has been pending since {}", worker.created))
            }
            Phase::Failed => Some("whose status is changed to Failed".to_owned()),
            Phase::Unknown => Some("whose status is changed to Unknown".to_owned()),
            _ => None,
        }
    }
}
