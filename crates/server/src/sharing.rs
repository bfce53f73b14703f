//! Several gateways on one etcd (`docs/gateways.md`): what it means that a function is this gateway's.
//!
//! [`bugle_cluster`] knows which function is whose. Here that meets the scheduler, which has the
//! functions of this gateway and lets go of others; the gateway, which passes on requests for those;
//! and the drivers, whose instances nobody uses past the fence. Without `cluster.listen` none of this
//! exists.

mod census;
mod fenced;
mod logs;
mod owners;
mod packages;
mod port;
mod questions;
mod routes;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bugle_artifacts::Packages;
use bugle_cluster::{Cluster, Joining, Member, Refused, Told, serve_port};
use bugle_gateway::{Gateway, Owners};
use bugle_instances::{Driver, Instance};
use bugle_node::{GatewayAddress, Gateways, Roster};
use bugle_pools::Backend;
use bugle_registry::Keyring;
use bugle_scheduler::Scheduler;
use bugle_store::{Membership, Store};
use bugle_types::{FunctionId, FunctionSpec, report};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::applied::Applied;
use crate::kubernetes::Wish;
use crate::logs::LogStore;
use crate::nodes::{BUILD, Nodes, Sealed};

pub(crate) use logs::{News, Wanted, merge, next};
pub(crate) use routes::router;

/// Other gateways on the same etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// The address for the other gateways on the same etcd, for instance `10.0.0.1:31184`. Empty: this
    /// gateway works alone, and another one on the same etcd waits until it ends.
    pub listen: String,
    /// Under which address, as `host:port`, the others reach it. Empty: that of `listen`.
    pub advertise: String,
}

impl ClusterConfig {
    /// Where to listen, if at all.
    pub(crate) fn address(&self) -> Result<Option<SocketAddr>, std::net::AddrParseError> {
        match &*self.listen {
            "" => Ok(None),
            text => text.parse().map(Some),
        }
    }

    /// What is wrong with it, in words.
    pub(crate) fn check(&self, store: bugle_store::Kind) -> Result<(), (&'static str, String)> {
        let listen = "cluster.listen";
        let address = self.address().map_err(|error| {
            (
                listen,
                format!("{error}; it is an address and a port, or empty"),
            )
        })?;
        let Some(address) = address else {
            return Ok(());
        };
        if store != bugle_store::Kind::Etcd {
            let why =
                "gateways share functions in an etcd: set store.kind = \"etcd\", or leave it empty";
            return Err((listen, why.to_owned()));
        }
        if address.ip().is_unspecified() && self.advertise.is_empty() {
            let why = "others cannot reach every address: set the one that they can";
            return Err(("cluster.advertise", why.to_owned()));
        }
        Ok(())
    }

    /// Where other gateways reach this one.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> String {
        if self.advertise.is_empty() {
            bound.to_string()
        } else {
            self.advertise.clone()
        }
    }
}

/// This gateway among others; clones are the same.
#[derive(Clone)]
pub(crate) struct Sharing {
    pub(crate) cluster: Cluster,
    /// Where the gateway runs.
    runtime: Handle,
    /// Told when another gateway has left events to this one.
    left: Arc<Notify>,
    /// The nodes, once they are known.
    nodes: Arc<OnceLock<Nodes>>,
    cancels: Arc<OnceLock<Cancel>>,
    grows: Arc<OnceLock<Grow>>,
}

/// What this gateway says of itself to the others.
pub(crate) struct Introduction {
    /// Where they reach it.
    pub(crate) address: String,
    /// Where nodes reach it; empty if there are none.
    pub(crate) nodes: String,
    /// The word for its key.
    pub(crate) key: String,
    /// Who makes pools real here.
    pub(crate) pools: Backend,
}

/// Cancels an invocation of a function that waits or runs here, by its request id; whether there is one.
pub(crate) type Cancel = Box<dyn Fn(&FunctionId, &str) -> bool + Send + Sync>;

/// Makes pools of Pods grow for other gateways; false if this one does not make Pods.
pub(crate) type Grow = Box<dyn Fn(&[Wish]) -> bool + Send + Sync>;

