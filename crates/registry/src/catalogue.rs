//! The functions there are, for whoever runs them: a stream of what came, changed and went.
//!
//! It reads everything once and then follows the store's watch; when it fell too far behind, it
//! reads everything again and reports what vanished meanwhile. It may therefore report a function
//! that did not change; applying an event twice is harmless.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bugle_store::{Change, Error, KeyValue, Revision, Store, Watch};
use bugle_types::{
    CodeLocation, CpuMillis, FunctionId, FunctionSpec, Generation, Hook, Kind, LabelledScale,
    MemoryMib, Resources, Runtime, Scale, SealedEnvironment,
};
use serde::Deserialize;

use crate::config::CLUSTER;
use crate::fingerprint::Fingerprint;
use crate::keys::{self, INSTANCES, LabelKey, PUBLISHED_FAAS, PUBLISHED_OTHER};
use crate::published::ALGORITHM;

/// Keys read at once.
const CHUNK: usize = 1000;

/// A change of what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A function version is there, like this.
    Upsert(Arc<FunctionSpec>),
    /// A function version is gone.
    Remove(FunctionId),
}

/// Changes up to a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Everything up to here has been reported.
    pub revision: Revision,
    /// The changes, in order.
    pub events: Vec<Event>,
}

/// Follows the published functions.
pub struct Catalogue {
    store: Arc<dyn Store>,
    watch: Option<Box<dyn Watch>>,
    known: HashMap<FunctionId, Known>,
    labels: HashMap<FunctionId, BTreeMap<LabelledName, Scale>>,
    pending: VecDeque<Batch>,
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue")
            .field("known", &self.known.len())
            .finish_non_exhaustive()
    }
}

type LabelledName = bugle_types::InstanceLabel;

/// What was last reported of a function version.
struct Known {
    spec: Arc<FunctionSpec>,
    revision: Revision,
    under_faas: bool,
    fingerprint: Fingerprint,
}

