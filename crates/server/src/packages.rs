//! Uploaded code packages: their routes on the control port, and the task that removes those which
//! nobody uses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bugle_api::operator::{PackageInfo, PackageList};
use bugle_api::{Class, ErrorBody, S3CodePath, Segment};
use bugle_artifacts::{Error, Packages, Sha512, UPLOADED, UPLOADED_BUCKET, Uploaded};
use bugle_store::Store;
use bugle_types::{Code, TenantId};
use futures_util::{Stream, StreamExt as _, stream};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// How often it is looked which packages are in use.
const SWEEP: Duration = Duration::from_mins(5);

/// How long an upload may pause.
const PAUSE: Duration = Duration::from_secs(30);

/// The usual variables that say who asks an object store.
pub(crate) fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("AWS_"))
        .collect()
}

/// What the routes look at.
pub(crate) struct Uploads {
    packages: Packages,
    store: Arc<dyn Store>,
    cached_bytes: Gauge,
    cached: Gauge,
}

impl std::fmt::Debug for Uploads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uploads").finish_non_exhaustive()
    }
}

impl Uploads {
    /// Registers the metrics.
    pub(crate) fn new(packages: Packages, store: Arc<dyn Store>, metrics: &mut Registry) -> Self {
        let (cached_bytes, cached) = (Gauge::default(), Gauge::default());
        metrics.register(
            "bugle_packages_cache_bytes",
            "What unpacked code packages take on the disk",
            Gauge::clone(&cached_bytes),
        );
        metrics.register(
            "bugle_packages_cached",
            "Unpacked code packages",
            Gauge::clone(&cached),
        );
        Self {
            packages,
            store,
            cached_bytes,
            cached,
        }
    }

    async fn in_use(&self) -> Result<BTreeSet<(TenantId, Sha512)>, bugle_store::Error> {
        let objects = bugle_registry::objects_in_use(&*self.store, UPLOADED).await?;
        let known = objects.into_iter();
        // What is no digest was never uploaded.
        Ok(known
            .filter_map(|(tenant, object)| Some((tenant, object.parse().ok()?)))
            .collect())
    }

    async fn sweep(&self) {
        let (bytes, count) = self.packages.cached();
        self.cached_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.cached.set(i64::try_from(count).unwrap_or(i64::MAX));
        let used = match self.in_use().await {
            Ok(used) => used,
            Err(error) => {
                tracing::warn!(%error, "the packages in use cannot be read");
                return;
            }
        };
        match self.packages.uploads().sweep(&used, Instant::now()).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "unused packages are removed"),
            Err(error) => {
                let reason = bugle_types::report(&error);
                tracing::warn!(reason, "unused packages cannot be removed");
            }
        }
    }
}

/// Removes the packages that nobody uses, until `stop`.
pub(crate) async fn sweep(uploads: Arc<Uploads>, stop: CancellationToken) {
    let mut turns = tokio::time::interval(SWEEP);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick is at once, when others have more to do.
    turns.tick().await;
    let work = async {
        loop {
            turns.tick().await;
            uploads.sweep().await;
        }
    };
    stop.run_until_cancelled(work).await;
}

/// The routes, with their part of the document.
pub(crate) fn router() -> OpenApiRouter<Arc<Uploads>> {
    OpenApiRouter::new()
        .routes(routes!(upload_package, list_packages))
        .routes(routes!(
            put_package,
            download_package,
            look_for_package,
            remove_package
        ))
}

/// What went wrong, for the person who asked. What is the platform's own goes to its log.
fn refused(error: &Error) -> bugle_api::Error {
    let message = bugle_types::report(error);
    let Some(code) = error.code() else {
        tracing::warn!(reason = message, "a package cannot be stored");
        let message = "the store of packages cannot be used; its reason is in the platform's log";
        return bugle_api::Error::other(Code::EtcdError, message);
    };
    let class = match (code, error) {
        (_, Error::NotUploaded { .. }) => Class::NotFound,
        (Code::ZipFileSizeError, _) => Class::TooLarge,
        _ => Class::Field,
    };
    bugle_api::Error {
        code,
        message,
        class,
    }
}

fn tenant(headers: &HeaderMap) -> Result<TenantId, bugle_api::Error> {
    Ok(bugle_api::identity::identify(headers)?.tenant)
}

