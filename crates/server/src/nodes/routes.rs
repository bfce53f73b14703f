//! The operator's routes to nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bugle_api::nodes::{NodeList, NodeObject, NodeToken, NodeTokenRequest};
use bugle_api::{ErrorBody, Segment};
use bugle_node::{Hub, MemberError};
use bugle_scheduler::placement::NodeId;
use bugle_scheduler::{Fleet, NodeInfo};
use bugle_types::{Code, report};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Nodes;

/// How long a token holds unless the operator says otherwise, and the longest.
const TOKEN_MINUTES: u32 = 15;
const LONGEST_TOKEN_MINUTES: u32 = 24 * 60;

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

/// The hub, for a question about a node: without one there is no such node.
fn hub_of<'a>(nodes: &'a Nodes, node: &NodeId) -> Result<&'a Hub, Refusal> {
    let unknown = || MemberError::Unknown(node.clone());
    Ok(nodes.hub.get().ok_or_else(unknown)?)
}

fn hub(nodes: &Nodes) -> Result<&Hub, Refusal> {
    nodes.hub.get().ok_or_else(|| {
        Refusal(
            StatusCode::CONFLICT,
            "this platform takes no nodes; set nodes.listen to the address on which it shall \
             wait for them, for instance 0.0.0.0:31183"
                .to_owned(),
        )
    })
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
            match member.joined {
                Some(joined) => object.joined = joined,
                None => "unreadable".clone_into(&mut object.state),
            }
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
    let (token, expires) = hub(&nodes)?.token(holds).await?;
    let token = NodeToken {
        token: token.to_string(),
        expires,
        address: nodes.address,
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
    hub_of(&nodes, &name)?.drain(&name, true).await?;
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
    hub_of(&nodes, &name)?.drain(&name, false).await?;
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
    hub_of(&nodes, &name)?.remove(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
