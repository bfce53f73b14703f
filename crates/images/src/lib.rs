//! Turns the reference of a container image into layers on disk, ready for overlayfs.
//!
//! [`ImageStore`] keeps unpacked layers by the digest of their contents, so that what images share is
//! stored once, and images by the digest that their tag had. What is missing comes from a registry, or
//! came from a file. It does not mount and does not run anything.
//!
//! ```no_run
//! # async fn example(network: bugle_images::Network) -> Result<(), bugle_images::ImageError> {
//! use bugle_images::{Config, ImageStore};
//!
//! let store = ImageStore::open("images".as_ref(), Config::default(), network)?;
//! let image = store.ready("docker.io/library/nginx:1.27", None).await?;
//! println!("{:?} over {:?}", image.config.entrypoint, image.layers);
//! # Ok(())
//! # }
//! ```

mod archive;
mod config;
mod digest;
mod document;
mod error;
mod layer;
mod progress;
mod reference;
mod registry;
mod store;
#[cfg(test)]
mod testing;

pub use config::Config;
pub use digest::{Digest, NotADigest};
pub use document::ImageConfig;
pub use error::{ErrorKind, ImageError};
pub use progress::{LayerProgress, PullProgress};
pub use reference::Reference;
pub use registry::{Credentials, CredentialsError, Login, Network, NetworkError, Vault};
pub use store::{
    Hold, ImageInfo, ImageStore, LoginError, Needed, Origin, Prune, Pruned, ReadyImage,
};
