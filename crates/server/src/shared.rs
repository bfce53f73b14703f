//! What a platform looks after whose store others can reach as well: that its key is the one with
//! which the functions' variables are encrypted, and that nobody else took its place.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bugle_registry::{Keyring, KeyringError};
use bugle_store::{Compare, Error, Op, Revision, Store, Txn};
use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::StartError;

/// Where a word for the key is. The key itself is nowhere but in the data folders.
const KEY: &[u8] = b"/bugle/environment-key";

/// How soon a platform that lost its place ends.
const LOOK: Duration = Duration::from_millis(500);

/// Ends, with an error in the log, when the platform must not go on; else with `stop`.
pub(crate) async fn watch(store: Arc<dyn Store>, key: String, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        match other_key(&*store, &key).await {
            Ok(None) => {}
            Ok(Some(other)) => {
                tracing::error!(
                    ours = key,
                    theirs = other,
                    "the variables of functions are encrypted with another key; copy \
                     environment.key from the data folder of the platform that used this etcd before"
                );
                return;
            }
            // Who cannot write this cannot register anything either, and is told so.
            Err(error) => tracing::warn!(%error, "the key could not be compared"),
        }
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

/// The key in the data folder of a platform whose store others can reach. It is made where the store says none: a new
/// one beside the values of another would only be in the way of that.
pub(crate) fn keyring(store: &dyn Store, folder: &Path) -> Result<Keyring, StartError> {
    // What cannot be read, or is there only in a moment, is found by `watch`.
    if let Some(Ok(Some(theirs))) = key_of(store).now_or_never() {
        let ours = key_in(folder).map_err(StartError::Key)?;
        if ours.as_ref() != Some(&theirs) {
            let path = folder.join("environment.key");
            return Err(StartError::OtherKey { theirs, ours, path });
        }
    }
    Keyring::open(folder).map_err(StartError::Key)
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
async fn other_key(store: &dyn Store, key: &str) -> Result<Option<String>, Error> {
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
    async fn the_first_key_counts() {
        let store = bugle_store::MemoryStore::new();
        assert_eq!(other_key(&store, "one").await.unwrap(), None);
        assert_eq!(other_key(&store, "one").await.unwrap(), None);
        let other = other_key(&store, "two").await.unwrap();
        assert_eq!(other.as_deref(), Some("one"));
    }
}
