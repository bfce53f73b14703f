//! What is kept of nodes in the store: the authority, open tokens, and who has joined.
//!
//! Nothing of what runs where is kept: nodes say that themselves.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use bugle_scheduler::placement::NodeId;
use bugle_store::{Compare, Op, Revision, Store, Txn, Watch};
use bytes::Bytes;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::authority::{self, Authority, GatewayTls};
use crate::orders::OrderKey;
use crate::token::{JoinToken, NoRandomness, hex, sha256, unhex};

const AUTHORITY: &str = "/bugle/nodes/authority";
const TOKENS: &str = "/bugle/nodes/tokens/";
const MEMBERS: &str = "/bugle/nodes/members/";

/// The name of the platform's own machine among the nodes; no other has it.
pub const LOCAL: &str = "local";

/// The most nodes that are listed.
const MOST: usize = 20_000;

/// Keeps secrets under the deployment's own key. The text of an error says why that failed.
pub trait Seal: Send + Sync {
    /// Makes a text unreadable.
    fn seal(&self, text: &str) -> Result<String, String>;
    /// Makes it readable again.
    fn open(&self, sealed: &str) -> Result<String, String>;
}

/// What is kept of nodes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error("the store of nodes cannot be used")]
    Store(#[from] bugle_store::Error),
    /// A certificate.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// The key of the authority.
    #[error("the key of the nodes' authority cannot be used: {0}")]
    Sealed(String),
    /// A record that is not ours.
    #[error("the record {0} in the store cannot be read")]
    Record(String),
    /// No random numbers.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The token is none of this platform, was used or is too old.
    #[error(
        "the token was used, has expired or is none of this platform; `bugle node token` makes a new one"
    )]
    Token,
    /// Another node has the name.
    #[error(
        "a node named {0} has joined already; choose another name, or remove it with `bugle node remove {0}`"
    )]
    Taken(NodeId),
    /// The platform's own machine has the name.
    #[error("no node can be named {0}, which is the platform's own machine; choose another name")]
    Reserved(NodeId),
    /// It says that it is a Pod, and the cluster has no such one.
    #[error("the cluster has no Pod {0} of a pool with that uid")]
    NoPod(NodeId),
    /// The Pod has joined already, with another key.
    #[error("the Pod {0} has joined already; a Pod joins once")]
    Joined(NodeId),
    /// The cluster cannot be asked about a Pod.
    #[error("whether the Pod is there cannot be found out: {0}")]
    Cluster(String),
    /// No node has the name.
    #[error("no node named {0} has joined")]
    Unknown(NodeId),
    /// Its certificate is not the one that it was given.
    #[error("the certificate of the node is none of this platform, or the node was removed")]
    Certificate,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    certificate: String,
    sealed_key: String,
}

#[derive(Serialize, Deserialize)]
struct Open {
    expires: u64,
}

/// A node that has joined.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// When it joined, in seconds since 1970.
    pub joined: u64,
    /// The Pod that it is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// Whether an operator drains it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// A Pod of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its uid: another Pod may have its name later.
    pub uid: String,
    /// The id of its pool.
    pub pool: String,
    /// SHA-256 of the key that it joined with.
    key: String,
}

/// The nodes that may connect.
pub(crate) struct Members {
    store: Arc<dyn Store>,
    authority: Authority,
    /// What tokens of pools are made from.
    root: hmac::Key,
    orders: OrderKey,
    /// Keys of records that cannot be read, as they were last told of.
    damaged: Mutex<BTreeSet<Bytes>>,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").finish_non_exhaustive()
    }
}

fn now() -> u64 {
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn key(prefix: &str, name: &str) -> Bytes {
    format!("{prefix}{name}").into()
}

fn record<T: serde::de::DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value)
        .map_err(|_| Error::Record(String::from_utf8_lossy(key).into_owned()))
}

fn value(record: &impl Serialize) -> Bytes {
    // The shapes of this file have no keys that are not text.
    serde_json::to_vec(record).unwrap_or_default().into()
}

/// With what a platform on this store is a gateway to the others; the authority is made if there is
/// none.
///
/// # Errors
///
/// What cannot be read, made or opened.
pub async fn gateway_tls(store: Arc<dyn Store>, seal: &dyn Seal) -> Result<GatewayTls, Error> {
    let members = Members::open(store, seal).await?;
    Ok(members.authority.gateway()?)
}

