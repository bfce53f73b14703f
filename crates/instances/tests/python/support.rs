//! A machine with one Python interpreter, and functions that are written in the test.

use std::collections::BTreeMap;
use std::future::Future;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bugle_artifacts::{CodeRoots, Foundation, Packages};
use bugle_instances::{
    CallError, CallRequest, Config, Confinement, ConfinementConfig, Driver, Instance, InstanceId,
    Interpreter, LogLine, LogSink, ProgramConfig, ProgramDependencies, ProgramDriver,
    PythonDependencies, PythonDriver, Reply, ReplyBody, StartError, StartPhases, StartRequest,
    Surroundings,
};
use bugle_types::{
    CodeLocation, CpuMillis, FunctionId, FunctionSpec, FunctionUrn, Generation, Hook, Kind,
    MemoryMib, Resources, Runtime, Scale, SealedEnvironment,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// No test may take longer than this on one interpreter.
const LIMIT: Duration = Duration::from_mins(1);

/// The interpreters of the machine, of which there has to be one.
pub(crate) fn interpreters() -> Vec<Interpreter> {
    let mut found = PythonDriver::discover(&Config::default());
    let all = format!("{found:?}");
    found.retain(|one| one.problem.is_none());
    assert!(
        !found.is_empty(),
        "no usable python3.6 to python3.13 on this machine: {all}"
    );
    found
}

/// Runs `test` on the oldest and the newest interpreter; enough where they do not differ.
pub(crate) fn on_old_and_new<F, T>(test: T)
where
    F: Future<Output = ()>,
    T: Fn(Machine) -> F,
{
    let mut found = interpreters();
    if found.len() > 2 {
        found.drain(1..found.len() - 1);
    }
    on(&found, test);
}

/// Runs `test` once for every interpreter.
pub(crate) fn on_every_interpreter<F, T>(test: T)
where
    F: Future<Output = ()>,
    T: Fn(Machine) -> F,
{
    on(&interpreters(), test);
}

fn on<F, T>(interpreters: &[Interpreter], test: T)
where
    F: Future<Output = ()>,
    T: Fn(Machine) -> F,
{
    for interpreter in interpreters {
        eprintln!("on Python {}", interpreter.full_version);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let machine = Machine::new(Runtime::Python(interpreter.version));
            tokio::time::timeout(LIMIT, test(machine))
                .await
                .unwrap_or_else(|_| panic!("takes too long on {}", interpreter.full_version));
        });
    }
}

/// The lines of functions, in order.
#[derive(Default)]
pub(crate) struct Log {
    lines: Mutex<Vec<LogLine>>,
    arrived: Notify,
}

impl LogSink for Log {
    fn line(&self, line: LogLine) {
        self.lines.lock().push(line);
        self.arrived.notify_waiters();
    }
}

impl Log {
    pub(crate) fn lines(&self) -> Vec<LogLine> {
        self.lines.lock().clone()
    }

    /// The first line whose text holds `text`, waiting for it.
    pub(crate) async fn line(&self, text: &str) -> LogLine {
        loop {
            let arrived = self.arrived.notified();
            let found = self
                .lines()
                .into_iter()
                .find(|line| line.text.contains(text));
            match found {
                Some(line) => return line,
                None => arrived.await,
            }
        }
    }
}

/// A driver with one interpreter, and a directory for code.
pub(crate) struct Machine {
    pub(crate) driver: PythonDriver,
    pub(crate) log: Arc<Log>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runtime: Runtime,
    functions: AtomicU32,
}

/// A function that is about to be started.
#[derive(Clone)]
pub(crate) struct Function<'a> {
    machine: &'a Machine,
    pub(crate) spec: FunctionSpec,
}

/// A started instance.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) instance: Arc<dyn Instance>,
    pub(crate) phases: StartPhases,
}

fn packages(dir: &tempfile::TempDir) -> Packages {
    let foundation = Foundation {
        roots: CodeRoots::new(&[dir.path().to_owned()]).unwrap(),
        cache: dir.path().join("cache"),
        uploads: dir.path().join("uploads"),
        addresses: bugle_artifacts::address::Config::default(),
        environment: Vec::new(),
    };
    Packages::open(bugle_artifacts::Config::default(), foundation).unwrap()
}

impl Machine {
    pub(crate) fn new(runtime: Runtime) -> Self {
        Self::confined(runtime, ConfinementConfig::default())
    }

    pub(crate) fn confined(runtime: Runtime, confinement: ConfinementConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::configured(runtime, dir, confinement, Config::default())
    }

