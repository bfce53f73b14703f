//! Which process acts: a Lease in the cluster, and a check before every write.
//!
//! A holder takes itself for deposed after two thirds of the Lease's time without a renewal, by its own clock;
//! the others take over after the whole of it since they last saw the Lease change, by theirs. Clocks may
//! differ, and need only run equally fast. No write begins without a check, and none lasts longer than what is left.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::names;

/// Whether this process acts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Leadership {
    until: Arc<Mutex<Option<Instant>>>,
    /// Who acts, as far as is known.
    holder: watch::Sender<String>,
}

/// This process does not act, or not for long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another process has taken over")]
pub(crate) struct Deposed;

impl Leadership {
    pub(crate) fn new() -> Self {
        Self {
            until: Arc::default(),
            holder: watch::Sender::new(String::new()),
        }
    }

    /// Until when this process may write.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn check(&self) -> Result<Instant, Deposed> {
        let until = *self.until.lock();
        until.filter(|until| *until > Instant::now()).ok_or(Deposed)
    }

    /// Tells when somebody else acts, or this process.
    pub(crate) fn subscribe(&self) -> watch::Receiver<String> {
        self.holder.subscribe()
    }

    fn set(&self, until: Option<Instant>, holder: &str) {
        *self.until.lock() = until;
        self.holder.send_if_modified(|known| {
            let changed = known != holder;
            holder.clone_into(known);
            changed
        });
    }
}

/// One process that wants to act.
#[derive(Debug)]
pub(crate) struct Candidate {
    cluster: Cluster,
    lease: String,
    time: Duration,
    identity: String,
    leadership: Leadership,
    /// The Lease as it was last seen, and when it changed.
    seen: Option<(String, Instant)>,
}

impl Candidate {
    pub(crate) fn new(
        cluster: Cluster,
        config: &Config,
        identity: String,
        leadership: Leadership,
    ) -> Self {
        Self {
            cluster,
            lease: config.lease.clone(),
            time: config.lease_time(),
            identity,
            leadership,
            seen: None,
        }
    }

    /// Takes the Lease whenever it is free, renews it, and gives it back at the end.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        // Several attempts fit between a renewal and the end of what it gave.
        let every = self.time / 6;
        loop {
            let begun = Instant::now();
            let attempt = tokio::time::timeout(self.time / 3, self.attempt(begun)).await;
            let error = match attempt {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(bugle_types::report(&error)),
                Err(_) => Some("the cluster does not answer".to_owned()),
            };
            if let Some(error) = error {
                tracing::debug!(
                    error,
                    "the lease of the pools could not be taken or renewed"
                );
                if self.leadership.check().is_err() {
                    self.leadership.set(None, "");
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(begun + every) => {}
            }
        }
        self.give_back().await;
    }

    /// Looks at the Lease and writes it if it is this process's or nobody's.
    async fn attempt(&mut self, begun: Instant) -> Result<(), kube::Error> {
        let api = self.cluster.api::<Lease>();
        let Some(mut lease) = api.get_opt(&self.lease).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.lease.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(None)),
            };
            let created = api.create(&post(), &lease).await;
            return self.written(begun, created);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self
            .seen
            .as_ref()
            .is_none_or(|(known, _)| *known != version)
        {
            self.seen = Some((version, begun));
        }
        let given = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let given = given.map_or(self.time, Duration::from_secs);
        let expired = self
            .seen
            .as_ref()
            .is_some_and(|(_, since)| begun >= *since + given);
        if holder != self.identity && !holder.is_empty() && !expired {
            self.leadership.set(None, &holder);
            return Ok(());
        }
        lease.spec = Some(self.spec(Some(&spec)));
        let replaced = api.replace(&self.lease, &post(), &lease).await;
        self.written(begun, replaced)
    }

    fn spec(&self, former: Option<&LeaseSpec>) -> LeaseSpec {
        let ours = former.filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity));
        let now = MicroTime(Timestamp::now());
        let changes = former.map_or(0, |spec| spec.lease_transitions.unwrap_or(0));
        LeaseSpec {
            acquire_time: ours
                .and_then(|spec| spec.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.time.as_secs()).ok(),
            lease_transitions: Some(if ours.is_some() {
                changes
            } else {
                changes.saturating_add(1)
            }),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }

    /// The Lease counts from before it was asked for. That somebody else was faster is no error.
    fn written(
        &mut self,
        begun: Instant,
        outcome: Result<Lease, kube::Error>,
    ) -> Result<(), kube::Error> {
        match outcome {
            Ok(lease) => {
                let version = lease.metadata.resource_version.unwrap_or_default();
                self.seen = Some((version, begun));
                self.leadership
                    .set(Some(begun + self.time * 2 / 3), &self.identity);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.leadership.set(None, "");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The next one need not wait.
    async fn give_back(&mut self) {
        if self.leadership.check().is_err() {
            return;
        }
        self.leadership.set(None, "");
        let api = self.cluster.api::<Lease>();
        let released = async {
            let mut lease = api.get(&self.lease).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_ref() == Some(&self.identity) {
                spec.holder_identity = None;
                api.replace(&self.lease, &post(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        // If it cannot be given back it runs out.
        let _runs_out = tokio::time::timeout(Duration::from_secs(2), released).await;
    }
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(names::MANAGER.to_owned()),
        ..PostParams::default()
    }
}
