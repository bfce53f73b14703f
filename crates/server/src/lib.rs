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
mod drivers;
mod endpoints;
mod follow;
mod health;
mod images;
mod kubernetes;
mod linger;
mod listen;
pub mod logs;
mod machine;
pub mod node;
mod nodes;
mod opened;
mod operator;
mod packages;
mod pools;
mod roots;
mod running;
mod shared;
mod sharing;
mod tasks;
pub mod telemetry;
pub mod transfer;
mod warm;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bugle_gateway::{Gateway, Load};
use bugle_instances::{Driver, Drivers};
pub use bugle_instances::{become_program, is_starter};
pub use bugle_node::JoinToken;
use bugle_pools::{Keeper, Machine, Pools};
use bugle_registry::{AfterCommit, Registry, SystemClock};
pub use bugle_scheduler::placement::NodeId;
use bugle_scheduler::{Fleet, Growth, Scheduler};
use bugle_store::Kind;
pub use kubernetes::pool_manifests;
use parking_lot::Mutex;
use prometheus_client::registry::Registry as Metrics;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use about::About;
use applied::Applied;
use config::Config;
use data_plane::DataPlane;
use deliveries::Deliveries;
use drivers::{Foundation, confinement, drivers, opener, packages};
use endpoints::Endpoints;
use follow::{Follower, Functions};
use health::Readiness;
use listen::listen;
use logs::LogStore;
use nodes::Nodes;
use opened::{Opened, store};
use operator::Operator;
pub use running::Running;
use sharing::Sharing;
use tasks::Tasks;

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
    /// What is in the store is encrypted with another key.
    #[error(
        "the variables of functions are encrypted with key {theirs}, and {} {}; copy environment.key there from the \
         data folder of the platform that used this store before",
        path.display(),
        ours.as_ref().map_or_else(|| "does not exist".to_owned(), |ours| format!("holds {ours}"))
    )]
    OtherKey {
        /// The word for the key that is needed.
        theirs: String,
        /// The word for the key here, if there is one.
        ours: Option<String>,
        /// Where the key belongs.
        path: PathBuf,
    },
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
pub async fn start(mut config: Config) -> Result<Running, StartError> {
    // Interpreters run in folders of their own and must find theirs from there.
    let folder = std::path::absolute(&config.server.data_dir).map_err(StartError::System)?;
    config.server.data_dir.clone_from(&folder);
    let mut metrics = Metrics::default();
    let Opened {
        store,
        lock,
        membership,
    } = store(&config, &folder, &mut metrics)?;
    let keyring = shared::keyring(&*store, config.store.kind, &folder).await?;
    let keyring = Arc::new(keyring);
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
            let introduction = sharing::Introduction {
                address: config.cluster.advertised(*address),
                nodes: nodes_address.clone(),
                key: keyring.fingerprint().to_owned(),
                pools: config.pools.backend,
            };
            Sharing::new(introduction, place, data.handle().clone())
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
        Arc::new(move |committed| {
            let (applied, sharing) = (applied.clone(), sharing.clone());
            Box::pin(async move {
                applied.wait_for(committed.followed).await;
                if let Some(sharing) = sharing {
                    sharing.everywhere(committed.revision).await;
                }
            })
        })
    };
    let shared = Arc::clone(&store);
    if config.store.kind == Kind::Etcd {
        tasks.spawn(
            "store",
            shared::watch(Arc::clone(&store), tasks.stop_token()),
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

/// How the gateway finds functions that nobody has called yet.
fn load(functions: Functions) -> Load {
    Arc::new(move |id| {
        let (functions, id) = (functions.clone(), id.clone());
        Box::pin(async move { functions.load(id).await })
    })
}
