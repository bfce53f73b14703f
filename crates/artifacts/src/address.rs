//! Which addresses the platform connects to on behalf of those who may not choose freely.
//!
//! A function names the store that its package is in, or the registry of its image; the platform
//! then connects from inside the operator's network. So that nobody reaches through it what he
//! could not reach himself, a name is resolved once, every address that it has is checked, and the
//! connection goes to an address that was checked: a name that changes its mind between the check
//! and the connection gains nothing. Addresses of the machine, of private networks and of the
//! cloud's metadata are refused unless the operator lists them.
//!
//! [`Policy`] decides, [`Connector`] carries it out below any HTTP client of hyper, [`client()`] is
//! such a client with TLS. None of them follows a redirect; who does so asks again with the new
//! address, and the same rules meet it.

mod client;
mod connect;
mod rule;
mod special;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use serde::{Deserialize, Serialize};

pub use client::{CertificateError, Client, Secured, client};
pub use connect::{ConnectError, Connector};
use rule::Rule;
pub use rule::RuleError;

/// Ports below this belong to the system's services; without a rule only that of HTTPS is reached.
const FIRST_FREE_PORT: u16 = 1024;

/// How long a name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(5);

/// Where the platform connects when a function, or somebody who pulls an image, names the address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses beside the public ones: `10.1.0.0/16`, `192.168.1.5`, `[fd00::5]`, `minio.internal`,
    /// `*.internal`, each optionally with a port (`minio.internal:9000`). With `http://` in front, unencrypted
    /// connections are allowed as well.
    pub allowed: Vec<String>,
    /// A file of PEM certificates that are trusted beside those of the system; empty for none.
    pub ca_file: std::path::PathBuf,
    /// How long a connection may take to be established, in seconds.
    pub connect_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allowed: Vec::new(),
            ca_file: std::path::PathBuf::new(),
            connect_seconds: 10,
        }
    }
}

/// What somebody wants to connect to, not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
}

/// Why an address is not connected to. The text never has anything of what the other side sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Neither `http` nor `https`, a user name inside, or no host.
    #[error(
        "{url:?} is not an address that can be used; give https://host[:port] without a user name"
    )]
    Malformed {
        /// What was given, shortened.
        url: String,
    },
    /// An address that only an operator can open.
    #[error(
        "{host} is at {address}, {what}; the operator of the platform can allow it with \
         addresses.allowed"
    )]
    Special {
        /// What was asked for.
        host: String,
        /// Where it is.
        address: IpAddr,
        /// What is there.
        what: &'static str,
    },
    /// A connection without encryption.
    #[error(
        "http://{host}:{port} is not encrypted; use https, or let the operator of the platform \
         allow it with \"http://{host}:{port}\" in addresses.allowed"
    )]
    Unencrypted {
        /// What was asked for.
        host: String,
        /// The port.
        port: u16,
    },
    /// A port of a system's service.
    #[error(
        "port {port} of {host} is not one of a web service; the operator of the platform can \
         allow it with \"{host}:{port}\" in addresses.allowed"
    )]
    Port {
        /// What was asked for.
        host: String,
        /// The port.
        port: u16,
    },
    /// The name has no address.
    #[error("the name {host} cannot be resolved")]
    Unresolved {
        /// The name.
        host: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Refused {
    /// The same refusal once more, for somebody else.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Malformed { url } => Self::Malformed { url: url.clone() },
            Self::Special {
                host,
                address,
                what,
            } => Self::Special {
                host: host.clone(),
                address: *address,
                what,
            },
            Self::Unencrypted { host, port } => Self::Unencrypted {
                host: host.clone(),
                port: *port,
            },
            Self::Port { host, port } => Self::Port {
                host: host.clone(),
                port: *port,
            },
            Self::Unresolved { host, source } => Self::Unresolved {
                host: host.clone(),
                source: std::io::Error::new(source.kind(), source.to_string()),
            },
        }
    }
}

/// An address as a target, and where it really is.
fn direct(address: SocketAddr) -> (Target, IpAddr) {
    let ip = special::unwrapped(address.ip());
    let target = Target {
        host: ip.to_string(),
        port: address.port(),
        encrypted: true,
    };
    (target, ip)
}

/// The operator's decision. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Arc<[Rule]>,
}

impl Policy {
    /// The policy of this configuration.
    ///
    /// # Errors
    ///
    /// [`RuleError`] for an entry that cannot be read.
    pub fn new(config: &Config) -> Result<Self, RuleError> {
        let rules = config.allowed.iter().map(|text| text.parse());
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// What `url` wants to connect to.
    ///
    /// # Errors
    ///
    /// [`Refused::Malformed`].
    pub fn target(url: &Uri) -> Result<Target, Refused> {
        let malformed = || Refused::Malformed {
            url: url.to_string().chars().take(200).collect(),
        };
        let encrypted = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(malformed()),
        };
        let authority = url.authority().ok_or_else(malformed)?;
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .map_or(host, |inner| inner.trim_end_matches(']'));
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(malformed());
        }
        Ok(Target {
            host: host.to_ascii_lowercase(),
            port: authority
                .port_u16()
                .unwrap_or(if encrypted { 443 } else { 80 }),
            encrypted,
        })
    }

    /// Whether `address`, at which `target` was found, may be connected to.
    ///
    /// # Errors
    ///
    /// [`Refused`] says what the operator would have to allow.
    pub fn check(&self, target: &Target, address: IpAddr) -> Result<(), Refused> {
        let address = special::unwrapped(address);
        let mut rules = self
            .rules
            .iter()
            .filter(|rule| rule.covers(target, address));
        if target.encrypted {
            if rules.next().is_some() {
                return Ok(());
            }
        } else if !rules.any(Rule::allows_plain) {
            // What the address is comes first: to allow http would not be enough.
            special::refuse(target, address)?;
            return Err(Refused::Unencrypted {
                host: target.host.clone(),
                port: target.port,
            });
        } else {
            return Ok(());
        }
        special::refuse(target, address)?;
        if target.port != 443 && target.port < FIRST_FREE_PORT {
            return Err(Refused::Port {
                host: target.host.clone(),
                port: target.port,
            });
        }
        Ok(())
    }

    /// Whether a program of a function may connect to `address` by itself: to any port of a public
    /// address, and to what the operator lists.
    ///
    /// # Errors
    ///
    /// [`Refused`] says what the operator would have to allow.
    pub fn check_direct(&self, address: SocketAddr) -> Result<(), Refused> {
        if self.lists(address) {
            return Ok(());
        }
        let (target, ip) = direct(address);
        special::refuse(&target, ip)
    }

    /// Whether the operator lists `address`.
    pub fn lists(&self, address: SocketAddr) -> bool {
        let (target, ip) = direct(address);
        self.rules.iter().any(|rule| rule.covers(&target, ip))
    }

    /// The addresses of `target`, each of them checked. One that is refused refuses all.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Refused`], also when the name cannot be resolved within 5 seconds.
    pub async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Refused> {
        let unresolved = |source| Refused::Unresolved {
            host: target.host.clone(),
            source,
        };
        let lookup = tokio::net::lookup_host((target.host.as_str(), target.port));
        let found = tokio::time::timeout(RESOLVE, lookup).await;
        let found: Vec<_> = found
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(unresolved)?
            .collect();
        if found.is_empty() {
            return Err(unresolved(std::io::ErrorKind::NotFound.into()));
        }
        for address in &found {
            self.check(target, address.ip())?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
