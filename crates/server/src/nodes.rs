//! Nodes, as the platform sees them: what listens for them, and the operator's routes to them.
//!
//! Without `nodes.listen` none of this exists: instances are started by the drivers of this machine,
//! and nothing is between them and the scheduler.

mod keeper;
mod routes;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bugle_artifacts::Packages;
use bugle_instances::{Driver, EnvironmentOpener, LogSink};
use bugle_node::{Dependencies, Hub, LOCAL, Seal};
use bugle_registry::Keyring;
use bugle_scheduler::placement::{Capacity, Health, NodeId, NodeView, Tenancy};
use bugle_scheduler::{Fleet, FleetConfig, Growth, Scheduler};
use bugle_store::Store;
use bugle_types::report;
use futures_util::StreamExt as _;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

use crate::follow::Functions;
use crate::kubernetes::Cluster;
use crate::sharing::Sharing;

pub(crate) use routes::router;

/// What the sealed key of the nodes' authority is for.
const PURPOSE: &str = "authority of nodes";

/// The build, which platform and nodes have in common.
pub(crate) const BUILD: &str = env!("CARGO_PKG_VERSION");

/// For every address of this machine, the one by which others reach it, as far as its routes tell.
fn reachable(bound: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    // An address of no machine. Nothing is sent there, it is only looked how it would go.
    let (any, elsewhere): (&str, &str) = match bound {
        SocketAddr::V4(_) => ("0.0.0.0:0", "192.0.2.1:9"),
        SocketAddr::V6(_) => ("[::]:0", "[2001:db8::1]:9"),
    };
    let routed = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(elsewhere)?;
        socket.local_addr()
    });
    routed.map_or(bound, |local| SocketAddr::new(local.ip(), bound.port()))
}

/// Other machines that host instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodesConfig {
    /// The address on which the platform waits for nodes, for instance `0.0.0.0:31183`. Empty: it has
    /// none, and everything runs on this machine.
    pub listen: String,
    /// Under which address, as `host:port`, nodes reach this gateway where several share an etcd. Empty:
    /// that of `listen`.
    pub advertise: String,
    /// Whether this machine hosts instances too when there are nodes.
    pub local: bool,
    /// Whether tenants meet on a node: `shared`, or `isolated`.
    pub tenancy: Tenancy,
    /// How long a start waits for room on any node, in seconds.
    pub place_seconds: u64,
    /// How long instances of a node live without a platform, in seconds. Counts on the node.
    pub orphan_seconds: u64,
    /// What `gateway.awake_micros` is at least for calls over nodes, in microseconds, because they have a
    /// longer way. Counts on a node and on a platform that waits for nodes.
    pub awake_micros: u32,
}

impl Default for NodesConfig {
    fn default() -> Self {
        Self {
            listen: String::new(),
            advertise: String::new(),
            local: true,
            tenancy: Tenancy::Shared,
            place_seconds: 5,
            orphan_seconds: 60,
            awake_micros: 250,
        }
    }
}

impl NodesConfig {
    /// Whether this machine hosts instances.
    pub(crate) fn has_local(&self) -> bool {
        self.local || self.listen.is_empty()
    }

    /// Where to listen, if at all.
    pub(crate) fn address(&self) -> Result<Option<SocketAddr>, std::net::AddrParseError> {
        match &*self.listen {
            "" => Ok(None),
            text => text.parse().map(Some),
        }
    }

    /// Where nodes reach this gateway, if it listens for them.
    pub(crate) fn advertised(&self, bound: Option<SocketAddr>) -> String {
        if self.advertise.is_empty() {
            return bound.map_or_else(String::new, |address| reachable(address).to_string());
        }
        self.advertise.clone()
    }

    /// How the gateway serves where calls go to nodes, if they do.
    pub(crate) fn gateway(&self, gateway: &bugle_gateway::Config) -> bugle_gateway::Config {
        let mut gateway = gateway.clone();
        if !self.listen.is_empty() {
            gateway.awake_micros = self.awake(gateway.awake_micros);
        }
        gateway
    }

