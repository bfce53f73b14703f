//! The logs of functions: a bounded tail in memory, a bounded file on disk, and whoever follows.
//!
//! `LogStore::line` is called by the reader of an instance and must not wait: it appends to the
//! tail, tells the followers, and hands the line to the writer thread if that keeps up. Lines the
//! disk is too slow for are counted and dropped from the file only.

mod file;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use bugle_api::operator::LogEntry;
use bugle_instances::{LogLine, LogSink, LogStream};
use bugle_types::{FunctionId, FunctionName, ProductId, TenantId, Timestamp};
use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Logs of functions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How much of a function's log is kept in memory, in KiB.
    pub memory_kib_per_function: usize,
    /// How much of all functions' logs together is kept in memory, in MiB.
    pub memory_mib: usize,
    /// How much of a function's log is kept on disk, in KiB.
    pub disk_kib_per_function: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            memory_kib_per_function: 256,
            memory_mib: 64,
            disk_kib_per_function: 4096,
        }
    }
}

/// A follower that is this many lines behind loses the oldest and is told how many.
const FOLLOWER_LINES: usize = 1024;

/// Lines that may wait for the disk; beyond, they are dropped from the file.
const WRITER_LINES: usize = 4096;

/// What an entry costs beside its texts, roughly.
const ENTRY_OVERHEAD: usize = 200;

/// The logs of one function share a tail over all its versions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LogKey {
    pub(crate) tenant: TenantId,
    pub(crate) product: Option<ProductId>,
    pub(crate) name: FunctionName,
}

impl LogKey {
    pub(crate) fn of(id: &FunctionId) -> Self {
        Self {
            tenant: id.tenant.clone(),
            product: id.product.clone(),
            name: id.name.clone(),
        }
    }

    /// The file of this function's log, below the folder of all logs. The names' grammars allow no
    /// separator, and the prefix keeps a name like `..` an ordinary file.
    fn path(&self, folder: &Path) -> PathBuf {
        let owner = match &self.product {
            Some(product) => format!("t-{}@{product}", self.tenant),
            None => format!("t-{}", self.tenant),
        };
        folder.join(owner).join(format!("f-{}.jsonl", self.name))
    }
}

/// The logs of all functions.
#[derive(Debug)]
pub(crate) struct LogStore {
    config: Config,
    folder: PathBuf,
    channels: RwLock<HashMap<LogKey, Arc<Channel>>>,
    /// Bytes of all tails.
    held: std::sync::atomic::AtomicUsize,
    writer: SyncSender<file::Line>,
    dropped: Counter,
}

/// The log of one function.
#[derive(Debug)]
struct Channel {
    tail: Mutex<Tail>,
    live: broadcast::Sender<Arc<LogEntry>>,
}

#[derive(Debug, Default)]
struct Tail {
    entries: VecDeque<Arc<LogEntry>>,
    bytes: usize,
}

fn cost(entry: &LogEntry) -> usize {
    ENTRY_OVERHEAD + entry.text.len()
}

impl LogStore {
    /// Opens the logs in `folder`, which is made when the first line comes.
    pub(crate) fn open(folder: PathBuf, config: Config, metrics: &mut Registry) -> Arc<Self> {
        let dropped = Counter::default();
        metrics.register(
            "bugle_logs_dropped_lines",
            "Lines of functions that did not reach the file because the disk was too slow",
            dropped.clone(),
        );
        let writer = file::start(config.disk_kib_per_function * 1024, WRITER_LINES);
        let channels = RwLock::default();
        Arc::new(Self {
            config,
            folder,
            channels,
            held: 0.into(),
            writer,
            dropped,
        })
    }

    /// The last `limit` entries that `wanted` accepts, oldest first, and what comes after them.
    pub(crate) fn follow(
        &self,
        key: &LogKey,
        limit: usize,
        wanted: impl Fn(&LogEntry) -> bool,
    ) -> (Vec<Arc<LogEntry>>, broadcast::Receiver<Arc<LogEntry>>) {
        let channel = self.channel(key);
        let tail = channel.tail.lock();
        // Subscribed under the lock, so that no line is missed or seen twice.
        let live = channel.live.subscribe();
        let mut last: Vec<_> = tail
            .entries
            .iter()
            .rev()
            .filter(|e| wanted(e))
            .take(limit)
            .cloned()
            .collect();
        last.reverse();
        (last, live)
    }

    /// Whether the function has written anything that is kept.
    pub(crate) fn knows(&self, key: &LogKey) -> bool {
        self.channels.read().contains_key(key)
            || key.path(&self.folder).try_exists().unwrap_or(false)
    }

    /// The channel of a function; its tail starts with what an earlier run left on disk.
    fn channel(&self, key: &LogKey) -> Arc<Channel> {
        if let Some(channel) = self.channels.read().get(key) {
            return Arc::clone(channel);
        }
        let bytes = self.config.memory_kib_per_function * 1024;
        let earlier = file::tail(&key.path(&self.folder), bytes);
        let mut channels = self.channels.write();
        let channel = channels.entry(key.clone()).or_insert_with(|| {
            let tail = Tail {
                bytes: earlier.iter().map(cost).sum(),
                entries: earlier.into_iter().map(Arc::new).collect(),
            };
            self.held
                .fetch_add(tail.bytes, std::sync::atomic::Ordering::Relaxed);
            let live = broadcast::Sender::new(FOLLOWER_LINES);
            Arc::new(Channel {
                tail: Mutex::new(tail),
                live,
            })
        });
        Arc::clone(channel)
    }

    fn append(&self, channel: &Channel, entry: &Arc<LogEntry>) {
        use std::sync::atomic::Ordering::Relaxed;

        let mut tail = channel.tail.lock();
        tail.bytes += cost(entry);
        self.held.fetch_add(cost(entry), Relaxed);
        tail.entries.push_back(Arc::clone(entry));
        // The function that writes pays when all tails together are too large.
        while tail.entries.len() > 1
            && (tail.bytes > self.config.memory_kib_per_function * 1024
                || self.held.load(Relaxed) > self.config.memory_mib * 1024 * 1024)
        {
            let Some(oldest) = tail.entries.pop_front() else {
                break;
            };
            tail.bytes -= cost(&oldest);
            self.held.fetch_sub(cost(&oldest), Relaxed);
        }
        // No follower is no error.
        let _ = channel.live.send(Arc::clone(entry));
    }
}

impl LogSink for LogStore {
    fn line(&self, line: LogLine) {
        let key = LogKey::of(&line.function);
        let entry = Arc::new(LogEntry {
            time: Timestamp::from_millis(jiff::Timestamp::now().as_millisecond()).to_string(),
            version: line.function.version.to_string(),
            instance: line.instance.to_string(),
            request: line.request.map(|request| request.to_string()),
            stream: match line.stream {
                LogStream::Stdout => "stdout",
                LogStream::Stderr => "stderr",
                LogStream::Platform => "platform",
            }
            .to_owned(),
            text: line.text,
        });
        self.append(&self.channel(&key), &entry);
        let path = key.path(&self.folder);
        if self.writer.try_send(file::Line { path, entry }).is_err() {
            self.dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests;
