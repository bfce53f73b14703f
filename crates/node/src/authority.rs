//! The platform's own certificate authority, which vouches for its nodes and for itself towards them.
//!
//! It is made when it is first needed and lies in the store, its key sealed under the deployment's
//! own key. A node makes its key itself and never sends it; what it gets is a certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::token::sha256;
use crate::wire::{ALPN_NODE, ALPN_PLATFORM};

/// The name that the platform's certificate is for, whatever its address is.
pub(crate) const PLATFORM: &str = "platform.bugle.internal";

/// The name that the certificates of gateways are for towards each other.
pub const GATEWAY: &str = "gateway.bugle.internal";

/// What gateways speak with each other.
const ALPN_GATEWAY: &[u8] = b"bugle-gateway/1";

/// How long certificates hold. A node renews its own when half of that has passed. A process has one for as long as it
/// runs, with a key that nobody else ever has.
const AUTHORITY_HOLDS: Duration = Duration::from_hours(24 * 365 * 10);
const PROCESS_HOLDS: Duration = AUTHORITY_HOLDS;
pub(crate) const NODE_HOLDS: Duration = Duration::from_hours(24 * 90);

/// Clocks of two machines differ, by hours where one has the time of another zone. That a certificate holds from before
/// it was made admits nobody, as nobody had its key.
const SKEW: Duration = Duration::from_hours(24);

/// A certificate or key cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be made.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// It cannot be used.
    #[error("a certificate cannot be used")]
    Use(#[from] rustls::Error),
    /// Who may connect cannot be checked.
    #[error("certificates cannot be checked")]
    Check(#[from] rustls::server::VerifierBuilderError),
}

/// The authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

fn params(name: &str, holds: Duration) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + holds).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

fn of_authority() -> CertificateParams {
    let mut params = params("bugle nodes", AUTHORITY_HOLDS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

impl Authority {
    /// A new one, with its certificate and its key to be kept.
    pub(crate) fn make() -> Result<(Self, Vec<u8>, String), Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = of_authority().self_signed(&key)?;
        let (der, pem) = (certificate.der().to_vec(), key.serialize_pem());
        Ok((Self::open(&der, &pem)?, der, pem))
    }

    /// The one that was kept.
    pub(crate) fn open(certificate: &[u8], key: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(key)?;
        Ok(Self {
            issuer: Issuer::new(of_authority(), key),
            certificate: CertificateDer::from(certificate.to_vec()),
        })
    }

    /// Its certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What its certificate is known by.
    pub(crate) fn digest(&self) -> [u8; 32] {
        sha256(&self.certificate)
    }

    /// A certificate for a node with this public key, an uncompressed point of P-256.
    pub(crate) fn vouch(&self, name: &str, key: &[u8]) -> Result<CertificateDer<'static>, Error> {
        let mut params = params(name, NODE_HOLDS);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&Point(key.to_vec()), &self.issuer)?;
        Ok(certificate.der().clone())
    }

    /// How the platform answers nodes: with a certificate made for this process.
    pub(crate) fn server(&self) -> Result<ServerConfig, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(PLATFORM, PROCESS_HOLDS);
        let name = PLATFORM.try_into()?;
        params.subject_alt_names = vec![SanType::DnsName(name)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots(&self.certificate)?),
            provider(),
        )
        .allow_unauthenticated()
        .build()?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                // The authority's own goes along, for nodes that know its digest only.
                vec![certificate.der().clone(), self.certificate.clone()],
                private(&key),
            )?;
        config.alpn_protocols = vec![ALPN_NODE.to_vec(), ALPN_PLATFORM.to_vec()];
        Ok(config)
    }
}

/// How a gateway and other gateways reach each other, each with one certificate for both ways.
#[derive(Clone, Debug)]
pub struct GatewayTls {
    /// For those who come.
    pub server: Arc<ServerConfig>,
    /// For going to others.
    pub client: Arc<ClientConfig>,
}

impl Authority {
    /// A certificate made for this process, with which it is a gateway to other gateways.
    pub(crate) fn gateway(&self) -> Result<GatewayTls, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(GATEWAY, PROCESS_HOLDS);
        params.subject_alt_names = vec![SanType::DnsName(GATEWAY.try_into()?)];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        let roots = Arc::new(roots(&self.certificate)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.clone()], private(&key))?;
        server.alpn_protocols = vec![ALPN_GATEWAY.to_vec()];
        let client = known_client(&self.certificate, &certificate, &key, ALPN_GATEWAY)?;
        Ok(GatewayTls {
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }
}

/// Whether a certificate of the authority is a gateway's: those of nodes are for no host.
pub fn is_gateway(certificate: &CertificateDer<'_>) -> bool {
    let name = ServerName::try_from(GATEWAY);
    let parsed = ParsedCertificate::try_from(certificate);
    matches!((name, parsed), (Ok(name), Ok(parsed)) if verify_server_name(&parsed, &name).is_ok())
}

/// The public key of another machine.
struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(certificate: &CertificateDer<'static>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    Ok(roots)
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

/// How a node connects that has a certificate.
pub(crate) fn known_client(
    authority: &CertificateDer<'static>,
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
    protocol: &[u8],
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(vec![certificate.clone()], private(key))?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

/// How a node connects that joins: it knows the digest of the authority's certificate.
pub(crate) fn joining_client(authority: [u8; 32]) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned {
            authority,
            provider: provider(),
        }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_PLATFORM.to_vec()];
    Ok(config)
}

/// Trusts the authority with the digest of the token, which sends its certificate along, and
/// whomever that vouches for.
#[derive(Debug)]
struct Pinned {
    authority: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let known = intermediates
            .iter()
            .find(|certificate| sha256(certificate) == self.authority)
            .ok_or(rustls::Error::InvalidCertificate(
                rustls::CertificateError::UnknownIssuer,
            ))?;
        let roots = roots(&known.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
