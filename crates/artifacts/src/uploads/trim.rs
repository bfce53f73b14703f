//! Packages that were fetched and can be had again: those used last stay, as many as there is room for.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bugle_types::TenantId;

use super::{Uploads, children};
use crate::Error;
use crate::cache::blocking;
use crate::digest::Sha512;

/// What was used more lately is perhaps being unpacked, and stays.
const IN_HAND: Duration = Duration::from_mins(1);

impl Uploads {
    /// Notes that a package is used now. Where it is not in the folder, nothing happens.
    pub async fn touch(&self, tenant: &TenantId, sha512: &Sha512, now: SystemTime) {
        let path = self.shared.of_tenant(tenant).join(sha512.as_str());
        let touched = blocking(move || {
            let file = fs::File::options().append(true).open(path);
            let marked = file.and_then(|file| file.set_modified(now));
            marked.map_err(Error::Store)
        });
        // One that cannot be marked goes earlier than it should, and is fetched again.
        if let Err(error) = touched.await {
            tracing::debug!(%error, "a package cannot be marked as used");
        }
    }

    /// Removes those packages in the folder that were used least lately, until the others have no more than `bytes`; what
    /// was used within the last minute stays anyway. Says how many went.
    ///
    /// # Errors
    ///
    /// The store.
    pub async fn trim(&self, bytes: u64, now: SystemTime) -> Result<usize, Error> {
        if !self.shared.bucket.is_empty() {
            return Ok(0);
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let mut all = Vec::new();
            for (tenant, folder) in children(&shared.folder).map_err(Error::Store)? {
                let Ok(tenant) = tenant.parse::<TenantId>() else {
                    continue;
                };
                for (name, path) in children(&folder).map_err(Error::Store)? {
                    let (Ok(sha512), Ok(found)) = (name.parse::<Sha512>(), fs::metadata(path))
                    else {
                        continue;
                    };
                    let used = found.modified().map_err(Error::Store)?;
                    all.push((used, found.len(), tenant.clone(), sha512));
                }
            }
            all.sort();
            let mut left: u64 = all.iter().map(|(_, length, ..)| length).sum();
            let mut removed = 0;
            for (used, length, tenant, sha512) in all {
                let in_hand = now.duration_since(used).is_ok_and(|age| age < IN_HAND);
                if left <= bytes || in_hand {
                    break;
                }
                match shared.remove(&tenant, &sha512) {
                    Ok(()) => removed += 1,
                    Err(Error::NotUploaded { .. }) => {}
                    Err(error) => return Err(error),
                }
                left -= length;
            }
            Ok(removed)
        })
        .await
    }
}
