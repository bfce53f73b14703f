//! Who a node is: its key, which it makes itself and which never leaves it, and what the platform's
//! authority says of it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bugle_scheduler::placement::NodeId;
use bugle_types::{TenantId, report};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, StatusCode, Uri};
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::authority::{self, NODE_HOLDS, PLATFORM};
use crate::requests::{JoinAnswer, JoinRequest, RenewRequest};
use crate::stream::{Broken, Incoming, STREAM_WINDOW};
use crate::token::JoinToken;
use crate::wire::{self, ALPN_NODE, ALPN_PLATFORM};

/// How long a connection may take to be made.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// How long a gateway may take to say whether it knows this node. One that works answers at once, and the node does not
/// try to connect again meanwhile.
pub(crate) const KNOWN: Duration = Duration::from_secs(2);

/// A certificate with its chain, or a reason.
const LARGEST_ANSWER: usize = 64 * 1024;

const KEY: &str = "node.key";
const RECORD: &str = "node.json";

/// Why a node cannot join or connect.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the node.
    #[error("{} cannot be used", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the node is not what it wrote.
    #[error("{} is damaged; remove the folder, remove the node with `bugle node remove`, and join again with a new token", .0.display())]
    Damaged(PathBuf),
    /// A certificate.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// The platform cannot be reached, or is another one.
    #[error("{address} cannot be connected to")]
    Connect {
        /// Where it was looked for.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else answers than the platform of a token.
    #[error(
        "what answers at {address} is not the platform that the token is of; `bugle node token` prints a token \
         of a platform, and says where that waits for nodes"
    )]
    Stranger {
        /// Where.
        address: String,
        /// How that is known.
        #[source]
        source: io::Error,
    },
    /// The two clocks differ by too much. By how much is not told: it would be other words each time.
    #[error(
        "the certificate of {address} does not hold at the time that this machine has; set the clocks of both"
    )]
    Clock {
        /// Where.
        address: String,
    },
    /// The connection broke.
    #[error("the connection to the platform broke")]
    Broken(#[source] h2::Error),
    /// The platform sent what makes no sense.
    #[error("the platform answered what makes no sense: {0}")]
    Garbage(String),
    /// The platform refused.
    #[error("the platform refuses: {0}")]
    Refused(String),
    /// Another process is connected as this node. Which, and what to do, in the platform's words.
    #[error("{0}")]
    Twin(String),
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Stream(error) => Self::Broken(error),
            Broken::Garbage(garbage) => Self::Garbage(garbage.to_string()),
        }
    }
}

/// A node that has joined; clones are the same.
#[derive(Clone)]
pub struct Identity(Arc<Kept>);

struct Kept {
    folder: PathBuf,
    key: KeyPair,
    record: Mutex<Record>,
    /// Held while a certificate is renewed: links do that one after the other.
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Record {
    node: String,
    platform: String,
    authority: Vec<u8>,
    certificate: Vec<u8>,
    /// In seconds since 1970.
    issued: u64,
    /// Where the gateways were that were heard of last, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gateways: Vec<String>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let record = self.0.record.lock();
        f.debug_struct("Identity")
            .field("node", &record.node)
            .field("platform", &record.platform)
            .finish_non_exhaustive()
    }
}

fn now() -> u64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Writes a file that only the node's user may read, whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    let mut file = options.open(&new).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&new, path).map_err(failed)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            path: path.to_owned(),
            source,
        }),
    }
}

impl Identity {
    /// The identity that a node keeps in its folder.
    ///
    /// # Errors
    ///
    /// If a file is there and cannot be read.
    pub fn load(folder: &Path) -> Result<Option<Self>, Error> {
        let (key_path, record_path) = (folder.join(KEY), folder.join(RECORD));
        let (Some(key), Some(record)) = (read(&key_path)?, read(&record_path)?) else {
            return Ok(None);
        };
        let pem = String::from_utf8(key).map_err(|_| Error::Damaged(key_path.clone()))?;
        let key = KeyPair::from_pem(&pem).map_err(|_| Error::Damaged(key_path))?;
        let record = serde_json::from_slice(&record).map_err(|_| Error::Damaged(record_path))?;
        Ok(Some(Self::new(folder, record, key)))
    }

