//! A machine that runs containers, and images made of directories.

use std::collections::BTreeMap;
use std::future::Future;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bugle_artifacts::address;
use bugle_instances::{
    BoxFuture, CallError, CallRequest, Confinement, ConfinementConfig, ContainerConfig,
    ContainerDependencies, ContainerDriver, ContainerRuntime, Driver, ImageConfig, Images,
    Instance, InstanceId, LogLine, LogSink, ReplyBody, Rootfs, StartError, StartRequest,
    Surroundings,
};
use bugle_types::{
    CodeLocation, ContainerNetwork, ContainerSpec, CpuMillis, FunctionId, FunctionSpec,
    FunctionUrn, Generation, ImageRuntime, Initialization, Kind, MemoryMib, Resources, Runtime,
    Scale, SealedEnvironment,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// No test may take longer than this with one runtime.
const LIMIT: Duration = Duration::from_mins(1);

/// Runs `test` with the platform's own containers and with those of every runtime of this machine.
pub(crate) fn on_every_runtime<F, T>(test: T)
where
    F: Future<Output = ()>,
    T: Fn(Machine) -> F,
{
    on_every_runtime_with(&|_| {}, test);
}

/// The same with a change of the configuration.
pub(crate) fn on_every_runtime_with<F, T>(change: &dyn Fn(&mut ContainerConfig), test: T)
where
    F: Future<Output = ()>,
    T: Fn(Machine) -> F,
{
    on_all(change, &address::Config::default(), &test);
}

/// The same with these addresses to reach.
pub(crate) fn on_every_runtime_at<F, T>(outside: &address::Config, test: T)
where
    F: Future<Output = ()>,
    T: Fn(Machine) -> F,
{
    on_all(&|_| {}, outside, &test);
}

fn on_all<F, T>(change: &dyn Fn(&mut ContainerConfig), outside: &address::Config, test: &T)
where
    F: Future<Output = ()>,
    T: Fn(Machine) -> F,
{
    for (runtime, command) in [
        (ContainerRuntime::Native, "native"),
        (ContainerRuntime::Oci, "runc"),
        (ContainerRuntime::Oci, "crun"),
    ] {
        if runtime == ContainerRuntime::Oci && found(command).is_none() {
            eprintln!("skipped with {command}: it is not installed");
            continue;
        }
        eprintln!("with {command}");
        let mut config = ContainerConfig {
            runtime,
            oci_command: found(command).unwrap_or_default(),
            ..ContainerConfig::default()
        };
        change(&mut config);
        run(config, outside, test);
    }
}

/// Runs `test` with the platform's own containers.
pub(crate) fn natively<F, T>(test: T)
where
    F: Future<Output = ()>,
    T: Fn(Machine) -> F,
{
    run(
        ContainerConfig::default(),
        &address::Config::default(),
        &test,
    );
}

/// Runs `test` with this configuration.
pub(crate) fn run<F, T>(config: ContainerConfig, outside: &address::Config, test: &T)
where
    F: Future<Output = ()>,
    T: Fn(Machine) -> F,
{
    assert!(
        rustix::process::geteuid().is_root(),
        "containers are made by root; run the tests as root"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let machine = Machine::new(config, outside);
        tokio::time::timeout(LIMIT, test(machine))
            .await
            .expect("the test takes too long");
    });
}

fn found(command: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .map(|folder| Path::new(folder).join(command))
        .find(|path| path.is_file())
}

/// What becomes a container: an example of this crate, which cargo builds with its tests.
fn cell() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let target = this.parent().and_then(Path::parent).unwrap();
    let cell = target.join("examples/cell");
    assert!(
        cell.is_file(),
        "{} is missing: build the examples",
        cell.display()
    );
    cell
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
    pub(crate) fn texts(&self) -> Vec<String> {
        self.lines
            .lock()
            .iter()
            .map(|line| line.text.clone())
            .collect()
    }

    /// The first line whose text holds `text`, waiting for it.
    pub(crate) async fn line(&self, text: &str) -> LogLine {
        loop {
            let arrived = self.arrived.notified();
            let found = self
                .lines
                .lock()
                .iter()
                .find(|line| line.text.contains(text))
                .cloned();
            match found {
                Some(line) => return line,
                None => arrived.await,
            }
        }
    }
}

