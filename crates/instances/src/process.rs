//! An instance that is a process of its own, spoken to in frames.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::child::Child;
use crate::connection::{Connection, Handed};
use crate::stream::StreamQueue;
use crate::{
    BoxFuture, CallError, CallRequest, Exit, ExitCause, Instance, InstanceId, Reply, StreamPart,
};

/// A running process that serves calls. It is killed when this is dropped.
pub(crate) struct ProcessInstance {
    id: InstanceId,
    connection: Arc<Connection>,
    child: Arc<Child>,
    exit: watch::Receiver<Option<Exit>>,
}

impl ProcessInstance {
    pub(crate) fn new(
        id: InstanceId,
        connection: Arc<Connection>,
        child: Arc<Child>,
        exit: watch::Receiver<Option<Exit>>,
    ) -> Self {
        Self {
            id,
            connection,
            child,
            exit,
        }
    }

    async fn run(&self, request: CallRequest) -> Result<Reply, CallError> {
        let mut handed = self
            .connection
            .hand_over(request)
            .map_err(CallError::NotSent)?;
        let settled = match handed.stream.take() {
            None => (&mut handed.reply).await,
            Some(stream) => self.forward(&mut handed, &stream).await,
        };
        // The pump settles every call before it goes.
        settled.unwrap_or(Err(CallError::Exited(ExitCause::Stopped)))
    }

    /// Hands messages to the client until the reply is there and all of them are taken.
    async fn forward(
        &self,
        handed: &mut Handed<'_>,
        stream: &StreamQueue,
    ) -> Result<Result<Reply, CallError>, oneshot::error::RecvError> {
        loop {
            self.forward_queued(handed.id, stream).await;
            tokio::select! {
                biased;
                () = stream.arrived.notified() => {}
                settled = &mut handed.reply => {
                    self.forward_queued(handed.id, stream).await;
                    return settled;
                }
            }
        }
    }

    async fn forward_queued(&self, id: u32, stream: &StreamQueue) {
        while let Some(message) = stream.pop() {
            let units = StreamQueue::units(&message);
            // A client that has left takes nothing, and must not hold the handler up.
            _ = stream.sink.send(StreamPart::Message(message)).await;
            stream.acknowledge(units);
            self.connection.acknowledge(id, units);
        }
    }

    async fn end(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(LOST),
            Err(_) => LOST,
        }
    }
}

/// What is told when the runtime that reads the instance has been shut down.
const LOST: Exit = Exit {
    cause: ExitCause::Stopped,
    peak_memory: 0,
};

impl Instance for ProcessInstance {
    fn id(&self) -> InstanceId {
        self.id
    }

    fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    fn call(&self, request: CallRequest) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(self.run(request))
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Exit> {
        Box::pin(async move {
            self.child.expect_end();
            let millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            self.connection.send_stop(millis);
            if let Ok(exit) = tokio::time::timeout(grace, self.end()).await {
                return exit;
            }
            self.child.kill();
            self.end().await
        })
    }

    fn kill(&self) {
        self.child.kill();
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        Box::pin(self.end())
    }
}

impl Drop for ProcessInstance {
    fn drop(&mut self) {
        self.child.kill();
    }
}

impl fmt::Debug for ProcessInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessInstance")
            .field("id", &self.id)
            .field("pid", &self.child.pid())
            .finish_non_exhaustive()
    }
}