impl Catalogue {
    /// A catalogue that has read nothing yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            watch: None,
            known: HashMap::new(),
            labels: HashMap::new(),
            pending: VecDeque::new(),
        }
    }

    /// The next changes; the first batch holds everything. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the store is closed; others when it cannot be read, and then it may be
    /// called again.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        loop {
            if let Some(batch) = self.pending.pop_front() {
                return Ok(batch);
            }
            let Some(watch) = &mut self.watch else {
                let batch = self.read_all().await?;
                return Ok(batch);
            };
            match watch.next().await {
                Ok(batch) => {
                    let batch = self.apply(batch.revision, batch.changes);
                    self.pending.push_back(batch);
                }
                Err(Error::Compacted { .. }) => self.watch = None,
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_all(&mut self) -> Result<Batch, Error> {
        let revision = self.store.revision().await?;
        let labels = puts_under(&*self.store, INSTANCES).await?;
        let mut changes = puts_under(&*self.store, PUBLISHED_FAAS).await?;
        changes.extend(puts_under(&*self.store, PUBLISHED_OTHER).await?);
        let watch = self.store.watch(b"/", revision).await?;
        let before: Vec<FunctionId> = self.known.keys().cloned().collect();
        self.labels.clear();
        // Every function is reported below with all its labels; with some of them alone it would
        // look as if the others had gone.
        self.apply(revision, labels);
        let there: std::collections::HashSet<FunctionId> = changes
            .iter()
            .filter_map(|change| keys::parse_published(change.key()).map(|(id, _)| id))
            .collect();
        let mut batch = self.apply(revision, changes);
        for id in before {
            if !there.contains(&id) {
                self.known.remove(&id);
                batch.events.push(Event::Remove(id));
            }
        }
        self.watch = Some(watch);
        Ok(batch)
    }

    fn apply(&mut self, revision: Revision, changes: Vec<Change>) -> Batch {
        let mut events = Vec::new();
        for change in changes {
            if let Some((id, faas)) = keys::parse_published(change.key()) {
                events.extend(self.function_changed(id, faas, &change));
            } else if let Some(key) = keys::parse_label(change.key()) {
                events.extend(self.label_changed(key, &change));
            }
        }
        Batch { revision, events }
    }

    fn function_changed(&mut self, id: FunctionId, faas: bool, change: &Change) -> Option<Event> {
        let Change::Put(item) = change else {
            // The other prefix may still hold it: then it was not this one that was reported.
            if self.known.get(&id)?.under_faas != faas {
                return None;
            }
            self.known.remove(&id);
            return Some(Event::Remove(id));
        };
        let read = read(&id, faas, item).and_then(|spec| Ok((spec, Fingerprint::of(&item.value)?)));
        let (mut spec, fingerprint) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(function = %id, %error, "a published function cannot be read");
                return None;
            }
        };
        spec.labels = self.labels_of(&id);
        if let Some(known) = self.known.get(&id)
            && (known.revision == item.mod_revision
                || known.fingerprint.keeps_instances(fingerprint))
        {
            spec.generation = known.spec.generation.clone();
        }
        let spec = Arc::new(spec);
        let known = Known {
            spec: Arc::clone(&spec),
            revision: item.mod_revision,
            under_faas: faas,
            fingerprint,
        };
        self.known.insert(id, known);
        Some(Event::Upsert(spec))
    }

    fn label_changed(&mut self, key: LabelKey, change: &Change) -> Option<Event> {
        // Other clusters have their own instances.
        if key.cluster != CLUSTER {
            return None;
        }
        // The layout leaves the product out (contract 2.7): the label counts for the function
        // without one.
        let id = FunctionId {
            tenant: key.tenant,
            product: None,
            name: key.name,
            version: key.version,
        };
        let labels = self.labels.entry(id.clone()).or_default();
        match change {
            Change::Put(item) => {
                labels.insert(key.label, read_bounds(item)?);
            }
            Change::Delete { .. } => {
                labels.remove(&key.label);
            }
        }
        if labels.is_empty() {
            self.labels.remove(&id);
        }
        let labels = self.labels_of(&id);
        let known = self.known.get_mut(&id)?;
        if known.spec.labels == labels {
            return None;
        }
        Arc::make_mut(&mut known.spec).labels = labels;
        Some(Event::Upsert(Arc::clone(&known.spec)))
    }

    fn labels_of(&self, id: &FunctionId) -> Vec<LabelledScale> {
        let labels = self.labels.get(id).into_iter().flatten();
        labels
            .map(|(label, scale)| LabelledScale {
                label: label.clone(),
                scale: *scale,
            })
            .collect()
    }
}

/// Everything with a prefix, as if it were written now.
async fn puts_under(store: &dyn Store, prefix: &str) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    let mut after: Option<bytes::Bytes> = None;
    loop {
        let range = store
            .range(prefix.as_bytes(), after.as_deref(), CHUNK)
            .await?;
        after = range.items.last().map(|item| item.key.clone());
        changes.extend(range.items.into_iter().map(Change::Put));
        if !range.more {
            return Ok(changes);
        }
    }
}

/// A published value as a specification, without labels.
fn read(id: &FunctionId, faas: bool, item: &KeyValue) -> serde_json::Result<FunctionSpec> {
    let value: Published = serde_json::from_slice(&item.value)?;
    let meta = &value.func_meta_data;
    let scale = value
        .instance_meta_data
        .as_ref()
        .or(value.extended_meta_data.instance_meta_data.as_ref())
        .cloned()
        .unwrap_or_default();
    let kind = match (faas, value.instance_meta_data.is_some()) {
        (true, true) => Kind::Faas,
        (true, false) => Kind::Agent,
        (false, _) => meta.kind.parse().unwrap_or(Kind::Yrlib),
    };
    let count = |number: i64| u32::try_from(number.max(0)).unwrap_or(u32::MAX);
    let seconds = |number: i64| Duration::from_secs(u64::try_from(number).unwrap_or(0));
    let extended = &value.extended_meta_data;
    let hook = |handler: &str, timeout: i64| {
        let handler = handler.to_owned();
        (!handler.is_empty()).then(|| Hook {
            handler,
            timeout: seconds(timeout),
        })
    };
    Ok(FunctionSpec {
        id: id.clone(),
        kind,
        generation: Generation(meta.revision_id.as_str().into()),
        runtime: Runtime::from_name(&meta.runtime),
        handler: meta.handler.clone(),
        initializer: hook(
            &extended.initializer.initializer_handler,
            extended.initializer.initializer_timeout,
        ),
        pre_stop: hook(
            &extended.pre_stop.pre_stop_handler,
            extended.pre_stop.pre_stop_timeout,
        ),
        timeout: seconds(meta.timeout),
        resources: Resources {
            cpu: CpuMillis(count(value.resource_meta_data.cpu)),
            memory: MemoryMib(u64::from(count(value.resource_meta_data.memory))),
            custom: custom_resources(&value.resource_meta_data.custom_resources),
        },
        concurrency: NonZeroU32::new(count(scale.concurrent_num)).unwrap_or(NonZeroU32::MIN),
        scale: Scale {
            min: count(scale.min_instance),
            max: count(scale.max_instance),
        },
        labels: Vec::new(),
        idle: (meta.idle_time > 0).then(|| seconds(meta.idle_time)),
        code: code(&value.code_meta_data),
        environment: environment(&value.env_meta_data),
    })
}

