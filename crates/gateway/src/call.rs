//! One call: a slot, the function's work, the answer.
//!
//! A call is sent at most once. Only a call that never reached its instance is given to another
//! one; after that the answer is whatever became of it. A call whose client left before it was sent
//! is forgotten, and one that was sent goes on by itself, because its slot is free only when the
//! instance is done with it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bugle_instances::{CallError, CallRequest, ExitCause, Instance, Reply, ReplyBody, StreamSink};
use bugle_scheduler::{AcquireError, Demand, Function, Lease, Outcome};
use bugle_types::pool::PoolChoice;
use bugle_types::{Code, FunctionId, FunctionSpec, InstanceLabel, Resources};
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::answer::{self, Served};
use crate::body::Reservation;
use crate::connection::{Connection, Order};
use crate::failure::Failure;
use crate::gateway::Shared;
use crate::head::Head;
use crate::metrics::InFlight;
use crate::payload::Payload;
use crate::route::not_found;
use crate::{demand, session};

/// A call is offered to this many instances. More than one only if each of them ended between the
/// moment it was chosen and the first byte.
pub(crate) const ATTEMPTS: usize = 3;

/// The scheduler bounds how long a call waits for a slot, by what the function needs to start. This
/// is no bound, only later than any of those.
const SCHEDULERS_BOUND: Duration = Duration::from_hours(24);

/// How long a call of a function that the scheduler does not know waits for it to be loaded.
const LOADING: Duration = Duration::from_secs(5);

/// A call that was checked and lacks only a slot.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) trace: Arc<str>,
    arrived: Instant,
    function: Function,
    resources: Option<Resources>,
    label: Option<InstanceLabel>,
    place: Option<Arc<PoolChoice>>,
    body: Bytes,
    envelope: Bytes,
    json: bool,
    /// Told which instance has the call.
    holder: Option<Holder>,
    /// Covers `body` for as long as the instance may read it.
    _reservation: Reservation,
    _in_flight: InFlight,
}

/// The instance that has a call, for whoever may have to end it.
pub(crate) type Holder = Arc<Mutex<Option<Arc<dyn Instance>>>>;

impl Prepared {
    /// A call of a function that was found.
    pub(crate) fn with(
        shared: &Shared,
        parts: &Parts,
        (function, spec): (Function, &FunctionSpec),
        head: Head<'_>,
        (body, reservation): (Bytes, Reservation),
    ) -> Result<Self, Failure> {
        let headers = &head.headers;
        if let Some(value) = headers.session {
            session::check(value, spec.concurrency.get())?;
        }
        Ok(Self {
            resources: demand::resources(headers, &spec.resources)?,
            label: demand::label(headers)?,
            place: demand::place(headers, &spec.pool)?,
            json: demand::may_be_json(headers),
            function,
            body,
            holder: None,
            trace: Arc::clone(&head.trace),
            arrived: head.arrived,
            envelope: head.into_envelope(parts),
            _reservation: reservation,
            _in_flight: InFlight::new(shared),
        })
    }

    /// The function that is called.
    pub(crate) fn function(&self) -> &Function {
        &self.function
    }

    /// Has the holder told which instance gets the call.
    pub(crate) fn tell(&mut self, holder: Option<Holder>) {
        self.holder = holder;
    }

    fn request(&self, timeout: Duration, stream: Option<StreamSink>) -> CallRequest {
        CallRequest {
            request: Arc::clone(&self.trace),
            body: self.body.clone(),
            meta: self.envelope.clone(),
            json: self.json,
            timeout,
            stream,
        }
    }
}

pub(crate) async fn find(
    shared: &Shared,
    connection: &Connection,
    id: &FunctionId,
) -> Result<Function, Failure> {
    if let Some(function) = shared.scheduler.find(id) {
        return Ok(function);
    }
    // Nobody may have called it yet. One that cannot be loaded in time counts as not there.
    let _ = timeout(LOADING, (shared.load)(id)).await;
    if let Some(function) = shared.scheduler.find(id) {
        return Ok(function);
    }
    if shared.is_elsewhere(connection, id) {
        return Err(Failure::moved());
    }
    Err(not_found(&id.to_string()))
}

