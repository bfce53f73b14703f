//! Delivers invocations that nobody waits for.
//!
//! Each is on disk before it is accepted, and written again whenever its progress changes, so that
//! one that the platform did not bring to its end is taken up by the next start. It is delivered at
//! least once: an attempt that the end of the platform cut short counts as one that failed.
//!
//! Where several gateways share the functions, that one delivers which has the function. One that loses
//! it leaves what waits to the next, and brings to its end only what the function has already.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bugle_api::{AsyncConfig, AsyncInvocation, AsyncQuery, Error, EventsApi};
use bugle_gateway::{AcceptEvent, Delivered, Gateway, Refused};
use bugle_registry::{EventSettings, Events, Invocation, Progress};
use bugle_store::Store;
use bugle_types::{Code, FunctionId};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::sharing::{Cancel, Sharing};

/// Invocations that may wait or run; one more is refused.
const MOST: usize = 10_000;

/// Invocations that are offered to functions at once.
const AT_ONCE: usize = 64;

/// The pause before it is seen who has a function that moved.
const MOVING: Duration = Duration::from_millis(50);

/// The first pause after a failure, which doubles, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How long records are kept, and how often those that are older are removed.
const KEPT: Duration = Duration::from_hours(24);
const CLEANING: Duration = Duration::from_mins(10);

/// Who delivers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Deliveries(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    events: Events,
    store: Known,
    gateway: Gateway,
    /// Where the gateway runs.
    runtime: Handle,
    /// Of each invocation that waits or runs, what cancels it.
    open: Mutex<HashMap<(FunctionId, String), CancellationToken>>,
    slots: Semaphore,
    stop: CancellationToken,
    /// Where other gateways have a part of the functions.
    sharing: Option<Sharing>,
}

/// Tells whether a function version is registered.
struct Known(Arc<dyn Store>);

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// The function answered, or the invocation was cancelled.
    Final,
    Failed,
    /// The function is another gateway's, and did not get it.
    Moved,
}

impl Shared {
    /// Cancels an invocation that waits or runs here; whether there is one.
    fn cancel(&self, function: &FunctionId, request: &str) -> bool {
        let key = (function.clone(), request.to_owned());
        let open = self.open.lock().get(&key).cloned();
        open.inspect(CancellationToken::cancel).is_some()
    }
}

