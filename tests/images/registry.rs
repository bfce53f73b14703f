//! A real registry on loopback, with a login or without.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugle_testkit::{Endpoint, eventually};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::writer::{Image, digest};

const BOUND: Duration = Duration::from_secs(30);

/// The name and the password of those that want one.
pub(crate) const LOGIN: (&str, &str) = ("someone", "a s:cret");

/// A running `docker-registry`; it ends with the test.
pub(crate) struct Registry {
    endpoint: Endpoint,
    authorization: Option<String>,
    _process: Child,
    _folder: TempDir,
}

impl Registry {
    pub(crate) async fn open() -> Self {
        Self::start("", None).await
    }

    /// Wants [`LOGIN`].
    pub(crate) async fn closed() -> Self {
        let (name, password) = LOGIN;
        let pair = STANDARD.encode(format!("{name}:{password}"));
        let auth = "auth: {htpasswd: {realm: registry, path: PASSWORDS}}\n";
        Self::start(auth, Some(format!("Basic {pair}"))).await
    }

    async fn start(auth: &str, authorization: Option<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        if authorization.is_some() {
            passwords(&path("passwords")).await;
        }
        let passwords = path("passwords");
        let auth = auth.replace("PASSWORDS", &passwords.to_string_lossy());
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:0\"}}\n{auth}",
            path("data").display()
        );
        fs::write(path("config.yml"), config).unwrap();
        let log = File::create(path("log")).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the Debian package docker-registry is installed");
        let address = eventually("the registry listens", BOUND, || {
            let log = fs::read_to_string(path("log")).unwrap();
            let found = log.split("listening on ").nth(1).map(|rest| {
                let end = rest.find('"').unwrap_or(rest.len());
                rest[..end].parse::<SocketAddr>().unwrap()
            });
            async move { found.ok_or(log) }
        })
        .await;
        Self {
            endpoint: Endpoint { address },
            authorization,
            _process: process,
            _folder: folder,
        }
    }

    /// `host:port`.
    pub(crate) fn name(&self) -> String {
        self.endpoint.address.to_string()
    }

    /// What allows the platform to speak to it.
    pub(crate) fn rule(&self) -> String {
        self.endpoint.url("")
    }

    pub(crate) fn reference(&self, image: &str) -> String {
        format!("{}/{image}", self.name())
    }

    /// Pushes an image under a tag, as `team/app:1`.
    pub(crate) async fn push(&self, image: &str, parts: &Image) {
        let (repository, tag) = image.split_once(':').unwrap();
        for blob in parts.blobs() {
            self.push_blob(repository, blob).await;
        }
        self.push_manifest(repository, tag, &parts.manifest).await;
    }

    async fn push_blob(&self, repository: &str, blob: Bytes) {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.send("POST", &path, "", Bytes::new()).await;
        let place = begun.header("location");
        let place = place.strip_prefix(&self.endpoint.url("")).unwrap_or(place);
        let joint = if place.contains('?') { '&' } else { '?' };
        let path = format!("{place}{joint}digest={}", digest(&blob));
        self.send("PUT", &path, "application/octet-stream", blob)
            .await;
    }

    /// Pushes any manifest, of which the parts are there.
    pub(crate) async fn push_manifest(&self, repository: &str, tag: &str, manifest: &[u8]) {
        let value: Value = serde_json::from_slice(manifest).unwrap();
        let kind = value["mediaType"].as_str().unwrap();
        let path = format!("/v2/{repository}/manifests/{tag}");
        self.send("PUT", &path, kind, Bytes::copy_from_slice(manifest))
            .await;
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> bugle_testkit::Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.header("content-type", kind).body(body).unwrap();
        let answer = self.endpoint.send(request).await.unwrap();
        assert!(answer.status < 300, "{method} {path}: {}", answer.text());
        answer
    }
}

async fn passwords(path: &Path) {
    let (name, password) = LOGIN;
    let made = Command::new("htpasswd")
        .args(["-cbB"])
        .arg(path)
        .args([name, password])
        .output()
        .await
        .expect("the Debian package apache2-utils is installed");
    assert!(made.status.success(), "{made:?}");
}

/// An index of images for several kinds of machines.
pub(crate) fn index(images: &[(&str, &Image)]) -> Vec<u8> {
    let entries: Vec<_> = images
        .iter()
        .map(|(architecture, image)| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": image.digest(), "size": image.manifest.len(),
                "platform": {"os": "linux", "architecture": architecture},
            })
        })
        .collect();
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    index.to_string().into_bytes()
}
