//! Several gateways as processes on one etcd.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bugle_testkit::{Etcd, FunctionSpec, Platform, Registered, Site, StartOptions, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// For what is bounded by nothing else.
pub(crate) const BOUND: Duration = Duration::from_secs(40);

/// Shows itself to the referee for as long as the event says, and answers its instance.
pub(crate) const WHO: &str = r"
import socket, time
def handler(event, context):
    event = event or {}
    if 'referee' in event:
        with socket.create_connection(('127.0.0.1', event['referee'])) as referee:
            referee.recv(1)
            time.sleep(event.get('seconds', 0))
            referee.sendall(b'e')
            referee.recv(1)
    else:
        time.sleep(event.get('seconds', 0))
    return context.get_instance_id()
";

/// An etcd, and a site for each gateway on it.
pub(crate) struct Gates {
    pub(crate) etcd: Etcd,
    sites: Vec<Site>,
}

impl Gates {
    pub(crate) async fn new(count: usize) -> Self {
        let etcd = Etcd::start().await;
        let sites: Vec<Site> = (0..count).map(|_| Site::new()).collect();
        Self { etcd, sites }
    }

    /// Of the gateway with this number.
    pub(crate) fn site(&self, number: usize) -> &Site {
        &self.sites[number]
    }

    pub(crate) fn options(&self) -> StartOptions {
        let code = self.sites[0].code_root().display().to_string();
        StartOptions::default()
            .config("store", "kind", "etcd")
            .config("etcd", "endpoints", &self.etcd.address)
            .config("etcd", "request_timeout_seconds", "2")
            .config("cluster", "listen", "127.0.0.1:0")
            .arguments(["--code-root", &code])
    }

    /// Starts a gateway with the first one's key.
    pub(crate) async fn start(&self, number: usize) -> Platform {
        self.start_with(number, &self.options()).await
    }

    pub(crate) async fn start_with(&self, number: usize, options: &StartOptions) -> Platform {
        if number > 0 {
            self.sites[number].take_key_of(&self.sites[0]);
        }
        let mut platform = self.sites[number].start_with(options).await;
        platform.tolerate("did not say that it follows");
        platform
    }

    /// Starts one more than there were to be.
    pub(crate) async fn start_another(&mut self, options: StartOptions) -> Platform {
        self.sites.push(Site::new());
        self.start_with(self.sites.len() - 1, &options).await
    }

    /// Starts so many, and waits until all see all.
    pub(crate) async fn start_all(&self) -> Vec<Platform> {
        let mut platforms = Vec::new();
        for number in 0..self.sites.len() {
            platforms.push(self.start(number).await);
        }
        until_members(&platforms.iter().collect::<Vec<_>>()).await;
        platforms
    }

    /// Registers a Python function with one call an instance.
    pub(crate) async fn function(&self, platform: &Platform, name: &str, max: &str) -> Registered {
        let code = self.sites[0].write_code(name, "index.py", WHO);
        let spec = FunctionSpec::python(&format!("0@test@{name}"), &code)
            .with("concurrentNum", "1")
            .with("maxInstance", max);
        platform.register(&spec).await
    }

    /// How often etcd was written.
    pub(crate) fn revision(&self) -> u64 {
        let status = self
            .etcd
            .control(&["endpoint", "status", "--write-out=json"]);
        let status: serde_json::Value =
            serde_json::from_str(&status.expect("etcd answers")).expect("etcdctl writes JSON");
        let revision = &status[0]["Status"]["header"]["revision"];
        revision.as_u64().expect("a revision")
    }
}

/// A figure of a gateway's metrics.
pub(crate) async fn metric(platform: &Platform, name: &str) -> u64 {
    let text = platform.control.get("/metrics").await.expect(200).text();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// Waits until each of these gateways sees all of them, and no other.
pub(crate) async fn until_members(platforms: &[&Platform]) {
    for platform in platforms {
        eventually("the gateways see each other", BOUND, || async {
            let members = metric(platform, "bugle_cluster_members").await;
            let joined = metric(platform, "bugle_cluster_joined").await;
            let all = members == platforms.len() as u64 && joined == 1;
            all.then_some(())
                .ok_or_else(|| format!("{members} members, joined: {joined}"))
        })
        .await;
    }
}

/// Which of the gateways has a function that has been called: the one that passes no call on.
pub(crate) async fn owner(platforms: &[&Platform], function: &Registered) -> usize {
    for (number, platform) in platforms.iter().enumerate() {
        let before = metric(platform, "bugle_gateway_forwarded_total").await;
        let _ = platform.invoke(function, "{}").await.expect(200);
        if metric(platform, "bugle_gateway_forwarded_total").await == before {
            return number;
        }
    }
    panic!("every gateway passed the call on");
}

/// Sees how many calls run at once, whoever runs them.
pub(crate) struct Referee {
    pub(crate) port: u16,
    most: Arc<AtomicUsize>,
    seen: Arc<AtomicUsize>,
    listener: JoinHandle<()>,
}

impl Referee {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let (most, seen) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let now = Arc::<AtomicUsize>::default();
        let told = (Arc::clone(&most), Arc::clone(&seen));
        let listener = tokio::spawn(async move {
            while let Ok((mut call, _)) = listener.accept().await {
                let (now, most, seen) =
                    (Arc::clone(&now), Arc::clone(&told.0), Arc::clone(&told.1));
                let running = now.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(running, Ordering::SeqCst);
                seen.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    _ = call.write_all(b"b").await;
                    let mut end = [0];
                    // Whoever was killed has ended as well.
                    _ = call.read(&mut end).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    _ = call.write_all(b"e").await;
                });
            }
        });
        Self {
            port,
            most,
            seen,
            listener,
        }
    }

    /// The most calls that ran at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// How many calls ran.
    pub(crate) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    pub(crate) fn event(&self, seconds: f64) -> String {
        serde_json::json!({ "referee": self.port, "seconds": seconds }).to_string()
    }
}

impl Drop for Referee {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
