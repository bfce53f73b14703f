//! Who is a member, as one gateway knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bugle_store::{Change, KeyValue, Membership};
use bugle_types::FunctionId;
use serde::{Deserialize, Serialize};

use crate::rendezvous::{fold, owner};

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where other gateways reach it, as `host:port`.
    pub address: String,
    /// Where nodes reach it, as `host:port`; empty if it takes none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nodes: String,
    /// Its build; all have the same.
    pub build: String,
    /// What its key for the functions' variables is known by; all have the same.
    pub key: String,
    /// Its `pools.backend`; all have the same, as one of them keeps a pool for all.
    #[serde(default)]
    pub pools: String,
    /// The host and process, for people.
    pub host: String,
    /// Whether it takes no functions any more, because it is about to end.
    #[serde(default)]
    pub leaving: bool,
    /// When it joined: a revision of the store. Not written, as only the store knows.
    #[serde(skip)]
    pub since: u64,
}

/// The members at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    members: BTreeMap<Arc<str>, (u64, Member)>,
    /// The last change that was seen, as a revision of the store.
    pub revision: u64,
    /// Which of them this gateway is; none while it has no place.
    pub me: Option<Arc<str>>,
}

fn id_of(key: &[u8]) -> Option<&str> {
    let key = std::str::from_utf8(key).ok()?;
    key.strip_prefix(Membership::PREFIX)
}

impl View {
    /// The members, by their names.
    pub fn members(&self) -> impl Iterator<Item = (&Arc<str>, &Member)> {
        self.members.iter().map(|(id, (_, member))| (id, member))
    }

    /// One of them.
    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id).map(|(_, member)| member)
    }

    /// Those beside this gateway.
    pub fn others(&self) -> impl Iterator<Item = (&Arc<str>, &Member)> {
        let members = self.members();
        members.filter(|(id, _)| self.me.as_ref() != Some(id))
    }

    /// Who has a function.
    pub fn owner(&self, function: &FunctionId) -> Option<&Arc<str>> {
        let FunctionId {
            tenant,
            product: _,
            name,
            version,
        } = function;
        let (name, version) = (name.to_string(), version.to_string());
        self.owner_of(&[tenant.as_str(), &name, &version])
    }

    /// Who has what is known by these names, whatever it is.
    pub fn owner_of(&self, names: &[&str]) -> Option<&Arc<str>> {
        let staying = || {
            self.members
                .iter()
                .filter(|(_, (_, member))| !member.leaving)
        };
        let at = owner(staying().map(|(_, (hash, _))| *hash), fold(names))?;
        staying().nth(at).map(|(id, _)| id)
    }

    /// Whether this gateway has a function.
    pub fn is_mine(&self, function: &FunctionId) -> bool {
        self.me.is_some() && self.owner(function) == self.me.as_ref()
    }

    /// A member that was there before `since`, and is of another build, has another key or makes pools real in another
    /// way.
    pub(crate) fn stranger(&self, mine: &Member, since: u64) -> Option<&Member> {
        let mut members = self.members().map(|(_, member)| member);
        members.find(|other| {
            let is_alike =
                other.build == mine.build && other.key == mine.key && other.pools == mine.pools;
            other.since < since && !is_alike
        })
    }

    pub(crate) fn put(&mut self, item: &KeyValue) {
        self.revision = self.revision.max(item.mod_revision.0);
        let Some(id) = id_of(&item.key) else { return };
        match serde_json::from_slice::<Member>(&item.value) {
            Ok(mut member) => {
                member.since = item.create_revision.0;
                self.members.insert(id.into(), (fold(&[id]), member));
            }
            Err(error) => tracing::warn!(id, %error, "what a member says of itself cannot be read"),
        }
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(item) => self.put(item),
            Change::Delete { key, revision } => {
                self.revision = self.revision.max(revision.0);
                if let Some(id) = id_of(key) {
                    self.members.remove(id);
                }
            }
        }
    }
}
