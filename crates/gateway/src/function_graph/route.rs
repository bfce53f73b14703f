//! Which function an invocation is for.

use bugle_types::{FunctionId, GraphUrn, TenantId};
use http::Method;
use percent_encoding::percent_decode_str;

use crate::failure::Failure;
use crate::route::not_found;

/// Whether the caller waits for the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sync,
    Async,
}

/// An invocation's path; its texts are still percent-encoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route {
    project: String,
    urn: String,
    pub(crate) kind: Kind,
}

impl Route {
    /// The invocation that a request is; none if it is something else.
    pub(crate) fn of(method: &Method, path: &str) -> Option<Self> {
        if *method != Method::POST {
            return None;
        }
        let (project, rest) = path.strip_prefix("/v2/")?.split_once('/')?;
        let (urn, kind) = rest.strip_prefix("fgs/functions/")?.split_once('/')?;
        let kind = match kind {
            "invocations" => Kind::Sync,
            "invocations-async" => Kind::Async,
            _ => return None,
        };
        (!project.is_empty() && !urn.is_empty()).then(|| Self {
            project: project.to_owned(),
            urn: urn.to_owned(),
            kind,
        })
    }

    /// The function version that is meant.
    pub(crate) fn function(&self) -> Result<FunctionId, Failure> {
        let decoded = |text: &str| {
            let text = percent_decode_str(text).decode_utf8();
            text.map(std::borrow::Cow::into_owned)
                .map_err(|_| Failure::bad_request("the path is not UTF-8 after percent-decoding"))
        };
        let project: TenantId = decoded(&self.project)?.parse()?;
        let text = decoded(&self.urn)?;
        // An alias is a well-formed version that does not exist.
        if text
            .rsplit(':')
            .next()
            .is_some_and(|last| last.starts_with('!'))
        {
            return Err(not_found(&text));
        }
        let urn = GraphUrn::parse(&text)?;
        urn.of(project).map_err(|other| {
            Failure::new(
                bugle_types::Code::NotFound,
                format!("the function is of the project {other}, not of the one in the path"),
            )
            .with_status(http::StatusCode::FORBIDDEN)
            .with_fss("FSS.0403")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invocations_are_told_from_everything_else() {
        let route = |path: &str| Route::of(&Method::POST, path);
        let sync = route("/v2/p1/fgs/functions/thumb/invocations").unwrap();
        assert_eq!(sync.kind, Kind::Sync);
        assert_eq!(
            sync.function().unwrap().to_string(),
            "p1/0@default@thumb/latest"
        );
        let escaped =
            "/v2/p1/fgs/functions/urn%3Afss%3Ax%3Ap1%3Afunction%3Aa%3Ab%3Av1/invocations-async";
        let escaped = route(escaped).unwrap();
        assert_eq!(escaped.kind, Kind::Async);
        assert_eq!(escaped.function().unwrap().to_string(), "p1/0@a@b/v1");
        for path in [
            "/v2/p1/fgs/functions",
            "/v2/p1/fgs/functions/f",
            "/v2/p1/fgs/functions/f/config",
            "/v2/p1/fgs/functions//invocations",
            "/v2//fgs/functions/f/invocations",
            "/v3/p1/fgs/functions/f/invocations",
        ] {
            assert_eq!(route(path), None, "{path}");
        }
        assert_eq!(
            Route::of(&Method::GET, "/v2/p/fgs/functions/f/invocations"),
            None
        );
    }

    #[test]
    fn aliases_and_functions_of_others_are_refused() {
        for (urn, code) in [
            ("f:!live", 150_424),
            ("p2:default:f", 200_404),
            ("1", 200_400),
        ] {
            let path = format!("/v2/p1/fgs/functions/{urn}/invocations");
            let route = Route::of(&Method::POST, &path).unwrap();
            assert_eq!(route.function().unwrap_err().code(), code, "{urn}");
        }
    }
}
