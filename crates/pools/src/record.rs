//! Records of pools in the store: their keys, and what is in them.

use bugle_api::PoolInfo;
use bugle_store::KeyValue;
use bugle_types::pool::{Pool, PoolId, PoolStatus};
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

/// The key of what somebody calls a pool: the name may be none that a pool can have.
pub(crate) fn key_of(name: &str) -> Bytes {
    [PREFIX, name.as_bytes()].concat().into()
}

/// The name that a record is kept under.
pub(crate) fn name_of(key: &[u8]) -> String {
    let name = key.strip_prefix(PREFIX).unwrap_or(key);
    String::from_utf8_lossy(name).into_owned()
}

/// What a record says.
///
/// # Errors
///
/// Why it says nothing, for people.
pub(crate) fn info(found: &KeyValue) -> Result<PoolInfo, String> {
    let info: PoolInfo = serde_json::from_slice(&found.value)
        .map_err(|error| format!("the record is no pool: {error}"))?;
    let name = name_of(&found.key);
    if info.id == name {
        return Ok(info);
    }
    Err(format!("the record is that of a pool {:?}", info.id))
}

/// What is shown of a record, which may be none of a pool; then that is said.
pub(crate) fn shown(found: &KeyValue) -> PoolInfo {
    info(found).unwrap_or_else(|why| PoolInfo {
        id: name_of(&found.key),
        status: PoolStatus::Failed.number().into(),
        msg: format!("{why}; it can only be deleted"),
        ..PoolInfo::default()
    })
}

/// Why a record is no pool that can be made.
pub(crate) enum Flaw {
    /// It is none at all.
    NoPool(String),
    /// It breaks rules.
    Broken(Box<PoolInfo>, String),
}

/// A record that is a pool.
pub(crate) struct Record {
    pub(crate) info: PoolInfo,
    pub(crate) pool: Pool,
}

impl Record {
    /// The pool in a record. One that somebody else wrote may break the rules of this platform.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn read(found: &KeyValue) -> Result<Self, Flaw> {
        let info = info(found).map_err(Flaw::NoPool)?;
        match info.spec() {
            Ok(spec) => Ok(Self {
                pool: Pool {
                    spec,
                    state: info.state(),
                    revision: found.mod_revision.0,
                },
                info,
            }),
            Err(mistakes) => {
                let mistakes = mistakes.iter().map(|mistake| {
                    let mistake = mistake.trim_start_matches(", ");
                    mistake.strip_prefix("err: ").unwrap_or(mistake)
                });
                let why = mistakes.collect::<Vec<_>>().join("; ");
                Err(Flaw::Broken(Box::new(info), why))
            }
        }
    }
}
