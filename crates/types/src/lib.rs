//! The vocabulary of Bugle: names, URNs, versions, units, resources, specifications of functions and
//! of [Pod pools](pool), inner codes.
//!
//! A value of a type here is a valid value: constructors are `FromStr` or `TryFrom`, `Display` is
//! the canonical text. Nothing here is asynchronous, reads a clock or does I/O, and every other
//! crate may use it.
//!
//! ```
//! use bugle_types::{FunctionUrn, Version};
//!
//! let urn: FunctionUrn = "sn:cn:yrk:default:function:0@svc@hello:latest".parse()?;
//! assert_eq!(urn.version, Some(Version::Draft));
//! # Ok::<(), bugle_types::ParseError>(())
//! ```

mod code;
mod container;
mod error;
mod function;
mod graph;
mod image;
mod name;
pub mod pool;
mod report;
mod resources;
mod runtime;
mod time;
mod urn;
mod version;

pub use code::Code;
pub use container::{
    CONTAINER_PORT, ContainerNetwork, ContainerSpec, DEFAULT_CONTAINER_DISK_MIB,
    DEFAULT_CONTAINER_USER, HealthCheck, Initialization, Mount,
};
pub use error::ParseError;
pub use function::{
    CodeLocation, FunctionId, FunctionSpec, Generation, Hook, Kind, LabelledScale, Scale,
    SealedEnvironment,
};
pub use graph::{GraphUrn, ShownUrn};
pub use image::ImageReference;
pub use name::{FunctionName, InstanceLabel, ProductId, TenantId};
pub use report::report;
pub use resources::{CpuMillis, MemoryMib, Resources};
pub use runtime::{ImageRuntime, ProgramRuntime, PythonVersion, Runtime};
pub use time::{RevisionId, Timestamp};
pub use urn::{BUSINESS, FunctionUrn};
pub use version::{Version, VersionLabel};
