//! A cluster, records in memory, and controllers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bugle_apiserver::{ApiServer, Options};
use bugle_kubernetes::{
    BoxFuture, Config, Controller, Handle, Metrics, PoolMap, Records, Use, Workers,
};
use bugle_types::pool::{Pool, PoolId, PoolResources, PoolSpec, PoolState, PoolStatus};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Records as the store keeps them: each write makes a new revision.
#[derive(Debug)]
pub(crate) struct MemoryRecords {
    revision: Mutex<u64>,
    pools: watch::Sender<Option<Arc<PoolMap>>>,
}

impl MemoryRecords {
    /// No records.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            revision: Mutex::new(0),
            pools: watch::Sender::new(Some(Arc::default())),
        })
    }

    fn write(&self, id: &PoolId, expected: Option<u64>, change: impl FnOnce(&mut PoolMap, u64)) {
        let mut revision = self.revision.lock();
        self.pools.send_modify(|pools| {
            let mut map = pools.as_deref().cloned().unwrap_or_default();
            let current = map.get(id).map(|pool| pool.revision);
            if expected.is_none() || expected == current {
                *revision += 1;
                change(&mut map, *revision);
                *pools = Some(Arc::new(map));
            }
        });
    }

    /// A new pool, as a user asks for it.
    pub(crate) fn create(&self, spec: PoolSpec) {
        let id = spec.id.clone();
        self.write(&id.clone(), None, |pools, revision| {
            let state = PoolState::default();
            pools.insert(
                id,
                Arc::new(Pool {
                    spec,
                    state,
                    revision,
                }),
            );
        });
    }

    /// A change, as a user asks for it.
    pub(crate) fn change(&self, id: &str, status: PoolStatus, change: impl FnOnce(&mut PoolSpec)) {
        let id: PoolId = id.parse().unwrap();
        self.write(&id.clone(), None, |pools, revision| {
            let mut pool = Pool::clone(&pools[&id]);
            change(&mut pool.spec);
            pool.state.status = status;
            pool.revision = revision;
            pools.insert(id, Arc::new(pool));
        });
    }

    /// How far a pool has come; none if there is no record.
    pub(crate) fn state(&self, id: &str) -> Option<PoolState> {
        state_in(self.pools.borrow().as_deref(), id).cloned()
    }

    /// Waits until the state of a pool fulfils the condition.
    pub(crate) async fn until(&self, id: &str, fits: impl Fn(Option<&PoolState>) -> bool) {
        let mut pools = self.pools.subscribe();
        // Only what is handed over may be looked at: to borrow it again while a write waits blocks both.
        let wanted = pools.wait_for(|pools| fits(state_in(pools.as_deref(), id)));
        let met = tokio::time::timeout(PATIENCE, wanted).await;
        assert!(met.is_ok(), "pool {id} stays {:?}", self.state(id));
    }

    /// Waits until a pool runs with that many workers.
    pub(crate) async fn running(&self, id: &str, ready: u32) {
        let runs = |state: Option<&PoolState>| {
            state.is_some_and(|state| {
                state.status == PoolStatus::Running && state.ready_count == ready
            })
        };
        self.until(id, runs).await;
    }

    /// Waits until the message of a pool has that in it.
    pub(crate) async fn says(&self, id: &str, part: &str) {
        self.until(id, |state| {
            state.is_some_and(|state| state.msg.contains(part))
        })
        .await;
    }
}

fn state_in<'a>(pools: Option<&'a PoolMap>, id: &str) -> Option<&'a PoolState> {
    let pool = pools?.get(&id.parse().unwrap())?;
    Some(&pool.state)
}

impl Records for MemoryRecords {
    fn pools(&self) -> watch::Receiver<Option<Arc<PoolMap>>> {
        self.pools.subscribe()
    }

    fn report(
        &self,
        id: PoolId,
        revision: u64,
        state: PoolState,
    ) -> BoxFuture<'_, Result<(), String>> {
        self.write(&id.clone(), Some(revision), |pools, new| {
            let mut pool = Pool::clone(&pools[&id]);
            assert!(
                pool.state.status.may_become(state.status),
                "{} to {}",
                pool.state.status,
                state.status
            );
            pool.state = PoolState {
                msg: pool.spec.message(&state.msg),
                ..state
            };
            pool.revision = new;
            pools.insert(id, Arc::new(pool));
        });
        Box::pin(async { Ok(()) })
    }

    fn remove(&self, id: PoolId, revision: u64) -> BoxFuture<'_, Result<(), String>> {
        self.write(&id.clone(), Some(revision), |pools, _| {
            pools.remove(&id);
        });
        Box::pin(async { Ok(()) })
    }
}

/// A platform whose Pods do what tests say.
#[derive(Debug, Default)]
pub(crate) struct Hosting(Mutex<BTreeMap<String, Use>>);

impl Hosting {
    /// Says what a Pod does.
    pub(crate) fn set(&self, pod: &str, what: Use) {
        self.0.lock().insert(pod.to_owned(), what);
    }
}

impl Workers for Hosting {
    fn token(&self, pool: &PoolId) -> String {
        format!("token of {pool}")
    }

