//! Everything of a store into a file, and back: for backups, and to move from one store to another.
//!
//! It works on the store itself, not through a running platform: the file of the embedded store is
//! of one process at a time, and a store in etcd must not be changed beneath one that serves from it.

use std::fs::File;
use std::io::{BufReader, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bugle_registry::KeyringError;
use bugle_store::archive::{self, ArchiveError, Difference, Exported, Head};
use bugle_store::{EtcdFailure, EtcdStore, Kind, MemoryStore, Metrics, SqliteStore, Store};

use crate::config::Config;
use crate::shared;

/// A platform that serves from the same etcd is not waited for; only one that has just ended.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why nothing was exported or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[source] bugle_store::Error),
    /// Platforms serve from the store in etcd.
    #[error("the keys of etcd are in use ({other}); stop all platforms that work with them first")]
    InUse {
        /// Who serves, as they said.
        other: String,
    },
    /// There is no store to export.
    #[error("there is no store in {}; --data-dir names another folder", folder.display())]
    NoStore {
        /// The data folder.
        folder: PathBuf,
    },
    /// The key of the encrypted variables cannot be used.
    #[error("the key of the functions' variables cannot be used")]
    Key(#[source] KeyringError),
    /// What was exported is encrypted with another key than this platform has.
    #[error(
        "the export is encrypted with key {theirs}, and {} here; copy environment.key from the \
         exported data folder into {} first",
        ours.as_ref().map_or_else(|| "there is none".to_owned(), |ours| format!("{ours} is")),
        folder.display()
    )]
    OtherKey {
        /// The word for the key of the export.
        theirs: String,
        /// The word for the key here, if there is one.
        ours: Option<String>,
        /// Where the key belongs.
        folder: PathBuf,
    },
    /// Keys are there with other values.
    #[error("{} keys are there with other values, and nothing was changed", .0.other)]
    Conflict(Difference),
    /// The file cannot be read or written.
    #[error("{} cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The export failed, or the file is not one.
    #[error("the transfer failed")]
    Archive(#[from] ArchiveError),
}

/// What is done with keys that are there with other values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing is changed.
    Refuse,
    /// They get the values of the file.
    Overwrite,
}

/// Writes the whole store down.
///
/// # Errors
///
/// [`TransferError`].
pub async fn export(config: &Config, to: &mut dyn Write) -> Result<Exported, TransferError> {
    let folder = &config.server.data_dir;
    if has_none(config) {
        let folder = folder.clone();
        return Err(TransferError::NoStore { folder });
    }
    let store: Box<dyn Store> = match config.store.kind {
        Kind::Embedded => embedded(config)?,
        Kind::Etcd => Box::new(
            EtcdStore::open(&config.etcd, &config.store, Metrics::default())
                .map_err(TransferError::Store)?,
        ),
    };
    // A store that others reach says itself with which key it is encrypted. The folder may be that of another
    // platform, or have no key: an export is possible from any machine.
    let said = shared::key_of(&*store).await;
    let key = match said.map_err(TransferError::Store)? {
        Some(said) => said,
        None => shared::key_in(folder)
            .map_err(TransferError::Key)?
            .unwrap_or_default(),
    };
    Ok(archive::export(&*store, &Head::new(key), to).await?)
}

/// Compares a file with the store, and unless `existing` or `only_look` forbid it, writes it there.
/// The second number is how many lines were written.
///
/// # Errors
///
/// [`TransferError`].
pub async fn import(
    config: &Config,
    path: &Path,
    existing: Existing,
    only_look: bool,
) -> Result<(Difference, u64), TransferError> {
    let unusable = |source| TransferError::File {
        path: path.to_owned(),
        source,
    };
    let mut file = BufReader::new(File::open(path).map_err(unusable)?);
    if has_none(config) {
        // Nothing is made by looking, nor where nothing is written in the end.
        let difference = compared(config, &MemoryStore::new(), &mut file, existing).await?;
        if only_look {
            return Ok((difference, 0));
        }
        file.rewind().map_err(unusable)?;
    }
    let store: Box<dyn Store> = match config.store.kind {
        Kind::Embedded => embedded(config)?,
        Kind::Etcd => Box::new(
            EtcdStore::open_alone(
                &config.etcd,
                &config.store,
                Metrics::default(),
                &crate::opened::who("an import"),
                PATIENCE,
            )
            .map_err(not_alone)?,
        ),
    };
    let difference = compared(config, &*store, &mut file, existing).await?;
    if only_look {
        return Ok((difference, 0));
    }
    file.rewind().map_err(unusable)?;
    let written = archive::import(&*store, &mut file).await?;
    Ok((difference, written))
}

/// How a file and a store differ, unless it must not be written there.
async fn compared(
    config: &Config,
    store: &dyn Store,
    file: &mut BufReader<File>,
    existing: Existing,
) -> Result<Difference, TransferError> {
    let (head, difference) = archive::compare(store, file).await?;
    let folder = config.server.data_dir.clone();
    let ours = shared::key_in(&folder).map_err(TransferError::Key)?;
    if !head.key.is_empty() && ours.as_ref() != Some(&head.key) {
        return Err(TransferError::OtherKey {
            theirs: head.key,
            ours,
            folder,
        });
    }
    if difference.other > 0 && existing == Existing::Refuse {
        return Err(TransferError::Conflict(difference));
    }
    Ok(difference)
}

/// Whether there is no embedded store yet.
fn has_none(config: &Config) -> bool {
    config.store.kind == Kind::Embedded && !config.server.data_dir.join("bugle.db").is_file()
}

fn not_alone(error: bugle_store::Error) -> TransferError {
    match error {
        bugle_store::Error::Etcd(EtcdFailure::Taken { other } | EtcdFailure::Mixed { other }) => {
            TransferError::InUse { other }
        }
        error => TransferError::Store(error),
    }
}

fn embedded(config: &Config) -> Result<Box<dyn Store>, TransferError> {
    let folder = &config.server.data_dir;
    let store = SqliteStore::open(folder, &config.store, Metrics::default());
    Ok(Box::new(store.map_err(TransferError::Store)?))
}
