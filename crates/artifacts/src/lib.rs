//! Turns what a function calls its code into a directory that is ready to run.
//!
//! Code that is on the machine is used in place or copied: the operator lists the directories below
//! which it may be, and a function gets a path only if it is really below one of them, whatever
//! links it goes through. Packages come from an object store that speaks S3, or were uploaded; they
//! are checked, unpacked with suspicion ([`archive`]) and kept in one cache, read-only, for as long
//! as an instance runs them and there is room. Addresses that functions name meet the operator's
//! policy ([`address`]).
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use bugle_artifacts::{CodeRoots, Config, Foundation, Packages};
//! use bugle_types::{CodeLocation, Generation, TenantId};
//!
//! # let dir = tempfile::tempdir()?;
//! # std::fs::create_dir(dir.path().join("hello"))?;
//! let foundation = Foundation {
//!     roots: CodeRoots::new(&[dir.path().to_owned()])?,
//!     cache: dir.path().join("cache"),
//!     uploads: dir.path().join("uploads"),
//!     addresses: Default::default(),
//!     environment: Vec::new(),
//! };
//! let packages = Packages::open(Config::default(), foundation)?;
//! let code = CodeLocation::Copy(dir.path().join("hello").to_string_lossy().into_owned());
//! let (tenant, generation) = ("default".parse::<TenantId>()?, Generation("1".into()));
//! let ready = packages.ready(&tenant, &code, &generation).await?;
//! assert!(ready.directory()?.starts_with(dir.path().join("cache")));
//! # bugle_artifacts::make_writable(&dir.path().join("cache"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

pub mod address;
pub mod archive;
mod bytecode;
mod cache;
mod config;
mod copy;
mod digest;
mod error;
mod packages;
mod receive;
mod remove;
mod roots;
mod s3;
mod uploads;

pub use bytecode::Compilation;
pub use config::Config;
pub use copy::{CopyError, open_directory};
pub use digest::Sha512;
use digest::hex;
pub use error::Error;
pub use packages::{Code, Foundation, Packages};
pub use remove::make_writable;
pub use roots::CodeRoots;
pub use uploads::{Uploaded, Uploads};

/// What takes the place of a store's address for a package that was uploaded; its digest is the
/// name of the object.
pub const UPLOADED: &str = "bugle:";

/// What stands for the bucket of such a package.
pub const UPLOADED_BUCKET: &str = "uploads";
