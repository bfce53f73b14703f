//! What `object_store` sends its requests with.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient as StoreClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
};
use parking_lot::Mutex;
use tokio::time::Sleep;

use crate::Error;
use crate::address::{Client, ConnectError, Refused};

/// The client that connects through the operator's policy.
pub(super) type HttpClient = Client<HttpRequestBody>;

/// What went wrong last, in words of our own: those of the other side are not passed on.
#[derive(Debug, Default)]
pub(super) struct Seen {
    status: Mutex<Option<StatusCode>>,
    problem: Mutex<Option<String>>,
    refused: Mutex<Option<Refused>>,
}

impl Seen {
    /// What happened, for whoever has to change something.
    pub(super) fn why(&self, error: &object_store::Error) -> String {
        use object_store::Error as Store;
        let status = *self.status.lock();
        match error {
            Store::NotFound { .. } => "there is no such object".to_owned(),
            Store::Precondition { .. } => "it changed while it was being fetched".to_owned(),
            Store::Unauthenticated { .. } | Store::PermissionDenied { .. } => {
                "the store does not allow it; check the access key and what it may read".to_owned()
            }
            _ => match (self.problem.lock().take(), status) {
                (Some(problem), _) => problem,
                (None, Some(status)) if status.is_redirection() => {
                    format!(
                        "the store answered {status}; a redirect is not followed, give the \
                             address it leads to"
                    )
                }
                (None, Some(StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED)) => {
                    "the store does not allow it; check the access key and what it may read"
                        .to_owned()
                }
                (None, Some(status)) if status.is_success() => {
                    "what the store answered makes no sense, or its object changed".to_owned()
                }
                (None, Some(status)) => format!("the store answered {status}"),
                (None, None) => "the store was not asked; check bucket, region and keys".to_owned(),
            },
        }
    }

    /// The refusal of the address, if that was it.
    pub(super) fn refused(&self) -> Option<Error> {
        self.refused.lock().take().map(Error::Address)
    }
}

/// Makes the clients of `object_store` of ours.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) client: HttpClient,
    pub(super) stall: Duration,
    pub(super) seen: Arc<Seen>,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<StoreClient> {
        Ok(StoreClient::new(Service {
            client: self.client.clone(),
            stall: self.stall,
            seen: Arc::clone(&self.seen),
        }))
    }
}

#[derive(Debug)]
struct Service {
    client: HttpClient,
    stall: Duration,
    seen: Arc<Seen>,
}

/// The other side says nothing.
#[derive(Debug, thiserror::Error)]
#[error("the store has sent nothing for {} seconds", .0.as_secs())]
struct Stalled(Duration);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        *self.seen.status.lock() = None;
        *self.seen.problem.lock() = None;
        let answered = tokio::time::timeout(self.stall, self.client.request(request)).await;
        let response = match answered {
            Err(_) => return Err(self.note(HttpErrorKind::Timeout, Stalled(self.stall))),
            Ok(Err(error)) => return Err(self.failed(error)),
            Ok(Ok(response)) => response,
        };
        *self.seen.status.lock() = Some(response.status());
        let (parts, body) = response.into_parts();
        let body = Watched {
            body,
            pause: Box::pin(tokio::time::sleep(self.stall)),
            stall: self.stall,
            seen: Arc::clone(&self.seen),
        };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

impl Service {
    fn note(
        &self,
        kind: HttpErrorKind,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> HttpError {
        *self.seen.problem.lock() = Some(bugle_types::report(&error));
        HttpError::new(kind, error)
    }

    fn failed(&self, error: hyper_util::client::legacy::Error) -> HttpError {
        let refused = find::<ConnectError>(&error).and_then(|found| match found {
            ConnectError::Refused(refused) => Some(refused.again()),
            ConnectError::Unreachable { .. } => None,
        });
        if let Some(refused) = refused {
            *self.seen.refused.lock() = Some(refused);
            // Not to be tried again.
            return self.note(HttpErrorKind::Unknown, error);
        }
        if let Some(unreachable) = find::<ConnectError>(&error) {
            *self.seen.problem.lock() = Some(bugle_types::report(unreachable));
            return HttpError::new(HttpErrorKind::Connect, error);
        }
        let kind = if error.is_connect() {
            HttpErrorKind::Connect
        } else {
            HttpErrorKind::Interrupted
        };
        self.note(kind, error)
    }
}

/// The first error of a type among the causes.
fn find<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // What `io::Error` wraps is not among its sources but beside them.
        if let Some(inner) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            && let Some(found) = find(inner)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// A body that must not pause for too long.
struct Watched {
    body: Incoming,
    pause: Pin<Box<Sleep>>,
    stall: Duration,
    seen: Arc<Seen>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let next = tokio::time::Instant::now() + self.stall;
            self.pause.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| {
                frame.map_err(|error| {
                    *self.seen.problem.lock() = Some("the connection broke".to_owned());
                    HttpError::new(HttpErrorKind::Interrupted, error)
                })
            }));
        }
        if self.pause.as_mut().poll(context).is_ready() {
            let stalled = Stalled(self.stall);
            *self.seen.problem.lock() = Some(stalled.to_string());
            return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, stalled))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
