//! The composition root of a node: the drivers of this machine, behind a connection to a platform.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bugle_artifacts::{Packages, Sha512, UPLOADED, Uploaded};
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
use crate::drivers::{Foundation, confinement, drivers, packages};
use crate::{StartError, images};

mod health;

use health::Health;

/// The pause before a Pod asks again to be let in, longer each time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a node is told.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name, for a node that joins.
    pub name: NodeId,
    /// Whether somebody chose the name; else it is that of the machine.
    pub chosen: bool,
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
    /// The Pod that it is, if it is one.
    pub pod: Option<PodOptions>,
    /// The port of its health, on all addresses; none: it tells nobody.
    pub health_port: Option<u16>,
}

/// What a node is told that is a Pod of a pool.
#[derive(Clone, Debug)]
pub struct PodOptions {
    /// Its uid.
    pub uid: String,
    /// The file with the token of its pool, which is read anew for each attempt to join.
    pub token_file: PathBuf,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// What a platform could not start with either.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its data folder cannot be used, or another process uses it.
    #[error("the data folder cannot be used")]
    Folder(#[source] bugle_store::Error),
    /// It cannot join or be who it was.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It has not joined, and was not told how.
    #[error(
        "this node has joined no platform: `bugle node token` on the platform's machine prints a \
         token, and `bugle node --join ADDRESS --token TOKEN` joins with it"
    )]
    NotJoined,
    /// Its health cannot be told.
    #[error("the port of its health, {port}, cannot be listened on")]
    Health {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
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
    // Of two processes that are one node the platform takes in the first; on this machine the second need not try.
    let _lock = bugle_store::lock_folder(&folder).map_err(NodeError::Folder)?;
    let health = Health::default();
    let _told = match options.health_port {
        Some(port) => {
            let served = health::serve(port, health.clone()).await;
            Some(served.map_err(|source| NodeError::Health { port, source })?)
        }
        None => None,
    };
    let mut shutdown = std::pin::pin!(shutdown);
    let identity = tokio::select! {
        biased;
        () = &mut shutdown => return Ok(()),
        identity = identity(&folder, &options) => identity?,
    };
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
    let prepare = fetch_packages(packages, identity.packages());
    let here = crate::machine::room();
    let offer = Offer {
        build: crate::nodes::BUILD.to_owned(),
        process: process(),
        cpu: options.cpu.unwrap_or(here.cpu_millis),
        memory: options.memory.unwrap_or(here.memory_mib),
        custom: options.custom,
        labels: options.labels,
        pool: options.pool,
        group: options.group,
    };
    let terms = Terms {
        orphan: Duration::from_secs(config.nodes.orphan_seconds),
        grace: Duration::from_secs(config.server.shutdown_grace_seconds),
        awake: Duration::from_micros(config.nodes.awake(config.gateway.awake_micros).into()),
    };
    let host = Host::new(Arc::new(drivers), prepare, offer, news);
    health.tell_of(&host);
    let stop = CancellationToken::new();
    let name = identity.node();
    tracing::info!(node = name, platform = identity.platform(), "the node runs");
    let mut serving = data
        .handle()
        .spawn(bugle_node::serve(identity, host, terms, stop.clone()));
    tokio::select! {
        biased;
        () = &mut shutdown => {}
        _ = &mut serving => return Ok(()),
    }
    tracing::info!(node = name, "the node ends; its instances are moved");
    stop.cancel();
    _ = serving.await;
    Ok(())
}

/// A name for this process that no other has: hosts and their processes may be copies, too.
fn process() -> String {
    let mut unique = uuid::Uuid::new_v4().simple().to_string();
    unique.truncate(8);
    format!("{} ({unique})", crate::opened::who("a node"))
}

async fn identity(folder: &Path, options: &NodeOptions) -> Result<Identity, NodeError> {
    if let Some(pod) = &options.pod {
        return Ok(joined_pod(folder, options, pod).await?);
    }
    if let Some(known) = known(folder, options).await? {
        if options.chosen && known.node() != options.name.as_str() {
            tracing::warn!(
                name = known.node(), asked = %options.name,
                "this node has joined already and keeps its name; with an empty data folder and a new token it joins \
                 under another"
            );
        }
        return Ok(known);
    }
    let (Some(address), Some(token)) = (&options.platform, &options.token) else {
        return Err(NodeError::NotJoined);
    };
    Ok(Identity::join(folder, address, token, &options.name, None).await?)
}

