//! The API explorer at `/docs`: one page of our own that reads `/openapi.json`. Nothing is loaded
//! from anywhere else, so it works without internet, and the policy forbids it.

use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use axum::routing::get;

const PAGE: &str = include_str!("explorer/page.html");
const SCRIPT: &str = include_str!("explorer/script.js");
const STYLE: &str = include_str!("explorer/style.css");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) fn router() -> axum::Router {
    axum::Router::new()
        .route(
            "/docs",
            get(async || asset("text/html; charset=utf-8", PAGE)),
        )
        .route(
            "/docs/script.js",
            get(async || asset("text/javascript; charset=utf-8", SCRIPT)),
        )
        .route(
            "/docs/style.css",
            get(async || asset("text/css; charset=utf-8", STYLE)),
        )
}

fn asset(content_type: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text)
}