    fn new(folder: &Path, record: Record, key: KeyPair) -> Self {
        Self(Arc::new(Kept {
            folder: folder.to_owned(),
            key,
            record: Mutex::new(record),
            renewing: tokio::sync::Mutex::default(),
        }))
    }

    /// Whether the platform that it has joined is the one of a token.
    pub fn is_of(&self, token: &JoinToken) -> bool {
        token.is_of(&self.0.record.lock().authority)
    }

    /// Joins the platform at `address` with a token of it; a Pod of a pool says its uid.
    ///
    /// # Errors
    ///
    /// If the platform is not there, is another one than the token's, or refuses.
    pub async fn join(
        folder: &Path,
        address: &str,
        token: &JoinToken,
        node: &NodeId,
        pod: Option<&str>,
    ) -> Result<Self, Error> {
        // Kept before it is sent: a Pod asks again with the same key when it has not heard the answer.
        let key = key(&folder.join(KEY))?;
        let question = JoinRequest {
            token: token.to_string(),
            node: node.to_string(),
            public_key: key.public_key_raw().to_vec(),
            pod: pod.map(str::to_owned),
        };
        let question = serde_json::to_vec(&question).unwrap_or_default();
        let config = authority::joining_client(token.authority)?;
        let platform = Asking::connect(address, config).await.map_err(stranger)?;
        let answer = platform.ask("/join", question.into()).await?;
        let answer: JoinAnswer =
            wire::json(&answer).map_err(|garbage| Error::Garbage(garbage.to_string()))?;
        let record = Record {
            node: node.to_string(),
            platform: address.to_owned(),
            authority: answer.authority,
            certificate: answer.certificate,
            issued: now(),
            gateways: Vec::new(),
        };
        let identity = Self::new(folder, record, key);
        identity.change(|_| ())?;
        Ok(identity)
    }

    /// Its name.
    pub fn node(&self) -> String {
        self.0.record.lock().node.clone()
    }

    /// Where the platform is.
    pub fn platform(&self) -> String {
        self.0.record.lock().platform.clone()
    }

    /// The platform is somewhere else now.
    ///
    /// # Errors
    ///
    /// If that cannot be written.
    pub fn move_to(&self, address: &str) -> Result<(), Error> {
        self.change(|record| {
            address.clone_into(&mut record.platform);
            record.gateways.clear();
        })
    }