/// Counts a call of a function when it is dropped: as abandoned unless its end was seen.
#[derive(Debug)]
pub(crate) struct Counted {
    function: Function,
    arrived: Instant,
    outcome: Outcome,
}

impl Counted {
    pub(crate) fn new(prepared: &Prepared) -> Self {
        Self::since(prepared.arrived, &prepared.function)
    }

    /// A call that arrives now.
    pub(crate) fn of(function: &Function) -> Self {
        Self::since(Instant::now(), function)
    }

    fn since(arrived: Instant, function: &Function) -> Self {
        Self {
            function: function.clone(),
            arrived,
            outcome: Outcome::abandoned,
        }
    }

    pub(crate) fn counts_as(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// The client gets this failure, which is given back.
    pub(crate) fn failed(mut self, failure: Failure) -> Failure {
        self.outcome = failure.outcome();
        failure
    }

    /// The client gets this end.
    pub(crate) fn ends(&mut self, ending: &Ending) {
        self.outcome = match ending {
            Ending::Answered(..) => Outcome::success,
            Ending::Failed(failure, _) => failure.outcome(),
        };
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let calls = self.function.calls();
        calls.count(self.outcome, self.arrived.elapsed());
    }
}

/// A checked call, with the connection it came on.
pub(crate) struct Call<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) connection: &'a Arc<Connection>,
    pub(crate) prepared: Prepared,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The function answered.
    Answered(Answer, Served),
    /// It did not. How the call was served is none where no instance had it.
    Failed(Failure, Option<Served>),
}

/// What the function answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The JSON of its result.
    Json(Bytes),
    /// An answer it composed itself.
    Composed {
        status: u16,
        headers: Vec<(String, String)>,
        body: Bytes,
    },
    /// A stream of events, which has been sent.
    Streamed,
}

/// What became of sending a call to an instance.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// It has ended.
    Ended(Ending),
    /// The instance was gone before it got the call, which is given back.
    NotSent(ExitCause, Prepared),
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure, None)
    }
}

impl Call<'_> {
    /// Runs the call and makes the answer.
    pub(crate) async fn answer(self) -> Response<Payload> {
        let trace = Arc::clone(&self.prepared.trace);
        self.ending().await.into_response(&trace)
    }

    /// Runs the call.
    pub(crate) async fn ending(self) -> Ending {
        let mut counted = Counted::new(&self.prepared);
        let ending = self.run().await;
        counted.ends(&ending);
        ending
    }

    async fn run(self) -> Ending {
        let Self {
            shared,
            connection,
            mut prepared,
        } = self;
        let mut gone = ExitCause::Stopped;
        for _ in 0..ATTEMPTS {
            let lease = match acquire(connection, &prepared).await {
                Ok(lease) => lease,
                Err(failure) => return prepared.ended_without_slot(failure),
            };
            let attempt = Detaching::new(send(lease, prepared, None), shared, connection).await;
            match attempt {
                None => return Failure::given_up().into(),
                Some(Attempt::Ended(ending)) => return ending,
                Some(Attempt::NotSent(cause, returned)) => (gone, prepared) = (cause, returned),
            }
            if shared.has_moved(connection, &prepared.function) {
                return prepared.ended_without_slot(Failure::moved());
            }
        }
        prepared.ended_without_slot(CallError::NotSent(gone).into())
    }
}

/// Waits for a slot. Dropping the future takes the call out of the queue.
pub(crate) async fn acquire(
    connection: &Connection,
    prepared: &Prepared,
) -> Result<Lease, Failure> {
    let slot = Slot {
        function: &prepared.function,
        resources: prepared.resources.clone(),
        label: prepared.label.clone(),
        place: prepared.place.clone(),
    };
    slot.acquire(connection).await
}

