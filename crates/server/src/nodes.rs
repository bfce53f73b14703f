//! Nodes, as the platform sees them: what listens for them, and the operator's routes to them.
//!
//! Without `nodes.listen` none of this exists: instances are started by the drivers of this machine,
//! and nothing is between them and the scheduler.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bugle_api::nodes::{NodeList, NodeObject, NodeToken, NodeTokenRequest};
use bugle_api::{ErrorBody, Segment};
use bugle_artifacts::Packages;
use bugle_instances::{Driver, EnvironmentOpener, LogSink};
use bugle_node::{Adopt, Dependencies, Hub, LOCAL, MemberError, Seal};
use bugle_registry::Keyring;
use bugle_scheduler::placement::{Capacity, Health, NodeId, NodeView, Tenancy};
use bugle_scheduler::{Adopted, Fleet, FleetConfig, Growth, NodeInfo, Scheduler};
use bugle_store::Store;
use bugle_types::{Code, FunctionId, report};
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
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::follow::Functions;
use crate::kubernetes::Cluster;
use crate::sharing::Sharing;

/// What the sealed key of the nodes' authority is for.
const PURPOSE: &str = "authority of nodes";

/// How long a token holds unless the operator says otherwise, and the longest.
const TOKEN_MINUTES: u32 = 15;
const LONGEST_TOKEN_MINUTES: u32 = 24 * 60;

/// The build, which platform and nodes have in common.
pub(crate) const BUILD: &str = env!("CARGO_PKG_VERSION");

/// Other machines that host instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodesConfig {
    /// The address on which the platform waits for nodes, for instance `0.0.0.0:31183`. Empty: it has
    /// none, and everything runs on this machine.
    pub listen: String,
    /// Whether this machine hosts instances too when there are nodes.
    pub local: bool,
    /// Whether tenants meet on a node: `shared`, or `isolated`.
    pub tenancy: Tenancy,
    /// How long a start waits for room on any node, in seconds.
    pub place_seconds: u64,
    /// How long instances of a node live without a platform, in seconds. Counts on the node.
    pub orphan_seconds: u64,
}

impl Default for NodesConfig {
    fn default() -> Self {
        Self {
            listen: String::new(),
            local: true,
            tenancy: Tenancy::Shared,
            place_seconds: 5,
            orphan_seconds: 60,
        }
    }
}

impl NodesConfig {
    /// Where to listen, if at all.
    pub(crate) fn address(&self) -> Result<Option<SocketAddr>, std::net::AddrParseError> {
        match &*self.listen {
            "" => Ok(None),
            text => text.parse().map(Some),
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
    address: Option<SocketAddr>,
}

impl Nodes {
    pub(crate) fn new(fleet: Option<Fleet>, address: Option<SocketAddr>) -> Self {
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

    /// The hub, for a question about a node: without one there is no such node.
    fn hub_of(&self, node: &NodeId) -> Result<&Hub, Refusal> {
        let unknown = || MemberError::Unknown(node.clone());
        Ok(self.hub.get().ok_or_else(unknown)?)
    }

    fn hub(&self) -> Result<&Hub, Refusal> {
        self.hub.get().ok_or_else(|| {
            Refusal(
                StatusCode::CONFLICT,
                "this platform takes no nodes; set nodes.listen to the address on which it shall \
                 wait for them, for instance 0.0.0.0:31183"
                    .to_owned(),
            )
        })
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
    let adopt: Adopt = Arc::new(move |id, mut adopted| {
        if let Some(sharing) = &sharing {
            adopted.instance = sharing.guard(adopted.instance);
        }
        let (scheduler, functions) = (scheduler.clone(), functions.clone());
        Box::pin(async move { take_in(&scheduler, &functions, id, adopted).await })
    });
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
        adopt,
        logs,
        packages,
        pods,
        build: BUILD.to_owned(),
    }
}

/// Makes an instance that outlived the platform before this one serve its function again.
async fn take_in(
    scheduler: &Scheduler,
    functions: &Functions,
    id: FunctionId,
    adopted: Adopted,
) -> bool {
    if scheduler.find(&id).is_none() {
        functions.load(id.clone()).await;
    }
    scheduler
        .find(&id)
        .is_some_and(|function| function.adopt(adopted))
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

/// The routes, with their part of the document.
pub(crate) fn router() -> OpenApiRouter<Nodes> {
    OpenApiRouter::new()
        .routes(routes!(list_nodes))
        .routes(routes!(make_token))
        .routes(routes!(drain_node, resume_node))
        .routes(routes!(remove_node))
}

/// A refusal of these routes.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = if self.0.is_server_error() {
            Code::GatewayInternal
        } else {
            Code::InvalidUserParam
        };
        let body = ErrorBody {
            code: code.number(),
            message: self.1,
        };
        (self.0, Json(body)).into_response()
    }
}

impl From<MemberError> for Refusal {
    fn from(error: MemberError) -> Self {
        let status = match error {
            MemberError::Unknown(_) => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, report(&error))
    }
}

fn named(name: &str) -> Result<NodeId, Refusal> {
    let parsed = name.parse();
    parsed.map_err(|error| Refusal(StatusCode::BAD_REQUEST, report(&error)))
}

/// The nodes, those that are not connected included.
#[utoipa::path(
    get,
    path = "/bugle/v1/nodes",
    tag = "nodes",
    responses(
        (status = 200, body = NodeList, description = "the nodes; none where everything runs on one machine"),
        (status = 500, body = ErrorBody, description = "the store cannot be read")
    )
)]
async fn list_nodes(State(nodes): State<Nodes>) -> Result<Json<NodeList>, Refusal> {
    let here: Vec<NodeInfo> = nodes.fleet.as_ref().map(Fleet::nodes).unwrap_or_default();
    let mut shown: BTreeMap<String, NodeObject> = here
        .iter()
        .map(|node| (node.view.id.to_string(), object(node)))
        .collect();
    if let Some(hub) = nodes.hub.get() {
        for member in hub.list().await? {
            let name = member.node.to_string();
            let object = shown.entry(name.clone()).or_insert_with(|| gone(name));
            object.joined = member.joined;
        }
    }
    Ok(Json(NodeList {
        nodes: shown.into_values().collect(),
    }))
}

