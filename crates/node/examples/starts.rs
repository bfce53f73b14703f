//! How many cold starts a second one scheduler makes on nodes.
//!
//! `cargo run --release -p bugle-node --example starts [NODES] [SECONDS] [AT_ONCE]`
//!
//! A scheduler, its hub and so many nodes in one process, with the real connections between them. The
//! nodes only pretend to start something, so what is measured is everything else: the call that
//! queues, the decision, the placement, the messages, the call that is served. Each call is the first
//! of a function that nobody called before; when it is served the function is removed. The figure is
//! printed as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bugle_instances::{BoxFuture, CallRequest, LogLine, LogSink};
use bugle_node::{
    Dependencies, Host, Hub, Identity, JoinToken, Keeper, News, Offer, PackageBytes, Prepare, Seal,
    Terms, serve,
};
use bugle_scheduler::testing::{SimDriver, spec};
use bugle_scheduler::{Adopted, Census, Config, Demand, Fleet, FleetConfig, Metrics, Scheduler};
use bugle_store::MemoryStore;
use bugle_types::FunctionId;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What nodes and platform call themselves to each other.
const BUILD: &str = "example";

/// No instance outlives anything here.
struct Nothing;

impl Keeper for Nothing {
    fn has(&self, _: &FunctionId) -> bool {
        true
    }

    fn ready(&self, _: FunctionId) -> BoxFuture<'static, bool> {
        Box::pin(async { true })
    }

    fn count(&self, _: &FunctionId, _: Census) {}

    fn adopt(&self, _: &FunctionId, _: Adopted) -> bool {
        false
    }
}

struct Plain;

impl Seal for Plain {
    fn seal(&self, text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }
    fn open(&self, sealed: &str) -> Result<String, String> {
        Ok(sealed.to_owned())
    }
}

struct Nobody;

impl LogSink for Nobody {
    fn line(&self, _line: LogLine) {}
}

/// A platform that takes nodes; what serves it runs until the process ends.
async fn platform() -> (Scheduler, Fleet, Hub, String) {
    let fleet = Fleet::new(FleetConfig::default(), None);
    let scheduler = Scheduler::new(
        Config::default(),
        Arc::new(fleet.clone()),
        Metrics::default(),
    );
    let opened = Hub::open(Dependencies {
        store: Arc::new(MemoryStore::new()),
        seal: Arc::new(Plain),
        fleet: fleet.clone(),
        open_environment: Arc::new(|_, _| Ok(BTreeMap::new())),
        keeper: Arc::new(Nothing),
        gateways: None,
        logs: Arc::new(Nobody),
        packages: Arc::new(|_, _| {
            Box::pin(async { Err::<PackageBytes, _>("there are no packages".to_owned()) })
        }),
        build: BUILD.to_owned(),
        pods: Arc::new(|_, _| Box::pin(async { Ok(None) })),
    });
    let hub = opened.await.expect("a new authority is made");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    tokio::spawn(hub.clone().run(listener, CancellationToken::new()));
    (scheduler, fleet, hub, address)
}

/// A node that has room for everything and starts nothing.
async fn node(folder: &std::path::Path, address: &str, token: &JoinToken, name: String) {
    let name = name.parse().expect("a name");
    let joined = Identity::join(folder, address, token, &name, None).await;
    let driver = SimDriver::new(
        Duration::ZERO,
        Arc::new(|_| (Duration::ZERO, "1".to_owned())),
    );
    let offer = Offer {
        build: BUILD.to_owned(),
        cpu: 10_000_000,
        memory: 10_000_000,
        ..Offer::default()
    };
    let prepare: Prepare = Arc::new(|_| Box::pin(async { Ok(()) }));
    let host = Host::new(driver, prepare, offer, Arc::new(News::default()));
    let terms = Terms {
        orphan: Duration::from_mins(1),
        grace: Duration::from_secs(1),
        awake: Duration::ZERO,
    };
    let identity = joined.expect("the token is good");
    tokio::spawn(serve(identity, host, terms, CancellationToken::new()));
}

/// The first call of a new function.
async fn first_call(scheduler: &Scheduler, number: u64) {
    let spec = spec(&format!("f{number}"), "1", 1, 0, 1);
    let id = spec.id.clone();
    scheduler.upsert(spec);
    let function = scheduler.find(&id).expect("it was added");
    let demand = Demand {
        resources: None,
        label: None,
        place: None,
        deadline: tokio::time::Instant::now() + Duration::from_secs(10),
    };
    let lease = function.acquire(demand).await.expect("there is room");
    let answer = lease.instance().call(CallRequest {
        request: "r".into(),
        body: Bytes::from_static(b"1"),
        meta: Bytes::from_static(b"{}"),
        json: true,
        timeout: Duration::from_secs(10),
        stream: None,
    });
    answer.await.expect("it answers");
    drop(lease);
    scheduler.remove(&id);
}

#[tokio::main]
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the figure is what this program is for"
)]
async fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut number = |otherwise| match numbers.next() {
        Some(number) => number.expect("NODES, SECONDS and AT_ONCE are numbers"),
        None => otherwise,
    };
    let (nodes, seconds, at_once) = (number(20), number(10), number(64));
    let (scheduler, fleet, hub, address) = platform().await;
    let folders = tempfile::tempdir().expect("a folder");
    for number in 0..nodes {
        let (token, _) = hub.token(Duration::from_mins(1)).await.expect("a token");
        let folder = folders.path().join(number.to_string());
        std::fs::create_dir(&folder).expect("a folder");
        node(&folder, &address, &token, format!("node-{number}")).await;
    }
    let begin = Instant::now();
    while u64::try_from(fleet.nodes().len()) != Ok(nodes) {
        assert!(
            begin.elapsed() < Duration::from_mins(1),
            "nodes are missing"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    let until = begin + Duration::from_secs(seconds);
    let clients = (0..at_once).map(|_| async {
        while Instant::now() < until {
            first_call(&scheduler, next.fetch_add(1, Ordering::Relaxed)).await;
            done.fetch_add(1, Ordering::Relaxed);
        }
    });
    futures_util::future::join_all(clients).await;
    let done = done.into_inner();
    let each = begin.elapsed().as_secs_f64() / f64::from(u32::try_from(done).unwrap_or(u32::MAX));
    let figure = 1.0 / each;
    println!(r#"{{"name":"node_starts_per_s","value":{figure:.1}}}"#);
    eprintln!("{done} cold starts on {nodes} nodes");
}
