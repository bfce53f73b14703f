//! Why there is no code to run.

use std::io;
use std::path::PathBuf;

use bugle_types::Code;

use crate::address::{CertificateError, Refused, RuleError};
use crate::archive;
use crate::copy::CopyError;

/// Why there is no directory with the code, or no place for a package. The texts go to whoever
/// called or deployed the function, and have nothing in them of what another server sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A root that the operator listed cannot be used.
    #[error("the code root {} cannot be used", path.display())]
    Root {
        /// The root.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is not below any root.
    #[error(
        "the code path {} is not below {}; start the platform with --code-root set to a \
         directory above it, or send the code with `bugle deploy --package`",
        path.display(),
        list(roots)
    )]
    Outside {
        /// The path, with its links followed.
        path: PathBuf,
        /// The roots.
        roots: Vec<PathBuf>,
    },
    /// The path is not an absolute one.
    #[error("the code path {path:?} is not absolute; give the full path of the directory")]
    Relative {
        /// The path.
        path: String,
    },
    /// The path cannot be read.
    #[error("the code path {path} cannot be read")]
    Unreadable {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The path is a file.
    #[error(
        "the code path {path} is not a directory; give the directory that holds the handler's file"
    )]
    NotADirectory {
        /// The path.
        path: String,
    },
    /// The code cannot be copied.
    #[error("the code path {path} cannot be copied")]
    Copy {
        /// The path.
        path: String,
        /// Why.
        source: CopyError,
    },
    /// The function has no code.
    #[error("the function has no code; update it with storageType local and a codePath")]
    NoCode,
    /// The package cannot be unpacked.
    #[error(transparent)]
    Package(#[from] archive::Error),
    /// The bytes are others than those that were registered.
    #[error(
        "{package} is not what was registered: its sha512 is {found}, and {expected} was given; \
         nothing of it was run"
    )]
    Digest {
        /// Which package.
        package: String,
        /// What was given.
        expected: String,
        /// What the bytes have.
        found: String,
    },
    /// What was given as a sha512 is none.
    #[error("{given:?} is no sha512; give the 128 hexadecimal digits that `sha512sum` prints")]
    Sha512 {
        /// What was given, shortened.
        given: String,
    },
    /// The address of the store is not one that may be used.
    #[error("the package cannot be fetched")]
    Address(#[source] Refused),
    /// The bucket belongs to the platform.
    #[error(
        "the bucket {bucket} holds the packages that were uploaded, which are reached by \
         their sha512 alone; use what the upload answered as s3CodePath"
    )]
    OwnBucket {
        /// The bucket.
        bucket: String,
    },
    /// A name that cannot be the one of a bucket or an object.
    #[error("{what} is not {rule}")]
    Name {
        /// What was given.
        what: String,
        /// What it has to be.
        rule: &'static str,
    },
    /// The store did not give the package.
    #[error("{package} cannot be fetched: {why}")]
    Download {
        /// Which package.
        package: String,
        /// What happened.
        why: String,
    },
    /// The store did not take the package.
    #[error("the package cannot be stored: {why}")]
    Upload {
        /// What happened.
        why: String,
    },
    /// Nothing was uploaded with this digest.
    #[error(
        "no package with the sha512 {sha512} has been uploaded, or it was unused and has been \
         removed; upload it again"
    )]
    NotUploaded {
        /// The digest.
        sha512: String,
    },
    /// There is no place for more uploads.
    #[error(
        "uploaded packages take {max} bytes, the limit packages.store_bytes; delete packages, or \
         have the limit raised"
    )]
    StoreFull {
        /// The limit.
        max: u64,
    },
    /// Everything in the cache is in use.
    #[error(
        "a package takes {bytes} bytes, and the cache of packages is full of what running \
         instances use; raise packages.cache_bytes, which is {max}"
    )]
    CacheFull {
        /// What the package takes.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The cache is so small that what enters it leaves it at once.
    #[error("the package left the cache before it could be used; raise packages.cache_bytes")]
    Evicted,
    /// The cache cannot be read or written.
    #[error("the cache of packages cannot be used")]
    Cache(#[source] io::Error),
    /// The store of uploaded packages cannot be read or written.
    #[error("the store of uploaded packages cannot be used")]
    Store(#[source] io::Error),
    /// The platform is stopping.
    #[error("the platform is stopping")]
    Interrupted,
    /// `addresses.allowed` cannot be read.
    #[error("addresses.allowed")]
    Allowed(#[source] RuleError),
    /// The certificates cannot be used.
    #[error("no connection can be made")]
    Certificates(#[source] CertificateError),
}

impl Error {
    pub(crate) fn cache(source: io::Error) -> Self {
        Self::Cache(source)
    }

    /// The number that clients know it by; nothing where it is the platform's own failure.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Package(error) => error.code(),
            Self::Digest { .. }
            | Self::Sha512 { .. }
            | Self::Name { .. }
            | Self::OwnBucket { .. }
            | Self::NotUploaded { .. }
            | Self::StoreFull { .. } => Some(Code::InvalidUserParam),
            _ => None,
        }
    }
}

fn list(roots: &[PathBuf]) -> String {
    if roots.is_empty() {
        return "any code root, because none is set".to_owned();
    }
    let roots: Vec<String> = roots
        .iter()
        .map(|root| root.display().to_string())
        .collect();
    format!("a code root ({})", roots.join(", "))
}
