//! Carries operations out. Each may be done twice without harm; what became of it is seen in the next pass.

mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bugle_types::pool::{Pool, PoolId, PoolStatus};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt as _};
use tokio::time::{Instant, timeout_at};

use crate::caches::Caches;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::decide::Operation;
use crate::leader::{Deposed, Leadership};
use crate::manifest;
use crate::metrics::Metrics;
use crate::names;
use crate::workers::{Use, Workers};

/// How often the Secret that workers join with is written although nothing has changed.
const SECRET_EVERY: Duration = Duration::from_mins(1);

/// Why an operation has not happened, or may not have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// This process may not write any more.
    #[error(transparent)]
    Deposed(#[from] Deposed),
    /// The cluster has said no; the code of its answer.
    #[error("{message}")]
    Refused {
        /// For the pool's message.
        message: String,
    },
    /// There was no answer, or one that says to ask later. It may have happened.
    #[error("the cluster does not answer: {0}")]
    Unanswered(String),
}

/// What an answer that is none of success means.
enum Answer {
    Refused(u16, String),
    Later(String),
}

impl Answer {
    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 429 || status.code >= 500 => {
                Self::Later(format!("{} {}", status.code, status.message))
            }
            kube::Error::Api(status) => Self::Refused(status.code, status.message.clone()),
            other => Self::Later(bugle_types::report(other)),
        }
    }

    fn code(error: &kube::Error) -> Option<u16> {
        match error {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }
}

/// Writes to the cluster. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Executor {
    pub(crate) cluster: Cluster,
    pub(crate) config: Arc<Config>,
    pub(crate) caches: Caches,
    pub(crate) leadership: Leadership,
    pub(crate) metrics: Metrics,
    pub(crate) workers: Option<Arc<dyn Workers>>,
    /// What the Secret was written with last, and when.
    pub(crate) secret: Arc<tokio::sync::Mutex<Option<Written>>>,
}

/// The Secret as this process has written it.
#[derive(Debug)]
pub(crate) struct Written {
    tokens: BTreeMap<PoolId, String>,
    at: Instant,
}

