//! The composition root of a node: the drivers of this machine, behind a connection to a platform.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bugle_artifacts::{Packages, Sha512, UPLOADED};
use bugle_instances::{EnvironmentOpener, LogSink, StartError as InstanceError};
use bugle_node::{
    Host, Identity, IdentityError, JoinToken, News, Offer, PackageSource, Prepare, Terms,
};
use bugle_registry::Keyring;
use bugle_scheduler::placement::NodeId;
use bugle_types::{CodeLocation, FunctionSpec, TenantId, report};
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::data_plane::DataPlane;
use crate::{Foundation, StartError, confinement, drivers, images, packages};

/// What a node is told.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name, for a node that joins.
    pub name: NodeId,
    /// Where the platform is; the last one known when it is missing.
    pub platform: Option<String>,
    /// With what it joins; not needed by a node that has joined.
    pub token: Option<JoinToken>,
    /// Thousandths of a core for instances; those of the machine when missing.
    pub cpu: Option<u64>,
    /// MiB for instances; those of the machine when missing.
    pub memory: Option<u64>,
    /// Other resources, in thousandths.
    pub custom: BTreeMap<String, i64>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The Pod pool that it is of.
    pub pool: Option<String>,
    /// The group of that pool.
    pub group: Option<String>,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// What a platform could not start with either.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It cannot join or be who it was.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It has not joined, and was not told how.
    #[error(
        "this node has joined no platform: `bugle node token` on the platform's machine prints a \
         token, and `bugle node --join ADDRESS --token TOKEN` joins with it"
    )]
    NotJoined,
}

/// Thousandths of a core and MiB of this machine.
pub(crate) fn machine() -> (u64, u64) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()
    });
    (cores as u64 * 1000, total.unwrap_or_default() / 1024)
}

/// Runs a node until `shutdown` is ready, then has its instances moved elsewhere.
///
/// # Errors
///
/// [`NodeError`]; nothing is left running.
pub async fn run(
    mut config: Config,
    options: NodeOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    let folder = std::path::absolute(&config.server.data_dir).map_err(StartError::System)?;
    config.server.data_dir.clone_from(&folder);
    make(&folder)?;
    let identity = identity(&folder, &options).await?;
    let keyring = Arc::new(Keyring::open(&folder).map_err(StartError::Key)?);
    let data = DataPlane::start(config.server.data_threads).map_err(StartError::System)?;
    let (packages, code) = packages(&config)?;
    let confinement = confinement(&config, None, code)?;
    let images = images::open(&folder, &config.images, &config.addresses, keyring)?;
    let news = Arc::new(News::default());
    let foundation = Foundation {
        packages: packages.clone(),
        images,
        confinement,
        open_environment: in_clear(),
        logs: Arc::clone(&news) as Arc<dyn LogSink>,
    };
    let drivers = {
        let _entered = data.handle().enter();
        drivers(&config, foundation)?
    };
    let prepare = fetch_packages(packages, identity.packages()?);
    let (cpu, memory) = machine();
    let offer = Offer {
        build: crate::nodes::BUILD.to_owned(),
        cpu: options.cpu.unwrap_or(cpu),
        memory: options.memory.unwrap_or(memory),
        custom: options.custom,
        labels: options.labels,
        pool: options.pool,
        group: options.group,
    };
    let terms = Terms {
        orphan: Duration::from_secs(config.nodes.orphan_seconds),
        grace: Duration::from_secs(config.server.shutdown_grace_seconds),
    };
    let host = Host::new(Arc::new(drivers), prepare, offer, news);
    let stop = CancellationToken::new();
    let name = identity.node().to_owned();
    tracing::info!(node = name, platform = identity.platform(), "the node runs");
    let mut serving = data
        .handle()
        .spawn(bugle_node::serve(identity, host, terms, stop.clone()));
    tokio::select! {
        biased;
        () = shutdown => {}
        _ = &mut serving => return Ok(()),
    }
    tracing::info!(node = name, "the node ends; its instances are moved");
    stop.cancel();
    _ = serving.await;
    Ok(())
}

fn make(folder: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder);
    made.map_err(|source| StartError::Folder {
        what: "the data folder",
        path: folder.to_owned(),
        source,
    })
}

async fn identity(folder: &Path, options: &NodeOptions) -> Result<Identity, NodeError> {
    if let Some(mut known) = Identity::load(folder)? {
        if let Some(address) = &options.platform
            && address != known.platform()
        {
            known.move_to(address)?;
        }
        return Ok(known);
    }
    let (Some(address), Some(token)) = (&options.platform, &options.token) else {
        return Err(NodeError::NotJoined);
    };
    Ok(Identity::join(folder, address, token, &options.name).await?)
}

/// Variables come in clear over the connection: a node has no key to them.
fn in_clear() -> EnvironmentOpener {
    Arc::new(|_, opened| {
        if opened.0.is_empty() {
            return Ok(BTreeMap::new());
        }
        serde_json::from_str(&opened.0)
            .map_err(|_| "the platform sent variables that make no sense".to_owned())
    })
}

/// Fetches uploaded packages from the platform, once each.
fn fetch_packages(packages: Packages, source: PackageSource) -> Prepare {
    Arc::new(move |spec: Arc<FunctionSpec>| {
        let (packages, source) = (packages.clone(), source.clone());
        Box::pin(async move {
            let CodeLocation::S3 {
                object, endpoint, ..
            } = &spec.code
            else {
                return Ok(());
            };
            if endpoint != UPLOADED {
                return Ok(());
            }
            let tenant = &spec.id.tenant;
            let fetched = fetch(&packages, &source, tenant, object).await;
            fetched.map_err(|reason| {
                InstanceError::Platform(format!("the code package cannot be fetched: {reason}"))
            })
        })
    })
}

async fn fetch(
    packages: &Packages,
    source: &PackageSource,
    tenant: &TenantId,
    object: &str,
) -> Result<(), String> {
    let digest: Sha512 = object.parse().map_err(|error| report(&error))?;
    if packages.uploads().find(tenant, &digest).await.is_ok() {
        return Ok(());
    }
    let opened = source.open(tenant, object).await;
    let package = opened.map_err(|error| report(&error))?;
    let chunks = stream::unfold(package, |mut package| async move {
        let chunk = package.next().await.transpose()?;
        Some((chunk, package))
    });
    let stored = packages.uploads().put(tenant, Some(&digest), chunks).await;
    stored.map(drop).map_err(|error| report(&error))
}