/// Directories that are images.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<String, Rootfs>>);

impl Images for Shelf {
    fn ready<'a>(&'a self, spec: &'a ContainerSpec) -> BoxFuture<'a, Result<Rootfs, StartError>> {
        let found = self.0.lock().get(&spec.image).cloned();
        Box::pin(async move { Ok(found.unwrap()) })
    }
}

/// A driver, and the images that it knows.
pub(crate) struct Machine {
    pub(crate) driver: ContainerDriver,
    pub(crate) log: Arc<Log>,
    pub(crate) folder: Arc<tempfile::TempDir>,
    shelf: Arc<Shelf>,
    next: AtomicU32,
    /// The command that makes the containers, where the platform does not.
    command: Option<PathBuf>,
}

/// What a test changes of a function.
pub(crate) struct Wanted {
    pub(crate) memory: u64,
    pub(crate) initializer: Option<Duration>,
    pub(crate) pre_stop: Option<Duration>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) spec: ContainerSpec,
}

impl Wanted {
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// A function of the image that has the server and a shell.
pub(crate) fn wanted() -> Wanted {
    Wanted {
        memory: 128,
        initializer: None,
        pre_stop: None,
        environment: BTreeMap::new(),
        spec: ContainerSpec {
            image: "usual".to_owned(),
            digest: None,
            command: Vec::new(),
            args: Vec::new(),
            working_dir: None,
            uid: 1003,
            gid: 1003,
            initialization: Initialization::Auto,
            network: ContainerNetwork::None,
            health: None,
            shutdown: None,
            disk_mib: 512,
            mounts: Vec::new(),
        },
    }
}

impl Machine {
    pub(crate) fn new(config: ContainerConfig, outside: &address::Config) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let log = Arc::new(Log::default());
        let shelf = Arc::new(Shelf::default());
        let confinement = ConfinementConfig::default();
        let confinement = Confinement::new(confinement, Surroundings::default()).unwrap();
        let dependencies = ContainerDependencies {
            images: Arc::clone(&shelf) as _,
            logs: Arc::clone(&log) as _,
            open_environment: Arc::new(|_, sealed| {
                serde_json::from_str(&sealed.0).map_err(|error| error.to_string())
            }),
            confinement: Arc::new(confinement),
            outside: address::Policy::new(outside).unwrap(),
            folder: folder.path().join("containers"),
            cell: cell(),
        };
        let machine = Self {
            command: (config.runtime == ContainerRuntime::Oci).then(|| config.oci_command.clone()),
            driver: ContainerDriver::new(config, dependencies),
            log,
            folder,
            shelf,
            next: AtomicU32::new(1),
        };
        machine.shelve("usual", &[usual()], |_| {});
        machine
    }

    /// Whether containers are made by the command of this name.
    pub(crate) fn is_made_by(&self, command: &str) -> bool {
        matches!(&self.command, Some(path) if path.ends_with(command))
    }

    /// Adds an image.
    pub(crate) fn shelve(
        &self,
        name: &str,
        layers: &[PathBuf],
        change: impl FnOnce(&mut ImageConfig),
    ) {
        let mut config = ImageConfig {
            entrypoint: vec!["/server".to_owned()],
            ..ImageConfig::default()
        };
        change(&mut config);
        let rootfs = Rootfs {
            layers: layers.to_owned(),
            config,
            hold: Arc::new(()),
        };
        self.shelf.0.lock().insert(name.to_owned(), rootfs);
    }

    /// A directory that becomes a layer.
    pub(crate) fn layer(&self, name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
        let layer = self.folder.path().join(name);
        std::fs::create_dir_all(&layer).unwrap();
        fill(&layer);
        layer
    }

