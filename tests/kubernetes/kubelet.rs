//! A kubelet for the cluster of the tests: what runs in a Pod is a process of this machine, started with the Pod's own
//! arguments, variables and files, probed and ended as the Pod says.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bugle_apiserver::{ApiServer, Hosts, Options};
use bugle_testkit::{Endpoint, Site, binary, kill, terminate};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// The user of Pods, who has no rights: the restricted profile allows no root.
const USER: u32 = 65_532;

/// How often the kubelet looks at its Pods.
const LOOK: Duration = Duration::from_millis(25);

/// The pause before a container that has ended is started again.
const RESTART: Duration = Duration::from_millis(300);

/// A cluster whose Pods are processes of this machine.
pub(crate) struct Cluster {
    pub(crate) server: Arc<ApiServer>,
    running: Arc<Mutex<BTreeMap<String, u32>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
        for pid in self.running.lock().values() {
            kill(*pid);
        }
    }
}

impl Cluster {
    pub(crate) async fn start(site: &Site) -> Self {
        let user = rustix::process::getuid().is_root().then_some(USER);
        let program = match user {
            Some(_) => reachable(site),
            None => binary(),
        };
        let options = Options {
            hosts: Hosts::Yours,
            ..Options::default()
        };
        let server = Arc::new(ApiServer::start(options).await.unwrap());
        let running = Arc::new(Mutex::new(BTreeMap::new()));
        let kubelet = Kubelet {
            server: Arc::clone(&server),
            folder: site.path().join("pods"),
            program,
            user,
            pods: BTreeMap::new(),
            running: Arc::clone(&running),
        };
        let task = tokio::spawn(kubelet.run());
        Self {
            server,
            running,
            task,
        }
    }

    /// The Pods, those about to go included.
    pub(crate) fn pods(&self) -> Vec<Value> {
        self.server.objects("pods", "default")
    }

    /// The names of the Pods that are not about to go.
    pub(crate) fn names(&self) -> Vec<String> {
        let live = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let pods = self.pods();
        pods.iter().filter(live).map(name).collect()
    }

    /// The process of a Pod.
    pub(crate) fn pid(&self, pod: &str) -> Option<u32> {
        self.running.lock().get(pod).copied()
    }

    /// How many processes of Pods run.
    pub(crate) fn processes(&self) -> usize {
        self.running.lock().len()
    }
}

pub(crate) fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}

struct Kubelet {
    server: Arc<ApiServer>,
    folder: PathBuf,
    program: PathBuf,
    /// The user of Pods, where users can be chosen.
    user: Option<u32>,
    /// By uid.
    pods: BTreeMap<String, Running>,
    /// The processes by the names of their Pods.
    running: Arc<Mutex<BTreeMap<String, u32>>>,
}

/// A Pod whose container was started.
struct Running {
    name: String,
    child: Child,
    health: Option<Endpoint>,
    ready: bool,
    restarts: u32,
    /// When it is killed, once it was asked to end.
    until: Option<Instant>,
    /// When it is started again, once it has ended.
    again: Option<Instant>,
}

impl Kubelet {
    async fn run(mut self) {
        loop {
            sleep(LOOK).await;
            let pods = self.server.objects("pods", "default");
            self.forget(&pods);
            for pod in &pods {
                self.look_at(pod).await;
            }
            let running = self.pods.values();
            let pids = running.filter_map(|pod| Some((pod.name.clone(), pod.child.id()?)));
            *self.running.lock() = pids.collect();
        }
    }

    /// What the cluster does not have any more is killed.
    fn forget(&mut self, pods: &[Value]) {
        let there = |uid: &String| {
            pods.iter()
                .any(|pod| pod["metadata"]["uid"] == uid.as_str())
        };
        self.pods.retain(|uid, running| {
            if let (false, Some(pid)) = (there(uid), running.child.id()) {
                kill(pid);
            }
            there(uid)
        });
    }

