//! What this platform is, and which interpreters it found.
//!
//! Looking for interpreters runs each of them once, which takes a second on a machine with many. It
//! happens beside the start, so that the platform is ready before; who asks earlier waits.

use std::net::SocketAddr;

use bugle_api::operator::{Info, RuntimeInfo};
use bugle_instances::PythonDriver;
use tokio::sync::OnceCell;

use crate::config::Config;
use crate::roots;

/// The answer of `GET /bugle/v1/info`, found out once.
#[derive(Debug)]
pub(crate) struct About {
    config: Config,
    gateway: SocketAddr,
    info: OnceCell<Info>,
}

impl About {
    pub(crate) fn new(config: Config, gateway: SocketAddr) -> Self {
        Self {
            config,
            gateway,
            info: OnceCell::new(),
        }
    }

    /// What the platform is. Cancel safe: the next one to ask looks again.
    pub(crate) async fn info(&self) -> &Info {
        self.info
            .get_or_init(|| async {
                Info {
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    gateway: format!("http://{}", self.gateway),
                    code_roots: roots::code_roots(&self.config.server),
                    runtimes: self.runtimes().await,
                    // May change until the first instance has started.
                    confinement: Vec::new(),
                }
            })
            .await
    }

    async fn runtimes(&self) -> Vec<RuntimeInfo> {
        let python = self.config.python.clone();
        let found = tokio::task::spawn_blocking(move || PythonDriver::discover(&python)).await;
        let found = found.unwrap_or_else(|error| {
            tracing::error!(%error, "the search for interpreters died");
            Vec::new()
        });
        found
            .into_iter()
            .filter(|interpreter| interpreter.problem.is_none())
            .map(|interpreter| RuntimeInfo {
                name: interpreter.version.to_string(),
                path: interpreter.path,
                version: interpreter.full_version,
            })
            .collect()
    }
}
