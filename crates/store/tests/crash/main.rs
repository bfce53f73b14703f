//! What was acknowledged survives: the process is killed, the power fails, the disk fails.
//!
//! The writer is this test program once more, in a process of its own: each test starts itself with
//! [`ROLE`] set, and then writes instead of testing.
#![cfg(test)]

mod disk;
mod faults;
mod trace;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bugle_store::{Config, Metrics, Op, Revision, SqliteStore, Store as _, Txn};

/// Set in the process that writes: the folder it writes to.
const ROLE: &str = "BUGLE_STORE_TEST_WRITER";

const WRITERS: usize = 8;

/// What the writer was told is durable: of each of its threads, the revision of every write.
type Acknowledged = BTreeMap<usize, Vec<Revision>>;

/// A log this small is moved into the database many times during a test.
fn config() -> Config {
    Config {
        checkpoint_kib: 256,
        ..Config::default()
    }
}

fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(folder, &config(), Metrics::default()).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Every write puts a new key and its number, together.
fn transaction(writer: usize, number: usize) -> Txn {
    let text = |text: String| text.into_bytes();
    let value = text(format!("{number}:")).repeat(40 + 37 * (number % 30));
    Txn {
        when: Vec::new(),
        then: vec![
            Op::Put(text(format!("/{writer}/{number}")).into(), value.into()),
            Op::Put(
                text(format!("/last/{writer}")).into(),
                text(number.to_string()).into(),
            ),
        ],
    }
}

/// Writes with several tasks and says what is acknowledged, until `writes` each.
fn write(folder: &Path, writes: usize) {
    let store = Arc::new(open(folder));
    runtime().block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                let last = store
                    .get(format!("/last/{writer}").as_bytes())
                    .await
                    .unwrap();
                let last = last.map(|last| String::from_utf8(last.value.to_vec()).unwrap());
                let begin = last.map_or(0, |last| last.parse::<usize>().unwrap() + 1);
                for number in begin..begin.saturating_add(writes) {
                    let done = store.txn(transaction(writer, number)).await.unwrap();
                    say(&format!("ack {writer} {number} {}\n", done.revision.0));
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    });
    // Not closed in order: that would move the log into the database.
    std::process::abort();
}

/// Says a line with one system call, so that a record of them has it whole.
fn say(line: &str) {
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

fn acknowledge(acknowledged: &mut Acknowledged, line: &str) {
    let Some(rest) = line.strip_prefix("ack ") else {
        return;
    };
    let mut numbers = rest.split(' ').map(|word| word.trim().parse::<u64>());
    let (Some(Ok(writer)), Some(Ok(number)), Some(Ok(revision))) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        // Cut off by the kill.
        return;
    };
    let revisions = acknowledged
        .entry(usize::try_from(writer).unwrap())
        .or_default();
    assert_eq!(
        revisions.len() as u64,
        number,
        "the writer went on elsewhere"
    );
    revisions.push(Revision(revision));
}

/// Opens the store again: every acknowledged write is there, and no transaction by halves.
fn check(folder: &Path, acknowledged: &Acknowledged) -> Result<(), String> {
    let store = SqliteStore::open(folder, &config(), Metrics::default())
        .map_err(|error| format!("it cannot be opened: {error:?}"))?;
    let found = runtime()
        .block_on(store.range(b"/", None, usize::MAX))
        .unwrap();
    let found: BTreeMap<&[u8], _> = found
        .items
        .iter()
        .map(|item| (&item.key[..], item))
        .collect();
    for writer in 0..WRITERS {
        let prefix = format!("/{writer}/");
        let there = found
            .keys()
            .filter(|key| key.starts_with(prefix.as_bytes()))
            .count();
        let last = found.get(format!("/last/{writer}").as_bytes());
        let last = last.map(|last| {
            std::str::from_utf8(&last.value)
                .unwrap()
                .parse::<usize>()
                .unwrap()
        });
        if last.map_or(0, |last| last + 1) != there {
            return Err(format!(
                "writer {writer}: {there} keys, the last one is said to be {last:?}"
            ));
        }
        for (number, revision) in acknowledged.get(&writer).into_iter().flatten().enumerate() {
            let key = format!("/{writer}/{number}");
            let Some(item) = found.get(key.as_bytes()) else {
                return Err(format!(
                    "{key} was acknowledged and is lost; {there} are there"
                ));
            };
            let Op::Put(_, value) = &transaction(writer, number).then[0] else {
                unreachable!("it is a put");
            };
            if item.mod_revision != *revision || item.value != *value {
                return Err(format!(
                    "{key} is another one at revision {:?}",
                    item.mod_revision
                ));
            }
        }
    }
    Ok(())
}

