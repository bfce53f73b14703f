//! Packages in object stores that speak S3.
//!
//! The `object_store` crate does the signing, the protocol and the resuming; below it is the client
//! of [`crate::address`], so that every connection, the first as well as those that resume, goes
//! where the operator's policy allows it.
//!
//! The operator's credentials are for the operator's own store. What a function names beside it is
//! asked without any.

mod http;

use std::sync::{Arc, OnceLock};

use ::http::Uri;
use futures_util::StreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore as _, ObjectStoreExt as _, RetryConfig};
use tokio::sync::mpsc;

use crate::address::{self, Policy};
use crate::archive;
use crate::receive::{self, Broken, Chunk};
use crate::{Config, Error};
use http::{Connector, HttpClient, Seen};

/// How often a request, or a download that broke, is tried again.
const RETRIES: usize = 4;

/// How much of an upload is sent at once; S3 wants 5 MiB at least.
const PART: usize = 8 << 20;

/// What is taken from the environment: who asks, and where. Addresses are configured.
const ENVIRONMENT: &[AmazonS3ConfigKey] = &[
    AmazonS3ConfigKey::AccessKeyId,
    AmazonS3ConfigKey::SecretAccessKey,
    AmazonS3ConfigKey::Token,
    AmazonS3ConfigKey::DefaultRegion,
    AmazonS3ConfigKey::Region,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
    AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::RoleArn,
    AmazonS3ConfigKey::RoleSessionName,
    AmazonS3ConfigKey::StsEndpoint,
];

/// The region of stores that know none.
const REGION: &str = "us-east-1";

/// An object in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Empty for the configured store.
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    pub(crate) object: String,
}

impl Place {
    /// What it is called in messages.
    pub(crate) fn shown(&self) -> String {
        format!("the object {} of the bucket {}", self.object, self.bucket)
    }
}

/// Access to stores. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct S3 {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    addresses: address::Config,
    /// The variables that name credentials; see [`ENVIRONMENT`].
    environment: Vec<(AmazonS3ConfigKey, String)>,
    /// Where functions may send the platform, and where the operator does.
    foreign: OnceLock<HttpClient>,
    own: OnceLock<HttpClient>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not what it is configured with: there are secrets in it.
        f.debug_struct("S3").finish_non_exhaustive()
    }
}

/// Whose store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Operator,
    Somebody,
}

impl S3 {
    pub(crate) fn new(
        config: Config,
        addresses: address::Config,
        environment: &[(String, String)],
    ) -> Result<Self, Error> {
        // A mistake in it is told at the start.
        Policy::new(&addresses).map_err(Error::Allowed)?;
        let known = environment.iter().filter_map(|(name, value)| {
            let key: AmazonS3ConfigKey = name.to_ascii_lowercase().parse().ok()?;
            let wanted = ENVIRONMENT.contains(&key) && !value.is_empty();
            wanted.then(|| (key, value.clone()))
        });
        Ok(Self {
            shared: Arc::new(Shared {
                environment: known.collect(),
                config,
                addresses,
                foreign: OnceLock::new(),
                own: OnceLock::new(),
            }),
        })
    }

    /// Sends the object's bytes through `chunks`. Returns when all are sent, or nobody wants them.
    ///
    /// Cancel safe: who receives is not told the end then.
    pub(crate) async fn download(
        &self,
        place: &Place,
        chunks: &mpsc::Sender<Chunk>,
    ) -> Result<(), Error> {
        let seen = Arc::new(Seen::default());
        let sent = self.send(place, chunks, &seen).await;
        if let Err(error) = sent {
            // Nobody is there when who receives has failed, and says so.
            let _ = chunks.send(Err(Broken)).await;
            return Err(error);
        }
        Ok(())
    }

