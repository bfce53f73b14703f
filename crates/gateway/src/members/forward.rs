//! The sender's side.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bugle_instances::ExitCause;
use bugle_types::{Code, FunctionId};
use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{Attempted, Kept, NoAnswer, Outcome, Owners, refusal, wire};
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
        if is_upgrade(&request.parts.headers) {
            return Some(Outcome::Answered(self.no_upgrades()));
        }
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
        wire::pack(
            &mut parts,
            self.connection.peer.as_ref(),
            self.owners.revision(),
        );
        parts.extensions.clear();
        let packed: Request<Inbound> = Request::from_parts(parts, body);
        metrics.forwarded.inc();
        match self.owners.send(self.gateway, packed).await {
            Ok(response) => Some(self.answered(response)),
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

    fn answered(&self, response: Response<Incoming>) -> Outcome {
        let (mut head, body) = response.into_parts();
        if let Some(seen) = head.headers.remove(wire::NOT_MINE) {
            let seen = seen.to_str().ok().and_then(|seen| seen.parse().ok());
            return Outcome::Elsewhere(seen.unwrap_or(0));
        }
        wire::strip(&mut head.headers);
        head.version = Version::HTTP_11;
        self.shared.metrics.answered(head.status);
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

    fn no_upgrades(&self) -> Response<Payload> {
        let message = "the function is scheduled by another gateway, to which upgraded connections \
             are not passed on; connect to that one";
        let failure = Failure::new(Code::FunctionException, message);
        let failure = failure.with_status(StatusCode::NOT_IMPLEMENTED).closing();
        refusal(self.shared, self.connection, &failure)
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

/// Whether a request asks for another protocol than HTTP on its connection; one for another version of
/// HTTP may be answered in the version that it has.
fn is_upgrade(headers: &HeaderMap) -> bool {
    let wanted = headers.get(header::UPGRADE);
    wanted.is_some_and(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"))
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