/// The command that runs `test` of this program as the writer to `folder`.
fn writer(program: &mut Command, test: &str, folder: &Path) {
    program
        .args([test, "--exact", "--nocapture"])
        .env(ROLE, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
}

#[test]
fn thirty_kills_lose_nothing_and_the_store_opens_within_a_second() {
    if let Some(folder) = std::env::var_os(ROLE) {
        write(Path::new(&folder), usize::MAX);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::new();
    for round in 0..30_usize {
        let mut program = Command::new(std::env::current_exe().unwrap());
        let test = "thirty_kills_lose_nothing_and_the_store_opens_within_a_second";
        writer(&mut program, test, folder.path());
        let mut child = program.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // After another number of writes each time, in the middle of whatever it does then.
        let mut seen = 0;
        while seen < 1 + round * 37 % 600 {
            let line = lines.next().expect("the writer goes on").unwrap();
            seen += usize::from(line.starts_with("ack "));
            acknowledge(&mut acknowledged, &line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            acknowledge(&mut acknowledged, &line.unwrap());
        }
        // The rest of a round's writes may be durable without having been acknowledged.
        let began = Instant::now();
        check(folder.path(), &acknowledged)
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        adopt(folder.path(), &mut acknowledged);
    }
    let total: usize = acknowledged.values().map(Vec::len).sum();
    assert!(total > 5000, "only {total} writes");
}

/// The next writer goes on after what is there, acknowledged or not.
fn adopt(folder: &Path, acknowledged: &mut Acknowledged) {
    let store = open(folder);
    runtime().block_on(async {
        for writer in 0..WRITERS {
            let revisions = acknowledged.entry(writer).or_default();
            loop {
                let key = format!("/{writer}/{}", revisions.len());
                match store.get(key.as_bytes()).await.unwrap() {
                    Some(item) => revisions.push(item.mod_revision),
                    None => break,
                }
            }
        }
    });
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing() {
    if let Some(folder) = std::env::var_os(ROLE) {
        write(Path::new(&folder), 60);
    }
    let root = tempfile::tempdir().unwrap();
    let (folder, record) = (root.path().join("data"), root.path().join("record"));
    let mut program = Command::new("strace");
    program
        .args(["-f", "-y", "-xx", "-s", "1000000", "-o"])
        .arg(&record)
        .args(["-e", trace::CALLS])
        .arg(std::env::current_exe().unwrap());
    writer(
        &mut program,
        "a_power_cut_at_any_moment_loses_nothing",
        &folder,
    );
    let output = program
        .stdout(Stdio::null())
        .status()
        .expect("strace is installed: `cargo xtask test` does it");
    assert!(!output.success(), "the writer ends by a signal");

    let events = trace::read(&record, &folder);
    let acknowledgements = events
        .iter()
        .filter(|event| matches!(event, trace::Event::Said(_)));
    assert_eq!(
        acknowledgements.count(),
        WRITERS * 60,
        "every write was acknowledged"
    );
    let syncs = events
        .iter()
        .filter(|event| matches!(event, trace::Event::Sync(_)));
    assert!(syncs.count() > 10, "the record has the syncs");

    let mut random = disk::Random::new(1);
    let mut disk = disk::Disk::default();
    let mut acknowledged = Acknowledged::new();
    let (mut cuts, mut lost) = (0, Vec::new());
    for (at, event) in events.iter().enumerate() {
        disk.apply(event);
        if let trace::Event::Said(line) = event {
            acknowledge(&mut acknowledged, line);
        }
        // Before the first write was acknowledged there may be no store at all.
        if acknowledged.is_empty() || !random.one_in(events.len() / 200) {
            continue;
        }
        let cut = root.path().join("cut");
        disk.cut_power(&mut random, &cut);
        if let Err(error) = check(&cut, &acknowledged) {
            lost.push(format!("after {at} of {} calls: {error}", events.len()));
        }
        std::fs::remove_dir_all(&cut).unwrap();
        cuts += 1;
    }
    assert!(cuts > 100, "only {cuts} cuts");
    assert!(
        lost.is_empty(),
        "{} of {cuts} cuts:\n{}",
        lost.len(),
        lost.join("\n")
    );
}
