//! The store that is configured, opened for a platform.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bugle_store::{EtcdStore, Kind, Membership, SqliteStore, Store};
use prometheus_client::registry::Registry as Metrics;

use crate::StartError;
use crate::config::Config;

/// The store, and the lock of the data folder where the store does not hold it itself.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) lock: Option<File>,
    /// How to join others, where several work together.
    pub(crate) membership: Option<Membership>,
}

/// How this process calls itself to others on the same etcd.
pub(crate) fn who(what: &str) -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{what} on {host}, process {}", std::process::id())
}

/// Opens the store that is configured; no connection is made for one in a file.
pub(crate) fn store(
    config: &Config,
    folder: &Path,
    metrics: &mut Metrics,
) -> Result<Opened, StartError> {
    let measured = bugle_store::Metrics::register(metrics);
    let failed = StartError::Store;
    Ok(match config.store.kind {
        Kind::Embedded => Opened {
            store: Arc::new(SqliteStore::open(folder, &config.store, measured).map_err(failed)?),
            lock: None,
            membership: None,
        },
        Kind::Etcd => {
            let lock = bugle_store::lock_folder(folder).map_err(failed)?;
            let measured = measured.with_etcd(metrics);
            let (etcd, who) = (&config.etcd, who("a platform"));
            let patience = Duration::from_secs(etcd.start_timeout_seconds);
            let works_alone = config.cluster.listen.is_empty();
            let store = if works_alone {
                EtcdStore::open_alone(etcd, &config.store, measured, &who, patience)
            } else {
                EtcdStore::open(etcd, &config.store, measured)
            };
            let store = store.map_err(failed)?;
            Opened {
                membership: (!works_alone).then(|| store.membership()),
                store: Arc::new(store),
                lock: Some(lock),
            }
        }
    })
}
