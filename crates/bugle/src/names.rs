//! Names as people type them.

/// The service of a function that is named without one.
const SERVICE: &str = "default";

/// The full name: `hello` is `0@default@hello`; full names and URNs stay as they are.
pub(crate) fn full(name: &str) -> String {
    let is_full = name.starts_with("0@") || name.starts_with("0-") || name.contains(':');
    if is_full {
        name.to_owned()
    } else {
        format!("0@{SERVICE}@{name}")
    }
}

/// The URN under which a function is called.
pub(crate) fn urn(name: &str, tenant: &str, version: Option<&str>) -> String {
    let full = full(name);
    if full.contains(':') {
        return match version {
            Some(version) if full.split(':').count() == 6 => format!("{full}:{version}"),
            _ => full,
        };
    }
    format!(
        "sn:cn:yrk:{tenant}:function:{full}:{}",
        version.unwrap_or("latest")
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
        let given = "sn:cn:yrk:t:function:0@s@f";
        assert_eq!(urn(given, "x", Some("v1")), format!("{given}:v1"));
        assert_eq!(urn(given, "x", None), given);
    }
}