fn digest(segment: &str) -> Result<Sha512, bugle_api::Error> {
    segment.parse().map_err(|error| refused(&error))
}

fn shown(uploaded: &Uploaded) -> PackageInfo {
    let sha512 = uploaded.sha512.to_string();
    PackageInfo {
        bytes: uploaded.bytes,
        s3_code_path: S3CodePath {
            bucket_id: UPLOADED_BUCKET.to_owned(),
            object_id: sha512.clone(),
            bucket_url: UPLOADED.to_owned(),
            sha512: sha512.clone(),
            ..S3CodePath::default()
        },
        sha512,
    }
}

/// The body as it comes, for as long as it comes.
fn chunks(body: Body) -> impl Stream<Item = Result<axum::body::Bytes, ()>> + Send {
    stream::unfold(body.into_data_stream(), |mut body: BodyDataStream| async {
        let chunk = tokio::time::timeout(PAUSE, body.next()).await;
        let chunk = match chunk {
            Err(_) => Err(()),
            Ok(next) => next?.map_err(|_| ()),
        };
        Some((chunk, body))
    })
}

async fn store(
    uploads: &Uploads,
    headers: &HeaderMap,
    expected: Option<Sha512>,
    body: Body,
) -> Result<Response, bugle_api::Error> {
    let tenant = tenant(headers)?;
    let max = uploads.packages.uploads().max_package_bytes();
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(bytes) = length.filter(|length| *length > max) {
        let error = bugle_artifacts::archive::Error::PackageTooLarge { bytes, max };
        return Err(refused(&error.into()));
    }
    let stored = uploads
        .packages
        .uploads()
        .put(&tenant, expected.as_ref(), chunks(body))
        .await;
    let stored = stored.map_err(|error| match error {
        Error::Interrupted => bugle_api::Error::field("the upload ended before it was complete"),
        error => refused(&error),
    })?;
    // It is unpacked now: whoever sent it learns what is wrong with it, and its first start is fast.
    if let Err(error) = uploads.packages.check_upload(&tenant, &stored.sha512).await {
        // What the platform is to blame for says nothing against the package.
        let removed = match error.code() {
            Some(_) => {
                uploads
                    .packages
                    .uploads()
                    .delete(&tenant, &stored.sha512)
                    .await
            }
            None => Ok(()),
        };
        if let Err(error) = removed {
            tracing::warn!(reason = bugle_types::report(&error), "a bad package stays");
        }
        return Err(refused(&error));
    }
    Ok((StatusCode::CREATED, axum::Json(shown(&stored))).into_response())
}

/// Stores a code package.
#[utoipa::path(
    post,
    path = "/bugle/v1/packages",
    tag = "packages",
    params(("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "a zip, tar.gz or tar.zst"),
    responses(
        (status = 201, body = PackageInfo, description = "it is stored, or was already"),
        (status = 400, body = ErrorBody, description = "4127 to 4129 or 4104: it cannot be used"),
        (status = 413, body = ErrorBody, description = "4130: it is too large"),
        (status = 500, body = ErrorBody, description = "the store cannot be used"),
    )
)]
async fn upload_package(
    State(uploads): State<Arc<Uploads>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, bugle_api::Error> {
    store(&uploads, &headers, None, body).await
}

/// Stores a code package whose digest is known.
#[utoipa::path(
    put,
    path = "/bugle/v1/packages/{sha512}",
    tag = "packages",
    params(
        ("sha512" = String, Path, description = "what `sha512sum` prints of the package"),
        ("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "a zip, tar.gz or tar.zst"),
    responses(
        (status = 201, body = PackageInfo, description = "it is stored, or was already"),
        (status = 400, body = ErrorBody, description = "4127 to 4129 or 4104: it cannot be used, or is another one"),
        (status = 413, body = ErrorBody, description = "4130: it is too large"),
        (status = 500, body = ErrorBody, description = "the store cannot be used"),
    )
)]
async fn put_package(
    State(uploads): State<Arc<Uploads>>,
    headers: HeaderMap,
    Segment(sha512): Segment,
    body: Body,
) -> Result<Response, bugle_api::Error> {
    store(&uploads, &headers, Some(digest(&sha512)?), body).await
}

/// The packages of the tenant.
#[utoipa::path(
    get,
    path = "/bugle/v1/packages",
    tag = "packages",
    params(("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent")),
    responses(
        (status = 200, body = PackageList, description = "the packages"),
        (status = 400, body = ErrorBody, description = "4104: a wrong tenant"),
        (status = 500, body = ErrorBody, description = "the store cannot be used"),
    )
)]
async fn list_packages(
    State(uploads): State<Arc<Uploads>>,
    headers: HeaderMap,
) -> Result<axum::Json<PackageList>, bugle_api::Error> {
    let listed = uploads.packages.uploads().list(&tenant(&headers)?).await;
    let listed = listed.map_err(|error| refused(&error))?;
    let packages = listed.iter().map(shown).collect();
    Ok(axum::Json(PackageList { packages }))
}

