//! The gateway's questions about other gateways.

use std::sync::Arc;
use std::time::Duration;

use bugle_cluster::{Cluster, Unanswered};
use bugle_gateway::{Inbound, NoAnswer, Owners, Place};
use bugle_instances::BoxFuture;
use bugle_types::FunctionId;
use http::{Request, Response};
use hyper::body::Incoming;

use super::port::{OWNS, Owns};

/// How long a gateway may take to say what is its own.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Shared(pub(super) Cluster);

fn told(error: Unanswered) -> NoAnswer {
    match error {
        Unanswered::NotSent(why) => NoAnswer::NotSent(why),
        Unanswered::Lost(why) => NoAnswer::Lost(why),
    }
}

impl Owners for Shared {
    fn place(&self, function: &FunctionId) -> Place {
        let view = self.0.view();
        match view.owner(function) {
            Some(owner) if Some(owner) != view.me.as_ref() => Place::There(Arc::clone(owner)),
            Some(_) if self.0.fence().holds() => Place::Here,
            _ => Place::Nowhere,
        }
    }

    fn revision(&self) -> u64 {
        self.0.revision()
    }

    fn reached(&self, revision: u64) -> BoxFuture<'_, ()> {
        Box::pin(self.0.reached(revision))
    }

    fn asks<'a>(
        &'a self,
        gateway: &'a str,
        function: &'a FunctionId,
    ) -> BoxFuture<'a, Result<bool, NoAnswer>> {
        Box::pin(async move {
            let question = Owns {
                function: function.clone(),
                seen: self.0.revision(),
            };
            let asked = self.0.ask(gateway, OWNS, &question, PATIENCE).await;
            asked.map_err(told)
        })
    }

    fn send<'a>(
        &'a self,
        gateway: &'a str,
        request: Request<Inbound>,
    ) -> BoxFuture<'a, Result<Response<Incoming>, NoAnswer>> {
        Box::pin(async move { self.0.send(gateway, request).await.map_err(told) })
    }
}
