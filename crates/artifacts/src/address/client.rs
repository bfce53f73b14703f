//! An HTTP client that connects through the policy.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tower::Service;

use super::{Config, Connector, Policy};

/// How long a connection is kept for the next request. Shorter than servers usually keep theirs.
const IDLE: Duration = Duration::from_secs(20);

/// Connections kept to one host.
const IDLE_CONNECTIONS: usize = 8;

/// The client, for bodies of the type `B`. It follows no redirects and has no limits of time beside
/// that of connecting; whoever uses it sets those that fit.
pub type Client<B> = hyper_util::client::legacy::Client<Secured, B>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Stream = TokioIo<TcpStream>;

/// The certificates that the operator named cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// `addresses.ca_file` cannot be read.
    #[error("addresses.ca_file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has no certificate.
    #[error("addresses.ca_file {} holds no certificate in PEM form", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
}

/// A client that connects only where `policy` allows it and speaks HTTP/1.1, over TLS 1.2 or 1.3
/// where the address says `https`.
///
/// Blocks for the reading of `addresses.ca_file`.
///
/// # Errors
///
/// [`CertificateError`].
pub fn client<B>(policy: &Policy, config: &Config) -> Result<Client<B>, CertificateError>
where
    B: hyper::body::Body + Send,
    B::Data: Send,
{
    let timeout = Duration::from_secs(config.connect_seconds.max(1).into());
    let own = if config.ca_file.as_os_str().is_empty() {
        Vec::new()
    } else {
        certificates(&config.ca_file)?
    };
    let connector = Secured {
        plain: Connector::new(policy.clone(), timeout),
        tls: Arc::new(Tls {
            own,
            config: OnceCell::new(),
        }),
    };
    Ok(
        hyper_util::client::legacy::Builder::new(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector),
    )
}

/// Connects, with TLS where the address says `https`.
#[derive(Clone, Debug)]
pub struct Secured {
    plain: Connector,
    tls: Arc<Tls>,
}

/// What TLS needs. It is made when an address says `https` for the first time: the certificates of a
/// machine are a megabyte, which a platform that fetches nothing has no use for.
#[derive(Debug)]
struct Tls {
    /// The operator's certificates.
    own: Vec<CertificateDer<'static>>,
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    async fn config(self: Arc<Self>) -> Result<Arc<ClientConfig>, BoxError> {
        let make = async || {
            let tls = Arc::clone(&self);
            let made = tokio::task::spawn_blocking(move || config(tls.own.clone()));
            Ok::<_, BoxError>(Arc::new(made.await??))
        };
        self.config.get_or_try_init(make).await.map(Arc::clone)
    }
}

impl Secured {
    async fn connect(mut self, url: Uri) -> Result<MaybeHttpsStream<Stream>, BoxError> {
        if url.scheme() == Some(&Scheme::HTTP) {
            let stream = self.plain.call(url).await?;
            return Ok(MaybeHttpsStream::Http(stream));
        }
        let config = self.tls.config().await?;
        HttpsConnector::from((self.plain, config)).call(url).await
    }
}

impl Service<Uri> for Secured {
    type Response = MaybeHttpsStream<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        Box::pin(self.clone().connect(url))
    }
}

/// Blocks for some milliseconds: it reads the system's certificates.
fn config(own: Vec<CertificateDer<'static>>) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    // A machine without certificates can still use unencrypted stores; whoever wants TLS there is
    // told that the issuer is unknown.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(own);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let text = std::fs::read(path).map_err(|source| CertificateError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(CertificateError::NoCertificate {
            path: path.to_owned(),
        }),
    }
}
