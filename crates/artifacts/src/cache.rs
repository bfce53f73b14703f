//! The folders that packages were unpacked into, shared by all instances that run them.
//!
//! An entry is filled once however many wait for it, in a folder beside its place that is renamed
//! when it is whole. It is read-only from then on, and stays while anything holds it; among the
//! others the one that was used longest ago goes when the cache is larger than it may be.
//!
//! [`ledger`] knows who uses what and decides what goes; [`disk`] is what is on the disk and what a
//! crash leaves of it; here the two are put together.

mod disk;
mod ledger;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, watch};

use crate::Error;
use crate::archive::Unpacked;
use disk::{Disk, Marker, Unfinished};
use ledger::Ledger;

/// The name of an entry: what it is made of, as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(Arc<str>);

impl Key {
    /// The key of what these parts determine; no two lists of parts have the same.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in parts {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Self(crate::hex(&digest.finish().as_ref()[..20]).into())
    }

    fn parse(name: &str) -> Option<Self> {
        let digits = name.bytes().all(|byte| byte.is_ascii_hexdigit());
        (name.len() == 40 && digits).then(|| Self(name.into()))
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

/// How the filling of an entry ends, for everybody who waits for it.
type Outcome = Option<Result<(), Arc<Error>>>;

/// How often the use of an entry is written down, so that the order survives a restart.
const TOUCH: Duration = Duration::from_mins(10);

/// When it is seen to that an entry is on the disk. The kernel has written it by then of its own
/// accord, so that nobody else's writes have to wait behind it.
const SYNC_AFTER: Duration = Duration::from_mins(1);

/// How long a full cache waits for something to be given back: an instance lets go of its package a
/// moment after its end is known.
const GIVING_BACK: Duration = Duration::from_secs(1);

/// How many entries are filled at once; more wait.
const FILLS: usize = 4;

/// The cache. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Disk,
    max_bytes: u64,
    fills: Semaphore,
    /// Held by whoever changes what is in the folder, before the lock of the state.
    changing: Mutex<()>,
    state: Mutex<State>,
    /// Told when an entry is given back.
    given_back: Condvar,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    flights: HashMap<Key, watch::Receiver<Outcome>>,
}

/// Keeps an entry where it is.
#[derive(Debug)]
pub(crate) struct Hold {
    shared: Arc<Shared>,
    key: Key,
}

impl Hold {
    /// The folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.shared.disk.place(&self.key)
    }

    /// Takes on to compile the entry for `tag`, which nobody else does then.
    pub(crate) fn claim(&self, tag: &str) -> bool {
        self.shared.state.lock().ledger.claim(&self.key, tag)
    }

    /// Writes down that the entry has been compiled for `tag`, and that it grew. Blocks.
    pub(crate) fn compiled(&self, tag: &str, bytes: u64) {
        let mut state = self.shared.state.lock();
        state.ledger.compiled(&self.key, tag, bytes);
        let marker = state.ledger.marker(&self.key);
        drop(state);
        if let Some(marker) = marker
            && let Err(error) = self.shared.disk.write_marker(&self.key, &marker)
        {
            // It is compiled again after a restart, and nothing else.
            tracing::warn!(%error, "the cache of packages cannot be written");
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.state.lock().ledger.release(&self.key);
        self.shared.given_back.notify_all();
    }
}

impl Cache {
    /// The cache in `folder`, which is made; what a crash left half-made in it is removed. Blocks.
    pub(crate) fn open(folder: &Path, max_bytes: u64) -> io::Result<Self> {
        let (disk, found) = Disk::open(folder)?;
        let mut ledger = Ledger::default();
        for (key, marker) in found {
            ledger.insert(&key, marker.bytes, marker.compiled);
            ledger.release(&key);
        }
        let cache = Self {
            shared: Arc::new(Shared {
                disk,
                max_bytes,
                fills: Semaphore::new(FILLS),
                changing: Mutex::new(()),
                state: Mutex::new(State {
                    ledger,
                    flights: HashMap::new(),
                }),
                given_back: Condvar::new(),
            }),
        };
        // The operator may have given it less than it had.
        cache.shared.make_room(0);
        Ok(cache)
    }

    /// How many bytes and entries there are.
    pub(crate) fn size(&self) -> (u64, usize) {
        let state = self.shared.state.lock();
        (state.ledger.bytes(), state.ledger.len())
    }

    /// The entry, if it is there.
    pub(crate) fn find(&self, key: &Key) -> Option<Arc<Hold>> {
        let mut state = self.shared.state.lock();
        let due = state.ledger.hold(key, Instant::now(), TOUCH)?;
        drop(state);
        if due {
            let (shared, key) = (Arc::clone(&self.shared), key.clone());
            tokio::task::spawn_blocking(move || shared.disk.touch(&key));
        }
        Some(self.held(key))
    }

    fn held(&self, key: &Key) -> Arc<Hold> {
        Arc::new(Hold {
            shared: Arc::clone(&self.shared),
            key: key.clone(),
        })
    }

