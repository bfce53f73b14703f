//! The JSON documents of an image: index, manifest, configuration.
//!
//! Both families are read, Docker's and OCI's, which differ in names of media types only. A document
//! is small: what is larger than [`LARGEST`] is refused before it is parsed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, ImageError};

/// The largest manifest, index or configuration: what registries accept at most.
pub(crate) const LARGEST: u64 = 4 << 20;

/// The most layers that an image may have; overlayfs takes 500.
const MOST_LAYERS: usize = 500;

/// Annotations of an index that name an image: the tag, or the whole reference.
const REFERENCE_NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// What a document refers to.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Descriptor {
    #[serde(default, rename = "mediaType")]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The name that whoever wrote the index gave the image.
    pub(crate) fn name(&self) -> Option<&str> {
        REFERENCE_NAMES
            .iter()
            .find_map(|key| self.annotations.get(*key).map(String::as_str))
    }
}

/// The machines that an image is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

impl Platform {
    /// This machine.
    pub(crate) fn here() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "x86" => ("386", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Whether an image for `self` runs on `machine`; nothing in `self` means anything.
    fn runs_on(&self, machine: &Self) -> bool {
        let same = |mine: &str, theirs: &str| mine.is_empty() || mine == theirs;
        // Newer variants run older programs, and `v8` is often left out; the exact one is preferred
        // where several fit.
        same(&self.os, &machine.os) && same(&self.architecture, &machine.architecture)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |text: &str| {
            if text.is_empty() {
                "?".to_owned()
            } else {
                text.to_owned()
            }
        };
        write!(f, "{}/{}", or(&self.os), or(&self.architecture))?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

/// A document that a registry gives for a tag or a digest.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// The manifest of one image for one kind of machine.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Wire {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads a document by what it has; the media types that registries declare are not reliable.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let what = "the manifest";
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| unreadable(what, &error))?;
        match (wire.manifests, wire.config, wire.layers) {
            (Some(manifests), None, None) => Ok(Self::Index(manifests)),
            (None, Some(config), Some(layers)) => {
                let manifest = Manifest { config, layers };
                manifest.check()?;
                Ok(Self::Manifest(manifest))
            }
            (None, None, None) => Err(ImageError::malformed(
                what,
                "it has neither layers nor manifests; images of schema 1 have to be pushed again by \
                 a newer tool",
            )),
            _ => Err(ImageError::malformed(
                what,
                "it is an index and a manifest at once",
            )),
        }
    }
}

/// Says where a document is wrong, and nothing of what it says there: it may not be the image's.
pub(crate) fn unreadable(what: &str, error: &serde_json::Error) -> ImageError {
    let (line, column) = (error.line(), error.column());
    let reason = format!("it has not the form that it should, at line {line} column {column}");
    ImageError::malformed(what, reason)
}

impl Manifest {
    fn check(&self) -> Result<(), ImageError> {
        if self.layers.len() > MOST_LAYERS {
            let reason = format!("it has more than {MOST_LAYERS} layers");
            return Err(ImageError::malformed("the manifest", reason));
        }
        if self.config.size > LARGEST {
            let reason = format!("its configuration is larger than {LARGEST} bytes");
            return Err(ImageError::malformed("the manifest", reason));
        }
        match self
            .layers
            .iter()
            .find(|layer| !is_layer(&layer.media_type))
        {
            None => Ok(()),
            Some(layer) => {
                let kind: String = layer.media_type.chars().take(100).collect();
                let reason = format!("a layer is of the kind {kind:?}, which is no file system");
                Err(ImageError::malformed("the manifest", reason))
            }
        }
    }
}

/// A tar stream, compressed in any way; an image may also hold charts, signatures and other things.
fn is_layer(media_type: &str) -> bool {
    media_type.is_empty()
        || media_type.contains(".image.layer.")
        || media_type.contains(".image.rootfs.")
}

/// The manifest of an index that is for this machine.
pub(crate) fn choose(
    manifests: &[Descriptor],
    machine: &Platform,
) -> Result<Descriptor, ImageError> {
    let mut fitting: Vec<_> = manifests
        .iter()
        // Attestations are listed as images for `unknown/unknown`.
        .filter(|one| {
            one.platform
                .as_ref()
                .is_none_or(|platform| platform.runs_on(machine))
        })
        .collect();
    // Stable: of those that fit equally the first is meant.
    fitting.sort_by_key(|one| match &one.platform {
        Some(platform) if platform.variant == machine.variant => 0,
        Some(Platform { variant: None, .. }) => 1,
        Some(_) => 2,
        None => 3,
    });
    fitting.first().map(|one| (*one).clone()).ok_or_else(|| {
        let mut offered: Vec<_> = manifests
            .iter()
            .filter_map(|one| one.platform.as_ref())
            .filter(|platform| platform.os != "unknown")
            .map(ToString::to_string)
            .take(20)
            .collect();
        offered.dedup();
        ImageError::Platform {
            wanted: machine.to_string(),
            offered: if offered.is_empty() {
                "no machine at all".to_owned()
            } else {
                offered.join(", ")
            },
        }
    })
}

/// What an image says of how it wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The arguments that follow, or the program where there is no entrypoint.
    pub cmd: Vec<String>,
    /// The environment, in order.
    pub env: Vec<(String, String)>,
    /// The folder to run in.
    pub working_dir: Option<String>,
    /// The user to run as, as the image spells it.
    pub user: Option<String>,
    /// The signal that asks it to stop, by name or number.
    pub stop_signal: Option<String>,
}

