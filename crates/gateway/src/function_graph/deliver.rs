//! Invocations for callers who do not wait.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bugle_types::FunctionId;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::invoke;
use crate::Gateway;
use crate::call::{Holder, find};
use crate::connection::Phase;

/// How the delivery of an event ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The inner code; 0 for success.
    pub code: u32,
    /// What went wrong; empty for success.
    pub message: String,
    /// Whether the function moved to another gateway before any instance had the event.
    pub moved: bool,
}

/// Whoever has to cancel it says it was, with this code.
const CANCELLED: u32 = 4208;

impl Gateway {
    /// Runs an invocation to its end. Once `cancel` is cancelled the instance that has it is killed,
    /// and whatever else that instance does ends with it.
    pub async fn deliver(
        &self,
        function: &FunctionId,
        event: Bytes,
        id: Arc<str>,
        cancel: CancellationToken,
    ) -> Delivered {
        let shared = &self.shared;
        let connection = shared.connections.open(None);
        connection.enter(Phase::Busy);
        let found = match find(shared, &connection, function).await {
            Ok(found) => found,
            Err(failure) => {
                return Delivered {
                    moved: connection.moved.load(Ordering::Relaxed),
                    ..Delivered::failed(&failure)
                };
            }
        };
        let holder = Holder::default();
        let holds = Some(Arc::clone(&holder));
        let mut running = pin!(invoke(shared, &connection, found, event, (&id, holds)));
        let invoked = tokio::select! {
            biased;
            invoked = &mut running => invoked,
            () = cancel.cancelled() => {
                let instance = holder.lock().clone();
                let Some(instance) = instance else {
                    // It waits for a slot, and leaves the queue.
                    return Delivered::cancelled();
                };
                instance.kill();
                running.await
            }
        };
        match invoked.result {
            Ok(_) => Delivered {
                code: 0,
                message: String::new(),
                moved: false,
            },
            Err(_) if cancel.is_cancelled() => Delivered::cancelled(),
            Err(failure) => Delivered {
                moved: connection.moved.load(Ordering::Relaxed),
                ..Delivered::failed(&failure)
            },
        }
    }
}

impl Delivered {
    fn failed(failure: &crate::failure::Failure) -> Self {
        Self {
            code: failure.code(),
            message: failure.message().to_owned(),
            moved: false,
        }
    }

    /// The invocation was cancelled.
    pub fn cancelled() -> Self {
        Self {
            code: CANCELLED,
            message: "function invocation canceled".to_owned(),
            moved: false,
        }
    }
}