impl Members {
    /// Opens what is kept; the authority is made if there is none.
    pub(crate) async fn open(store: Arc<dyn Store>, seal: &dyn Seal) -> Result<Self, Error> {
        loop {
            if let Some(item) = store.get(AUTHORITY.as_bytes()).await? {
                let kept: Kept = record(&item.key, &item.value)?;
                let pem = seal.open(&kept.sealed_key).map_err(Error::Sealed)?;
                let certificate =
                    unhex(&kept.certificate).ok_or_else(|| Error::Record(AUTHORITY.to_owned()))?;
                let authority = Authority::open(&certificate, &pem)?;
                let root = format!("tokens of pools\n{pem}");
                let root = hmac::Key::new(hmac::HMAC_SHA256, root.as_bytes());
                return Ok(Self {
                    store,
                    authority,
                    root,
                    orders: OrderKey::new(&pem),
                    damaged: Mutex::default(),
                });
            }
            let (_, certificate, pem) = Authority::make()?;
            let kept = Kept {
                certificate: hex(&certificate),
                sealed_key: seal.seal(&pem).map_err(Error::Sealed)?,
            };
            // Another platform on the same store may be faster; then its authority is read above.
            let create = Txn {
                when: vec![Compare::ModRevision(AUTHORITY.into(), Revision(0))],
                then: vec![Op::Put(AUTHORITY.into(), value(&kept))],
            };
            store.txn(create).await?;
        }
    }

    /// What orders to nodes are marked with.
    pub(crate) fn orders(&self) -> &OrderKey {
        &self.orders
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A new token, and when it expires in seconds since 1970.
    pub(crate) async fn token(&self, holds: Duration) -> Result<(JoinToken, u64), Error> {
        self.sweep().await?;
        let token = JoinToken::new(self.authority.digest())?;
        let expires = now().saturating_add(holds.as_secs());
        let put = Op::Put(key(TOKENS, &token.hash()), value(&Open { expires }));
        let create = Txn {
            when: Vec::new(),
            then: vec![put],
        };
        self.store.txn(create).await?;
        Ok((token, expires))
    }

    /// Removes tokens that have expired, and those that admit nobody because they cannot be read.
    async fn sweep(&self) -> Result<(), Error> {
        let range = self.store.range(TOKENS.as_bytes(), None, MOST).await?;
        let mut old = Vec::new();
        for item in range.items {
            let open: Result<Open, Error> = record(&item.key, &item.value);
            if open.is_ok_and(|open| open.expires > now()) {
                continue;
            }
            old.push(Op::Delete(item.key));
        }
        if !old.is_empty() {
            let when = Vec::new();
            self.store.txn(Txn { when, then: old }).await?;
        }
        Ok(())
    }

    /// A node joins: the token is used, and the node gets its certificate.
    pub(crate) async fn join(
        &self,
        token: &JoinToken,
        node: &NodeId,
        public_key: &[u8],
    ) -> Result<CertificateDer<'static>, Error> {
        let token = key(TOKENS, &token.hash());
        let open = self.store.get(&token).await?.ok_or(Error::Token)?;
        let Open { expires } = record(&open.key, &open.value)?;
        if expires <= now() {
            return Err(Error::Token);
        }
        let member = key(MEMBERS, node.as_str());
        if node.as_str() == LOCAL {
            return Err(Error::Reserved(node.clone()));
        }
        if self.store.get(&member).await?.is_some() {
            return Err(Error::Taken(node.clone()));
        }
        let certificate = self.authority.vouch(node.as_str(), public_key)?;
        let joins = Txn {
            when: vec![
                Compare::ModRevision(token.clone(), open.mod_revision),
                Compare::ModRevision(member.clone(), Revision(0)),
            ],
            then: vec![Op::Delete(token), Op::Put(member, value(&of(&certificate)))],
        };
        // Whoever was faster has used it.
        if !self.store.txn(joins).await?.succeeded {
            return Err(Error::Token);
        }
        Ok(certificate)
    }

    /// What Pods of a pool join with.
    pub(crate) fn pool_token(&self, pool: &str) -> JoinToken {
        JoinToken::of_pool(&self.root, pool, self.authority.digest())
    }

