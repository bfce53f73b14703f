//! Measures starts of containers against the runtimes of this machine, and what is left of them.
//!
//! `cargo run --release -p bugle-instances --example containers [starts] [rounds]`, as root.
//!
//! Every figure is a line of JSON. A start is that of an image of 10 MB with one static program, from
//! the request until its server has answered a call. The reference is the faster of `runc` and `crun`:
//! `create` and `start` of the same root with the same user and limits, until the same server takes a
//! connection. It is given an advantage: it makes no network and no filter of system calls.
#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "the figures are the output"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a measurement that fails has nothing to tell"
)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bugle_artifacts::address;
use bugle_instances::{
    BoxFuture, CallRequest, Confinement, ConfinementConfig, ContainerConfig, ContainerDependencies,
    ContainerDriver, Driver, ImageConfig, Images, Instance, InstanceId, LogLine, LogSink, Rootfs,
    StartError, StartRequest, Surroundings,
};
use bugle_types::{
    CodeLocation, ContainerNetwork, ContainerSpec, CpuMillis, FunctionId, FunctionSpec,
    FunctionUrn, Generation, ImageRuntime, Initialization, Kind, MemoryMib, Resources, Runtime,
    Scale, SealedEnvironment,
};
use bytes::Bytes;

/// The size of the image.
const SIZE: u64 = 10 * 1024 * 1024;

/// How many containers live at once when it is counted what is left of them.
const AT_ONCE: usize = 100;

struct Nowhere;

impl LogSink for Nowhere {
    fn line(&self, _line: LogLine) {}
}

struct Only(Rootfs);

impl Images for Only {
    fn ready<'a>(&'a self, _spec: &'a ContainerSpec) -> BoxFuture<'a, Result<Rootfs, StartError>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

fn main() {
    if bugle_instances::is_starter() {
        bugle_instances::become_program();
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: containers are made by root");
        return;
    }
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok());
    let starts = arguments.next().unwrap_or(100);
    let rounds = arguments.next().unwrap_or(20);
    let folder = tempfile::tempdir().unwrap();
    let layer = image(folder.path());
    let reference = std::thread::scope(|scope| {
        let measured = scope.spawn(|| reference(&layer, folder.path(), starts));
        measured.join().unwrap()
    });
    for (name, figures) in &reference {
        tell(&format!("container_{name}_ms"), median(figures));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let bench = Bench::new(layer, folder.path());
        let cold = bench.cold(starts).await;
        tell("container_cold_ms", median(&cold));
        let fastest = reference.iter().map(|(_, figures)| median(figures));
        let fastest = fastest.reduce(f64::min);
        if let Some(fastest) = fastest {
            tell("container_cold_ratio", median(&cold) / fastest);
        }
        let before = Left::count(folder.path());
        for _ in 0..rounds {
            bench.round(AT_ONCE).await;
        }
        tell(
            "container_leaked",
            bench.leaked(&before, folder.path()).await,
        );
    });
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn tell(name: &str, value: impl Into<Figure>) {
    let value = match value.into() {
        Figure::Real(value) => value,
        Figure::Count(count) => count as f64,
    };
    println!("{{\"name\": \"{name}\", \"value\": {value:.4}}}");
}

enum Figure {
    Real(f64),
    Count(usize),
}

impl From<f64> for Figure {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<usize> for Figure {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

/// The median, in milliseconds.
fn median(figures: &[Duration]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2].as_secs_f64() * 1000.0
}

/// A root with one static program, padded.
fn image(folder: &Path) -> PathBuf {
    let layer = folder.join("layer");
    std::fs::create_dir_all(layer.join("tmp")).unwrap();
    let server = layer.join("server");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/container/server.c");
    let built = Command::new("gcc")
        .args(["-O1", "-static", "-o"])
        .args([&server, &source])
        .status();
    assert!(built.unwrap().success(), "gcc has to be installed");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&server)
        .unwrap();
    file.set_len(SIZE).unwrap();
    for name in ["proc", "sys", "dev", "etc"] {
        std::fs::create_dir(layer.join(name)).unwrap();
    }
    layer
}

