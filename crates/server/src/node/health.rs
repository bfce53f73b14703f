//! Whether a node lives, and whether it can have instances: what a kubelet asks.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use bugle_node::Host;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// What is known of the node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Health(Arc<OnceLock<Host>>);

impl Health {
    /// The node has joined, and is this.
    pub(super) fn tell_of(&self, host: &Host) {
        _ = self.0.set(host.clone());
    }
}

/// Answers `/healthz` while the process lives, and `/readyz` while a platform can send it instances, until what is
/// returned is dropped.
pub(super) async fn serve(port: u16, health: Health) -> std::io::Result<AbortOnDropHandle<()>> {
    // Both families where the machine has both.
    let both = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await;
    let listener = match both {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?,
    };
    let router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .with_state(health);
    let serving = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the node cannot tell its health any more");
        }
    });
    Ok(AbortOnDropHandle::new(serving))
}

async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    match health.0.get() {
        Some(host) if host.is_ready() => (StatusCode::OK, "ready"),
        Some(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not connected, or about to end",
        ),
        None => (StatusCode::SERVICE_UNAVAILABLE, "has not joined yet"),
    }
}