    /// A Pod of this pool joins, which the cluster has. It may ask again if it has not heard the answer, and a new
    /// Pod of the same name takes its place.
    pub(crate) async fn join_pod(
        &self,
        token: &JoinToken,
        node: &NodeId,
        (uid, pool): (&str, &str),
        public_key: &[u8],
    ) -> Result<CertificateDer<'static>, Error> {
        if *token != self.pool_token(pool) {
            return Err(Error::Token);
        }
        let member = key(MEMBERS, node.as_str());
        let known = self.store.get(&member).await?;
        let before = match &known {
            Some(item) => item.mod_revision,
            None => Revision(0),
        };
        let pod = Pod {
            uid: uid.to_owned(),
            pool: pool.to_owned(),
            key: hex(&sha256(public_key)),
        };
        if let Some(item) = known {
            let known: Member = record(&item.key, &item.value)?;
            match known.pod {
                None => return Err(Error::Taken(node.clone())),
                Some(former) if former.uid == pod.uid && former.key != pod.key => {
                    return Err(Error::Joined(node.clone()));
                }
                Some(_) => {}
            }
        }
        let certificate = self.authority.vouch(node.as_str(), public_key)?;
        let joined = Member {
            pod: Some(pod),
            ..of(&certificate)
        };
        let joins = Txn {
            when: vec![Compare::ModRevision(member.clone(), before)],
            then: vec![Op::Put(member, value(&joined))],
        };
        if !self.store.txn(joins).await?.succeeded {
            return Err(Error::Joined(node.clone()));
        }
        Ok(certificate)
    }

    /// What is kept of a node.
    pub(crate) async fn member(&self, node: &NodeId) -> Result<Option<Member>, Error> {
        let item = self.store.get(&key(MEMBERS, node.as_str())).await?;
        let member = item.map(|item| record::<Member>(&item.key, &item.value));
        member.transpose()
    }

    /// Says for all gateways whether a node is drained.
    pub(crate) async fn set_draining(&self, node: &NodeId, draining: bool) -> Result<(), Error> {
        let key = key(MEMBERS, node.as_str());
        loop {
            let item = self.store.get(&key).await?;
            let item = item.ok_or_else(|| Error::Unknown(node.clone()))?;
            let mut member: Member = record(&item.key, &item.value)?;
            if std::mem::replace(&mut member.draining, draining) == draining {
                return Ok(());
            }
            let writes = Txn {
                when: vec![Compare::ModRevision(key.clone(), item.mod_revision)],
                then: vec![Op::Put(key.clone(), value(&member))],
            };
            // Else it has got another certificate in this moment.
            if self.store.txn(writes).await?.succeeded {
                return Ok(());
            }
        }
    }

    /// Follows changes of what is kept of nodes from now on.
    pub(crate) async fn watch(&self) -> Result<Box<dyn Watch>, Error> {
        let now = self.store.revision().await?;
        Ok(self.store.watch(&[MEMBERS.as_bytes()], now).await?)
    }

    /// A node gets a new certificate for the key that it has.
    pub(crate) async fn renew(
        &self,
        node: &NodeId,
        public_key: &[u8],
    ) -> Result<CertificateDer<'static>, Error> {
        let key = key(MEMBERS, node.as_str());
        let item = self.store.get(&key).await?;
        let item = item.ok_or_else(|| Error::Unknown(node.clone()))?;
        let member: Member = record(&item.key, &item.value)?;
        let certificate = self.authority.vouch(node.as_str(), public_key)?;
        let renewed = Member {
            joined: member.joined,
            pod: member.pod,
            draining: member.draining,
            ..of(&certificate)
        };
        let renews = Txn {
            when: vec![Compare::ModRevision(key.clone(), item.mod_revision)],
            then: vec![Op::Put(key, value(&renewed))],
        };
        if !self.store.txn(renews).await?.succeeded {
            return Err(Error::Certificate);
        }
        Ok(certificate)
    }

    /// The node with this certificate.
    pub(crate) async fn who(&self, certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
        let fingerprint = hex(&sha256(certificate));
        let all = self.list().await?;
        let found = all.into_iter().find(
            |(_, member)| matches!(member, Some(member) if member.fingerprint == fingerprint),
        );
        found.map(|(node, _)| node).ok_or(Error::Certificate)
    }

    /// Who has joined, in order of name; without the rest where their record cannot be read, which is told once
    /// and hurts no other node.
    pub(crate) async fn list(&self) -> Result<Vec<(NodeId, Option<Member>)>, Error> {
        let range = self.store.range(MEMBERS.as_bytes(), None, MOST).await?;
        let (mut members, mut damaged) = (Vec::new(), BTreeSet::new());
        for item in range.items {
            let name = item.key.strip_prefix(MEMBERS.as_bytes());
            let name = name.and_then(|name| std::str::from_utf8(name).ok());
            let node: Option<NodeId> = name.and_then(|name| name.parse().ok());
            let member: Option<Member> = record(&item.key, &item.value).ok();
            if node.is_none() || member.is_none() {
                damaged.insert(item.key);
            }
            members.extend(node.map(|node| (node, member)));
        }
        self.tell_of(damaged);
        Ok(members)
    }

    fn tell_of(&self, damaged: BTreeSet<Bytes>) {
        let mut told = self.damaged.lock();
        for key in damaged.difference(&told) {
            let key = String::from_utf8_lossy(key);
            tracing::warn!(%key, "a node's record cannot be read; `bugle node remove` or `etcdctl del` removes it");
        }
        *told = damaged;
    }

    /// Forgets a node: its certificate is worth nothing from now on.
    pub(crate) async fn remove(&self, node: &NodeId) -> Result<(), Error> {
        let key = key(MEMBERS, node.as_str());
        if self.store.get(&key).await?.is_none() {
            return Err(Error::Unknown(node.clone()));
        }
        let removes = Txn {
            when: Vec::new(),
            then: vec![Op::Delete(key)],
        };
        self.store.txn(removes).await?;
        Ok(())
    }
}

fn of(certificate: &CertificateDer<'_>) -> Member {
    Member {
        fingerprint: hex(&sha256(certificate)),
        joined: now(),
        pod: None,
        draining: false,
    }
}
