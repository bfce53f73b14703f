//! The place of this gateway in etcd: taken, renewed, given up, and when it counts.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bugle_store::{EtcdFailure, Membership, Place};
use bugle_types::report;
use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::question::{answer_of, question_of};
use super::{PAUSE, Refused, Shared, Told, WITNESS};
use crate::view::{Member, View};

/// How often the lease is renewed, and how long a renewal may take.
const RENEW: Duration = Duration::from_millis(500);
const RENEWAL: Duration = Duration::from_millis(300);

/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// How much earlier than etcd this gateway believes its place to be over: the two clocks need not run
/// at quite the same pace.
const MARGIN: Duration = Duration::from_millis(200);

/// How long a place that etcd confirmed counts here.
const COUNTS: Duration = Membership::LASTS.saturating_sub(MARGIN);

/// How often the fence is looked at.
const LOOK: Duration = Duration::from_millis(50);

impl Shared {
    /// Takes a place, and another one whenever it is lost.
    pub(super) async fn keep_places(&self, told: &Told) -> Refused {
        self.until(1).await;
        while !self.retiring.is_cancelled() {
            if let Err(refused) = self.admissible(u64::MAX) {
                return refused;
            }
            let id: Arc<str> = uuid::Uuid::new_v4().simple().to_string().into();
            let sent = self.fence.now();
            let place = match self.join(&id).await {
                Ok(place) => place,
                Err(failure @ EtcdFailure::Mixed { .. }) => return Refused::Etcd(failure),
                Err(failure) => {
                    tracing::warn!(reason = report(&failure), "this gateway cannot join yet");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            // Two that joined at the same moment: the later one goes.
            self.until(place.revision.0).await;
            if let Err(refused) = self.admissible(place.revision.0) {
                self.membership.leave(place).await;
                return refused;
            }
            self.fence.extend(sent, COUNTS);
            self.set_me(Some(Arc::clone(&id)), told);
            tracing::info!(member = &*id, "joined the gateways");
            let keeping = async {
                tokio::select! {
                    biased;
                    () = self.leaving.cancelled() => true,
                    () = self.keep(place, &id, told) => false,
                    never = self.retire(place, &id) => match never {},
                }
            };
            if keeping.await {
                self.membership.leave(place).await;
                break;
            }
            tracing::error!(
                member = &*id,
                "this gateway lost its place among the gateways"
            );
            self.fence.fall();
            (told.fenced)();
            self.set_me(None, told);
            if self.retiring.is_cancelled() {
                break;
            }
        }
        self.retired.cancel();
        self.left.cancel();
        std::future::pending().await
    }

    /// Tells the others that this gateway takes no functions any more, when that is so.
    async fn retire(&self, place: Place, id: &str) -> Infallible {
        self.retiring.cancelled().await;
        let member = Member {
            leaving: true,
            ..self.member.clone()
        };
        let value = Bytes::from(serde_json::to_vec(&member).unwrap_or_default());
        loop {
            match self.membership.rewrite(place, id, value.clone()).await {
                Ok(revision) => {
                    self.until(revision.0).await;
                    self.retired.cancel();
                    return std::future::pending().await;
                }
                Err(failure) => {
                    tracing::warn!(reason = report(&failure), "the others cannot be told yet");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn join(&self, id: &str) -> Result<Place, EtcdFailure> {
        // The shape has no keys that are not text.
        let value = serde_json::to_vec(&self.member).unwrap_or_default();
        self.membership.join(id, value.into()).await
    }

    /// Whether none of the others can reach etcd either. Then no lease runs out, and nobody takes over
    /// what another one has.
    async fn is_away_for_all(&self, id: &str) -> bool {
        let view = Arc::clone(&self.view.read());
        let asked = view.others().map(|(other, member)| async {
            let question = serde_json::to_vec(id).unwrap_or_default();
            let request = question_of(WITNESS, question)?;
            let answer = self.peers.send(other, &member.address, request).await?;
            answer_of::<bool>(answer).await
        });
        let answers = timeout(RENEWAL, futures_util::future::join_all(asked)).await;
        answers.is_ok_and(|answers| answers.into_iter().all(|answer| answer == Ok(true)))
    }

    /// Whether all who joined before `since` are like this gateway.
    fn admissible(&self, since: u64) -> Result<(), Refused> {
        let view = self.view.read();
        let Some(other) = view.stranger(&self.member, since) else {
            return Ok(());
        };
        let other = Box::new(other.clone());
        let mine = &self.member;
        Err(if other.build != mine.build {
            let ours = mine.build.clone();
            Refused::Build { other, ours }
        } else if other.key != mine.key {
            Refused::Key { other }
        } else {
            let ours = mine.pools.clone();
            Refused::Pools { other, ours }
        })
    }

    /// Renews a place until it is lost.
    async fn keep(&self, place: Place, id: &str, told: &Told) {
        let mut pause = RENEW;
        loop {
            sleep(pause).await;
            let held = self.fence.holds();
            let mut sent = self.fence.now();
            let confirmed = match timeout(RENEWAL, self.membership.renew(place)).await {
                Ok(Ok(true)) => {
                    self.cut_off.store(false, Ordering::Release);
                    pause = RENEW;
                    true
                }
                Ok(Ok(false)) => return,
                // Nobody knows; the others may, and else the fence decides.
                Ok(Err(_)) | Err(_) => {
                    self.cut_off.store(true, Ordering::Release);
                    pause = AGAIN;
                    sent = self.fence.now();
                    held && self.is_away_for_all(id).await
                }
            };
            if confirmed {
                self.fence.extend(sent, COUNTS);
            }
            if confirmed && !held {
                // What was let go of meanwhile is taken over again.
                let view = View::clone(&self.view.read());
                self.install(view, told);
            }
        }
    }

    /// Tells when the place was not confirmed for too long.
    pub(super) async fn watch_fence(&self, told: &Told) -> Infallible {
        let mut held = false;
        loop {
            sleep(LOOK).await;
            let holds = self.fence.holds();
            if held && !holds && self.me.lock().is_some() {
                tracing::error!(
                    "etcd did not confirm the place of this gateway in time; its functions end here"
                );
                (told.fenced)();
            }
            held = holds;
        }
    }
}