impl Deliveries {
    /// Deliveries through `gateway`, until `stop`.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        gateway: Gateway,
        runtime: Handle,
        stop: CancellationToken,
        sharing: Option<Sharing>,
    ) -> Self {
        Self(Arc::new(Shared {
            events: Events::of(Arc::clone(&store)),
            store: Known(store),
            gateway,
            runtime,
            open: Mutex::default(),
            slots: Semaphore::new(AT_ONCE),
            stop,
            sharing,
        }))
    }

    /// How the gateway leaves an invocation here.
    pub(crate) fn accept(&self) -> AcceptEvent {
        let deliveries = self.clone();
        Arc::new(move |function, event, id| {
            let deliveries = deliveries.clone();
            Box::pin(async move { deliveries.take(function, event, &id).await })
        })
    }

    /// How another gateway cancels an invocation here.
    pub(crate) fn cancels(&self) -> Cancel {
        let shared = Arc::clone(&self.0);
        Box::new(move |function, request| shared.cancel(function, request))
    }

    /// Takes up what an earlier run of the platform left, and removes old records from time to time.
    pub(crate) async fn run(self) {
        let mut cleaning = tokio::time::interval(CLEANING);
        cleaning.reset();
        let mut changes = self.0.sharing.as_ref().map(Sharing::changes);
        loop {
            self.look().await;
            let events = async {
                match (&self.0.sharing, &mut changes) {
                    (Some(sharing), Some(changes)) => sharing.events(changes).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.0.stop.cancelled() => return,
                () = events => {}
                _ = cleaning.tick() => self.clean().await,
            }
        }
    }

    /// Takes up what nobody is about to deliver.
    async fn look(&self) {
        match self.0.events.all().await {
            Ok(left) => self.take_up(left),
            Err(error) => {
                tracing::error!(
                    error = bugle_types::report(&error),
                    "invocations cannot be read"
                );
            }
        }
    }

    /// Whether it is for this gateway to deliver.
    fn is_mine(&self, function: &FunctionId, invocation: &Invocation) -> bool {
        let key = (function.clone(), invocation.request_id.clone());
        if self.0.open.lock().contains_key(&key) {
            return false;
        }
        let Some(sharing) = &self.0.sharing else {
            return true;
        };
        // What another one has sent to the function it brings to its end.
        let runs = invocation.progress == Progress::Running;
        let runner = invocation.runner.as_deref().filter(|_| runs);
        sharing.has(function) && !runner.is_some_and(|runner| sharing.is_another(runner))
    }

    fn take_up(&self, left: Vec<Invocation>) {
        for mut invocation in left {
            let Some(function) = invocation
                .function()
                .filter(|_| !invocation.progress.is_final())
            else {
                continue;
            };
            if !self.is_mine(&function, &invocation) {
                continue;
            }
            if invocation.progress == Progress::Running {
                invocation.attempts += 1;
                "the platform ended meanwhile".clone_into(&mut invocation.error_message);
                invocation.error_code = Code::InstanceExited.number();
            }
            self.begin(function, invocation);
        }
    }

    async fn clean(&self) {
        let oldest = now() - millis(KEPT);
        let Ok(all) = self.0.events.all().await else {
            // It is tried again, and the store has said what is wrong.
            return;
        };
        for invocation in all {
            if invocation.ended.is_some_and(|ended| ended < oldest) {
                self.told(self.0.events.remove(&invocation).await);
            }
        }
    }

    async fn take(&self, function: FunctionId, event: Bytes, id: &str) -> Result<(), Refused> {
        if self.0.open.lock().len() >= MOST {
            return Err(Refused::Full(MOST));
        }
        let broken = |error: String| Refused::Broken(error);
        let event: Box<RawValue> =
            serde_json::from_slice(&event).map_err(|error| broken(error.to_string()))?;
        let invocation = Invocation::new(&function, id, event, now());
        let added = self.0.events.add(&invocation).await;
        // One of the same id is the same one, sent again.
        if added.map_err(|error| broken(bugle_types::report(&error)))? {
            self.begin(function, invocation);
        }
        Ok(())
    }

    fn begin(&self, function: FunctionId, invocation: Invocation) {
        let cancel = CancellationToken::new();
        let key = (function, invocation.request_id.clone());
        self.0.open.lock().insert(key.clone(), cancel.clone());
        let deliveries = self.clone();
        self.0.runtime.spawn(async move {
            deliveries.deliver(&key.0, invocation, &cancel).await;
            deliveries.0.open.lock().remove(&key);
        });
    }

    /// Brings an invocation to its end, or to the platform's.
    async fn deliver(
        &self,
        function: &FunctionId,
        mut invocation: Invocation,
        cancel: &CancellationToken,
    ) {
        loop {
            let settings = self.settings_of(function).await;
            let pause = match next(&invocation, settings, cancel.is_cancelled()) {
                Err(end) => return self.end(invocation, end, settings).await,
                Ok(pause) => pause,
            };
            let waited = async {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => {}
                    () = sleep(pause) => {}
                }
                self.0.slots.acquire().await
            };
            let Some(slot) = self.0.stop.run_until_cancelled(waited).await else {
                return;
            };
            if cancel.is_cancelled() {
                continue;
            }
            if let Some(sharing) = self.0.sharing.as_ref().filter(|s| !s.has(function)) {
                drop(slot);
                return sharing.leave_events(function);
            }
            let attempt = self.attempt(function, &mut invocation, cancel).await;
            drop(slot);
            if attempt == Attempt::Moved {
                sleep(MOVING).await;
                continue;
            }
            if invocation.error_code == 0 {
                return self.end(invocation, Progress::Success, settings).await;
            }
            if self.0.stop.is_cancelled() {
                // The platform's end is no mistake of the function's: the next start goes on.
                return;
            }
            if attempt == Attempt::Final {
                return self.end(invocation, Progress::Discard, settings).await;
            }
        }
    }

    async fn attempt(
        &self,
        function: &FunctionId,
        invocation: &mut Invocation,
        cancel: &CancellationToken,
    ) -> Attempt {
        invocation.progress = Progress::Running;
        invocation.runner = self.0.sharing.as_ref().and_then(Sharing::name);
        invocation.started.get_or_insert_with(now);
        self.told(self.0.events.put(invocation).await);
        let event = invocation.event.as_deref().map_or("{}", RawValue::get);
        let event = Bytes::copy_from_slice(event.as_bytes());
        let id: Arc<str> = invocation.request_id.as_str().into();
        let delivered = self.0.gateway.deliver(function, event, id, cancel.clone());
        let Delivered {
            code,
            message,
            moved,
        } = delivered.await;
        if moved {
            invocation.progress = Progress::Wait;
            self.told(self.0.events.put(invocation).await);
            return Attempt::Moved;
        }
        (invocation.error_code, invocation.error_message) = (code, message);
        if code == 0 || cancel.is_cancelled() {
            return Attempt::Final;
        }
        invocation.attempts += 1;
        invocation.progress = Progress::Wait;
        if !self.0.stop.is_cancelled() {
            self.told(self.0.events.put(invocation).await);
        }
        Attempt::Failed
    }

    async fn end(&self, mut invocation: Invocation, end: Progress, settings: EventSettings) {
        if !settings.keeps_records {
            return self.told(self.0.events.remove(&invocation).await);
        }
        invocation.progress = end;
        invocation.ended = Some(now());
        invocation.event = None;
        self.told(self.0.events.put(&invocation).await);
    }

    async fn settings_of(&self, function: &FunctionId) -> EventSettings {
        match self.0.events.settings(function).await {
            Ok(settings) => settings.unwrap_or_default(),
            Err(error) => {
                self.told(Err(error));
                EventSettings::default()
            }
        }
    }

    /// An invocation whose progress cannot be written goes on, and may be delivered again.
    #[expect(clippy::unused_self, reason = "reads as what it is at its callers")]
    fn told(&self, written: Result<(), bugle_store::Error>) {
        if let Err(error) = written {
            let error = bugle_types::report(&error);
            tracing::error!(error, "the progress of an invocation cannot be written");
        }
    }

    async fn registered(&self, function: &FunctionId) -> Result<(), Error> {
        match bugle_registry::is_published(&*self.0.store.0, function).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::function_not_found(function.name.short())),
            Err(error) => Err(unreadable(&error)),
        }
    }
}

