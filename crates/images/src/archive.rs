//! Images in files: what `docker save`, `skopeo copy`, `podman save` and `buildah` write.
//!
//! A `docker-archive` is a tar file with a `manifest.json`, an `oci-archive` one with an
//! `index.json`; newer tools write files that are both. The file's table of contents is read first,
//! then its parts where they lie; layers stream from the file like from a registry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use serde::Deserialize;

use crate::document::{self, Configuration, Document, LARGEST, Manifest, Platform};
use crate::layer::tape::{Kind, Tape, TapeError};
use crate::{Digest, ImageError, Reference};

/// The most files that an archive may have: some for each layer of some images.
const MOST_FILES: usize = 20_000;

/// The longest name of a file of an archive: a digest in a folder or two.
const LONGEST_NAME: usize = 512;

/// How deep an index may lie in an index.
const DEEPEST_INDEX: usize = 3;

/// A part of the file.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    file: Arc<File>,
    offset: u64,
    pub(crate) length: u64,
}

impl Section {
    /// Reads it from its beginning.
    pub(crate) fn read(&self) -> SectionReader {
        SectionReader {
            section: self.clone(),
            at: 0,
        }
    }

    /// All of a small one.
    fn bytes(&self, what: &str) -> Result<Vec<u8>, ImageError> {
        if self.length > LARGEST {
            let reason = format!("it is larger than {LARGEST} bytes");
            return Err(ImageError::malformed(what, reason));
        }
        let mut bytes = Vec::new();
        let read = self.read().read_to_end(&mut bytes);
        read.map_err(|error| ImageError::malformed(what, error.to_string()))?;
        Ok(bytes)
    }
}

/// Reads a section, wherever others read in the same file.
#[derive(Debug)]
pub(crate) struct SectionReader {
    section: Section,
    at: u64,
}

impl Read for SectionReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.section.length - self.at;
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let offset = self.section.offset + self.at;
        let length = self.section.file.read_at(&mut buffer[..most], offset)?;
        if length == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += length as u64;
        Ok(length)
    }
}

/// An image of an archive.
#[derive(Debug)]
pub(crate) struct ArchivedImage {
    /// What the archive calls it.
    pub(crate) names: Vec<Reference>,
    /// Of its manifest, or of its configuration where there is no manifest.
    pub(crate) digest: Digest,
    pub(crate) configuration: Configuration,
    /// Lowest first, each with the digest of its blob where that is known.
    pub(crate) layers: Vec<(Section, Option<Digest>)>,
}

/// The images of an archive that are for this machine.
pub(crate) fn images(file: File, machine: &Platform) -> Result<Vec<ArchivedImage>, ImageError> {
    let contents = Contents::read(file)?;
    let images = if contents.files.contains_key("manifest.json") {
        contents.docker(machine)?
    } else if contents.files.contains_key("index.json") {
        contents.oci(machine)?
    } else {
        return Err(malformed(
            "it has neither manifest.json nor index.json, so it is no docker-archive and no \
             oci-archive",
        ));
    };
    if images.is_empty() {
        return Err(malformed("it has no image"));
    }
    Ok(images)
}

fn malformed(reason: impl Into<String>) -> ImageError {
    ImageError::malformed("the archive", reason)
}

/// Where each file of an archive lies.
struct Contents {
    files: BTreeMap<String, Section>,
    /// Old archives link layers that are alike.
    links: BTreeMap<String, String>,
}

