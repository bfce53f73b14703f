//! Platform and nodes in one process, over real connections, with simulated instances.

mod gateways;

use std::collections::BTreeMap;
use std::sync::Arc;
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
use h2::SendStream;
use h2::server::SendResponse;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::parts::{Kind, json_part, part};
use crate::wire::{Found, Hello, PROTOCOL, StartOrder};
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

    async fn node(&self, name: &str) -> Node {
        let folder = tempfile::tempdir().unwrap();
        let name: NodeId = name.parse().unwrap();
        let token = self.token().await;
        let joined = Identity::join(folder.path(), &self.address, &token, &name, None).await;
        let node = Node::run(folder, joined.unwrap());
        self.until(&name, Health::Live).await;
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
        let offer = Offer {
            build: "test".to_owned(),
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

#[tokio::test]
async fn instances_start_answer_and_stop_on_a_node() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    assert_eq!(instance.node(), Some("a"));
    for size in [0, 10, 20_000, 5_000_000] {
        let body = vec![b'x'; size];
        let reply = instance.call(call(body.clone())).await.unwrap();
        assert!(json(&reply) == body, "{size} bytes go there and come back");
    }
    let calls = (0..50).map(|_| instance.call(call("1")));
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!(json(&reply.unwrap()), b"1");
    }
    let exit = instance.stop(Duration::from_secs(5)).await;
    assert_eq!(exit.cause, ExitCause::Stopped);
    eventually(|| node.host.count() == 0).await;
    let late = instance.call(call("1")).await;
    assert!(matches!(late, Err(CallError::NotSent(_))), "{late:?}");
}

#[tokio::test]
async fn an_instance_that_dies_is_told_with_its_cause() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    let running = instance.call(call("5000"));
    let dies = async {
        sleep(Duration::from_millis(50)).await;
        node.driver.living()[0].crash(ExitCause::Signal(9));
    };
    let (answer, ()) = tokio::join!(running, dies);
    assert_eq!(answer.unwrap_err(), CallError::Exited(ExitCause::Signal(9)));
    assert_eq!(instance.exited().await.cause, ExitCause::Signal(9));
}

#[tokio::test]
async fn a_start_that_fails_on_a_node_fails_here_in_the_same_words() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let error = StartError::NotRunnable("no such file".to_owned());
    node.driver.fail_with(Some(error.clone()));
    assert_eq!(platform.start_one(1).await.unwrap_err(), error);
    node.driver.fail_with(None);
    assert!(platform.start_one(2).await.is_ok());
}

#[tokio::test]
async fn the_death_of_a_node_ends_its_calls_and_its_instances_at_once() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    let begin = Instant::now();
    let running = instance.call(call("60000"));
    let dies = async {
        sleep(Duration::from_millis(50)).await;
        drop(node);
    };
    let (answer, ()) = tokio::join!(running, dies);
    let cause = ExitCause::NodeLost { node: "a".into() };
    assert_eq!(answer.unwrap_err(), CallError::Exited(cause.clone()));
    assert_eq!(instance.exited().await.cause, cause);
    assert!(begin.elapsed() < Duration::from_secs(3));
    assert!(platform.fleet.nodes().is_empty());
    drop(instance);
    // Elsewhere there is room.
    let _other = platform.node("b").await;
    let Started { instance, .. } = platform.start_one(2).await.unwrap();
    assert_eq!(instance.node(), Some("b"));
}

