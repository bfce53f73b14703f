//! A platform on a cluster, with functions that say where they run.

use std::collections::BTreeMap;
use std::time::Duration;

use bugle_testkit::{FunctionSpec, Platform, Registered, Site, StartOptions, eventually};
use serde_json::{Value, json};

use crate::kubelet::Cluster;

/// What a machine under test needs to start a process, with all its neighbours.
pub(crate) const BOUND: Duration = Duration::from_mins(1);

const POOLS: &str = "/serverless/v1/podpools";

/// Answers which instance it is, after as many seconds as the event says.
const WHO: &str = r"
import time
def handler(event, context):
    time.sleep(event or 0)
    return context.get_instance_id()
";

/// A platform and its cluster.
pub(crate) struct Stage<'a> {
    pub(crate) platform: Platform,
    pub(crate) cluster: Cluster,
    site: &'a Site,
    options: StartOptions,
}

/// A node as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) state: String,
    pub(crate) pool: String,
    pub(crate) instances: u64,
}

/// A pool whose Pods have room for three instances of [`Stage::function`], with these fields instead of its own.
pub(crate) fn pool(id: &str, fields: Value) -> Value {
    let amounts = json!({"cpu": "1", "memory": "1Gi"});
    let mut pool = json!({
        "id": id, "size": 1, "resources": {"requests": amounts, "limits": amounts},
    });
    let Value::Object(fields) = fields else {
        panic!("fields are an object");
    };
    pool.as_object_mut().unwrap().extend(fields);
    pool
}

/// What makes a platform use the cluster.
pub(crate) fn options(site: &Site, cluster: &Cluster) -> StartOptions {
    let kubeconfig = site.path().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.server.kubeconfig()).unwrap();
    StartOptions::default()
        .config("pools", "backend", "kubernetes")
        .config("nodes", "listen", "127.0.0.1:0")
        .config("kubernetes", "kubeconfig", kubeconfig.to_str().unwrap())
        .config("kubernetes", "lease_seconds", "2")
        .config("kubernetes", "drain_seconds", "10")
}

/// A platform that does not mind what happens to its Pods.
pub(crate) async fn started(site: &Site, options: &StartOptions) -> Platform {
    let mut platform = site.start_with(options).await;
    let expected = ["connection", "Pod", "node", "instance"];
    let of_outages = [
        "kube_client",
        "an operation for a pool",
        "what workers join",
    ];
    for expected in expected.into_iter().chain(of_outages) {
        platform.tolerate(expected);
    }
    platform
}

impl<'a> Stage<'a> {
    pub(crate) async fn start(site: &'a Site) -> Self {
        Self::start_with(site, |options| options).await
    }

    /// Starts a platform with other settings than usual.
    pub(crate) async fn start_with(
        site: &'a Site,
        settings: impl FnOnce(StartOptions) -> StartOptions,
    ) -> Self {
        let cluster = Cluster::start(site).await;
        let options = settings(options(site, &cluster));
        let platform = started(site, &options).await;
        Self {
            platform,
            cluster,
            site,
            options,
        }
    }

    /// The stage of a platform that was started by somebody else, with these options.
    pub(crate) fn of(
        platform: Platform,
        cluster: Cluster,
        site: &'a Site,
        options: StartOptions,
    ) -> Self {
        Self {
            platform,
            cluster,
            site,
            options,
        }
    }

    /// Creates a pool whose Pods see the code of functions.
    pub(crate) async fn create(&self, pool: &Value) {
        let mut pool = pool.clone();
        let code = self.site.code_root();
        pool["environment"] = json!({"BUGLE_SERVER__CODE_ROOTS": code});
        let pools = json!({"pools": [pool]});
        let answer = self.platform.control.post(POOLS, &pools).await.expect(200);
        let failed = &answer.json()["result"]["failed_pools"];
        assert!(failed.is_null(), "{}", answer.text());
    }

    /// Changes a pool.
    pub(crate) async fn change(&self, id: &str, fields: &Value) {
        let path = format!("{POOLS}/{id}");
        let _done = self.platform.control.put(&path, fields).await.expect(200);
    }

