//! Several gateways with pools of Pods: one makes the Pods, and functions of each use them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bugle_testkit::{Etcd, Platform, Registered, Site, StartOptions, eventually, node_token};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::kubelet::Cluster;
use crate::stage::{BOUND, Stage, options, pool, started};

/// More functions than it takes until each gateway has one.
const MANY: usize = 24;

/// What a Service is in a cluster: one address, behind which is one gateway or another.
struct Service {
    address: SocketAddr,
    gateways: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gateways = Arc::<Mutex<Vec<String>>>::default();
        let (behind, turn) = (Arc::clone(&gateways), AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let known = behind.lock().clone();
                let first = turn.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    for number in 0..known.len() {
                        let gateway = &known[(first + number) % known.len()];
                        if let Ok(mut server) = TcpStream::connect(gateway).await {
                            // Either side may end it.
                            _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            gateways,
            task,
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Two gateways on one etcd. The stage is that of the one that does not make Pods.
struct Pair<'a> {
    stage: Stage<'a>,
    leader: Platform,
    _etcd: Etcd,
    _service: Service,
}

/// A figure of a gateway's metrics.
async fn metric(platform: &Platform, name: &str) -> u64 {
    let text = platform.control.get("/metrics").await.expect(200).text();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

async fn until(platform: &Platform, name: &str, value: u64) {
    eventually(&format!("{name} becomes {value}"), BOUND, || async {
        let now = metric(platform, name).await;
        (now == value).then_some(()).ok_or_else(|| now.to_string())
    })
    .await;
}

impl<'a> Pair<'a> {
    async fn start(
        sites: &'a [Site; 2],
        settings: impl FnOnce(StartOptions) -> StartOptions,
    ) -> Self {
        let [first, second] = sites;
        let (etcd, service) = (Etcd::start().await, Service::start().await);
        let cluster = Cluster::start(first).await;
        let code = first.code_root().display().to_string();
        let options = options(first, &cluster)
            .config("store", "kind", "etcd")
            .config("etcd", "endpoints", &etcd.address)
            .config("cluster", "listen", "127.0.0.1:0")
            .config("kubernetes", "join_address", &service.address.to_string())
            .arguments(["--code-root", &code]);
        let options = settings(options);
        let mut leader = started(first, &options).await;
        until(&leader, "bugle_kubernetes_leader", 1).await;
        second.take_key_of(first);
        let mut platform = started(second, &options).await;
        for gateway in [&mut leader, &mut platform] {
            gateway.tolerate("a gateway");
            until(gateway, "bugle_cluster_members", 2).await;
            let (_, address) = node_token(gateway).await;
            service.gateways.lock().push(address);
        }
        Self {
            stage: Stage::of(platform, cluster, first, options),
            leader,
            _etcd: etcd,
            _service: service,
        }
    }

    /// A function that the gateway has that does not make Pods, in a pool that has none; it was called once.
    async fn function_of_other(&self, fields: &serde_json::Value) -> (Registered, String) {
        for number in 0..MANY {
            let id = format!("p{number}");
            self.stage.create(&pool(&id, fields.clone())).await;
            self.stage.runs(&id, 0).await;
            let name = format!("who{number}");
            let who = self.stage.function(&name, json!({"poolId": id})).await;
            let before = metric(&self.leader, "bugle_gateway_forwarded_total").await;
            let _instance = self.leader.invoke(&who, "0").await.expect(200);
            if metric(&self.leader, "bugle_gateway_forwarded_total").await > before {
                return (who, id);
            }
        }
        panic!("one gateway has all functions");
    }

    fn pods_of(&self, pool: &str) -> Vec<String> {
        let prefix = format!("function-agent-{pool}-");
        let names = self.stage.cluster.names().into_iter();
        names.filter(|name| name.starts_with(&prefix)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_grows_for_a_gateway_that_does_not_make_pods_and_its_idle_pods_go() {
    let sites = [Site::new(), Site::new()];
    let pair = Pair::start(&sites, |options| {
        options.config("scheduler", "idle_seconds", "1")
    })
    .await;
    let fields = json!({"size": 0, "max_size": 2, "idle_recycle_time": {"scaled": 2}});
    let (who, id) = pair.function_of_other(&fields).await;
    let pods = pair.pods_of(&id);
    assert_eq!(pods.len(), 1, "one instance, one Pod: {pods:?}");
    // It is not the gateway that makes Pods and takes idle ones away that uses this one.
    let answer = pair.stage.platform.invoke(&who, "5").await;
    let _instance = answer.expect(200);
    assert_eq!(pair.pods_of(&id), pods);
    pair.stage.runs(&id, 0).await;
    assert!(pair.pods_of(&id).is_empty());
    let again = pair.leader.invoke(&who, "0").await;
    let _instance = again.expect(200);
    pair.stage.platform.finish().await;
    pair.leader.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_gateway_that_makes_pods_is_killed_another_does_and_calls_wait_for_it() {
    let sites = [Site::new(), Site::new()];
    let pair = Pair::start(&sites, |options| options).await;
    let fields = json!({"size": 0, "max_size": 1});
    let stage = &pair.stage;
    stage.create(&pool("p1", fields)).await;
    stage.runs("p1", 0).await;
    let who = stage.function("who", json!({"poolId": "p1"})).await;
    pair.leader.kill().await;
    let answer = stage.platform.invoke(&who, "0").await;
    let _instance = answer.expect(200);
    assert_eq!(stage.cluster.names().len(), 1);
    until(&stage.platform, "bugle_kubernetes_leader", 1).await;
    pair.stage.platform.finish().await;
}