/// Starts by the runtimes that there are, each with its figures.
fn reference(layer: &Path, folder: &Path, starts: usize) -> Vec<(&'static str, Vec<Duration>)> {
    hide_unified();
    let mut all = Vec::new();
    for name in ["runc", "crun"] {
        let there = Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        if !there.is_ok_and(|status| status.success()) {
            continue;
        }
        let bundle = folder.join(name);
        std::fs::create_dir(&bundle).unwrap();
        let mut figures: Vec<_> = (0..=starts)
            .map_while(|number| reference_start(name, layer, &bundle, number))
            .collect();
        if figures.len() > 1 {
            // The first one reads the binaries from the disk.
            figures.remove(0);
            all.push((name, figures));
        }
    }
    all
}

/// Takes the second version of control groups out of the sight of this thread and of what it starts:
/// crun refuses a machine that uses both.
#[expect(
    deprecated,
    reason = "unsound for shared file descriptors, which are not among these flags"
)]
fn hide_unified() {
    use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
    use rustix::thread::{UnshareFlags, unshare};
    unshare(UnshareFlags::FS | UnshareFlags::NEWNS).unwrap();
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    // Absent where only one version is there.
    _ = unmount("/sys/fs/cgroup/unified", UnmountFlags::DETACH);
}

fn reference_start(name: &str, layer: &Path, bundle: &Path, number: usize) -> Option<Duration> {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let id = format!("bugle-bench-{}-{number}", std::process::id());
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 1003, "gid": 1003},
            "args": ["/server"],
            "env": [format!("LISTEN_PORT={port}")],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": true,
        },
        "root": {"path": layer},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {
            "cgroupsPath": id,
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ],
            "resources": {"memory": {"limit": 128 << 20}, "pids": {"limit": 1024}},
        },
    });
    std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(name);
        command.args(arguments).arg(&id).current_dir(bundle);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let began = Instant::now();
    let there = run(&["create"]) && run(&["start"]) && {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = began + Duration::from_secs(5);
        std::iter::repeat_with(|| TcpStream::connect(address).is_ok())
            .take_while(|_| Instant::now() < deadline)
            .any(|connected| connected)
    };
    let took = began.elapsed();
    run(&["delete", "--force"]);
    there.then_some(took)
}

struct Bench {
    driver: ContainerDriver,
    spec: Arc<FunctionSpec>,
}

impl Bench {
    fn new(layer: PathBuf, folder: &Path) -> Self {
        let confinement =
            Confinement::new(ConfinementConfig::default(), Surroundings::default()).unwrap();
        let config = ImageConfig {
            entrypoint: vec!["/server".to_owned()],
            ..ImageConfig::default()
        };
        let rootfs = Rootfs {
            layers: vec![layer],
            config,
            hold: Arc::new(()),
        };
        let dependencies = ContainerDependencies {
            images: Arc::new(Only(rootfs)),
            logs: Arc::new(Nowhere),
            open_environment: Arc::new(|_, _| Ok(std::collections::BTreeMap::new())),
            confinement: Arc::new(confinement),
            outside: address::Policy::new(&address::Config::default()).unwrap(),
            folder: folder.join("containers"),
            cell: "/proc/self/exe".into(),
        };
        Self {
            driver: ContainerDriver::new(ContainerConfig::default(), dependencies),
            spec: Arc::new(spec()),
        }
    }

    async fn start(&self, number: usize) -> Arc<dyn Instance> {
        let request = StartRequest {
            id: InstanceId(number as u128),
            spec: Arc::clone(&self.spec),
            resources: self.spec.resources.clone(),
            label: None,
        };
        Driver::start(&self.driver, request).await.unwrap().instance
    }

