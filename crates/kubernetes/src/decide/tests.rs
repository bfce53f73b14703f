//! One situation at a time.

use std::time::Duration;

use bugle_types::pool::{IdleRecycle, IdleTime, Origin};
use serde_json::json;

use super::*;
use crate::observed::{Phase, Scaler, Worker};
use crate::testing;

/// A pool in some situation.
struct Situation {
    pool: Pool,
    observed: Observed,
    memory: Memory,
    digests: Result<Digests, String>,
    now: Instant,
}

impl Situation {
    fn new(status: PoolStatus, size: u32, max_size: u32) -> Self {
        let spec = testing::pool("p", size, max_size);
        let state = PoolState {
            status,
            ..PoolState::default()
        };
        Self {
            pool: Pool {
                spec,
                state,
                revision: 7,
            },
            observed: Observed::default(),
            memory: Memory::default(),
            digests: Ok(Digests {
                deployment: "d".into(),
                autoscaler: None,
            }),
            now: Instant::now(),
        }
    }

    fn with_deployment(mut self) -> Self {
        let workload = Workload {
            pool: "p".into(),
            uid: "u".into(),
            digest: "d".into(),
            terminating: false,
            failure: None,
        };
        self.observed
            .deployments
            .insert("function-agent-p".into(), workload);
        self
    }

    fn with_workers(mut self, count: usize, change: impl Fn(&mut Worker)) -> Self {
        for number in 0..count {
            let mut worker = Worker {
                pool: "p".into(),
                uid: format!("u{number}"),
                phase: Phase::Running,
                ready: true,
                terminating: false,
                counted: true,
                trouble: None,
                request: None,
                digest: None,
                turn: Turn::First,
                idle: IdleTime::Unset,
                threshold: Duration::from_mins(2),
                first_seen: self.now,
                created: "then".into(),
            };
            change(&mut worker);
            self.observed.workers.insert(format!("w{number}"), worker);
        }
        self
    }

    fn decide(&mut self) -> Vec<Operation> {
        let id = self.pool.spec.id.clone();
        let pools = BTreeMap::from([(id.clone(), Arc::new(self.pool.clone()))]);
        let digests = BTreeMap::from([(id, self.digests.clone())]);
        let mut number = 0;
        let wanted = Wanted {
            pools: &pools,
            digests: &digests,
        };
        decide(
            self.now,
            wanted,
            &self.observed,
            &mut self.memory,
            &mut || {
                number += 1;
                number
            },
        )
    }

    /// What the pool would say.
    fn said(&mut self) -> Option<PoolState> {
        self.decide()
            .into_iter()
            .find_map(|operation| match operation {
                Operation::Report(_, _, state) => Some(state),
                _ => None,
            })
    }

    fn created(&mut self) -> usize {
        let operations = self.decide();
        operations
            .iter()
            .filter(|operation| matches!(operation, Operation::CreateWorker(..)))
            .count()
    }
}

#[test]
fn a_new_pool_gets_its_deployment_and_says_nothing_before_it_is_there() {
    let mut pool = Situation::new(PoolStatus::Pending, 2, 2);
    pool.pool.state.msg = "Creating".into();
    assert_eq!(
        pool.decide(),
        [Operation::ApplyDeployment("p".parse().unwrap())]
    );
}

#[test]
fn an_autoscaler_comes_before_its_deployment() {
    let mut pool = Situation::new(PoolStatus::Pending, 2, 2);
    pool.digests = Ok(Digests {
        deployment: "d".into(),
        autoscaler: Some("a".into()),
    });
    let operations = pool.decide();
    assert!(matches!(
        operations[..2],
        [Operation::ApplyAutoscaler(_), Operation::ApplyDeployment(_)]
    ));
}

#[test]
fn a_pool_runs_once_all_its_workers_are_ready() {
    let mut pool = Situation::new(PoolStatus::Pending, 2, 2)
        .with_deployment()
        .with_workers(1, |_| ());
    let said = pool.said().unwrap();
    assert_eq!(
        (said.status, said.ready_count, said.msg.as_str()),
        (PoolStatus::Creating, 1, "Creating")
    );
    let mut pool = Situation::new(PoolStatus::Creating, 2, 2)
        .with_deployment()
        .with_workers(2, |_| ());
    let said = pool.said().unwrap();
    assert_eq!(
        (said.status, said.ready_count, said.msg.as_str()),
        (PoolStatus::Running, 2, "Running")
    );
}

