//! The one thread that writes.
//!
//! It takes every request that waits, plans them one after the other, writes all of them in one
//! SQLite transaction, and only when that is synced publishes and answers. While it syncs, the next
//! group gathers; nobody waits for a timer.
//!
//! When nobody wrote for a moment it does its chores: it deletes rows that no longer matter and
//! moves the write-ahead log into the file. Under load the chores wait until one of them is
//! overdue, so that few commits have to wait for one: a checkpoint costs about as much per MiB
//! whenever it happens, but at the default of 16 MiB only one commit in dozens meets one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::log::{Contents, Log, Sweep, WriteError, tombstone};
use super::{Answer, Health, Request, Work};
use crate::core::Core;
use crate::state::{Place, Plan, Planned, size};
use crate::{Error, Metrics, Revision, TxnOutcome};

/// Requests that share a commit at most, and what they may write together. More would make the
/// first of them wait for the planning of the last without saving much of a sync.
const GROUP: usize = 512;
const GROUP_BYTES: usize = 8 << 20;

/// Chores begin when nobody wrote for this long.
const IDLE: Duration = Duration::from_millis(100);

/// A checkpoint is worth its two syncs when it moves this much.
const WORTH_MOVING: u64 = 1 << 20;

/// Rows that are deleted in one go. A request that comes meanwhile waits for about this many page
/// writes and a sync.
const SWEEP: usize = 256;

/// Superfluous rows that may wait under load (about 2 MiB of memory); past it each commit also
/// deletes twice as many as it adds.
const MAX_GARBAGE: usize = 100_000;

/// Writes until every sender is gone or the disk fails.
pub(super) struct Writer {
    log: Log,
    core: Arc<Core>,
    health: Arc<Health>,
    metrics: Metrics,
    /// Moved under load when there is this much to move.
    checkpoint_bytes: u64,
    garbage: VecDeque<Place>,
    unmoved_bytes: u64,
    /// The last group found no room; said once, not for every write.
    out_of_room: bool,
    /// A chore could not be done; the next write wakes them again.
    chores_rest: bool,
}

/// What the planning of a group came to: one answer for each of its requests.
struct Group {
    planned: Planned,
    compact: Option<Revision>,
    answers: Vec<Answer>,
}

impl Writer {
    pub(super) fn new(
        (log, contents): (Log, Contents),
        checkpoint_bytes: u64,
        health: Arc<Health>,
        metrics: Metrics,
    ) -> Self {
        let writer = Self {
            log,
            core: Core::new(contents.state),
            health,
            metrics,
            checkpoint_bytes,
            garbage: contents.garbage,
            unmoved_bytes: 0,
            out_of_room: false,
            chores_rest: false,
        };
        writer.metrics.revision.set(writer.core.revision().0);
        writer.measure();
        writer
    }

    /// What the writer publishes to.
    pub(super) fn core(&self) -> Arc<Core> {
        Arc::clone(&self.core)
    }

    /// Serves requests until every sender is gone or the disk fails.
    pub(super) fn run(mut self, runtime: &Runtime, mut requests: Receiver<Request>) {
        // However this thread ends, watchers must learn that nothing more comes.
        let _ending = CloseOnDrop(Arc::clone(&self.core));
        match self.serve(runtime, &mut requests) {
            Ok(()) => {}
            // Only the last checkpoint says so; the next start reads the write-ahead log.
            Err(WriteError::Full | WriteError::Locked) => {}
            Err(WriteError::Lost(error)) => self.fail(error),
        }
    }

    fn serve(
        &mut self,
        runtime: &Runtime,
        requests: &mut Receiver<Request>,
    ) -> Result<(), WriteError> {
        let mut patience = IDLE;
        loop {
            let first = if self.has_chores() {
                let waiting = async { timeout(patience, requests.recv()).await };
                let Ok(first) = runtime.block_on(waiting) else {
                    self.do_a_chore()?;
                    patience = Duration::ZERO;
                    continue;
                };
                first
            } else {
                runtime.block_on(requests.recv())
            };
            let Some(first) = first else {
                return self.log.checkpoint();
            };
            patience = IDLE;
            self.chores_rest = false;
            self.answer(gather(first, requests))?;
            if self.unmoved_bytes >= self.checkpoint_bytes {
                self.or_rest(Self::checkpoint)?;
            }
        }
    }

