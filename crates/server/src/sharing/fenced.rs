//! Drivers whose instances are used only as long as this gateway may use instances.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bugle_cluster::Fence;
use bugle_instances::{
    BoxFuture, CallError, CallRequest, Driver, Exit, ExitCause, HttpExchange, HttpReply, Instance,
    InstanceId, NoReply, Reply, StartError, StartRequest, Started,
};

use super::packages::Peers;

/// A driver behind the fence.
pub(super) struct Fenced {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) fence: Fence,
    pub(super) packages: Peers,
}

impl Fenced {
    async fn start(&self, request: StartRequest) -> Result<Started, StartError> {
        if !self.fence.holds() {
            // The scheduler is about to let go of the function, and abandons this start with it.
            return std::future::pending().await;
        }
        self.packages.prepare(&request.spec).await?;
        let started = self.driver.start(request).await?;
        Ok(Started {
            instance: Arc::new(Guarded {
                instance: started.instance,
                fence: self.fence.clone(),
            }),
            ..started
        })
    }
}

impl Driver for Fenced {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(Self::start(self, request))
    }
}

/// An instance behind the fence.
pub(super) struct Guarded {
    pub(super) instance: Arc<dyn Instance>,
    pub(super) fence: Fence,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.instance.fmt(f)
    }
}

impl Instance for Guarded {
    fn id(&self) -> InstanceId {
        self.instance.id()
    }

    fn pid(&self) -> Option<u32> {
        self.instance.pid()
    }

    fn node(&self) -> Option<&str> {
        self.instance.node()
    }

    fn call(&self, request: CallRequest) -> BoxFuture<'_, Result<Reply, CallError>> {
        if self.fence.holds() {
            return self.instance.call(request);
        }
        Box::pin(async { Err(CallError::NotSent(ExitCause::Stopped)) })
    }

    fn exchange(&self, exchange: HttpExchange) -> BoxFuture<'_, Result<HttpReply, NoReply>> {
        if self.fence.holds() {
            return self.instance.exchange(exchange);
        }
        Box::pin(async { Err(NoReply::NotSent(ExitCause::Stopped, Box::new(exchange))) })
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Exit> {
        self.instance.stop(grace)
    }

    fn kill(&self) {
        self.instance.kill();
    }

    fn hand_over(&self) -> BoxFuture<'_, bool> {
        self.instance.hand_over()
    }

    fn leaving(&self) -> BoxFuture<'_, ()> {
        self.instance.leaving()
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        self.instance.exited()
    }
}
