//! Platform and nodes in one process, over real connections, with simulated instances.

mod clocks;
mod gateways;
mod hostility;
mod instances;
mod membership;
mod twins;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bugle_instances::{
    BoxFuture, CallError, CallRequest, Driver as _, ExitCause, Instance, InstanceId, LogLine,
    LogSink, ReplyBody, StartError, StartRequest, Started,
};
use bugle_scheduler::placement::{Health, NodeId};
use bugle_scheduler::testing::{SimDriver, spec};
use bugle_scheduler::{Census, Fleet, FleetConfig};
use bugle_store::{MemoryStore, Store};
use bugle_types::FunctionId;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::*;

const BOUND: Duration = Duration::from_secs(20);

struct Plain;

impl Seal for Plain {
    fn seal(&self, text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }
    fn open(&self, sealed: &str) -> Result<String, String> {
        Ok(sealed.to_owned())
    }
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl LogSink for Lines {
    fn line(&self, line: LogLine) {
        self.0.lock().push(line.text);
    }
}

/// What a platform without functions makes of instances that it is offered.
type Adopted = Arc<Mutex<Vec<Arc<dyn Instance>>>>;

/// The gateways, by name and address, and which one has all functions.
#[derive(Clone)]
struct Members(Arc<watch::Sender<Seen>>, Arc<watch::Sender<u64>>);

#[derive(Clone, Default)]
struct Seen {
    addresses: BTreeMap<&'static str, String>,
    owner: &'static str,
}

impl Members {
    fn new() -> Self {
        Self(Arc::default(), Arc::default())
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        self.0.send_modify(change);
        self.1.send_modify(|revision| *revision += 1);
    }

    fn revision(&self) -> u64 {
        *self.1.borrow()
    }

    fn seen_by(&self, me: &'static str) -> Gateways {
        let this = self.clone();
        Gateways {
            changes: self.1.subscribe(),
            now: Arc::new(move || {
                let seen = this.0.borrow().clone();
                let gateways = seen.addresses.iter();
                Roster {
                    revision: this.revision(),
                    me: seen.addresses.contains_key(me).then(|| me.to_owned()),
                    gateways: gateways
                        .map(|(id, address)| GatewayAddress {
                            id: (*id).to_owned(),
                            address: address.clone(),
                        })
                        .collect(),
                }
            }),
        }
    }
}

/// Keeps all instances that it is offered, if it has the function.
struct Keeps {
    adopted: Adopted,
    counted: Arc<Mutex<Census>>,
    place: Option<(Members, &'static str)>,
}

impl Keeper for Keeps {
    fn has(&self, _: &FunctionId) -> bool {
        let place = self.place.as_ref();
        place.is_none_or(|(members, me)| members.0.borrow().owner == *me)
    }

    fn ready(&self, function: FunctionId) -> BoxFuture<'static, bool> {
        let has = self.has(&function);
        Box::pin(async move { has })
    }

    fn count(&self, _: &FunctionId, orphans: Census) {
        *self.counted.lock() = orphans;
    }

    fn adopt(&self, _: &FunctionId, adopted: bugle_scheduler::Adopted) -> bool {
        self.adopted.lock().push(adopted.instance);
        true
    }
}

struct Platform {
    hub: Hub,
    fleet: Fleet,
    address: String,
    adopted: Adopted,
    /// Instances that are nobody's.
    counted: Arc<Mutex<Census>>,
    lines: Arc<Lines>,
    _serving: AbortOnDropHandle<()>,
}

impl Platform {
    async fn start(store: &Arc<dyn Store>, address: &str) -> Self {
        Self::start_as(store, address, None).await
    }

