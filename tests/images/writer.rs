//! Writes images as tools do: layers as tar streams, and what describes them.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// How a layer travels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packed {
    Gzip,
    Zstd,
}

/// A layer under construction.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", data)
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    /// Any entry, also such that no tool writes.
    pub(crate) fn entry(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let fields = header.as_old_mut();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// An image whose parts are ready to be sent anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Each layer, inflated and packed, lowest first.
    layers: Vec<(Vec<u8>, Vec<u8>)>,
    config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut digest = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        write!(digest, "{byte:02x}").unwrap();
    }
    digest
}

/// What images call this machine.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Image {
    pub(crate) fn new(layers: Vec<Layer>, packed: Packed) -> Self {
        Self::of(architecture(), layers, packed)
    }

    /// For machines of another kind.
    pub(crate) fn of(architecture: &str, layers: Vec<Layer>, packed: Packed) -> Self {
        let layers: Vec<_> = layers.into_iter().map(Layer::tar).collect();
        let ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/app"]},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = config.to_string().into_bytes();
        let kind = match packed {
            Packed::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Packed::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        let layers: Vec<_> = layers
            .into_iter()
            .map(|layer| {
                let blob = pack(&layer, packed);
                (layer, blob)
            })
            .collect();
        let described: Vec<_> = layers
            .iter()
            .map(|(_, blob)| descriptor(kind, blob))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": described,
        });
        Self {
            layers,
            config,
            manifest: manifest.to_string().into_bytes(),
        }
    }

    pub(crate) fn digest(&self) -> String {
        digest(&self.manifest)
    }

    pub(crate) fn manifest(&self) -> Bytes {
        Bytes::copy_from_slice(&self.manifest)
    }

    /// All that a manifest refers to.
    pub(crate) fn blobs(&self) -> Vec<Bytes> {
        let layers = self.layers.iter().map(|(_, blob)| blob);
        layers
            .chain([&self.config])
            .map(|blob| Bytes::copy_from_slice(blob))
            .collect()
    }

    /// What `docker save` writes.
    pub(crate) fn docker_archive(&self, name: &str) -> Vec<u8> {
        let paths: Vec<_> = (0..self.layers.len())
            .map(|n| format!("{n}/layer.tar"))
            .collect();
        let manifest = json!([{"Config": "c.json", "RepoTags": [name], "Layers": paths}]);
        let mut archive = Layer::new()
            .file("manifest.json", manifest.to_string().as_bytes())
            .file("c.json", &self.config);
        for (path, (layer, _)) in paths.iter().zip(&self.layers) {
            archive = archive.file(path, layer);
        }
        archive.tar()
    }

    /// What `skopeo copy` writes to an `oci-archive:`.
    pub(crate) fn oci_archive(&self, name: &str) -> Vec<u8> {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &self.manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        let path = |blob: &[u8]| digest(blob).replace("sha256:", "blobs/sha256/");
        let mut archive = Layer::new()
            .file("index.json", index.as_bytes())
            .file(&path(&self.manifest), &self.manifest);
        for blob in self.blobs() {
            archive = archive.file(&path(&blob), &blob);
        }
        archive.tar()
    }
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

fn pack(bytes: &[u8], packed: Packed) -> Vec<u8> {
    match packed {
        Packed::Gzip => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::read::GzEncoder::new(bytes, level);
            let mut blob = Vec::new();
            std::io::copy(&mut encoder, &mut blob).unwrap();
            blob
        }
        Packed::Zstd => zstd::stream::encode_all(bytes, 3).unwrap(),
    }
}
