//! Has images ready for those who start containers.

use std::sync::Arc;

use bugle_artifacts::address::Policy;
use bugle_images::{ErrorKind, ImageError, ImageStore};
use bugle_instances::{
    BoxFuture, Confinement, ContainerDependencies, ContainerDriver, EnvironmentOpener, ImageConfig,
    Images, LogSink, Rootfs, StartError,
};
use bugle_types::{ContainerSpec, report};

use crate::config::Config;

/// The driver of containers, on the current runtime.
pub(crate) fn driver(
    config: &Config,
    images: ImageStore,
    open_environment: &EnvironmentOpener,
    logs: &Arc<dyn LogSink>,
    confinement: &Arc<Confinement>,
) -> Result<ContainerDriver, crate::StartError> {
    let outside = Policy::new(&config.addresses).map_err(crate::StartError::Addresses)?;
    let dependencies = ContainerDependencies {
        images: Arc::new(Pulled(images)),
        logs: Arc::clone(logs),
        open_environment: Arc::clone(open_environment),
        confinement: Arc::clone(confinement),
        outside,
        folder: config.server.data_dir.join("containers"),
        // This very program, also when its file was replaced by a newer one.
        cell: "/proc/self/exe".into(),
    };
    Ok(ContainerDriver::new(
        config.containers.clone(),
        dependencies,
    ))
}

/// Images of the store, pulled when a start needs them.
struct Pulled(ImageStore);

impl Images for Pulled {
    fn ready<'a>(&'a self, spec: &'a ContainerSpec) -> BoxFuture<'a, Result<Rootfs, StartError>> {
        Box::pin(async move {
            let ready = self.0.ready(&spec.image, spec.digest.as_deref()).await;
            let ready = ready.map_err(|error| refusal(&error))?;
            let config = ImageConfig {
                entrypoint: ready.config.entrypoint,
                cmd: ready.config.cmd,
                env: ready.config.env,
                working_dir: ready.config.working_dir,
                stop_signal: ready.config.stop_signal,
            };
            Ok(Rootfs {
                layers: ready.layers,
                config,
                hold: ready.hold,
            })
        })
    }
}

fn refusal(error: &ImageError) -> StartError {
    let text = report(error);
    match error.kind() {
        ErrorKind::Internal => StartError::Platform(text),
        _ => StartError::Unsupported(text),
    }
}