/// Who the node is already, and where its platform is now. With a token of another platform, or where it was removed or
/// its certificate has expired, it is nobody.
async fn known(folder: &Path, options: &NodeOptions) -> Result<Option<Identity>, IdentityError> {
    let Some(known) = Identity::load(folder)? else {
        return Ok(None);
    };
    if let Some(address) = &options.platform
        && *address != known.platform()
    {
        known.move_to(address)?;
    }
    if let Some(token) = &options.token
        && (!known.is_of(token) || known.has_expired() || known.is_refused(&known.platform()).await)
    {
        tracing::info!(
            "this node is none of the platform of this token, or not any more; it joins anew"
        );
        return Ok(None);
    }
    Ok(Some(known))
}

/// Joins as a Pod, again and again until it is let in: the platform may be starting, or not have heard of the Pod yet.
async fn joined_pod(
    folder: &Path,
    options: &NodeOptions,
    pod: &PodOptions,
) -> Result<Identity, IdentityError> {
    let (mut pause, mut told) = (FIRST_PAUSE, String::new());
    loop {
        let reason = match join_pod(folder, options, pod).await {
            Ok(identity) => return Ok(identity),
            Err(IdentityError::Refused(reason)) => reason,
            Err(
                error @ (IdentityError::Connect { .. }
                | IdentityError::Stranger { .. }
                | IdentityError::Clock { .. }),
            ) => report(&error),
            Err(error) => return Err(error),
        };
        if reason != told {
            tracing::warn!(reason, "this Pod has not joined yet");
            told = reason;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Asks once. A platform with another authority than before is another one, and who the Pod was there is worth nothing.
async fn join_pod(
    folder: &Path,
    options: &NodeOptions,
    pod: &PodOptions,
) -> Result<Identity, IdentityError> {
    let refused = |reason: String| IdentityError::Refused(reason);
    let shown = pod.token_file.display();
    let text = std::fs::read_to_string(&pod.token_file)
        .map_err(|error| refused(format!("{shown} cannot be read: {error}")))?;
    let token: JoinToken = text
        .parse()
        .map_err(|error| refused(format!("{shown}: {error}")))?;
    if let Some(known) = known(folder, options)
        .await?
        .filter(|known| known.is_of(&token))
    {
        return Ok(known);
    }
    let address = options.platform.as_deref().unwrap_or_default();
    Identity::join(folder, address, &token, &options.name, Some(&pod.uid)).await
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
    let uploads = packages.uploads();
    if uploads.find(tenant, &digest).await.is_ok() {
        uploads.touch(tenant, &digest, SystemTime::now()).await;
        return Ok(());
    }
    let mut stored = receive(packages, source, tenant, &digest).await?;
    if matches!(stored, Err(bugle_artifacts::Error::StoreFull { .. })) {
        trim(packages, 0).await;
        stored = receive(packages, source, tenant, &digest).await?;
    }
    _ = stored.map_err(|error| report(&error))?;
    trim(packages, packages.cache_bytes()).await;
    Ok(())
}

/// Stores a package as the platform sends it. The outer error is about the way.
async fn receive(
    packages: &Packages,
    source: &PackageSource,
    tenant: &TenantId,
    digest: &Sha512,
) -> Result<Result<Uploaded, bugle_artifacts::Error>, String> {
    let opened = source.open(tenant, digest.as_str()).await;
    let package = opened.map_err(|error| report(&error))?;
    let chunks = stream::unfold(package, |mut package| async move {
        let chunk = package.next().await.transpose()?;
        Some((chunk, package))
    });
    Ok(packages.uploads().put(tenant, Some(digest), chunks).await)
}

/// Removes packages that were used least lately: they can be fetched again.
async fn trim(packages: &Packages, bytes: u64) {
    match packages.uploads().trim(bytes, SystemTime::now()).await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "packages that were fetched are removed"),
        Err(error) => {
            let reason = report(&error);
            tracing::warn!(reason, "packages that were fetched cannot be removed");
        }
    }
}
