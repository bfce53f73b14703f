//! Asks registries, by the distribution specification: manifests, blobs, and the right to read them.
//!
//! Which addresses may be connected to is the operator's decision and is kept below the HTTP client.
//! Here it is kept that credentials go to the registry that they are for, and to the place that this
//! registry names for logging in, and never along with a redirect.

mod auth;
mod blob;
mod credentials;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bugle_artifacts::address::{
    self, CertificateError, Client, ConnectError, Policy, Refused, RuleError,
};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, RANGE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::document::LARGEST;
use crate::{Digest, ImageError, Reference};
use auth::Challenge;
pub(crate) use blob::channel;
pub use credentials::{Credentials, CredentialsError, Login, Vault};

/// What we are called.
const AGENT: &str = concat!("bugle/", env!("CARGO_PKG_VERSION"));

/// The kinds of manifest that we read.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// The header in which a registry says what a tag means.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// How many redirects lead to a blob: registry, object store, its region.
const REDIRECTS: usize = 5;

/// How often a request is sent that gets no answer, or one that asks to come again.
const ATTEMPTS: u32 = 4;

/// The first pause before another attempt; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest pause, also where a registry asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// What the store needs to reach registries.
#[derive(Debug)]
pub struct Network {
    client: Client<Full<Bytes>>,
    policy: Policy,
    credentials: Credentials,
}

/// Why registries cannot be reached at all.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The operator's rules for addresses cannot be read.
    #[error("addresses.allowed")]
    Rules(#[source] RuleError),
    /// TLS cannot be set up.
    #[error("TLS for registries")]
    Certificates(#[source] CertificateError),
}

impl Network {
    /// The way to the registries that the operator's rules for addresses allow.
    ///
    /// # Errors
    ///
    /// [`NetworkError`] when the rules or the certificates cannot be used.
    pub fn new(
        addresses: &address::Config,
        credentials: Credentials,
    ) -> Result<Self, NetworkError> {
        let policy = Policy::new(addresses).map_err(NetworkError::Rules)?;
        let client = address::client(&policy, addresses).map_err(NetworkError::Certificates)?;
        Ok(Self {
            client,
            policy,
            credentials,
        })
    }
}

/// The way to all registries.
#[derive(Debug)]
pub(crate) struct Registries {
    client: Client<Full<Bytes>>,
    policy: Policy,
    pub(crate) credentials: Credentials,
    /// Rights to read that registries gave, by registry and repository.
    tokens: Mutex<HashMap<(String, String), Token>>,
    /// How long nothing may come.
    silence: Duration,
}

/// What goes into the header `authorization`, and until when.
#[derive(Clone, Debug)]
struct Token {
    value: HeaderValue,
    until: Instant,
}

/// One repository of a registry.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    registries: Arc<Registries>,
    registry: String,
    name: String,
    /// `https://host[:port]`, or with `http` where the operator allows that.
    base: String,
}

/// A request of which everything but the rights is decided.
struct Ask<'a> {
    method: Method,
    path: String,
    accept: &'static str,
    /// The first byte that is wanted.
    from: u64,
    /// For errors.
    what: &'a str,
}

impl Registries {
    pub(crate) fn new(network: Network, silence: Duration) -> Self {
        let Network {
            client,
            policy,
            credentials,
        } = network;
        Self {
            client,
            policy,
            credentials,
            tokens: Mutex::default(),
            silence,
        }
    }

    /// The repository that a reference names. A registry whose address the operator allows with
    /// `http://` is spoken to without TLS.
    pub(crate) async fn repository(self: &Arc<Self>, reference: &Reference) -> Repository {
        let registry = reference.registry();
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let scheme = if self.is_plain(host).await {
            "http"
        } else {
            "https"
        };
        Repository {
            registries: Arc::clone(self),
            registry: registry.to_owned(),
            name: reference.repository().to_owned(),
            base: format!("{scheme}://{host}"),
        }
    }

    /// Keeps credentials for a registry, and forgets the rights that others brought.
    pub(crate) fn log_in(&self, registry: &str, login: Login) -> Result<(), CredentialsError> {
        self.credentials.set(registry, login)?;
        self.tokens.lock().retain(|(of, _), _| of != registry);
        Ok(())
    }

    /// Forgets the credentials for a registry, and the rights that they brought.
    pub(crate) fn log_out(&self, registry: &str) -> Result<bool, CredentialsError> {
        let known = self.credentials.remove(registry)?;
        self.tokens.lock().retain(|(of, _), _| of != registry);
        Ok(known)
    }

    async fn is_plain(&self, host: &str) -> bool {
        let target = format!("http://{host}/").parse::<Uri>().ok();
        let Some(Ok(target)) = target.as_ref().map(Policy::target) else {
            return false;
        };
        self.policy.resolve(&target).await.is_ok()
    }

