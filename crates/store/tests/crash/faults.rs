//! A disk that says no: strace makes the writer's calls fail.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bugle_store::{Config, Error, Metrics, Revision, SqliteStore, Store as _};

use crate::{Acknowledged, ROLE, acknowledge, check, open, runtime, say, transaction, writer};

/// Runs `test` once more as a writer whose calls fail as `fault` says, and returns what it said and
/// the calls that it made.
fn run(test: &str, folder: &Path, fault: &str) -> (Vec<String>, String) {
    let record = folder.with_extension("record");
    let mut program = Command::new("strace");
    program
        .args(["-f", "-o"])
        .arg(&record)
        .args(["-e", "trace=pwrite64,fsync,fdatasync"])
        .args(["-e", &format!("inject={fault}")])
        .arg(std::env::current_exe().unwrap());
    writer(&mut program, test, folder);
    let output = program
        .stderr(Stdio::inherit())
        .output()
        .expect("strace is installed: `cargo xtask test` does it");
    let said = String::from_utf8(output.stdout).unwrap();
    let said: Vec<String> = said.lines().map(|line| format!("{line}\n")).collect();
    assert!(
        said.iter().any(|line| line == "done\n"),
        "the writer came to its end, {:?}: {said:?}",
        output.status
    );
    (said, std::fs::read_to_string(record).unwrap())
}

fn acknowledged(said: &[String]) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    for line in said {
        acknowledge(&mut acknowledged, line);
    }
    acknowledged
}

fn say_acknowledged(number: usize, revision: Revision) {
    say(&format!("ack 0 {number} {}\n", revision.0));
}

#[test]
fn a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room() {
    if let Some(folder) = std::env::var_os(ROLE) {
        let store = open(Path::new(&folder));
        runtime().block_on(async {
            let mut number = 0;
            while number < 200 {
                match store.txn(transaction(0, number)).await {
                    Ok(done) => {
                        say_acknowledged(number, done.revision);
                        number += 1;
                    }
                    Err(Error::Full) => {
                        let found = store.range(b"/0/", None, usize::MAX).await.unwrap();
                        assert_eq!(found.items.len(), number, "reads go on");
                        say("full\n");
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
        say("done\n");
        std::process::abort();
    }
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("data");
    let test = "faults::a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room";
    let (said, _) = run(test, &folder, "pwrite64:error=ENOSPC:when=500..600");
    let refused = said.iter().filter(|line| *line == "full\n").count();
    assert!(refused > 10, "{refused} writes found the disk full");
    let acknowledged = acknowledged(&said);
    assert_eq!(acknowledged[&0].len(), 200);
    check(&folder, &acknowledged).unwrap();
}

#[test]
fn after_a_failed_sync_nothing_is_written_and_what_was_acknowledged_can_be_read() {
    if let Some(folder) = std::env::var_os(ROLE) {
        let store = open(Path::new(&folder));
        runtime().block_on(async {
            let mut watch = store.watch(&[b"/"], Revision(0)).await.unwrap();
            let mut number = 0;
            let failure = loop {
                match store.txn(transaction(0, number)).await {
                    Ok(done) => say_acknowledged(number, done.revision),
                    Err(failure) => break failure,
                }
                number += 1;
            };
            assert!(matches!(failure, Error::Failed { .. }), "{failure:?}");
            assert!(store.health().is_err());
            let found = store.range(b"/0/", None, usize::MAX).await.unwrap();
            assert_eq!(found.items.len(), number, "no more and no less");
            let again = store.txn(transaction(0, number)).await;
            assert!(matches!(again, Err(Error::Failed { .. })), "{again:?}");
            for _ in 0..number {
                watch.next().await.unwrap();
            }
            assert!(matches!(watch.next().await, Err(Error::Closed)));
        });
        drop(store);
        say("done\n");
        std::process::abort();
    }
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("data");
    let test =
        "faults::after_a_failed_sync_nothing_is_written_and_what_was_acknowledged_can_be_read";
    let (said, record) = run(test, &folder, "fsync,fdatasync:error=EIO:when=50");
    let (_, after) = record.split_once("(INJECTED)").expect("a sync failed");
    assert_eq!(after.matches("pwrite64").count(), 0, "{after}");
    let acknowledged = acknowledged(&said);
    assert!(acknowledged[&0].len() > 30, "{acknowledged:?}");
    check(&folder, &acknowledged).unwrap();
}

#[test]
fn chores_that_find_no_room_wait_for_the_next_write() {
    if let Some(folder) = std::env::var_os(ROLE) {
        let config = Config {
            history_revisions: 1,
            ..Config::default()
        };
        let store = SqliteStore::open(Path::new(&folder), &config, Metrics::default()).unwrap();
        runtime().block_on(async {
            for number in 0.. {
                if let Err(error) = store.txn(transaction(0, number)).await {
                    assert!(matches!(error, Error::Full), "{error:?}");
                    break;
                }
            }
            // Several times what the chores wait for.
            tokio::time::sleep(Duration::from_millis(500)).await;
        });
        say("done\n");
        std::process::abort();
    }
    let root = tempfile::tempdir().unwrap();
    let test = "faults::chores_that_find_no_room_wait_for_the_next_write";
    let fault = "pwrite64:error=ENOSPC:when=4000+";
    let (_, record) = run(test, &root.path().join("data"), fault);
    let failed = record.matches("(INJECTED)").count();
    assert!((1..10).contains(&failed), "{failed} writes were tried");
}