    /// Where gateways have been, the platform among them.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let record = self.0.record.lock();
        let mut addresses = record.gateways.clone();
        if !addresses.contains(&record.platform) {
            addresses.push(record.platform.clone());
        }
        addresses
    }

    /// Remembers where the gateways are.
    pub(crate) fn remember(&self, gateways: &[String]) -> Result<(), Error> {
        if self.0.record.lock().gateways == gateways {
            return Ok(());
        }
        self.change(|record| record.gateways = gateways.to_vec())
    }

    fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let mut record = self.0.record.lock();
        change(&mut record);
        // Under the lock, so that the last change is what stays written.
        save(&self.0.folder, &record)
    }

    fn client(&self, protocol: &[u8]) -> Result<ClientConfig, Error> {
        let record = self.0.record.lock();
        let authority = CertificateDer::from(record.authority.clone());
        let certificate = CertificateDer::from(record.certificate.clone());
        let key = &self.0.key;
        Ok(authority::known_client(
            &authority,
            &certificate,
            key,
            protocol,
        )?)
    }

    /// Gets a new certificate when half of the time of the old one has passed, from the gateway at
    /// `address`; `process` asks.
    pub(crate) async fn renew_when_due(&self, address: &str, process: &str) -> Result<(), Error> {
        let _one_after_the_other = self.0.renewing.lock().await;
        let issued = self.0.record.lock().issued;
        if now() < issued + NODE_HOLDS.as_secs() / 2 {
            return Ok(());
        }
        let platform = Asking::connect(address, self.client(ALPN_PLATFORM)?).await?;
        let question = RenewRequest {
            public_key: self.0.key.public_key_raw().to_vec(),
            process: process.to_owned(),
        };
        let question = serde_json::to_vec(&question).unwrap_or_default();
        let answer = platform.ask("/renew", question.into()).await?;
        let answer: JoinAnswer =
            wire::json(&answer).map_err(|garbage| Error::Garbage(garbage.to_string()))?;
        self.change(|record| {
            record.certificate = answer.certificate;
            record.issued = now();
        })
    }

    /// Whether its certificate is of no use any more, by this machine's clock.
    pub fn has_expired(&self) -> bool {
        now() >= self.0.record.lock().issued + NODE_HOLDS.as_secs()
    }

    /// Whether the gateway at `address` says that this node is none of the platform's. False if it does not answer
    /// soon.
    pub async fn is_refused(&self, address: &str) -> bool {
        let asked = async {
            let platform = Asking::connect(address, self.client(ALPN_PLATFORM)?).await?;
            platform.ask("/known", Bytes::new()).await
        };
        let answer = tokio::time::timeout(KNOWN, asked).await;
        matches!(answer, Ok(Err(Error::Refused(_))))
    }

    /// A connection over which the gateway at `address` asks.
    pub(crate) async fn connect(&self, address: &str) -> Result<TlsStream<TcpStream>, Error> {
        connect(address, self.client(ALPN_NODE)?).await
    }

    /// What fetches packages from the platform.
    pub fn packages(&self) -> PackageSource {
        PackageSource(self.clone())
    }
}

#[cfg(test)]
impl Identity {
    /// Connects as a machine whose clock is so many hours ahead.
    pub(crate) async fn connect_at(&self, address: &str, hours: i64) -> Result<(), Error> {
        let mut config = self.client(ALPN_NODE)?;
        config.time_provider = Arc::new(Ahead(hours));
        connect(address, config).await.map(drop)
    }

    /// Has its certificate renewed at the next occasion.
    pub(crate) fn make_due(&self) {
        self.0.record.lock().issued = 0;
    }

    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.0.record.lock().certificate.clone()
    }
}

/// A clock that is so many hours ahead.
#[cfg(test)]
#[derive(Debug)]
struct Ahead(i64);

#[cfg(test)]
impl rustls::time_provider::TimeProvider for Ahead {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let time = now().checked_add_signed(self.0 * 3600)?;
        Some(rustls::pki_types::UnixTime::since_unix_epoch(
            Duration::from_secs(time),
        ))
    }
}

fn save(folder: &Path, record: &Record) -> Result<(), Error> {
    let text = serde_json::to_vec(record).unwrap_or_default();
    write(&folder.join(RECORD), &text)
}

