//! Records of pools in the store: their keys, and what is in them.

use bugle_api::PoolInfo;
use bugle_store::KeyValue;
use bugle_types::pool::{Pool, PoolId};
use bytes::Bytes;

/// What the keys of all pools begin with (contract 7.1).
pub(crate) const PREFIX: &[u8] = b"/yr/podpools/info/";

/// The key of a pool.
pub(crate) fn key(id: &PoolId) -> Bytes {
    [PREFIX, id.as_str().as_bytes()].concat().into()
}

/// The value of a pool.
pub(crate) fn value(info: &PoolInfo) -> Bytes {
    serde_json::to_vec(info)
        .expect("a pool is made of JSON values")
        .into()
}

/// What a record says, if it says anything.
pub(crate) fn info(found: &KeyValue) -> Option<PoolInfo> {
    match serde_json::from_slice(&found.value) {
        Ok(info) => Some(info),
        Err(error) => {
            let key = String::from_utf8_lossy(&found.key);
            tracing::warn!(%key, %error, "a record is no pool");
            None
        }
    }
}

/// A record that is a pool.
pub(crate) struct Record {
    pub(crate) info: PoolInfo,
    pub(crate) pool: Pool,
}

impl Record {
    /// The pool in a record. One that somebody else wrote may break the rules of this platform; it
    /// is passed over.
    pub(crate) fn read(found: &KeyValue) -> Option<Self> {
        let info = info(found)?;
        match info.spec() {
            Ok(spec) => Some(Self {
                pool: Pool {
                    spec,
                    state: info.state(),
                    revision: found.mod_revision.0,
                },
                info,
            }),
            Err(mistakes) => {
                let key = String::from_utf8_lossy(&found.key);
                tracing::warn!(%key, ?mistakes, "a record is not a pool that this platform takes");
                None
            }
        }
    }
}
