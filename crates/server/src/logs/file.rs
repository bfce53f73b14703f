//! Log files: one JSON object a line, two files a function, each at most half of the bound.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bugle_api::operator::LogEntry;

/// A line on its way to a file.
pub(super) struct Line {
    pub(super) path: PathBuf,
    pub(super) entry: Arc<LogEntry>,
}

/// Files that are kept open; beyond, the writer closes all and opens again what it needs.
const OPEN_FILES: usize = 64;

/// Starts the writer thread. It ends when the sender is dropped.
pub(super) fn start(bytes_per_function: u64, waiting: usize) -> SyncSender<Line> {
    let (sender, receiver) = sync_channel(waiting);
    // Without the thread every line counts as dropped; nothing else suffers.
    let _ = std::thread::Builder::new()
        .name("function-logs".to_owned())
        .spawn(move || write(&receiver, bytes_per_function / 2));
    sender
}

struct Open {
    file: BufWriter<File>,
    bytes: u64,
}

fn write(lines: &Receiver<Line>, bytes_per_file: u64) {
    let mut open: HashMap<PathBuf, Open> = HashMap::new();
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            if let Err(error) = write_line(&mut open, &line, bytes_per_file) {
                // The tail in memory still has it; a full disk must not flood the platform's log.
                tracing::debug!(path = %line.path.display(), %error, "a log line was not written");
                open.remove(&line.path);
            }
            next = lines.try_recv().ok();
        }
        // Nothing waits: make what was written visible to readers.
        open.retain(|_, open| open.file.flush().is_ok());
    }
}

fn write_line(
    open: &mut HashMap<PathBuf, Open>,
    line: &Line,
    bytes_per_file: u64,
) -> std::io::Result<()> {
    if !open.contains_key(&line.path) {
        if open.len() >= OPEN_FILES {
            open.clear();
        }
        open.insert(line.path.clone(), open_file(&line.path)?);
    }
    let Some(target) = open.get_mut(&line.path) else {
        return Ok(());
    };
    let mut text = serde_json::to_vec(&*line.entry)?;
    text.push(b'\n');
    target.file.write_all(&text)?;
    target.bytes += text.len() as u64;
    if target.bytes > bytes_per_file {
        target.file.flush()?;
        open.remove(&line.path);
        std::fs::rename(&line.path, older(&line.path))?;
    }
    Ok(())
}

fn open_file(path: &Path) -> std::io::Result<Open> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open {
        file: BufWriter::new(file),
        bytes,
    })
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("1.jsonl")
}

/// The entries in the last `bytes` bytes of both files, oldest first. A file that cannot be read
/// counts as empty: logs are best effort.
pub(super) fn tail(path: &Path, bytes: usize) -> Vec<LogEntry> {
    let mut text = read_tail(path, bytes);
    if text.len() < bytes {
        let mut earlier = read_tail(&older(path), bytes - text.len());
        earlier.append(&mut text);
        text = earlier;
    }
    // The first line may be cut, and the last one half written: both fail to parse.
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

fn read_tail(path: &Path, bytes: usize) -> Vec<u8> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes as u64)))?;
        let mut text = Vec::new();
        file.take(bytes as u64).read_to_end(&mut text)?;
        Ok(text)
    };
    read().unwrap_or_default()
}
