//! Makes Pod pools real on Kubernetes.
//!
//! [`manifest`] turns a pool into the objects of the cluster; [`decide`](mod@decide) compares what is wanted with
//! what there is and says what to do. Both are pure. [`Controller`] is the shell around them: it follows the
//! [`Records`] of pools and the cluster, carries out what is decided, and writes back how far each pool has come. Of
//! several processes the one that holds a Lease acts. Nothing is connected before a controller is made.

mod caches;
mod cluster;
mod config;
mod controller;
pub mod decide;
mod execute;
mod leader;
pub mod manifest;
mod metrics;
pub mod names;
pub mod observed;
#[cfg(test)]
mod testing;
mod workers;

pub use cluster::{Cluster, ConnectError};
pub use config::Config;
pub use controller::{BoxFuture, Controller, GrowError, Handle, PoolMap, Records};
pub use metrics::Metrics;
pub use workers::{Use, Workers};
