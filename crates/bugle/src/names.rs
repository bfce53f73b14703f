//! Names as people type them.

use crate::failure::Failure;
use crate::near;
use crate::session::Session;

/// As many functions are looked at for one that resembles a mistyped name.
const LOOKED_AT: usize = 1000;

/// Parts of a URN without a version: `sn:cn:yrk:default:function:0@default@hello`.
const URN_PARTS: usize = 6;

/// The service of a function that is named without one.
const SERVICE: &str = "default";

/// Takes a name from the command line unless it is empty. To the platform an empty one means any: a script whose variable
/// is empty would look at another pool, or delete all of a group.
pub(crate) fn given(name: &str) -> Result<String, &'static str> {
    if name.is_empty() {
        return Err("a name is not empty");
    }
    Ok(name.to_owned())
}

/// The full name: `hello` is `0@default@hello`; full names and URNs stay as they are.
pub(crate) fn full(name: &str) -> String {
    let is_full = name.starts_with("0@") || name.starts_with("0-") || name.contains(':');
    if is_full {
        name.to_owned()
    } else {
        format!("0@{SERVICE}@{name}")
    }
}

/// The full name and the version: the wanted one, else the one that a URN names.
pub(crate) fn versioned<'a>(name: &'a str, wanted: Option<&'a str>) -> (String, Option<&'a str>) {
    match name.rsplit_once(':') {
        Some((urn, version)) if urn.split(':').count() == URN_PARTS => {
            (urn.to_owned(), wanted.or(Some(version)))
        }
        _ => (full(name), wanted),
    }
}

/// The URN under which a function is called.
pub(crate) fn urn(name: &str, tenant: &str, version: Option<&str>) -> String {
    let (full, version) = versioned(name, version);
    let urn = if full.contains(':') {
        full
    } else {
        format!("sn:cn:yrk:{tenant}:function:{full}")
    };
    format!("{urn}:{}", version.unwrap_or("latest"))
}

/// The name as people type it.
fn short(full: &str) -> &str {
    full.strip_prefix("0@")
        .and_then(|rest| rest.strip_prefix(SERVICE)?.strip_prefix('@'))
        .unwrap_or(full)
}

/// Says what may have been meant by a name that the platform does not know.
pub(crate) async fn suggest(session: &Session, failure: Failure, name: &str) -> Failure {
    let Ok((functions, _)) = session.control.list(None, 1, LOOKED_AT).send().await else {
        // The first failure says more than this one would.
        return failure;
    };
    let full = full(name);
    let versions: Vec<&str> = functions
        .iter()
        .filter(|function| function.name == full)
        .map(|function| function.version_number.as_str())
        .collect();
    if !versions.is_empty() {
        return failure.hint(format!("versions of {name}: {}", versions.join(", ")));
    }
    if functions.is_empty() {
        return failure.hint("there is no function yet; `bugle deploy FOLDER` registers one");
    }
    // The service may be what was mistyped, or forgotten.
    let last = |name: &str| name.rsplit('@').next().map(str::to_owned);
    let known: Vec<_> = functions
        .iter()
        .filter_map(|function| Some((last(&function.name)?, short(&function.name))))
        .collect();
    let wanted = last(name).unwrap_or_default();
    let mut meant: Vec<&str> = near::near(&wanted, known.iter().map(|(last, _)| last.as_str()))
        .into_iter()
        .flat_map(|near| known.iter().filter(move |(last, _)| last == near))
        .map(|(_, shown)| *shown)
        .collect();
    meant.dedup();
    failure.hint(
        near::question(&meant)
            .unwrap_or_else(|| "`bugle list` shows the functions there are".to_owned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_belong_to_the_default_service() {
        assert_eq!(full("hello"), "0@default@hello");
        assert_eq!(full("0@svc@hello"), "0@svc@hello");
        assert_eq!(full("0-svc-hello"), "0-svc-hello");
        assert_eq!(
            urn("hello", "t", Some("v1")),
            "sn:cn:yrk:t:function:0@default@hello:v1"
        );
        assert_eq!(short("0@default@hello"), "hello");
        assert_eq!(short("0@svc@hello"), "0@svc@hello");
        let given = "sn:cn:yrk:t:function:0@s@f";
        assert_eq!(urn(given, "x", Some("v1")), format!("{given}:v1"));
        assert_eq!(urn(given, "x", None), format!("{given}:latest"));
        let version = format!("{given}:v1");
        assert_eq!(urn(&version, "x", None), version);
        assert_eq!(urn(&version, "x", Some("v2")), format!("{given}:v2"));
    }
}
