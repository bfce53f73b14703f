//! A Kubernetes API server for tests: what a client sees of one, on a loopback port.
//!
//! It keeps Namespaces, Pods, Deployments, `ReplicaSets`, autoscalers, Events, Leases, Secrets, `ConfigMaps`,
//! `ServiceAccounts`, Nodes, disruption budgets and quotas. Requests are answered as a real server answers
//! them: discovery, lists with selectors and pages, watches with bookmarks and expiry, all kinds of patches with
//! server-side apply and its conflicts, subresources, optimistic locking, grace periods, finalizers, garbage
//! collection, eviction, roles, errors of kind `Status`. `tests/apiserver/replay.rs` holds it to recordings of a real one.
//! Small controllers make Deployments come to life; a played kubelet lets Pods start, fail or wait as their
//! annotations ask ([`FATE`]), unless whoever made the server hosts them ([`Hosts`]). Autoscalers are stored only.
//!
//! It is no part of the platform and keeps nothing on disk.
//!
//! ```no_run
//! # async fn shown() -> std::io::Result<()> {
//! let server = bugle_apiserver::ApiServer::start(bugle_apiserver::Options::default()).await?;
//! std::fs::write("kubeconfig", server.kubeconfig())?;
//! # Ok(()) }
//! ```

mod access;
mod admission;
mod api;
mod controllers;
mod defaults;
mod deletion;
mod discovery;
mod failure;
mod faults;
mod fields;
mod objects;
mod ownership;
mod patch;
mod quantity;
mod request;
mod resources;
mod schema;
mod selector;
mod server;
mod store;
mod validation;
mod views;
mod watching;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use access::Rule;
pub use faults::{Fault, Trouble};
pub use server::{Hosts, Options, Seen};

use objects::{Owners, Write};
use resources::Resource;
use server::Shared;
use store::Key;

/// The annotation by which a Pod asks for its fate: `image-pull`, `crash-loop`, `never-ready`, `succeed`,
/// `fail`, `evict` or `pending`.
pub const FATE: &str = "fake.kubelet/outcome";

/// The token of the user who may do everything.
const ADMIN: &str = "admin";

/// A running server. It stops when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    controllers: CancellationToken,
    listening: Mutex<CancellationToken>,
}

