//! A call whose client takes an event stream.
//!
//! The call runs in a task of its own, because a client that reads slowly stops the connection's
//! task, and must not stop the deadline with it. The handler's writes pass a bounded channel, so
//! such a client slows the handler down; after one that left, writes are dropped.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bugle_instances::{CallError, ExitCause, StreamPart};
use bugle_types::Code;
use bytes::Bytes;
use http::Response;
use http::header::HeaderMap;
use tokio::sync::{mpsc, oneshot};

use crate::answer;
use crate::call::{ATTEMPTS, Answer, Attempt, Call, Counted, Ending, acquire, send};
use crate::connection::{Connection, Order};
use crate::events::{self, Events, WAITING_WRITES};
use crate::failure::Failure;
use crate::gateway::Shared;
use crate::payload::Payload;

/// A call that runs in its own task.
struct Running {
    ended: oneshot::Receiver<Attempt>,
    connection: Arc<Connection>,
}

/// What came first from a call that was sent.
enum First {
    /// The handler wrote to its stream.
    Write(StreamPart),
    /// The handler wrote to its stream, and the call has ended already.
    WriteAndEnd(StreamPart, Attempt),
    /// The call ended without a write.
    End(Attempt),
}

/// Runs the call and answers with its first write, or with its end where it wrote nothing: then a
/// failure keeps its status.
pub(crate) async fn answer(call: Call<'_>) -> Response<Payload> {
    let Call {
        shared,
        connection,
        mut prepared,
    } = call;
    let trace = Arc::clone(&prepared.trace);
    let counted = Counted::new(&prepared);
    let mut gone = ExitCause::Stopped;
    for _ in 0..ATTEMPTS {
        let lease = match acquire(connection, &prepared).await {
            Ok(lease) => lease,
            Err(failure) => {
                let ending = prepared.ended_without_slot(failure);
                return whole(ending, &trace, counted);
            }
        };
        let (sink, mut writes) = mpsc::channel(WAITING_WRITES);
        let sending = async move { send(lease, prepared, Some(sink)).await };
        let mut running = Running::spawn(shared, connection, sending);
        let (write, last) = match running.first(&mut writes).await {
            First::Write(write) => {
                let last = async move { last_event(running.end().await, counted) };
                (write, Box::pin(last) as events::LastEvent)
            }
            First::WriteAndEnd(write, attempt) => (
                write,
                Box::pin(async { last_event(attempt, counted) }) as events::LastEvent,
            ),
            First::End(Attempt::Ended(ending)) => return whole(ending, &trace, counted),
            First::End(Attempt::NotSent(cause, returned)) => {
                (gone, prepared) = (cause, returned);
                if shared.has_moved(connection, prepared.function()) {
                    let ending = prepared.ended_without_slot(Failure::moved());
                    return whole(ending, &trace, counted);
                }
                continue;
            }
        };
        let chosen = match &write {
            StreamPart::Head(chosen) => match answer::chosen_headers(chosen) {
                Ok(headers) => headers,
                // The program finds its connection closed when it goes on.
                Err(failure) => return answer::failure(&failure, &trace, None),
            },
            StreamPart::Message(_) | StreamPart::Events(_) => HeaderMap::new(),
        };
        let keep_alive = shared.config.event_keep_alive();
        let events = Events::new(write, writes, last, keep_alive, Arc::clone(connection));
        return answer::events(events, chosen, &trace);
    }
    let failure = CallError::NotSent(gone).into();
    whole(prepared.ended_without_slot(failure), &trace, counted)
}

/// The answer of a call that wrote nothing. One that the handler composed itself is what the
/// client gets; everything else becomes an event.
fn whole(ending: Ending, trace: &str, mut counted: Counted) -> Response<Payload> {
    counted.ends(&ending);
    let is_composed = matches!(
        ending,
        Ending::Answered(Answer::Composed { .. } | Answer::Streamed, _)
    );
    let response = ending.into_response(trace);
    if is_composed {
        return response;
    }
    events::of_answer(response)
}

/// The text of the last event of a stream that has begun; none where the program ends it itself.
fn last_event(attempt: Attempt, mut counted: Counted) -> Option<Bytes> {
    let ending = match attempt {
        Attempt::Ended(ending) => ending,
        // A call that was not sent has no writes, so no stream has begun.
        Attempt::NotSent(cause, _) => Failure::from(CallError::NotSent(cause)).into(),
    };
    counted.ends(&ending);
    Some(match ending {
        Ending::Answered(Answer::Streamed, _) => return None,
        Ending::Answered(Answer::Json(json), _) => json,
        // Status and headers are gone by now; bytes that are no text cannot be an event.
        Ending::Answered(Answer::Composed { body, .. }, _) => match std::str::from_utf8(&body) {
            Ok(_) => body,
            Err(_) => BASE64.encode(&body).into(),
        },
        Ending::Failed(failure, _) => failure.to_json("").into(),
    })
}

impl Running {
    fn spawn(
        shared: &Shared,
        connection: &Arc<Connection>,
        sending: impl Future<Output = Attempt> + Send + 'static,
    ) -> Self {
        let (tell, ended) = oneshot::channel();
        shared.tasks.spawn(async move {
            // Nobody listens when the client has left.
            let _ = tell.send(sending.await);
        });
        Self {
            ended,
            connection: Arc::clone(connection),
        }
    }

    async fn first(&mut self, writes: &mut mpsc::Receiver<StreamPart>) -> First {
        poll_fn(|cx| {
            if let Poll::Ready(Some(write)) = writes.poll_recv(cx) {
                return Poll::Ready(First::Write(write));
            }
            let attempt = ready!(self.poll_end(cx));
            // A write may have come between the two looks.
            Poll::Ready(match writes.try_recv() {
                Ok(write) => First::WriteAndEnd(write, attempt),
                Err(_) => First::End(attempt),
            })
        })
        .await
    }

    async fn end(mut self) -> Attempt {
        poll_fn(|cx| self.poll_end(cx)).await
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Attempt> {
        if self.connection.order() >= Order::GiveUp {
            return Poll::Ready(Attempt::Ended(Failure::given_up().into()));
        }
        let attempt = ready!(std::pin::Pin::new(&mut self.ended).poll(cx));
        Poll::Ready(attempt.unwrap_or_else(|_| {
            let failure = Failure::new(Code::GatewayInternal, "the call was lost");
            Attempt::Ended(failure.into())
        }))
    }
}
