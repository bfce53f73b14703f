//! A node as a process.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::{Child, Command};

use crate::{Platform, Site, StartOptions, binary, eventually, kill, terminate};

const BOUND: Duration = Duration::from_mins(1);

/// What makes a platform take nodes and host nothing itself.
pub fn with_nodes(options: StartOptions) -> StartOptions {
    options
        .config("nodes", "listen", "127.0.0.1:0")
        .config("nodes", "local", "false")
}

/// A token, and where the platform waits for nodes.
pub async fn node_token(platform: &Platform) -> (String, String) {
    let made = eventually("the platform takes nodes", BOUND, || async {
        let answer = platform
            .control
            .post("/bugle/v1/nodes/tokens", &json!({}))
            .await;
        match answer.status {
            201 => Ok(answer.json()),
            status => Err(format!("{status}")),
        }
    })
    .await;
    let text = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
    (text("token"), text("address"))
}

/// Waits until a node takes instances.
pub async fn until_node_lives(platform: &Platform, name: &str) {
    eventually("the node takes instances", BOUND, || async {
        let list = platform.control.get("/bugle/v1/nodes").await.json();
        let mut nodes = list["nodes"].as_array().into_iter().flatten();
        let live = nodes.any(|node| node["name"] == name && node["state"] == "live");
        live.then_some(()).ok_or_else(|| list.to_string())
    })
    .await;
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Node {
    /// Starts a node that joins, and waits until it takes instances.
    pub async fn join(site: &Site, platform: &Platform, name: &str) -> Self {
        let (token, address) = node_token(platform).await;
        let node = Self::start(site, name, &["--join", &address, "--token", &token]);
        until_node_lives(platform, name).await;
        node
    }

    /// Starts a node of eight cores and as many gigabytes.
    pub fn start(site: &Site, name: &str, arguments: &[&str]) -> Self {
        let size: &[&str] = &["--cpu", "8000"];
        Self::run(
            Command::new(binary()),
            site,
            name,
            &[size, arguments].concat(),
        )
    }

    /// Starts a node with a command that ends in the binary, whose arguments are then added.
    pub fn run(mut command: Command, site: &Site, name: &str, arguments: &[&str]) -> Self {
        let folder = site.path().join(format!("node-{name}"));
        let log = site.path().join(format!("node-{name}.log"));
        let out = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log);
        let out = out.expect("the log can be written");
        let child = command
            .arg("node")
            .args(["--name", name, "--memory", "8192"])
            .arg("--data-dir")
            .arg(folder)
            .arg("--code-root")
            .arg(site.code_root())
            .args(arguments)
            .env("HOME", site.home())
            .env("XDG_CONFIG_HOME", site.home())
            .current_dir(site.home())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary can be run");
        let pid = child.id().expect("a new process has an id");
        Self { child, pid, log }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its log so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it as a power cut would.
    pub async fn kill(mut self) {
        kill(self.pid);
        self.child
            .wait()
            .await
            .expect("our own child can be waited for");
    }

    /// Asks it to end.
    pub async fn finish(mut self) {
        terminate(self.pid);
        let ended = tokio::time::timeout(BOUND, self.child.wait()).await;
        let ended = ended
            .expect("it ends when it is asked to")
            .expect("our own child");
        assert!(
            ended.success(),
            "the node ended with {ended}:\n{}",
            self.said()
        );
    }

    /// What it says when it is not let in.
    pub async fn refused(mut self) -> String {
        let ended = tokio::time::timeout(BOUND, self.child.wait()).await;
        let ended = ended.expect("it gives up").expect("our own child");
        assert!(!ended.success());
        self.said()
    }
}