    pub(crate) async fn delete(&self, id: &str) {
        let path = format!("{POOLS}?id={id}");
        let _accepted = self.platform.control.delete(&path).await.expect(200);
    }

    /// The pool as it is shown; null when there is none.
    pub(crate) async fn shown(&self, id: &str) -> Value {
        let path = format!("{POOLS}?id={id}");
        let answer = self.platform.control.get(&path).await.expect(200);
        answer.json()["result"]["pools"][0].clone()
    }

    /// Waits until the pool is as it should be.
    pub(crate) async fn becomes(&self, id: &str, good: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("pool {id}"), BOUND, async || {
            let pool = self.shown(id).await;
            if good(&pool) {
                return Ok(pool);
            }
            let pods = self.cluster.pods();
            let pods: Vec<_> = pods.iter().map(|pod| &pod["status"]).collect();
            Err(format!("{pool}\n{pods:?}"))
        })
        .await
    }

    /// Waits until the pool runs with so many Pods that are ready.
    pub(crate) async fn runs(&self, id: &str, ready: u64) -> Value {
        let good = |pool: &Value| pool["status"] == 4 && pool["ready_count"] == ready;
        self.becomes(id, good).await
    }

    /// Waits until nothing is left of a pool.
    pub(crate) async fn gone(&self, id: &str) {
        let _null = self.becomes(id, Value::is_null).await;
    }

    /// The nodes that are Pods, by name.
    pub(crate) async fn nodes(&self) -> BTreeMap<String, Node> {
        let list = self.platform.control.get("/bugle/v1/nodes").await.json();
        let nodes = list["nodes"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        nodes
            .filter(|node| node["name"] != "local")
            .map(|node| {
                let shown = Node {
                    state: text(&node["state"]),
                    pool: text(&node["pool"]),
                    instances: node["instances"].as_u64().unwrap(),
                };
                (text(&node["name"]), shown)
            })
            .collect()
    }

    /// Waits until the nodes are as they should be.
    pub(crate) async fn until_nodes(
        &self,
        what: &str,
        good: impl Fn(&BTreeMap<String, Node>) -> bool,
    ) -> BTreeMap<String, Node> {
        eventually(what, BOUND, async || {
            let nodes = self.nodes().await;
            if good(&nodes) {
                Ok(nodes)
            } else {
                Err(format!("{nodes:?}"))
            }
        })
        .await
    }

    /// Asks the cluster to evict a Pod, as the drain of a machine does.
    pub(crate) async fn evict(&self, pod: &str) {
        let body =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
        let path = format!("pods/{pod}/eviction");
        self.ask_cluster(&path, &body).await;
    }

    /// Creates something in the cluster.
    pub(crate) async fn ask_cluster(&self, path: &str, body: &Value) {
        let path = format!("/api/v1/namespaces/default/{path}");
        let url = self.cluster.server.url();
        let address = url.strip_prefix("http://").unwrap().parse().unwrap();
        let request = http::Request::post(path)
            .header(
                "authorization",
                format!("Bearer {}", self.cluster.server.token()),
            )
            .header("content-type", "application/json")
            .body(bytes::Bytes::from(body.to_string()))
            .unwrap();
        let answer = bugle_testkit::Endpoint { address }
            .send(request)
            .await
            .unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
    }

    /// Registers a function that needs a third of a Pod, with these fields too.
    pub(crate) async fn function(&self, name: &str, fields: Value) -> Registered {
        let code = self.site.write_code(name, "index.py", WHO);
        let mut spec = FunctionSpec::python(&format!("0@test@{name}"), &code);
        for (field, value) in fields.as_object().unwrap() {
            spec = spec.with(field, value.clone());
        }
        self.platform.register(&spec).await
    }

    /// Kills the platform and starts it again on the same data.
    pub(crate) async fn restart(self) -> Self {
        self.platform.kill().await;
        let platform = self.site.start_with(&self.options).await;
        Self { platform, ..self }
    }
}
