//! One entry of the operator's list.

use std::net::IpAddr;
use std::str::FromStr;

use super::Target;
use super::special;

/// An entry of `addresses.allowed` that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is not an address; write a network (10.1.0.0/16), an address (192.168.1.5, \
     [fd00::5]), a name (minio.internal) or all below it (*.internal), each with :port or without, http:// in front to allow \
     unencrypted connections"
)]
pub struct RuleError {
    text: String,
}

/// What the operator allows beside the public addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    place: Place,
    /// Nothing stands for any port.
    port: Option<u16>,
    plain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Network(IpAddr, u32),
    /// Wherever it is: the operator trusts whoever runs the name.
    Host(String),
    /// Any name below this one.
    Below(String),
}

impl Rule {
    /// Whether it is about this target, which was found at this (unwrapped) address.
    pub(super) fn covers(&self, target: &Target, address: IpAddr) -> bool {
        let place = match &self.place {
            Place::Network(network, bits) => special::contains(*network, *bits, address),
            Place::Host(host) => *host == target.host,
            Place::Below(domain) => target
                .host
                .strip_suffix(domain.as_str())
                .is_some_and(|name| name.len() > 1 && name.ends_with('.')),
        };
        place && self.port.is_none_or(|port| port == target.port)
    }

    pub(super) fn allows_plain(&self) -> bool {
        self.plain
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let error = || RuleError {
            text: text.to_owned(),
        };
        let (rest, plain) = match text.strip_prefix("http://") {
            Some(rest) => (rest, true),
            None => (text.strip_prefix("https://").unwrap_or(text), false),
        };
        let (place, port) = split_port(rest).ok_or_else(error)?;
        Ok(Self {
            place: place.parse().map_err(|()| error())?,
            port,
            plain,
        })
    }
}

/// The place and the port. An IPv6 address has brackets where a port follows.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(inner) = text.strip_prefix('[') {
        let (place, rest) = inner.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((place, Some(port.parse().ok()?))),
            None => rest.is_empty().then_some((place, None)),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Some((text, None)),
        Some((place, port)) => Some((place, Some(port.parse().ok()?))),
        None => Some((text, None)),
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::network(address, u32::MAX));
        }
        if let Some((network, bits)) = text.split_once('/') {
            let network: IpAddr = network.parse().map_err(|_| ())?;
            let bits = bits.parse().map_err(|_| ())?;
            let most = if network.is_ipv4() { 32 } else { 128 };
            return if bits <= most {
                Ok(Self::network(network, bits))
            } else {
                Err(())
            };
        }
        let (text, is_below) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        // What is made of numbers alone is an address that somebody got wrong.
        let name = text.bytes().all(of_name) && text.bytes().any(|byte| byte.is_ascii_alphabetic());
        if !name {
            return Err(());
        }
        let name = text.to_ascii_lowercase();
        Ok(if is_below {
            Self::Below(name)
        } else {
            Self::Host(name)
        })
    }
}

impl Place {
    fn network(address: IpAddr, bits: u32) -> Self {
        let bits = bits.min(if address.is_ipv4() { 32 } else { 128 });
        Self::Network(address, bits)
    }
}