#[test]
fn a_running_pool_that_loses_workers_keeps_running_and_says_so() {
    let mut pool = Situation::new(PoolStatus::Running, 2, 2)
        .with_deployment()
        .with_workers(1, |_| ());
    let said = pool.said().unwrap();
    assert_eq!((said.status, said.ready_count), (PoolStatus::Running, 1));
    assert_eq!(said.msg, "Running: 1 of 2 workers are ready");
}

#[test]
fn a_deployment_that_somebody_deleted_fails_the_pool_until_it_is_updated() {
    let mut pool = Situation::new(PoolStatus::Running, 2, 2);
    let said = pool.said().unwrap();
    assert_eq!(
        (said.status, said.msg.as_str()),
        (PoolStatus::Failed, VANISHED)
    );
    pool.pool.state = said;
    assert_eq!(pool.decide(), []);
    pool.pool.state.status = PoolStatus::PendingUpdate;
    assert!(matches!(pool.decide()[0], Operation::ApplyDeployment(_)));
}

#[test]
fn a_scalable_pool_keeps_its_size_in_pods_of_its_own() {
    let mut pool = Situation::new(PoolStatus::Creating, 3, 5)
        .with_deployment()
        .with_workers(1, |_| ());
    assert_eq!(pool.created(), 2);
    let mut full = Situation::new(PoolStatus::Creating, 3, 5)
        .with_deployment()
        .with_workers(3, |_| ());
    assert_eq!(full.created(), 0);
}

#[test]
fn a_scalable_pool_of_no_workers_runs_at_once() {
    let mut pool = Situation::new(PoolStatus::Pending, 0, 5).with_deployment();
    assert_eq!(pool.said().unwrap().status, PoolStatus::Running);
}

#[test]
fn each_request_adds_at_most_one_pod_and_never_more_than_the_pool_may_have() {
    let mut pool = Situation::new(PoolStatus::Running, 1, 3)
        .with_deployment()
        .with_workers(1, |_| ());
    let id = pool.pool.spec.id.clone();
    pool.memory
        .growing
        .insert(id, vec!["a".into(), "b".into(), "c".into()]);
    assert_eq!(pool.created(), 2);
    let mut made = Situation::new(PoolStatus::Running, 1, 5)
        .with_deployment()
        .with_workers(2, |worker| worker.request = Some("a".into()));
    let id = made.pool.spec.id.clone();
    made.memory.growing.insert(id, vec!["a".into()]);
    assert_eq!(made.created(), 0);
}

#[test]
fn the_label_of_a_pods_idle_time_depends_on_why_it_was_made() {
    let mut pool = Situation::new(PoolStatus::Running, 1, 2).with_deployment();
    let time = |seconds| IdleTime::After(Duration::from_secs(seconds));
    pool.pool.spec.idle = IdleRecycle {
        reserved: time(60),
        scaled: time(5),
    };
    let id = pool.pool.spec.id.clone();
    pool.memory.growing.insert(id, vec!["a".into()]);
    let origins: Vec<_> = pool
        .decide()
        .into_iter()
        .filter_map(|operation| match operation {
            Operation::CreateWorker(_, plan, _) => Some(plan.origin),
            _ => None,
        })
        .collect();
    assert_eq!(origins, [Origin::Reserved, Origin::Scaled]);
}

#[test]
fn a_worker_goes_when_it_has_been_idle_for_as_long_as_it_may() {
    let idle = |worker: &mut Worker| worker.idle = IdleTime::After(Duration::from_secs(5));
    let mut pool = Situation::new(PoolStatus::Running, 0, 5)
        .with_deployment()
        .with_workers(1, idle);
    pool.memory.idle.insert("w0".into(), pool.now);
    let gone = |pool: &mut Situation| {
        pool.decide()
            .iter()
            .any(|operation| matches!(operation, Operation::RecycleWorker { .. }))
    };
    pool.now += Duration::from_secs(4);
    assert!(!gone(&mut pool));
    pool.now += Duration::from_secs(1);
    assert!(gone(&mut pool));
}

#[test]
fn a_time_beyond_all_clocks_harms_nothing() {
    let endless = Duration::from_secs(i64::MAX.unsigned_abs());
    let forever = |worker: &mut Worker| {
        worker.idle = IdleTime::After(Duration::from_secs(u64::MAX));
        worker.threshold = endless;
        worker.phase = Phase::Pending;
    };
    let mut pool = Situation::new(PoolStatus::Running, 0, 5)
        .with_deployment()
        .with_workers(1, forever);
    pool.memory.idle.insert("w0".into(), pool.now);
    pool.now += Duration::from_hours(24);
    for operation in pool.decide() {
        let harmless = matches!(
            operation,
            Operation::Report(..) | Operation::ApplyDeployment(_)
        );
        assert!(harmless, "{operation:?}");
    }
}

