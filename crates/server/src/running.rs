//! A platform that runs, and the order in which it ends.

use std::fs::File;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bugle_scheduler::Scheduler;
use bugle_store::Store;
use tokio_util::sync::CancellationToken;

use crate::data_plane::DataPlane;
use crate::endpoints::Endpoints;
use crate::health::Readiness;
use crate::nodes::Nodes;
use crate::sharing::Sharing;
use crate::tasks::Tasks;

/// How long the control plane's own tasks may take to end.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// A running platform.
pub struct Running {
    /// Where the control API listens.
    pub control: SocketAddr,
    /// Where the invocation gateway listens.
    pub gateway: SocketAddr,
    pub(crate) grace: Duration,
    pub(crate) tasks: Tasks,
    pub(crate) gateway_stop: CancellationToken,
    pub(crate) gateway_done: tokio::task::JoinHandle<()>,
    pub(crate) scheduler: Scheduler,
    pub(crate) nodes: Nodes,
    pub(crate) readiness: Readiness,
    pub(crate) endpoints: Endpoints,
    pub(crate) sharing: Option<Sharing>,
    /// Ends the port of gateways.
    pub(crate) closing: CancellationToken,
    // Dropped in this order: what uses the store ends before it.
    pub(crate) data: DataPlane,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) _lock: Option<File>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("control", &self.control)
            .field("gateway", &self.gateway)
            .finish_non_exhaustive()
    }
}

impl Running {
    /// Runs until `shutdown` is ready or something essential has died, then stops in order: calls
    /// that run may finish within the configured grace.
    ///
    /// # Errors
    ///
    /// The text says that the platform stopped because a part of it died; its log has the details.
    pub async fn stopped(self, shutdown: impl Future<Output = ()>) -> Result<(), String> {
        let orderly = tokio::select! {
            biased;
            () = self.tasks.failed() => false,
            () = shutdown => true,
        };
        tracing::info!("stopping");
        self.readiness.draining();
        drop(self.endpoints);
        let deadline = tokio::time::Instant::now() + self.grace;
        if let Some(sharing) = &self.sharing {
            // The others have the functions before calls are refused here.
            sharing.cluster.retire().await;
        }
        self.gateway_stop.cancel();
        if tokio::time::timeout_at(deadline, self.gateway_done)
            .await
            .is_err()
        {
            tracing::warn!("calls did not finish in time");
        }
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        self.nodes.let_go();
        self.scheduler.shutdown(left).await;
        if let Some(sharing) = &self.sharing {
            sharing.cluster.leave().await;
        }
        self.closing.cancel();
        self.tasks.shut_down(LAST_TASKS).await;
        drop(self.data);
        // Whoever else still has it asks nothing any more.
        self.store.close();
        if orderly {
            Ok(())
        } else {
            Err("a part of the platform died; see its log".to_owned())
        }
    }
}
