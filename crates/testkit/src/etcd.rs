//! An etcd of a test's own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::eventually;

/// An etcd that runs; dropping it kills it.
#[derive(Debug)]
pub struct Etcd {
    folder: TempDir,
    /// Where it listens, as `http://HOST:PORT`.
    pub address: String,
    peer: String,
    child: Option<Child>,
}

/// An address that was free a moment ago.
fn address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    format!("http://{address}")
}

impl Etcd {
    /// Starts one, and waits until it answers.
    ///
    /// # Panics
    /// When `etcd` is not installed (Debian's `etcd-server`), or never answers.
    pub async fn start() -> Self {
        let mut etcd = Self {
            folder: tempfile::tempdir().expect("a temporary directory can be made"),
            address: address(),
            peer: address(),
            child: None,
        };
        etcd.resume().await;
        etcd
    }

    /// Starts it again with what it has on disk, and waits until it answers.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn resume(&mut self) {
        let cluster = format!("default={}", self.peer);
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &self.address])
            .args(["--advertise-client-urls", &self.address])
            .args(["--listen-peer-urls", &self.peer])
            .args(["--initial-advertise-peer-urls", &self.peer])
            .args(["--initial-cluster", &cluster])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed (Debian's etcd-server)");
        self.child = Some(child);
        eventually("etcd answers", Duration::from_secs(30), || {
            let answer = self.control(&["endpoint", "health"]);
            async { answer }
        })
        .await;
    }

    /// Ends it as a power cut would.
    ///
    /// # Panics
    /// When the system does not let its parent kill it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
    }

    /// What `etcdctl` prints.
    ///
    /// # Errors
    /// What it says when it fails.
    ///
    /// # Panics
    /// When it is not installed (Debian's `etcd-client`).
    pub fn control(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.address])
            .args(arguments)
            .output()
            .expect("etcdctl is installed (Debian's etcd-client)");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
