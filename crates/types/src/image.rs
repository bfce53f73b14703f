//! Names of container images.

use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// The name of an image, `[host[:port]/]path[:tag][@digest]`, as the OCI distribution
/// specification has it. What a name without a host or a tag stands for is the puller's business.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageReference {
    text: Box<str>,
    /// Where the digest begins in `text`, past the `@`.
    digest: Option<usize>,
}

/// Longer names are no registry's.
const LONGEST: usize = 512;

const LONGEST_TAG: usize = 128;

/// The hexadecimal digits of a SHA-256 digest.
const DIGEST_DIGITS: usize = 64;

impl ImageReference {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The digest that the name ends with, `sha256:…`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.map(|at| &self.text[at..])
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ImageReference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let is_valid =
            text.len() <= LONGEST && digest.is_none_or(is_digest) && is_name(without_tag(name));
        if is_valid && tag(name).is_none_or(is_tag) {
            return Ok(Self {
                text: text.into(),
                digest: digest.map(|digest| text.len() - digest.len()),
            });
        }
        Err(ParseError::new(
            "image",
            text,
            "host[:port]/path[:tag][@sha256:digest]",
        ))
    }
}

/// Where the tag begins, with its colon. The colon of a port is before a slash.
fn tag_start(name: &str) -> usize {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    name[last..].find(':').map_or(name.len(), |at| last + at)
}

fn without_tag(name: &str) -> &str {
    &name[..tag_start(name)]
}

fn tag(name: &str) -> Option<&str> {
    name.get(tag_start(name) + 1..)
}

fn is_tag(tag: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let bytes = tag.as_bytes();
    (1..=LONGEST_TAG).contains(&bytes.len())
        && word(bytes[0])
        && bytes.iter().all(|c| word(*c) || matches!(c, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == DIGEST_DIGITS
            && digits
                .bytes()
                .all(|c| c.is_ascii_digit() || matches!(c, b'a'..=b'f'))
    })
}

fn is_name(name: &str) -> bool {
    let path = match name.split_once('/') {
        Some((host, path)) if looks_like_host(host) => {
            if !is_host(host) {
                return false;
            }
            path
        }
        _ => name,
    };
    path.split('/').all(is_component)
}

/// What tells a host from the first component of a path.
fn looks_like_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.bytes().any(|c| c.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let inner = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    let is_bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inside| inside.parse::<std::net::Ipv6Addr>().is_ok());
    (is_bracketed || host.split('.').all(inner))
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// Lower-case letters and digits, parted by `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    word(*first)
        && word(*last)
        && bytes.split(|c| word(*c)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|c| *c == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_forms_that_registries_use_are_read() {
        for text in [
            "registry.example/team/thumb:1.4.2",
            "127.0.0.1:5000/a",
            "localhost:5000/a/b__c/d-e.f:V1_x",
            "localhost/a",
            "[::1]:5000/a:b",
            "nginx",
            "nginx:latest",
            "library/nginx",
        ] {
            assert_eq!(text.parse::<ImageReference>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_digest_is_told_apart() {
        let with = format!("r.example/a:1@{DIGEST}");
        let reference: ImageReference = with.parse().unwrap();
        assert_eq!(reference.digest(), Some(DIGEST));
        assert_eq!("a:1".parse::<ImageReference>().unwrap().digest(), None);
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = "a".repeat(LONGEST + 1);
        for text in [
            "",
            " ",
            "/a",
            "a/",
            "a//b",
            "A/b c",
            "r.example/UPPER",
            "a:",
            "a:-x",
            "a:b:c",
            "a@sha256:12",
            "a@",
            "host:0/a",
            "host:99999/a",
            "-host.x/a",
            "a..b",
            "a___b",
            "a/-b",
            "http://r.example/a",
            "a\nb",
            long.as_str(),
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text:?}");
        }
    }
}
