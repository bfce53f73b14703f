//! An etcd for a test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A member that runs; it is killed when this is dropped.
pub(crate) struct Etcd {
    folder: TempDir,
    arguments: Vec<String>,
    pub(crate) address: String,
    child: Option<Child>,
}

/// A port that was free a moment ago.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Where a member listens for clients, and where for other members.
pub(crate) struct Place {
    name: String,
    scheme: &'static str,
    client: u16,
    peer: u16,
}

impl Place {
    fn new(name: &str, scheme: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            scheme,
            client: port(),
            peer: port(),
        }
    }

    fn peer(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    fn address(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.client)
    }
}

impl Etcd {
    /// One alone.
    pub(crate) fn start() -> Self {
        Self::with("http", &[])
    }

    /// One alone, with these arguments as well.
    pub(crate) fn with(scheme: &'static str, more: &[&str]) -> Self {
        let place = Place::new("one", scheme);
        let cluster = format!("one={}", place.peer());
        Self::at(&place, &cluster, more)
    }

    /// Three that form a cluster.
    pub(crate) fn cluster() -> Vec<Self> {
        let places = ["one", "two", "three"].map(|name| Place::new(name, "http"));
        let cluster: Vec<String> = places
            .iter()
            .map(|place| format!("{}={}", place.name, place.peer()))
            .collect();
        let cluster = cluster.join(",");
        places
            .iter()
            .map(|place| Self::at(place, &cluster, &[]))
            .collect()
    }

    fn at(place: &Place, cluster: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (address, peer) = (place.address(), place.peer());
        let data = folder.path().join("data").display().to_string();
        let arguments = [
            "--name",
            &place.name,
            "--data-dir",
            &data,
            "--listen-client-urls",
            &address,
            "--advertise-client-urls",
            &address,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            cluster,
            "--heartbeat-interval",
            "50",
            "--election-timeout",
            "500",
        ];
        let arguments = arguments.iter().chain(more).map(|text| (*text).to_owned());
        let mut etcd = Self {
            folder,
            arguments: arguments.collect(),
            address,
            child: None,
        };
        etcd.resume();
        etcd
    }

    /// Starts it again with what it has on disk.
    pub(crate) fn resume(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let child = Command::new("etcd")
            .args(&self.arguments)
            .env("GOMAXPROCS", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd is installed (Debian's etcd-server)");
        self.child = Some(child);
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Takes away what it has on disk.
    pub(crate) fn forget(&self) {
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    /// Runs etcdctl against it, and returns what it prints.
    pub(crate) fn control(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.address])
            .args(arguments)
            .output()
            .expect("etcdctl is installed (Debian's etcd-client)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            Err(text + &String::from_utf8_lossy(&output.stderr))
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!(
                "{} said last, newest first:\n{}",
                self.address,
                last.join("\n")
            );
        }
    }
}

/// Certificates for a test, made for it.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    /// An authority, a certificate for 127.0.0.1, and one for a client.
    pub(crate) fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text);
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = authority.self_signed(&key).unwrap();
        write("ca.pem", certificate.pem()).unwrap();
        let issuer = Issuer::new(authority, key);
        for (name, host) in [("server", "127.0.0.1"), ("client", "bugle")] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, host);
            let certificate = params.signed_by(&key, &issuer).unwrap();
            write(&format!("{name}.pem"), certificate.pem()).unwrap();
            write(&format!("{name}.key"), key.serialize_pem()).unwrap();
        }
        Self(folder)
    }

    /// One of `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> String {
        Path::new(&self.path(name)).display().to_string()
    }
}
