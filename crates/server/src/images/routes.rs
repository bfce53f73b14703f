//! The operator's routes to images.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRef, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bugle_api::ErrorBody;
use bugle_api::images::{
    ImageList, ImageObject, LoadAnswer, LoginRequest, PruneRequest, PullLine, PullRequest,
    RegistryList, RemovedImages,
};
use bugle_images::{
    ErrorKind, ImageError, ImageInfo, ImageStore, Login, LoginError, Needed, Prune, Pruned,
    Reference,
};
use bugle_store::Store;
use bugle_types::{Code, report};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt as _;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::progress;
use super::pulls::Watch;

/// What the routes look at.
#[derive(Clone)]
pub(crate) struct Images {
    pub(crate) images: ImageStore,
    /// Where functions are, which may need an image.
    pub(crate) functions: Arc<dyn Store>,
}

impl FromRef<Images> for ImageStore {
    fn from_ref(images: &Images) -> Self {
        images.images.clone()
    }
}

impl Images {
    /// The images that functions are made of.
    async fn needed(&self) -> Result<Needed, Refusal> {
        let used = bugle_registry::images_in_use(&*self.functions).await;
        let used = used.map_err(|error| {
            let text = format!(
                "the images that functions need cannot be read: {}",
                report(&error)
            );
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
        })?;
        let mut needed = Needed::default();
        for one in used {
            needed.add(&one.image, one.digest.as_deref(), one.function.to_string());
        }
        Ok(needed)
    }
}

/// The routes, with their part of the document.
pub(crate) fn router() -> OpenApiRouter<Images> {
    OpenApiRouter::new()
        .routes(routes!(list_images, pull_image, remove_image))
        .routes(routes!(load_images))
        .routes(routes!(prune_images))
        .routes(routes!(list_registries, log_in, log_out))
}

/// A refusal of these routes.
pub(super) struct Refusal(pub(super) StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.envelope())).into_response()
    }
}

impl Refusal {
    pub(super) fn envelope(&self) -> ErrorBody {
        let Self(status, message) = self;
        let code = if status.is_server_error() && *status != StatusCode::BAD_GATEWAY {
            Code::GatewayInternal
        } else {
            Code::InvalidUserParam
        };
        ErrorBody {
            code: code.number(),
            message: message.clone(),
        }
    }
}

impl From<ImageError> for Refusal {
    fn from(error: ImageError) -> Self {
        let status = match error.kind() {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Missing => StatusCode::NOT_FOUND,
            ErrorKind::Denied => StatusCode::FORBIDDEN,
            ErrorKind::Unavailable => StatusCode::BAD_GATEWAY,
            ErrorKind::Unusable => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, report(&error))
    }
}

impl From<LoginError> for Refusal {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Registry(error) => error.into(),
            error => Self(StatusCode::INTERNAL_SERVER_ERROR, report(&error)),
        }
    }
}

fn bad_request(text: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, text.into())
}

#[expect(clippy::needless_pass_by_value, reason = "it is given away")]
fn bad_query(error: QueryRejection) -> Refusal {
    bad_request(error.body_text())
}

/// Reads a JSON body, whatever type it is declared to have, as everywhere on this port.
fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Refusal> {
    let body = body.map_err(|error| bad_request(error.body_text()))?;
    // The parser repeats what it could not read, which may be a password.
    serde_json::from_slice(&body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        bad_request(format!(
            "the body is not the JSON that is wanted here, at line {line} column {column}"
        ))
    })
}

/// The images of this machine, and the pulls that run.
#[utoipa::path(
    get,
    path = "/bugle/v1/images",
    tag = "images",
    responses((status = 200, body = ImageList, description = "images and pulls"))
)]
async fn list_images(State(store): State<ImageStore>) -> Json<ImageList> {
    let mut images: Vec<_> = store.list().into_iter().map(image).collect();
    images.sort_by(|one, other| one.names.cmp(&other.names));
    Json(ImageList {
        images,
        pulls: store.pulls().into_iter().map(progress).collect(),
    })
}