    /// Asks whether a registry accepts these credentials.
    pub(crate) async fn try_login(
        self: &Arc<Self>,
        registry: &str,
        login: &Login,
    ) -> Result<(), ImageError> {
        // Any repository will do; what is asked for is the interface's root.
        let reference: Reference = format!("{registry}/anything").parse()?;
        let repository = self.repository(&reference).await;
        let uri = repository.uri("/v2/", "the interface")?;
        let ask = Ask {
            method: Method::GET,
            path: String::new(),
            accept: "application/json",
            from: 0,
            what: "the interface",
        };
        let mut response = repository.send(&ask, &uri, None).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenge = Challenge::of(response.headers());
            let token = repository.log_in(challenge, Some(login), None).await?;
            response = repository.send(&ask, &uri, Some(&token.value)).await?;
        }
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(repository.denied(&repository.name, Some(login)))
            }
            status => Err(repository.unexpected("the interface", status)),
        }
    }
}

impl Repository {
    /// The digest that a tag means now.
    pub(crate) async fn digest(&self, tag: &str) -> Result<Digest, ImageError> {
        let mut ask = self.manifest_ask(tag);
        ask.method = Method::HEAD;
        let response = self.ask(&ask).await?;
        match declared_digest(response.headers()) {
            Some(digest) => Ok(digest),
            None => Ok(self.manifest(tag, None).await?.0),
        }
    }

    /// A manifest or an index, by tag or by digest.
    pub(crate) async fn manifest(
        &self,
        name: &str,
        expected: Option<Digest>,
    ) -> Result<(Digest, Bytes), ImageError> {
        let response = self.ask(&self.manifest_ask(name)).await?;
        let declared = declared_digest(response.headers());
        let bytes = self.small(response, "the manifest").await?;
        let found = Digest::of(&bytes);
        match expected.or(declared) {
            Some(expected) if expected != found => Err(ImageError::Digest {
                what: "the manifest".to_owned(),
                expected,
                found,
            }),
            _ => Ok((found, bytes)),
        }
    }

