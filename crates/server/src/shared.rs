//! What a platform looks after whose store others can reach as well: that its key is the one with
//! which the functions' variables are encrypted, and that nobody else took its place.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bugle_registry::{Keyring, KeyringError};
use bugle_store::{Compare, Error, Kind, Op, Revision, Store, Txn};
use bugle_types::report;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::StartError;

/// Where a word for the key is. The key itself is nowhere but in the data folders.
const KEY: &[u8] = b"/bugle/environment-key";

/// How soon a platform that lost its place ends.
const LOOK: Duration = Duration::from_millis(500);

/// Ends, with an error in the log, when the platform must not go on; else with `stop`.
pub(crate) async fn watch(store: Arc<dyn Store>, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(error) = store.health().err().filter(Error::is_fatal) {
                tracing::error!(%error, "the platform has to end");
                return;
            }
        }
    })
    .await;
}

/// The key in the data folder of a platform whose store others can reach, which the store says from then on. It is made
/// where the store says none: a new one beside the values of another would only be in the way of that.
pub(crate) async fn keyring(
    store: &dyn Store,
    kind: Kind,
    folder: &Path,
) -> Result<Keyring, StartError> {
    let theirs = match key_of(store).await {
        Ok(theirs) => theirs,
        Err(error) => {
            not_compared(&error);
            None
        }
    };
    if let Some(theirs) = theirs.as_ref() {
        let ours = key_in(folder).map_err(StartError::Key)?;
        if ours.as_ref() != Some(theirs) {
            return Err(other_key(theirs.clone(), ours, folder));
        }
    }
    let keyring = Keyring::open(folder).map_err(StartError::Key)?;
    if kind == Kind::Etcd && theirs.is_none() {
        claim(store, keyring.fingerprint(), folder).await?;
    }
    Ok(keyring)
}

/// Says in the store which key this platform has. Of two that start at the same moment the first one counts.
async fn claim(store: &dyn Store, ours: &str, folder: &Path) -> Result<(), StartError> {
    match first_key(store, ours).await {
        Ok(None) => Ok(()),
        Ok(Some(theirs)) => Err(other_key(theirs, Some(ours.to_owned()), folder)),
        // Who cannot write this cannot register anything either, and is told so.
        Err(error) => {
            not_compared(&error);
            Ok(())
        }
    }
}

fn other_key(theirs: String, ours: Option<String>, folder: &Path) -> StartError {
    let path = folder.join("environment.key");
    StartError::OtherKey { theirs, ours, path }
}

fn not_compared(error: &Error) {
    tracing::warn!(reason = report(error), "the key could not be compared");
}

/// The word for the key in a folder, if there is one; none is made.
pub(crate) fn key_in(folder: &Path) -> Result<Option<String>, KeyringError> {
    if !folder.join("environment.key").is_file() {
        return Ok(None);
    }
    let keyring = Keyring::open(folder)?;
    Ok(Some(keyring.fingerprint().to_owned()))
}

/// The word for the key with which the values of a store are encrypted, where the store says it.
pub(crate) async fn key_of(store: &dyn Store) -> Result<Option<String>, Error> {
    let found = store.get(KEY).await?;
    Ok(found.map(|item| String::from_utf8_lossy(&item.value).into_owned()))
}

/// The key with which others encrypted, if it is not this one. The first one counts.
async fn first_key(store: &dyn Store, key: &str) -> Result<Option<String>, Error> {
    let place = Bytes::from_static(KEY);
    let first = Txn {
        when: vec![Compare::ModRevision(place.clone(), Revision(0))],
        then: vec![Op::Put(place, key.to_owned().into())],
    };
    if store.txn(first).await?.succeeded {
        return Ok(None);
    }
    Ok(key_of(store).await?.filter(|found| found != key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_key_counts_and_the_other_is_told_what_to_copy() {
        let (store, folder) = (bugle_store::MemoryStore::new(), Path::new("/data"));
        claim(&store, "one", folder).await.unwrap();
        claim(&store, "one", folder).await.unwrap();
        let refused = claim(&store, "two", folder).await.unwrap_err().to_string();
        let copy = "/data/environment.key holds two; copy environment.key there";
        assert!(refused.contains(copy), "{refused}");
    }
}