    fn uses(&self) -> BTreeMap<String, Use> {
        self.0.lock().clone()
    }

    fn retire<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, bool> {
        let idle = !matches!(self.0.lock().get(pod), Some(Use::Busy(_)));
        Box::pin(async move { idle })
    }

    fn restore<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

/// A cluster with records.
pub(crate) struct Stage {
    pub(crate) records: Arc<MemoryRecords>,
    pub(crate) config: Config,
    pub(crate) client: Client,
    /// None on a real cluster.
    pub(crate) server: Option<ApiServer>,
    pub(crate) hosting: Arc<Hosting>,
    _folder: tempfile::TempDir,
}

/// A controller that runs until this is dropped.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Ends it as a crash does.
    pub(crate) fn kill(self) {
        self.task.abort();
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // A task that is cancelled here has ended.
        let _ended = self.task.await;
    }
}

impl Stage {
    /// The cluster that the environment names, else a new one.
    pub(crate) async fn new() -> Self {
        match std::env::var("K8S_TEST_KUBECONFIG") {
            Ok(path) if !path.is_empty() => Self::at(path, None, None).await,
            _ => Self::on_test_server(Options::default()).await,
        }
    }

    /// A new cluster of this workspace, whatever the environment says.
    pub(crate) async fn on_test_server(options: Options) -> Self {
        let server = ApiServer::start(options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, server.kubeconfig()).unwrap();
        Self::at(
            path.to_str().unwrap().to_owned(),
            Some(server),
            Some(folder),
        )
        .await
    }

    async fn at(
        kubeconfig: String,
        server: Option<ApiServer>,
        folder: Option<tempfile::TempDir>,
    ) -> Self {
        let namespace = format!(
            "bugle-test-{}",
            &uuid::Uuid::new_v4().simple().to_string()[..8]
        );
        let config = Config {
            kubeconfig: kubeconfig.clone(),
            namespace: namespace.clone(),
            image: "registry.k8s.io/pause:3.10".to_owned(),
            arguments: Vec::new(),
            lease_seconds: 3,
            ..Config::default()
        };
        let file = kube::config::Kubeconfig::read_from(&kubeconfig).unwrap();
        let found =
            kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
                .await
                .unwrap();
        let client = Client::try_from(found).unwrap();
        let object = Namespace {
            metadata: ObjectMeta {
                name: Some(namespace),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        Self {
            records: MemoryRecords::new(),
            config,
            client,
            server,
            hosting: Arc::default(),
            _folder: folder.unwrap_or_else(|| tempfile::tempdir().unwrap()),
        }
    }

    /// Starts a controller.
    pub(crate) async fn start(&self, identity: &str) -> Running {
        let records = Arc::clone(&self.records) as Arc<dyn Records>;
        let controller = Controller::new(
            self.config.clone(),
            records,
            Some(Arc::clone(&self.hosting) as _),
            identity.to_owned(),
            Metrics::default(),
        )
        .await
        .unwrap();
        let (handle, stop) = (controller.handle(), CancellationToken::new());
        let task = tokio::spawn(controller.run(stop.clone()));
        Running { handle, stop, task }
    }

    /// The objects of a kind in the namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.config.namespace)
    }

    /// The Pods that are not about to go.
    pub(crate) async fn pods(&self) -> Vec<Pod> {
        let list = self
            .api::<Pod>()
            .list(&ListParams::default())
            .await
            .unwrap();
        list.items
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect()
    }

    /// Waits until the Pods fulfil the condition.
    pub(crate) async fn until_pods(&self, fits: impl Fn(&[Pod]) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !fits(&self.pods().await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(
            waited.await.is_ok(),
            "there are {} Pods",
            self.pods().await.len()
        );
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "not within a minute: {what}");
    }

    /// How many Deployments, autoscalers and Pods there are.
    pub(crate) async fn counts(&self) -> (usize, usize, usize) {
        let all = ListParams::default();
        let deployments = self
            .api::<Deployment>()
            .list(&all)
            .await
            .unwrap()
            .items
            .len();
        let autoscalers = self
            .api::<HorizontalPodAutoscaler>()
            .list(&all)
            .await
            .unwrap()
            .items
            .len();
        let pods = self.api::<Pod>().list(&all).await.unwrap().items.len();
        (deployments, autoscalers, pods)
    }

    /// Takes the namespace away, which on a real cluster would stay.
    pub(crate) async fn leave(self) {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        namespaces
            .delete(&self.config.namespace, &DeleteParams::default())
            .await
            .unwrap();
    }
}

/// A pool of that size with little said about it.
pub(crate) fn pool(id: &str, size: u32, max_size: u32) -> PoolSpec {
    let amount = |name: &str, text: &str| (name.to_owned(), text.parse().unwrap());
    PoolSpec {
        resources: PoolResources {
            requests: [amount("cpu", "10m"), amount("memory", "16Mi")].into(),
            limits: BTreeMap::new(),
        },
        ..PoolSpec::new(id.parse().unwrap(), size, max_size)
    }
}
