//! How an etcd is reached, as the operator says it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::Failure;

/// The etcd that `store.kind = "etcd"` uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdConfig {
    /// The members of the cluster, each as `http://HOST:PORT` or `https://HOST:PORT`. One that
    /// fails is passed over.
    pub endpoints: Vec<String>,
    /// The part of the etcd that is used: with `az1` every key begins with `/az1`. Empty: no such
    /// part. It is what an openYuanrong cluster calls `azPrefix`.
    pub az_prefix: String,
    /// The file with the authorities that etcd's certificate may be of; empty: those of the system.
    pub ca_file: PathBuf,
    /// The file with the client certificate that etcd asks for; empty: none.
    pub cert_file: PathBuf,
    /// The file with the key of the client certificate.
    pub key_file: PathBuf,
    /// The name that etcd's certificate is for, where it is not the endpoint's host.
    pub server_name: String,
    /// The user, where etcd wants one.
    pub user: String,
    /// The file with the user's password, alone; line ends around it do not count.
    pub password_file: PathBuf,
    /// How long a request may take, with all its attempts, in seconds.
    pub request_timeout_seconds: u64,
    /// How long a start waits for an etcd that does not answer yet, in seconds.
    pub start_timeout_seconds: u64,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            az_prefix: String::new(),
            ca_file: PathBuf::new(),
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
            server_name: String::new(),
            user: String::new(),
            password_file: PathBuf::new(),
            request_timeout_seconds: 5,
            start_timeout_seconds: 30,
        }
    }
}

/// A user and the password.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// A member must accept a connection in this time; others are asked meanwhile.
const CONNECT: Duration = Duration::from_secs(2);

/// How often a connection is asked whether it lives, and how long it may take to say so. etcd
/// refuses clients that ask more often than every five seconds.
const ALIVE_EVERY: Duration = Duration::from_secs(6);
const ALIVE_WITHIN: Duration = Duration::from_secs(3);

/// What may be on its way before it is read: the first read of everything is bound by it.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

impl EtcdConfig {
    /// What every key begins with, without the slash of the key itself.
    pub(super) fn prefix(&self) -> String {
        let name = self.az_prefix.trim_matches('/');
        if name.is_empty() {
            String::new()
        } else {
            format!("/{name}")
        }
    }

    /// The members, for messages.
    pub(super) fn shown(&self) -> String {
        self.endpoints.join(", ")
    }

    /// How long a request may take.
    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds.max(1))
    }

    /// How long a start waits.
    pub(super) fn start_timeout(&self) -> Duration {
        Duration::from_secs(self.start_timeout_seconds.max(1))
    }

    /// The login, if there is a user.
    pub(super) fn login(&self) -> Result<Option<Login>, Failure> {
        if self.user.is_empty() {
            return Ok(None);
        }
        let password = read("etcd.password_file", &self.password_file)?;
        let password = String::from_utf8(password).map_err(|_| Failure::Setting {
            key: "etcd.password_file",
            what: "it does not hold text".to_owned(),
        })?;
        Ok(Some(Login {
            user: self.user.clone(),
            password: password.trim_matches(['\r', '\n']).to_owned(),
        }))
    }

    /// The members, ready to be connected to.
    pub(super) fn members(&self) -> Result<Vec<Endpoint>, Failure> {
        if self.endpoints.is_empty() {
            return Err(Failure::Setting {
                key: "etcd.endpoints",
                what: "it names no member".to_owned(),
            });
        }
        let tls = self.tls()?;
        self.endpoints
            .iter()
            .map(|address| member(address, tls.as_ref()))
            .collect()
    }

    /// How members with `https` are met; nothing if there is none.
    fn tls(&self) -> Result<Option<ClientTlsConfig>, Failure> {
        if !self.endpoints.iter().any(|address| is_secure(address)) {
            let given = !self.ca_file.as_os_str().is_empty();
            return if given || !self.cert_file.as_os_str().is_empty() {
                Err(Failure::Setting {
                    key: "etcd.endpoints",
                    what: "there are certificates, but no endpoint begins with https://".to_owned(),
                })
            } else {
                Ok(None)
            };
        }
        let mut tls = ClientTlsConfig::new();
        tls = if self.ca_file.as_os_str().is_empty() {
            tls.with_native_roots()
        } else {
            tls.ca_certificate(Certificate::from_pem(read("etcd.ca_file", &self.ca_file)?))
        };
        if !self.cert_file.as_os_str().is_empty() {
            let certificate = read("etcd.cert_file", &self.cert_file)?;
            let key = read("etcd.key_file", &self.key_file)?;
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        if !self.server_name.is_empty() {
            tls = tls.domain_name(self.server_name.clone());
        }
        Ok(Some(tls))
    }
}

fn is_secure(address: &str) -> bool {
    address.starts_with("https://")
}

fn member(address: &str, tls: Option<&ClientTlsConfig>) -> Result<Endpoint, Failure> {
    let wrong = |what: String| Failure::Setting {
        key: "etcd.endpoints",
        what,
    };
    if !address.starts_with("http://") && !is_secure(address) {
        return Err(wrong(format!(
            "{address:?} does not begin with http:// or https://"
        )));
    }
    let member = Endpoint::from_shared(address.to_owned())
        .map_err(|error| wrong(format!("{address:?} is no address: {error}")))?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(ALIVE_EVERY)
        .keep_alive_timeout(ALIVE_WITHIN)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    match tls.filter(|_| is_secure(address)) {
        Some(tls) => member
            .tls_config(tls.clone())
            .map_err(|error| Failure::Setting {
                key: "etcd.ca_file, etcd.cert_file or etcd.key_file",
                what: super::client::chain(&error),
            }),
        None => Ok(member),
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::Setting {
        key,
        what: format!("{:?} cannot be read: {error}", path.display().to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_is_put_before_every_key_however_it_is_written() {
        for (written, prefix) in [("", ""), ("/", ""), ("az1", "/az1"), ("/az1/", "/az1")] {
            let config = EtcdConfig {
                az_prefix: written.to_owned(),
                ..EtcdConfig::default()
            };
            assert_eq!(config.prefix(), prefix, "{written:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_setting_is_said_with_its_key() {
        let told = |config: EtcdConfig| config.members().err().map(|error| error.to_string());
        let endpoints = |address: &str| EtcdConfig {
            endpoints: vec![address.to_owned()],
            ..EtcdConfig::default()
        };
        assert_eq!(told(EtcdConfig::default()), None);
        for (config, key) in [
            (endpoints("127.0.0.1:2379"), "etcd.endpoints"),
            (
                EtcdConfig {
                    endpoints: Vec::new(),
                    ..EtcdConfig::default()
                },
                "etcd.endpoints",
            ),
            (
                EtcdConfig {
                    ca_file: "/nonexistent/ca.pem".into(),
                    ..endpoints("https://127.0.0.1:2379")
                },
                "etcd.ca_file",
            ),
            (
                EtcdConfig {
                    cert_file: "/nonexistent/client.pem".into(),
                    ..EtcdConfig::default()
                },
                "etcd.endpoints",
            ),
        ] {
            let text = told(config).unwrap_or_default();
            assert!(text.contains(key), "{text}");
        }
    }
}
