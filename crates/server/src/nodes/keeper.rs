//! What the scheduler makes of instances on nodes that lost their gateway.

use std::time::Duration;

use bugle_instances::BoxFuture;
use bugle_node::Keeper;
use bugle_scheduler::{Adopted, Census, Scheduler};
use bugle_types::FunctionId;
use tokio::time::timeout;

use crate::follow::Functions;
use crate::sharing::Sharing;

/// How long it may take until other gateways have said what they have of a function.
const COUNTING: Duration = Duration::from_secs(10);

/// The functions of this gateway.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) scheduler: Scheduler,
    pub(super) functions: Functions,
    /// Where other gateways have a part of the functions.
    pub(super) sharing: Option<Sharing>,
}

impl Keeper for Kept {
    fn has(&self, function: &FunctionId) -> bool {
        let sharing = self.sharing.as_ref();
        sharing.is_none_or(|sharing| sharing.has(function))
    }

    fn ready(&self, function: FunctionId) -> BoxFuture<'static, bool> {
        let kept = self.clone();
        Box::pin(async move {
            if kept.scheduler.find(&function).is_none() {
                kept.functions.load(function.clone()).await;
            }
            // What is not registered any more has no use for an instance.
            if let Some(known) = kept.scheduler.find(&function)
                && timeout(COUNTING, known.counted()).await.is_err()
            {
                return false;
            }
            kept.has(&function)
        })
    }

    fn count(&self, function: &FunctionId, orphans: Census) {
        if let Some(function) = self.scheduler.find(function) {
            function.set_orphans(orphans);
        }
    }

    fn adopt(&self, function: &FunctionId, mut adopted: Adopted) -> bool {
        if let Some(sharing) = &self.sharing {
            adopted.instance = sharing.guard(adopted.instance);
        }
        let function = self.scheduler.find(function);
        function.is_some_and(|function| function.adopt(adopted))
    }
}