    pub(crate) fn request(&self, wanted: Wanted) -> StartRequest {
        let urn: FunctionUrn = "sn:cn:yrk:tenant-1:function:0@svc@thumb".parse().unwrap();
        let resources = Resources {
            cpu: CpuMillis(300),
            memory: MemoryMib(wanted.memory),
            custom: Vec::new(),
        };
        let spec = FunctionSpec {
            id: FunctionId::from_urn(urn),
            kind: Kind::Faas,
            generation: Generation("1".into()),
            runtime: Runtime::Image(ImageRuntime::Event),
            handler: "-".to_owned(),
            initializer: wanted.initializer.map(|timeout| bugle_types::Hook {
                handler: "-".to_owned(),
                timeout,
            }),
            pre_stop: wanted.pre_stop.map(|timeout| bugle_types::Hook {
                handler: "-".to_owned(),
                timeout,
            }),
            timeout: Duration::from_secs(3),
            resources: resources.clone(),
            concurrency: NonZeroU32::MIN,
            scale: Scale { min: 0, max: 1 },
            labels: Vec::new(),
            idle: None,
            pool: bugle_types::pool::PoolChoice::default(),
            code: CodeLocation::Image(Box::new(wanted.spec)),
            environment: SealedEnvironment(serde_json::to_string(&wanted.environment).unwrap()),
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        StartRequest {
            id: InstanceId(u128::from(number)),
            spec: Arc::new(spec),
            resources,
            label: None,
        }
    }

    pub(crate) async fn try_start(&self, wanted: Wanted) -> Result<Running, StartError> {
        let started = Driver::start(&self.driver, self.request(wanted)).await?;
        Ok(Running(started.instance))
    }

    pub(crate) async fn start(&self, wanted: Wanted) -> Running {
        self.try_start(wanted).await.unwrap()
    }

    /// A container of the usual image.
    pub(crate) async fn usual(&self) -> Running {
        self.start(wanted()).await
    }
}

/// A container.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Arc<dyn Instance>);

impl Running {
    pub(crate) async fn call(&self, body: &str) -> Result<String, CallError> {
        let request = CallRequest {
            request: "r-1".into(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            meta: Bytes::from_static(b"{}"),
            json: true,
            timeout: Duration::from_secs(3),
            stream: None,
        };
        match self.0.call(request).await?.body {
            ReplyBody::Http { body, .. } => Ok(String::from_utf8_lossy(&body).into_owned()),
            other => panic!("no answer: {other:?}"),
        }
    }

    /// What a script says that runs inside.
    pub(crate) async fn run(&self, script: &str) -> String {
        self.call(script).await.unwrap().trim_end().to_owned()
    }
}

/// The layer with the server and the shell, made once for all tests of this process.
fn usual() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let target = cell();
        let layer = target
            .parent()
            .unwrap()
            .join(format!("container-layer-{}", std::process::id()));
        fill_usual(&layer);
        layer
    })
    .clone()
}

pub(crate) fn fill_usual(layer: &Path) {
    for folder in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(layer.join(folder)).unwrap();
    }
    build("server.c", &layer.join("server"));
    build("probe.c", &layer.join("probe"));
    let busybox = found("busybox").expect("busybox-static has to be installed");
    std::fs::copy(&busybox, layer.join("bin/busybox")).unwrap();
    let names = Command::new(&busybox)
        .arg("--list")
        .output()
        .unwrap()
        .stdout;
    for name in String::from_utf8(names).unwrap().lines() {
        _ = std::os::unix::fs::symlink("busybox", layer.join("bin").join(name));
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nsnuser:x:1003:1003::/home/snuser:/bin/sh\n";
    std::fs::write(layer.join("etc/passwd"), users).unwrap();
    std::fs::write(
        layer.join("etc/group"),
        "root:x:0:\nsnuser:x:1003:\nwheel:x:10:snuser\n",
    )
    .unwrap();
}

fn build(source: &str, to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/container")
        .join(source);
    let built = Command::new("gcc")
        .args(["-O1", "-static", "-o"])
        .args([to, &source])
        .status();
    assert!(built.unwrap().success(), "gcc has to be installed");
}