#[test]
fn a_pod_of_an_earlier_build_is_replaced_when_it_does_not_become_ready() {
    let mut pool = Situation::new(PoolStatus::Running, 2, 5)
        .with_deployment()
        .with_workers(2, |worker| worker.digest = Some("former".into()));
    let unready = pool.observed.workers.get_mut("w0").unwrap();
    unready.ready = false;
    let replaced = |pool: &mut Situation| {
        let mut deleted = Vec::new();
        for operation in pool.decide() {
            if let Operation::DeleteWorker { name, .. } = operation {
                deleted.push(name);
            }
        }
        deleted
    };
    assert!(replaced(&mut pool).is_empty(), "it may become ready yet");
    pool.now += Duration::from_mins(1);
    assert_eq!(replaced(&mut pool), ["w0"], "the ready one stays");
}

#[test]
fn pods_that_would_be_made_otherwise_today_are_replaced_one_by_one_while_they_are_idle() {
    let mut pool = Situation::new(PoolStatus::Running, 2, 5)
        .with_deployment()
        .with_workers(3, |worker| worker.digest = Some("former".into()));
    let replaced = |pool: &mut Situation| {
        let mut recycled = Vec::new();
        for operation in pool.decide() {
            if let Operation::RecycleWorker { name, .. } = operation {
                recycled.push(name);
            }
        }
        recycled
    };
    assert!(replaced(&mut pool).is_empty(), "all are busy");
    for idle in ["w1", "w2"] {
        pool.memory.idle.insert(idle.into(), pool.now);
    }
    assert_eq!(replaced(&mut pool), ["w1"]);
    let new = pool.observed.workers.get_mut("w1").unwrap();
    (new.digest, new.ready) = (Some("d".into()), false);
    assert!(replaced(&mut pool).is_empty(), "the new one is not ready");
    pool.observed.workers.get_mut("w1").unwrap().ready = true;
    assert_eq!(replaced(&mut pool), ["w2"]);
    pool.observed.workers.remove("w2");
    assert!(replaced(&mut pool).is_empty(), "the last one has instances");
    pool.observed.workers.remove("w0");
    assert!(
        replaced(&mut pool).is_empty(),
        "and the new one is as it is to be"
    );
}

#[test]
fn a_pod_that_stays_pending_is_told_of_every_fifteen_seconds_and_in_the_message() {
    let stuck = |worker: &mut Worker| {
        (worker.phase, worker.ready) = (Phase::Pending, false);
        worker.trouble = Some("Unschedulable: no node is large enough".into());
    };
    let mut pool = Situation::new(PoolStatus::Creating, 1, 1)
        .with_deployment()
        .with_workers(1, stuck);
    let alarms = |pool: &mut Situation| {
        pool.decide()
            .iter()
            .filter(|operation| matches!(operation, Operation::Alarm { .. }))
            .count()
    };
    assert_eq!(alarms(&mut pool), 0);
    pool.now += Duration::from_mins(2);
    assert_eq!((alarms(&mut pool), alarms(&mut pool)), (1, 0));
    pool.now += ALARM_EVERY;
    assert_eq!(alarms(&mut pool), 1);
    let said = pool.said().unwrap().msg;
    assert!(
        said.contains("which has been pending since then (Unschedulable"),
        "{said}"
    );
}

#[test]
fn what_the_cluster_refuses_fails_the_pool_and_is_tried_again_later() {
    let mut pool = Situation::new(PoolStatus::Pending, 1, 1);
    let setback = Setback {
        message: "Create Deployment Failed, ErrorCode is 403".into(),
        refused: true,
        worker: false,
        until: pool.now + Duration::from_secs(1),
        attempts: 1,
    };
    let id = pool.pool.spec.id.clone();
    pool.memory.setbacks.insert(id, setback);
    let said = pool.said().unwrap();
    assert_eq!(
        (said.status, said.msg.as_str()),
        (
            PoolStatus::Failed,
            "Create Deployment Failed, ErrorCode is 403"
        )
    );
    pool.pool.state = said;
    assert_eq!(pool.decide(), []);
    pool.now += Duration::from_secs(1);
    assert!(matches!(pool.decide()[0], Operation::ApplyDeployment(_)));
}

