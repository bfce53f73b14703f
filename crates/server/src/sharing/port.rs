//! What other gateways ask this one, beside the requests that they pass on.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bugle_cluster::{Answer, Cluster, Serve, WITNESS};
use bugle_gateway::Gateway;
use bugle_scheduler::{Census, Scheduler};
use bugle_store::Revision;
use bugle_types::{FunctionId, InstanceLabel};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::census::OPEN;
use super::logs::{self, LOGS};
use super::packages::{PACKAGES, Peers};
use super::{Cancel, Grow, Parts, Sharing};
use crate::applied::Applied;
use crate::kubernetes::Wish;
use crate::logs::LogStore;

/// Whether a function is the asked gateway's.
pub(super) const OWNS: &str = "/owns";
/// How many instances of a function it has.
pub(super) const COUNT: &str = "/count";
/// To be answered when it follows the store so far.
pub(super) const FOLLOW: &str = "/follow";

/// How a function runs there, if it is in use.
pub(super) const STATUS: &str = "/status";
/// There are events for the asked gateway to deliver.
pub(super) const EVENTS: &str = "/events";
/// An invocation that nobody waits for is to be cancelled, if it waits or runs there.
pub(super) const CANCEL: &str = "/cancel";
/// Instances wait for Pods of pools, which the asked gateway may be the one to make.
pub(super) const GROW: &str = "/grow";

/// The longest question, in bytes.
const LONGEST: usize = 1 << 20;

/// How long a question waits until as much was seen as its asker had seen.
const CATCHING_UP: Duration = Duration::from_secs(1);

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Why one breaks off.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Serialize, Deserialize)]
pub(super) struct Owns {
    pub(super) function: FunctionId,
    /// What the asker has seen of the members.
    pub(super) seen: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Count {
    pub(super) function: FunctionId,
    /// What the asked one must have seen of the members before it counts: that the function is not its
    /// own any more.
    pub(super) view: u64,
    /// What it said last: then only news are an answer.
    pub(super) seen: Option<Counts>,
}

/// A census, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts(Vec<(Option<InstanceLabel>, u32)>);

impl Counts {
    pub(super) fn from_census(census: Census) -> Self {
        Self(census.into_iter().collect())
    }

    pub(super) fn into_census(self) -> Census {
        self.0.into_iter().collect()
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Follow {
    pub(super) revision: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Cancelled {
    pub(super) function: FunctionId,
    pub(super) request: String,
}

/// What answers need.
#[derive(Clone)]
struct Answers {
    cluster: Cluster,
    gateway: Gateway,
    scheduler: Scheduler,
    applied: Applied,
    packages: bugle_artifacts::Packages,
    logs: Arc<LogStore>,
    left: Arc<Notify>,
    cancels: Arc<OnceLock<Cancel>>,
    grows: Arc<OnceLock<Grow>>,
    closing: CancellationToken,
}

/// Who answers the other gateways.
pub(super) fn serve(sharing: &Sharing, parts: &Parts) -> Serve {
    let answers = Arc::new(Answers {
        cluster: sharing.cluster.clone(),
        left: Arc::clone(&sharing.left),
        cancels: Arc::clone(&sharing.cancels),
        grows: Arc::clone(&sharing.grows),
        logs: Arc::clone(&parts.logs),
        closing: parts.closing.clone(),
        gateway: parts.gateway.clone(),
        scheduler: parts.scheduler.clone(),
        applied: parts.applied.clone(),
        packages: parts.packages.clone(),
    });
    Arc::new(move |request| {
        let answers = Arc::clone(&answers);
        Box::pin(async move { answers.answer(request).await })
    })
}

impl Answers {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if Gateway::was_passed_on(&request) {
            let response = self.gateway.receive(request).await;
            return response.map(|body| Body::new(body.map_err(Into::into)));
        }
        let path = request.uri().path().to_owned();
        if let Some(package) = path.strip_prefix(PACKAGES) {
            let found = Peers::answer(&self.packages, package).await;
            return found.map_or_else(|| empty(StatusCode::NOT_FOUND), Response::new);
        }
        match &*path {
            OWNS => self.told(request, |question| self.owns(question)).await,
            COUNT => self.told(request, |question| self.count(question)).await,
            FOLLOW => self.told(request, |question| self.follow(question)).await,
            STATUS => {
                let status = async |function: FunctionId| {
                    let found = self.scheduler.find(&function);
                    found.map(|function| crate::operator::shown_now(&function))
                };
                self.told(request, status).await
            }
            WITNESS => {
                let is = async |member: String| self.cluster.is_witness_to(&member);
                self.told(request, is).await
            }
            EVENTS => {
                self.told(request, async |(): ()| self.left.notify_one())
                    .await
            }
            CANCEL => {
                let cancel = async |one: Cancelled| self.cancel(&one);
                self.told(request, cancel).await
            }
            GROW => {
                let grow = async |wishes: Vec<Wish>| {
                    let grow = self.grows.get();
                    grow.is_some_and(|grow| grow(&wishes))
                };
                self.told(request, grow).await
            }
            LOGS => match question(request).await {
                Some(wanted) => {
                    Response::new(logs::answer(&self.logs, wanted, self.closing.clone()))
                }
                None => empty(StatusCode::BAD_REQUEST),
            },
            _ => empty(StatusCode::NOT_FOUND),
        }
    }

    /// Answers a question.
    async fn told<Q: DeserializeOwned, A: Serialize>(
        &self,
        request: Request<Incoming>,
        answer: impl AsyncFnOnce(Q) -> A,
    ) -> Answer {
        let Some(question) = question(request).await else {
            return empty(StatusCode::BAD_REQUEST);
        };
        match serde_json::to_vec(&answer(question).await) {
            Ok(text) => {
                let body = Full::new(Bytes::from(text));
                Response::new(Body::new(body.map_err(|never| match never {})))
            }
            Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    async fn owns(&self, question: Owns) -> bool {
        _ = timeout(CATCHING_UP, self.cluster.reached(question.seen)).await;
        self.cluster.has(&question.function)
    }

    async fn count(&self, question: Count) -> Counts {
        let Count {
            function,
            view,
            seen,
        } = question;
        // Before that this gateway may still start some. Whoever asks gives up before this does.
        self.cluster.reached(view).await;
        let census = match seen.map(Counts::into_census) {
            None => self.scheduler.census(&function),
            Some(seen) => {
                let changed = self.scheduler.census_changed(&function, &seen);
                timeout(OPEN, changed).await.unwrap_or(seen)
            }
        };
        Counts::from_census(census)
    }

    async fn follow(&self, question: Follow) {
        self.applied.wait_for(Revision(question.revision)).await;
    }

    fn cancel(&self, one: &Cancelled) -> bool {
        let cancel = self.cancels.get();
        cancel.is_some_and(|cancel| cancel(&one.function, &one.request))
    }
}

/// What is asked; none if it cannot be read.
async fn question<Q: DeserializeOwned>(request: Request<Incoming>) -> Option<Q> {
    let body = Limited::new(request.into_body(), LONGEST).collect().await;
    serde_json::from_slice(&body.ok()?.to_bytes()).ok()
}

fn empty(status: StatusCode) -> Answer {
    let body = Full::new(Bytes::new()).map_err(|never| match never {});
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    response
}
