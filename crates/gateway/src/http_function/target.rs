//! Which function a request to a web server is for, and which path of it.

use std::borrow::Cow;
use std::ops::Range;

use bugle_types::{Code, FunctionId, FunctionSpec};
use http::Uri;
use http::request::Parts;
use percent_encoding::percent_decode_str;

use crate::failure::Failure;
use crate::route::from_short;

/// What the paths of functions begin with.
const ROOT: &str = "/functions/";

/// The platform's own paths at a function's server: no caller reaches them.
const PLATFORM: [&str; 4] = ["/init", "/invoke", "/pre-stop", "/shutdown"];

/// The function that a request is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    tenant: String,
    service: String,
    /// With its version, if one is named.
    function: String,
    /// Which part of the request's path names the function; empty where the host does.
    prefix: Range<usize>,
}

/// A request's path as the function's server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    /// What names the function in front of the path, if anything does.
    pub(crate) prefix: Option<&'a str>,
    /// Perhaps empty, else it begins with a slash.
    pub(crate) path: &'a str,
    /// The query as it came.
    pub(crate) query: Option<&'a str>,
}

impl Target {
    /// The function's server that a request is for; none if it is for the gateway itself.
    pub(crate) fn of(parts: &Parts, domain: &str) -> Option<Self> {
        let path = parts.uri.path();
        if let Some(rest) = path.strip_prefix(ROOT) {
            return Self::of_path(rest);
        }
        if domain.is_empty() {
            return None;
        }
        let host = match parts.uri.host() {
            Some(host) => host,
            None => parts.headers.get(http::header::HOST)?.to_str().ok()?,
        };
        Self::of_host(host, domain)
    }

    fn of_path(rest: &str) -> Option<Self> {
        let mut segments = rest.splitn(4, '/');
        let mut segment = || segments.next().filter(|segment| !segment.is_empty());
        let (tenant, service, function) = (segment()?, segment()?, segment()?);
        let end = ROOT.len() + tenant.len() + service.len() + function.len() + 2;
        Some(Self {
            tenant: tenant.to_owned(),
            service: service.to_owned(),
            function: function.to_owned(),
            prefix: 0..end,
        })
    }

    /// `{function}.{service}.{tenant}.{domain}`, perhaps with a port.
    fn of_host(host: &str, domain: &str) -> Option<Self> {
        let host = host.split_once(':').map_or(host, |(host, _)| host);
        let labels = host.len().checked_sub(domain.len())?;
        let (labels, ending) = (host.get(..labels)?, host.get(labels..)?);
        if !ending.eq_ignore_ascii_case(domain) {
            return None;
        }
        let mut labels = labels.strip_suffix('.')?.split('.');
        let (function, service, tenant) = (labels.next()?, labels.next()?, labels.next()?);
        labels.next().is_none().then(|| Self {
            tenant: tenant.to_owned(),
            service: service.to_owned(),
            function: function.to_owned(),
            prefix: 0..0,
        })
    }

    /// The function version that is meant.
    pub(crate) fn function(&self) -> Result<FunctionId, Failure> {
        let Self {
            tenant,
            service,
            function,
            ..
        } = self;
        from_short(tenant, service, function)
    }

    /// The path of a request at the function's server.
    pub(crate) fn place<'a>(&self, uri: &'a Uri) -> Place<'a> {
        let path = uri.path();
        Place {
            prefix: (!self.prefix.is_empty()).then(|| &path[self.prefix.clone()]),
            path: &path[self.prefix.end..],
            query: uri.query(),
        }
    }
}

impl Place<'_> {
    /// The target of the request at the function's server.
    pub(crate) fn to_uri(self) -> Result<Uri, Failure> {
        let path = if self.path.is_empty() { "/" } else { self.path };
        let text = match self.query {
            None => Cow::Borrowed(path),
            Some(query) => Cow::Owned(format!("{path}?{query}")),
        };
        // It was a part of a target that was valid.
        Uri::try_from(&*text).map_err(|error| Failure::bad_request(format!("the path: {error}")))
    }
}

/// Refuses the paths at which the platform speaks with a function, in every spelling that a web
/// server may take for them: percent-encoded, with dots and doubled or trailing slashes, with
/// parameters, in any case.
pub(crate) fn refuse_platform_paths(path: &str, spec: &FunctionSpec) -> Result<(), Failure> {
    // Nearly all paths differ in the first letter already.
    let path = normal(path);
    let initializer = spec.initializer.as_ref().map(|hook| hook.handler.as_str());
    let is_platforms = PLATFORM
        .into_iter()
        .chain(initializer)
        .any(|own| path.eq_ignore_ascii_case(own));
    if !is_platforms {
        return Ok(());
    }
    Err(Failure::new(
        Code::NotFound,
        format!(
            "{path} is where the platform speaks with the function; callers have no part in it"
        ),
    ))
}