    async fn send(
        &self,
        place: &Place,
        chunks: &mpsc::Sender<Chunk>,
        seen: &Arc<Seen>,
    ) -> Result<(), Error> {
        let (store, path) = self.open(place, seen).await?;
        let failed = |error: object_store::Error| Error::Download {
            package: place.shown(),
            why: seen.why(&error),
        };
        let found = match store.get(&path).await {
            Ok(found) => found,
            Err(error) => return Err(seen.refused().unwrap_or_else(|| failed(error))),
        };
        let size = found.meta.size;
        let max = self.shared.config.max_package_bytes;
        if size > max {
            return Err(Error::Package(archive::Error::PackageTooLarge {
                bytes: size,
                max,
            }));
        }
        let mut sent = 0;
        let mut stream = found.into_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return Err(seen.refused().unwrap_or_else(|| failed(error))),
            };
            sent += chunk.len() as u64;
            if chunks.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        if sent != size {
            return Err(Error::Download {
                package: place.shown(),
                why: format!("the store announced {size} bytes and sent {sent}"),
            });
        }
        Ok(())
    }

    /// Puts a file at a place of the operator's own store.
    pub(crate) async fn upload(
        &self,
        place: &Place,
        mut file: tokio::fs::File,
    ) -> Result<(), Error> {
        let seen = Arc::new(Seen::default());
        let (store, path) = self.open(place, &seen).await?;
        let failed = |error: object_store::Error| Error::Upload {
            why: seen.why(&error),
        };
        let first = receive::part(&mut file, PART).await?;
        if first.len() < PART {
            store.put(&path, first.into()).await.map_err(failed)?;
            return Ok(());
        }
        let mut upload = store.put_multipart(&path).await.map_err(failed)?;
        let mut next = first;
        while !next.is_empty() {
            let sent = upload.put_part(next.into()).await;
            next = match sent {
                Ok(()) => receive::part(&mut file, PART).await?,
                Err(error) => {
                    // What was sent costs until it is thrown away; the store may be gone, though.
                    let _ = upload.abort().await;
                    return Err(failed(error));
                }
            };
        }
        upload.complete().await.map_err(failed)?;
        Ok(())
    }

    /// How long the object is; nothing where there is none.
    pub(crate) async fn size(&self, place: &Place) -> Result<Option<u64>, Error> {
        let seen = Arc::new(Seen::default());
        let (store, path) = self.open(place, &seen).await?;
        match store.head(&path).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(Error::Download {
                package: place.shown(),
                why: seen.why(&error),
            }),
        }
    }

    /// Removes an object; it is no mistake if there is none.
    pub(crate) async fn delete(&self, place: &Place) -> Result<(), Error> {
        let seen = Arc::new(Seen::default());
        let (store, path) = self.open(place, &seen).await?;
        match store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Error::Upload {
                why: seen.why(&error),
            }),
        }
    }

    /// The names and sizes of the objects below a place, at most so many.
    pub(crate) async fn list(
        &self,
        place: &Place,
        most: usize,
    ) -> Result<Vec<(String, u64)>, Error> {
        let seen = Arc::new(Seen::default());
        let (store, path) = self.open(place, &seen).await?;
        let mut found = Vec::new();
        let mut objects = store.list(Some(&path)).take(most);
        while let Some(object) = objects.next().await {
            let object = object.map_err(|error| Error::Upload {
                why: seen.why(&error),
            })?;
            found.push((object.location.to_string(), object.size));
        }
        Ok(found)
    }

    /// A client for the place's bucket, which notes in `seen` what goes wrong.
    async fn open(&self, place: &Place, seen: &Arc<Seen>) -> Result<(AmazonS3, Path), Error> {
        let config = &self.shared.config;
        let (endpoint, owner) = self.endpoint(place)?;
        let client = self.client(owner).await?;
        let mut builder = AmazonS3Builder::new();
        if owner == Owner::Operator {
            for (key, value) in &self.shared.environment {
                builder = builder.with_config(*key, value);
            }
        }
        let own_key = !config.s3_access_key_id.is_empty();
        if owner == Owner::Operator && own_key {
            builder = builder
                .with_access_key_id(&config.s3_access_key_id)
                .with_secret_access_key(&config.s3_secret_access_key);
        }
        // Without a key there is nothing to sign with; to ask the machine's metadata for one is not
        // what a package is worth.
        let has_key = own_key || self.shared.has(AmazonS3ConfigKey::AccessKeyId);
        let has_role = self.shared.has(AmazonS3ConfigKey::WebIdentityTokenFile)
            || self
                .shared
                .has(AmazonS3ConfigKey::ContainerCredentialsRelativeUri)
            || self
                .shared
                .has(AmazonS3ConfigKey::ContainerCredentialsFullUri);
        let signs = owner == Owner::Operator && (has_key || has_role);
        let in_environment = self.shared.has(AmazonS3ConfigKey::Region)
            || self.shared.has(AmazonS3ConfigKey::DefaultRegion);
        if !config.s3_region.is_empty() {
            builder = builder.with_region(&config.s3_region);
        } else if owner == Owner::Somebody || !in_environment {
            builder = builder.with_region(REGION);
        }
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let store = builder
            .with_bucket_name(&place.bucket)
            .with_virtual_hosted_style_request(config.s3_virtual_hosts)
            .with_skip_signature(!signs)
            // Whether it may be unencrypted is decided below, for each connection.
            .with_allow_http(true)
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: std::time::Duration::from_millis(50),
                    max_backoff: std::time::Duration::from_secs(2),
                    base: 2.0,
                },
                max_retries: RETRIES,
                retry_timeout: config.download(),
            })
            .with_http_connector(Connector {
                client,
                stall: config.stall(),
                seen: Arc::clone(seen),
            })
            .build();
        let store = store.map_err(|error| Error::Download {
            package: place.shown(),
            why: seen.why(&error),
        })?;
        let path = Path::parse(place.object.trim_start_matches('/'));
        let path = path.map_err(|_| Error::Name {
            what: place.object.chars().take(200).collect(),
            rule: "the name of an object",
        })?;
        Ok((store, path))
    }

    /// The address to ask, and whose it is.
    fn endpoint(&self, place: &Place) -> Result<(Option<String>, Owner), Error> {
        let config = &self.shared.config;
        check_bucket(&place.bucket)?;
        let own = config.s3_endpoint.trim_end_matches('/');
        let given = place.endpoint.trim().trim_end_matches('/');
        let host = |endpoint: &str| -> Result<(address::Target, Uri), Error> {
            let shown = || Refused(endpoint);
            let with_scheme = if endpoint.contains("://") {
                endpoint.to_owned()
            } else {
                format!("https://{endpoint}")
            };
            let uri: Uri = with_scheme.parse().map_err(|_| shown().into_error())?;
            let target = Policy::target(&uri).map_err(Error::Address)?;
            Ok((target, uri))
        };
        if given.is_empty() && own.is_empty() {
            return Ok((None, Owner::Operator));
        }
        let chosen = if given.is_empty() { own } else { given };
        let (target, uri) = host(chosen)?;
        let prefix = format!("{}.", place.bucket);
        let is_own = given.is_empty() || {
            let bare = target.host.strip_prefix(&prefix).unwrap_or(&target.host);
            let amazon = own.is_empty() && target.encrypted && bare.ends_with(".amazonaws.com");
            let same = !own.is_empty() && {
                let (ours, _) = host(own)?;
                (bare, target.port, target.encrypted) == (&*ours.host, ours.port, ours.encrypted)
            };
            amazon || same
        };
        let owner = if is_own {
            Owner::Operator
        } else {
            Owner::Somebody
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let scheme = if target.encrypted { "https" } else { "http" };
        // Some write the bucket before the host; then it is in the right place already.
        let bare = authority.strip_prefix(&prefix).unwrap_or(authority);
        let endpoint = if config.s3_virtual_hosts {
            format!("{scheme}://{prefix}{bare}")
        } else {
            format!("{scheme}://{bare}")
        };
        Ok((Some(endpoint), owner))
    }

    /// Whether the place is in the bucket that the platform keeps uploads in.
    pub(crate) fn is_upload_bucket(&self, place: &Place) -> Result<bool, Error> {
        let bucket = &self.shared.config.upload_bucket;
        if bucket.is_empty() || *bucket != place.bucket {
            return Ok(false);
        }
        let (_, owner) = self.endpoint(place)?;
        Ok(owner == Owner::Operator)
    }

    async fn client(&self, owner: Owner) -> Result<HttpClient, Error> {
        let cell = match owner {
            Owner::Operator => &self.shared.own,
            Owner::Somebody => &self.shared.foreign,
        };
        if let Some(client) = cell.get() {
            return Ok(client.clone());
        }
        let mut addresses = self.shared.addresses.clone();
        if owner == Owner::Operator && !self.shared.config.s3_endpoint.is_empty() {
            // Whoever configured it meant it.
            addresses
                .allowed
                .push(own_rule(&self.shared.config.s3_endpoint));
            if self.shared.config.s3_virtual_hosts {
                // Each bucket is a name of its own.
                addresses
                    .allowed
                    .push(below(&self.shared.config.s3_endpoint));
            }
        }
        let made = crate::cache::blocking(move || {
            let policy = Policy::new(&addresses).map_err(Error::Allowed)?;
            address::client(&policy, &addresses).map_err(Error::Certificates)
        });
        let client = made.await?;
        Ok(cell.get_or_init(|| client).clone())
    }
}

