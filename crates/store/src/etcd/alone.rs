//! One platform at a time: a key with a lease that says who works with the part of the etcd.
//!
//! Two platforms on the same keys would each keep a function's instances and deliver its events, so
//! the second one waits, and gets its turn soon after the first one ends, however that ends. A lease
//! that ran out while nobody else wanted it is simply taken again.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep, timeout};

use super::client::Again;
use super::keys::Between;
use super::wire::{
    Compare, Empty, KeepAliveRequest, KeepAliveResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseRevokeRequest, PutRequest, RangeRequest, RangeResponse, Request, RequestOp, TxnRequest,
    TxnResponse, Wanted, path, target,
};
use super::{Failure, Shared};

/// Where it is said.
pub(super) const KEY: &[u8] = b"/bugle/running/alone";

/// Below it are those who work together.
pub(super) const MEMBERS: &str = "/bugle/members/";

/// How long after its end a platform is believed to work, in seconds: the least that etcd grants.
pub(super) const LEASE_SECONDS: i64 = 2;

/// How often the lease is renewed.
const RENEW: Duration = Duration::from_millis(500);

/// How often one that waits looks whether its turn has come.
const LOOK: Duration = Duration::from_millis(200);

/// The claim of this platform.
pub(super) struct Claim {
    who: String,
    lease: i64,
}

impl Claim {
    /// Waits until no other platform works here, at most for as long as `patience` says.
    pub(super) async fn take(
        shared: &Shared,
        who: String,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            let (alone, members) = (holder(shared).await?, together(shared).await?);
            let failure = match alone {
                Some(other) => Failure::Taken { other },
                None if members > 0 => Failure::Mixed {
                    other: format!("{members} gateways work together here (cluster.listen)"),
                },
                None => match attempt(shared, &who).await? {
                    Some(lease) => return Ok(Self { who, lease }),
                    None => Failure::Taken {
                        other: "it came first".to_owned(),
                    },
                },
            };
            if Instant::now() >= deadline {
                return Err(failure);
            }
            sleep(LOOK).await;
        }
    }

    /// Renews the claim for as long as nobody else has it. Says why it ended.
    pub(super) async fn keep(&mut self, shared: &Shared) -> Failure {
        loop {
            sleep(RENEW).await;
            match timeout(RENEW * 2, renewed(shared, self.lease)).await {
                Ok(Ok(true)) => {}
                // It ran out. Without an answer nobody knows; etcd itself lets no lease run out
                // while it has no leader.
                Ok(Ok(false)) => match Self::take(shared, self.who.clone(), Duration::ZERO).await {
                    Ok(claim) => *self = claim,
                    Err(failure @ (Failure::Taken { .. } | Failure::Mixed { .. })) => {
                        return failure;
                    }
                    Err(_) => {}
                },
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Lets the next one begin at once.
    pub(super) async fn give_up(self, shared: &Shared) {
        let request = LeaseRevokeRequest { id: self.lease };
        let revoked = shared
            .client
            .ask::<_, Empty>(path::LEASE_REVOKE, request, Again::Harmless);
        // Otherwise it runs out.
        let _ = timeout(RENEW, revoked).await;
    }
}

pub(super) async fn holder(shared: &Shared) -> Result<Option<String>, Failure> {
    let request = RangeRequest {
        key: shared.part.outer(KEY),
        ..RangeRequest::default()
    };
    let found: RangeResponse = shared
        .client
        .ask(path::RANGE, request, Again::Harmless)
        .await?;
    let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
    Ok(found.kvs.first().map(|kv| text(&kv.value)))
}

/// How many platforms work together here, where they are not alone.
async fn together(shared: &Shared) -> Result<usize, Failure> {
    let Between(key, range_end) = Between::prefix(&shared.part.outer(MEMBERS.as_bytes()));
    let request = RangeRequest {
        key,
        range_end,
        keys_only: true,
        ..RangeRequest::default()
    };
    let found: RangeResponse = shared
        .client
        .ask(path::RANGE, request, Again::Harmless)
        .await?;
    Ok(found.kvs.len())
}

/// That nobody is there, alone or together with others.
pub(super) fn nobody(shared: &Shared) -> [Compare; 2] {
    let Between(first, end) = Between::prefix(&shared.part.outer(MEMBERS.as_bytes()));
    [(shared.part.outer(KEY), Bytes::new()), (first, end)].map(|(key, range_end)| Compare {
        target: target::MOD,
        key,
        wanted: Some(Wanted::ModRevision(0)),
        range_end,
    })
}

/// The lease under which the key was written; none if another was faster.
async fn attempt(shared: &Shared, who: &str) -> Result<Option<i64>, Failure> {
    let request = LeaseGrantRequest { ttl: LEASE_SECONDS };
    let granted: LeaseGrantResponse = shared
        .client
        .ask(path::LEASE_GRANT, request, Again::Harmless)
        .await?;
    let write = Request::Put(PutRequest {
        key: shared.part.outer(KEY),
        value: who.to_owned().into(),
        lease: granted.id,
    });
    let request = TxnRequest {
        compare: nobody(shared).to_vec(),
        success: vec![RequestOp {
            request: Some(write),
        }],
        failure: Vec::new(),
    };
    let answer: Result<TxnResponse, Failure> = shared
        .client
        .ask(path::TXN, request, Again::OnlyUndone)
        .await;
    match answer {
        Ok(answer) => Ok(answer.succeeded.then_some(granted.id)),
        // If it was done, the lease that nobody renews ends it again.
        Err(Failure::Unsure { .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether the lease lives on.
pub(super) async fn renewed(shared: &Shared, id: i64) -> Result<bool, Failure> {
    let requests = stream::once(async move { KeepAliveRequest { id } }).chain(stream::pending());
    let answers = shared
        .client
        .stream::<_, KeepAliveResponse>(path::LEASE_KEEP_ALIVE, requests);
    let answer = answers.await?.message().await;
    let answer = answer.map_err(|status| shared.client.lost(&status))?;
    Ok(answer.is_some_and(|answer| answer.ttl > 0))
}