/// The path that a lenient server makes of this one.
fn normal(path: &str) -> String {
    let mut decoded = percent_decode_str(path).decode_utf8_lossy();
    // Some servers decode what was encoded twice.
    if decoded.contains('%') {
        decoded = Cow::Owned(
            percent_decode_str(&decoded)
                .decode_utf8_lossy()
                .into_owned(),
        );
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in decoded.split(['/', '\\']) {
        let part = part
            .split([';', '?', '#', '\0'])
            .next()
            .unwrap_or("")
            .trim();
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const DOMAIN: &str = "fn.localhost";

    fn target(uri: &str, host: &str) -> Option<(String, String)> {
        let request = Request::get(uri).header("host", host).body(()).unwrap();
        let (parts, ()) = request.into_parts();
        let target = Target::of(&parts, DOMAIN)?;
        let place = target.place(&parts.uri);
        let uri = place.to_uri().unwrap().to_string();
        let function = target.function().map(|id| id.to_string());
        Some((
            function.unwrap_or_else(|error| error.code().to_string()),
            uri,
        ))
    }

    fn found(function: &str, uri: &str) -> (String, String) {
        (function.to_owned(), uri.to_owned())
    }

    #[test]
    fn a_path_names_the_function_and_the_rest_is_the_functions() {
        for (uri, function, rest) in [
            ("/functions/t/svc/f", "t/0@svc@f/latest", "/"),
            ("/functions/t/svc/f/", "t/0@svc@f/latest", "/"),
            (
                "/functions/t/svc/f/a//b?c=/d",
                "t/0@svc@f/latest",
                "/a//b?c=/d",
            ),
            ("/functions/t/svc/f?x=1", "t/0@svc@f/latest", "/?x=1"),
            ("/functions/t/svc/f:v1/a", "t/0@svc@f/v1", "/a"),
            ("/functions/t/svc/f%3Av1/%2e%2E", "t/0@svc@f/v1", "/%2e%2E"),
            ("http://x/functions/t/svc/f/a", "t/0@svc@f/latest", "/a"),
            ("/functions/t/s_c/f/a", "200400", "/a"),
        ] {
            assert_eq!(target(uri, "x"), Some(found(function, rest)), "{uri}");
        }
        for uri in [
            "/functions/",
            "/functions/t/svc",
            "/functions//svc/f",
            "/function/t/s/f",
        ] {
            assert_eq!(target(uri, "x"), None, "{uri}");
        }
    }

    #[test]
    fn a_host_below_the_domain_names_the_function() {
        for (host, function) in [
            ("f.svc.t.fn.localhost", "t/0@svc@f/latest"),
            ("f.svc.t.FN.localhost:8888", "t/0@svc@f/latest"),
        ] {
            assert_eq!(
                target("/a?b", host),
                Some(found(function, "/a?b")),
                "{host}"
            );
        }
        for host in [
            "fn.localhost",
            "a.b.fn.localhost",
            "a.b.c.d.fn.localhost",
            "a.b.cfn.localhost",
            "é",
        ] {
            let request = Request::get("/").header("host", host).body(()).unwrap();
            let (parts, ()) = request.into_parts();
            assert_eq!(Target::of(&parts, DOMAIN), None, "{host}");
        }
    }

    #[test]
    fn the_platforms_paths_are_seen_in_every_spelling() {
        for path in [
            "/init",
            "/Invoke",
            "/%69nit",
            "/%2569nit",
            "//init",
            "/./init",
            "/a/../init",
            "/init/",
            "/init;a=1",
            "/init%00",
            "/invoke%2f",
            "/pre-stop",
            "/shutdown",
            "\\init",
            "/init%20",
            "/%2e/init",
            "/x/%2e%2e/init",
            "/init%3Fa",
        ] {
            assert!(
                PLATFORM
                    .iter()
                    .any(|own| normal(path).eq_ignore_ascii_case(own)),
                "{path} is {}",
                normal(path)
            );
        }
        for path in ["", "/", "/initial", "/api/init", "/invoke/x", "/init.html"] {
            assert!(!PLATFORM.contains(&&*normal(path)), "{path}");
        }
    }
}
