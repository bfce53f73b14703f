//! The database file: an append-only log of every change, and its sweeping.
//!
//! A change is one row, numbered in the order of the changes, so that rows are only ever added at
//! the end of the table: it needs no index and a commit touches few pages. Rows that no longer
//! matter (superseded, and too old for the history) are deleted later, when nobody waits.
//!
//! Other programs may read the file meanwhile, above all to back it up. One that reads for long
//! keeps the write-ahead log from being started over, and one that writes makes commits wait.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};

use super::load::Loading;
use crate::history::Limits;
use crate::leaf::{Entry, Stored};
use crate::lz4::Dictionary;
use crate::pack::Shape;
use crate::state::{Kept, Place, Planned, Row, State};
use crate::{Error, Revision};

/// The format of the file; a larger number is refused, 0 is an empty file.
const FORMAT: i64 = 1;

/// A tombstone has no value. Values are packed (`pack.rs`) with the shape of this number, 0 for none.
/// `compacted` is the revision up to which rows may be missing.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS log (
        id INTEGER PRIMARY KEY,
        revision INTEGER NOT NULL,
        key BLOB NOT NULL,
        shape INTEGER NOT NULL,
        value BLOB,
        create_revision INTEGER NOT NULL,
        version INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS shape (
        number INTEGER PRIMARY KEY,
        class BLOB NOT NULL,
        value BLOB NOT NULL
    );
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT OR IGNORE INTO meta VALUES ('compacted', 0);
    PRAGMA user_version = 1;
";

const PAGE_BYTES: u64 = 4096;

/// Pages beyond the limit that only deletions and sweeping may take (1 MiB): in a log a deletion is
/// an addition first, and a full store must be able to get out of it.
const RESERVE_PAGES: u64 = 256;

/// Another program that keeps the file locked gets this long to finish.
const PATIENCE: Duration = Duration::from_secs(1);

/// The open file.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    connection: Connection,
    max_pages: u64,
}

/// What the file holds.
pub(super) struct Contents {
    pub(super) state: State,
    /// The rows that are superfluous once the history has moved past them. In this order they can be
    /// deleted one by one: a tombstone comes after all rows that it hides.
    pub(super) garbage: VecDeque<Place>,
}

/// Why nothing was written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// No room. The file is as it was, and can be written again.
    Full,
    /// Another program holds the file. The file is as it was, and can be written again.
    Locked,
    /// What became of the write is unknown.
    Lost(Arc<rusqlite::Error>),
}

impl Log {
    /// Opens the file, makes it if necessary, and reads everything in it.
    pub(super) fn open(
        path: &Path,
        max_bytes: u64,
        limits: Limits,
    ) -> Result<(Self, Contents), Error> {
        let open = || {
            let connection = Connection::open(path)?;
            connection.busy_timeout(PATIENCE)?;
            let format = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            Ok((connection, format))
        };
        let (connection, format) = open().map_err(unusable(path))?;
        if format > FORMAT {
            return Err(Error::NewerFormat {
                path: path.to_owned(),
                found: format,
                known: FORMAT,
            });
        }
        let mut log = Self {
            path: path.to_owned(),
            connection,
            max_pages: max_bytes / PAGE_BYTES,
        };
        log.set_up(format).map_err(unusable(path))?;
        let contents = log.read(limits)?;
        Ok((log, contents))
    }

    fn set_up(&mut self, format: i64) -> rusqlite::Result<()> {
        let connection = &self.connection;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // SQLite would ignore the error of a checkpoint of its own, and after a failed sync of the
        // file, starting the log over would lose what is in it. See `checkpoint`.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        self.limit_pages(self.max_pages)?;
        if format == 0 {
            let transaction = self.connection.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            transaction.commit()?;
        }
        Ok(())
    }

    fn limit_pages(&self, pages: u64) -> rusqlite::Result<()> {
        self.connection.pragma_update(None, "max_page_count", pages)
    }

