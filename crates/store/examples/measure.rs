//! How many durable writes a second the store does on this disk, beside what the disk can.
//!
//!     cargo run --release -p bugle-store --example measure [FOLDER]
#![expect(
    clippy::print_stdout,
    reason = "a program that prints what it measures"
)]

use std::error::Error;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bugle_store::{Config, Metrics, Op, SqliteStore, Store as _, Txn};

const ROUND: Duration = Duration::from_secs(3);

/// What registering a function writes, at its worst: four keys of about a KiB, with values that have
/// nothing in common and so cannot be packed.
fn transaction(number: u64) -> Txn {
    let value = noise(number);
    let keys = (0..4).map(|part| format!("/measure/{number}/{part}/of-a-common-length-of-key"));
    Txn {
        when: Vec::new(),
        then: keys
            .map(|key| Op::Put(key.into_bytes().into(), value.clone().into()))
            .collect(),
    }
}

/// The same bytes for the same number (xorshift).
fn noise(number: u64) -> Vec<u8> {
    let mut state = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(145).flatten().collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let folder = tempfile::tempdir_in(parent)?;
    println!(
        "{:>8.0} syncs/s of the disk, one 4 KiB write each",
        syncs(folder.path())?
    );
    for writers in [1, 16, 64] {
        let rate = writes(&folder.path().join(writers.to_string()), writers)?;
        println!("{rate:>8.0} durable transactions/s with {writers} writers");
    }
    Ok(())
}

/// Overwrites the same block and syncs it.
fn syncs(folder: &Path) -> std::io::Result<f64> {
    let mut file = std::fs::File::create(folder.join("block"))?;
    let begin = Instant::now();
    let mut count = 0_u32;
    while begin.elapsed() < ROUND {
        file.rewind()?;
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

fn writes(folder: &Path, writers: u64) -> Result<f64, Box<dyn Error>> {
    let store = SqliteStore::open(folder, &Config::default(), Metrics::default())?;
    let (store, next) = (Arc::new(store), Arc::new(AtomicU64::new(0)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let begin = Instant::now();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..writers {
            let (store, next) = (Arc::clone(&store), Arc::clone(&next));
            tasks.spawn(async move {
                while begin.elapsed() < ROUND {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    store.txn(transaction(number)).await?;
                }
                Ok::<_, bugle_store::Error>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    let done = u32::try_from(next.load(Ordering::Relaxed))?;
    Ok(f64::from(done) / begin.elapsed().as_secs_f64())
}
