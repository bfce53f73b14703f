//! The place of this gateway among the members, and what it knows of them.

mod members;
mod place;
mod question;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bugle_node::GatewayTls;
use bugle_store::{EtcdFailure, Membership, Store};
use bugle_types::FunctionId;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::fence::Fence;
use crate::peers::{Outgoing, Peers, Unanswered};
use crate::port::BoxError;
use crate::view::{Member, View};
use question::{answer_of, lost, question_of};

/// The path of the question whether a member cannot reach etcd either.
pub const WITNESS: &str = "/witness";

/// The pause before a store or an etcd that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(200);

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
    /// Pools that nobody would keep, or two.
    #[error(
        "the gateway at {} has pools.backend = {}, this one {ours}; set the same for all gateways on one etcd: one \
         of them keeps each pool for all", other.address, other.pools
    )]
    Pools {
        /// Who was there before.
        other: Box<Member>,
        /// What is set here.
        ours: String,
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
