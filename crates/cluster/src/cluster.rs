//! The place of this gateway among the members, and what it knows of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bugle_node::{GATEWAY, GatewayTls};
use bugle_store::{Error as StoreError, EtcdFailure, Membership, Place, Store};
use bugle_types::{FunctionId, report};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::fence::Fence;
use crate::peers::{Outgoing, Peers, Unanswered};
use crate::port::BoxError;
use crate::view::{Member, View};

/// How often the lease is renewed, and how long a renewal may take.
const RENEW: Duration = Duration::from_millis(500);
const RENEWAL: Duration = Duration::from_millis(300);

/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// The path of the question whether a member cannot reach etcd either.
pub const WITNESS: &str = "/witness";

/// How much earlier than etcd this gateway believes its place to be over: the two clocks need not run
/// at quite the same pace.
const MARGIN: Duration = Duration::from_millis(200);

/// How long a place that etcd confirmed counts here.
const COUNTS: Duration = Membership::LASTS.saturating_sub(MARGIN);

/// How often the fence is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// The pause before a store or an etcd that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// The most members that are read.
const MOST: usize = 1000;

/// The longest answer to a question, in bytes.
const LONGEST: usize = 4 << 20;

/// With what a gateway joins.
pub struct Joining {
    /// Its place in etcd.
    pub membership: Membership,
    /// Where all members are seen.
    pub store: Arc<dyn Store>,
    /// What it says of itself.
    pub member: Member,
}

impl fmt::Debug for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joining")
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

/// Who is told of changes. Neither may block.
pub struct Told {
    /// The members are others now; those functions that are not this gateway's any more are to be let
    /// go of before it returns.
    pub changed: Box<dyn Fn(&View) + Send + Sync>,
    /// This gateway may not use instances any more.
    pub fenced: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").finish_non_exhaustive()
    }
}

/// Why a gateway may not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Another build.
    #[error(
        "the gateway at {} is of build {}, this one of {ours}; all gateways on one etcd need the same", other.address, other.build
    )]
    Build {
        /// Who was there before.
        other: Box<Member>,
        /// This build.
        ours: String,
    },
    /// Another key.
    #[error(
        "the gateway at {} encrypts the variables of functions with another key; copy \
         environment.key from its data folder", other.address
    )]
    Key {
        /// Who was there before.
        other: Box<Member>,
    },
    /// Another platform works alone.
    #[error("it cannot join the gateways of its etcd")]
    Etcd(#[source] EtcdFailure),
    /// The store was closed.
    #[error("the store was closed")]
    Closed,
}

/// The members, and this gateway among them; clones are the same.
#[derive(Clone)]
pub struct Cluster(Arc<Shared>);

struct Shared {
    membership: Membership,
    store: Arc<dyn Store>,
    member: Member,
    fence: Fence,
    peers: Peers,
    view: RwLock<Arc<View>>,
    me: Mutex<Option<Arc<str>>>,
    /// The last revision whose view is in force.
    applied: watch::Sender<u64>,
    /// Whether the last renewal was not answered.
    cut_off: AtomicBool,
    /// To whom this gateway was a witness, and until when: so long it takes nobody for gone whom it was
    /// a witness to.
    promised: Mutex<BTreeMap<String, Instant>>,
    /// Cancelled when this gateway shall have no functions any more, and when it has none.
    retiring: CancellationToken,
    retired: CancellationToken,
    /// Cancelled when it shall give up its place, and when it has.
    leaving: CancellationToken,
    left: CancellationToken,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("view", &self.view())
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// A gateway that has not joined yet.
    pub fn new(joining: Joining) -> Self {
        let Joining {
            membership,
            store,
            member,
        } = joining;
        Self(Arc::new(Shared {
            membership,
            store,
            member,
            fence: Fence::default(),
            peers: Peers::default(),
            view: RwLock::default(),
            me: Mutex::default(),
            applied: watch::Sender::new(0),
            cut_off: AtomicBool::new(false),
            promised: Mutex::default(),
            retiring: CancellationToken::new(),
            retired: CancellationToken::new(),
            leaving: CancellationToken::new(),
            left: CancellationToken::new(),
        }))
    }

    /// Until when this gateway may use instances.
    pub fn fence(&self) -> &Fence {
        &self.0.fence
    }

