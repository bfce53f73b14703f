//! References of images: `host[:port]/path[:tag][@digest]`.
//!
//! A short name is one of the public registry `docker.io`, and a name of one part there lies in
//! `library`; this is how people write them. What comes out of the parser is complete, and no part of
//! it can change the meaning of a URL or a path that it is put into.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, ImageError};

/// The registry of names that name none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// What the longest name of a repository may have, by the distribution specification.
const LONGEST_NAME: usize = 255;

/// What the longest tag may have, by the distribution specification.
const LONGEST_TAG: usize = 128;

/// A complete reference of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host, with its port where one is given.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path below the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` where neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where the reference is pinned.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What the store calls it: by its digest where there is one, else by its tag.
    pub(crate) fn name(&self) -> String {
        let Self {
            registry,
            repository,
            tag,
            digest,
        } = self;
        match (digest, tag) {
            (Some(digest), _) => format!("{registry}/{repository}@{digest}"),
            (None, Some(tag)) => format!("{registry}/{repository}:{tag}"),
            (None, None) => format!("{registry}/{repository}"),
        }
    }

    /// The same repository at one digest.
    pub(crate) fn at(&self, digest: Digest) -> Self {
        Self {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            tag: None,
            digest: Some(digest),
        }
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        parse(text).map_err(|reason| ImageError::Reference {
            text: text.chars().take(300).collect(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.contains("://") {
        return Err("it begins with a scheme, which a reference does not have");
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => {
            let digest = digest
                .parse()
                .map_err(|_| "its digest is not sha256: and 64 hexadecimal digits")?;
            (name, Some(digest))
        }
        None => (text, None),
    };
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if is_host(host) => (host, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    let (path, tag) = match path.rsplit_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("its tag has other characters than letters, digits, `_`, `.` and `-`");
    }
    let registry = checked_host(host)?;
    let repository = match path {
        path if registry == DEFAULT_REGISTRY && !path.contains('/') => format!("library/{path}"),
        path => path.to_owned(),
    };
    if repository.len() > LONGEST_NAME {
        return Err("its name is longer than 255 characters");
    }
    if !repository.split('/').all(is_component) {
        return Err(
            "its path is not made of parts of small letters and digits, separated by `/`, `.`, `_` \
             or `-`",
        );
    }
    let tag = match (tag, digest) {
        (None, None) => Some("latest"),
        (tag, _) => tag,
    };
    Ok(Reference {
        registry,
        repository,
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// Whether the first part of a name is a host: names of the public registry have no dot, no port
/// and no capital letters before their first slash.
fn is_host(part: &str) -> bool {
    part == "localhost"
        || part.contains(['.', ':'])
        || part.contains(|letter: char| letter.is_ascii_uppercase())
}

fn checked_host(host: &str) -> Result<String, &'static str> {
    let wrong = "its host is not a name or an address, with a port where it needs one";
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(wrong)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong)?;
            match port {
                "" => (None, None),
                port => (None, Some(port.strip_prefix(':').ok_or(wrong)?)),
            }
        }
        None => match host.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(host), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if name.is_some_and(|name| name.len() > 253 || !name.split('.').all(label)) {
        return Err(wrong);
    }
    let number = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n > 0)
    };
    if port.is_some_and(|port| !number(port)) {
        return Err(wrong);
    }
    let host = host.to_ascii_lowercase();
    Ok(match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
        _ => host,
    })
}

/// `[a-z0-9]+` separated by one of `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let mut at = 0;
    loop {
        let run = bytes[at..]
            .iter()
            .take_while(|byte| alphanumeric(**byte))
            .count();
        if run == 0 {
            return false;
        }
        at += run;
        let rest = &bytes[at..];
        at += match rest {
            [] => return true,
            [b'_', b'_', ..] => 2,
            [b'.' | b'_', ..] => 1,
            [b'-', ..] => rest.iter().take_while(|byte| **byte == b'-').count(),
            _ => return false,
        };
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(word)
        && tag
            .bytes()
            .all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn canonical(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn short_names_are_of_the_public_registry() {
        assert_eq!(canonical("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(canonical("nginx:1.27"), "docker.io/library/nginx:1.27");
        assert_eq!(canonical("a/b"), "docker.io/a/b:latest");
        assert_eq!(
            canonical("index.docker.io/nginx"),
            "docker.io/library/nginx:latest"
        );
    }

    #[test]
    fn hosts_ports_tags_and_digests_are_told_apart() {
        assert_eq!(canonical("localhost/app"), "localhost/app:latest");
        assert_eq!(canonical("localhost:5000/app"), "localhost:5000/app:latest");
        assert_eq!(
            canonical("Swr.Example.com/g/app:V1"),
            "swr.example.com/g/app:V1"
        );
        assert_eq!(canonical("[::1]:5000/app:1"), "[::1]:5000/app:1");
        assert_eq!(
            canonical(&format!("10.0.0.1:80/a/b__c/d--e:x@sha256:{HEX}")),
            format!("10.0.0.1:80/a/b__c/d--e:x@sha256:{HEX}")
        );
        assert_eq!(
            canonical(&format!("example.com/a@sha256:{HEX}")),
            format!("example.com/a@sha256:{HEX}")
        );
    }

    #[test]
    fn what_is_no_reference_is_refused_with_its_reason() {
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "A",
            "a//b",
            "a:b:c",
            "a b",
            "a@b",
            "a@sha256:00",
            "a:-x",
            "https://example.com/a",
            "example.com/",
            "example.com/A",
            "-x.com/a",
            "example.com:0/a",
            "example.com:65536/a",
            "example.com:+1/a",
            "example.com/../a",
            "example.com/a?b",
            "example.com/a#b",
            "u@example.com/a",
            "[::1/a",
            "[::1]x/a",
            "example..com/a",
            "a\r\nb",
            "example.com/a___b",
            "example.com/.a",
            "a:",
            "x.com:y/a",
            "ex\u{e4}mple.com/a",
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(
                error.contains("is not an image reference"),
                "{text:?}: {error}"
            );
        }
        assert!("a".repeat(248).parse::<Reference>().is_err());
        assert!(
            format!("a:{}", "t".repeat(129))
                .parse::<Reference>()
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn a_reference_is_what_its_text_says(
            host in "[a-z]{1,8}\\.[a-z]{2,5}(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,5}(/[a-z0-9]{1,4}([._-][a-z0-9]{1,3})?){0,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}",
        ) {
            let text = format!("{host}/{path}:{tag}");
            let reference: Reference = text.parse().unwrap();
            prop_assert_eq!(reference.to_string(), text);
            prop_assert_eq!(reference.tag(), Some(tag.as_str()));
        }

        #[test]
        fn no_text_breaks_the_parser(text in ".{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