    /// One of several.
    async fn start_as(
        store: &Arc<dyn Store>,
        address: &str,
        place: Option<(&Members, &'static str)>,
    ) -> Self {
        let fleet = Fleet::new(FleetConfig::default(), None);
        let (adopted, lines) = (Adopted::default(), Arc::new(Lines::default()));
        let (kept, counted) = (Arc::clone(&adopted), Arc::default());
        let hub = Hub::open(Dependencies {
            store: Arc::clone(store),
            seal: Arc::new(Plain),
            fleet: fleet.clone(),
            open_environment: Arc::new(|_, _| {
                Ok(BTreeMap::from([("A".to_owned(), "1".to_owned())]))
            }),
            keeper: Arc::new(Keeps {
                adopted: kept,
                counted: Arc::clone(&counted),
                place: place.map(|(members, me)| (members.clone(), me)),
            }),
            gateways: place.map(|(members, me)| members.seen_by(me)),
            logs: Arc::clone(&lines) as _,
            pods: Arc::new(|pod, uid| {
                let known = pod == "pod-1" && uid == "uid-1";
                Box::pin(async move { Ok(known.then(|| "pool1".to_owned())) })
            }),
            packages: Arc::new(|_, digest| {
                Box::pin(async move {
                    if digest != "known" {
                        return Err("no such package".to_owned());
                    }
                    let chunks = [
                        Ok(Bytes::from(vec![1; 3_000_000])),
                        Ok(Bytes::from_static(b"end")),
                    ];
                    Ok(Box::pin(futures_util::stream::iter(chunks)) as PackageBytes)
                })
            }),
            build: "test".to_owned(),
        });
        let hub = hub.await.unwrap();
        let listener = bound(address).await;
        let address = listener.local_addr().unwrap().to_string();
        if let Some((members, me)) = place {
            members.change(|seen| _ = seen.addresses.insert(me, address.clone()));
        }
        let serving = tokio::spawn(hub.clone().run(listener, CancellationToken::new()));
        Self {
            hub,
            fleet,
            address,
            adopted,
            counted,
            lines,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    async fn token(&self) -> JoinToken {
        self.hub.token(Duration::from_mins(1)).await.unwrap().0
    }

    /// A node joins; its folder, and who it is.
    async fn join(&self, name: &str) -> (tempfile::TempDir, Identity) {
        let folder = tempfile::tempdir().unwrap();
        let token = self.token().await;
        let name = name.parse().unwrap();
        let joined = Identity::join(folder.path(), &self.address, &token, &name, None).await;
        (folder, joined.unwrap())
    }

    async fn node(&self, name: &str) -> Node {
        let (folder, identity) = self.join(name).await;
        let node = Node::run(folder, identity);
        self.until(&name.parse().unwrap(), Health::Live).await;
        node
    }

    /// Waits until a node is there in this state.
    async fn until(&self, name: &NodeId, health: Health) {
        let here = || {
            let nodes = self.fleet.nodes();
            nodes
                .iter()
                .any(|node| node.view.id == *name && node.view.health == health)
        };
        eventually(here).await;
    }

    async fn start_one(&self, id: u128) -> Result<Started, StartError> {
        self.fleet.start(request(id)).await
    }
}

async fn bound(address: &str) -> TcpListener {
    let begin = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(begin.elapsed() < BOUND, "{error}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn eventually(condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < BOUND, "it did not come true");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Processes of nodes so far, which are numbered.
static PROCESSES: AtomicUsize = AtomicUsize::new(0);

struct Node {
    host: Host,
    driver: Arc<SimDriver>,
    news: Arc<News>,
    stop: CancellationToken,
    serving: AbortOnDropHandle<()>,
    folder: tempfile::TempDir,
}

impl Node {
    fn run(folder: tempfile::TempDir, identity: Identity) -> Self {
        let driver = SimDriver::new(
            Duration::ZERO,
            Arc::new(|call| {
                let body = String::from_utf8_lossy(&call.body).into_owned();
                let millis = body.parse().unwrap_or(0);
                (Duration::from_millis(millis), body)
            }),
        );
        let news = Arc::new(News::default());
        let number = PROCESSES.fetch_add(1, Ordering::Relaxed);
        let offer = Offer {
            build: "test".to_owned(),
            process: format!("process {number}"),
            cpu: 4000,
            memory: 4096,
            ..Offer::default()
        };
        let prepare: Prepare = Arc::new(|spec| {
            assert_eq!(
                spec.environment.0, r#"{"A":"1"}"#,
                "variables come in clear"
            );
            Box::pin(async { Ok(()) })
        });
        let host = Host::new(Arc::clone(&driver) as _, prepare, offer, Arc::clone(&news));
        let stop = CancellationToken::new();
        let terms = Terms {
            awake: Duration::ZERO,
            orphan: Duration::from_mins(1),
            grace: Duration::from_secs(10),
        };
        let serving = tokio::spawn(serve(identity, host.clone(), terms, stop.clone()));
        Self {
            host,
            driver,
            news,
            stop,
            serving: AbortOnDropHandle::new(serving),
            folder,
        }
    }
}

/// One connection of a node, to its end.
async fn once(identity: &Identity, host: &Host, address: &str) -> Result<(), IdentityError> {
    let connection = joined::connect(identity, host, address).await?;
    joined::hear(host, connection).await
}

fn request(id: u128) -> StartRequest {
    let spec = spec("f", "1", 1, 0, 9);
    StartRequest {
        id: InstanceId(id),
        resources: bugle_types::Resources {
            cpu: bugle_types::CpuMillis(1000),
            memory: bugle_types::MemoryMib(128),
            custom: Vec::new(),
        },
        spec: Arc::new(spec),
        label: None,
    }
}

fn call(body: impl Into<Bytes>) -> CallRequest {
    CallRequest {
        request: "r".into(),
        body: body.into(),
        meta: Bytes::from_static(b"{}"),
        json: true,
        timeout: Duration::from_mins(1),
        stream: None,
    }
}

fn json(reply: &bugle_instances::Reply) -> &[u8] {
    match &reply.body {
        ReplyBody::Json(body) => body,
        other => panic!("{other:?}"),
    }
}

fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}
