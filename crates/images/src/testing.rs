//! What several tests need.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bugle_artifacts::address;
use parking_lot::Mutex;
use serde_json::json;
use tar::{Builder, EntryType, Header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::document::Platform;
use crate::{Credentials, Digest, Network, Vault};

/// Turns letters around, so that a test can see what was sealed.
#[derive(Debug)]
pub(crate) struct Turned;

impl Vault for Turned {
    fn seal(&self, text: &str) -> Result<String, String> {
        Ok(text.chars().rev().collect())
    }

    fn open(&self, sealed: &str) -> Result<String, String> {
        self.seal(sealed)
    }
}

/// A network in which these addresses are allowed beside the public ones.
pub(crate) fn network(folder: &Path, allowed: &[String]) -> Network {
    network_with(folder, allowed, &[])
}

/// The same with these files of credentials.
pub(crate) fn network_with(folder: &Path, allowed: &[String], files: &[PathBuf]) -> Network {
    let path = folder.join("credentials");
    let credentials = Credentials::open(&path, Arc::new(Turned), files).unwrap();
    let addresses = address::Config {
        allowed: allowed.to_vec(),
        ..address::Config::default()
    };
    Network::new(&addresses, credentials).unwrap()
}

/// A tar stream of some files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The configuration of an image for this machine with these layers.
pub(crate) fn configuration(layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let machine = Platform::here();
    let text = json!({
        "architecture": machine.architecture, "os": "linux", "rootfs": {"diff_ids": ids},
        "config": {"Cmd": ["/app"]},
    });
    text.to_string().into_bytes()
}

/// What a server of tests got: the request line, the headers in small letters, and the body.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// What it answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Breaks the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Sends the body again and again.
    pub(crate) endless: bool,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A server that does what a test wants, also what no server should do. It ends with the test.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Answers each request in a connection of its own.
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                tokio::spawn(serve(stream, seen, answer));
            }
        });
        Self { address, asked }
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// The rule that lets us speak to it.
    pub(crate) fn rule(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<impl Fn(&Asked) -> Answer>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ');
    let headers = lines.filter_map(|line| line.split_once(": "));
    let mut asked = Asked {
        body: String::new(),
        method: first.next().unwrap().to_owned(),
        path: first.next().unwrap().to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
    };
    if let Some(length) = asked.headers.get("content-length") {
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        asked.body = String::from_utf8(body).unwrap();
    }
    let answer = answer(&asked);
    let is_head = asked.method == "HEAD";
    seen.lock().push(asked);
    let mut text = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    if !answer.endless {
        text.extend(["content-length: ", &answer.body.len().to_string(), "\r\n"]);
    }
    text.push_str("\r\n");
    // A client that goes away is a test of its own.
    let _ = stream.write_all(text.as_bytes()).await;
    if is_head {
        return;
    }
    let cut = answer.cut.unwrap_or(answer.body.len());
    while stream.write_all(&answer.body[..cut]).await.is_ok() && answer.endless {}
    let _ = stream.shutdown().await;
}
