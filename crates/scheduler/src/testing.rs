//! A driver whose instances are values in memory: they start, answer and die as a test says.

pub mod day;
mod dice;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bugle_instances::{
    BoxFuture, CallError, CallRequest, Driver, Exit, ExitCause, Instance, InstanceId, Reply,
    ReplyBody, StartError, StartPhases, StartRequest, Started,
};
use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) use dice::Dice;

/// What a simulated instance does with a call: how long it takes, and the JSON it answers.
pub type Script = Arc<dyn Fn(&CallRequest) -> (Duration, String) + Send + Sync>;

/// Starts simulated instances.
pub struct SimDriver {
    /// How long a start takes.
    pub start: Duration,
    script: Script,
    failure: Mutex<Option<StartError>>,
    started: AtomicUsize,
    instances: Mutex<Vec<Arc<SimInstance>>>,
}

impl std::fmt::Debug for SimDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDriver")
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

impl SimDriver {
    /// A driver whose starts take `start` and whose instances follow `script`.
    pub fn new(start: Duration, script: Script) -> Arc<Self> {
        Arc::new(Self {
            start,
            script,
            failure: Mutex::new(None),
            started: AtomicUsize::new(0),
            instances: Mutex::new(Vec::new()),
        })
    }

    /// From now on starts fail like this, or succeed again.
    pub fn fail_with(&self, failure: Option<StartError>) {
        *self.failure.lock() = failure;
    }

    /// How many starts were asked for.
    pub fn started(&self) -> usize {
        self.started.load(Ordering::Relaxed)
    }

    /// The instances that live.
    pub fn living(&self) -> Vec<Arc<SimInstance>> {
        let mut instances = self.instances.lock();
        instances.retain(|instance| instance.exit.borrow().is_none());
        instances.clone()
    }
}

impl Driver for SimDriver {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(async move {
            self.started.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(self.start).await;
            if let Some(error) = self.failure.lock().clone() {
                return Err(error);
            }
            let instance = Arc::new(SimInstance {
                id: request.id,
                generation: request.spec.generation.0.to_string(),
                script: Arc::clone(&self.script),
                exit: watch::Sender::new(None),
                running: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
            });
            self.instances.lock().push(Arc::clone(&instance));
            let phases = StartPhases {
                process: self.start,
                ..StartPhases::default()
            };
            Ok(Started { instance, phases })
        })
    }
}

/// A simulated instance.
pub struct SimInstance {
    id: InstanceId,
    /// The generation of the code it was started with.
    pub generation: String,
    script: Script,
    exit: watch::Sender<Option<ExitCause>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl std::fmt::Debug for SimInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimInstance")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SimInstance {
    /// The most calls that ever ran at once.
    pub fn most_at_once(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Ends it as a crash would.
    pub fn crash(&self, cause: ExitCause) {
        self.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert(cause);
            first
        });
    }

    async fn ended(&self) -> ExitCause {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone().unwrap_or(ExitCause::Stopped),
            Err(_) => ExitCause::Stopped,
        }
    }
}

impl Instance for SimInstance {
    fn id(&self) -> InstanceId {
        self.id
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn call(&self, request: CallRequest) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(async move {
            if let Some(cause) = self.exit.borrow().clone() {
                return Err(CallError::NotSent(cause));
            }
            let (run, body) = (self.script)(&request);
            let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(running, Ordering::Relaxed);
            let outcome = tokio::select! {
                cause = self.ended() => Err(CallError::Exited(cause)),
                () = tokio::time::sleep(run) => Ok(Reply {
                    body: ReplyBody::Json(body.into()),
                    run,
                    peak_memory: 0,
                    log_tail: Vec::new(),
                }),
            };
            self.running.fetch_sub(1, Ordering::Relaxed);
            outcome
        })
    }

    fn stop(&self, _grace: Duration) -> BoxFuture<'_, Exit> {
        self.crash(ExitCause::Stopped);
        self.exited()
    }

    fn kill(&self) {
        self.crash(ExitCause::Stopped);
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        Box::pin(async move {
            Exit {
                cause: self.ended().await,
                peak_memory: 0,
            }
        })
    }
}

/// A function specification for tests, with these bounds.
pub fn spec(
    name: &str,
    generation: &str,
    concurrency: u32,
    min: u32,
    max: u32,
) -> bugle_types::FunctionSpec {
    use bugle_types::{
        CodeLocation, FunctionId, FunctionSpec, Generation, Kind, PythonVersion, Resources,
        Runtime, Scale, SealedEnvironment, TenantId, Version,
    };
    FunctionSpec {
        id: FunctionId {
            tenant: TenantId::default(),
            product: None,
            name: name.parse().expect("tests name functions right"),
            version: Version::Draft,
        },
        kind: Kind::Faas,
        generation: Generation(generation.into()),
        runtime: Runtime::Python(PythonVersion(11)),
        handler: "handler.handler".to_owned(),
        initializer: None,
        pre_stop: None,
        timeout: Duration::from_secs(10),
        resources: Resources::default(),
        concurrency: concurrency.try_into().expect("tests give at least one"),
        scale: Scale { min, max },
        labels: Vec::new(),
        idle: None,
        pool: bugle_types::pool::PoolChoice::default(),
        code: CodeLocation::None,
        environment: SealedEnvironment::default(),
    }
}