    fn read(&self, limits: Limits) -> Result<Contents, Error> {
        let unusable = unusable(&self.path);
        let shapes = self.shapes().map_err(&unusable)?;
        let compacted = self.compacted().map_err(&unusable)?;
        let mut loading = Loading::new(compacted);
        let read = self.read_rows(&mut loading).map_err(&unusable)?;
        read.and_then(|()| loading.finish(shapes, limits))
            .map_err(|what| Error::Damaged {
                path: self.path.clone(),
                what,
            })
    }

    fn compacted(&self) -> rusqlite::Result<Revision> {
        let select = "SELECT value FROM meta WHERE name = 'compacted'";
        self.connection
            .query_row(select, [], |row| row.get(0).map(Revision))
    }

    /// The inner result says what is wrong with what could be read.
    fn read_rows(&self, loading: &mut Loading) -> rusqlite::Result<Result<(), String>> {
        let select =
            "SELECT id, revision, key, shape, value, create_revision, version FROM log ORDER BY id";
        let mut select = self.connection.prepare(select)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (key, entry) = parse(row)?;
            if let Err(what) = loading.add(key, &entry) {
                return Ok(Err(what));
            }
        }
        Ok(Ok(()))
    }

    fn shapes(&self) -> rusqlite::Result<Vec<Shape>> {
        let shape = |row: &rusqlite::Row<'_>| {
            Ok(Shape {
                number: row.get(0)?,
                class: row.get_ref(1)?.as_blob()?.into(),
                value: Dictionary::new(row.get_ref(2)?.as_blob()?.into()),
            })
        };
        let select = "SELECT number, class, value FROM shape ORDER BY number";
        let mut select = self.connection.prepare(select)?;
        select.query_map([], shape)?.collect()
    }

    /// Adds the rows, and deletes others in the same transaction. Synced when it returns.
    pub(super) fn append(&mut self, planned: &Planned, sweep: Sweep<'_>) -> Result<(), WriteError> {
        let additions = || planned.rows.iter().flat_map(|rows| &rows.rows);
        let shrinks = additions().all(|row| row.change.value.is_none());
        let write = |transaction: &Transaction<'_>| {
            planned
                .shapes
                .iter()
                .try_for_each(|shape| insert_shape(transaction, shape))?;
            additions().try_for_each(|row| insert(transaction, row))?;
            sweep.run(transaction)
        };
        if !shrinks {
            return self.commit(write);
        }
        self.reserve(RESERVE_PAGES)?;
        let written = self.commit(write);
        self.reserve(0)?;
        written
    }

    fn reserve(&self, pages: u64) -> Result<(), WriteError> {
        self.limit_pages(self.max_pages + pages)
            .map_err(|error| WriteError::Lost(Arc::new(error)))
    }

    fn commit(
        &mut self,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), WriteError> {
        let run = |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            write(&transaction)?;
            transaction.commit()
        };
        run(&mut self.connection).map_err(|error| self.judge(error))
    }

    /// A full disk is noticed before the last frame of a commit is written, so that SQLite has taken
    /// it back. Of any other failure, above all that of a sync, nobody knows what reached the disk:
    /// the kernel may have dropped the pages, and a second sync would only say that it has nothing
    /// left to do.
    fn judge(&self, error: rusqlite::Error) -> WriteError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) if self.connection.is_autocommit() => WriteError::Full,
            Some(ErrorCode::DatabaseBusy) if self.connection.is_autocommit() => WriteError::Locked,
            _ => WriteError::Lost(Arc::new(error)),
        }
    }

    /// Bytes in the write-ahead log that a checkpoint would move.
    pub(super) fn unmoved_bytes(&self) -> Result<u64, WriteError> {
        self.checkpoint_pragma("PRAGMA wal_checkpoint(NOOP)")
    }

    /// Moves the write-ahead log into the file; the next commit then starts it over.
    ///
    /// The log keeps its length, so that later commits overwrite what is allocated already: their
    /// sync is cheaper than one that makes a file grow.
    pub(super) fn checkpoint(&self) -> Result<(), WriteError> {
        self.checkpoint_pragma("PRAGMA wal_checkpoint(PASSIVE)")
            .map(|_left| ())
    }

    fn checkpoint_pragma(&self, pragma: &str) -> Result<u64, WriteError> {
        let unmoved = |row: &rusqlite::Row<'_>| {
            let (frames, moved): (i64, i64) = (row.get(1)?, row.get(2)?);
            Ok(u64::try_from(frames - moved).unwrap_or(0) * PAGE_BYTES)
        };
        self.connection
            .prepare_cached(pragma)
            .and_then(|mut pragma| pragma.query_row([], unmoved))
            .map_err(|error| self.judge(error))
    }

    /// What the store takes on disk; 0 where that cannot be seen.
    pub(super) fn disk_bytes(&self) -> u64 {
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        size(&self.path) + size(Path::new(&wal))
    }

    /// Closes the file as it is. A checkpoint after a failed sync could destroy what is still good
    /// in the write-ahead log.
    pub(super) fn abandon(self) {
        let _ = self
            .connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }

    /// The file, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// What it means that the file cannot be opened or read.
