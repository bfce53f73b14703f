//! Which code versions of functions have: uploaded packages and images. Whoever removes code that
//! nobody uses asks here.

use std::collections::BTreeSet;

use bugle_store::{Error, Store};
use bugle_types::{FunctionId, TenantId};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::keys::{self, PUBLISHED_FAAS, PUBLISHED_OTHER};

/// How many functions are read at once; others have their turn in between.
const CHUNK: usize = 256;

/// What every published value has that belongs to an image.
const IMAGE: &str = "\"custom_container_config\"";

/// An image that a version of a function is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedImage {
    /// The version.
    pub function: FunctionId,
    /// The image as its owner named it.
    pub image: String,
    /// What the name stood for at its registration, if that was known.
    pub digest: Option<String>,
}

/// The part of a published value that says where a package is.
#[derive(Deserialize)]
struct Packaged {
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

/// The part of a published value that names an image.
#[derive(Deserialize)]
struct Contained {
    #[serde(rename = "extendedMetaData")]
    extended: Extended,
}

#[derive(Deserialize)]
struct Extended {
    custom_container_config: Container,
    #[serde(default)]
    image_digest: String,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    image: String,
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
    each(store, address, |id, value: Packaged| {
        if value.code.bucket_url == address {
            found.insert((id.tenant, value.code.object_id));
        }
    })
    .await?;
    Ok(found)
}

/// The images of all versions of functions, drafts included.
///
/// # Errors
///
/// What the store says when it cannot be read.
pub async fn images_in_use(store: &dyn Store) -> Result<Vec<UsedImage>, Error> {
    let mut found = Vec::new();
    each(store, IMAGE, |function, value: Contained| {
        let Extended {
            custom_container_config: Container { image },
            image_digest: digest,
        } = value.extended;
        if !image.is_empty() {
            found.push(UsedImage {
                function,
                image,
                digest: (!digest.is_empty()).then_some(digest),
            });
        }
    })
    .await?;
    Ok(found)
}

/// Reads the published values that have `word` somewhere: most have not, and to find that out takes
/// no reading of JSON.
async fn each<T: DeserializeOwned>(
    store: &dyn Store,
    word: &str,
    mut take: impl FnMut(FunctionId, T),
) -> Result<(), Error> {
    for prefix in [PUBLISHED_FAAS, PUBLISHED_OTHER] {
        let mut after: Option<Bytes> = None;
        loop {
            let range = store
                .range(prefix.as_bytes(), after.as_deref(), CHUNK)
                .await?;
            for item in &range.items {
                if contains(&item.value, word.as_bytes())
                    && let Some((id, _)) = keys::parse_published(&item.key)
                    && let Ok(value) = serde_json::from_slice(&item.value)
                {
                    take(id, value);
                }
            }
            match range.items.last() {
                Some(last) if range.more => after = Some(last.key.clone()),
                _ => break,
            }
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len().max(1)).any(|window| window == part)
}