fn custom_resources(text: &str) -> Vec<(String, i64)> {
    let amounts: BTreeMap<String, f64> = serde_json::from_str(text).unwrap_or_default();
    let thousandths = |amount: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a saturating cast is meant"
        )]
        let amount = (amount * 1000.0).round() as i64;
        amount
    };
    amounts
        .into_iter()
        .map(|(name, amount)| (name, thousandths(amount)))
        .filter(|(_, amount)| *amount > 0)
        .collect()
}

fn code(code: &CodeMetaData) -> CodeLocation {
    match code.storage_type.as_str() {
        "copy" => CodeLocation::Copy(code.code_path.clone()),
        "s3" => CodeLocation::S3 {
            bucket: code.bucket_id.clone(),
            object: code.object_id.clone(),
            endpoint: code.bucket_url.clone(),
            sha512: code.sha512.clone(),
        },
        _ if code.code_path.is_empty() => CodeLocation::None,
        _ => CodeLocation::Local(code.code_path.clone()),
    }
}

fn environment(environment: &EnvMetaData) -> SealedEnvironment {
    if environment.crypto_algorithm == ALGORITHM {
        SealedEnvironment(environment.environment.clone())
    } else {
        SealedEnvironment::default()
    }
}

fn read_bounds(item: &KeyValue) -> Option<Scale> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Value {
        instance_meta_data: InstanceMetaData,
    }
    let bounds = serde_json::from_slice::<Value>(&item.value)
        .ok()?
        .instance_meta_data;
    let count = |number: i64| u32::try_from(number.max(0)).unwrap_or(u32::MAX);
    Some(Scale {
        min: count(bounds.min_instance),
        max: count(bounds.max_instance),
    })
}

/// The parts of a published value that matter here.
#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the contract's names")]
#[serde(rename_all = "camelCase")]
struct Published {
    func_meta_data: FuncMetaData,
    code_meta_data: CodeMetaData,
    env_meta_data: EnvMetaData,
    resource_meta_data: ResourceMetaData,
    instance_meta_data: Option<InstanceMetaData>,
    #[serde(default)]
    extended_meta_data: ExtendedMetaData,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FuncMetaData {
    revision_id: String,
    handler: String,
    runtime: String,
    timeout: i64,
    #[serde(default)]
    idle_time: i64,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct CodeMetaData {
    sha512: String,
    storage_type: String,
    code_path: String,
    #[serde(rename = "bucketId")]
    bucket_id: String,
    #[serde(rename = "objectId")]
    object_id: String,
    #[serde(rename = "bucketUrl")]
    bucket_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvMetaData {
    environment: String,
    crypto_algorithm: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceMetaData {
    cpu: i64,
    memory: i64,
    custom_resources: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InstanceMetaData {
    max_instance: i64,
    min_instance: i64,
    concurrent_num: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ExtendedMetaData {
    initializer: Initializer,
    pre_stop: PreStop,
    instance_meta_data: Option<InstanceMetaData>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Initializer {
    initializer_handler: String,
    initializer_timeout: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PreStop {
    pre_stop_handler: String,
    pre_stop_timeout: i64,
}