impl std::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sharing")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// What the port of gateways is served with.
pub(crate) struct Parts {
    pub(crate) listener: std::net::TcpListener,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) gateway: Gateway,
    pub(crate) scheduler: Scheduler,
    pub(crate) applied: Applied,
    pub(crate) packages: Packages,
    pub(crate) logs: Arc<LogStore>,
    /// Ends the port: what the others asked is answered before.
    pub(crate) closing: CancellationToken,
}

impl Sharing {
    /// A gateway that has not joined yet.
    pub(crate) fn new(
        introduction: Introduction,
        (membership, store): (Membership, Arc<dyn Store>),
        runtime: Handle,
    ) -> Self {
        let cluster = Cluster::new(Joining {
            membership,
            store,
            member: Member {
                address: introduction.address,
                nodes: introduction.nodes,
                build: BUILD.to_owned(),
                key: introduction.key,
                pools: introduction.pools.to_string(),
                host: crate::opened::who("a gateway"),
                leaving: false,
                since: 0,
            },
        });
        Self {
            cluster,
            runtime,
            left: Arc::default(),
            cancels: Arc::default(),
            grows: Arc::default(),
            nodes: Arc::default(),
        }
    }

    /// Says which nodes there are. Once.
    pub(crate) fn reach(&self, nodes: Nodes) {
        _ = self.nodes.set(nodes);
    }

    /// The gateways, as nodes are told of them.
    pub(crate) fn gateways(&self) -> Gateways {
        let cluster = self.cluster.clone();
        Gateways {
            changes: cluster.changes(),
            now: Arc::new(move || {
                let view = cluster.view();
                let members = view.members();
                let gateways = members.map(|(id, member)| GatewayAddress {
                    id: id.to_string(),
                    address: member.nodes.clone(),
                });
                Roster {
                    revision: view.revision,
                    me: view.me.as_deref().map(str::to_owned),
                    gateways: gateways.collect(),
                }
            }),
        }
    }

    /// The drivers, whose instances are used only as long as this gateway may.
    pub(crate) fn fence(&self, driver: Arc<dyn Driver>, packages: Packages) -> Arc<dyn Driver> {
        Arc::new(fenced::Fenced {
            driver,
            fence: self.cluster.fence().clone(),
            packages: packages::Peers {
                packages,
                cluster: self.cluster.clone(),
            },
        })
    }

    /// The same with an instance that runs already.
    pub(crate) fn guard(&self, instance: Arc<dyn Instance>) -> Arc<dyn Instance> {
        Arc::new(fenced::Guarded {
            instance,
            fence: self.cluster.fence().clone(),
        })
    }

    /// How the gateway finds out who has a function.
    pub(crate) fn owners(&self) -> Arc<dyn Owners> {
        Arc::new(owners::Shared(self.cluster.clone()))
    }

    /// Has the scheduler schedule a function, if it is this gateway's.
    pub(crate) fn take_over(&self, scheduler: &Scheduler, spec: &Arc<FunctionSpec>) {
        let nodes = self.nodes.get().filter(|nodes| nodes.are_there());
        let taken = self.cluster.while_mine(&spec.id, |view| {
            let function = scheduler.take_over(Arc::clone(spec))?;
            // What nodes have of it is used first.
            function.hold_starts(nodes.is_some());
            Some((function, Arc::clone(view)))
        });
        if let Some(Some((function, view))) = taken {
            if let Some(nodes) = nodes {
                let (nodes, id) = (nodes.clone(), spec.id.clone());
                let settle = census::of_nodes(nodes, view.revision, function.clone(), id);
                self.runtime.spawn(settle);
            }
            let census = census::of_others(self.cluster.clone(), view, function, spec.id.clone());
            self.runtime.spawn(census);
        }
    }

    /// Whether a function is this gateway's.
    pub(crate) fn has(&self, function: &FunctionId) -> bool {
        self.cluster.has(function)
    }

    /// How this gateway stands among the others, in words.
    pub(crate) fn standing(&self) -> String {
        match self.cluster.view().members().count() {
            _ if !self.cluster.fence().holds() => {
                "degraded: no member of the gateways, which have all functions".to_owned()
            }
            1 => "the only gateway".to_owned(),
            members => format!("one of {members} gateways"),
        }
    }

