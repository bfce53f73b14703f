//! Container images: the store of this machine, and what others ask it.

mod pulls;
mod routes;

use std::path::Path;
use std::sync::Arc;

use bugle_artifacts::address;
use bugle_images::{Credentials, ErrorKind, ImageStore, Network, Vault};
use bugle_registry::{Keyring, Resolve, Resolved};
use bugle_types::report;

use crate::StartError;
pub(crate) use pulls::progress;
pub(crate) use routes::{Images, router};

/// What the sealed credentials of registries are for.
const PURPOSE: &str = "credentials of registries";

/// Opens the store of images in the data folder.
pub(crate) fn open(
    folder: &Path,
    config: &bugle_images::Config,
    addresses: &address::Config,
    keyring: Arc<Keyring>,
) -> Result<ImageStore, StartError> {
    let vault = Arc::new(Sealed(keyring));
    let credentials = folder.join("registries.sealed");
    let credentials = Credentials::open(&credentials, vault, &config.credential_files)
        .map_err(StartError::Credentials)?;
    let network = Network::new(addresses, credentials).map_err(StartError::Network)?;
    ImageStore::open(&folder.join("images"), config.clone(), network).map_err(StartError::Images)
}

/// Credentials lie on disk under the deployment's key.
#[derive(Debug)]
struct Sealed(Arc<Keyring>);

impl Vault for Sealed {
    fn seal(&self, text: &str) -> Result<String, String> {
        let sealed = self.0.seal_secret(PURPOSE, text);
        sealed.map_err(|error| report(&error))
    }

    fn open(&self, sealed: &str) -> Result<String, String> {
        let open = self.0.open_secret(PURPOSE, sealed);
        open.map_err(|_| "they were sealed with another key than environment.key".to_owned())
    }
}

/// Asks registries for those who register functions.
pub(crate) fn resolver(store: ImageStore) -> Resolve {
    Arc::new(move |reference| {
        let (store, reference) = (store.clone(), reference.to_owned());
        Box::pin(async move {
            match store.resolve(&reference).await {
                Ok(digest) => Resolved::Digest(digest.to_string()),
                Err(error) if error.kind() == ErrorKind::Missing => {
                    Resolved::Missing(error.to_string())
                }
                Err(error) => {
                    let error = report(&error);
                    tracing::info!(image = reference, error, "an image is not resolved yet");
                    Resolved::Unknown
                }
            }
        })
    })
}
