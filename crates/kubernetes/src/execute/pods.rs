//! What is done to single Pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bugle_types::pool::{Pool, PoolId, PoolSpec};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::{Answer, Executor, Failure, failed, is_gone, is_ours, of_uid, refused};
use crate::manifest::{self, PodPlan};
use crate::names;
use crate::observed::Turn;
use crate::workers::Use;

/// How often a write that got no answer is repeated before its pool waits.
const REPEATS: u32 = 3;

/// How many Pods of one pool are changed at once.
const AT_ONCE: usize = 16;

impl Executor {
    /// Tells the cluster which Pods a fixed pool that becomes smaller shall lose last: those with instances.
    pub(super) async fn spare_busy_pods(&self, pool: &PoolSpec) -> Result<(), Failure> {
        let Some(workers) = self.workers.as_ref().filter(|_| !pool.scalable) else {
            return Ok(());
        };
        let observed = self.caches.observed().unwrap_or_default();
        let live = observed
            .of(pool.id.as_str())
            .filter(|(_, worker)| worker.is_live());
        let live: Vec<_> = live.map(|(name, _)| name.clone()).collect();
        if live.len() <= usize::try_from(pool.size).unwrap_or(usize::MAX) {
            return Ok(());
        }
        let uses = workers.uses();
        let costs = stream::iter(live)
            .map(|name| {
                let cost = match uses.get(&name) {
                    Some(Use::Busy(instances)) => *instances,
                    _ => 0,
                };
                async move { self.set_cost(&name, cost).await }
            })
            .buffer_unordered(AT_ONCE);
        costs.try_collect().await
    }

    /// Says when the turn of a Pod is if the cluster has to take some.
    pub(super) async fn rank(&self, name: &str, turn: Turn) -> Result<(), Failure> {
        let cost = match turn {
            Turn::First => 0,
            Turn::Last => 1,
        };
        self.set_cost(name, cost).await
    }

    async fn set_cost(&self, name: &str, cost: u32) -> Result<(), Failure> {
        let patch = json!({"metadata": {"annotations": {names::COST: cost.to_string()}}});
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let api = self.cluster.api::<Pod>();
        match self.send(api.patch(name, &parameters, &patch)).await? {
            Ok(patched) => {
                self.caches.wrote_worker(&patched);
                Ok(())
            }
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(failed("Patch Pod", &error)),
        }
    }

    /// Creates a Pod under its name, and asks again under the same name until it is known whether it is there.
    pub(super) async fn create_worker(
        &self,
        pool: Option<&Arc<Pool>>,
        plan: &PodPlan,
        owner: &str,
    ) -> Result<(), Failure> {
        let Some(pool) = pool else { return Ok(()) };
        let object = manifest::pod(&self.config, &pool.spec, plan, owner)
            .map_err(|error| refused(&error))?;
        let api = self.cluster.api::<Pod>();
        let parameters = PostParams {
            field_manager: Some(names::MANAGER.to_owned()),
            ..PostParams::default()
        };
        let mut unanswered = Failure::Unanswered(String::new());
        for attempt in 0..REPEATS {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
            }
            let answered = match self.send(api.create(&parameters, &object)).await {
                Err(Failure::Unanswered(why)) => {
                    unanswered = Failure::Unanswered(why);
                    continue;
                }
                other => other?,
            };
            match answered {
                Ok(created) => {
                    self.caches.wrote_worker(&created);
                    return Ok(());
                }
                Err(error) if Answer::code(&error) == Some(409) => {
                    match self.send(api.get(&plan.name)).await? {
                        // An answer of before was lost.
                        Ok(created) if is_ours(&created.metadata) => {
                            self.caches.wrote_worker(&created);
                            return Ok(());
                        }
                        Ok(_) => return Err(failed("Create Pod", &error)),
                        Err(error) => unanswered = failed("Create Pod", &error),
                    }
                }
                Err(error) => match failed("Create Pod", &error) {
                    Failure::Unanswered(why) => unanswered = Failure::Unanswered(why),
                    refused => return Err(refused),
                },
            }
        }
        Err(unanswered)
    }

    /// Deletes a Pod that has no instance; none if it has one.
    pub(super) async fn recycle(
        &self,
        name: &str,
        uid: &str,
        why: &str,
    ) -> Option<Result<(), Failure>> {
        let workers = self.workers.as_ref()?;
        if !workers.retire(name).await {
            return None;
        }
        tracing::info!(pod = name, why, "a Pod of a pool is deleted");
        let deleted = self.delete_worker(name, uid).await;
        if deleted.is_err() {
            workers.restore(name).await;
        }
        Some(deleted)
    }

    pub(super) async fn delete_worker(&self, name: &str, uid: &str) -> Result<(), Failure> {
        let api = self.cluster.api::<Pod>();
        let parameters = of_uid(DeleteParams::default(), uid);
        match self.send(api.delete(name, &parameters)).await? {
            Ok(answer) => {
                answer.map_left(|going| self.caches.wrote_worker(&going));
                Ok(())
            }
            Err(error) if is_gone(&error) => {
                self.caches.forget_worker(name);
                Ok(())
            }
            Err(error) => Err(failed("Delete Pod", &error)),
        }
    }

    /// Tells of a Pod in the log, the metrics and an Event, which is a courtesy and may get lost.
    pub(super) async fn alarm(&self, pool: &PoolId, worker: &str, message: &str) {
        tracing::warn!(%pool, pod = worker, message, "a Pod of a pool is in trouble");
        self.metrics.alarm();
        let now = Timestamp::now();
        let namespace = Some(self.cluster.namespace().to_owned());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{worker}.{:x}", now.as_nanosecond())),
                labels: Some(BTreeMap::from([(names::POOL.to_owned(), pool.to_string())])),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(worker.to_owned()),
                namespace,
                ..ObjectReference::default()
            },
            type_: Some("Warning".to_owned()),
            reason: Some("PodAlarm".to_owned()),
            message: Some(format!("Pod {worker}, {message}")),
            source: Some(EventSource {
                component: Some(names::MANAGER.to_owned()),
                host: None,
            }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        };
        let api = self.cluster.api::<Event>();
        if let Err(error) = self
            .send(api.create(&PostParams::default(), &event))
            .await
            .and_then(|answer| answer.map_err(|error| failed("Create Event", &error)))
        {
            tracing::debug!(%error, "the Event of a Pod could not be written");
        }
    }
}
