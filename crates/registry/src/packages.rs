//! Which uploaded packages are in use.

use std::collections::BTreeSet;

use bugle_store::{Error, Store};
use bugle_types::TenantId;
use bytes::Bytes;
use serde::Deserialize;

use crate::keys::{self, PUBLISHED_FAAS, PUBLISHED_OTHER};

/// How many functions are read at once; others have their turn in between.
const CHUNK: usize = 256;

/// The part of a published value that says where the code is.
#[derive(Deserialize)]
struct Published {
    #[serde(rename = "codeMetaData")]
    code: Code,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Code {
    bucket_url: String,
    object_id: String,
}

/// The objects that versions of functions, drafts included, have at the store of this address, with
/// the tenants of the functions.
///
/// # Errors
///
/// What the store says when it cannot be read.
pub async fn objects_in_use(
    store: &dyn Store,
    address: &str,
) -> Result<BTreeSet<(TenantId, String)>, Error> {
    let mut found = BTreeSet::new();
    for prefix in [PUBLISHED_FAAS, PUBLISHED_OTHER] {
        let mut after: Option<Bytes> = None;
        loop {
            let range = store
                .range(prefix.as_bytes(), after.as_deref(), CHUNK)
                .await?;
            for item in &range.items {
                // Most have their code elsewhere, and to find that out takes no reading of JSON.
                let named = contains(&item.value, address.as_bytes());
                if named
                    && let Some((id, _)) = keys::parse_published(&item.key)
                    && let Ok(published) = serde_json::from_slice::<Published>(&item.value)
                    && published.code.bucket_url == address
                {
                    found.insert((id.tenant, published.code.object_id));
                }
            }
            match range.items.last() {
                Some(last) if range.more => after = Some(last.key.clone()),
                _ => break,
            }
            tokio::task::yield_now().await;
        }
    }
    Ok(found)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len().max(1)).any(|window| window == part)
}