#[test]
fn what_failed_and_is_not_wanted_any_more_is_no_longer_told() {
    let mut pool = Situation::new(PoolStatus::Running, 1, 2)
        .with_deployment()
        .with_workers(1, |_| {});
    let setback = Setback {
        message: "Create Pod Failed, ErrorCode is 500".into(),
        refused: false,
        worker: true,
        until: pool.now + Duration::from_secs(1),
        attempts: 1,
    };
    let id = pool.pool.spec.id.clone();
    pool.memory.setbacks.insert(id, setback);
    let told = "Running: 1 of 1 workers are ready; Create Pod Failed, ErrorCode is 500";
    let said = pool.said().unwrap();
    assert_eq!(said.msg, told);
    pool.pool.state = said;
    // The request for an instance was given up meanwhile.
    pool.now += Duration::from_secs(1);
    assert_eq!(pool.said().unwrap().msg, "Running");
    assert_eq!(pool.memory.setbacks.len(), 0);
}

#[test]
fn a_pool_that_cannot_become_objects_says_why() {
    let mut pool = Situation::new(PoolStatus::Pending, 1, 1);
    pool.digests = Err("volume v is not allowed".into());
    let said = pool.said().unwrap();
    assert_eq!(
        (said.status, said.msg.as_str()),
        (PoolStatus::Failed, "volume v is not allowed")
    );
}

#[test]
fn a_deleted_pool_takes_everything_along_and_its_record_last() {
    let mut pool = Situation::new(PoolStatus::PendingDeletion, 2, 2)
        .with_deployment()
        .with_workers(2, |_| ());
    let scaler = Scaler {
        pool: "p".into(),
        digest: "a".into(),
        terminating: false,
    };
    pool.observed
        .autoscalers
        .insert("function-agent-p-hpa".into(), scaler);
    let operations = pool.decide();
    assert_eq!(operations.len(), 4);
    assert!(
        !operations
            .iter()
            .any(|operation| matches!(operation, Operation::Remove(..)))
    );
    pool.observed = Observed::default();
    assert_eq!(pool.decide(), [Operation::Remove("p".parse().unwrap(), 7)]);
}

#[test]
fn what_belongs_to_no_pool_goes() {
    let mut pool = Situation::new(PoolStatus::Running, 0, 1).with_deployment();
    let orphan = Workload {
        pool: "other".into(),
        uid: "x".into(),
        digest: "d".into(),
        terminating: false,
        failure: None,
    };
    pool.observed
        .deployments
        .insert("function-agent-other".into(), orphan);
    let gone = Operation::DeleteDeployment {
        pool: "other".into(),
        name: "function-agent-other".into(),
        uid: "x".into(),
    };
    assert!(pool.decide().contains(&gone));
}

#[test]
fn an_autoscaler_is_told_which_pods_are_busy_and_not_too_often() {
    let mut pool = Situation::new(PoolStatus::Running, 2, 2)
        .with_deployment()
        .with_workers(2, |_| ());
    let ranked = |pool: &mut Situation| {
        let mut ranked = Vec::new();
        for operation in pool.decide() {
            if let Operation::RankWorker { name, turn, .. } = operation {
                pool.observed.workers.get_mut(&name).unwrap().turn = turn;
                ranked.push((name, turn));
            }
        }
        ranked
    };
    pool.memory.busy.insert("w0".into());
    assert!(ranked(&mut pool).is_empty(), "nobody else takes Pods away");
    pool.pool.spec.autoscaler = Some(json!({"minReplicas": 1, "maxReplicas": 4}));
    assert_eq!(ranked(&mut pool), [("w0".to_owned(), Turn::Last)]);
    pool.memory.busy = ["w1".to_owned()].into();
    assert_eq!(ranked(&mut pool), [("w1".to_owned(), Turn::Last)]);
    pool.now += Duration::from_secs(30);
    assert_eq!(ranked(&mut pool), [("w0".to_owned(), Turn::First)]);
}

#[test]
fn an_autoscaled_pool_runs_by_the_autoscalers_number() {
    let mut pool = Situation::new(PoolStatus::Creating, 5, 5)
        .with_deployment()
        .with_workers(2, |_| ());
    pool.pool.spec.autoscaler = Some(json!({"minReplicas": 2, "maxReplicas": 4}));
    assert_eq!(pool.said().unwrap().status, PoolStatus::Running);
}