    /// Writes a group and answers everybody in it.
    fn answer(&mut self, group: Vec<Request>) -> Result<(), WriteError> {
        let (work, senders): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|request| (request.work, request.answer))
            .unzip();
        let answers = match self.write(&work) {
            Ok(answers) => {
                self.out_of_room = false;
                answers
            }
            Err(WriteError::Full) => self.write_without_room(&work)?,
            Err(WriteError::Locked) => work.iter().map(|_| Err(self.locked())).collect(),
            Err(WriteError::Lost(error)) => {
                self.health.set_failure(Arc::clone(&error));
                for sender in senders {
                    let _ = sender.send(Err(self.health.error()));
                }
                return Err(WriteError::Lost(error));
            }
        };
        for (sender, answer) in senders.into_iter().zip(answers) {
            // Whoever asked may have gone.
            let _ = sender.send(answer);
        }
        Ok(())
    }

    /// Gives up the history for its room, then tries one by one: a large write that finds no room
    /// must not keep a small one, or a deletion, from finding some.
    fn write_without_room(&mut self, work: &[Work]) -> Result<Vec<Answer>, WriteError> {
        if !std::mem::replace(&mut self.out_of_room, true) {
            tracing::warn!(path = %self.log.path().display(), "no room for a write");
        }
        self.core
            .write(|state| state.history.forget(state.revision()));
        while !self.garbage.is_empty() {
            match self.sweep() {
                Ok(()) => {}
                // The disk is full, not only the file: nothing gains room there.
                Err(WriteError::Full | WriteError::Locked) => break,
                Err(lost) => return Err(lost),
            }
        }
        let mut answers = Vec::with_capacity(work.len());
        for one in work {
            match self.write(std::slice::from_ref(one)) {
                Ok(answer) => answers.extend(answer),
                Err(WriteError::Full) => answers.push(Err(Error::Full)),
                Err(WriteError::Locked) => answers.push(Err(self.locked())),
                Err(WriteError::Lost(error)) => {
                    // Those before are durable, but an answer less is only an unknown outcome.
                    self.health.set_failure(Arc::clone(&error));
                    return Err(WriteError::Lost(error));
                }
            }
        }
        Ok(answers)
    }

    /// Plans, commits and publishes.
    fn write(&mut self, work: &[Work]) -> Result<Vec<Answer>, WriteError> {
        let Group {
            planned,
            compact,
            answers,
        } = self.plan(work);
        if planned.rows.is_empty() && compact.is_none() {
            return Ok(answers);
        }
        let begin = Instant::now();
        let swept = self.overdue(&planned);
        let needed = (swept > 0).then(|| self.compacted());
        let sweep = Sweep {
            rows: &self.garbage.make_contiguous()[..swept],
            compacted: compact.max(needed),
        };
        self.log.append(&planned, sweep)?;
        self.garbage.drain(..swept);
        let seconds = begin.elapsed().as_secs_f64();
        self.metrics.committed(seconds, work.len());
        self.publish(planned, compact);
        self.unmoved_bytes = self.log.unmoved_bytes()?;
        Ok(answers)
    }

    fn plan(&self, work: &[Work]) -> Group {
        self.core.read(|state| {
            let mut plan = Plan::new(state);
            let mut compact = None;
            let mut answers = Vec::with_capacity(work.len());
            for one in work {
                answers.push(match one {
                    Work::Txn(txn) => plan.add(txn),
                    Work::Compact(at) => {
                        let revision = plan.revision();
                        compact = compact.max(Some(revision.min(*at)));
                        Ok(TxnOutcome {
                            succeeded: true,
                            revision,
                        })
                    }
                });
            }
            Group {
                planned: plan.finish(),
                compact,
                answers,
            }
        })
    }

    fn publish(&mut self, planned: Planned, compact: Option<Revision>) {
        for row in planned.rows.iter().flat_map(|rows| &rows.rows) {
            let own = tombstone(row.number, &row.change);
            self.garbage.extend(row.supersedes.into_iter().chain(own));
        }
        self.core.publish(planned);
        if let Some(at) = compact {
            self.core.write(|state| state.history.forget(at));
        }
        self.metrics.revision.set(self.core.revision().0);
    }

    fn compacted(&self) -> Revision {
        self.core.read(|state| state.history.compacted())
    }

    /// How much garbage, from the oldest on and up to `limit`, the history no longer needs.
    fn sweepable(&self, limit: usize) -> usize {
        let compacted = self.compacted();
        let due = |place: &&Place| place.revision <= compacted;
        self.garbage.iter().take(limit).take_while(due).count()
    }

    /// How much garbage a commit of `planned` must take with it.
    fn overdue(&self, planned: &Planned) -> usize {
        if self.garbage.len() < MAX_GARBAGE {
            return 0;
        }
        let added: usize = planned.rows.iter().map(|rows| rows.rows.len()).sum();
        self.sweepable(2 * added)
    }

    fn has_chores(&self) -> bool {
        !self.chores_rest && (self.unmoved_bytes >= WORTH_MOVING || self.has_to_sweep())
    }

    fn has_to_sweep(&self) -> bool {
        self.sweepable(SWEEP) == SWEEP
    }

    fn do_a_chore(&mut self) -> Result<(), WriteError> {
        if self.has_to_sweep() {
            self.or_rest(Self::sweep)
        } else {
            self.or_rest(Self::checkpoint)
        }
    }

    /// Does a chore. One that finds no room, or the file locked, comes again after the next write;
    /// reading and what fits goes on.
    fn or_rest(
        &mut self,
        chore: impl FnOnce(&mut Self) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        match chore(self) {
            Err(WriteError::Full | WriteError::Locked) => {
                self.chores_rest = true;
                Ok(())
            }
            done => done,
        }
    }

    /// Deletes some rows that no longer matter.
    fn sweep(&mut self) -> Result<(), WriteError> {
        let swept = self.sweepable(SWEEP);
        let compacted = Some(self.compacted());
        let rows = &self.garbage.make_contiguous()[..swept];
        let nothing = Planned::default();
        self.log.append(&nothing, Sweep { rows, compacted })?;
        self.garbage.drain(..swept);
        self.unmoved_bytes = self.log.unmoved_bytes()?;
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), WriteError> {
        let before = self.unmoved_bytes;
        self.log.checkpoint()?;
        self.unmoved_bytes = self.log.unmoved_bytes()?;
        // Another program reads what would be overwritten.
        self.chores_rest = self.unmoved_bytes >= before;
        self.measure();
        Ok(())
    }

    fn measure(&self) {
        self.metrics.disk_bytes.set(self.log.disk_bytes());
    }

    fn locked(&self) -> Error {
        Error::Locked {
            path: self.log.path().to_owned(),
        }
    }

    /// Nothing is written any more; who waits learns why from [`Health`].
    fn fail(self, error: Arc<rusqlite::Error>) {
        tracing::error!(path = %self.log.path().display(), %error, "the disk failed");
        self.health.set_failure(error);
        self.log.abandon();
    }
}

/// Takes what waits beside `first`, within the limits of a group.
fn gather(first: Request, requests: &mut Receiver<Request>) -> Vec<Request> {
    let mut bytes = first.work.size();
    let mut group = vec![first];
    while group.len() < GROUP && bytes < GROUP_BYTES {
        let Ok(request) = requests.try_recv() else {
            break;
        };
        bytes += request.work.size();
        group.push(request);
    }
    group
}

impl Work {
    fn size(&self) -> usize {
        match self {
            Self::Txn(txn) => size(txn),
            Self::Compact(_) => 0,
        }
    }
}

/// A runtime for the time-outs of the writer's queue; nothing else runs on it.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_time().build()
}

struct CloseOnDrop(Arc<Core>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}
