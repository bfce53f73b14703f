//! An HTTP client that connects through the policy.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::{Config, Connector, Policy};

/// How long a connection is kept for the next request. Shorter than servers usually keep theirs.
const IDLE: Duration = Duration::from_secs(20);

/// Connections kept to one host.
const IDLE_CONNECTIONS: usize = 8;

/// The client, for bodies of the type `B`. It follows no redirects and has no limits of time beside
/// that of connecting; whoever uses it sets those that fit.
pub type Client<B> = hyper_util::client::legacy::Client<HttpsConnector<Connector>, B>;

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
    /// TLS does not come up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// A client that connects only where `policy` allows it and speaks HTTP/1.1, over TLS 1.2 or 1.3
/// where the address says `https`.
///
/// Blocks for some milliseconds: it reads the system's certificates.
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
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls(&config.ca_file)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(Connector::new(policy.clone(), timeout));
    Ok(
        hyper_util::client::legacy::Builder::new(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector),
    )
}

fn tls(ca_file: &Path) -> Result<ClientConfig, CertificateError> {
    let mut roots = RootCertStore::empty();
    // A machine without certificates can still use unencrypted stores; whoever wants TLS there is
    // told that the issuer is unknown.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if !ca_file.as_os_str().is_empty() {
        roots.add_parsable_certificates(certificates(ca_file)?);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(CertificateError::Tls)?;
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