    /// Tells when other functions became this gateway's.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.cluster.changes()
    }

    /// The name of this gateway, while it has a place.
    pub(crate) fn name(&self) -> Option<String> {
        self.cluster.view().me.as_deref().map(str::to_owned)
    }

    /// Whether a name is that of another gateway that lives.
    pub(crate) fn is_another(&self, name: &str) -> bool {
        let view = self.cluster.view();
        view.others().any(|(other, _)| **other == *name)
    }

    /// Waits until there may be events that are now this gateway's to deliver. Cancel safe.
    pub(crate) async fn events(&self, changes: &mut watch::Receiver<u64>) {
        tokio::select! {
            () = self.left.notified() => {}
            // The sender lives as long as this.
            _ = changes.changed() => {}
        }
    }

    /// How other gateways cancel an invocation here.
    pub(crate) fn cancel_with(&self, cancel: Cancel) {
        // Said once, at the start.
        let _ = self.cancels.set(cancel);
    }

    /// How pools grow that this gateway makes real.
    pub(crate) fn grow_with(&self, grow: Grow) {
        // Said once, at the start.
        let _ = self.grows.set(grow);
    }

    /// Serves the other gateways, and keeps this one's place among them until `stop`. Ends before that
    /// only where it may not be a member, and says why in the log.
    pub(crate) async fn run(self, parts: Parts, stop: CancellationToken) {
        let seal = Sealed(Arc::clone(&parts.keyring));
        let tls = match bugle_node::gateway_tls(Arc::clone(&parts.store), &seal).await {
            Ok(tls) => tls,
            Err(error) => {
                tracing::error!(reason = report(&error), "the gateways' certificates");
                return;
            }
        };
        let (released, fenced) = (parts.scheduler.clone(), parts.scheduler.clone());
        let nodes = Arc::clone(&self.nodes);
        let told = Told {
            changed: Box::new(move |view| {
                let count = released.release(|function| view.is_mine(function));
                let members = view.members().count();
                tracing::debug!(members, released = count, "the gateways changed");
            }),
            fenced: Box::new(move || {
                // What runs on nodes is for the others; they count it where it runs a call.
                if let Some(nodes) = nodes.get() {
                    nodes.cut();
                }
                fenced.abandon();
            }),
        };
        let Parts {
            listener, closing, ..
        } = &parts;
        let listener = match listener.try_clone() {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the port of gateways cannot be listened on");
                return;
            }
        };
        let serve = port::serve(&self, &parts);
        let (server, closing) = (Arc::clone(&tls.server), closing.clone());
        self.runtime.spawn(async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => serve_port(listener, server, serve, closing).await,
                Err(error) => tracing::error!(%error, "the port of gateways cannot be listened on"),
            }
        });
        let joined = self.cluster.clone().run(tls, told, stop);
        // Its connections belong to the runtime of the gateway.
        match self.runtime.spawn(joined).await {
            Ok(Ok(()) | Err(Refused::Closed)) => {}
            Ok(Err(refused)) => {
                tracing::error!(reason = report(&refused), "this gateway cannot be a member");
            }
            Err(error) => tracing::error!(%error, "the place among the gateways was not kept"),
        }
    }

    /// Registers the metrics.
    pub(crate) fn register(&self, scheduler: &Scheduler, metrics: &mut Registry) {
        metrics.register_collector(Box::new(Counted {
            cluster: self.cluster.clone(),
            scheduler: scheduler.clone(),
        }));
    }
}

/// What is counted of the gateways, when somebody asks.
#[derive(Debug)]
struct Counted {
    cluster: Cluster,
    scheduler: Scheduler,
}

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (functions, leaving) = self.scheduler.held();
        for (name, help, count) in [
            (
                "bugle_cluster_members",
                "Gateways that share the functions, this one included",
                self.cluster.view().members().count(),
            ),
            (
                "bugle_cluster_joined",
                "Whether this gateway may schedule functions",
                usize::from(self.cluster.fence().holds()),
            ),
            (
                "bugle_cluster_functions",
                "Functions in use that this gateway has",
                functions,
            ),
            (
                "bugle_cluster_leaving_functions",
                "Functions that another gateway has now, and of which instances are left here",
                leaving,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            let described = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode(described)?;
        }
        Ok(())
    }
}
