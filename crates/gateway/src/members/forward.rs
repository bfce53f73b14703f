//! The sender's side.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bugle_instances::ExitCause;
use bugle_types::{Code, FunctionId};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;

use super::{Attempted, Kept, NoAnswer, Outcome, Owners, refusal, upgrade, wire};
use crate::body::Inbound;
use crate::connection::{Connection, Phase};
use crate::failure::Failure;
use crate::gateway::Shared;
use crate::payload::{Broken, Payload};

/// A gateway that has a function, with all that a request to it needs.
pub(super) struct There<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) owners: &'a dyn Owners,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) gateway: &'a str,
    pub(super) function: &'a FunctionId,
}

impl There<'_> {
    /// Passes the request on. None if it cannot be tried again, because its body is gone.
    pub(super) async fn run(&self, request: &mut Attempted) -> Option<Outcome> {
        let metrics = &self.shared.metrics;
        let upgrades = upgrade::is_asked_for(&request.parts, &request.body);
        if matches!(request.body, Kept::Once(_)) {
            // Once the body moves there is no way back: first the question.
            match self.owners.asks(self.gateway, self.function).await {
                Ok(true) => {}
                Ok(false) => return Some(Outcome::Elsewhere(self.owners.revision() + 1)),
                Err(NoAnswer::NotSent(why) | NoAnswer::Lost(why)) => {
                    return Some(Outcome::Away(why));
                }
            }
        }
        let (mut parts, body) = request.take()?.into_parts();
        let client = parts.extensions.remove::<OnUpgrade>();
        let client = client.filter(|_| upgrades);
        parts.extensions.clear();
        let (peer, seen) = (self.connection.peer.as_ref(), self.owners.revision());
        if client.is_some() {
            wire::pack_upgrade(&mut parts, peer, seen);
        } else {
            wire::pack(&mut parts, peer, seen);
        }
        let packed: Request<Inbound> = Request::from_parts(parts, body);
        metrics.forwarded.inc();
        match self.owners.send(self.gateway, packed).await {
            Ok(response) => Some(self.answered(response, client)),
            Err(NoAnswer::NotSent(why)) => {
                metrics.forward_failures.inc();
                Some(Outcome::Away(why))
            }
            Err(NoAnswer::Lost(why)) => {
                metrics.forward_failures.inc();
                Some(Outcome::Answered(self.lost(&why)))
            }
        }
    }

    fn answered(&self, mut response: Response<Incoming>, client: Option<OnUpgrade>) -> Outcome {
        let there = hyper::upgrade::on(&mut response);
        let (mut head, body) = response.into_parts();
        if let Some(seen) = head.headers.remove(wire::NOT_MINE) {
            let seen = seen.to_str().ok().and_then(|seen| seen.parse().ok());
            return Outcome::Elsewhere(seen.unwrap_or(0));
        }
        wire::unpack_answer(&mut head);
        self.shared.metrics.answered(head.status);
        if let Some(client) = client.filter(|_| head.status == StatusCode::SWITCHING_PROTOCOLS) {
            // It is no longer HTTP, and keeps the connection busy until its end.
            upgrade::carry(self.shared, self.connection, client, there);
            let payload = Payload::Whole(Bytes::new());
            return Outcome::Answered(Response::from_parts(head, payload));
        }
        let payload = if body.is_end_stream() {
            self.connection.enter(Phase::Open);
            Payload::Whole(Bytes::new())
        } else {
            Payload::Forwarded(Box::new(Forwarded {
                body,
                connection: Arc::clone(self.connection),
            }))
        };
        Outcome::Answered(Response::from_parts(head, payload))
    }

    /// The answer for a call that may have run.
    fn lost(&self, why: &str) -> Response<Payload> {
        let gateway = self.gateway;
        tracing::debug!(gateway, why, function = %self.function, "a gateway was lost with a call");
        let failure = Failure::new(
            Code::InstanceExited,
            "the connection to the gateway that has the function was lost before the answer; the \
             call may have run",
        );
        let cause = ExitCause::NodeLost {
            node: gateway.into(),
        };
        refusal(self.shared, self.connection, &failure.with_cause(&cause))
    }
}

/// An answer of another gateway on its way.
pub(crate) struct Forwarded {
    body: Incoming,
    connection: Arc<Connection>,
}

impl Forwarded {
    /// The next bytes to send.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(|_| Broken)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.connection.enter(Phase::Open);
    }
}

impl fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarded").finish_non_exhaustive()
    }
}