    /// The members as they are known now.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.view.read())
    }

    /// Runs `act` with the view if this gateway has the function: until it returns, no other view comes
    /// into force, so it may not ask for one.
    pub fn while_mine<T>(
        &self,
        function: &FunctionId,
        act: impl FnOnce(&Arc<View>) -> T,
    ) -> Option<T> {
        let view = self.0.view.read();
        (self.0.fence.holds() && view.is_mine(function)).then(|| act(&view))
    }

    /// Whether this gateway has the function and may use instances.
    pub fn has(&self, function: &FunctionId) -> bool {
        self.while_mine(function, |_| ()).is_some()
    }

    /// The last change of the members that is in force here.
    pub fn revision(&self) -> u64 {
        *self.0.applied.borrow()
    }

    /// Waits until as much is in force. Cancel safe.
    pub async fn reached(&self, revision: u64) {
        let mut applied = self.0.applied.subscribe();
        // The sender lives as long as this.
        let _ = applied.wait_for(|applied| *applied >= revision).await;
    }

    /// Says whether this gateway cannot reach etcd, for a member that cannot. If it says so, it takes
    /// that member for a member for as long as that one may count on it.
    pub fn is_witness_to(&self, member: &str) -> bool {
        let shared = &*self.0;
        let view = shared.view.read();
        let is = shared.cut_off.load(Ordering::Acquire) && view.member(member).is_some();
        if is {
            let mut promised = shared.promised.lock();
            promised.retain(|_, until| *until > Instant::now());
            promised.insert(member.to_owned(), Instant::now() + Membership::LASTS);
        }
        is
    }

    /// Waits for the next view that comes into force. Cancel safe.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.applied.subscribe()
    }

    /// Sends a request to a member.
    ///
    /// # Errors
    ///
    /// [`Unanswered`]; also [`Unanswered::NotSent`] if there is no such member.
    pub async fn send<B>(
        &self,
        id: &str,
        request: Request<B>,
    ) -> Result<Response<Incoming>, Unanswered>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let view = self.view();
        let known = view.members().find(|(known, _)| ***known == *id);
        let Some((id, member)) = known else {
            return Err(Unanswered::NotSent("it is gone".to_owned()));
        };
        let request = request.map(|body| Outgoing::new(body.map_err(Into::into)));
        self.0.peers.send(id, &member.address, request).await
    }

    /// Asks a member a question of the gateways' own, at most for so long.
    ///
    /// # Errors
    ///
    /// [`Unanswered::Lost`] also for an answer that is none.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        id: &str,
        path: &str,
        question: &Q,
        patience: Duration,
    ) -> Result<A, Unanswered> {
        let question = serde_json::to_vec(question).map_err(|error| lost(&error))?;
        let request = question_of(path, question)?;
        let asked = async { answer_of(self.send(id, request).await?).await };
        let in_time = timeout(patience, asked).await;
        in_time.unwrap_or_else(|_| Err(lost(&"no answer in time")))
    }

    /// Gives up the functions, so that others have them at once, and waits until they may. Until it
    /// leaves, this gateway is asked what is left of them here.
    pub async fn retire(&self) {
        self.0.retiring.cancel();
        // Without etcd they are others' when the place has run out.
        let _ = timeout(Membership::LASTS, self.0.retired.cancelled()).await;
    }

    /// Gives up the place.
    pub async fn leave(&self) {
        self.0.leaving.cancel();
        // Without etcd it runs out.
        let _ = timeout(Membership::LASTS, self.0.left.cancelled()).await;
    }

    /// Joins, and keeps the place and the view until `stop`; `tls` is this gateway's certificate.
    ///
    /// # Errors
    ///
    /// [`Refused`], before or after it was a member.
    pub async fn run(
        self,
        tls: GatewayTls,
        told: Told,
        stop: CancellationToken,
    ) -> Result<(), Refused> {
        let shared = &*self.0;
        shared.peers.open(tls.client);
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            refused = shared.follow(&told) => Err(refused),
            refused = shared.keep_places(&told) => Err(refused),
            never = shared.watch_fence(&told) => match never {},
        };
        if outcome.is_err() {
            shared.fence.fall();
            (told.fenced)();
        }
        outcome
    }
}

fn lost(error: &impl ToString) -> Unanswered {
    Unanswered::Lost(error.to_string())
}