    /// The entry; where it is not there, `fill` makes it in the empty folder that it is given.
    ///
    /// However many ask at once, one `fill` runs, and goes on when those who asked have left.
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// What `fill` returned, to all who waited; the next who asks tries again.
    pub(crate) async fn ready<F, R>(&self, key: &Key, fill: F) -> Result<Arc<Hold>, Arc<Error>>
    where
        F: FnOnce(PathBuf) -> R,
        R: Future<Output = Result<Unpacked, Error>> + Send + 'static,
        F: Send + 'static,
    {
        let mut fill = Some(fill);
        loop {
            if let Some(hold) = self.find(key) {
                return Ok(hold);
            }
            let mut outcome = self.join_or_start(key, &mut fill);
            match outcome
                .wait_for(Option::is_some)
                .await
                .map(|outcome| outcome.clone())
            {
                // It can have been evicted since, when the cache is far too small.
                Ok(Some(Ok(()))) if fill.is_some() => {}
                Ok(Some(Ok(()))) => {
                    return self.find(key).ok_or_else(|| Arc::new(Error::Evicted));
                }
                Ok(Some(Err(error))) => return Err(error),
                Ok(None) | Err(_) => return Err(Arc::new(Error::Interrupted)),
            }
        }
    }

    /// Waits for the one that fills the entry, or becomes it.
    fn join_or_start<F, R>(&self, key: &Key, fill: &mut Option<F>) -> watch::Receiver<Outcome>
    where
        F: FnOnce(PathBuf) -> R + Send + 'static,
        R: Future<Output = Result<Unpacked, Error>> + Send + 'static,
    {
        let mut state = self.shared.state.lock();
        if let Some(flight) = state.flights.get(key) {
            return flight.clone();
        }
        let (sender, receiver) = watch::channel(None);
        if let Some(fill) = fill.take() {
            state.flights.insert(key.clone(), receiver.clone());
            drop(state);
            let flight = Flight {
                cache: self.clone(),
                key: key.clone(),
                sender,
            };
            tokio::spawn(async move {
                let done = flight.cache.fill(&flight.key, fill).await;
                flight.land(done.map_err(Arc::new));
            });
        }
        receiver
    }

    async fn fill<F, R>(&self, key: &Key, fill: F) -> Result<(), Error>
    where
        F: FnOnce(PathBuf) -> R,
        R: Future<Output = Result<Unpacked, Error>>,
    {
        let _turn = self.shared.fills.acquire().await;
        // Who asked may have found it missing a moment before somebody else brought it.
        if self.find(key).is_some() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let unfinished = blocking(move || shared.disk.unfinished()).await?;
        let unpacked = fill(unfinished.path().to_owned()).await;
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        // What was not finished is removed there, too, where it may take its time.
        blocking(move || shared.admit(&key, unfinished, unpacked?)).await
    }
}

/// A filling under way. Whatever ends it, those who wait are told.
struct Flight {
    cache: Cache,
    key: Key,
    sender: watch::Sender<Outcome>,
}

impl Flight {
    fn land(self, outcome: Result<(), Arc<Error>>) {
        // Whoever comes after this finds the entry, or tries anew.
        self.cache.shared.state.lock().flights.remove(&self.key);
        self.sender.send_replace(Some(outcome));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.cache.shared.state.lock().flights.remove(&self.key);
    }
}

impl Shared {
    /// Puts a finished folder in its place. Blocks.
    fn admit(
        self: &Arc<Self>,
        key: &Key,
        unfinished: Unfinished,
        unpacked: Unpacked,
    ) -> Result<(), Error> {
        let bytes = disk::bytes_of(unpacked);
        let _changing = self.changing.lock();
        if !self.make_room(bytes) {
            return Err(Error::CacheFull {
                bytes,
                max: self.max_bytes,
            });
        }
        let marker = Marker::new(bytes);
        let put = self.disk.put(key, unfinished, &marker);
        put.map_err(Error::cache)?;
        let mut state = self.state.lock();
        state.ledger.insert(key, bytes, marker.compiled);
        // Who waits takes it next; until then it is the one that was used last.
        state.ledger.release(key);
        drop(state);
        let (shared, key) = (Arc::clone(self), key.clone());
        // Nobody waits for the disk: what a crash of the machine would tear is told by its marker.
        tokio::spawn(async move {
            tokio::time::sleep(SYNC_AFTER).await;
            tokio::task::spawn_blocking(move || shared.sync(&key))
                .await
                .is_ok()
        });
        Ok(())
    }

    fn sync(&self, key: &Key) {
        if let Err(error) = self.disk.sync(key) {
            tracing::warn!(%error, "the cache of packages cannot be written to the disk");
            return;
        }
        let mut state = self.state.lock();
        state.ledger.synced(key);
        let marker = state.ledger.marker(key);
        drop(state);
        if let Some(marker) = marker {
            // Else it is taken for one that the crash of the machine may have torn.
            let _ = self.disk.write_marker(key, &marker);
        }
    }

    /// Removes what was used longest ago until so many bytes more find place. Says whether they do.
    /// Nobody else may be changing the folder. Blocks.
    fn make_room(&self, bytes: u64) -> bool {
        let Some(most) = self.max_bytes.checked_sub(bytes) else {
            // Not for all that is there.
            return false;
        };
        let until = Instant::now() + GIVING_BACK;
        let mut state = self.state.lock();
        let (mut victims, mut enough) = state.ledger.evict(most);
        while !enough && !self.given_back.wait_until(&mut state, until).timed_out() {
            let (more, is_enough) = state.ledger.evict(most);
            victims.extend(more);
            enough = is_enough;
        }
        drop(state);
        for key in victims {
            tracing::info!(entry = key.as_str(), "a package leaves the cache");
            if let Err(error) = self.disk.remove(&key) {
                tracing::warn!(%error, "a package cannot be removed from the cache");
            }
        }
        enough
    }
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(Error::Interrupted))
}

#[cfg(test)]
mod tests;
