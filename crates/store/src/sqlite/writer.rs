//! The one thread that writes.

use std::time::{Duration, Instant};

use rusqlite::ErrorCode;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Request;
use super::file::Database;
use crate::core::{Core, Staged};
use crate::{Batch, Error, Metrics, TxnOutcome};

/// Transactions that share a commit at most; the rest waits for the next one. More would make the
/// first of them wait for the planning of the last without saving much of a sync.
const GROUP: usize = 512;

/// The write-ahead log is moved into the file when nobody wrote for this long …
const IDLE: Duration = Duration::from_millis(500);

/// … or when it is larger than this, so that it (and the time of the next start) stays bounded.
const WAL_BYTES: u64 = 64 << 20;

/// A transaction that was planned.
struct Planned {
    outcome: TxnOutcome,
    answer: oneshot::Sender<Result<TxnOutcome, Error>>,
}

/// Writes until every sender is gone or the disk cannot be trusted.
pub(super) fn run(
    mut database: Database,
    core: &Core,
    mut requests: mpsc::Receiver<Request>,
    metrics: &Metrics,
) {
    // A runtime of its own only for the receiver's time-out; nothing else runs on it.
    let Ok(runtime) = Builder::new_current_thread().enable_time().build() else {
        core.close();
        return;
    };
    let mut dirty = false;
    loop {
        let mut group = Vec::new();
        let waiting = requests.recv_many(&mut group, GROUP);
        let taken = if dirty {
            runtime.block_on(async { timeout(IDLE, waiting).await })
        } else {
            Ok(runtime.block_on(waiting))
        };
        match taken {
            Ok(0) => break,
            Ok(_) => {
                let Ok(()) = write(&mut database, core, group, metrics) else {
                    break;
                };
                dirty = true;
                if database.wal_bytes() > WAL_BYTES {
                    checkpoint(&database);
                }
            }
            Err(_) => {
                checkpoint(&database);
                dirty = false;
            }
        }
    }
    core.close();
}

fn checkpoint(database: &Database) {
    if let Err(error) = database.checkpoint() {
        // What is in the log is safe; the next checkpoint tries again.
        tracing::warn!(path = %database.path().display(), %error, "checkpoint failed");
    }
}

/// The disk did not say whether the last write reached it.
struct Untrusted;

/// Plans, commits, publishes and answers one group.
fn write(
    database: &mut Database,
    core: &Core,
    group: Vec<Request>,
    metrics: &Metrics,
) -> Result<(), Untrusted> {
    let (batches, planned) = plan(core, group);
    if !batches.is_empty() {
        let begin = Instant::now();
        if let Err(error) = database.commit(&batches) {
            return refuse(database, planned, error);
        }
        metrics
            .commit_seconds
            .observe(begin.elapsed().as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a group is small")]
        metrics.commit_transactions.observe(planned.len() as f64);
        core.publish(batches);
        metrics.revision.set(core.read(|state| state.revision.0));
    }
    for Planned { outcome, answer } in planned {
        // Whoever asked may have gone.
        let _ = answer.send(Ok(outcome));
    }
    Ok(())
}

fn plan(core: &Core, group: Vec<Request>) -> (Vec<Batch>, Vec<Planned>) {
    let (mut staged, mut batches, mut planned) = (Staged::new(), Vec::new(), Vec::new());
    core.read(|state| {
        let mut revision = state.revision;
        for Request { txn, answer } in group {
            let outcome = match state.plan(&mut staged, revision, txn) {
                Ok(None) => TxnOutcome {
                    succeeded: false,
                    revision,
                },
                Ok(Some(batch)) => {
                    revision = batch.revision;
                    if !batch.changes.is_empty() {
                        batches.push(batch);
                    }
                    TxnOutcome {
                        succeeded: true,
                        revision,
                    }
                }
                Err(error) => {
                    let _ = answer.send(Err(error));
                    continue;
                }
            };
            planned.push(Planned { outcome, answer });
        }
    });
    (batches, planned)
}

/// Answers a group that could not be committed.
///
/// A full disk leaves the file as it was, and the store goes on. After anything else it is unknown
/// what a restart would find, so that nothing more may be acknowledged: the store closes.
fn refuse(
    database: &Database,
    planned: Vec<Planned>,
    error: rusqlite::Error,
) -> Result<(), Untrusted> {
    let full = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
    tracing::error!(path = %database.path().display(), %error, full, "commit failed");
    let mut first = Some(error);
    for Planned { answer, .. } in planned {
        let refusal = match first.take() {
            _ if full => Error::Full,
            Some(error) => database.error(error),
            None => Error::Closed,
        };
        let _ = answer.send(Err(refusal));
    }
    if full { Ok(()) } else { Err(Untrusted) }
}
