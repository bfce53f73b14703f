//! The composition root: configuration, the two planes, telemetry, shutdown. The only crate that
//! sees all others; nothing is decided here that another room could decide.
//!
//! What starts, in order: the data folder with its lock, the key, the store; the two sockets; the
//! data plane (scheduler, drivers, gateway) on its own runtime; the registry and the control API; the
//! catalogue that feeds the scheduler. It stops in the order gateway → scheduler → instances →
//! store, so that nobody is sent to something that is gone.

mod about;
mod applied;
pub mod config;
mod confinement;
mod containers;
mod control;
mod data_plane;
mod deliveries;
pub mod doctor;
mod endpoints;
mod follow;
mod health;
mod images;
mod kubernetes;
mod linger;
pub mod logs;
mod machine;
pub mod node;
mod nodes;
mod operator;
mod packages;
mod pools;
mod roots;
mod shared;
mod sharing;
mod tasks;
pub mod telemetry;
pub mod transfer;
mod warm;

use std::fs::File;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bugle_artifacts::{CodeRoots, Packages};
use bugle_gateway::{Gateway, Load};
use bugle_images::ImageStore;
use bugle_instances::{
    Confinement, Driver, Drivers, EnvironmentOpener, LogSink, ProgramDependencies, ProgramDriver,
    PythonDependencies, PythonDriver, Surroundings,
};
pub use bugle_instances::{become_program, is_starter};
pub use bugle_node::JoinToken;
use bugle_pools::{Keeper, Machine, Pools};
use bugle_registry::{AfterCommit, Keyring, Registry, SystemClock};
pub use bugle_scheduler::placement::NodeId;
use bugle_scheduler::{Fleet, Growth, Scheduler};
use bugle_store::{EtcdStore, Kind, Membership, SqliteStore, Store};
pub use kubernetes::pool_manifests;
use parking_lot::Mutex;
use prometheus_client::registry::Registry as Metrics;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use about::About;
use applied::Applied;
use config::Config;
use data_plane::DataPlane;
use deliveries::Deliveries;
use endpoints::Endpoints;
use follow::{Follower, Functions};
use health::Readiness;
use logs::LogStore;
use nodes::Nodes;
use operator::Operator;
use sharing::Sharing;
use tasks::Tasks;