/// What a call waits for.
pub(crate) struct Slot<'a> {
    function: &'a Function,
    resources: Option<Resources>,
    label: Option<InstanceLabel>,
    place: Option<Arc<PoolChoice>>,
}

impl<'a> Slot<'a> {
    /// A slot of an instance like any other.
    pub(crate) fn of(function: &'a Function) -> Self {
        Self {
            function,
            resources: None,
            label: None,
            place: None,
        }
    }

    /// Waits for it. Dropping the future takes the call out of the queue.
    pub(crate) async fn acquire(self, connection: &Connection) -> Result<Lease, Failure> {
        let demand = Demand {
            resources: self.resources,
            label: self.label.clone(),
            place: self.place,
            deadline: Instant::now() + SCHEDULERS_BOUND,
        };
        let mut slot = pin!(self.function.acquire(demand));
        let leased = poll_fn(|cx| match slot.as_mut().poll(cx) {
            Poll::Ready(leased) => Poll::Ready(Some(leased)),
            Poll::Pending if connection.order() >= Order::GiveUp => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        match leased.await {
            Some(Ok(lease)) => Ok(lease),
            Some(Err(error)) => {
                if error == AcquireError::Moved {
                    connection.moved.store(true, Ordering::Relaxed);
                }
                Err(refusal(error, self.function, self.label.as_ref()))
            }
            None => Err(Failure::shutting_down()),
        }
    }
}

/// Why there is no slot.
fn refusal(error: AcquireError, function: &Function, label: Option<&InstanceLabel>) -> Failure {
    match error {
        AcquireError::Disabled => Failure::new(Code::MaxInstancesReached, error.to_string()),
        AcquireError::UnknownLabel => {
            demand::unknown_label(label.map_or("", InstanceLabel::as_str))
        }
        // 429 rather than the table's 500 for the scheduler's code, because nothing is broken:
        // the function gets more calls than it can serve, and the client shall come back.
        AcquireError::QueueFull { .. } => Failure::new(
            Code::SchedulerInternal,
            format!("pending queue full: {error}"),
        )
        .with_status(StatusCode::TOO_MANY_REQUESTS),
        AcquireError::Timeout => Failure::new(Code::AcquireTimeout, error.to_string()),
        AcquireError::Start(error) => error.into(),
        AcquireError::Removed => not_found(&function.spec().id.to_string()),
        AcquireError::Moved => Failure::moved(),
        AcquireError::ShuttingDown => Failure::shutting_down(),
    }
}

impl Prepared {
    /// One event a call, which also calls get whose client has left.
    fn log(&self, ending: &Ending) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let (code, served) = match ending {
            Ending::Answered(_, served) => (0, Some(served)),
            Ending::Failed(failure, served) => (failure.code(), served.as_ref()),
        };
        let id = &self.function.spec().id;
        tracing::debug!(
            request_id = &*self.trace,
            tenant = %id.tenant,
            function = %id.name,
            version = %id.version,
            instance = served.map(|served| tracing::field::display(served.instance)),
            code,
            queued_micros = served.map(|served| served.queued.as_micros()),
            run_micros = served.map(|served| served.run.as_micros()),
            "call ended"
        );
    }

    /// The ending of a call that no instance got.
    pub(crate) fn ended_without_slot(&self, failure: Failure) -> Ending {
        let ending = failure.into();
        self.log(&ending);
        ending
    }
}

/// Sends the call to the instance of `lease` and waits for its end, at most the function's timeout.
///
/// Owns all it needs, so that it can go on without the client. The slot is given back when the
/// instance is done with the call; one that is overdue never is, so its instance is given up.
pub(crate) async fn send(lease: Lease, prepared: Prepared, stream: Option<StreamSink>) -> Attempt {
    let sent = Instant::now();
    let served = Served::of(&lease);
    let limit = lease.spec().timeout;
    if let Some(holder) = &prepared.holder {
        *holder.lock() = Some(Arc::clone(lease.instance()));
    }
    let call = lease.instance().call(prepared.request(limit, stream));
    let ending = match timeout(limit, call).await {
        Ok(Ok(reply)) => Ending::of(reply, served),
        Ok(Err(CallError::NotSent(cause))) => {
            // The scheduler may not have noticed yet, and would hand out the same instance again.
            lease.lost();
            return Attempt::NotSent(cause, prepared);
        }
        Ok(Err(error)) => {
            lease.lost();
            served.failed(error.into(), sent)
        }
        Err(_) => {
            lease.overdue();
            served.failed(Failure::overdue(limit), sent)
        }
    };
    prepared.log(&ending);
    Attempt::Ended(ending)
}

impl Served {
    fn of(lease: &Lease) -> Self {
        let started = lease.cold.map_or(Duration::ZERO, |cold| cold.total);
        Self {
            instance: lease.instance().id(),
            version: lease.spec().id.version.to_string().into(),
            // A call that waited for a start waited for its slot only before that.
            queued: lease.queued.saturating_sub(started),
            start: lease.cold.map(|cold| (cold.total, cold.phases)),
            run: Duration::ZERO,
            peak_memory: 0,
            log_tail: Vec::new(),
        }
    }

