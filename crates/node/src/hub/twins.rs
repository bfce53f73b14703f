//! Two processes that both are the same node, because the data folder of one was copied to another machine.
//!
//! The one that is connected stays, and others are refused for as long as it lives. Otherwise each would take the
//! connection from the other, and with it all calls, for ever. A node that connects anew is the same process and not
//! asked about; one that started again waits until the end of its former process is noticed, which takes a moment.

use std::sync::Arc;
use std::time::Duration;

use bugle_scheduler::placement::NodeId;
use tokio::time::timeout;

use super::Shared;
use crate::link::{Link, REFUSED};
use crate::stream::Broken;

/// How long a process may take to hear that it is refused.
const TELLING: Duration = Duration::from_secs(2);

impl Shared {
    /// The connection of another process that is the same node and lives. Cancel safe.
    pub(crate) async fn twin_of(&self, node: &NodeId, process: &str) -> Option<Arc<Link>> {
        let link = self.links.lock().get(node).cloned()?;
        let is_another = link.process() != process;
        (is_another && link.is_alive().await).then_some(link)
    }

    /// Refuses a process, because of the connection of another one.
    pub(super) async fn refuse(&self, link: &Link, twin: &Link) -> Result<(), Broken> {
        tell(twin, link.process());
        let reason = reason(twin).into();
        // One that does not hear it tries again, and is refused again.
        _ = timeout(TELLING, link.ask_small(REFUSED, reason)).await;
        Ok(())
    }
}

/// Tells the operator that a process was refused because of `twin`, once.
pub(crate) fn tell(twin: &Link, process: &str) {
    if twin.refuses(process) {
        tracing::warn!(
            node = %twin.node, connected = twin.process(), refused = process,
            "two processes have the identity of one node, and the second is refused: start it with an empty data \
             folder and a new token, or end the first"
        );
    }
}

/// What a process is told that is refused because of `twin`.
pub(crate) fn reason(twin: &Link) -> String {
    format!(
        "{} is connected as node {} already, with the identity in this data folder; start this one with an empty data \
         folder and a new token, or end that one",
        twin.process(),
        twin.node
    )
}
