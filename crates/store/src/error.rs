//! Why the store did not do what it was asked.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::Revision;
use crate::etcd::Failure;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The history at the revision is gone.
    #[error("the changes up to revision {} are compacted; read the keys again and watch from there", revision.0)]
    Compacted {
        /// The oldest revision that can still be watched from.
        revision: Revision,
    },
    /// The store was shut down.
    #[error("the store is closed")]
    Closed,
    /// The disk is full, or the store has reached `store.max_mib`. Nothing of the transaction was
    /// written, reads go on, and writes work again when there is room; deletions work even at
    /// `store.max_mib`.
    #[error("there is no room for the write: free some disk space, or raise store.max_mib")]
    Full,
    /// Another program keeps the database file locked for writing. Nothing of the transaction was
    /// written.
    #[error("another program keeps {} locked; end that one and try again", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The disk failed in the middle of a write, so that nobody can say what of it a restart would
    /// find. Nothing is written any more; what was acknowledged before can still be read.
    #[error(
        "the disk failed under {} and nothing more is written there; check the disk, then restart",
        path.display()
    )]
    Failed {
        /// The file.
        path: PathBuf,
        /// What the disk said first.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// A transaction writes more than one transaction may.
    #[error("the transaction holds {bytes} bytes, more than the {limit} that one may")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A transaction that puts a key which it also puts or deletes.
    #[error("the transaction writes the key {0:?} twice")]
    WrittenTwice(Bytes),
    /// An etcd did not do what it was asked.
    #[error(transparent)]
    Etcd(#[from] Failure),
    /// Another process works on the folder.
    #[error("{} is in use by process {pid}; stop that one, or choose another --data-dir", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process that holds it, as far as it said.
        pid: String,
    },
    /// The file was written by a newer version of the program.
    #[error("{} has format {found}, this program knows up to {known}; use a newer bugle", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: i64,
        /// The newest format that is known here.
        known: i64,
    },
    /// The file does not hold what this program writes.
    #[error("{} is damaged ({what}); put a backup in its place, or move it away to start empty", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// What is kept of a value is damaged.
    #[error("the value of {key:?} is damaged; restore the store from a backup")]
    Unreadable {
        /// The key.
        key: Bytes,
    },
    /// A folder or file of the store cannot be used.
    #[error("{}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database file cannot be used.
    #[error("{}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

impl Error {
    /// Whether the same request may succeed later without anybody changing it.
    ///
    /// What an etcd did not confirm is not among them: repeating it is for those who know what they
    /// wrote.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Full | Self::Locked { .. } => true,
            Self::Etcd(failure) => failure.is_transient(),
            _ => false,
        }
    }

    /// Whether only a restart helps, after somebody has looked.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Failed { .. } | Self::Etcd(Failure::Rewound { .. } | Failure::Taken { .. })
        )
    }
}
