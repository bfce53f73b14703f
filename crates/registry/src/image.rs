//! Functions that are images: what a request makes of them, and to what their names are pinned.

use std::collections::BTreeMap;
use std::sync::Arc;

use bugle_api::{ContainerObject, Error, ExtendedMetaData, Initializer, check_container};
use bugle_types::Runtime;

use crate::record::{ContainerPart, VersionPart};
use crate::{BoxFuture, Registry};

/// How long `POST /init` may take when nothing is said, in seconds.
const INITIALIZER_TIMEOUT: i64 = 3;

/// Asks the registry of an image what its name stands for now.
pub type Resolve = Arc<dyn Fn(&str) -> BoxFuture<'static, Resolved> + Send + Sync>;

/// What became of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// This digest, `sha256:…`.
    Digest(String),
    /// The registry says that there is no such image; the text says who said what.
    Missing(String),
    /// Nobody could be asked. The start of an instance will ask again.
    Unknown,
}

/// Where nobody can be asked.
pub fn unresolved() -> Resolve {
    Arc::new(|_| Box::pin(async { Resolved::Unknown }))
}

/// Whether the version runs an image.
fn is_image(version: &VersionPart) -> bool {
    match Runtime::of_image(&version.runtime) {
        Runtime::Image(_) => {
            // A program of the runtime `http` has no image.
            !matches!(Runtime::from_name(&version.runtime), Runtime::Program(_))
                || !version.custom_container_config.image.is_empty()
        }
        _ => false,
    }
}

/// Puts what a request says of its container into a version. An image stays what it is when the
/// request does not speak of it; other functions lose the settings that mean nothing to them.
pub(crate) fn apply(version: &mut VersionPart, requested: Option<ExtendedMetaData>) {
    let settings = match requested {
        Some(settings) => settings,
        None if version.container.is_some() => return,
        None => ExtendedMetaData::default(),
    };
    version.custom_container_config = settings.custom_container_config;
    version.custom_health_check = settings.custom_health_check;
    if !is_image(version) {
        version.container = None;
        return;
    }
    let Initializer {
        initializer_handler: handler,
        initializer_timeout: timeout,
    } = settings.initializer;
    if !handler.is_empty() {
        let timeout = if timeout == 0 {
            INITIALIZER_TIMEOUT
        } else {
            timeout
        };
        let key = || "initializer".to_owned();
        version.extended_handler.insert(key(), handler);
        version.extended_timeout.insert(key(), timeout);
    }
    version.container = Some(ContainerPart {
        image_digest: String::new(),
        runtime_graceful_shutdown: settings.runtime_graceful_shutdown,
        network_controller: settings.network_controller,
        mount_config: settings.mount_config,
        ephemeral_storage: settings.ephemeral_storage,
        xrole: settings.xrole,
        secret_variables: settings.secret_variables,
    });
}

/// The settings of a version's container, as they are kept.
fn settings(version: &VersionPart, container: &ContainerPart) -> ExtendedMetaData {
    let hook = |map: &BTreeMap<String, String>| map.get("initializer").cloned();
    ExtendedMetaData {
        custom_container_config: version.custom_container_config.clone(),
        custom_health_check: version.custom_health_check.clone(),
        initializer: Initializer {
            initializer_handler: hook(&version.extended_handler).unwrap_or_default(),
            initializer_timeout: version
                .extended_timeout
                .get("initializer")
                .copied()
                .unwrap_or(0),
        },
        runtime_graceful_shutdown: container.runtime_graceful_shutdown.clone(),
        network_controller: container.network_controller.clone(),
        mount_config: container.mount_config.clone(),
        ephemeral_storage: container.ephemeral_storage,
        xrole: container.xrole.clone(),
        secret_variables: container.secret_variables.clone(),
    }
}

/// What answers show of a version's container.
pub(crate) fn shown(version: &VersionPart) -> Option<ContainerObject> {
    let container = version.container.as_ref()?;
    let pre_stop = version.extended_handler.get("pre_stop");
    let pre_stop_timeout = version.extended_timeout.get("pre_stop");
    Some(ContainerObject {
        image_digest: container.image_digest.clone(),
        pre_stop_handler: pre_stop.cloned().unwrap_or_default(),
        pre_stop_timeout: pre_stop_timeout.copied().unwrap_or(0),
        settings: settings(version, container),
    })
}

impl Registry {
    /// Checks an image function, and pins its image to what its name stands for now. Nothing happens
    /// to other functions.
    pub(crate) async fn pin(
        &self,
        version: &mut VersionPart,
        environment: Option<&BTreeMap<String, String>>,
    ) -> Result<(), Error> {
        if version.container.is_none() {
            return Ok(());
        }
        let container = version.container.clone().unwrap_or_default();
        let names = environment.into_iter().flatten();
        let names = names.map(|(name, _)| name.as_str());
        let image = check_container(&settings(version, &container), names).map_err(Error::field)?;
        let digest = self.digest(image.as_str(), image.digest()).await?;
        if let Some(container) = &mut version.container {
            container.image_digest = digest.unwrap_or_default();
        }
        Ok(())
    }

    /// Pins an image that could not be pinned before.
    pub(crate) async fn pin_if_loose(&self, version: &mut VersionPart) -> Result<(), Error> {
        match &version.container {
            Some(container) if container.image_digest.is_empty() => self.pin(version, None).await,
            _ => Ok(()),
        }
    }

    async fn digest(&self, image: &str, named: Option<&str>) -> Result<Option<String>, Error> {
        match (self.resolve)(image).await {
            Resolved::Digest(digest) => Ok(Some(digest)),
            Resolved::Missing(why) => Err(Error::field(format!(
                "The image does not exist. {image}: {why}"
            ))),
            Resolved::Unknown => {
                tracing::info!(
                    image,
                    "image is pinned when it starts, its registry cannot be asked"
                );
                Ok(named.map(str::to_owned))
            }
        }
    }
}