/// The pause before the next attempt, or how the invocation ends instead.
fn next(
    invocation: &Invocation,
    settings: EventSettings,
    is_cancelled: bool,
) -> Result<Duration, Progress> {
    let age = now() - invocation.created;
    if is_cancelled || age > i64::from(settings.longest_age) * 1000 {
        return Err(Progress::Discard);
    }
    if invocation.attempts > settings.retries {
        return Err(Progress::Fail);
    }
    Ok(match invocation.attempts.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => (FIRST_PAUSE * 2_u32.pow(doublings.min(10))).min(LONGEST_PAUSE),
    })
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn unreadable(error: &bugle_store::Error) -> Error {
    let error = bugle_types::report(error);
    tracing::error!(error, "invocations cannot be read or written");
    Error::other(Code::EtcdError, "etcd internal error")
}

fn shown_time(millis: Option<i64>) -> String {
    let time = millis.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    time.map_or_else(String::new, |time| {
        time.strftime("%Y-%m-%dT%H:%M:%S").to_string()
    })
}

fn shown_progress(progress: Progress) -> &'static str {
    match progress {
        Progress::Wait => "WAIT",
        Progress::Running => "RUNNING",
        Progress::Success => "SUCCESS",
        Progress::Fail => "FAIL",
        Progress::Discard => "DISCARD",
    }
}

impl EventsApi for Deliveries {
    async fn settings(&self, function: &FunctionId) -> Result<Option<AsyncConfig>, Error> {
        self.registered(function).await?;
        let found = self.0.events.settings(function).await;
        Ok(found
            .map_err(|error| unreadable(&error))?
            .map(|settings| AsyncConfig {
                max_async_event_age_in_seconds: settings.longest_age,
                max_async_retry_attempts: settings.retries,
                enable_async_status_log: settings.keeps_records,
                destination_config: None,
            }))
    }

    async fn set(&self, function: &FunctionId, config: Option<AsyncConfig>) -> Result<(), Error> {
        self.registered(function).await?;
        let settings = config.map(|config| EventSettings {
            retries: config.max_async_retry_attempts,
            longest_age: config.max_async_event_age_in_seconds,
            keeps_records: config.enable_async_status_log,
        });
        let set = self.0.events.set(function, settings).await;
        set.map_err(|error| unreadable(&error))
    }

    async fn invocations(
        &self,
        function: &FunctionId,
        query: AsyncQuery,
    ) -> Result<Vec<AsyncInvocation>, Error> {
        self.registered(function).await?;
        let found = self.0.events.of_function(function).await;
        let mut found = found.map_err(|error| unreadable(&error))?;
        found.sort_by_key(|invocation| std::cmp::Reverse(invocation.created));
        let is_wanted = |invocation: &Invocation| {
            let has_id = |id: &String| *id == invocation.request_id;
            let has_status =
                |status: &String| status.eq_ignore_ascii_case(shown_progress(invocation.progress));
            query.request_id.as_ref().is_none_or(has_id)
                && query.status.as_ref().is_none_or(has_status)
                && query.since.is_none_or(|since| invocation.created >= since)
                && query.until.is_none_or(|until| invocation.created <= until)
        };
        let shown = found
            .into_iter()
            .filter(is_wanted)
            .map(|invocation| AsyncInvocation {
                status: shown_progress(invocation.progress).to_owned(),
                error_code: invocation.error_code,
                start_time: shown_time(invocation.started),
                end_time: shown_time(invocation.ended),
                request_id: invocation.request_id,
                error_message: invocation.error_message,
            });
        Ok(shown.collect())
    }

    async fn cancel(&self, function: &FunctionId, request_id: &str) -> Result<bool, Error> {
        self.registered(function).await?;
        if self.0.cancel(function, request_id) {
            return Ok(true);
        }
        Ok(match &self.0.sharing {
            Some(sharing) => sharing.cancel(function, request_id).await,
            None => false,
        })
    }
}
