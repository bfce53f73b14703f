//! Runs the server until it is interrupted, and prints a kubeconfig for it.
//!
//! ```console
//! $ cargo run -p bugle-apiserver --example apiserver > kubeconfig
//! $ kubectl --kubeconfig kubeconfig get pods
//! ```

use std::io::Write as _;

use bugle_apiserver::{ApiServer, Options};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let server = ApiServer::start(Options::default()).await?;
    std::io::stdout().write_all(server.kubeconfig().as_bytes())?;
    tokio::signal::ctrl_c().await
}