    /// Starts one after the other, each until it has answered.
    async fn cold(&self, starts: usize) -> Vec<Duration> {
        let mut figures = Vec::new();
        for number in 0..=starts {
            let began = Instant::now();
            let instance = self.start(number).await;
            let request = CallRequest {
                request: "r".into(),
                body: Bytes::new(),
                meta: Bytes::from_static(b"{}"),
                json: true,
                timeout: Duration::from_secs(3),
                stream: None,
            };
            instance.call(request).await.unwrap();
            figures.push(began.elapsed());
            instance.kill();
            instance.exited().await;
            // Calls come when they come: time enough to have the cell replaced.
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        figures.remove(0);
        figures
    }

    /// Starts and stops containers that live at the same time.
    async fn round(&self, count: usize) {
        let starts = (0..count).map(|number| self.start(number));
        let all = futures_util::future::join_all(starts).await;
        let stops = all.iter().map(|one| one.stop(Duration::from_secs(5)));
        futures_util::future::join_all(stops).await;
    }

    /// How much more there is than `before`, once it had time to go.
    async fn leaked(&self, before: &Left, folder: &Path) -> usize {
        let mut now = Left::count(folder);
        for _ in 0..400 {
            if now.more_than(before) == 0 {
                return 0;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            now = Left::count(folder);
        }
        eprintln!("left: {:?}, and before: {:?}", now.0, before.0);
        now.more_than(before)
    }
}

/// What can be left of containers: mounts, descriptors, processes, groups, directories.
struct Left([usize; 5]);

impl Left {
    fn count(folder: &Path) -> Self {
        let entries = |path: &Path| std::fs::read_dir(path).map_or(0, Iterator::count);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let cells = processes.filter(|entry| {
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            status.contains(&format!("\nPPid:\t{}\n", std::process::id()))
        });
        let platforms = std::fs::read_dir(folder.join("containers"))
            .into_iter()
            .flatten();
        let directories = platforms.flatten().map(|one| entries(&one.path()));
        Self([
            mounts.lines().count(),
            entries(Path::new("/proc/self/fd")),
            cells.count(),
            groups(Path::new("/sys/fs/cgroup"), 4),
            directories.sum(),
        ])
    }

    fn more_than(&self, before: &Self) -> usize {
        let pairs = self.0.iter().zip(&before.0);
        pairs.map(|(now, before)| now.saturating_sub(*before)).sum()
    }
}

/// Groups of this process with processes in them; empty ones are kept for the next instances.
fn groups(dir: &Path, depth: u32) -> usize {
    let own = format!("bugle-{}-", std::process::id());
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders
        .map(|entry| {
            let path = entry.path();
            let deeper = if depth > 0 {
                groups(&path, depth - 1)
            } else {
                0
            };
            let procs = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            let ours = path.to_string_lossy().contains(&own);
            deeper + usize::from(ours && !procs.trim().is_empty())
        })
        .sum()
}

fn spec() -> FunctionSpec {
    let urn: FunctionUrn = "sn:cn:yrk:tenant-1:function:0@bench@image".parse().unwrap();
    FunctionSpec {
        id: FunctionId::from_urn(urn),
        kind: Kind::Faas,
        generation: Generation("1".into()),
        runtime: Runtime::Image(ImageRuntime::Event),
        handler: "-".to_owned(),
        initializer: None,
        pre_stop: None,
        timeout: Duration::from_secs(3),
        resources: Resources {
            cpu: CpuMillis(300),
            memory: MemoryMib(128),
            custom: Vec::new(),
        },
        concurrency: NonZeroU32::MIN,
        scale: Scale { min: 0, max: 1 },
        labels: Vec::new(),
        idle: None,
        pool: bugle_types::pool::PoolChoice::default(),
        code: CodeLocation::Image(Box::new(ContainerSpec {
            image: "image".to_owned(),
            digest: None,
            command: Vec::new(),
            args: Vec::new(),
            working_dir: None,
            uid: 1003,
            gid: 1003,
            initialization: Initialization::Never,
            network: ContainerNetwork::Nat,
            health: None,
            shutdown: None,
            disk_mib: 512,
            mounts: Vec::new(),
        })),
        environment: SealedEnvironment(String::new()),
    }
}
