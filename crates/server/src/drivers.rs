//! The drivers of a machine and what they are built on, for a platform and for a node alike.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bugle_artifacts::{CodeRoots, Packages};
use bugle_images::ImageStore;
use bugle_instances::{
    Confinement, Drivers, EnvironmentOpener, LogSink, ProgramDependencies, ProgramDriver,
    PythonDependencies, PythonDriver, Surroundings,
};
use bugle_registry::Keyring;

use crate::config::Config;
use crate::{StartError, containers, roots};

/// The folder with what the platform needs beside its instances.
fn runtime_dir(config: &Config) -> PathBuf {
    config.server.data_dir.join("runtime")
}

/// The packages, and the folders below which code is.
pub(crate) fn packages(config: &Config) -> Result<(Packages, Vec<PathBuf>), StartError> {
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
        environment: crate::packages::environment(),
    };
    let packages = Packages::open(config.packages.clone(), foundation);
    let packages = packages.map_err(StartError::Packages)?;
    code.push(packages.folder().to_owned());
    Ok((packages, code))
}

/// How instances are confined; they reach neither the control API nor each other's programs.
pub(crate) fn confinement(
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
pub(crate) struct Foundation {
    pub(crate) packages: Packages,
    pub(crate) images: ImageStore,
    pub(crate) confinement: Arc<Confinement>,
    pub(crate) open_environment: EnvironmentOpener,
    pub(crate) logs: Arc<dyn LogSink>,
}

/// Decrypts the variables of functions.
pub(crate) fn opener(keyring: Arc<Keyring>) -> EnvironmentOpener {
    Arc::new(move |id, sealed| {
        keyring
            .open_environment(&id.tenant, &id.name, sealed)
            .map_err(|error| error.to_string())
    })
}

/// The drivers of this machine, on the current runtime.
pub(crate) fn drivers(config: &Config, foundation: Foundation) -> Result<Drivers, StartError> {
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