impl ApiServer {
    /// Starts a server with the namespace `default` and the nodes of the options.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(options: Options) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(options));
        shared.access.lock().grant(ADMIN, "admin", None);
        let listener = server::bind((Ipv4Addr::LOCALHOST, 0).into()).await?;
        let address = listener.local_addr()?;
        let (controllers, listening) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(server::control(Arc::clone(&shared), controllers.clone()));
        tokio::spawn(server::serve(
            Arc::clone(&shared),
            listener,
            listening.clone(),
        ));
        let server = Self {
            shared,
            address,
            controllers,
            listening: Mutex::new(listening),
        };
        server.create_namespace("default");
        for node in server.shared.options.nodes.clone() {
            server.add_node(&node);
        }
        Ok(server)
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The token of the user who may do everything.
    pub fn token(&self) -> &'static str {
        ADMIN
    }

    /// A kubeconfig for the user who may do everything.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_of(ADMIN, "default")
    }

    /// A kubeconfig for the user of a token.
    pub fn kubeconfig_of(&self, token: &str, namespace: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: \"{}\"}}}}]\n\
             users: [{{name: test, user: {{token: \"{token}\"}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test, namespace: \"{namespace}\"}}}}]\n",
            self.url()
        )
    }

    /// Gives a token to a user who may do what the rules say and nothing else.
    pub fn grant(&self, token: &str, user: &str, rules: Vec<Rule>) {
        self.shared.access.lock().grant(token, user, Some(rules));
    }

    /// Makes a namespace; that it is there already is fine.
    pub fn create_namespace(&self, name: &str) {
        self.create("namespaces", "", json!({"metadata": {"name": name}}));
    }

    /// Makes a node with 16 cores, 64 GiB and room for 110 Pods; that it is there already is fine.
    pub fn add_node(&self, name: &str) {
        let room = json!({"cpu": "16", "memory": "64Gi", "pods": "110"});
        self.create("nodes", "", json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {},
            "status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]},
        }));
    }

    /// Takes a node away with all its Pods, as when a machine is removed from the cluster.
    pub fn remove_node(&self, name: &str) {
        let key = Key::new(Resource::of("nodes"), "", name);
        self.shared.state.lock().store.remove(&key);
    }

    /// Lets a node fall silent, or answer again.
    pub fn set_node_answers(&self, name: &str, answers: bool) {
        let status = if answers { "True" } else { "Unknown" };
        self.change("nodes", "", name, "status", |node| {
            node["status"]["conditions"] = json!([{"type": "Ready", "status": status}]);
        });
    }

    fn create(&self, plural: &str, namespace: &str, object: Value) {
        let resource = Resource::of(plural);
        let mut object = object;
        object["kind"] = json!(resource.kind);
        object["apiVersion"] = json!(resource.api_version());
        let write = Write::of_controller("test", "");
        let store = &mut self.shared.state.lock().store;
        // That it is there already is fine.
        let _known = objects::create(store, resource, namespace, object, &write);
    }

    /// Changes an object behind the clients' backs, with no check; `subresource` is empty or `status`. Nothing
    /// happens if there is no such object.
    pub fn change(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        subresource: &'static str,
        change: impl FnOnce(&mut Value),
    ) {
        let resource = Resource::of(plural);
        let key = Key::new(resource, namespace, name);
        let store = &mut self.shared.state.lock().store;
        let Some(object) = store.get(&key) else {
            return;
        };
        let mut new = Value::clone(object);
        change(&mut new);
        let write = Write::of_controller("test", subresource);
        let _refused = objects::update(store, resource, &key, new, &write, Owners::FromDifference);
    }

    /// The objects of a kind in a namespace, in the order of their names.
    pub fn objects(&self, plural: &str, namespace: &str) -> Vec<Value> {
        let state = self.shared.state.lock();
        let namespace = (!namespace.is_empty()).then_some(namespace);
        let list = state.store.list(Resource::of(plural), namespace);
        list.map(|(_, object)| Value::clone(object)).collect()
    }

    /// Ends a Pod that was asked to end, as its host does when nothing of it runs any more.
    pub fn finish_pod(&self, namespace: &str, name: &str) {
        let key = Key::new(Resource::of("pods"), namespace, name);
        let store = &mut self.shared.state.lock().store;
        if let Some(pod) = store.get(&key).cloned() {
            controllers::kubelet::finish(store, &key, &pod);
        }
    }

    /// The labels of every Pod of a namespace that is not about to go.
    pub fn live_pods(&self, namespace: &str) -> Vec<std::collections::BTreeMap<String, String>> {
        let pods = self.objects("pods", namespace);
        let live = pods.iter().filter(|pod| !objects::is_terminating(pod));
        live.map(objects::labels).collect()
    }

    /// Waits until what is stored fulfils the condition. Cancel safe.
    pub async fn until(&self, mut holds: impl FnMut(&Self) -> bool) {
        let mut changed = self.shared.state.lock().store.subscribe();
        while !holds(self) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Lets something go wrong.
    pub fn fail(&self, fault: Fault) {
        self.shared.faults.lock().add(fault);
    }

    /// Takes back what has not gone wrong yet.
    pub fn heal(&self) {
        self.shared.faults.lock().clear();
    }

    /// Breaks every watch in the middle.
    pub fn cut_watches(&self) {
        self.shared.cut.send_modify(|times| *times += 1);
    }

    /// Forgets the history: watches from before have to list again.
    pub fn compact(&self) {
        self.shared.state.lock().store.compact();
    }

    /// Closes the port and every connection. The cluster itself goes on.
    pub fn stop_listening(&self) {
        self.listening.lock().cancel();
    }

    /// Opens the same port again.
    ///
    /// # Errors
    /// When somebody else has taken it.
    pub async fn listen_again(&self) -> std::io::Result<()> {
        let listener = server::bind(self.address).await?;
        let token = CancellationToken::new();
        *self.listening.lock() = token.clone();
        tokio::spawn(server::serve(Arc::clone(&self.shared), listener, token));
        Ok(())
    }

    /// Every request so far, up to a hundred thousand.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.listening.lock().cancel();
        self.controllers.cancel();
    }
}
