//! Functions that are container images: each instance is a container in which a server listens on
//! port 8000 (`docs/containers.md`).
//!
//! `image` decides what runs, from what the image and the function say. `cells` makes processes ahead
//! of need that `cell` turns into containers, by itself or through another runtime (`backend`, `oci`).
//! `egress` is their way to the outside, `folder` what they write to, and `instance` what the scheduler
//! sees. How a server is spoken with is the same as for any program (`program`).

mod backend;
pub(crate) mod cell;
mod cells;
mod config;
mod egress;
mod folder;
mod foresee;
mod image;
mod instance;
mod netlink;
mod oci;
mod orders;
mod search;
mod start;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bugle_artifacts::address::Policy;
use bugle_types::ContainerNetwork;
use tokio::runtime::Handle;

use crate::confinement::{Confinement, Level};
use crate::environment::EnvironmentOpener;
use crate::{BoxFuture, Driver, LogSink, StartError, StartRequest, Started};

use backend::{Backend, Native};
use cells::{Cells, Making};
pub use config::{ContainerConfig, ContainerRuntime, HostDirectory};
use folder::Folders;
pub use foresee::{Lack, Need, foresee as foresee_containers};
pub use image::{ImageConfig, Images, Rootfs};

/// What a driver needs from the rest of the platform.
#[derive(Clone)]
pub struct ContainerDependencies {
    /// Has images ready.
    pub images: Arc<dyn Images>,
    /// Where the lines of functions go.
    pub logs: Arc<dyn LogSink>,
    /// What opens a function's variables.
    pub open_environment: EnvironmentOpener,
    /// Where instances are limited.
    pub confinement: Arc<Confinement>,
    /// What containers may reach beside public addresses.
    pub outside: Policy,
    /// A directory of the platform's own for what instances write; on a file system that overlayfs
    /// can write to.
    pub folder: PathBuf,
    /// The binary that becomes a cell: this very program, unless a test says otherwise.
    pub cell: PathBuf,
}

impl fmt::Debug for ContainerDependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerDependencies")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Starts containers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ContainerDriver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ContainerConfig,
    dependencies: ContainerDependencies,
    backend: Box<dyn Backend>,
    /// Made with the first start: most platforms never run an image.
    cells: OnceLock<Result<Arc<Cells>, String>>,
    /// Where containers are watched; the runtime on which their calls are made.
    runtime: Handle,
}

impl ContainerDriver {
    /// A driver whose instances live on the current tokio runtime.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(config: ContainerConfig, dependencies: ContainerDependencies) -> Self {
        let backend: Box<dyn Backend> = match config.runtime {
            ContainerRuntime::Native => Box::new(Native),
            ContainerRuntime::Oci => Box::new(oci::Runtime::new(&config.oci_command)),
        };
        Self {
            shared: Arc::new(Shared {
                config,
                dependencies,
                backend,
                cells: OnceLock::new(),
                runtime: Handle::current(),
            }),
        }
    }

    /// Starts in the background what the first start needs.
    pub fn prepare(&self) {
        let shared = Arc::clone(&self.shared);
        self.shared.runtime.spawn_blocking(move || {
            if let Ok(cells) = shared.cells() {
                cells.refill(ContainerNetwork::Nat);
            }
        });
    }
}

impl Shared {
    /// # Errors
    ///
    /// What this machine lacks for containers, and what to do.
    fn cells(&self) -> Result<&Arc<Cells>, StartError> {
        let cells = self.cells.get_or_init(|| self.make_cells());
        cells
            .as_ref()
            .map_err(|why| StartError::Unsupported(why.clone()))
    }

    /// Whether this platform may make containers at all.
    fn may_make(&self) -> Result<(), String> {
        let confinement = &self.dependencies.confinement;
        if confinement.level() != Level::Full {
            return Err(NEEDS_ROOT.to_owned());
        }
        confinement.suffices()
    }

    fn make_cells(&self) -> Result<Arc<Cells>, String> {
        let dependencies = &self.dependencies;
        self.may_make()?;
        let folder = dependencies.folder.display();
        let folders = Folders::open(&dependencies.folder)
            .map_err(|error| format!("{folder} cannot be used for containers: {error}"))?;
        let making = Making {
            folders,
            keep: self.config.prepared,
            bare: self.backend.wants_bare_cells(),
            program: dependencies.cell.clone(),
            shm_bytes: self.config.shared_memory_mb * 1024 * 1024,
        };
        Cells::new(making, &dependencies.confinement)
    }
}

/// What is said where containers cannot be made.
const NEEDS_ROOT: &str = "container images run only where the platform runs as root with confinement on \
                          (confinement.enabled): they need namespaces, mounts and control groups; run \
                          bugle as root, or register the function with another runtime";

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(Ok(cells)) = self.cells.get() {
            cells.clear();
        }
    }
}

impl Driver for ContainerDriver {
    fn start(&self, request: StartRequest) -> BoxFuture<'_, Result<Started, StartError>> {
        Box::pin(start::start(Arc::clone(&self.shared), request))
    }
}
