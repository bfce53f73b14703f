//! Invocations that nobody waits for, as they are kept: the event until it has been delivered, what
//! became of it afterwards where the function wants that, and each function's own settings.
//!
//! Nothing is delivered here. A key per event, so that each is written and removed by itself.

use std::sync::Arc;

use bugle_store::{Compare, Error, Op, Revision, Store, Txn};
use bugle_types::FunctionId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Where events are, and where functions' settings for them are.
const EVENTS: &str = "/bugle/async/events/";
const SETTINGS: &str = "/bugle/async/settings/";

/// Events that are read at once.
const CHUNK: usize = 100;

/// How far an invocation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Progress {
    /// It waits for its first or next attempt.
    Wait,
    /// The function has it.
    Running,
    /// The function has answered.
    Success,
    /// Every attempt failed.
    Fail,
    /// It grew too old, or was cancelled.
    Discard,
}

impl Progress {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Fail | Self::Discard)
    }
}

/// An invocation that nobody waits for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Invocation {
    /// Which function version.
    function: Address,
    /// Its id.
    pub request_id: String,
    /// How far it is.
    pub progress: Progress,
    /// Attempts that failed.
    pub attempts: u32,
    /// When it was taken, in milliseconds since 1970.
    pub created: i64,
    /// When the function got it first.
    pub started: Option<i64>,
    /// When it came to its end.
    pub ended: Option<i64>,
    /// The inner code of the last attempt; 0 without a failure.
    pub error_code: u32,
    /// What went wrong in it.
    pub error_message: String,
    /// The event; none once it has come to its end.
    pub event: Option<Box<RawValue>>,
    /// Which of several gateways has sent it to the function, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<String>,
}

/// A function version as texts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Address {
    tenant: String,
    name: String,
    version: String,
}

impl Address {
    fn of(id: &FunctionId) -> Self {
        Self {
            tenant: id.tenant.to_string(),
            name: id.name.to_string(),
            version: id.version.to_string(),
        }
    }

    fn key(&self, root: &str) -> String {
        format!("{root}{}/{}/{}/", self.tenant, self.name, self.version)
    }

    fn id(&self) -> Option<FunctionId> {
        Some(FunctionId {
            tenant: self.tenant.parse().ok()?,
            product: None,
            name: self.name.parse().ok()?,
            version: self.version.parse().ok()?,
        })
    }
}

impl Invocation {
    /// One that was taken now.
    pub fn new(id: &FunctionId, request_id: &str, event: Box<RawValue>, now: i64) -> Self {
        Self {
            function: Address::of(id),
            request_id: request_id.to_owned(),
            progress: Progress::Wait,
            attempts: 0,
            created: now,
            started: None,
            ended: None,
            error_code: 0,
            error_message: String::new(),
            event: Some(event),
            runner: None,
        }
    }

    /// The function version; none for a record that another program wrote.
    pub fn function(&self) -> Option<FunctionId> {
        self.function.id()
    }

    fn key(&self) -> Bytes {
        format!("{}{}", self.function.key(EVENTS), self.request_id).into()
    }
}

/// What a function wants of its asynchronous invocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSettings {
    /// Attempts after the first one.
    pub retries: u32,
    /// Seconds after which an invocation is given up.
    pub longest_age: u32,
    /// Whether what became of an invocation is kept.
    pub keeps_records: bool,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self {
            retries: 1,
            longest_age: 3600,
            keeps_records: false,
        }
    }
}

/// The invocations in a store.
#[derive(Clone)]
pub struct Events(Arc<dyn Store>);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Those of `store`.
    pub fn of(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// Keeps a new invocation; false if there is one of this id already. It is on disk afterwards.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn add(&self, invocation: &Invocation) -> Result<bool, Error> {
        let key = invocation.key();
        let then = vec![Op::Put(key.clone(), written(invocation))];
        let when = vec![Compare::ModRevision(key, Revision(0))];
        Ok(self.0.txn(Txn { when, then }).await?.succeeded)
    }

    /// Writes how far an invocation is.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn put(&self, invocation: &Invocation) -> Result<(), Error> {
        let then = vec![Op::Put(invocation.key(), written(invocation))];
        self.write(then).await
    }

    /// Forgets an invocation.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn remove(&self, invocation: &Invocation) -> Result<(), Error> {
        self.write(vec![Op::Delete(invocation.key())]).await
    }

    async fn write(&self, then: Vec<Op>) -> Result<(), Error> {
        let when = Vec::new();
        self.0.txn(Txn { when, then }).await.map(|_| ())
    }

    /// The invocations of a function version.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn of_function(&self, id: &FunctionId) -> Result<Vec<Invocation>, Error> {
        self.below(&Address::of(id).key(EVENTS)).await
    }

    /// All invocations.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn all(&self) -> Result<Vec<Invocation>, Error> {
        self.below(EVENTS).await
    }

    async fn below(&self, prefix: &str) -> Result<Vec<Invocation>, Error> {
        let mut found = Vec::new();
        let mut after: Option<Bytes> = None;
        loop {
            let range = self
                .0
                .range(prefix.as_bytes(), after.as_deref(), CHUNK)
                .await?;
            for item in &range.items {
                match serde_json::from_slice(&item.value) {
                    Ok(invocation) => found.push(invocation),
                    Err(error) => tracing::warn!(%error, "a kept invocation cannot be read"),
                }
            }
            after = range.items.last().map(|item| item.key.clone());
            if !range.more {
                return Ok(found);
            }
        }
    }

    /// A function version's settings; none where it has none of its own.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn settings(&self, id: &FunctionId) -> Result<Option<EventSettings>, Error> {
        let key = Address::of(id).key(SETTINGS);
        let found = self.0.get(key.as_bytes()).await?;
        Ok(found.and_then(|item| serde_json::from_slice(&item.value).ok()))
    }

    /// Changes a function version's settings; none takes them away.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn set(&self, id: &FunctionId, settings: Option<EventSettings>) -> Result<(), Error> {
        let key = Bytes::from(Address::of(id).key(SETTINGS));
        let op = match settings {
            Some(settings) => {
                let text = serde_json::to_vec(&settings).expect("numbers are always JSON");
                Op::Put(key, text.into())
            }
            None => Op::Delete(key),
        };
        self.write(vec![op]).await
    }
}

fn written(invocation: &Invocation) -> Bytes {
    serde_json::to_vec(invocation)
        .expect("texts, numbers and JSON are always JSON")
        .into()
}