/// What a configuration document tells us.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) run: ImageConfig,
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct WireConfiguration {
    #[serde(flatten)]
    platform: Platform,
    config: Option<WireRun>,
    rootfs: WireRootfs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WireRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct WireRootfs {
    diff_ids: Vec<Digest>,
}

impl Configuration {
    /// Reads a configuration; one for other machines is an error.
    pub(crate) fn parse(bytes: &[u8], machine: &Platform) -> Result<Self, ImageError> {
        let wire: WireConfiguration = serde_json::from_slice(bytes)
            .map_err(|error| unreadable("the configuration", &error))?;
        if !wire.platform.runs_on(machine) {
            return Err(ImageError::Platform {
                wanted: machine.to_string(),
                offered: wire.platform.to_string(),
            });
        }
        if wire.rootfs.diff_ids.len() > MOST_LAYERS {
            let reason = format!("it has more than {MOST_LAYERS} layers");
            return Err(ImageError::malformed("the configuration", reason));
        }
        let run = wire.config.unwrap_or_default();
        let present = |text: Option<String>| text.filter(|text| !text.is_empty());
        let variable = |text: &String| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (text.clone(), String::new()),
        };
        Ok(Self {
            run: ImageConfig {
                entrypoint: run.entrypoint.unwrap_or_default(),
                cmd: run.cmd.unwrap_or_default(),
                env: run.env.unwrap_or_default().iter().map(variable).collect(),
                working_dir: present(run.working_dir),
                user: present(run.user),
                stop_signal: present(run.stop_signal),
            },
            diff_ids: wire.rootfs.diff_ids,
        })
    }

    /// The digest of each of these layers after inflation.
    pub(crate) fn paired<'a, T>(
        &self,
        layers: &'a [T],
    ) -> Result<Vec<(Digest, &'a T)>, ImageError> {
        if layers.len() != self.diff_ids.len() {
            let (layers, ids) = (layers.len(), self.diff_ids.len());
            let reason = format!("it names {ids} layers and the manifest {layers}");
            return Err(ImageError::malformed("the configuration", reason));
        }
        Ok(self.diff_ids.iter().copied().zip(layers).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn amd64() -> Platform {
        Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            variant: None,
        }
    }

    fn entry(number: u8, os: &str, architecture: &str, variant: Option<&str>) -> Descriptor {
        let platform = json!({"os": os, "architecture": architecture, "variant": variant});
        serde_json::from_value(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(&[number]), "size": 7, "platform": platform,
        }))
        .unwrap()
    }

    #[test]
    fn the_manifest_for_this_machine_is_chosen() {
        let index = [
            entry(1, "linux", "arm64", Some("v8")),
            entry(2, "windows", "amd64", None),
            entry(3, "linux", "amd64", Some("v3")),
            entry(4, "linux", "amd64", None),
            entry(5, "unknown", "unknown", None),
        ];
        assert_eq!(choose(&index, &amd64()).unwrap().digest, Digest::of(&[4]));
        let error = choose(&index[..1], &amd64()).unwrap_err().to_string();
        assert!(
            error.contains("linux/arm64/v8") && error.contains("linux/amd64"),
            "{error}"
        );
    }

    #[test]
    fn a_configuration_for_another_machine_is_refused_naming_both() {
        let text = json!({"os": "linux", "architecture": "s390x", "rootfs": {"diff_ids": []}});
        let error = Configuration::parse(text.to_string().as_bytes(), &amd64()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("for linux/s390x, and this machine is linux/amd64")
        );
    }

    #[test]
    fn what_the_image_says_of_running_is_kept() {
        let text = json!({
            "architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []},
            "config": {"Entrypoint": ["/app"], "Cmd": null, "Env": ["A=1=2", "B"], "User": "",
                "WorkingDir": "/srv", "StopSignal": "SIGINT"},
        });
        let run = Configuration::parse(text.to_string().as_bytes(), &amd64())
            .unwrap()
            .run;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            run,
            ImageConfig {
                entrypoint: vec!["/app".to_owned()],
                cmd: vec![],
                env: vec![pair("A", "1=2"), pair("B", "")],
                working_dir: Some("/srv".to_owned()),
                user: None,
                stop_signal: Some("SIGINT".to_owned()),
            }
        );
    }

    #[test]
    fn documents_that_are_no_images_are_refused() {
        let digest = Digest::of(b"");
        let chart = json!({"digest": digest, "size": 1,
            "mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip"});
        let config = json!({"digest": digest, "size": 1});
        let huge = json!({"digest": digest, "size": LARGEST + 1});
        for document in [
            json!({}),
            json!({"schemaVersion": 1, "fsLayers": []}),
            json!({"manifests": [], "config": config, "layers": []}),
            json!({"config": config, "layers": [chart]}),
            json!({"config": huge, "layers": []}),
            json!({"config": config, "layers": vec![json!({"digest": digest, "size": 1}); 501]}),
            json!({"config": {"digest": "sha256:../..", "size": 1}, "layers": []}),
            json!({"config": {"digest": digest, "size": -1}, "layers": []}),
        ] {
            assert!(
                Document::parse(document.to_string().as_bytes()).is_err(),
                "{document}"
            );
        }
        assert!(Document::parse(b"<html>").is_err());
        assert!(Document::parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