/// One image in a `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Contents {
    fn read(mut file: File) -> Result<Self, ImageError> {
        let wrong = |error: TapeError| malformed(error.to_string());
        let start = file.seek(SeekFrom::Start(0));
        start.map_err(|error| malformed(error.to_string()))?;
        let shared = file.try_clone().map(Arc::new);
        let shared = shared.map_err(|error| malformed(error.to_string()))?;
        let length = shared.metadata().map_or(0, |entry| entry.len());
        let mut tape = Tape::new(BufReader::new(file));
        let mut contents = Self {
            files: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        while let Some(head) = tape.next().map_err(wrong)? {
            if contents.files.len() + contents.links.len() >= MOST_FILES {
                return Err(malformed(format!("it has more than {MOST_FILES} files")));
            }
            let Ok(path) = String::from_utf8(head.path) else {
                continue;
            };
            let path = path.trim_start_matches("./").to_owned();
            if path.len() > LONGEST_NAME || head.link.len() > LONGEST_NAME {
                let reason = format!("a file of it has a name of more than {LONGEST_NAME} bytes");
                return Err(malformed(reason));
            }
            match head.kind {
                Kind::File => {
                    let offset = tape.position();
                    if head.size > length.saturating_sub(offset) {
                        return Err(malformed("it ends too early"));
                    }
                    let section = Section {
                        file: Arc::clone(&shared),
                        offset,
                        length: head.size,
                    };
                    contents.files.insert(path, section);
                }
                Kind::Symlink | Kind::HardLink => {
                    let link = String::from_utf8_lossy(&head.link).into_owned();
                    contents.links.insert(path, link);
                }
                Kind::Directory | Kind::Pipe | Kind::Device => {}
            }
        }
        Ok(contents)
    }

    fn section(&self, path: &str) -> Result<&Section, ImageError> {
        let linked = || {
            // `../ID/layer.tar`, from the folder of another layer.
            let target = self.links.get(path)?.trim_start_matches("../");
            self.files.get(target)
        };
        let found = self.files.get(path).or_else(linked);
        found.ok_or_else(|| malformed(format!("it does not have {path:?}, which it names")))
    }

    /// The blob with this digest; its bytes are verified where they are used.
    fn blob(&self, digest: Digest) -> Result<&Section, ImageError> {
        self.section(&format!("blobs/sha256/{}", digest.hex()))
    }

    /// A small blob, verified.
    fn document(&self, digest: Digest, what: &str) -> Result<Vec<u8>, ImageError> {
        let bytes = self.blob(digest)?.bytes(what)?;
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(ImageError::Digest {
                what: what.to_owned(),
                expected: digest,
                found,
            });
        }
        Ok(bytes)
    }

    fn docker(&self, machine: &Platform) -> Result<Vec<ArchivedImage>, ImageError> {
        let bytes = self.section("manifest.json")?.bytes("manifest.json")?;
        let saved: Vec<Saved> = serde_json::from_slice(&bytes)
            .map_err(|error| document::unreadable("manifest.json", &error))?;
        let image = |saved: Saved| {
            let bytes = self.section(&saved.config)?.bytes("the configuration")?;
            let sections = saved.layers.iter().map(|path| self.section(path));
            let layers: Result<Vec<_>, _> = sections
                .map(|section| Ok((section?.clone(), None)))
                .collect();
            let names = saved.repo_tags.unwrap_or_default();
            Ok(ArchivedImage {
                names: names
                    .iter()
                    .map(|name| name.parse())
                    .collect::<Result<_, _>>()?,
                digest: Digest::of(&bytes),
                configuration: Configuration::parse(&bytes, machine)?,
                layers: layers?,
            })
        };
        saved.into_iter().map(image).collect()
    }

    fn oci(&self, machine: &Platform) -> Result<Vec<ArchivedImage>, ImageError> {
        let bytes = self.section("index.json")?.bytes("index.json")?;
        let Document::Index(entries) = Document::parse(&bytes)? else {
            return Err(malformed("its index.json is no index"));
        };
        // Images by name; what has none is meant as one image for several machines.
        let (named, nameless): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|one| one.name().is_some());
        let mut images = Vec::new();
        for entry in &named {
            // A bare tag says nothing of whose it is.
            let names = entry.name().filter(|name| name.contains([':', '/']));
            let names = names.map(str::parse).transpose()?.into_iter().collect();
            images.push(self.oci_image(entry.digest, names, machine)?);
        }
        if !nameless.is_empty() {
            let chosen = document::choose(&nameless, machine)?;
            images.push(self.oci_image(chosen.digest, Vec::new(), machine)?);
        }
        Ok(images)
    }

    fn oci_image(
        &self,
        digest: Digest,
        names: Vec<Reference>,
        machine: &Platform,
    ) -> Result<ArchivedImage, ImageError> {
        let manifest = self.manifest(digest, machine, DEEPEST_INDEX)?;
        let bytes = self.document(manifest.config.digest, "the configuration")?;
        let sections = manifest.layers.iter().map(|layer| {
            let section = self.blob(layer.digest)?;
            if section.length != layer.size {
                return Err(ImageError::Length {
                    what: format!("blob {}", layer.digest),
                    declared: layer.size,
                });
            }
            Ok((section.clone(), Some(layer.digest)))
        });
        let layers: Result<_, _> = sections.collect();
        Ok(ArchivedImage {
            names,
            digest,
            configuration: Configuration::parse(&bytes, machine)?,
            layers: layers?,
        })
    }

    fn manifest(
        &self,
        digest: Digest,
        machine: &Platform,
        depth: usize,
    ) -> Result<Manifest, ImageError> {
        match Document::parse(&self.document(digest, "the manifest")?)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) if depth == 0 => {
                Err(malformed("an index of it lies too deep in another"))
            }
            Document::Index(entries) => {
                let chosen = document::choose(&entries, machine)?;
                self.manifest(chosen.digest, machine, depth - 1)
            }
        }
    }
}