fn object(node: &NodeInfo) -> NodeObject {
    NodeObject {
        name: node.view.id.to_string(),
        state: node.view.health.to_string(),
        joined: 0,
        cpu: node.view.capacity.cpu,
        cpu_used: node.cpu_used,
        memory: node.view.capacity.memory,
        memory_used: node.memory_used,
        instances: node.instances as u64,
        labels: node.view.labels.clone(),
        pool: node.view.pool.clone(),
        group: node.view.group.clone(),
    }
}

fn gone(name: String) -> NodeObject {
    NodeObject {
        name,
        state: "gone".to_owned(),
        joined: 0,
        cpu: 0,
        cpu_used: 0,
        memory: 0,
        memory_used: 0,
        instances: 0,
        labels: BTreeMap::new(),
        pool: None,
        group: None,
    }
}

/// A token with which one node may join, once.
#[utoipa::path(
    post,
    path = "/bugle/v1/nodes/tokens",
    tag = "nodes",
    request_body = NodeTokenRequest,
    responses(
        (status = 201, body = NodeToken, description = "the token"),
        (status = 400, body = ErrorBody, description = "4104: a wrong time"),
        (status = 409, body = ErrorBody, description = "4104: this platform takes no nodes"),
        (status = 500, body = ErrorBody, description = "the store cannot be written")
    )
)]
async fn make_token(
    State(nodes): State<Nodes>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<NodeToken>), Refusal> {
    let bad = |text: String| Refusal(StatusCode::BAD_REQUEST, text);
    let body = body.map_err(|error| bad(error.body_text()))?;
    let NodeTokenRequest { minutes } = if body.is_empty() {
        NodeTokenRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?
    };
    let minutes = minutes.unwrap_or(TOKEN_MINUTES);
    if !(1..=LONGEST_TOKEN_MINUTES).contains(&minutes) {
        return Err(bad(format!(
            "minutes is {minutes}; a token holds 1 to 1440 minutes"
        )));
    }
    let holds = Duration::from_mins(u64::from(minutes));
    let (token, expires) = nodes.hub()?.token(holds).await?;
    let token = NodeToken {
        token: token.to_string(),
        expires,
        address: nodes
            .address
            .map(|address| address.to_string())
            .unwrap_or_default(),
    };
    Ok((StatusCode::CREATED, Json(token)))
}

/// Moves everything away from a node. Calls that run finish there.
#[utoipa::path(
    post,
    path = "/bugle/v1/nodes/{name}/drain",
    tag = "nodes",
    params(("name" = String, Path, description = "the node")),
    responses(
        (status = 204, description = "it gets nothing more; the list shows what is left"),
        (status = 400, body = ErrorBody, description = "4104: no name of a node"),
        (status = 404, body = ErrorBody, description = "4104: no such node"),
        (status = 500, body = ErrorBody, description = "the store cannot be read")
    )
)]
async fn drain_node(
    State(nodes): State<Nodes>,
    Segment(name): Segment,
) -> Result<StatusCode, Refusal> {
    let name = named(&name)?;
    nodes.hub_of(&name)?.drain(&name, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a node that was drained have instances again.
#[utoipa::path(
    delete,
    path = "/bugle/v1/nodes/{name}/drain",
    tag = "nodes",
    params(("name" = String, Path, description = "the node")),
    responses(
        (status = 204, description = "it gets instances again"),
        (status = 400, body = ErrorBody, description = "4104: no name of a node"),
        (status = 404, body = ErrorBody, description = "4104: no such node"),
        (status = 500, body = ErrorBody, description = "the store cannot be read")
    )
)]
async fn resume_node(
    State(nodes): State<Nodes>,
    Segment(name): Segment,
) -> Result<StatusCode, Refusal> {
    let name = named(&name)?;
    nodes.hub_of(&name)?.drain(&name, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets a node: its connection ends, and its certificate is worth nothing any more.
#[utoipa::path(
    delete,
    path = "/bugle/v1/nodes/{name}",
    tag = "nodes",
    params(("name" = String, Path, description = "the node")),
    responses(
        (status = 204, description = "it is forgotten"),
        (status = 400, body = ErrorBody, description = "4104: no name of a node"),
        (status = 404, body = ErrorBody, description = "4104: no such node"),
        (status = 500, body = ErrorBody, description = "the store cannot be written")
    )
)]
async fn remove_node(
    State(nodes): State<Nodes>,
    Segment(name): Segment,
) -> Result<StatusCode, Refusal> {
    let name = named(&name)?;
    nodes.hub_of(&name)?.remove(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
