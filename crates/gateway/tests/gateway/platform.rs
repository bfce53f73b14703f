//! A gateway with a scheduler, and instances whose calls do what the test's script says.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bugle_gateway::{Config, Gateway, Load, Metrics};
use bugle_instances::{
    BoxFuture, CallError, CallRequest, Driver, Exit, ExitCause, Instance, InstanceId, Reply,
    ReplyBody, StartError, StartPhases, StartRequest, Started,
};
use bugle_scheduler::Scheduler;
use bugle_types::{
    CodeLocation, CpuMillis, FunctionId, FunctionSpec, Generation, Kind, MemoryMib, PythonVersion,
    Resources, Runtime, Scale, SealedEnvironment, TenantId, Version,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::client::Client;

pub(crate) type Outcome = Result<Reply, CallError>;

/// What a call does.
pub(crate) type Script = Arc<dyn Fn(CallRequest) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// Makes a script of an async closure.
pub(crate) fn script<F>(run: impl Fn(CallRequest) -> F + Send + Sync + 'static) -> Script
where
    F: Future<Output = Outcome> + Send + 'static,
{
    Arc::new(move |request| Box::pin(run(request)))
}

/// A script whose every call answers at once.
pub(crate) fn answering(reply: impl Fn() -> ReplyBody + Send + Sync + 'static) -> Script {
    script(move |_| {
        let body = reply();
        async move { replied(body) }
    })
}

pub(crate) fn json(text: &'static str) -> ReplyBody {
    ReplyBody::Json(text.into())
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a script returns")]
pub(crate) fn replied(body: ReplyBody) -> Outcome {
    Ok(Reply {
        body,
        run: Duration::from_micros(3214),
        peak_memory: 9 << 20,
        log_tail: b"hello log\n".to_vec(),
    })
}

pub(crate) struct Platform {
    pub(crate) address: SocketAddr,
    pub(crate) scheduler: Scheduler,
    pub(crate) running: Arc<Running>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) gateway: JoinHandle<()>,
}

/// How many calls instances have now, ever had, and had at once.
pub(crate) struct Running {
    now: watch::Sender<usize>,
    ever: AtomicUsize,
    most: AtomicUsize,
}

impl Running {
    pub(crate) fn ever(&self) -> usize {
        self.ever.load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    pub(crate) fn now(&self) -> usize {
        *self.now.borrow()
    }

    /// Waits until instances have exactly this many calls.
    pub(crate) async fn becomes(&self, calls: usize) {
        let mut now = self.now.subscribe();
        let reached = timeout(Duration::from_secs(20), now.wait_for(|now| *now == calls)).await;
        assert!(reached.is_ok(), "{} calls run, not {calls}", self.now());
    }
}

/// Counts a call for as long as it runs.
struct Counted(Arc<Running>);

impl Counted {
    fn new(running: &Arc<Running>) -> Self {
        running.ever.fetch_add(1, Ordering::SeqCst);
        running.now.send_modify(|now| *now += 1);
        running.most.fetch_max(running.now(), Ordering::SeqCst);
        Self(Arc::clone(running))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.now.send_modify(|now| *now -= 1);
    }
}

impl Platform {
    /// The default configuration, one function with one instance of one slot.
    pub(crate) async fn start(script: Script) -> Self {
        Self::with(Config::default(), script, [spec()]).await
    }

    pub(crate) async fn with(
        config: Config,
        script: Script,
        functions: impl IntoIterator<Item = FunctionSpec>,
    ) -> Self {
        let driver = ScriptedDriver::new(script);
        Self::over(config, driver, functions, Arc::new(|_| Box::pin(async {}))).await
    }

    pub(crate) async fn over(
        config: Config,
        driver: ScriptedDriver,
        functions: impl IntoIterator<Item = FunctionSpec>,
        load: Load,
    ) -> Self {
        let running = Arc::clone(&driver.running);
        let scheduler = scheduler(driver);
        for function in functions {
            scheduler.upsert(function);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let metrics = Metrics::register(&mut Registry::default());
        let gateway = Gateway::new(config, scheduler.clone(), metrics, load);
        Self {
            address,
            scheduler,
            running,
            shutdown: shutdown.clone(),
            gateway: tokio::spawn(gateway.run(vec![listener], shutdown)),
        }
    }

    /// How many calls of the function had each outcome, of those that had any.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        let function = self.scheduler.find(&id()).unwrap();
        let counts = function.calls().counts().into_iter();
        counts.filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }
}

fn scheduler(driver: ScriptedDriver) -> Scheduler {
    let config = bugle_scheduler::Config::default();
    Scheduler::new(
        config,
        Arc::new(driver),
        bugle_scheduler::Metrics::default(),
    )
}

pub(crate) fn id() -> FunctionId {
    FunctionId {
        tenant: TenantId::default(),
        product: None,
        name: "0@svc@hello".parse().unwrap(),
        version: Version::Draft,
    }
}

pub(crate) fn spec() -> FunctionSpec {
    FunctionSpec {
        id: id(),
        kind: Kind::Faas,
        generation: Generation("1".into()),
        runtime: Runtime::Python(PythonVersion(11)),
        handler: "main.handler".to_owned(),
        initializer: None,
        pre_stop: None,
        timeout: Duration::from_secs(30),
        resources: Resources {
            cpu: CpuMillis(500),
            memory: MemoryMib(128),
            custom: Vec::new(),
        },
        concurrency: NonZeroU32::MIN,
        scale: Scale { min: 0, max: 1 },
        labels: Vec::new(),
        idle: None,
        pool: bugle_types::pool::PoolChoice::default(),
        code: CodeLocation::None,
        environment: SealedEnvironment::default(),
    }
}

/// Starts instances that follow the script.
pub(crate) struct ScriptedDriver {
    script: Script,
    running: Arc<Running>,
    /// Why starts fail; none when they succeed.
    pub(crate) start_error: Option<StartError>,
}

impl ScriptedDriver {
    pub(crate) fn new(script: Script) -> Self {
        let running = Running {
            now: watch::Sender::new(0),
            ever: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        };
        Self {
            script,
            running: Arc::new(running),
            start_error: None,
        }
    }
}

impl Driver for ScriptedDriver {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        let instance = ScriptedInstance {
            id: request.id,
            script: Arc::clone(&self.script),
            running: Arc::clone(&self.running),
            end: CancellationToken::new(),
        };
        let started = match &self.start_error {
            Some(error) => Err(error.clone()),
            None => Ok(Started {
                instance: Arc::new(instance),
                phases: StartPhases {
                    init: Duration::from_micros(1500),
                    ..StartPhases::default()
                },
            }),
        };
        Box::pin(async { started })
    }
}

struct ScriptedInstance {
    id: InstanceId,
    script: Script,
    running: Arc<Running>,
    end: CancellationToken,
}

impl fmt::Debug for ScriptedInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScriptedInstance({})", self.id)
    }
}

impl Instance for ScriptedInstance {
    fn id(&self) -> InstanceId {
        self.id
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn call(&self, request: CallRequest) -> BoxFuture<'_, Outcome> {
        let call = (self.script)(request);
        let counted = Counted::new(&self.running);
        Box::pin(async move {
            let _counted = counted;
            call.await
        })
    }

    fn stop(&self, _grace: Duration) -> BoxFuture<'_, Exit> {
        self.end.cancel();
        self.exited()
    }

    fn kill(&self) {
        self.end.cancel();
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        Box::pin(async {
            self.end.cancelled().await;
            Exit {
                cause: ExitCause::Stopped,
                peak_memory: 0,
            }
        })
    }
}