    fn failed(self, failure: Failure, sent: Instant) -> Ending {
        let run = sent.elapsed();
        Ending::Failed(failure, Some(Self { run, ..self }))
    }
}

impl Ending {
    fn of(reply: Reply, served: Served) -> Self {
        let served = Served {
            run: reply.run,
            peak_memory: reply.peak_memory,
            log_tail: reply.log_tail,
            ..served
        };
        match reply.body {
            ReplyBody::Json(json) => Self::Answered(Answer::Json(json), served),
            ReplyBody::Http {
                status,
                headers,
                body,
            } => {
                let answer = Answer::Composed {
                    status,
                    headers,
                    body,
                };
                Self::Answered(answer, served)
            }
            ReplyBody::Streamed => Self::Answered(Answer::Streamed, served),
            ReplyBody::Error {
                code,
                message,
                kind,
                trace,
            } => Self::Failed(
                Failure::of_user_code(code, message, kind, trace),
                Some(served),
            ),
        }
    }

    /// The answer as one piece.
    pub(crate) fn into_response(self, trace: &str) -> Response<Payload> {
        match self {
            Self::Answered(Answer::Json(json), served) => answer::result(json, trace, &served),
            Self::Answered(
                Answer::Composed {
                    status,
                    headers,
                    body,
                },
                served,
            ) => answer::composed(status, &headers, body, trace, &served)
                .unwrap_or_else(|failure| answer::failure(&failure, trace, Some(&served))),
            // The client that the events were for has left.
            Self::Answered(Answer::Streamed, served) => {
                answer::result(Bytes::new(), trace, &served)
            }
            Self::Failed(failure, served) => answer::failure(&failure, trace, served.as_ref()),
        }
    }
}

/// A call that was sent. If it is dropped before its end, it goes on by itself.
///
/// Yields none when the connection is told to give up, at the end of a drain.
pub(crate) struct Detaching<'a, F: Future + Send + 'static> {
    running: Option<Pin<Box<F>>>,
    shared: &'a Shared,
    connection: &'a Connection,
}

impl<'a, F: Future + Send + 'static> Detaching<'a, F> {
    pub(crate) fn new(running: F, shared: &'a Shared, connection: &'a Connection) -> Self {
        Self {
            running: Some(Box::pin(running)),
            shared,
            connection,
        }
    }
}

impl<F: Future + Send + 'static> Future for Detaching<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let Some(running) = &mut self.running else {
            return Poll::Ready(None);
        };
        match running.as_mut().poll(cx) {
            Poll::Ready(output) => {
                self.running = None;
                Poll::Ready(Some(output))
            }
            Poll::Pending if self.connection.order() >= Order::GiveUp => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<F: Future + Send + 'static> Drop for Detaching<'_, F> {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        // Outside of a runtime everything ends anyway, the instance included.
        if Handle::try_current().is_ok() {
            self.shared.tasks.spawn(async move {
                running.await;
            });
        }
    }
}