/// The bytes of a package.
#[utoipa::path(
    get,
    path = "/bugle/v1/packages/{sha512}",
    tag = "packages",
    params(
        ("sha512" = String, Path, description = "what `sha512sum` prints of the package"),
        ("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent"),
    ),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>, description = "the package"),
        (status = 400, body = ErrorBody, description = "4104: no digest"),
        (status = 404, body = ErrorBody, description = "4104: the tenant has no such package"),
        (status = 500, body = ErrorBody, description = "the store cannot be used"),
    )
)]
async fn download_package(
    State(uploads): State<Arc<Uploads>>,
    headers: HeaderMap,
    Segment(sha512): Segment,
) -> Result<Response, bugle_api::Error> {
    let (tenant, sha512) = (tenant(&headers)?, digest(&sha512)?);
    let found = uploads.packages.uploads().get(&tenant, &sha512).await;
    let (bytes, chunks) = found.map_err(|error| refused(&error))?;
    Ok((headers_of(bytes), Body::from_stream(chunks)).into_response())
}

/// Whether there is a package, and how long it is.
#[utoipa::path(
    head,
    path = "/bugle/v1/packages/{sha512}",
    tag = "packages",
    params(
        ("sha512" = String, Path, description = "what `sha512sum` prints of the package"),
        ("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent"),
    ),
    responses(
        (status = 200, description = "it is there; `Content-Length` is its length"),
        (status = 400, description = "no digest"),
        (status = 404, description = "the tenant has no such package"),
        (status = 500, description = "the store cannot be used"),
    )
)]
async fn look_for_package(
    State(uploads): State<Arc<Uploads>>,
    headers: HeaderMap,
    Segment(sha512): Segment,
) -> Result<Response, bugle_api::Error> {
    let (tenant, sha512) = (tenant(&headers)?, digest(&sha512)?);
    let found = uploads.packages.uploads().find(&tenant, &sha512).await;
    let found = found.map_err(|error| refused(&error))?;
    Ok(headers_of(found.bytes).into_response())
}

fn headers_of(bytes: u64) -> [(header::HeaderName, String); 2] {
    [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, bytes.to_string()),
    ]
}

/// Removes a package that no version uses.
#[utoipa::path(
    delete,
    path = "/bugle/v1/packages/{sha512}",
    tag = "packages",
    params(
        ("sha512" = String, Path, description = "what `sha512sum` prints of the package"),
        ("X-Tenant-Id" = Option<String>, Header, description = "tenant; `default` when absent"),
    ),
    responses(
        (status = 204, description = "it is gone"),
        (status = 400, body = ErrorBody, description = "4104: no digest, or a version uses it"),
        (status = 404, body = ErrorBody, description = "4104: the tenant has no such package"),
        (status = 500, body = ErrorBody, description = "the store cannot be used"),
    )
)]
async fn remove_package(
    State(uploads): State<Arc<Uploads>>,
    headers: HeaderMap,
    Segment(sha512): Segment,
) -> Result<StatusCode, bugle_api::Error> {
    let package = (tenant(&headers)?, digest(&sha512)?);
    let used = uploads.in_use().await.map_err(|error| {
        tracing::warn!(%error, "the packages in use cannot be read");
        bugle_api::Error::other(Code::EtcdError, "the store cannot be read")
    })?;
    if used.contains(&package) {
        return Err(bugle_api::Error::field(
            "a version of a function uses the package; delete the version first",
        ));
    }
    let (tenant, sha512) = package;
    let removed = uploads.packages.uploads().delete(&tenant, &sha512).await;
    removed.map_err(|error| refused(&error))?;
    Ok(StatusCode::NO_CONTENT)
}
