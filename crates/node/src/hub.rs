//! The platform's side: takes in nodes that join, and has the connections to those that have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{
    BoxFuture, EnvironmentOpener, Instance as _, LogLine, LogSink, StartRequest,
};
use bugle_scheduler::placement::{Capacity, Health, NodeId, NodeView};
use bugle_scheduler::{Adopted, Fleet};
use bugle_store::Store;
use bugle_types::{FunctionId, TenantId, report};
use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::beat::until_silent;
use crate::link::Link;
use crate::members::{Error, Member, Members, Pod, Seal};
use crate::parts::{Garbage, Kind, Part};
use crate::remote::{RemoteDriver, RemoteInstance};
use crate::stream::{Broken, CONNECTION_WINDOW, FRAME, STREAM_WINDOW, STREAMS};
use crate::token::JoinToken;
use crate::wire::{self, ALPN_NODE, Found, Hello, Line};

/// Connections that are not yet known to be of a node.
const STRANGERS: usize = 256;

/// How long whoever connects may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// How long a node may take to fetch a package.
const FETCHING: Duration = Duration::from_mins(10);

/// How long an instance that nobody wants any more may take to end.
const UNWANTED_GRACE: Duration = Duration::from_secs(30);

/// The pause after the system refused to hand out a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Labels that one node may have, and the bytes of each.
const LABELS: usize = 256;
const LABEL: usize = 512;

/// A package as it is read from the platform's disk.
pub type PackageBytes = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Where packages are: by tenant and digest. The error says why there is none.
pub type Packages =
    Arc<dyn Fn(TenantId, String) -> BoxFuture<'static, Result<PackageBytes, String>> + Send + Sync>;

/// Takes in an instance that runs already; false if its function has no use for it.
pub type Adopt = Arc<dyn Fn(FunctionId, Adopted) -> BoxFuture<'static, bool> + Send + Sync>;

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
    pub adopt: Adopt,
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
    /// When it joined, in seconds since 1970.
    pub joined: u64,
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
    adopt: Adopt,
    logs: Arc<dyn LogSink>,
    pub(crate) packages: Packages,
    pub(crate) pods: Pods,
    build: String,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    /// Cancelled when this platform ends: no node is taken in any more.
    closing: CancellationToken,
    /// Nodes that an operator drains, also when they come back.
    drained: Mutex<BTreeSet<NodeId>>,
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
            adopt,
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
            adopt,
            logs,
            packages,
            pods,
            build,
            links: Mutex::default(),
            closing: CancellationToken::new(),
            drained: Mutex::default(),
            tasks: TaskTracker::new(),
        })))
    }

    /// Serves nodes until `stop`. What runs on them goes on running there.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let strangers = Arc::new(Semaphore::new(STRANGERS));
        let serve = async {
            loop {
                let Ok(slot) = Arc::clone(&strangers).acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let connection = Arc::clone(&self.0).connection(stream, slot);
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
        }
    }

    /// Lets go of all nodes, because this platform ends: what runs there goes on, and is for the next
    /// platform to take in.
    pub fn let_go(&self) {
        self.0.closing.cancel();
        let links: Vec<_> = self.0.links.lock().values().cloned().collect();
        for link in links {
            self.0.lose(&link);
        }
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
            let Member { joined, pod, .. } = member;
            MemberInfo {
                node,
                joined,
                connected,
                pod,
            }
        });
        Ok(shown.collect())
    }

    /// Moves everything away from a node, or lets it have instances again.
    ///
    /// # Errors
    ///
    /// If there is no such node.
    pub async fn drain(&self, node: &NodeId, draining: bool) -> Result<(), Error> {
        let members = self.0.members.list().await?;
        if !members.iter().any(|(member, _)| member == node) {
            return Err(Error::Unknown(node.clone()));
        }
        if draining {
            self.0.drained.lock().insert(node.clone());
        } else {
            self.0.drained.lock().remove(node);
        }
        self.0.set_draining(node, draining);
        Ok(())
    }

    /// Forgets a node and breaks its connection off; its certificate is worth nothing any more.
    ///
    /// # Errors
    ///
    /// If there is no such node, or the store cannot be written.
    pub async fn remove(&self, node: &NodeId) -> Result<(), Error> {
        self.0.members.remove(node).await?;
        self.0.drained.lock().remove(node);
        if let Some(link) = self.0.links.lock().get(node) {
            link.lost().cancel();
        }
        Ok(())
    }
}