impl Shared {
    fn has(&self, key: AmazonS3ConfigKey) -> bool {
        self.environment.iter().any(|(known, _)| *known == key)
    }
}

/// The entry of a list of allowed addresses that stands for the operator's store.
fn own_rule(endpoint: &str) -> String {
    let endpoint = endpoint.trim().trim_end_matches('/');
    endpoint
        .strip_prefix("https://")
        .unwrap_or(endpoint)
        .to_owned()
}

/// The entry that stands for the names of its buckets.
fn below(endpoint: &str) -> String {
    let rule = own_rule(endpoint);
    match rule.strip_prefix("http://") {
        Some(host) => format!("http://*.{host}"),
        None => format!("*.{rule}"),
    }
}

/// An address that is none.
struct Refused<'a>(&'a str);

impl Refused<'_> {
    fn into_error(self) -> Error {
        Error::Address(address::Refused::Malformed {
            url: self.0.chars().take(200).collect(),
        })
    }
}

/// S3's rule for names of buckets. It keeps them from being more than a part of a path or of a
/// host's name.
fn check_bucket(bucket: &str) -> Result<(), Error> {
    let letters = bucket.bytes().all(|byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_')
    });
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let fine = (3..=63).contains(&bucket.len())
        && letters
        && !bucket.contains("..")
        && ends(bucket.bytes().next())
        && ends(bucket.bytes().next_back());
    if fine {
        return Ok(());
    }
    Err(Error::Name {
        what: bucket.chars().take(80).collect(),
        rule: "the name of a bucket: 3 to 63 small letters, digits, hyphens and dots",
    })
}