/// A question as a request.
fn question_of(path: &str, question: Vec<u8>) -> Result<Request<Outgoing>, Unanswered> {
    let body = Full::new(Bytes::from(question)).map_err(|never| match never {});
    Request::builder()
        .method(Method::POST)
        .uri(format!("https://{GATEWAY}{path}"))
        .body(Outgoing::new(body))
        .map_err(|error| lost(&error))
}

/// What a member answered to a question.
async fn answer_of<A: DeserializeOwned>(response: Response<Incoming>) -> Result<A, Unanswered> {
    if response.status() != StatusCode::OK {
        return Err(Unanswered::Lost(format!(
            "it answered {}",
            response.status()
        )));
    }
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| lost(&error))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| lost(&error))
}

/// Never.
enum Never {}

impl Shared {
    /// Makes a view the one that counts.
    fn install(&self, mut view: View, told: &Told) {
        view.me.clone_from(&self.me.lock());
        let view = Arc::new(view);
        // Whoever acts on the view before holds it until it is done.
        *self.view.write() = Arc::clone(&view);
        (told.changed)(&view);
        self.peers.keep(|id| view.member(id).is_some());
        self.applied.send_replace(view.revision);
    }

    fn set_me(&self, me: Option<Arc<str>>, told: &Told) {
        *self.me.lock() = me;
        let view = View::clone(&self.view.read());
        self.install(view, told);
    }

    /// Keeps the view.
    async fn follow(&self, told: &Told) -> Refused {
        loop {
            match self.follow_once(told).await {
                StoreError::Closed => return Refused::Closed,
                StoreError::Compacted { .. } => {}
                error => {
                    tracing::warn!(error = report(&error), "the members cannot be read");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn follow_once(&self, told: &Told) -> StoreError {
        let prefix = Membership::PREFIX.as_bytes();
        let range = match self.store.range(prefix, None, MOST).await {
            Ok(range) => range,
            Err(error) => return error,
        };
        let mut view = View::default();
        for item in &range.items {
            view.put(item);
        }
        let before = self.view.read().revision;
        view.revision = view.revision.max(before).max(1);
        self.install(view.clone(), told);
        let mut watch = match self.store.watch(prefix, range.revision).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        loop {
            let batch = match watch.next().await {
                Ok(batch) => batch,
                Err(error) => return error,
            };
            for change in &batch.changes {
                view.apply(change);
            }
            if !batch.changes.is_empty() {
                self.keep_promises(&view).await;
                self.install(view.clone(), told);
            }
        }
    }

    /// Waits until nobody who is not in the view counts on this gateway as a witness.
    async fn keep_promises(&self, view: &View) {
        let promised = self.promised.lock().clone();
        let gone = promised.iter().filter(|(id, _)| view.member(id).is_none());
        if let Some(until) = gone.map(|(_, until)| *until).max() {
            tokio::time::sleep_until(until).await;
        }
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

    /// Takes a place, and another one whenever it is lost.
    async fn keep_places(&self, told: &Told) -> Refused {
        self.until(1).await;
        while !self.retiring.is_cancelled() {
            if let Err(refused) = self.admissible(u64::MAX) {
                return refused;
            }
            let id: Arc<str> = uuid::Uuid::new_v4().simple().to_string().into();
            let sent = Instant::now();
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
    async fn retire(&self, place: Place, id: &str) -> Never {
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

    async fn until(&self, revision: u64) {
        let mut applied = self.applied.subscribe();
        let _ = applied.wait_for(|applied| *applied >= revision).await;
    }

    /// Whether all who joined before `since` are like this gateway.
    fn admissible(&self, since: u64) -> Result<(), Refused> {
        let view = self.view.read();
        let Some(other) = view.stranger(&self.member, since) else {
            return Ok(());
        };
        let other = Box::new(other.clone());
        Err(if other.build == self.member.build {
            Refused::Key { other }
        } else {
            Refused::Build {
                other,
                ours: self.member.build.clone(),
            }
        })
    }

    /// Renews a place until it is lost.
    async fn keep(&self, place: Place, id: &str, told: &Told) {
        let mut pause = RENEW;
        loop {
            sleep(pause).await;
            let held = self.fence.holds();
            let mut sent = Instant::now();
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
                    sent = Instant::now();
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
    async fn watch_fence(&self, told: &Told) -> Never {
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