#[tokio::test]
async fn a_platform_that_comes_back_takes_in_what_runs_and_keeps_it_warm() {
    let store = store();
    let platform = Platform::start(&store, "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(7).await.unwrap();
    let address = platform.address.clone();
    let hub = platform.hub.clone();
    drop(platform);
    hub.let_go();
    drop(instance);
    let platform = Platform::start(&store, &address).await;
    eventually(|| platform.adopted.lock().len() == 1).await;
    let instance = Arc::clone(&platform.adopted.lock()[0]);
    assert_eq!(instance.id(), InstanceId(7));
    let reply = instance.call(call("3")).await.unwrap();
    assert_eq!(json(&reply), b"3");
    assert_eq!(node.driver.started(), 1, "nothing was started anew");
    assert_eq!(platform.fleet.nodes()[0].instances, 1, "it is counted");
}

#[tokio::test]
async fn a_node_that_ends_waits_until_its_instances_are_moved() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    let running = instance.call(call("300"));
    node.stop.cancel();
    let moved = async {
        instance.leaving().await;
        platform
            .until(&"a".parse().unwrap(), Health::Draining)
            .await;
        let waits = platform.start_one(2);
        assert!(
            timeout(Duration::from_millis(100), waits).await.is_err(),
            "it gets nothing more"
        );
    };
    let (answer, ()) = tokio::join!(running, moved);
    assert_eq!(json(&answer.unwrap()), b"300", "what runs finishes");
    instance.stop(Duration::from_secs(5)).await;
    timeout(BOUND, node.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_removed_node_is_cut_off_and_does_not_come_back() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    platform.hub.remove(&"a".parse().unwrap()).await.unwrap();
    eventually(|| platform.fleet.nodes().is_empty()).await;
    sleep(Duration::from_millis(500)).await;
    assert!(
        platform.fleet.nodes().is_empty(),
        "it tries, and is refused"
    );
    let identity = Identity::load(node.folder.path()).unwrap().unwrap();
    let refused = identity
        .packages()
        .open(&"t".parse().unwrap(), "known")
        .await;
    assert!(matches!(refused, Err(IdentityError::Refused(_))));
    assert!(identity.is_refused().await);
}

#[tokio::test]
async fn a_wrong_token_and_another_platforms_are_refused() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let other = Platform::start(&store(), "127.0.0.1:0").await;
    let folder = tempfile::tempdir().unwrap();
    let name: NodeId = "a".parse().unwrap();
    let foreign = other.token().await;
    let joined = Identity::join(folder.path(), &platform.address, &foreign, &name, None).await;
    // The node notices first: it is not the platform that its token names.
    assert!(
        matches!(joined, Err(IdentityError::Connect { .. })),
        "{joined:?}"
    );
    let token = platform.token().await;
    Identity::join(folder.path(), &platform.address, &token, &name, None)
        .await
        .unwrap();
    let again = Identity::join(folder.path(), &platform.address, &token, &name, None).await;
    assert!(matches!(again, Err(IdentityError::Refused(_))), "{again:?}");
    // A certificate of another platform.
    let node = Identity::load(folder.path()).unwrap().unwrap();
    assert!(matches!(
        node.connect(&other.address).await,
        Err(IdentityError::Connect { .. })
    ));
}

#[tokio::test]
async fn keys_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    for entry in std::fs::read_dir(node.folder.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn packages_come_over_the_same_port_for_nodes_alone() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let identity = Identity::load(node.folder.path()).unwrap().unwrap();
    let source = identity.packages();
    let tenant = "t".parse().unwrap();
    let mut package = source.open(&tenant, "known").await.unwrap();
    let mut bytes = 0;
    while let Some(chunk) = package.next().await.unwrap() {
        bytes += chunk.len();
    }
    assert_eq!(bytes, 3_000_003);
    let unknown = source.open(&tenant, "unknown").await;
    assert!(matches!(unknown, Err(IdentityError::Refused(reason)) if reason == "no such package"));
}

#[tokio::test]
async fn lines_of_user_code_come_to_the_platform() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    let line = |function: &str, text: &str| LogLine {
        function: Arc::new(spec(function, "1", 1, 0, 1).id),
        instance: instance.id(),
        request: None,
        stream: bugle_instances::LogStream::Stdout,
        text: text.to_owned(),
    };
    node.news.line(line("bank", "forged"));
    node.news.line(line("f", "hello"));
    eventually(|| !platform.lines.0.lock().is_empty()).await;
    let lines = platform.lines.0.lock().clone();
    assert_eq!(
        lines,
        ["hello"],
        "no line of a function that it does not run"
    );
}

/// A node that has joined and then does what it should not.
async fn hostile(
    platform: &Platform,
    name: &str,
    misbehave: impl Fn(&str, SendResponse<Bytes>) -> Option<SendStream<Bytes>> + Send + 'static,
) -> AbortOnDropHandle<()> {
    let folder = tempfile::tempdir().unwrap();
    let id: NodeId = name.parse().unwrap();
    let token = platform.token().await;
    let identity = Identity::join(folder.path(), &platform.address, &token, &id, None).await;
    let stream = identity.unwrap().connect(&platform.address).await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let serving = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(Ok((request, respond))) = connection.accept().await {
            let open = misbehave(request.uri().path(), respond);
            kept.push((request, open));
        }
    });
    AbortOnDropHandle::new(serving)
}

/// What it gives stays open for as long as it is kept.
fn hello(mut respond: SendResponse<Bytes>) -> SendStream<Bytes> {
    let hello = Hello {
        protocol: PROTOCOL,
        build: "test".to_owned(),
        cpu: 9000,
        memory: 9000,
        custom: BTreeMap::new(),
        labels: BTreeMap::new(),
        pool: None,
        group: None,
    };
    let mut stream = respond
        .send_response(http::Response::new(()), false)
        .unwrap();
    stream
        .send_data(json_part(Kind::Hello, &hello), false)
        .unwrap();
    stream
}

fn answer(mut respond: SendResponse<Bytes>, bytes: Bytes) -> Option<SendStream<Bytes>> {
    let mut stream = respond
        .send_response(http::Response::new(()), false)
        .unwrap();
    // Whoever has gone by then has seen enough.
    let _ = stream.send_data(bytes, true);
    None
}