    /// How long a thread looks for calls over nodes that looks for others so long, in microseconds.
    pub(crate) fn awake(&self, micros: u32) -> u32 {
        // Who turned it off wants none at all.
        if micros == 0 {
            0
        } else {
            micros.max(self.awake_micros)
        }
    }

    /// What instances are started with: the drivers of this machine, or a fleet that has them as one
    /// of its nodes.
    /// `growth` makes pools grow, which is waited for.
    pub(crate) fn driver(
        &self,
        local: Arc<dyn Driver>,
        growth: Option<Arc<dyn Growth>>,
        pool_patience: Duration,
    ) -> (Arc<dyn Driver>, Option<Fleet>) {
        if self.listen.is_empty() {
            return (local, None);
        }
        let config = FleetConfig {
            tenancy: self.tenancy,
            patience: Duration::from_secs(self.place_seconds),
            pool_patience,
        };
        let fleet = Fleet::new(config, growth);
        if self.local
            && let Ok(id) = LOCAL.parse()
        {
            fleet.join(view(id), local);
        }
        (Arc::new(fleet.clone()), Some(fleet))
    }
}

fn view(id: NodeId) -> NodeView {
    let here = crate::machine::room();
    NodeView {
        id,
        capacity: Capacity {
            cpu: here.cpu_millis,
            memory: here.memory_mib,
            custom: BTreeMap::new(),
        },
        labels: BTreeMap::new(),
        pool: None,
        group: None,
        health: Health::Live,
    }
}

/// What is counted of nodes, when somebody asks.
#[derive(Debug)]
struct Counted(Fleet);

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let nodes = self.0.nodes();
        let with = |health: Health| nodes.iter().filter(move |node| node.view.health == health);
        let instances = nodes.iter().map(|node| node.instances);
        for (name, help, count) in [
            (
                "bugle_nodes_live",
                "Nodes that take instances, this machine included",
                with(Health::Live).count(),
            ),
            (
                "bugle_nodes_draining",
                "Nodes that are being emptied",
                with(Health::Draining).count(),
            ),
            (
                "bugle_nodes_instances",
                "Instances that are placed on nodes",
                instances.sum(),
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            let described = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode(described)?;
        }
        Ok(())
    }
}

/// What the hub of this platform is made of.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) open_environment: EnvironmentOpener,
    pub(crate) logs: Arc<dyn LogSink>,
    pub(crate) packages: Packages,
    pub(crate) scheduler: Scheduler,
    pub(crate) functions: Functions,
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// Where other gateways have a part of the functions.
    pub(crate) sharing: Option<Sharing>,
}

/// The nodes, for the routes. Empty until the hub is open, or for ever where there are none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nodes {
    fleet: Option<Fleet>,
    hub: Arc<SetOnce<Hub>>,
    address: String,
}

impl Nodes {
    pub(crate) fn new(fleet: Option<Fleet>, address: String) -> Self {
        Self {
            fleet,
            hub: Arc::default(),
            address,
        }
    }

    /// Registers the metrics, where there are nodes.
    pub(crate) fn register(&self, metrics: &mut Registry) {
        if let Some(fleet) = &self.fleet {
            metrics.register_collector(Box::new(Counted(fleet.clone())));
        }
    }

    /// Opens the hub and serves nodes until `stop`, on the current runtime.
    pub(crate) async fn run(
        self,
        listener: std::net::TcpListener,
        parts: Parts,
        stop: CancellationToken,
    ) {
        let Some(fleet) = self.fleet.clone() else {
            return;
        };
        let opened = Hub::open(dependencies(parts, fleet)).await;
        let hub = match opened {
            Ok(hub) => {
                _ = self.hub.set(hub.clone());
                hub
            }
            Err(error) => {
                let reason = report(&error);
                tracing::error!(reason, "nodes cannot join");
                return;
            }
        };
        match TcpListener::from_std(listener) {
            Ok(listener) => hub.run(listener, stop).await,
            Err(error) => tracing::error!(%error, "the port of nodes cannot be listened on"),
        }
    }

