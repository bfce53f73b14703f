//! Several platforms that work together: each has a key with a lease, and all see the keys.
//!
//! What a key says of its platform is not known here, nor what the others make of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::alone::{LEASE_SECONDS, MEMBERS, holder, renewed};
use super::client::Again;
use super::wire::{
    Compare, Empty, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, PutRequest, Request,
    RequestOp, TxnRequest, TxnResponse, Wanted, path, target,
};
use super::{Failure, Shared, unsigned};
use crate::Revision;

/// How long a platform that ends waits for etcd to hear of it.
const FAREWELL: Duration = Duration::from_millis(500);

/// How a platform joins others; clones are the same.
#[derive(Clone, Debug)]
pub struct Membership(Arc<Shared>);

/// A platform's place among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    lease: i64,
    /// When it was taken.
    pub revision: Revision,
}

impl Membership {
    /// Below it are the keys of those who work together.
    pub const PREFIX: &str = MEMBERS;

    /// How long a place lasts that nobody renews. A platform may count on it for as long after it sent
    /// the renewal that was answered last: etcd begins to count later.
    pub const LASTS: Duration = Duration::from_secs(LEASE_SECONDS.unsigned_abs());

    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Writes the key `id` with `value`, for as long as the place is renewed.
    ///
    /// Cancel safe: what is left of it runs out.
    ///
    /// # Errors
    ///
    /// [`Failure::Mixed`] while a platform works alone with these keys; [`Failure::Unsure`] if it is not
    /// known whether it was written: then another id has to be taken.
    pub async fn join(&self, id: &str, value: Bytes) -> Result<Place, Failure> {
        let Self(shared) = self;
        if let Some(other) = holder(shared).await? {
            return Err(alone(&other));
        }
        let request = LeaseGrantRequest { ttl: LEASE_SECONDS };
        let granted: LeaseGrantResponse = shared
            .client
            .ask(path::LEASE_GRANT, request, Again::Harmless)
            .await?;
        let absent = |key| Compare {
            target: target::MOD,
            key,
            wanted: Some(Wanted::ModRevision(0)),
            range_end: Bytes::new(),
        };
        let key = shared.part.outer(format!("{MEMBERS}{id}").as_bytes());
        let lonely = shared.part.outer(super::alone::KEY);
        let write = Request::Put(PutRequest {
            key: key.clone(),
            value,
            lease: granted.id,
        });
        let request = TxnRequest {
            compare: vec![absent(key), absent(lonely)],
            success: vec![RequestOp {
                request: Some(write),
            }],
            failure: Vec::new(),
        };
        let answer: TxnResponse = shared
            .client
            .ask(path::TXN, request, Again::OnlyUndone)
            .await?;
        if !answer.succeeded {
            return Err(alone("it came first"));
        }
        let revision = answer.header.map_or(0, |header| unsigned(header.revision));
        Ok(Place {
            lease: granted.id,
            revision: Revision(revision),
        })
    }

    /// Writes another value under the key of a place. When it was written.
    ///
    /// # Errors
    ///
    /// [`Failure`]; it may be tried again.
    pub async fn rewrite(&self, place: Place, id: &str, value: Bytes) -> Result<Revision, Failure> {
        let Self(shared) = self;
        let write = Request::Put(PutRequest {
            key: shared.part.outer(format!("{MEMBERS}{id}").as_bytes()),
            value,
            lease: place.lease,
        });
        let request = TxnRequest {
            compare: Vec::new(),
            success: vec![RequestOp {
                request: Some(write),
            }],
            failure: Vec::new(),
        };
        let answer: TxnResponse = shared
            .client
            .ask(path::TXN, request, Again::Harmless)
            .await?;
        let revision = answer.header.map_or(0, |header| unsigned(header.revision));
        Ok(Revision(revision))
    }

    /// Renews a place; false if it is lost. Cancel safe.
    ///
    /// # Errors
    ///
    /// If etcd does not answer: then nobody knows.
    pub async fn renew(&self, place: Place) -> Result<bool, Failure> {
        renewed(&self.0, place.lease).await
    }

    /// Gives a place up, so that the others know at once.
    pub async fn leave(&self, place: Place) {
        let request = LeaseRevokeRequest { id: place.lease };
        let revoked = self
            .0
            .client
            .ask::<_, Empty>(path::LEASE_REVOKE, request, Again::Harmless);
        // Otherwise it runs out.
        let _ = timeout(FAREWELL, revoked).await;
    }
}

fn alone(other: &str) -> Failure {
    Failure::Mixed {
        other: format!("another bugle works alone here ({other})"),
    }
}
