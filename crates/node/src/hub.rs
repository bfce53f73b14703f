//! The platform's side: takes in nodes that join, and has the connections to those that have.

mod attend;
mod orphans;
mod shared;
pub(crate) mod twins;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{BoxFuture, EnvironmentOpener, LogSink};
use bugle_scheduler::placement::NodeId;
use bugle_scheduler::{Adopted, Census, Fleet};
use bugle_store::Store;
use bugle_types::{FunctionId, TenantId};
use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::link::Link;
use crate::members::{Error, Members, Pod, Seal};
use crate::strangers::Strangers;
use crate::token::JoinToken;
use crate::wire::Roster;
use orphans::Orphans;

/// How long an instance that nobody wants any more may take to end.
const UNWANTED_GRACE: Duration = Duration::from_secs(30);

/// The pause after the system refused to hand out a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// A package as it is read from the platform's disk.
pub type PackageBytes = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Where packages are: by tenant and digest. The error says why there is none.
pub type Packages =
    Arc<dyn Fn(TenantId, String) -> BoxFuture<'static, Result<PackageBytes, String>> + Send + Sync>;

/// The functions of this gateway, as far as instances that lost theirs are concerned. None of it may block.
pub trait Keeper: Send + Sync {
    /// Whether this gateway has a function.
    fn has(&self, function: &FunctionId) -> bool;

    /// Waits until instances of a function can be taken in, or are known not to be wanted. False if this gateway does
    /// not have it.
    fn ready(&self, function: FunctionId) -> BoxFuture<'static, bool>;

    /// So many instances of a function run on nodes and are no gateway's.
    fn count(&self, function: &FunctionId, orphans: Census);

    /// Takes an instance in; false if its function has no use for it.
    fn adopt(&self, function: &FunctionId, adopted: Adopted) -> bool;
}

/// The gateways that share the nodes, where there are several.
#[derive(Clone)]
pub struct Gateways {
    /// Who they are at this moment.
    pub now: Arc<dyn Fn() -> Roster + Send + Sync>,
    /// Tells when that changes.
    pub changes: watch::Receiver<u64>,
}

impl fmt::Debug for Gateways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateways").finish_non_exhaustive()
    }
}

/// The pool of a Pod with this name and uid, as the cluster has it; none if it has none. The error says why the
/// cluster cannot be asked.
pub type Pods =
    Arc<dyn Fn(String, String) -> BoxFuture<'static, Result<Option<String>, String>> + Send + Sync>;

/// What the hub is built on.
pub struct Dependencies {
    /// Where tokens and members are kept.
    pub store: Arc<dyn Store>,
    /// Keeps the authority's key.
    pub seal: Arc<dyn Seal>,
    /// Where nodes are placed on.
    pub fleet: Fleet,
    /// Decrypts the variables of functions.
    pub open_environment: EnvironmentOpener,
    /// Takes in what runs already.
    pub keeper: Arc<dyn Keeper>,
    /// Who else uses the nodes.
    pub gateways: Option<Gateways>,
    /// Where functions' lines go.
    pub logs: Arc<dyn LogSink>,
    /// Where nodes fetch packages.
    pub packages: Packages,
    /// Tells Pods of pools from others that say they are one.
    pub pods: Pods,
    /// This build; nodes must be of the same.
    pub build: String,
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependencies")
            .field("fleet", &self.fleet)
            .field("build", &self.build)
            .finish_non_exhaustive()
    }
}

/// A node that has joined, for people.
#[derive(Clone, Debug)]
pub struct MemberInfo {
    /// Its name.
    pub node: NodeId,
    /// When it joined, in seconds since 1970; none where its record cannot be read.
    pub joined: Option<u64>,
    /// Whether it is connected.
    pub connected: bool,
    /// The Pod that it is, if it is one.
    pub pod: Option<Pod>,
}