/// How long the control plane's own tasks may take to end.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// Why the platform did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[source] bugle_store::Error),
    /// The key of the encrypted variables cannot be used.
    #[error("the key of the functions' variables cannot be used")]
    Key(#[source] bugle_registry::KeyringError),
    /// An address cannot be listened on.
    #[error("{what} cannot listen on {address}; choose another with {flag}, or stop what uses it")]
    Listen {
        /// Which listener.
        what: &'static str,
        /// The flag that changes it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A folder or file of the platform cannot be used.
    #[error("{what} {}", path.display())]
    Folder {
        /// What it is for.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Code cannot be had: a code root, the cache, the store of packages.
    #[error("code cannot be taken from where it is configured to be")]
    Packages(#[source] bugle_artifacts::Error),
    /// What the operator lists of addresses cannot be read.
    #[error("addresses.allowed cannot be used")]
    Addresses(#[source] bugle_artifacts::address::RuleError),
    /// The image store cannot be opened.
    #[error("the image store cannot be opened")]
    Images(#[source] bugle_images::ImageError),
    /// The credentials for registries cannot be used.
    #[error("the credentials for registries cannot be used")]
    Credentials(#[source] bugle_images::CredentialsError),
    /// Nothing on the network can be reached.
    #[error("the rules for addresses cannot be used")]
    Network(#[source] bugle_images::NetworkError),
    /// The system gave no thread or no descriptor.
    #[error("the system does not give what the platform needs")]
    System(#[source] std::io::Error),
}

/// A running platform.
pub struct Running {
    /// Where the control API listens.
    pub control: SocketAddr,
    /// Where the invocation gateway listens.
    pub gateway: SocketAddr,
    grace: Duration,
    tasks: Tasks,
    gateway_stop: CancellationToken,
    gateway_done: tokio::task::JoinHandle<()>,
    scheduler: Scheduler,
    nodes: Nodes,
    readiness: Readiness,
    endpoints: Endpoints,
    sharing: Option<Sharing>,
    /// Ends the port of gateways.
    closing: CancellationToken,
    // Dropped in this order: what uses the store ends before it.
    data: DataPlane,
    store: Arc<dyn Store>,
    _lock: Option<File>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("control", &self.control)
            .field("gateway", &self.gateway)
            .finish_non_exhaustive()
    }
}

/// The store, and the lock of the data folder where the store does not hold it itself.
struct Opened {
    store: Arc<dyn Store>,
    lock: Option<File>,
    /// How to join others, where several work together.
    membership: Option<Membership>,
}

/// How this process calls itself to others on the same etcd.
fn who(what: &str) -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{what} on {host}, process {}", std::process::id())
}

/// Opens the store that is configured; no connection is made for one in a file.
fn store(config: &Config, folder: &Path, metrics: &mut Metrics) -> Result<Opened, StartError> {
    let measured = bugle_store::Metrics::register(metrics);
    let failed = StartError::Store;
    Ok(match config.store.kind {
        Kind::Embedded => Opened {
            store: Arc::new(SqliteStore::open(folder, &config.store, measured).map_err(failed)?),
            lock: None,
            membership: None,
        },
        Kind::Etcd => {
            let lock = bugle_store::lock_folder(folder).map_err(failed)?;
            let measured = measured.with_etcd(metrics);
            let (etcd, who) = (&config.etcd, who("a platform"));
            let patience = Duration::from_secs(etcd.start_timeout_seconds);
            let works_alone = config.cluster.listen.is_empty();
            let store = if works_alone {
                EtcdStore::open_alone(etcd, &config.store, measured, &who, patience)
            } else {
                EtcdStore::open(etcd, &config.store, measured)
            };
            let store = store.map_err(failed)?;
            Opened {
                membership: (!works_alone).then(|| store.membership()),
                store: Arc::new(store),
                lock: Some(lock),
            }
        }
    })
}

/// Starts the platform with this configuration on the current runtime, which becomes its control
/// plane.
///
/// # Errors
///
/// [`StartError`]; nothing is left running.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn start(mut config: Config) -> Result<Running, StartError> {
    // Interpreters run in folders of their own and must find theirs from there.
    let folder = std::path::absolute(&config.server.data_dir).map_err(StartError::System)?;
    config.server.data_dir.clone_from(&folder);
    let mut metrics = Metrics::default();
    let Opened {
        store,
        lock,
        membership,
    } = store(&config, &folder, &mut metrics)?;
    let keyring = Arc::new(Keyring::open(&folder).map_err(StartError::Key)?);
    let (control_listener, control) = listen(
        "the control API",
        "--control-listen",
        config.server.control_listen,
    )?;
    let (gateway_listener, gateway) = listen(
        "the gateway",
        "--gateway-listen",
        config.server.gateway_listen,
    )?;

    let tasks = Tasks::new();
    let readiness = Readiness::new(Arc::clone(&store));
    let applied = Applied::new();
    let logs = LogStore::open(folder.join("logs"), config.logs.clone(), &mut metrics);
    let data = DataPlane::start(config.server.data_threads).map_err(StartError::System)?;
    let (packages, code) = packages(&config)?;
    let nodes_listener = match config.nodes.address() {
        Ok(Some(address)) => Some(listen("the port of nodes", "--set nodes.listen", address)?),
        Ok(None) | Err(_) => None,
    };
    let nodes_bound = nodes_listener.as_ref().map(|(_, address)| *address);
    let nodes_address = config.nodes.advertised(nodes_bound);
    let cluster_listener = match config.cluster.address() {
        Ok(Some(address)) => Some(listen(
            "the port of gateways",
            "--set cluster.listen",
            address,
        )?),
        Ok(None) | Err(_) => None,
    };
    let sharing = membership
        .zip(cluster_listener.as_ref())
        .map(|(membership, (_, address))| {
            let place = (membership, Arc::clone(&store));
            let key = keyring.fingerprint();
            let addresses = sharing::Addresses {
                gateways: config.cluster.advertised(*address),
                nodes: nodes_address.clone(),
            };
            Sharing::new(addresses, place, key, data.handle().clone())
        });
    let confinement = confinement(&config, Some(control), code)?;
    let images = images::open(
        &folder,
        &config.images,
        &config.addresses,
        Arc::clone(&keyring),
    )?;
    let open_environment = opener(Arc::clone(&keyring));
    let pools = Pools::new(Arc::clone(&store) as _);
    let cluster = kubernetes::Cluster::new(&config, &pools, sharing.as_ref());
    let Planes {
        scheduler,
        drivers,
        machine,
        fleet,
    } = data_plane(
        &config,
        &data,
        Foundation {
            packages: packages.clone(),
            images: images.clone(),
            confinement: Arc::clone(&confinement),
            open_environment: Arc::clone(&open_environment),
            logs: Arc::clone(&logs) as _,
        },
        (
            cluster.clone().map(|cluster| cluster as _),
            sharing.as_ref(),
        ),
        &mut metrics,
    )?;
    if let Some(sharing) = &sharing {
        sharing.register(&scheduler, &mut metrics);
    }
    let confinement = confinement::Told::new(confinement, &mut metrics);
    let warm = warm::WarmParents::new(drivers.python.clone(), &mut metrics);
    let after_commit: AfterCommit = {
        let (applied, sharing) = (applied.clone(), sharing.clone());
        Arc::new(move |revision| {
            let (applied, sharing) = (applied.clone(), sharing.clone());
            Box::pin(async move {
                applied.wait_for(revision).await;
                if let Some(sharing) = sharing {
                    sharing.everywhere(revision).await;
                }
            })
        })
    };
    let shared = Arc::clone(&store);
    if config.store.kind == Kind::Etcd {
        let key = keyring.fingerprint().to_owned();
        tasks.spawn(
            "store",
            shared::watch(Arc::clone(&store), key, tasks.stop_token()),
        );
    }
    let (registry, follow_index) = Registry::open(
        Arc::clone(&shared),
        Arc::clone(&keyring),
        config.registry.clone(),
        Arc::new(SystemClock),
        after_commit,
        images::resolver(images.clone()),
    );
    let (functions, wanted) = Functions::new(Arc::clone(&shared));
    let nodes = Nodes::new(fleet, nodes_address);
    if let Some(sharing) = &sharing {
        sharing.reach(nodes.clone());
    }
    nodes.register(&mut metrics);
    if let Some((listener, _)) = nodes_listener {
        let parts = nodes::Parts {
            store: Arc::clone(&shared),
            keyring: Arc::clone(&keyring),
            open_environment,
            logs: Arc::clone(&logs) as _,
            packages: packages.clone(),
            scheduler: scheduler.clone(),
            functions: functions.clone(),
            cluster: cluster.clone(),
            sharing: sharing.clone(),
        };
        let listener = listener.into_std().map_err(StartError::System)?;
        let run = nodes.clone().run(listener, parts, tasks.stop_token());
        data.handle().spawn(run);
    }
    let uploads = packages::Uploads::new(packages.clone(), Arc::clone(&shared), &mut metrics);
    let image_routes = images::Images {
        images: images.clone(),
        functions: Arc::clone(&shared),
    };
    let follower = Follower {
        store: shared,
        wanted,
        scheduler: scheduler.clone(),
        drivers,
        applied: applied.clone(),
        readiness: readiness.clone(),
        stop: tasks.stop_token(),
        sharing: sharing.clone(),
    };

    let gateway_stop = CancellationToken::new();
    let serving = Gateway::new(
        config.nodes.gateway(&config.gateway),
        scheduler.clone(),
        bugle_gateway::Metrics::register(&mut metrics),
        load(functions.clone()),
    );
    let closing = CancellationToken::new();
    if let Some(sharing) = &sharing {
        serving.share(sharing.owners());
    }
    if let (Some(sharing), Some((listener, _))) = (&sharing, cluster_listener) {
        let parts = sharing::Parts {
            listener: listener.into_std().map_err(StartError::System)?,
            store: Arc::clone(&store),
            keyring,
            gateway: serving.clone(),
            scheduler: scheduler.clone(),
            applied,
            packages,
            logs: Arc::clone(&logs),
            closing: closing.clone(),
        };
        tasks.spawn("cluster", sharing.clone().run(parts, tasks.stop_token()));
    }
    let deliveries = Deliveries::new(
        Arc::clone(&store),
        serving.clone(),
        data.handle().clone(),
        gateway_stop.clone(),
        sharing.clone(),
    );
    serving.leave_events_to(deliveries.accept());
    if let Some(sharing) = &sharing {
        sharing.cancel_with(deliveries.cancels());
    }
    let invocations = control::Invocations::new(serving.clone(), data.handle().clone());
    let gateway_done = {
        let stop = gateway_stop.clone();
        // The listener must be registered with the runtime that serves it.
        let listener = gateway_listener.into_std().map_err(StartError::System)?;
        data.handle().spawn(async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => serving.run(vec![listener], stop).await,
                Err(error) => tracing::error!(%error, "the gateway cannot listen"),
            }
        })
    };

    let cluster = cluster.map(|cluster| {
        let (nodes, stop) = (nodes.clone(), tasks.stop_token());
        kubernetes::controller(&config, cluster, nodes, nodes_bound, &mut metrics, stop)
    });
    let about = Arc::new(About::new(config.clone(), gateway));
    let operator = Operator {
        about: Arc::clone(&about),
        confinement,
        warm,
        scheduler: scheduler.clone(),
        sharing: sharing.clone(),
        functions,
        logs,
        images,
        readiness: readiness.clone(),
        metrics: Mutex::new(metrics),
        stop: tasks.stop_token(),
    };
    let uploads = Arc::new(uploads);
    let sweep = packages::sweep(Arc::clone(&uploads), tasks.stop_token());
    let region = &config.server.region;
    let routes = control::routes(registry, Arc::new(operator), region, uploads, image_routes)
        .merge(bugle_api::pools_router().with_state(Arc::new(pools.clone())))
        .merge(nodes::router().with_state(nodes.clone()))
        .merge(sharing::router().with_state(sharing.clone()))
        .merge(bugle_api::graph_events_router(Arc::new(deliveries.clone())));
    let router = bugle_api::build(routes);
    let serve = control::serve(control_listener, router, invocations, tasks.stop_token());
    tasks.spawn("control", serve);
    let endpoints =
        Endpoints::write(&folder, control, gateway).map_err(|source| StartError::Folder {
            what: "the data folder",
            path: folder,
            source,
        })?;
    // What reads the store begins last: it would only compete with what the platform needs to serve.
    tasks.spawn("catalogue", follower.run());
    tasks.spawn("packages", sweep);
    if let Some(machine) = machine {
        let keeper = sharing
            .clone()
            .map(|sharing| Arc::new(sharing) as Arc<dyn Keeper>);
        tasks.spawn("pools", machine.run(pools, keeper, tasks.stop_token()));
    }
    if let Some(cluster) = cluster {
        tasks.spawn("kubernetes", cluster);
    }
    data.handle().spawn(deliveries.run());
    let stop = tasks.stop_token();
    tasks.spawn("index", async move {
        stop.run_until_cancelled(follow_index).await;
    });
    let ready = readiness.clone();
    tokio::spawn(async move {
        ready.until_catalogue_is_read().await;
        tracing::info!(%control, %gateway, "ready");
        // Nobody waits for the search; it would only compete with the start.
        about.info().await;
    });
    Ok(Running {
        control,
        gateway,
        grace: Duration::from_secs(config.server.shutdown_grace_seconds),
        tasks,
        gateway_stop,
        gateway_done,
        scheduler,
        nodes,
        readiness,
        endpoints,
        sharing,
        closing,
        data,
        store,
        _lock: lock,
    })
}

fn listen(
    what: &'static str,
    flag: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        what,
        flag,
        address,
        source,
    };
    let listener = bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Connections that wait to be accepted; one more has to knock again, a second later. The usual 128
/// are fewer than a crowd of callers is. The kernel has a limit of its own, `somaxconn`.
const BACKLOG: u32 = 4096;

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart must not wait for the connections of the process before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The folder with what the platform needs beside its instances.
fn runtime_dir(config: &Config) -> PathBuf {
    config.server.data_dir.join("runtime")
}

/// The packages, and the folders below which code is.
fn packages(config: &Config) -> Result<(Packages, Vec<PathBuf>), StartError> {
    let folder = &config.server.data_dir;
    let own_code = folder.join("code");
    std::fs::create_dir_all(&own_code).map_err(|source| StartError::Folder {
        what: "the code folder",
        path: own_code,
        source,
    })?;
    let roots = CodeRoots::new(&roots::code_roots(&config.server)).map_err(StartError::Packages)?;
    let mut code = roots.roots().to_vec();
    let foundation = bugle_artifacts::Foundation {
        roots,
        cache: folder.join("cache").join("code"),
        uploads: folder.join("packages"),
        addresses: config.addresses.clone(),
        environment: packages::environment(),
    };
    let packages = Packages::open(config.packages.clone(), foundation);
    let packages = packages.map_err(StartError::Packages)?;
    code.push(packages.folder().to_owned());
    Ok((packages, code))
}

/// How instances are confined; they reach neither the control API nor each other's programs.
fn confinement(
    config: &Config,
    control: Option<SocketAddr>,
    code: Vec<PathBuf>,
) -> Result<Arc<Confinement>, StartError> {
    let programs = config.programs.first_port..=config.programs.last_port;
    let surroundings = Surroundings {
        folder: runtime_dir(config),
        ports: programs
            .chain(control.map(|address| address.port()))
            .collect(),
        code,
    };
    Confinement::new(config.confinement.clone(), surroundings)
        .map(Arc::new)
        .map_err(StartError::System)
}

/// What the drivers of instances are built on.
struct Foundation {
    packages: Packages,
    images: ImageStore,
    confinement: Arc<Confinement>,
    open_environment: EnvironmentOpener,
    logs: Arc<dyn LogSink>,
}

/// Decrypts the variables of functions.
fn opener(keyring: Arc<Keyring>) -> EnvironmentOpener {
    Arc::new(move |id, sealed| {
        keyring
            .open_environment(&id.tenant, &id.name, sealed)
            .map_err(|error| error.to_string())
    })
}

/// What lives on the data plane.
struct Planes {
    scheduler: Scheduler,
    drivers: Drivers,
    machine: Option<Arc<Machine>>,
    fleet: Option<Fleet>,
}

/// Makes what lives on the data plane.
fn data_plane(
    config: &Config,
    data: &DataPlane,
    foundation: Foundation,
    (growth, sharing): (Option<Arc<dyn Growth>>, Option<&Sharing>),
    metrics: &mut Metrics,
) -> Result<Planes, StartError> {
    let _entered = data.handle().enter();
    let packages = foundation.packages.clone();
    let drivers = drivers(config, foundation)?;
    let machine = pools::machine(config, &drivers.python, data.handle().clone());
    let all: Arc<dyn Driver> = Arc::new(drivers.clone());
    let pooled = machine
        .as_ref()
        .filter(|_| config.nodes.has_local())
        .map(|machine| machine.driver(Arc::clone(&all)));
    let pool_wait = Duration::from_secs(config.pools.wait_seconds);
    let (driver, fleet) = config.nodes.driver(all, growth, pool_wait);
    let driver = match (pooled, &fleet) {
        // What names a pool of this machine is not placed on others.
        (Some(pooled), Some(_)) => Arc::new(pooled.before(driver)),
        (Some(pooled), None) => Arc::new(pooled),
        (None, _) => driver,
    };
    let acquire = Duration::from_secs(config.scheduler.acquire_seconds);
    let driver = match sharing {
        Some(sharing) => sharing.fence(driver, packages),
        None => driver,
    };
    let scheduler = Scheduler::new(
        bugle_scheduler::Config {
            // What the pool has then takes as long to start an instance as any other.
            pool_wait: pool_wait.saturating_add(acquire),
            ..config.scheduler.clone()
        },
        driver,
        bugle_scheduler::Metrics::register(metrics),
    );
    Ok(Planes {
        scheduler,
        drivers,
        machine,
        fleet,
    })
}

/// The drivers of this machine, on the current runtime.
fn drivers(config: &Config, foundation: Foundation) -> Result<Drivers, StartError> {
    let Foundation {
        packages,
        images,
        confinement,
        open_environment,
        logs,
    } = foundation;
    let runtime_dir = runtime_dir(config);
    let programs = ProgramDriver::new(
        config.programs.clone(),
        ProgramDependencies {
            packages: packages.clone(),
            logs: Arc::clone(&logs),
            open_environment: Arc::clone(&open_environment),
            confinement: Arc::clone(&confinement),
        },
    );
    let containers = containers::driver(config, images, &open_environment, &logs, &confinement)?;
    let dependencies = PythonDependencies {
        packages,
        logs,
        open_environment,
        runtime_dir: runtime_dir.clone(),
        confinement,
    };
    let python = PythonDriver::new(config.python.clone(), dependencies).map_err(|source| {
        StartError::Folder {
            what: "the runtime folder",
            path: runtime_dir,
            source,
        }
    })?;
    Ok(Drivers {
        python,
        programs,
        containers: Some(containers),
    })
}

/// How the gateway finds functions that nobody has called yet.
fn load(functions: Functions) -> Load {
    Arc::new(move |id| {
        let (functions, id) = (functions.clone(), id.clone());
        Box::pin(async move { functions.load(id).await })
    })
}

impl Running {
    /// Runs until `shutdown` is ready or something essential has died, then stops in order: calls
    /// that run may finish within the configured grace.
    ///
    /// # Errors
    ///
    /// The text says that the platform stopped because a part of it died; its log has the details.
    pub async fn stopped(self, shutdown: impl Future<Output = ()>) -> Result<(), String> {
        let orderly = tokio::select! {
            biased;
            () = self.tasks.failed() => false,
            () = shutdown => true,
        };
        tracing::info!("stopping");
        self.readiness.draining();
        drop(self.endpoints);
        let deadline = tokio::time::Instant::now() + self.grace;
        if let Some(sharing) = &self.sharing {
            // The others have the functions before calls are refused here.
            sharing.cluster.retire().await;
        }
        self.gateway_stop.cancel();
        if tokio::time::timeout_at(deadline, self.gateway_done)
            .await
            .is_err()
        {
            tracing::warn!("calls did not finish in time");
        }
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        self.nodes.let_go();
        self.scheduler.shutdown(left).await;
        if let Some(sharing) = &self.sharing {
            sharing.cluster.leave().await;
        }
        self.closing.cancel();
        self.tasks.shut_down(LAST_TASKS).await;
        drop(self.data);
        // Joins its thread, after everything that was accepted is on disk.
        drop(self.store);
        if orderly {
            Ok(())
        } else {
            Err("a part of the platform died; see its log".to_owned())
        }
    }
}