    /// One like this whose operator provides packages: these files.
    pub(crate) fn with_packages(&self, files: &[(&str, &str)], config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let packages = dir.path().join("packages");
        std::fs::create_dir(&packages).unwrap();
        for (name, text) in files {
            let path = packages.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let config = Config {
            packages: vec![packages],
            ..config
        };
        let confinement = ConfinementConfig::default();
        Self::configured(self.runtime.clone(), dir, confinement, config)
    }

    fn configured(
        runtime: Runtime,
        dir: tempfile::TempDir,
        confinement: ConfinementConfig,
        config: Config,
    ) -> Self {
        let log = Arc::new(Log::default());
        let surroundings = Surroundings {
            folder: dir.path().join("run"),
            code: vec![dir.path().to_owned()],
            ..Surroundings::default()
        };
        let dependencies = PythonDependencies {
            packages: packages(&dir),
            logs: Arc::clone(&log) as Arc<dyn LogSink>,
            open_environment: Arc::new(|_, sealed| {
                let pairs = sealed.0.lines().filter_map(|line| line.split_once('='));
                let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
                Ok(pairs.collect::<BTreeMap<_, _>>())
            }),
            runtime_dir: dir.path().join("run"),
            confinement: Arc::new(Confinement::new(confinement, surroundings).unwrap()),
        };
        let driver = PythonDriver::new(config, dependencies).unwrap();
        Self {
            driver,
            log,
            dir,
            runtime,
            functions: AtomicU32::new(0),
        }
    }

    /// Programs become what they are through the platform's own binary, which a test here is not.
    fn unconfined() -> Arc<Confinement> {
        let config = ConfinementConfig {
            enabled: false,
            ..ConfinementConfig::default()
        };
        Arc::new(Confinement::new(config, Surroundings::default()).unwrap())
    }

    /// A driver for the other runtimes.
    pub(crate) fn programs(&self) -> ProgramDriver {
        let dependencies = ProgramDependencies {
            packages: packages(&self.dir),
            logs: Arc::clone(&self.log) as Arc<dyn LogSink>,
            open_environment: Arc::new(|_, _| Ok(BTreeMap::new())),
            confinement: Self::unconfined(),
        };
        ProgramDriver::new(ProgramConfig::default(), dependencies)
    }

    /// A function whose module `main` has the given source.
    pub(crate) fn function(&self, source: &str) -> Function<'_> {
        let number = self.functions.fetch_add(1, Ordering::Relaxed);
        let code = self.dir.path().join(format!("function{number}"));
        std::fs::create_dir_all(&code).unwrap();
        std::fs::write(code.join("main.py"), source).unwrap();
        let urn: FunctionUrn = "sn:cn:yrk:default:function:0@svc@hello".parse().unwrap();
        let spec = FunctionSpec {
            id: FunctionId::from_urn(urn),
            kind: Kind::Faas,
            generation: Generation("1".into()),
            runtime: self.runtime.clone(),
            handler: "main.handler".to_owned(),
            initializer: None,
            pre_stop: None,
            timeout: Duration::from_secs(30),
            resources: Resources {
                cpu: CpuMillis(500),
                memory: MemoryMib(512),
                custom: Vec::new(),
            },
            concurrency: NonZeroU32::new(100).unwrap(),
            scale: Scale { min: 0, max: 10 },
            labels: Vec::new(),
            idle: None,
            pool: bugle_types::pool::PoolChoice::default(),
            code: CodeLocation::Local(code.to_str().unwrap().to_owned()),
            environment: SealedEnvironment::default(),
        };
        Function {
            machine: self,
            spec,
        }
    }

    /// Starts a function whose module `main` has the given source.
    pub(crate) async fn start(&self, source: &str) -> Result<Running, StartError> {
        self.function(source).start().await
    }
}

impl Function<'_> {
    /// Where its code is.
    pub(crate) fn code(&self) -> PathBuf {
        match &self.spec.code {
            CodeLocation::Local(path) => path.into(),
            other => panic!("{other:?}"),
        }
    }

    /// Adds another file to its code.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        let path = self.code().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn handler(mut self, handler: &str) -> Self {
        handler.clone_into(&mut self.spec.handler);
        self
    }

    pub(crate) fn initializer(mut self, handler: &str, timeout: Duration) -> Self {
        self.spec.initializer = Some(Hook {
            handler: handler.to_owned(),
            timeout,
        });
        self
    }

    pub(crate) fn pre_stop(mut self, handler: &str, timeout: Duration) -> Self {
        self.spec.pre_stop = Some(Hook {
            handler: handler.to_owned(),
            timeout,
        });
        self
    }

    /// Variables, one `name=value` a line.
    pub(crate) fn environment(mut self, lines: &str) -> Self {
        self.spec.environment = SealedEnvironment(lines.to_owned());
        self
    }

    pub(crate) async fn start(self) -> Result<Running, StartError> {
        let request = StartRequest {
            id: InstanceId(u128::from(self.machine.functions.load(Ordering::Relaxed)) << 64 | 7),
            resources: self.spec.resources.clone(),
            spec: Arc::new(self.spec),
            label: None,
        };
        let started = Driver::start(&self.machine.driver, request).await?;
        Ok(Running {
            instance: started.instance,
            phases: started.phases,
        })
    }
}

/// A request with a JSON body.
pub(crate) fn request(body: &[u8]) -> CallRequest {
    CallRequest {
        request: "the-request".into(),
        body: Bytes::copy_from_slice(body),
        meta: Bytes::new(),
        json: true,
        timeout: Duration::from_secs(30),
        stream: None,
    }
}

impl Running {
    pub(crate) async fn call(&self, body: &[u8]) -> Result<Reply, CallError> {
        self.instance.call(request(body)).await
    }

    /// The answer to a call that has to succeed, as text.
    pub(crate) async fn answer(&self, body: &str) -> String {
        json(&self.call(body.as_bytes()).await.unwrap())
    }

    /// The same with an event of its own, for calls at the same time.
    pub(crate) async fn call_owned(&self, body: String) -> String {
        self.answer(&body).await
    }

    /// Code, message, type and stack trace of a call that has to fail.
    pub(crate) async fn failure(&self, body: &str) -> (u32, String, String, String) {
        match self.call(body.as_bytes()).await.unwrap().body {
            ReplyBody::Error {
                code,
                message,
                kind,
                trace,
            } => (
                code,
                message,
                kind.unwrap_or_default(),
                trace.unwrap_or_default(),
            ),
            other => panic!("{other:?}"),
        }
    }
}

/// The JSON text of a reply.
pub(crate) fn json(reply: &Reply) -> String {
    match &reply.body {
        ReplyBody::Json(body) => String::from_utf8(body.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}