impl Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl Executor {
    /// Does one thing in the cluster; what is about records is somebody else's.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn carry_out(
        &self,
        pools: &BTreeMap<PoolId, Arc<Pool>>,
        operation: &Operation,
    ) -> Result<(), Failure> {
        let (name, outcome) = match operation {
            Operation::ApplyAutoscaler(id) => (
                "apply_autoscaler",
                self.apply_autoscaler(pools.get(id)).await,
            ),
            Operation::ApplyDeployment(id) => {
                ("apply_deployment", self.deploy(pools, pools.get(id)).await)
            }
            Operation::CreateWorker(id, plan, owner) => (
                "create_pod",
                self.create_worker(pools.get(id), plan, owner).await,
            ),
            Operation::DeleteWorker { name, uid, why, .. } => {
                tracing::info!(pod = name, why, "a Pod of a pool is deleted");
                ("delete_pod", self.delete_worker(name, uid).await)
            }
            Operation::RecycleWorker { name, uid, why, .. } => {
                let Some(outcome) = self.recycle(name, uid, why).await else {
                    return Ok(());
                };
                ("recycle_pod", outcome)
            }
            Operation::RankWorker { name, turn, .. } => ("rank_pod", self.rank(name, *turn).await),
            Operation::DeleteAutoscaler { name, .. } => {
                ("delete_autoscaler", self.delete_autoscaler(name).await)
            }
            Operation::DeleteDeployment { name, uid, .. } => {
                ("delete_deployment", self.delete_deployment(name, uid).await)
            }
            Operation::Alarm {
                pool,
                worker,
                message,
            } => {
                self.alarm(pool, worker, message).await;
                return Ok(());
            }
            Operation::Report(..) | Operation::Remove(..) => return Ok(()),
        };
        self.metrics
            .operation(name, if outcome.is_ok() { "done" } else { "failed" });
        outcome
    }

    /// Sends one request while this process may, for as long as it may and a request is to take.
    async fn send<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<Result<T, kube::Error>, Failure> {
        let until = self.leadership.check()?;
        let latest = (Instant::now() + self.config.request_time()).min(until);
        let late = |_| Failure::Unanswered("the request has taken too long".to_owned());
        timeout_at(latest, request).await.map_err(late)
    }

    /// Server-side apply: what is not said is left to others, what others have said of ours is taken back.
    async fn apply<K>(&self, api: &Api<K>, object: &K) -> Result<Result<K, kube::Error>, Failure>
    where
        K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + Debug,
    {
        let parameters = PatchParams::apply(names::MANAGER).force();
        let name = object.name_any();
        self.send(api.patch(&name, &parameters, &Patch::Apply(object)))
            .await
    }

    /// Since when Pods have had no instance, and those that have one.
    pub(crate) fn uses(&self) -> (BTreeMap<String, Instant>, BTreeSet<String>) {
        let (mut idle, mut busy) = (BTreeMap::new(), BTreeSet::new());
        for (pod, what) in self.workers.iter().flat_map(|workers| workers.uses()) {
            match what {
                Use::IdleSince(since) => _ = idle.insert(pod, since),
                Use::Busy(_) => _ = busy.insert(pod),
            }
        }
        (idle, busy)
    }

    /// What a pool's Pods need before they are there, and then the pool itself.
    async fn deploy(
        &self,
        pools: &BTreeMap<PoolId, Arc<Pool>>,
        pool: Option<&Arc<Pool>>,
    ) -> Result<(), Failure> {
        let Some(pool) = pool else { return Ok(()) };
        self.keep_secret(pools).await?;
        self.spare_busy_pods(&pool.spec).await?;
        self.apply_deployment(Some(pool)).await
    }

    /// Brings the Secret that workers join with up to date, and now and then anew: somebody may have removed it.
    pub(crate) async fn keep_secret(
        &self,
        pools: &BTreeMap<PoolId, Arc<Pool>>,
    ) -> Result<(), Failure> {
        let Some(workers) = self.workers.as_ref().filter(|_| self.config.joins()) else {
            return Ok(());
        };
        let tokens: BTreeMap<_, _> = pools
            .iter()
            .filter(|(_, pool)| pool.state.status != PoolStatus::PendingDeletion)
            .map(|(id, _)| (id.clone(), workers.token(id)))
            .collect();
        // One writes for all pools; the others find it done.
        let mut written = self.secret.lock().await;
        let done = written
            .as_ref()
            .is_some_and(|written| written.tokens == tokens && written.at.elapsed() < SECRET_EVERY);
        if done || (tokens.is_empty() && written.is_none()) {
            return Ok(());
        }
        let object = manifest::secret(&self.config, &tokens);
        let applied = self.apply(&self.cluster.api::<Secret>(), &object).await?;
        applied.map_err(|error| failed("Apply Secret", &error))?;
        let at = Instant::now();
        *written = Some(Written { tokens, at });
        Ok(())
    }

    async fn apply_deployment(&self, pool: Option<&Arc<Pool>>) -> Result<(), Failure> {
        let Some(pool) = pool else { return Ok(()) };
        let object =
            manifest::deployment(&self.config, &pool.spec).map_err(|error| refused(&error))?;
        let api = self.cluster.api::<Deployment>();
        let name = names::deployment(&pool.spec.id);
        let observed = self.caches.observed().unwrap_or_default();
        let known = observed.deployments.contains_key(&name);
        let foreign = if known {
            None
        } else {
            self.send(api.get_opt(&name))
                .await?
                .map_err(|error| failed("Create Deployment", &error))?
        };
        if foreign.is_some_and(|foreign| !is_ours(&foreign.metadata)) {
            return Err(Failure::Refused {
                message: "pool already exists".to_owned(),
            });
        }
        let verb = if known {
            "Update Deployment"
        } else {
            "Create Deployment"
        };
        match self.apply(&api, &object).await? {
            Ok(applied) => {
                self.caches.wrote_deployment(&applied);
                Ok(())
            }
            Err(error) => Err(failed(verb, &error)),
        }
    }

    async fn apply_autoscaler(&self, pool: Option<&Arc<Pool>>) -> Result<(), Failure> {
        let Some(pool) = pool else { return Ok(()) };
        let Some(object) = manifest::autoscaler(&pool.spec).map_err(|error| refused(&error))?
        else {
            return Ok(());
        };
        let api = self.cluster.api::<HorizontalPodAutoscaler>();
        let name = names::autoscaler(&pool.spec.id);
        let observed = self.caches.observed().unwrap_or_default();
        if !observed.autoscalers.contains_key(&name) {
            let there = self.send(api.get_opt(&name)).await?;
            let there = there.map_err(|error| failed("Create HPA", &error))?;
            if there.is_some_and(|there| !is_ours(&there.metadata)) {
                return Err(Failure::Refused {
                    message: format!(
                        "create HPA failed: there is an HPA {name} already, of somebody else"
                    ),
                });
            }
        }
        match self.apply(&api, &object).await? {
            Ok(applied) => {
                self.caches.wrote_autoscaler(&applied);
                Ok(())
            }
            Err(error) => Err(match Answer::of(&error) {
                Answer::Refused(422 | 400, why) => Failure::Refused {
                    message: format!("invalid HPA spec, create HPA failed: {why}"),
                },
                Answer::Refused(_, why) => Failure::Refused {
                    message: format!("create HPA failed: {why}"),
                },
                Answer::Later(why) => Failure::Unanswered(why),
            }),
        }
    }

    async fn delete_deployment(&self, name: &str, uid: &str) -> Result<(), Failure> {
        let api = self.cluster.api::<Deployment>();
        // Its Pods go first, so that the pool's record stays until they are gone.
        let parameters = of_uid(DeleteParams::foreground(), uid);
        match self.send(api.delete(name, &parameters)).await? {
            Ok(answer) => {
                answer.map_left(|going| self.caches.wrote_deployment(&going));
                Ok(())
            }
            Err(error) if is_gone(&error) => {
                self.caches.forget_deployment(name);
                Ok(())
            }
            Err(error) => Err(failed("Delete Deployment", &error)),
        }
    }

    async fn delete_autoscaler(&self, name: &str) -> Result<(), Failure> {
        let api = self.cluster.api::<HorizontalPodAutoscaler>();
        match self
            .send(api.delete(name, &DeleteParams::default()))
            .await?
        {
            Ok(answer) => {
                answer.map_left(|going| self.caches.wrote_autoscaler(&going));
                Ok(())
            }
            Err(error) if is_gone(&error) => {
                self.caches.forget_autoscaler(name);
                Ok(())
            }
            Err(error) => Err(failed("Delete HPA", &error)),
        }
    }
}

fn is_ours(metadata: &ObjectMeta) -> bool {
    let labels = metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(names::MANAGED_BY))
        .is_some_and(|by| by == names::MANAGER)
}

fn of_uid(parameters: DeleteParams, uid: &str) -> DeleteParams {
    parameters.preconditions(Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    })
}

/// It is not there any more, or another one of the same name is.
fn is_gone(error: &kube::Error) -> bool {
    matches!(Answer::code(error), Some(404 | 409))
}

fn refused(error: &manifest::Error) -> Failure {
    Failure::Refused {
        message: error.to_string(),
    }
}

fn failed(verb: &str, error: &kube::Error) -> Failure {
    match Answer::of(error) {
        Answer::Refused(code, why) => Failure::Refused {
            message: format!("{verb} Failed, ErrorCode is {code}: {why}"),
        },
        Answer::Later(why) => Failure::Unanswered(why),
    }
}
