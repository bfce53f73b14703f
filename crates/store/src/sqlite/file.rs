//! The database file: its format, its lock, reading and writing it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::{Connection, params};
use rustix::fs::{FlockOperation, flock};

use super::Config;
use crate::core::State;
use crate::{Batch, Change, Error, KeyValue, Revision};

/// The format of the file; a larger number is refused.
const FORMAT: i64 = 1;

/// One row for each current key. The id grows with each write, so that rows are appended; the row
/// that a write supersedes is deleted in the same transaction. Without an index: keys are looked up
/// in memory.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS kv (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        value BLOB NOT NULL,
        create_revision INTEGER NOT NULL,
        mod_revision INTEGER NOT NULL,
        version INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT OR IGNORE INTO meta VALUES ('revision', 0);
";

const PAGE_BYTES: u64 = 4096;

/// The open file and where each key's row is.
pub(super) struct Database {
    path: PathBuf,
    connection: Connection,
    rows: HashMap<Bytes, i64>,
    next_row: i64,
}

/// Makes the folder and takes its lock.
pub(super) fn lock(folder: &Path) -> Result<File, Error> {
    let failed = |path: &Path, source| Error::Io {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| failed(folder, source))?;
    let path = folder.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| failed(&path, source))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        // Best effort: the holder may be about to write it.
        let _ = file.read_to_string(&mut pid);
        let pid = if pid.trim().is_empty() {
            "another".to_owned()
        } else {
            pid.trim().to_owned()
        };
        return Err(Error::InUse {
            folder: folder.to_owned(),
            pid,
        });
    }
    file.set_len(0)
        .and_then(|()| write!(file, "{}", std::process::id()))
        .map_err(|source| failed(&path, source))?;
    Ok(file)
}

/// Opens the file and reads every key.
pub(super) fn open(path: &Path, config: &Config) -> Result<(Database, State), Error> {
    let failed = |source| Error::Database {
        path: path.to_owned(),
        source,
    };
    let connection = Connection::open(path).map_err(failed)?;
    let format: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed)?;
    if format > FORMAT {
        return Err(Error::NewerFormat {
            path: path.to_owned(),
            found: format,
            known: FORMAT,
        });
    }
    set_up(&connection, config).map_err(failed)?;
    let (rows, current, revision) = read(&connection).map_err(failed)?;
    let next_row = rows.values().max().map_or(1, |row| row + 1);
    let database = Database {
        path: path.to_owned(),
        connection,
        rows,
        next_row,
    };
    Ok((database, State::loaded(current, revision)))
}

fn set_up(connection: &Connection, config: &Config) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The writer checkpoints when it is idle, so that no commit pays for it.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(
        None,
        "max_page_count",
        config.max_mib * 1024 * 1024 / PAGE_BYTES,
    )?;
    connection.execute_batch(SCHEMA)?;
    connection.pragma_update(None, "user_version", FORMAT)
}

type Contents = (HashMap<Bytes, i64>, BTreeMap<Bytes, KeyValue>, Revision);

fn read(connection: &Connection) -> rusqlite::Result<Contents> {
    let revision: u64 = connection.query_row(
        "SELECT value FROM meta WHERE name = 'revision'",
        [],
        |row| row.get(0),
    )?;
    let mut select = connection
        .prepare("SELECT id, key, value, create_revision, mod_revision, version FROM kv")?;
    let mut rows = select.query([])?;
    let (mut ids, mut found) = (HashMap::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let key = Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?);
        let value = KeyValue {
            key: key.clone(),
            value: Bytes::copy_from_slice(row.get_ref(2)?.as_blob()?),
            create_revision: Revision(row.get(3)?),
            mod_revision: Revision(row.get(4)?),
            version: row.get(5)?,
        };
        ids.insert(key.clone(), row.get(0)?);
        found.push((key, value));
    }
    // Collecting builds the tree from sorted values, which is cheaper than inserting one by one.
    Ok((ids, found.into_iter().collect(), Revision(revision)))
}

impl Database {
    /// Writes the batches in one transaction that is synced to disk.
    pub(super) fn commit(&mut self, batches: &[Batch]) -> Result<(), rusqlite::Error> {
        let Some(last) = batches.last() else {
            return Ok(());
        };
        let transaction = self.connection.transaction()?;
        let mut next_row = self.next_row;
        // Rows move only when the commit has succeeded.
        let mut moved: HashMap<&Bytes, Option<i64>> = HashMap::new();
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO kv (id, key, value, create_revision, mod_revision, version) \
                 VALUES (?, ?, ?, ?, ?, ?)",
            )?;
            let mut delete = transaction.prepare_cached("DELETE FROM kv WHERE id = ?")?;
            for change in batches.iter().flat_map(|batch| &batch.changes) {
                let key = change.key();
                let row = match moved.get(key) {
                    Some(row) => *row,
                    None => self.rows.get(key).copied(),
                };
                if let Some(row) = row {
                    delete.execute([row])?;
                }
                match change {
                    Change::Put(value) => {
                        insert.execute(params![
                            next_row,
                            &value.key[..],
                            &value.value[..],
                            value.create_revision.0,
                            value.mod_revision.0,
                            value.version,
                        ])?;
                        moved.insert(key, Some(next_row));
                        next_row += 1;
                    }
                    Change::Delete { .. } => {
                        moved.insert(key, None);
                    }
                }
            }
            transaction
                .prepare_cached("UPDATE meta SET value = ? WHERE name = 'revision'")?
                .execute([last.revision.0])?;
        }
        transaction.commit()?;
        self.next_row = next_row;
        for (key, row) in moved {
            match row {
                Some(row) => self.rows.insert(key.clone(), row),
                None => self.rows.remove(key),
            };
        }
        Ok(())
    }

    /// Size of the write-ahead log in bytes; 0 if there is none.
    pub(super) fn wal_bytes(&self) -> u64 {
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        std::fs::metadata(wal).map_or(0, |wal| wal.len())
    }

    /// Moves the write-ahead log into the file, as far as no reader of the file is in the way, and
    /// lets the next commit start it from its beginning.
    pub(super) fn checkpoint(&self) -> Result<(), rusqlite::Error> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
    }

    /// The file, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The error of a failed commit, for those who asked for it.
    pub(super) fn error(&self, source: rusqlite::Error) -> Error {
        Error::Database {
            path: self.path.clone(),
            source,
        }
    }
}