    async fn look_at(&mut self, pod: &Value) {
        let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
        let ending = !pod["metadata"]["deletionTimestamp"].is_null();
        let phase = pod["status"]["phase"].as_str();
        if matches!(phase, Some("Failed" | "Succeeded")) && !ending {
            if let Some(running) = self.pods.get(&uid).and_then(|running| running.child.id()) {
                kill(running);
            }
            return;
        }
        if ending {
            self.end(pod, &uid);
        } else if let Some(running) = self.pods.get_mut(&uid) {
            let ended = running.child.try_wait().unwrap();
            if let Some(ended) = ended {
                let again = *running
                    .again
                    .get_or_insert_with(|| Instant::now() + RESTART);
                running.ready = false;
                let code = ended.code().unwrap_or(137);
                let restarts = running.restarts;
                self.tell(pod, &crashed(code, restarts), false);
                if Instant::now() >= again {
                    self.start(pod, &uid, restarts + 1);
                }
                return;
            }
            let ready = is_ready(running.health).await;
            if ready != running.ready || phase != Some("Running") {
                running.ready = ready;
                let state = json!({"running": {"startedAt": "2020-01-01T00:00:00Z"}});
                self.tell(pod, &state, ready);
            }
        } else if !pod["spec"]["nodeName"].is_null() {
            self.start(pod, &uid, 0);
        }
    }

    fn end(&mut self, pod: &Value, uid: &str) {
        let grace = pod["metadata"]["deletionGracePeriodSeconds"]
            .as_u64()
            .unwrap_or(30);
        let gone = match self.pods.get_mut(uid) {
            None => true,
            Some(running) => {
                let ended = running.child.try_wait().unwrap().is_some();
                match (running.until, running.child.id()) {
                    (None, Some(pid)) => {
                        running.until = Some(Instant::now() + Duration::from_secs(grace));
                        terminate(pid);
                    }
                    (Some(until), Some(pid)) if Instant::now() >= until => kill(pid),
                    _ => {}
                }
                ended
            }
        };
        if gone {
            self.pods.remove(uid);
            self.server.finish_pod("default", &name(pod));
        }
    }

    fn start(&mut self, pod: &Value, uid: &str, restarts: u32) {
        let container = &pod["spec"]["containers"][0];
        if container["image"]
            .as_str()
            .unwrap()
            .contains("no-such-image")
        {
            let state = json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}});
            if pod["status"]["containerStatuses"].is_null() {
                self.tell(pod, &state, false);
            }
            return;
        }
        let folder = self.folder.join(uid);
        let Some(mounts) = self.mounts(pod, container, &folder) else {
            return;
        };
        let (child, health) = self.launch(pod, container, &folder, &mounts);
        let running = Running {
            name: name(pod),
            child,
            health,
            ready: false,
            restarts,
            until: None,
            again: None,
        };
        self.pods.insert(uid.to_owned(), running);
    }

    /// The folders of the container's volumes by where they are mounted; none while one cannot be made.
    fn mounts(
        &self,
        pod: &Value,
        container: &Value,
        folder: &Path,
    ) -> Option<Vec<(String, String)>> {
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mut all = Vec::new();
        for mount in mounts {
            let wanted = mount["name"].as_str().unwrap();
            let volume = volumes
                .iter()
                .find(|volume| volume["name"] == wanted)
                .unwrap();
            let here = folder.join(wanted);
            std::fs::create_dir_all(&here).unwrap();
            for item in volume["secret"]["items"].as_array().into_iter().flatten() {
                let secret = volume["secret"]["secretName"].as_str().unwrap();
                let text = self.secret(secret, item["key"].as_str().unwrap())?;
                std::fs::write(here.join(item["path"].as_str().unwrap()), text).unwrap();
            }
            for item in volume["downwardAPI"]["items"]
                .as_array()
                .into_iter()
                .flatten()
            {
                let labels = pod["metadata"]["labels"].as_object().unwrap().iter();
                let lines: Vec<String> = labels
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                let lines = lines.join("\n");
                std::fs::write(here.join(item["path"].as_str().unwrap()), lines).unwrap();
            }
            let at = mount["mountPath"].as_str().unwrap().to_owned();
            all.push((at, here.to_str().unwrap().to_owned()));
        }
        Some(all)
    }

    fn launch(
        &self,
        pod: &Value,
        container: &Value,
        folder: &Path,
        mounts: &[(String, String)],
    ) -> (Child, Option<Endpoint>) {
        let environment = environment(pod, container);
        let listed = container["args"].as_array().unwrap().iter();
        let mut arguments: Vec<String> = listed
            .map(|argument| filled(argument.as_str().unwrap(), &environment, mounts))
            .collect();
        let mut health = None;
        let port = arguments
            .iter()
            .position(|argument| argument == "--health-port");
        if let Some(at) = port {
            // Pods have addresses of their own, processes have not.
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap();
            arguments[at + 1] = address.port().to_string();
            health = Some(Endpoint { address });
        }
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        let mut command = Command::new(&self.program);
        if let Some(user) = self.user {
            give(folder, user);
            command.uid(user).gid(user);
        }
        let child = command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&environment)
            .env("HOME", "/")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        (child, health)
    }

    fn secret(&self, secret: &str, key: &str) -> Option<Vec<u8>> {
        let secrets = self.server.objects("secrets", "default");
        let found = secrets.iter().find(|object| name(object) == secret)?;
        let text = found["data"][key].as_str()?;
        base64::engine::general_purpose::STANDARD.decode(text).ok()
    }

    /// Writes the status of a Pod with one container in that state.
    fn tell(&self, pod: &Value, state: &Value, ready: bool) {
        let runs = state["waiting"]["reason"] != "ErrImagePull";
        let word = |holds: bool| if holds { "True" } else { "False" };
        self.server
            .change("pods", "default", &name(pod), "status", |pod| {
                let status = &mut pod["status"];
                status["phase"] = json!(if runs { "Running" } else { "Pending" });
                status["podIP"] = json!("127.0.0.1");
                status["conditions"] = json!([
                    {"type": "PodScheduled", "status": "True"},
                    {"type": "Ready", "status": word(ready)},
                ]);
                status["containerStatuses"] = json!([{
                    "name": "runtime-manager", "image": "bugle", "imageID": "", "restartCount": 0,
                    "ready": ready, "state": state,
                }]);
            });
    }
}

