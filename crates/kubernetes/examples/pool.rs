//! How soon all of a pool of 50 Pods is asked of the cluster.
//!
//! `cargo run --release -p bugle-kubernetes --example pool [ROUNDS]`
//!
//! A controller, and an API server that takes 5 ms for each request, in one process. The pool is a
//! scalable one: the controller makes each Pod itself, after the Deployment that owns them and what
//! they join with. A round begins when the record is there, which is when whoever asked for the pool
//! is answered, and ends when the server reads the last of those requests. Its figure is printed as
//! JSON.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bugle_apiserver::{ApiServer, Options};
use bugle_kubernetes::{BoxFuture, Config, Controller, Metrics, PoolMap, Records, Use, Workers};
use bugle_types::pool::{Pool, PoolId, PoolResources, PoolSpec, PoolState, PoolStatus};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the API server takes for each request.
const LATENCY: Duration = Duration::from_millis(5);

/// The Pods of the pool.
const SIZE: u32 = 50;

/// The longest that a pool may take to come or go.
const PATIENCE: Duration = Duration::from_mins(1);

/// Records that are kept nowhere, each write of which makes a new revision.
struct MemoryRecords(watch::Sender<Option<Arc<PoolMap>>>);

impl MemoryRecords {
    fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(Some(Arc::default()))))
    }

    fn write(&self, change: impl FnOnce(&mut PoolMap)) {
        self.0.send_modify(|pools| {
            let mut map = pools.as_deref().cloned().unwrap_or_default();
            change(&mut map);
            *pools = Some(Arc::new(map));
        });
    }

    fn create(&self, spec: PoolSpec) {
        let (id, state) = (spec.id.clone(), PoolState::default());
        let pool = Pool {
            spec,
            state,
            revision: 1,
        };
        self.write(|pools| _ = pools.insert(id, Arc::new(pool)));
    }

    fn change(&self, id: &PoolId, state: impl FnOnce(&PoolState) -> PoolState) {
        self.write(|pools| {
            let mut pool = Pool::clone(&pools[id]);
            pool.state = state(&pool.state);
            pool.revision += 1;
            pools.insert(id.clone(), Arc::new(pool));
        });
    }

    /// Waits until a pool is as it is to be.
    async fn until(&self, id: &PoolId, fits: impl Fn(Option<&PoolState>) -> bool) {
        let mut pools = self.0.subscribe();
        let met = pools.wait_for(|pools| {
            let pool = pools.as_ref().and_then(|pools| pools.get(id));
            fits(pool.map(|pool| &pool.state))
        });
        let met = tokio::time::timeout(PATIENCE, met).await;
        assert!(met.is_ok(), "pool {id} is not as it is to be");
    }
}

impl Records for MemoryRecords {
    fn pools(&self) -> watch::Receiver<Option<Arc<PoolMap>>> {
        self.0.subscribe()
    }

    fn report(
        &self,
        id: PoolId,
        revision: u64,
        state: PoolState,
    ) -> BoxFuture<'_, Result<(), String>> {
        let known = self.0.borrow().as_ref().map(|pools| pools[&id].revision);
        if known == Some(revision) {
            self.change(&id, |_| state);
        }
        Box::pin(async { Ok(()) })
    }

    fn remove(&self, id: PoolId, _: u64) -> BoxFuture<'_, Result<(), String>> {
        self.write(|pools| _ = pools.remove(&id));
        Box::pin(async { Ok(()) })
    }
}

/// Workers that could join and of which none does.
struct Nobody;

impl Workers for Nobody {
    fn token(&self, pool: &PoolId) -> String {
        format!("token of {pool}")
    }

    fn uses(&self) -> BTreeMap<String, Use> {
        BTreeMap::new()
    }

    fn retire<'a>(&'a self, _: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }

    fn restore<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

/// A pool whose Pods the controller makes one by one.
fn scalable(id: &PoolId, size: u32) -> PoolSpec {
    let amount = |name: &str, text: &str| (name.to_owned(), text.parse().expect("a quantity"));
    PoolSpec {
        resources: PoolResources {
            requests: [amount("cpu", "10m"), amount("memory", "16Mi")].into(),
            limits: BTreeMap::new(),
        },
        ..PoolSpec::new(id.clone(), size, size + 1)
    }
}

/// Makes a pool and takes it away again; gives the time to the last request that makes it.
async fn round(server: &ApiServer, records: &MemoryRecords, id: &str, size: u32) -> Duration {
    let id: PoolId = id.parse().expect("an id");
    let known = server.seen().len();
    let begin = Instant::now();
    records.create(scalable(&id, size));
    let runs = |state: Option<&PoolState>| {
        state.is_some_and(|state| state.status == PoolStatus::Running && state.ready_count == size)
    };
    records.until(&id, runs).await;
    let seen = server.seen().split_off(known);
    let made = seen
        .iter()
        .filter(|seen| seen.method == "POST" && seen.path.contains("/pods"));
    let made: Vec<Duration> = made.map(|seen| seen.at - begin).collect();
    assert_eq!(
        u32::try_from(made.len()),
        Ok(size),
        "each Pod is asked for once"
    );
    records.change(&id, |state| PoolState {
        status: PoolStatus::PendingDeletion,
        ..state.clone()
    });
    records.until(&id, |state| state.is_none()).await;
    made.into_iter().max().unwrap_or_default()
}

#[tokio::main]
#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
async fn main() {
    let rounds = std::env::args().nth(1).map_or(Ok(20), |text| text.parse());
    let rounds: u32 = rounds.expect("ROUNDS is a number");
    let options = Options {
        latency: LATENCY,
        ..Options::default()
    };
    let server = ApiServer::start(options).await.expect("a port");
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).expect("a file");
    let config = Config {
        kubeconfig: kubeconfig.display().to_string(),
        namespace: "default".to_owned(),
        join_address: "bugle:31183".to_owned(),
        ..Config::default()
    };
    let records = MemoryRecords::new();
    let controller = Controller::new(
        config,
        Arc::clone(&records) as _,
        Some(Arc::new(Nobody)),
        "example".to_owned(),
        Metrics::default(),
    );
    let controller = controller.await.expect("the configuration is good");
    tokio::spawn(controller.run(CancellationToken::new()));
    // Until this process leads and has read what there is.
    round(&server, &records, "first", 0).await;
    for number in 0..rounds {
        let took = round(&server, &records, &format!("p{number}"), SIZE).await;
        let millis = took.as_secs_f64() * 1000.0;
        println!(r#"{{"name":"pool_50_ms","value":{millis:.2}}}"#);
    }
}
