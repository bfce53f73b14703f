//! What is common to all routes of the control port: limits, redirects, what is not there, the
//! document.

use std::panic::AssertUnwindSafe;

use axum::body::{Body as HttpBody, Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bugle_types::Code;
use futures_util::FutureExt as _;
use utoipa::openapi::{Info, License, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::answer;
use crate::{Class, Error, ErrorBody, explorer};

/// The largest request body, in bytes: what one transaction of the store may hold, with room for the
/// syntax around it.
pub const BODY_LIMIT: usize = 2 << 20;

/// A request's body, or why it could not be read. A handler decides when that matters.
#[derive(Debug)]
pub(crate) struct Body(Result<Bytes, Error>);

impl Body {
    pub(crate) fn read(self) -> Result<Bytes, Error> {
        self.0
    }
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        let declared = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > BODY_LIMIT as u64) {
            return Ok(Self(Err(too_large())));
        }
        Ok(Self(
            to_bytes(request.into_body(), BODY_LIMIT)
                .await
                .map_err(|_| too_large()),
        ))
    }
}

/// What the path holds in the place of a name. One that is not text names nothing, and is refused
/// like any other wrong name.
#[derive(Debug)]
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(path.map_or_else(
            |_| char::REPLACEMENT_CHARACTER.to_string(),
            |Path(segment)| segment,
        )))
    }
}

fn too_large() -> Error {
    let reason = format!("the request body is larger than {BODY_LIMIT} bytes");
    Error {
        class: Class::TooLarge,
        ..Error::parameter(reason)
    }
}

/// The document of all routes in `routes`.
pub fn document(routes: OpenApiRouter) -> OpenApi {
    complete(routes).into_openapi()
}

/// Makes the service of the control port out of its routes, whose state is applied.
pub fn build(routes: OpenApiRouter) -> axum::Router {
    let (router, document) = complete(routes).split_for_parts();
    let document = document
        .to_pretty_json()
        .expect("the document is made of JSON values");
    let document = Bytes::from(document);
    router
        .route(
            "/openapi.json",
            get(async move || ([(header::CONTENT_TYPE, "application/json")], document)),
        )
        .merge(explorer::router())
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(from_fn(contain))
}

fn complete(routes: OpenApiRouter) -> OpenApiRouter {
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    let mut info = Info::new("Bugle control API", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Functions, versions, reserved instances and Pod pools; and Bugle's own operator routes."
            .to_owned(),
    );
    info.license = Some(license);
    let own = OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info).build());
    own.merge(OpenApiRouter::new().routes(routes!(health)))
        .merge(routes)
}

/// Whether the process is alive.
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, description = "alive")))]
async fn health() {}

/// What every path that is not there answers, also with a method that is not there.
async fn not_found(method: Method, uri: Uri) -> Response {
    if let Some(target) = without_trailing_slash(&uri) {
        return redirect(&method, &target);
    }
    let plain = [(header::CONTENT_TYPE, "text/plain")];
    (StatusCode::NOT_FOUND, plain, "404 page not found").into_response()
}

fn without_trailing_slash(uri: &Uri) -> Option<String> {
    let path = uri
        .path()
        .strip_suffix('/')
        .filter(|path| !path.is_empty() && !path.ends_with('/'))?;
    // A path of two slashes would name another host.
    let path = path.trim_start_matches('/');
    Some(match uri.query() {
        Some(query) => format!("/{path}?{query}"),
        None => format!("/{path}"),
    })
}

fn redirect(method: &Method, target: &str) -> Response {
    if *method != Method::GET {
        let location = [(header::LOCATION, target)];
        return (StatusCode::TEMPORARY_REDIRECT, location).into_response();
    }
    let escaped = target
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&#34;");
    let page = format!("<a href=\"{escaped}\">Moved Permanently</a>.\n\n");
    let headers = [
        (header::LOCATION, target),
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    ];
    (StatusCode::MOVED_PERMANENTLY, headers, page).into_response()
}

/// A fault in a handler costs one request, never the connection (contract 2.1 `[rec]`).
async fn contain(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if let Ok(response) = AssertUnwindSafe(next.run(request)).catch_unwind().await {
        return response.map(HttpBody::new);
    }
    tracing::error!(%method, path, "a handler panicked");
    let body = ErrorBody {
        code: Code::GatewayInternal.number(),
        message: "internal error; the platform's log has the details".to_owned(),
    };
    answer(StatusCode::INTERNAL_SERVER_ERROR, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shortened(uri: &str) -> Option<String> {
        without_trailing_slash(&uri.parse().unwrap())
    }

    #[test]
    fn one_trailing_slash_is_redirected_and_never_to_another_host() {
        assert_eq!(shortened("/a/b/?x=1").as_deref(), Some("/a/b?x=1"));
        assert_eq!(
            shortened("//evil.example/").as_deref(),
            Some("/evil.example")
        );
        assert_eq!(shortened("/"), None);
        assert_eq!(shortened("/a//"), None);
        assert_eq!(shortened("/a"), None);
    }
}