impl Shared {
    fn set_draining(&self, node: &NodeId, draining: bool) {
        let Some(link) = self.links.lock().get(node).cloned() else {
            return;
        };
        let health = if draining {
            Health::Draining
        } else {
            Health::Live
        };
        // First no new ones, then the old ones away.
        self.fleet.set_health(node, health);
        link.drain(draining);
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        slot: tokio::sync::OwnedSemaphorePermit,
    ) {
        // A socket that is gone already fails below.
        let _ = stream.set_nodelay(true);
        let accepted = tokio::time::timeout(INTRODUCTION, self.acceptor.accept(stream)).await;
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "whoever came to the port of nodes is none of ours");
                return;
            }
            Err(_) => return,
        };
        let (_, session) = stream.get_ref();
        let is_node = session.alpn_protocol() == Some(ALPN_NODE);
        let certificate = session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|certificate| certificate.clone().into_owned());
        if !is_node {
            // A package may take its time; a stranger has one thing to say.
            let limit = match &certificate {
                Some(_) => FETCHING,
                None => INTRODUCTION,
            };
            let stranger = certificate.is_none().then_some(slot);
            let served = tokio::time::timeout(limit, self.serve_requests(stream, certificate));
            _ = served.await;
            drop(stranger);
            return;
        }
        let known = match &certificate {
            Some(certificate) => self.members.who(certificate).await,
            None => Err(Error::Certificate),
        };
        drop(slot);
        match known {
            Ok(node) => self.attend(node, stream).await,
            Err(error) => {
                let reason = report(&error);
                tracing::warn!(reason, "a node was refused");
            }
        }
    }

    /// Has the connection of a node to its end.
    async fn attend(self: Arc<Self>, node: NodeId, stream: TlsStream<TcpStream>) {
        let handshake = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .initial_max_send_streams(STREAMS as usize)
            .enable_push(false)
            .handshake::<_, Bytes>(stream);
        let Ok(Ok((sender, mut connection))) = tokio::time::timeout(INTRODUCTION, handshake).await
        else {
            return;
        };
        let beat = until_silent(connection.ping_pong());
        let link = Link::new(node, sender, Arc::clone(&self.open_environment));
        let lost = link.lost().clone();
        let broken = tokio::spawn({
            let lost = lost.clone();
            async move {
                tokio::select! {
                    biased;
                    () = lost.cancelled() => {}
                    ended = connection => tracing::debug!(?ended, "the connection to a node ended"),
                    () = beat => tracing::warn!("a node does not answer"),
                }
                lost.cancel();
            }
        });
        let listened = lost.run_until_cancelled(self.listen(&link)).await;
        if let Some(Err(Broken::Garbage(garbage))) = listened {
            tracing::warn!(node = %link.node, reason = %garbage, "a node is given up");
        }
        self.lose(&link);
        lost.cancel();
        _ = broken.await;
    }

    fn lose(&self, link: &Arc<Link>) {
        link.lose();
        let mut links = self.links.lock();
        let current = links
            .get(&link.node)
            .is_some_and(|current| Arc::ptr_eq(current, link));
        if current {
            links.remove(&link.node);
            self.fleet.leave(&link.node);
            tracing::info!(node = %link.node, "a node is gone");
        }
    }

    /// Takes a node in and hears its news.
    async fn listen(self: &Arc<Self>, link: &Arc<Link>) -> Result<(), Broken> {
        let mut news = link.news().await?;
        let first = tokio::time::timeout(INTRODUCTION, news.part()).await;
        let hello: Hello = match first {
            Ok(Ok(Some(Part {
                kind: Kind::Hello,
                payload,
            }))) => wire::json(&payload)?,
            _ => return Err(Garbage("a node that does not say what it is").into()),
        };
        if hello.protocol != wire::PROTOCOL || hello.build != self.build {
            tracing::warn!(
                node = %link.node, theirs = hello.build, ours = self.build,
                "a node is of another build; use the same on both sides"
            );
            return Err(Garbage("a node of another build").into());
        }
        let mut view = self.view(&link.node, hello)?;
        match self.members.pod(&link.node).await {
            // Of which pool a Pod is, the cluster has said.
            Ok(Some(pod)) => view.pool = Some(pod.pool),
            Ok(None) => {}
            Err(error) => {
                let reason = report(&error);
                tracing::warn!(node = %link.node, reason, "a node is not taken in");
                return Err(Garbage("a node that cannot be looked up").into());
            }
        }
        self.take_in(link, view);
        while let Some(Part { kind, payload }) = news.part().await? {
            match kind {
                Kind::Exit => link.ended(wire::json(&payload)?),
                Kind::Found => self.found(link, wire::json(&payload)?),
                Kind::Log => self.logs.line(line(wire::json(&payload)?)),
                Kind::Draining => self.set_draining(&link.node, true),
                _ => return Err(Garbage("news of no known kind").into()),
            }
        }
        Ok(())
    }

    fn view(&self, node: &NodeId, hello: Hello) -> Result<NodeView, Garbage> {
        let long = |text: &String| text.len() > LABEL;
        let labels = hello.labels.len() > LABELS || hello.custom.len() > LABELS;
        let names = hello
            .labels
            .iter()
            .any(|(key, value)| long(key) || long(value));
        if labels || names || hello.custom.keys().any(long) {
            return Err(Garbage("more or longer labels than a node may have"));
        }
        let health = if self.drained.lock().contains(node) {
            Health::Draining
        } else {
            Health::Live
        };
        Ok(NodeView {
            id: node.clone(),
            capacity: Capacity {
                cpu: hello.cpu,
                memory: hello.memory,
                custom: hello.custom,
            },
            labels: hello.labels,
            pool: hello.pool,
            group: hello.group,
            health,
        })
    }

    fn take_in(self: &Arc<Self>, link: &Arc<Link>, view: NodeView) {
        link.drain(view.health == Health::Draining);
        let mut links = self.links.lock();
        if self.closing.is_cancelled() {
            return;
        }
        if let Some(before) = links.insert(link.node.clone(), Arc::clone(link)) {
            // The same node again: its earlier connection is dead and was not noticed yet.
            before.lose();
        }
        tracing::info!(node = %link.node, cpu = view.capacity.cpu, memory = view.capacity.memory, "a node has come");
        self.fleet.leave(&link.node);
        self.fleet
            .join(view, Arc::new(RemoteDriver(Arc::clone(link))));
    }

    /// An instance runs on the node that this platform did not start.
    fn found(self: &Arc<Self>, link: &Arc<Link>, Found { order, pid }: Found) {
        if self.closing.is_cancelled() {
            return;
        }
        let instance = Arc::new(RemoteInstance::new(link, order.id, pid));
        let request = StartRequest {
            id: order.id,
            spec: Arc::new(order.spec.clone()),
            resources: order.resources.clone(),
            label: order.label.clone(),
        };
        let instance = match self
            .fleet
            .adopt(&link.node, &request, Arc::clone(&instance) as _)
        {
            Some(placed) if !link.is_draining() => placed,
            _ => {
                instance.kill();
                return;
            }
        };
        let adopted = Adopted {
            instance: Arc::clone(&instance),
            generation: order.spec.generation.clone(),
            resources: order.resources,
            label: order.label,
            place: order.spec.pool.clone(),
        };
        let wanted = (self.adopt)(order.spec.id, adopted);
        self.tasks.spawn(async move {
            if !wanted.await {
                instance.stop(UNWANTED_GRACE).await;
            }
        });
    }
}

fn line(line: Line) -> LogLine {
    LogLine {
        function: Arc::new(line.function),
        instance: line.instance,
        request: line.request.map(Into::into),
        stream: line.stream,
        text: line.text,
    }
}