#[tokio::test]
async fn a_node_that_breaks_the_protocol_is_given_up_and_harms_nobody() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let _good = platform.node("good").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    let garbage: [(&str, Bytes); 4] = [
        ("noise", Bytes::from_static(&[0xff; 64])),
        ("huge", Bytes::from_static(&[3, 0xff, 0xff, 0xff, 0xff, 0])),
        ("short", part(Kind::Reply, &[b"x"])),
        (
            "endless",
            Bytes::from(part(Kind::Message, &[&[0; 100]]).repeat(1000)),
        ),
    ];
    for (name, bytes) in garbage {
        let _bad = hostile(&platform, name, move |path, respond| match path {
            "/news" => Some(hello(respond)),
            "/start" => answer(respond, Bytes::from_static(br#"{"Ok":{"pid":1,"phases":{"process":{"secs":0,"nanos":0},"load":{"secs":0,"nanos":0},"init":{"secs":0,"nanos":0}}}}"#)),
            "/call" => answer(respond, bytes.clone()),
            _ => None,
        })
        .await;
        platform.until(&name.parse().unwrap(), Health::Live).await;
        // The larger node takes it.
        let Started { instance: bad, .. } = platform.start_one(2).await.unwrap();
        assert_eq!(bad.node(), Some(name));
        let answered = timeout(BOUND, bad.call(call("1"))).await.unwrap();
        assert!(
            matches!(answered, Err(CallError::Protocol(_))),
            "{name}: {answered:?}"
        );
        let exit = timeout(BOUND, bad.exited()).await.unwrap();
        assert_eq!(exit.cause, ExitCause::NodeLost { node: name.into() });
        eventually(|| platform.fleet.nodes().len() == 1).await;
        let reply = instance.call(call("1")).await.unwrap();
        assert_eq!(json(&reply), b"1", "the good node does not notice");
    }
}

#[tokio::test]
async fn a_node_that_offers_what_was_never_ordered_is_given_up() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let liar = hostile(&platform, "liar", |path, respond| match path {
        "/news" => {
            let spec = spec("bank", "1", 1, 0, 9);
            let order = StartOrder {
                id: InstanceId(7),
                resources: spec.resources.clone(),
                spec,
                label: None,
                alone: false,
                mark: "0".repeat(64),
            };
            let found = Found {
                order,
                pid: None,
                busy: false,
            };
            let mut stream = hello(respond);
            let offer = json_part(Kind::Found, &found);
            stream.send_data(offer, false).unwrap();
            Some(stream)
        }
        "/take" => answer(respond, Bytes::from_static(&[1])),
        _ => None,
    })
    .await;
    let connection = timeout(BOUND, liar).await;
    assert!(connection.is_ok(), "it is cut off");
    assert!(
        platform.adopted.lock().is_empty(),
        "nobody's calls go there"
    );
}

#[tokio::test]
async fn a_flood_of_connections_keeps_no_node_away() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let mut flood = Vec::new();
    for _ in 0..600 {
        flood.push(TcpStream::connect(&platform.address).await.unwrap());
    }
    let joined = timeout(Duration::from_secs(5), platform.node("a")).await;
    assert!(joined.is_ok(), "it waits for none of them");
}

#[tokio::test]
async fn a_node_of_another_build_or_without_a_word_is_not_taken_in() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let _news = hostile(&platform, "odd", |path, respond| {
        if path == "/news" {
            return answer(respond, json_part(Kind::Hello, &"nonsense"));
        }
        None
    })
    .await;
    let _other = hostile(&platform, "other", |path, respond| {
        if path == "/news" {
            let hello = serde_json::json!({"protocol": PROTOCOL, "build": "another", "cpu": 1, "memory": 1,
                "custom": {}, "labels": {}, "pool": null, "group": null});
            return answer(respond, json_part(Kind::Hello, &hello));
        }
        None
    })
    .await;
    sleep(Duration::from_millis(300)).await;
    assert!(platform.fleet.nodes().is_empty());
}

#[tokio::test]
async fn a_pod_joins_as_what_the_cluster_says_it_is_and_its_stolen_token_is_worth_nothing() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let token = platform.hub.pool_token("pool1");
    let join = async |name: &str, uid: &str| {
        let (folder, name) = (tempfile::tempdir().unwrap(), name.parse().unwrap());
        let address = &platform.address;
        let joined = Identity::join(folder.path(), address, &token, &name, Some(uid)).await;
        (folder, joined)
    };
    for (name, uid) in [("pod-1", "uid-2"), ("pod-2", "uid-1")] {
        let (_, refused) = join(name, uid).await;
        let Err(IdentityError::Refused(reason)) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("the cluster has no Pod"), "{reason}");
    }
    let (folder, joined) = join("pod-1", "uid-1").await;
    let node = Node::run(folder, joined.unwrap());
    let id: NodeId = "pod-1".parse().unwrap();
    platform.until(&id, Health::Live).await;
    assert_eq!(
        platform.fleet.nodes()[0].view.pool.as_deref(),
        Some("pool1")
    );
    let (_, again) = join("pod-1", "uid-1").await;
    assert!(matches!(again, Err(IdentityError::Refused(_))), "{again:?}");
    drop(node);
}