fn unusable(path: &Path) -> impl Fn(rusqlite::Error) -> Error {
    use rusqlite::Error as Failure;
    let path = path.to_owned();
    move |source| {
        let path = path.clone();
        match (source.sqlite_error_code(), &source) {
            (Some(ErrorCode::DatabaseBusy), _) => Error::Locked { path },
            (Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase), _)
            // What is read first is not there, or not what it was.
            | (
                _,
                Failure::QueryReturnedNoRows
                | Failure::InvalidColumnType(..)
                | Failure::IntegralValueOutOfRange(..)
                | Failure::FromSqlConversionFailure(..)
                | Failure::SqlInputError { .. },
            ) => Error::Damaged {
                path,
                what: source.to_string(),
            },
            _ => Error::Database { path, source },
        }
    }
}

/// Rows to delete, and the revision up to which rows may be missing afterwards.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweep<'a> {
    pub(super) rows: &'a [Place],
    pub(super) compacted: Option<Revision>,
}

impl Sweep<'_> {
    fn run(self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut delete = transaction.prepare_cached("DELETE FROM log WHERE id = ?")?;
        for place in self.rows {
            delete.execute([place.row])?;
        }
        if let Some(compacted) = self.compacted {
            transaction
                .prepare_cached("UPDATE meta SET value = max(value, ?) WHERE name = 'compacted'")?
                .execute([compacted.0])?;
        }
        Ok(())
    }
}

fn insert_shape(transaction: &Transaction<'_>, shape: &Shape) -> rusqlite::Result<()> {
    let insert = "INSERT INTO shape (number, class, value) VALUES (?, ?, ?)";
    let (class, value) = (&shape.class[..], shape.value.text());
    transaction
        .execute(insert, params![shape.number, class, value])
        .map(|_rows| ())
}

fn insert(transaction: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO log (id, revision, key, shape, value, create_revision, version) \
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )?;
    let key = &row.change.key[..];
    let revision = row.change.revision.0;
    match &row.change.value {
        Some(value) => insert.execute(params![
            row.number,
            revision,
            key,
            value.packed.shape,
            &value.packed.bytes[..],
            value.create_revision.0,
            value.version,
        ])?,
        None => insert.execute(params![row.number, revision, key, 0, None::<&[u8]>, 0, 0])?,
    };
    Ok(())
}

fn parse<'a>(row: &'a rusqlite::Row<'_>) -> rusqlite::Result<(&'a [u8], Entry<'a>)> {
    let value = match row.get_ref(4)? {
        ValueRef::Null => None,
        bytes => Some(Stored {
            shape: row.get(3)?,
            bytes: bytes.as_blob()?,
            create_revision: Revision(row.get(5)?),
            version: row.get(6)?,
        }),
    };
    let place = Place {
        row: row.get(0)?,
        revision: Revision(row.get(1)?),
    };
    Ok((row.get_ref(2)?.as_blob()?, Entry { place, value }))
}

/// The place of a change that is superfluous by itself, once the history has moved past it.
pub(super) fn tombstone(row: u64, change: &Kept) -> Option<Place> {
    let revision = change.revision;
    change.value.is_none().then_some(Place { row, revision })
}
