//! Which request is for what: paths of the data plane, and the function version a path names.

use std::borrow::Cow;

use bugle_types::{Code, FunctionId, FunctionName, FunctionUrn, TenantId, Version};
use http::Method;
use percent_encoding::percent_decode_str;

use crate::failure::Failure;

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// A call of a function.
    Call(Target<'a>),
    /// Is the gateway alive and taking calls?
    Health,
    /// What the platform offers to drivers of the distributed SDK.
    Capabilities,
    /// Are the other components alive?
    Components,
    /// Nothing that is served here.
    Unknown,
}

/// The function that a path names; still percent-encoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// By its URN.
    Urn(&'a str),
    /// In the short form.
    Short {
        tenant: &'a str,
        namespace: &'a str,
        function: &'a str,
    },
}

impl<'a> Route<'a> {
    pub(crate) fn of(method: &Method, path: &'a str) -> Self {
        if *method == Method::POST {
            return Target::of(path).map_or(Self::Unknown, Self::Call);
        }
        if *method != Method::GET && *method != Method::HEAD {
            return Self::Unknown;
        }
        match path {
            "/healthz" => Self::Health,
            "/serverless/v1/capabilities" => Self::Capabilities,
            "/serverless/v1/componentshealth" => Self::Components,
            _ => Self::Unknown,
        }
    }
}

impl<'a> Target<'a> {
    fn of(path: &'a str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix("/serverless/v1/functions/") {
            let urn = rest.strip_suffix("/invocations")?;
            return (!urn.is_empty() && !urn.contains('/')).then_some(Self::Urn(urn));
        }
        let rest = path.strip_prefix("/invocations/")?;
        let mut segments = rest.strip_suffix('/').unwrap_or(rest).split('/');
        let short = Self::Short {
            tenant: segments.next()?,
            namespace: segments.next()?,
            function: segments.next()?,
        };
        segments.next().is_none().then_some(short)
    }

    /// The function version that the path names.
    pub(crate) fn function(&self) -> Result<FunctionId, Failure> {
        match self {
            Self::Urn(urn) => from_urn(&decoded(urn)?),
            Self::Short {
                tenant,
                namespace,
                function,
            } => from_short(tenant, namespace, function),
        }
    }
}

fn decoded(text: &str) -> Result<Cow<'_, str>, Failure> {
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| Failure::bad_request("the path is not UTF-8 after percent-decoding"))
}

fn from_urn(text: &str) -> Result<FunctionId, Failure> {
    match text.parse::<FunctionUrn>() {
        Ok(urn) => Ok(FunctionId::from_urn(urn)),
        // A well-formed URN whose qualifier cannot be a version names nothing that exists, which
        // is another answer than a URN that is malformed.
        Err(error) => match text.rsplit_once(':') {
            Some((unqualified, _)) if names_no_version(unqualified) => Err(not_found(text)),
            _ => Err(error.into()),
        },
    }
}

fn names_no_version(text: &str) -> bool {
    text.parse::<FunctionUrn>()
        .is_ok_and(|urn| urn.version.is_none())
}

pub(crate) fn from_short(
    tenant: &str,
    namespace: &str,
    function: &str,
) -> Result<FunctionId, Failure> {
    let (namespace, function) = (decoded(namespace)?, decoded(function)?);
    let (name, version) = match function.split_once(':') {
        Some((name, version)) => (name, Some(version)),
        None => (&*function, None),
    };
    let tenant: TenantId = decoded(tenant)?.parse()?;
    let name: FunctionName = format!("0@{namespace}@{name}").parse()?;
    let version = match version.map(str::parse) {
        None => Version::Draft,
        Some(Ok(version)) => version,
        Some(Err(_)) => return Err(not_found(&format!("{tenant}/{name}"))),
    };
    Ok(FunctionId {
        tenant,
        product: None,
        name,
        version,
    })
}

/// There is no such function, or no such version of it.
pub(crate) fn not_found(function: &str) -> Failure {
    Failure::new(
        Code::FunctionMetadataNotFound,
        format!("function metadata not found: {function}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(path: &str) -> Result<String, u32> {
        let Route::Call(target) = Route::of(&Method::POST, path) else {
            panic!("{path} is no call");
        };
        target
            .function()
            .map(|id| id.to_string())
            .map_err(|failure| failure.code())
    }

    fn urn(urn: &str) -> Result<String, u32> {
        function(&format!("/serverless/v1/functions/{urn}/invocations"))
    }

    #[test]
    fn both_forms_of_the_path_name_the_same_function() {
        let expected = Ok("default/0@svc@hello/latest".to_owned());
        for text in [
            "sn:cn:yrk:default:function:0@svc@hello",
            "sn:cn:yrk:default:function:0@svc@hello:latest",
            "sn:cn:yrk:default:function:0@svc@hello:$latest",
            "sn%3Acn%3Ayrk%3Adefault%3Afunction%3A0%40svc%40hello%3A%24latest",
        ] {
            assert_eq!(urn(text), expected, "{text}");
        }
        for path in [
            "/invocations/default/svc/hello/",
            "/invocations/default/svc/hello",
            "/invocations/default/svc/hello:latest/",
            "/invocations/default/svc/hello%3A%24latest/",
        ] {
            assert_eq!(function(path), expected, "{path}");
        }
        assert_eq!(
            function("/invocations/t1/svc/hello:v1/"),
            Ok("t1/0@svc@hello/v1".to_owned())
        );
    }

    #[test]
    fn a_malformed_urn_is_a_bad_request() {
        for text in [
            "hello",
            "sn:cn:yrk:default:function",
            "sn:cn:yrk:default:function:0@svc@hello:latest:more",
            "sn:cn:other:default:function:0@svc@hello",
            "xx:cn:yrk:default:function:0@svc@hello",
            "sn:zz:yrk:default:function:0@svc@hello:latest",
            "sn:cn:yrk:de%2Ffault:function:0@svc@hello",
            "sn:cn:yrk:default:function:0@s_@hello",
            "%ff%fe",
        ] {
            assert_eq!(urn(text), Err(200_400), "{text}");
        }
        assert_eq!(function("/invocations/default/s_/hello/"), Err(200_400));
    }

    #[test]
    fn a_qualifier_that_cannot_be_a_version_is_not_found() {
        assert_eq!(
            urn("sn:cn:yrk:default:function:0@svc@hello:!alias"),
            Err(150_424)
        );
        assert_eq!(
            function("/invocations/default/svc/hello:!alias"),
            Err(150_424)
        );
    }

    #[test]
    fn everything_else_is_unknown() {
        for (method, path) in [
            (Method::GET, "/serverless/v1/functions/x/invocations"),
            (Method::POST, "/serverless/v1/functions//invocations"),
            (Method::POST, "/serverless/v1/functions/a/b/invocations"),
            (Method::POST, "/serverless/v1/functions/a/invocations/"),
            (Method::POST, "/invocations/a/b"),
            (Method::POST, "/invocations/a/b/c/d"),
            (Method::POST, "/healthz"),
            (Method::GET, "/"),
            (Method::DELETE, "/healthz"),
        ] {
            assert_eq!(Route::of(&method, path), Route::Unknown, "{method} {path}");
        }
        assert_eq!(Route::of(&Method::GET, "/healthz"), Route::Health);
    }
}
