//! What a request is about: its path and its query.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use crate::failure::Failure;
use crate::objects::Unknown;
use crate::resources::{Resource, Scope};

/// What a path leads to.
#[derive(Debug)]
pub(crate) enum Target {
    /// Something about the server itself.
    Page(Page),
    /// Objects.
    Objects(Path),
}

/// A page about the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz`
    Health,
    /// `/api`
    Core,
    /// `/apis`
    Groups,
    /// `/api/v1`, `/apis/GROUP/VERSION`
    Resources(String, String),
}

/// A collection of objects, one of them, or something below one.
#[derive(Debug)]
pub(crate) struct Path {
    /// The kind.
    pub(crate) resource: &'static Resource,
    /// The version in the path; of the autoscaler there are two.
    pub(crate) version: String,
    /// The namespace; none means all of them, or that the kind has none.
    pub(crate) namespace: Option<String>,
    /// One object.
    pub(crate) name: Option<String>,
    /// What is below it.
    pub(crate) subresource: Option<&'static str>,
}

/// Parameters behind the question mark.
#[derive(Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

/// Reads a path.
///
/// # Errors
/// 404 when it leads nowhere.
pub(crate) fn target(path: &str) -> Result<Target, Failure> {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let parts: Vec<_> = decoded.split('/').filter(|part| !part.is_empty()).collect();
    let page = |page| Ok(Target::Page(page));
    match parts.as_slice() {
        ["version"] => page(Page::Version),
        ["healthz" | "livez" | "readyz"] => page(Page::Health),
        ["api"] => page(Page::Core),
        ["apis"] => page(Page::Groups),
        ["api", version] => page(Page::Resources(String::new(), (*version).to_owned())),
        ["apis", group, version] => {
            page(Page::Resources((*group).to_owned(), (*version).to_owned()))
        }
        ["api", version, rest @ ..] => objects("", version, rest),
        ["apis", group, version, rest @ ..] => objects(group, version, rest),
        _ => Err(Failure::no_such_path()),
    }
}

fn objects(group: &str, version: &str, rest: &[&str]) -> Result<Target, Failure> {
    let (namespace, rest) = match rest {
        ["namespaces", namespace, plural, more @ ..]
            if *plural != "status" && *plural != "finalize" =>
        {
            (Some((*namespace).to_owned()), [&[*plural], more].concat())
        }
        other => (None, other.to_vec()),
    };
    let (plural, name, below) = match rest.as_slice() {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, Some(*name), None),
        [plural, name, below] => (*plural, Some(*name), Some(*below)),
        _ => return Err(Failure::no_such_path()),
    };
    let resource = Resource::find(group, version, plural).ok_or_else(Failure::no_such_path)?;
    if namespace.is_some() != (resource.scope == Scope::Namespaced)
        && (namespace.is_some() || name.is_some())
    {
        return Err(Failure::no_such_path());
    }
    let subresource = below
        .map(|below| {
            let known = resource.subresources.iter().find(|sub| sub.name == below);
            known.map(|sub| sub.name).ok_or_else(Failure::no_such_path)
        })
        .transpose()?;
    Ok(Target::Objects(Path {
        resource,
        version: version.to_owned(),
        namespace,
        name: name.map(str::to_owned),
        subresource,
    }))
}

impl Query {
    /// Reads `a=b&c=d`.
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |text: &str| {
            let spaces = text.replace('+', " ");
            percent_decode_str(&spaces).decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    /// The value of a parameter, empty if it is not given.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Whether a parameter is given and true.
    pub(crate) fn is(&self, name: &str) -> bool {
        matches!(
            self.0.get(name).map(String::as_str),
            Some("true" | "1" | "True" | "")
        )
    }

    /// A number, if one is given.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name).parse().ok()
    }

    /// What to do about unknown fields.
    pub(crate) fn field_validation(&self) -> Unknown {
        match self.get("fieldValidation") {
            "Strict" => Unknown::Strict,
            "Ignore" => Unknown::Ignore,
            _ => Unknown::Warn,
        }
    }
}