/// The state of a container that has ended and is to be started again.
fn crashed(code: i32, restarts: u32) -> Value {
    let message = format!("exit code {code}, restarted {restarts} times");
    json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}})
}

async fn is_ready(health: Option<Endpoint>) -> bool {
    let Some(health) = health else { return true };
    let request = http::Request::get("/readyz")
        .body(bytes::Bytes::new())
        .unwrap();
    let answer = health.send(request).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

fn environment(pod: &Value, container: &Value) -> BTreeMap<String, String> {
    let variables = container["env"].as_array().unwrap().iter();
    variables
        .map(|variable| {
            let from = &variable["valueFrom"];
            let resource = from["resourceFieldRef"]["resource"].as_str();
            let value = match (from["fieldRef"]["fieldPath"].as_str(), resource) {
                (Some("metadata.name"), _) => pod["metadata"]["name"].clone(),
                (Some("metadata.uid"), _) => pod["metadata"]["uid"].clone(),
                (Some(_), _) => json!("127.0.0.1"),
                (_, Some("limits.cpu")) => json!(limit(container, "cpu").to_string()),
                (_, Some(_)) => json!(limit(container, "memory").to_string()),
                _ => variable["value"].clone(),
            };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&variable["name"]), text(&value))
        })
        .collect()
}

/// Thousandths of a core, or MiB; what a large machine has where there is no limit.
fn limit(container: &Value, resource: &str) -> u64 {
    let Some(text) = container["resources"]["limits"][resource].as_str() else {
        return 8000;
    };
    let whole = text.trim_end_matches(|c: char| c.is_alphabetic());
    let number: u64 = whole.parse().unwrap();
    match text.strip_prefix(whole).unwrap() {
        "Gi" => number * 1024,
        "" => number * 1000,
        _ => number,
    }
}

/// With the variables and the folders of this machine in it.
fn filled(
    text: &str,
    environment: &BTreeMap<String, String>,
    mounts: &[(String, String)],
) -> String {
    let mut text = text.to_owned();
    for (name, value) in environment {
        text = text.replace(&format!("$({name})"), value);
    }
    for (at, here) in mounts {
        if text == *at || text.starts_with(&format!("{at}/")) {
            return text.replacen(at, here, 1);
        }
    }
    text
}

/// The program where every user can run it.
fn reachable(site: &Site) -> PathBuf {
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(site.path(), open.clone()).unwrap();
    let program = site.path().join("worker");
    std::fs::copy(binary(), &program).unwrap();
    std::fs::set_permissions(&program, open).unwrap();
    program
}

/// Gives a folder with all in it to a user.
fn give(path: &Path, user: u32) {
    std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), user);
        }
    }
}
