//! An instance that takes room on a node for as long as anybody holds it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{
    BoxFuture, CallError, CallRequest, Exit, HttpExchange, HttpReply, Instance, InstanceId,
    NoReply, Reply,
};

use super::Shared;

/// What an instance takes of its node, until this is dropped.
pub(super) struct Hold {
    pub(super) fleet: Arc<Shared>,
    pub(super) instance: InstanceId,
}

impl Hold {
    pub(super) fn around(self, instance: Arc<dyn Instance>) -> Arc<dyn Instance> {
        Arc::new(Placed {
            instance,
            _hold: self,
        })
    }
}

impl Hold {
    /// Whether others place on its node as well.
    pub(super) fn is_shared(&self) -> bool {
        let state = self.fleet.state.lock();
        let node = state.placement.node_of(self.instance);
        let node = node.and_then(|node| state.placement.find(node));
        node.is_some_and(|node| node.others.is_some())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.fleet.state.lock();
        let node = state.placement.node_of(self.instance).cloned();
        state.placement.release(self.instance);
        if let Some(node) = node {
            state.look_at(&node);
        }
        drop(state);
        self.fleet.made_room();
    }
}

/// An instance that takes room on a node.
struct Placed {
    instance: Arc<dyn Instance>,
    _hold: Hold,
}

impl fmt::Debug for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.instance.fmt(f)
    }
}

impl Instance for Placed {
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
        self.instance.call(request)
    }

    fn exchange(&self, exchange: HttpExchange) -> BoxFuture<'_, Result<HttpReply, NoReply>> {
        self.instance.exchange(exchange)
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
