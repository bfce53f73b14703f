//! What can go wrong between a reference and layers on disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Digest;

/// Why there is no image. Everyone who waits for the same pull gets the same one.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The text is no reference.
    #[error(
        "{text:?} is not an image reference: {reason}; write it as host[:port]/path[:tag][@digest]"
    )]
    Reference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The registry answered that it has no such image.
    #[error("{registry} has no image {image}; check its name and its tag")]
    Missing {
        /// The registry.
        registry: String,
        /// The image.
        image: String,
    },
    /// The registry does not let us read the image.
    #[error(
        "{registry} does not let {who} read {image}; check the name, or log in with `bugle login \
         {registry}`"
    )]
    Denied {
        /// The registry.
        registry: String,
        /// The image.
        image: String,
        /// As whom we asked: `user NAME` or `anyone`.
        who: String,
    },
    /// The registry could not be reached, or broke off again and again.
    #[error("{registry} cannot be reached: {reason}; check the network and the registry's address")]
    Unreachable {
        /// The registry.
        registry: String,
        /// What happened.
        reason: String,
    },
    /// The operator does not allow this address.
    #[error("{url} may not be used: {reason}")]
    Forbidden {
        /// The address, without what may be secret in it.
        url: String,
        /// Which rule forbids it and how the operator changes it.
        reason: String,
    },
    /// The registry answered something that is not of its interface.
    #[error("{registry} answered the request for {what} with {answer}")]
    Answer {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What it said instead.
        answer: String,
    },
    /// The image is for other machines.
    #[error(
        "the image is for {offered}, and this machine is {wanted}; build it for {wanted}, or push an \
         index that has it"
    )]
    Platform {
        /// This machine.
        wanted: String,
        /// What the image is for.
        offered: String,
    },
    /// Bytes are not those that their digest names.
    #[error("{what} has the digest {found} and not {expected}; nothing of it is used")]
    Digest {
        /// Which bytes.
        what: String,
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Bytes are more or fewer than was declared.
    #[error("{what} has not the {declared} bytes that its descriptor declares")]
    Length {
        /// Which bytes.
        what: String,
        /// How many there should be.
        declared: u64,
    },
    /// The image is larger than the operator allows.
    #[error(
        "the image has {what} of more than {limit_mib} MiB, which is the limit \
         (images.max_image_mib)"
    )]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// The limit.
        limit_mib: u64,
    },
    /// A manifest, a configuration or an archive that cannot be understood.
    #[error("{what} cannot be used: {reason}")]
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry of a layer that is not let in.
    #[error("layer {layer} has the entry {entry:?}, which is refused: {reason}")]
    Entry {
        /// The layer's diff id.
        layer: Digest,
        /// The entry's path.
        entry: String,
        /// Why.
        reason: String,
    },
    /// Our own disk refused something.
    #[error("the image store cannot {doing} {}", path.display())]
    Storage {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The store has no such image.
    #[error("there is no image {name} here; `bugle image ls` shows those that are")]
    NotHere {
        /// What was asked for.
        name: String,
    },
    /// Instances run from the image.
    #[error("image {name} is in use; stop the functions that run from it first")]
    InUse {
        /// The image.
        name: String,
    },
    /// A function is made of the image, which cannot be fetched again.
    #[error(
        "image {name} came from a file and the function {function} runs from it; delete the function \
         or give it another image first"
    )]
    Needed {
        /// The image.
        name: String,
        /// One of the functions.
        function: String,
    },
    /// The platform stops, or a part of the pull ended without a result.
    #[error("the pull of {image} was broken off; ask again")]
    BrokenOff {
        /// The image.
        image: String,
    },
}

/// Whose matter an error is; what an interface answers depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was asked for cannot be right.
    Invalid,
    /// There is no such image.
    Missing,
    /// Nobody let us have it.
    Denied,
    /// The registry answers badly or not at all; later it may.
    Unavailable,
    /// The image itself cannot be used here.
    Unusable,
    /// It cannot be done at this moment.
    Conflict,
    /// Our own machine failed.
    Internal,
}

impl ImageError {
    /// Whose matter it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference { .. } => ErrorKind::Invalid,
            Self::Missing { .. } | Self::NotHere { .. } => ErrorKind::Missing,
            Self::Denied { .. } | Self::Forbidden { .. } => ErrorKind::Denied,
            Self::Unreachable { .. } | Self::Answer { .. } | Self::BrokenOff { .. } => {
                ErrorKind::Unavailable
            }
            Self::Platform { .. }
            | Self::Digest { .. }
            | Self::Length { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. }
            | Self::Entry { .. } => ErrorKind::Unusable,
            Self::InUse { .. } | Self::Needed { .. } => ErrorKind::Conflict,
            Self::Storage { .. } => ErrorKind::Internal,
        }
    }

    /// Makes an error of our own disk out of what the system said.
    pub(crate) fn storage(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Storage {
            doing,
            path,
            source: Arc::new(source),
        }
    }

    pub(crate) fn malformed(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed {
            what: what.into(),
            reason: reason.into(),
        }
    }
}