/// The key of a node, made if there is none.
fn key(path: &Path) -> Result<KeyPair, Error> {
    if let Some(known) = read(path)? {
        let pem = String::from_utf8(known).map_err(|_| Error::Damaged(path.to_owned()))?;
        return KeyPair::from_pem(&pem).map_err(|_| Error::Damaged(path.to_owned()));
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(authority::Error::from)?;
    write(path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

async fn connect(address: &str, config: ClientConfig) -> Result<TlsStream<TcpStream>, Error> {
    let failed = |source| Error::Connect {
        address: address.to_owned(),
        source,
    };
    let name = ServerName::try_from(PLATFORM).map_err(|error| failed(io::Error::other(error)))?;
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await
    };
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(Err(error)) if is_about_time(&error) => {
            let address = address.to_owned();
            Err(Error::Clock { address })
        }
        Ok(connected) => connected.map_err(failed),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

/// Whether a certificate is good at another time than that of this machine.
fn is_about_time(error: &io::Error) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(
        cause,
        Some(rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        ))
    )
}

/// An error of a node that joins: with who speaks no TLS, or has the certificate of another authority, no other time is
/// better.
fn stranger(error: Error) -> Error {
    match error {
        Error::Connect { address, source } if matches!(source.get_ref(), Some(cause) if cause.is::<rustls::Error>()) => {
            Error::Stranger { address, source }
        }
        error => error,
    }
}

/// A connection over which the node asks.
struct Asking {
    sender: SendRequest<Bytes>,
    _connection: AbortOnDropHandle<()>,
}

impl Asking {
    async fn connect(address: &str, config: ClientConfig) -> Result<Self, Error> {
        let stream = connect(address, config).await?;
        let handshake = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .handshake::<_, Bytes>(stream);
        let (sender, connection) = handshake.await.map_err(Error::Broken)?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the platform ended");
            }
        });
        Ok(Self {
            sender,
            _connection: AbortOnDropHandle::new(connection),
        })
    }

    /// The body of an answer that is not refused.
    async fn open(&self, path: &str, question: Bytes) -> Result<Incoming, Error> {
        let wrong = |error: http::uri::InvalidUri| Error::Garbage(report(&error));
        let uri: Uri = format!("http://platform{path}").parse().map_err(wrong)?;
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri;
        let sent = self.sender.clone().send_request(request, false);
        let (response, mut stream) = sent.map_err(Error::Broken)?;
        stream.send_data(question, true).map_err(Error::Broken)?;
        let response = response.await.map_err(Error::Broken)?;
        let status = response.status();
        let body = Incoming::new(response.into_body());
        if status == StatusCode::OK {
            return Ok(body);
        }
        let reason = body.whole(LARGEST_ANSWER).await?;
        let reason = String::from_utf8_lossy(&reason).into_owned();
        Err(match status {
            StatusCode::CONFLICT => Error::Twin(reason),
            _ => Error::Refused(reason),
        })
    }

    async fn ask(&self, path: &str, question: Bytes) -> Result<Bytes, Error> {
        let body = self.open(path, question).await?;
        Ok(body.whole(LARGEST_ANSWER).await?)
    }
}

/// Fetches packages from the platform.
#[derive(Clone, Debug)]
pub struct PackageSource(Identity);

impl PackageSource {
    /// The bytes of a tenant's package, as they come; of several gateways, from the first that has it.
    ///
    /// # Errors
    ///
    /// If the platform is not there or has no such package.
    pub async fn open(&self, tenant: &TenantId, digest: &str) -> Result<PackageStream, Error> {
        let path = format!("/package/{tenant}/{digest}");
        let mut failed = None;
        for address in self.0.addresses() {
            match self.open_at(&address, &path).await {
                Ok(package) => return Ok(package),
                // What a gateway that is there says tells more than that others are not.
                Err(error) if matches!(failed, Some(Error::Refused(_))) => drop(error),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| Error::Garbage("there is no gateway".to_owned())))
    }

    async fn open_at(&self, address: &str, path: &str) -> Result<PackageStream, Error> {
        let platform = Asking::connect(address, self.0.client(ALPN_PLATFORM)?).await?;
        let body = platform.open(path, Bytes::new()).await?;
        Ok(PackageStream {
            body,
            _platform: platform,
        })
    }
}

/// A package as it comes.
pub struct PackageStream {
    body: Incoming,
    _platform: Asking,
}

impl std::fmt::Debug for PackageStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackageStream").finish_non_exhaustive()
    }
}

impl PackageStream {
    /// The next bytes; none at the end. Cancel safe.
    ///
    /// # Errors
    ///
    /// If the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.body.raw().await.map_err(Error::Broken)
    }
}