    /// Waits until nodes can join; for ever where there are none. Cancel safe.
    pub(crate) async fn opened(&self) -> (Hub, Fleet) {
        let hub = self.hub.wait().await.clone();
        match &self.fleet {
            Some(fleet) => (hub, fleet.clone()),
            None => std::future::pending().await,
        }
    }

    /// Lets go of what runs on nodes: the next platform takes it in, warm.
    pub(crate) fn let_go(&self) {
        if let Some(hub) = self.hub.get() {
            hub.let_go();
        }
    }

    /// Whether there may be nodes at all.
    pub(crate) fn are_there(&self) -> bool {
        self.fleet.is_some()
    }

    /// Breaks the connections to all nodes off: what runs there is for the other gateways.
    pub(crate) fn cut(&self) {
        if let Some(hub) = self.hub.get() {
            hub.cut();
        }
    }
}

fn dependencies(parts: Parts, fleet: Fleet) -> Dependencies {
    let Parts {
        store,
        keyring,
        open_environment,
        logs,
        packages,
        scheduler,
        functions,
        cluster,
        sharing,
    } = parts;
    let pods: bugle_node::Pods = Arc::new(move |pod, uid| {
        let cluster = cluster.clone();
        Box::pin(async move {
            match cluster {
                Some(cluster) => cluster.pool_of(&pod, &uid).await,
                None => Ok(None),
            }
        })
    });
    let gateways = sharing.as_ref().map(Sharing::gateways);
    let keeper = keeper::Kept {
        scheduler,
        functions,
        sharing,
    };
    let packages: bugle_node::Packages = Arc::new(move |tenant, digest| {
        let packages = packages.clone();
        Box::pin(async move {
            let digest = digest
                .parse()
                .map_err(|_| "no digest of a package".to_owned())?;
            let found = packages.uploads().get(&tenant, &digest).await;
            let (_, chunks) = found.map_err(|error| report(&error))?;
            Ok(chunks.boxed() as bugle_node::PackageBytes)
        })
    });
    Dependencies {
        store,
        seal: Arc::new(Sealed(keyring)),
        fleet,
        open_environment,
        keeper: Arc::new(keeper),
        gateways,
        logs,
        packages,
        pods,
        build: BUILD.to_owned(),
    }
}

/// Keeps secrets with the key of the functions' variables.
pub(crate) struct Sealed(pub(crate) Arc<Keyring>);

impl Seal for Sealed {
    fn seal(&self, text: &str) -> Result<String, String> {
        let sealed = self.0.seal_secret(PURPOSE, text);
        sealed.map_err(|error| report(&error))
    }

    fn open(&self, sealed: &str) -> Result<String, String> {
        let open = self.0.open_secret(PURPOSE, sealed);
        open.map_err(|_| "it was sealed with another key than environment.key".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_an_address_that_can_be_connected_to() {
        let told = |listen: &str| reachable(listen.parse().unwrap()).to_string();
        assert_eq!(told("10.1.2.3:31183"), "10.1.2.3:31183");
        let config = NodesConfig {
            advertise: "platform.example:31183".to_owned(),
            ..NodesConfig::default()
        };
        let bound = Some("0.0.0.0:31183".parse().unwrap());
        assert_eq!(config.advertised(bound), "platform.example:31183");
        // A machine without a route has nothing better to say.
        let everywhere = told("0.0.0.0:31183");
        let routed = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9"));
        assert_eq!(everywhere == "0.0.0.0:31183", routed.is_err());
        assert!(everywhere.ends_with(":31183"));
    }
}