pub(super) fn image(info: ImageInfo) -> ImageObject {
    ImageObject {
        digest: info.digest.to_string(),
        names: info.references,
        size: info.bytes,
        added: info.added,
        used: info.used,
        in_use: info.in_use,
        complete: info.whole,
        loaded: info.origin == bugle_images::Origin::Loaded,
    }
}

/// Pulls an image as its name means it now. The answer tells how far it is, one JSON object a line,
/// and ends with the image or the error. Whoever goes away does not stop the pull.
#[utoipa::path(
    post,
    path = "/bugle/v1/images",
    tag = "images",
    request_body = PullRequest,
    responses(
        (
            status = 200,
            body = PullLine,
            content_type = "application/x-ndjson",
            description = "how far it is, then the image or the error"
        ),
        (status = 400, body = ErrorBody, description = "4104: no reference")
    )
)]
async fn pull_image(
    State(store): State<ImageStore>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let request: PullRequest = read(body)?;
    let reference: Reference = request.reference.parse()?;
    let shown = reference.to_string();
    let pulling = {
        let store = store.clone();
        async move { store.pull(&request.reference).await }
    };
    let watch = Watch {
        store,
        shown,
        pulling: Some(Box::pin(pulling)),
    };
    let lines = stream::unfold(watch, async |mut watch| {
        let line = watch.next().await?;
        let mut text = serde_json::to_vec(&line).expect("wire shapes are made of JSON values");
        text.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(text)), watch))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// Which image is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// A name, or a digest.
    name: String,
}

/// Removes a name, and the image with it where nothing else means it; or the image with a digest.
#[utoipa::path(
    delete,
    path = "/bugle/v1/images",
    tag = "images",
    params(Which),
    responses(
        (status = 200, body = RemovedImages, description = "what is gone"),
        (status = 400, body = ErrorBody, description = "4104: no reference"),
        (status = 404, body = ErrorBody, description = "4104: no such image"),
        (
            status = 409,
            body = ErrorBody,
            description = "4104: an instance runs from it, or it came from a file and a function needs it"
        )
    )
)]
async fn remove_image(
    State(images): State<Images>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<RemovedImages>, Refusal> {
    let Query(Which { name }) = which.map_err(bad_query)?;
    let needed = images.needed().await?;
    Ok(Json(removed(&images.images.remove(&name, &needed).await?)))
}

fn removed(pruned: &Pruned) -> RemovedImages {
    RemovedImages {
        images: pruned.images.iter().map(ToString::to_string).collect(),
        freed: pruned.bytes,
    }
}

/// How the image of an archive shall be called.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Called {
    /// A reference with a tag; needed where the archive does not say it.
    name: Option<String>,
}

/// Reads the images of a `docker-archive` or an `oci-archive`, which is the body.
#[utoipa::path(
    post,
    path = "/bugle/v1/images/archive",
    tag = "images",
    params(Called),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses(
        (status = 200, body = LoadAnswer, description = "the images"),
        (status = 400, body = ErrorBody, description = "4104: a wrong name, or half an archive"),
        (status = 413, body = ErrorBody, description = "4104: larger than images may be"),
        (status = 422, body = ErrorBody, description = "4104: no archive of images for this machine")
    )
)]
async fn load_images(
    State(store): State<ImageStore>,
    called: Result<Query<Called>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<LoadAnswer>, Refusal> {
    let Query(Called { name }) = called.map_err(bad_query)?;
    let name = name.as_deref().map(str::parse::<Reference>).transpose()?;
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > store.largest_archive()) {
        return Err(too_large(&store));
    }
    let file = receive(&store, body).await?;
    let images = store.load(file, name.as_ref()).await?;
    Ok(Json(LoadAnswer {
        images: images.into_iter().map(image).collect(),
    }))
}

