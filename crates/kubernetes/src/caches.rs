//! What is known of the cluster: watched, and brought up to date by one's own writes at once.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::names;
use crate::observed::{Observed, Scaler, Worker, Workload};

/// The first and the longest pause after a watch has failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How many objects that went are remembered: more than there are answers under way.
const MOST_GONE: usize = 1024;

/// A kind of object that is kept.
trait Kept:
    kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + 'static
{
    /// What is kept of it.
    type Kept: Clone + Send;

    fn keep(&self, former: Option<&Self::Kept>) -> Self::Kept;

    fn shelf(shelves: &mut Shelves) -> &mut Shelf<Self::Kept>;
}

impl Kept for Deployment {
    type Kept = Workload;

    fn keep(&self, _: Option<&Workload>) -> Workload {
        self.into()
    }

    fn shelf(shelves: &mut Shelves) -> &mut Shelf<Workload> {
        &mut shelves.deployments
    }
}

impl Kept for HorizontalPodAutoscaler {
    type Kept = Scaler;

    fn keep(&self, _: Option<&Scaler>) -> Scaler {
        self.into()
    }

    fn shelf(shelves: &mut Shelves) -> &mut Shelf<Scaler> {
        &mut shelves.autoscalers
    }
}

impl Kept for Pod {
    type Kept = Worker;

    fn keep(&self, former: Option<&Worker>) -> Worker {
        let same = former.filter(|former| self.metadata.uid.as_ref() == Some(&former.uid));
        Worker::new(
            self,
            same.map_or_else(Instant::now, |former| former.first_seen),
        )
    }

    fn shelf(shelves: &mut Shelves) -> &mut Shelf<Worker> {
        &mut shelves.workers
    }
}

/// An object with what tells how new it is.
#[derive(Debug, Clone)]
struct Entry<T> {
    value: T,
    revision: u64,
    /// When this process wrote it, if it was the last to do so.
    written: Option<Instant>,
}

/// The objects of one kind.
#[derive(Debug)]
struct Shelf<T> {
    entries: BTreeMap<String, Entry<T>>,
    /// What a list has brought so far, and when it began.
    listing: Option<(BTreeMap<String, Entry<T>>, Instant)>,
    /// Whether there was a whole list.
    complete: bool,
    /// Uids of objects that went lately: an answer to a write may come after the news of the object's end.
    gone: VecDeque<String>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            listing: None,
            complete: false,
            gone: VecDeque::new(),
        }
    }
}

#[derive(Debug, Default)]
struct Shelves {
    deployments: Shelf<Workload>,
    autoscalers: Shelf<Scaler>,
    workers: Shelf<Worker>,
}

/// Everything that is kept. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    shelves: Arc<Mutex<Shelves>>,
    /// Counts changes.
    news: watch::Sender<u64>,
}

impl<T: Clone> Shelf<T> {
    fn put(&mut self, name: String, entry: Entry<T>) {
        let newer = self
            .entries
            .get(&name)
            .is_none_or(|known| known.revision <= entry.revision);
        if newer {
            self.entries.insert(name, entry);
        }
    }

    /// Takes the list for the whole truth, but for what was written here since it began.
    fn complete(&mut self) {
        let Some((mut listed, begun)) = self.listing.take() else {
            return;
        };
        for (name, entry) in std::mem::take(&mut self.entries) {
            let ours = entry.written.is_some_and(|written| written >= begun);
            let newer = listed
                .get(&name)
                .map_or(ours, |known| known.revision < entry.revision);
            if newer {
                listed.insert(name, entry);
            }
        }
        self.entries = listed;
        self.complete = true;
    }

    fn values(&self) -> BTreeMap<String, T> {
        let entries = self.entries.iter();
        entries
            .map(|(name, entry)| (name.clone(), entry.value.clone()))
            .collect()
    }
}

impl Caches {
    pub(crate) fn new() -> Self {
        Self {
            shelves: Arc::default(),
            news: watch::Sender::new(0),
        }
    }

    /// Tells of every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// What there is; none before everything was listed once.
    pub(crate) fn observed(&self) -> Option<Observed> {
        let shelves = self.shelves.lock();
        let complete = shelves.deployments.complete
            && shelves.autoscalers.complete
            && shelves.workers.complete;
        complete.then(|| Observed {
            deployments: shelves.deployments.values(),
            autoscalers: shelves.autoscalers.values(),
            workers: shelves.workers.values(),
        })
    }

