//! Wire shapes of the operator routes about container images: `/bugle/v1/images` and
//! `/bugle/v1/registries`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /bugle/v1/images`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageList {
    /// The images, by name.
    pub images: Vec<ImageObject>,
    /// The pulls that run now.
    pub pulls: Vec<PullObject>,
}

/// An image of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageObject {
    /// Its digest, `sha256:…`.
    pub digest: String,
    /// What means it: `host/path:tag`, or `host/path@digest`.
    pub names: Vec<String>,
    /// What its layers take on disk, in bytes; what several images share counts for each.
    pub size: u64,
    /// When it came, in seconds since 1970.
    pub added: u64,
    /// When it was used last, in seconds since 1970.
    pub used: u64,
    /// Whether an instance runs from it.
    pub in_use: bool,
    /// Whether all of its layers are here; others are fetched at the next start.
    pub complete: bool,
    /// Whether it came from a file: then it is not removed to make room.
    pub loaded: bool,
}

/// A pull at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PullObject {
    /// What is pulled.
    pub reference: String,
    /// The layers; none before the manifest was read.
    pub layers: Vec<LayerObject>,
}

/// A layer of a pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LayerObject {
    /// The digest of its blob.
    pub digest: String,
    /// The bytes to fetch.
    pub size: u64,
    /// How many of them came.
    pub fetched: u64,
    /// How many bytes were unpacked of what they inflate to.
    pub unpacked: u64,
    /// It is ready.
    pub ready: bool,
}

/// Body of `POST /bugle/v1/images`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// `host[:port]/path[:tag][@digest]`.
    pub reference: String,
}

/// One line of the answer of `POST /bugle/v1/images`: how far the pull is, and at last what came of
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum PullLine {
    /// It goes on.
    Progress(PullObject),
    /// It is done.
    Image(ImageObject),
    /// It failed.
    Error(PullFailure),
}

/// Why a pull failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PullFailure {
    /// The HTTP status that the answer would have had, had it not begun before.
    pub status: u16,
    /// The code that clients branch on.
    pub code: u32,
    /// What is wrong.
    pub message: String,
}

/// Answer of `POST /bugle/v1/images/archive`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LoadAnswer {
    /// The images of the archive.
    pub images: Vec<ImageObject>,
}

/// Body of `POST /bugle/v1/images/prune`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PruneRequest {
    /// Takes all images that no instance uses, not only those that nothing means any more.
    pub all: bool,
}

/// Answer of `DELETE /bugle/v1/images` and of `POST /bugle/v1/images/prune`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RemovedImages {
    /// The digests of the images that are gone; a name may go and its image stay.
    pub images: Vec<String>,
    /// What was freed on disk, in bytes.
    pub freed: u64,
}

/// Body of `PUT /bugle/v1/registries`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The registry's host, with its port where it needs one.
    pub registry: String,
    /// The name.
    pub username: String,
    /// The password or token. It is kept sealed and never shown.
    pub password: String,
}

impl std::fmt::Debug for LoginRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "LoginRequest({:?}, {:?}, …)",
            self.registry, self.username
        )
    }
}

/// Answer of `GET /bugle/v1/registries`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RegistryList {
    /// The registries for which credentials are kept.
    pub registries: Vec<String>,
}