fn too_large(store: &ImageStore) -> Refusal {
    let most = store.largest_archive() >> 20;
    let text = format!("the archive is larger than {most} MiB (images.max_image_mib)");
    Refusal(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// Writes a body to a nameless file: the table of contents of an archive may be at its end.
async fn receive(store: &ImageStore, body: Body) -> Result<std::fs::File, Refusal> {
    let failed = |error: &io::Error| {
        let text = format!("the archive cannot be kept: {error}");
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
    };
    let most = store.largest_archive();
    let mut file = tokio::fs::File::from_std(store.incoming().await?);
    let mut length = 0;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| bad_request("the archive ended before its end"))?;
        length += piece.len() as u64;
        if length > most {
            return Err(too_large(store));
        }
        file.write_all(&piece)
            .await
            .map_err(|error| failed(&error))?;
    }
    file.flush().await.map_err(|error| failed(&error))?;
    Ok(file.into_std().await)
}

/// Removes images that are not needed, and layers that no image has. What came from a file stays while
/// a function needs it.
#[utoipa::path(
    post,
    path = "/bugle/v1/images/prune",
    tag = "images",
    request_body = PruneRequest,
    responses(
        (status = 200, body = RemovedImages, description = "what is gone"),
        (status = 400, body = ErrorBody, description = "4104: not the JSON that is wanted")
    )
)]
async fn prune_images(
    State(images): State<Images>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<RemovedImages>, Refusal> {
    let PruneRequest { all } = read(body)?;
    let which = if all { Prune::Unused } else { Prune::Untagged };
    let needed = images.needed().await?;
    let pruned = images.images.prune(which, &needed).await?;
    Ok(Json(removed(&pruned)))
}

/// The registries for which credentials are kept.
#[utoipa::path(
    get,
    path = "/bugle/v1/registries",
    tag = "images",
    responses((status = 200, body = RegistryList, description = "the registries"))
)]
async fn list_registries(State(store): State<ImageStore>) -> Json<RegistryList> {
    known_registries(&store)
}

fn known_registries(store: &ImageStore) -> Json<RegistryList> {
    Json(RegistryList {
        registries: store.logins(),
    })
}

/// Keeps credentials for a registry, after it accepted them.
#[utoipa::path(
    put,
    path = "/bugle/v1/registries",
    tag = "images",
    request_body = LoginRequest,
    responses(
        (status = 200, body = RegistryList, description = "they are kept, for these"),
        (status = 400, body = ErrorBody, description = "4104: no registry, name or password"),
        (status = 403, body = ErrorBody, description = "4104: the registry does not accept them"),
        (status = 502, body = ErrorBody, description = "4104: the registry cannot be asked")
    )
)]
async fn log_in(
    State(store): State<ImageStore>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<RegistryList>, Refusal> {
    let request: LoginRequest = read(body)?;
    let login = Login::new(request.username, request.password);
    let login = login.map_err(|error| bad_request(error.to_string()))?;
    store.login(&request.registry, login).await?;
    Ok(known_registries(&store))
}

/// Which registry is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Whose {
    /// Its host, with its port where it has one.
    registry: String,
}

/// Forgets the credentials for a registry.
#[utoipa::path(
    delete,
    path = "/bugle/v1/registries",
    tag = "images",
    params(Whose),
    responses(
        (status = 200, body = RegistryList, description = "those that are left"),
        (status = 400, body = ErrorBody, description = "4104: no registry"),
        (status = 404, body = ErrorBody, description = "4104: there were none")
    )
)]
async fn log_out(
    State(store): State<ImageStore>,
    whose: Result<Query<Whose>, QueryRejection>,
) -> Result<Json<RegistryList>, Refusal> {
    let Query(Whose { registry }) = whose.map_err(bad_query)?;
    if store.logout(&registry).await? {
        return Ok(known_registries(&store));
    }
    let text = format!("there are no credentials for {registry:?}");
    Err(Refusal(StatusCode::NOT_FOUND, text))
}