/// The nodes of this platform; clones are the same.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) members: Members,
    acceptor: TlsAcceptor,
    fleet: Fleet,
    open_environment: EnvironmentOpener,
    keeper: Arc<dyn Keeper>,
    gateways: Option<Gateways>,
    orphans: Orphans,
    /// Whether the nodes have had the time to come to this gateway since it became one of several.
    gathered: watch::Sender<bool>,
    logs: Arc<dyn LogSink>,
    pub(crate) packages: Packages,
    pub(crate) pods: Pods,
    build: String,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    /// Cancelled when this platform ends: no node is taken in any more.
    closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// Opens what is kept of nodes.
    ///
    /// # Errors
    ///
    /// What cannot be read, made or opened.
    pub async fn open(dependencies: Dependencies) -> Result<Self, Error> {
        let Dependencies {
            store,
            seal,
            fleet,
            open_environment,
            keeper,
            gateways,
            logs,
            packages,
            pods,
            build,
        } = dependencies;
        let members = Members::open(store, &*seal).await?;
        let server = members.authority().server()?;
        Ok(Self(Arc::new(Shared {
            members,
            acceptor: TlsAcceptor::from(Arc::new(server)),
            fleet,
            open_environment,
            keeper,
            gathered: watch::Sender::new(gateways.is_none()),
            gateways,
            orphans: Orphans::default(),
            logs,
            packages,
            pods,
            build,
            links: Mutex::default(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })))
    }

    /// Serves nodes until `stop`. What runs on them goes on running there.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let strangers = Strangers::default();
        let serve = async {
            loop {
                match listener.accept().await {
                    Ok((stream, from)) => {
                        let stranger = strangers.admit(from.ip());
                        let connection = Arc::clone(&self.0).connection(stream, stranger);
                        self.0.tasks.spawn(connection);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the port of nodes got no connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.0.closing.cancelled() => {}
            () = serve => {}
            never = Arc::clone(&self.0).follow_members() => match never {},
            never = Arc::clone(&self.0).follow_gateways() => match never {},
        }
    }

    /// Lets go of all nodes, because this platform ends: what runs there goes on, and is for the next
    /// platform to take in.
    pub fn let_go(&self) {
        self.0.closing.cancel();
        self.cut();
    }

    /// Breaks the connections to all nodes off, because this gateway has lost its rights: what runs
    /// there is for others. The nodes come back.
    pub fn cut(&self) {
        let links: Vec<_> = self.0.links.lock().values().cloned().collect();
        for link in links {
            self.0.lose(&link);
        }
    }

    /// Waits until the nodes have said what they have of a function that has become this gateway's, and
    /// what can be used of it is taken. `revision` is that of the roster with which it became so. Only
    /// the caller's patience ends this. Cancel safe.
    pub async fn settled(&self, function: &FunctionId, revision: u64) {
        let mut gathered = self.0.gathered.subscribe();
        // The sender lives as long as this.
        _ = gathered.wait_for(|gathered| *gathered).await;
        let links: Vec<_> = self.0.links.lock().values().cloned().collect();
        let heard = links.iter().map(|link| link.heard(revision));
        futures_util::future::join_all(heard).await;
        self.0.orphans.recount(&*self.0.keeper, function);
        self.0.orphans.until_settled(function).await;
    }

    /// A token with which one node may join, and when it expires in seconds since 1970.
    ///
    /// # Errors
    ///
    /// If the store cannot be written.
    pub async fn token(&self, holds: Duration) -> Result<(JoinToken, u64), Error> {
        self.0.members.token(holds).await
    }

    /// What Pods of a pool join with. It is of use to Pods that the cluster has, and to each of them once.
    pub fn pool_token(&self, pool: &str) -> JoinToken {
        self.0.members.pool_token(pool)
    }

    /// Who has joined.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn list(&self) -> Result<Vec<MemberInfo>, Error> {
        let members = self.0.members.list().await?;
        let links = self.0.links.lock();
        let shown = members.into_iter().map(|(node, member)| {
            let connected = links.contains_key(&node);
            let joined = member.as_ref().map(|member| member.joined);
            MemberInfo {
                node,
                joined,
                connected,
                pod: member.and_then(|member| member.pod),
            }
        });
        Ok(shown.collect())
    }

    /// Moves everything away from a node, or lets it have instances again, whichever gateway placed
    /// them.
    ///
    /// # Errors
    ///
    /// If there is no such node, or the store cannot be written.
    pub async fn drain(&self, node: &NodeId, draining: bool) -> Result<(), Error> {
        self.0.members.set_draining(node, draining).await?;
        self.0.set_draining(node, draining);
        Ok(())
    }

    /// Closes a node that is to go, so that no gateway places anything there, if none has anything there. False if one
    /// has, and if the node does not say so in time. It opens again by itself unless it ends soon.
    pub async fn close(&self, node: &NodeId) -> bool {
        self.0.close(node).await
    }

    /// Takes [`Hub::close`] back.
    pub async fn open_again(&self, node: &NodeId) {
        self.0.open(node).await;
    }

    /// Forgets a node: all gateways break their connections to it off, and its certificate is worth
    /// nothing any more.
    ///
    /// # Errors
    ///
    /// If there is no such node, or the store cannot be written.
    pub async fn remove(&self, node: &NodeId) -> Result<(), Error> {
        self.0.members.remove(node).await?;
        self.0.cut_off(node);
        Ok(())
    }
}