    /// The pool of the Pod with this name and uid, as far as is known.
    pub(crate) fn pool_of(&self, name: &str, uid: &str) -> Option<String> {
        let shelves = self.shelves.lock();
        let worker = &shelves.workers.entries.get(name)?.value;
        (worker.uid == uid).then(|| worker.pool.clone())
    }

    /// Keeps what a write of this process has answered.
    pub(crate) fn wrote_deployment(&self, object: &Deployment) {
        self.keep(object, Some(Instant::now()));
    }

    /// Keeps what a write of this process has answered.
    pub(crate) fn wrote_autoscaler(&self, object: &HorizontalPodAutoscaler) {
        self.keep(object, Some(Instant::now()));
    }

    /// Keeps what a write of this process has answered.
    pub(crate) fn wrote_worker(&self, object: &Pod) {
        self.keep(object, Some(Instant::now()));
    }

    /// The Deployment is not there any more.
    pub(crate) fn forget_deployment(&self, name: &str) {
        self.shelves.lock().deployments.entries.remove(name);
        self.announce();
    }

    /// The autoscaler is not there any more.
    pub(crate) fn forget_autoscaler(&self, name: &str) {
        self.shelves.lock().autoscalers.entries.remove(name);
        self.announce();
    }

    /// The Pod is not there any more.
    pub(crate) fn forget_worker(&self, name: &str) {
        self.shelves.lock().workers.entries.remove(name);
        self.announce();
    }

    fn announce(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    fn keep<K: Kept>(&self, object: &K, written: Option<Instant>) {
        let mut shelves = self.shelves.lock();
        let shelf = K::shelf(&mut shelves);
        if written.is_some() && object.uid().is_some_and(|uid| shelf.gone.contains(&uid)) {
            return;
        }
        let name = object.name_any();
        let former = shelf.entries.get(&name).map(|entry| &entry.value);
        let entry = entry(object, former, written);
        shelf.put(name, entry);
        drop(shelves);
        self.announce();
    }

    fn take<K: Kept>(&self, event: Event<K>) {
        let mut shelves = self.shelves.lock();
        let shelf = K::shelf(&mut shelves);
        match event {
            Event::Apply(object) => {
                drop(shelves);
                self.keep(&object, None);
                return;
            }
            Event::Delete(object) => {
                let name = object.name_any();
                let revision = revision(&object);
                shelf.gone.extend(object.uid());
                if shelf.gone.len() > MOST_GONE {
                    shelf.gone.pop_front();
                }
                if shelf
                    .entries
                    .get(&name)
                    .is_some_and(|known| known.revision <= revision)
                {
                    shelf.entries.remove(&name);
                }
            }
            Event::Init => shelf.listing = Some((BTreeMap::new(), Instant::now())),
            Event::InitApply(object) => {
                let name = object.name_any();
                let former = shelf.entries.get(&name).map(|entry| &entry.value);
                let entry = entry(&object, former, None);
                if let Some((listed, _)) = &mut shelf.listing {
                    listed.insert(name, entry);
                }
                return;
            }
            Event::InitDone => shelf.complete(),
        }
        drop(shelves);
        self.announce();
    }

    /// Follows the cluster until the token is cancelled. A watch that breaks is taken up again, one whose
    /// revision is forgotten begins with a new list.
    pub(crate) async fn follow(&self, cluster: &Cluster, stop: &CancellationToken) {
        tokio::join!(
            self.follow_kind::<Deployment>(cluster, stop),
            self.follow_kind::<HorizontalPodAutoscaler>(cluster, stop),
            self.follow_kind::<Pod>(cluster, stop),
        );
    }

    async fn follow_kind<K: Kept>(&self, cluster: &Cluster, stop: &CancellationToken) {
        let config = watcher::Config::default().labels(&names::selector());
        let mut events = std::pin::pin!(watcher(cluster.api::<K>(), config));
        let mut pause = PAUSES.0;
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    pause = PAUSES.0;
                    self.take(event);
                }
                Some(Err(error)) => {
                    let (kind, error) = (K::kind(&()), bugle_types::report(&error));
                    tracing::debug!(%kind, error, "a watch has failed and is taken up again");
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSES.1);
                }
                None => return,
            }
        }
    }
}

fn entry<K: Kept>(
    object: &K,
    former: Option<&K::Kept>,
    written: Option<Instant>,
) -> Entry<K::Kept> {
    Entry {
        value: object.keep(former),
        revision: revision(object),
        written,
    }
}

/// Revisions are numbers that grow, in every cluster that the platform supports; one that is none counts as new.
fn revision(object: &impl kube::Resource) -> u64 {
    let version = object.meta().resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or(u64::MAX)
}