    /// A blob that is a document.
    pub(crate) async fn document(&self, digest: Digest) -> Result<Bytes, ImageError> {
        let response = self.ask(&self.blob_ask(&digest, 0)).await?;
        let bytes = self.small(response, "the configuration").await?;
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(ImageError::Digest {
                what: "the configuration".to_owned(),
                expected: digest,
                found,
            });
        }
        Ok(bytes)
    }

    fn manifest_ask<'a>(&self, name: &'a str) -> Ask<'a> {
        Ask {
            method: Method::GET,
            path: format!("/v2/{}/manifests/{name}", self.name),
            accept: MANIFESTS,
            from: 0,
            what: name,
        }
    }

    fn blob_ask(&self, digest: &Digest, from: u64) -> Ask<'static> {
        Ask {
            method: Method::GET,
            path: format!("/v2/{}/blobs/{digest}", self.name),
            accept: "*/*",
            from,
            what: "a blob",
        }
    }

    /// Sends a request with the rights that it needs, again where that may help, and follows
    /// redirects.
    async fn ask(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, ImageError> {
        let mut attempt = 1;
        loop {
            let tried = self.ask_once(ask).await;
            let pause = match &tried {
                Ok(response) if asks_to_come_again(response.status()) => {
                    requested_pause(response.headers())
                }
                Err(ImageError::Unreachable { .. }) => None,
                _ => return self.judge(ask, tried?).await,
            };
            if attempt == ATTEMPTS {
                return self.judge(ask, tried?).await;
            }
            let pause = pause.unwrap_or_else(|| PAUSE * 2_u32.pow(attempt - 1));
            tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
            attempt += 1;
        }
    }

    async fn judge(
        &self,
        ask: &Ask<'_>,
        response: Response<Incoming>,
    ) -> Result<Response<Incoming>, ImageError> {
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND => Err(ImageError::Missing {
                registry: self.registry.clone(),
                image: format!("{} ({})", self.name, ask.what),
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let login = self.registries.credentials.find(&self.registry).await;
                Err(self.denied(&self.name, login.as_ref()))
            }
            status => Err(self.unexpected(ask.what, status)),
        }
    }

    async fn ask_once(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, ImageError> {
        let uri = self.uri(&ask.path, ask.what)?;
        let known = self.token();
        let mut response = self.send(ask, &uri, known.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // A right that ended, or the first request.
            let challenge = Challenge::of(response.headers());
            let login = self.registries.credentials.find(&self.registry).await;
            let scope = format!("repository:{}:pull", self.name);
            let token = self.log_in(challenge, login.as_ref(), Some(&scope)).await?;
            response = self.send(ask, &uri, Some(&token.value)).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                self.keep(token);
            }
        }
        self.follow(ask, uri, response).await
    }

    async fn follow(
        &self,
        ask: &Ask<'_>,
        mut uri: Uri,
        mut response: Response<Incoming>,
    ) -> Result<Response<Incoming>, ImageError> {
        for _ in 0..REDIRECTS {
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            uri = next(&uri, response.headers())
                .ok_or_else(|| self.answered(ask.what, "a redirect to no address"))?;
            // Wherever it leads: an object store wants a signed address and no token, and somebody
            // else may not have ours.
            response = self.send(ask, &uri, None).await?;
        }
        Err(self.answered(ask.what, "one redirect after the other"))
    }

    async fn send(
        &self,
        ask: &Ask<'_>,
        uri: &Uri,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, ImageError> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(uri)
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, ask.accept);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        if ask.from > 0 {
            request = request.header(RANGE, format!("bytes={}-", ask.from));
        }
        let request = request
            .body(Full::default())
            .map_err(|_| self.answered(ask.what, "an address that cannot be used"))?;
        self.exchange(request).await
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ImageError> {
        let uri = request.uri().clone();
        let answer = self.registries.client.request(request);
        match tokio::time::timeout(self.registries.silence, answer).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.failed(&uri, &error)),
            Err(_) => Err(self.silent()),
        }
    }

    /// Reads a body that may not be large.
    async fn small(&self, response: Response<Incoming>, what: &str) -> Result<Bytes, ImageError> {
        let mut body = response.into_body();
        let mut bytes = BytesMut::new();
        loop {
            let frame = tokio::time::timeout(self.registries.silence, body.frame()).await;
            let frame = match frame.map_err(|_| self.silent())? {
                None => return Ok(bytes.freeze()),
                Some(frame) => frame.map_err(|error| self.broken(&error))?,
            };
            if let Some(data) = frame.data_ref() {
                bytes.extend_from_slice(data);
            }
            if bytes.len() as u64 > LARGEST {
                let reason = format!("it is larger than {LARGEST} bytes");
                return Err(ImageError::malformed(what, reason));
            }
        }
    }

    fn uri(&self, path: &str, what: &str) -> Result<Uri, ImageError> {
        let uri = format!("{}{path}", self.base).parse();
        uri.map_err(|_| self.answered(what, "no address"))
    }

    fn key(&self) -> (String, String) {
        (self.registry.clone(), self.name.clone())
    }

    fn token(&self) -> Option<HeaderValue> {
        let tokens = self.registries.tokens.lock();
        let token = tokens.get(&self.key())?;
        (token.until > Instant::now()).then(|| token.value.clone())
    }

    fn keep(&self, token: Token) {
        let mut tokens = self.registries.tokens.lock();
        tokens.retain(|_, token| token.until > Instant::now());
        tokens.insert(self.key(), token);
    }

    fn denied(&self, image: &str, login: Option<&Login>) -> ImageError {
        ImageError::Denied {
            registry: self.registry.clone(),
            image: image.to_owned(),
            who: match login {
                Some(login) if login.identity_token().is_some() => "its identity token".to_owned(),
                Some(login) => format!("user {:?}", login.username),
                None => "anyone".to_owned(),
            },
        }
    }

    fn unexpected(&self, what: &str, status: StatusCode) -> ImageError {
        self.answered(what, &format!("status {}", status.as_u16()))
    }

    fn answered(&self, what: &str, answer: &str) -> ImageError {
        ImageError::Answer {
            registry: self.registry.clone(),
            what: what.to_owned(),
            answer: answer.to_owned(),
        }
    }

    fn silent(&self) -> ImageError {
        let seconds = self.registries.silence.as_secs();
        self.unreachable(format!("it was silent for {seconds} s"))
    }

    fn broken(&self, error: &hyper::Error) -> ImageError {
        self.unreachable(format!(
            "the connection broke: {}",
            bugle_types::report(error)
        ))
    }

    fn unreachable(&self, reason: String) -> ImageError {
        ImageError::Unreachable {
            registry: self.registry.clone(),
            reason,
        }
    }

    /// A connection that did not come about: forbidden, or impossible.
    fn failed(&self, uri: &Uri, error: &hyper_util::client::legacy::Error) -> ImageError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            // The connector's own error stands in the place of this one.
            let of_connector = error.downcast_ref();
            if let Some(ConnectError::Refused(refused)) = of_connector
                && !matches!(refused, Refused::Unresolved { .. })
            {
                return ImageError::Forbidden {
                    // What follows may be a signature.
                    url: format!(
                        "{}://{}",
                        uri.scheme_str().unwrap_or_default(),
                        uri.authority().map_or("", http::uri::Authority::as_str)
                    ),
                    reason: refused.to_string(),
                };
            }
            if let Some(error) = of_connector {
                return self.unreachable(bugle_types::report(error));
            }
            cause = error.source();
        }
        self.unreachable(bugle_types::report(error))
    }
}

fn declared_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

fn asks_to_come_again(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn requested_pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Where a redirect leads.
fn next(from: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    // Not a path of two slashes, which names a host.
    if location.starts_with('/') && !location.starts_with("//") {
        let base = format!("{}://{}", from.scheme_str()?, from.authority()?);
        return format!("{base}{location}").parse().ok();
    }
    let uri: Uri = location.parse().ok()?;
    uri.authority().is_some().then_some(uri)
}
