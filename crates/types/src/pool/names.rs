//! Kubernetes' rules for single names and values. Each says the rule that is broken.

use crate::name::is_framed;

/// A rule that a text breaks, to follow its name: `must be …`.
pub(super) type Rule = Result<(), &'static str>;

fn demand(holds: bool, rule: &'static str) -> Rule {
    holds.then_some(()).ok_or(rule)
}

/// A key of a label: `name` or `prefix/name`.
///
/// # Errors
///
/// The rule that it breaks.
pub fn label_key(text: &str) -> Rule {
    const RULE: &str = "must be at most 63 letters, digits, '-', '_' or '.', with a letter or digit \
        at both ends, after an optional DNS name and '/'";
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let good = prefix.is_none_or(is_subdomain) && is_label_text(name);
    demand(good, RULE)
}

/// A value of a label; it may be empty.
///
/// # Errors
///
/// The rule that it breaks.
pub fn label_value(text: &str) -> Rule {
    demand(
        text.is_empty() || is_label_text(text),
        "must be at most 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends",
    )
}

fn is_label_text(text: &str) -> bool {
    is_framed(text, 63, |c| matches!(c, b'-' | b'_' | b'.'))
}

/// The name of an environment variable.
///
/// # Errors
///
/// The rule that it breaks.
pub fn environment_name(text: &str) -> Rule {
    let well_formed = !text.is_empty()
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
        && !text.starts_with(|c: char| c.is_ascii_digit());
    demand(
        well_formed && text != "." && !text.starts_with(".."),
        "must be letters, digits, '_', '.' or '-', not begin with a digit or '..', and not be '.'",
    )
}

/// The name of a runtime class.
///
/// # Errors
///
/// The rule that it breaks.
pub fn runtime_class_name(text: &str) -> Rule {
    object_name(text)
}

/// A reference to an image, of which Kubernetes checks only that there is nothing around it.
///
/// # Errors
///
/// The rule that it breaks.
pub fn image_reference(text: &str) -> Rule {
    demand(
        !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control()),
        "must not contain blanks",
    )
}

/// The name of a resource that a container may have: `cpu`, `memory`, `ephemeral-storage`,
/// `hugepages-{size}`, or one with a domain (`example.com/gpu`).
///
/// # Errors
///
/// The rule that it breaks.
pub fn container_resource(text: &str) -> Rule {
    let good = match text.split_once('/') {
        None => matches!(text, "cpu" | "memory" | "ephemeral-storage") || page_size(text).is_some(),
        Some((domain, _)) => {
            label_key(text).is_ok()
                && !domain.starts_with("requests.")
                && domain != "kubernetes.io"
                && !domain.ends_with(".kubernetes.io")
        }
    };
    demand(
        good,
        "must be cpu, memory, ephemeral-storage, hugepages-{size} or a name with a domain of its own",
    )
}

/// The size of a page, of huge pages.
pub(super) fn page_size(resource: &str) -> Option<super::Quantity> {
    let size = resource.strip_prefix("hugepages-")?;
    let size: super::Quantity = size.parse().ok()?;
    Some(size).filter(|size| size.nanos() > 0)
}

/// Whether a resource is one of a domain, of which there is no part and no overcommitment.
pub(super) fn is_extended(resource: &str) -> bool {
    resource.contains('/')
}

/// The name of an object: a DNS name of at most 253 characters.
pub(super) fn object_name(text: &str) -> Rule {
    demand(
        is_subdomain(text),
        "must be a DNS name of lower-case letters, digits, '-' and '.'",
    )
}

/// The name of a volume: one label of a DNS name.
pub(super) fn volume_name(text: &str) -> Rule {
    demand(
        is_dns_label(text),
        "must be at most 63 lower-case letters, digits or '-', with a letter or digit at both ends",
    )
}

/// The key of an entry in a config map or secret.
pub(super) fn entry_key(text: &str) -> Rule {
    let well_formed = (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'));
    demand(
        well_formed && text != "." && !text.starts_with(".."),
        "must be at most 253 letters, digits, '_', '.' or '-'",
    )
}

/// A path below a folder: relative, and never out of it.
pub(super) fn inner_path(text: &str) -> Rule {
    demand(
        !text.is_empty() && !text.starts_with('/') && climbs_nowhere(text),
        "must be a relative path without '..'",
    )
}

/// A path of a machine.
pub(super) fn machine_path(text: &str) -> Rule {
    demand(
        !text.is_empty() && climbs_nowhere(text),
        "must be a path without '..'",
    )
}

fn climbs_nowhere(path: &str) -> bool {
    !path.split('/').any(|part| part == "..") && !path.contains('\0')
}

fn is_dns_label(text: &str) -> bool {
    is_framed(text, 63, |c| c == b'-') && !text.bytes().any(|c| c.is_ascii_uppercase())
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            // A label in a subdomain has no length of its own.
            is_framed(label, 253, |c| c == b'-') && !label.bytes().any(|c| c.is_ascii_uppercase())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_the_rules_of_kubernetes() {
        for key in ["a", "A.b_c-d", "example.com/x", "9"] {
            assert!(label_key(key).is_ok(), "{key}");
        }
        let long = "x".repeat(64);
        for key in [
            "",
            "-bad-",
            "a/b/c",
            "/x",
            "x/",
            "A.com/x",
            "a b",
            long.as_str(),
        ] {
            assert!(label_key(key).is_err(), "{key}");
        }
        for value in ["", "v", "5", "a.b"] {
            assert!(label_value(value).is_ok(), "{value}");
        }
        for value in ["-", "a/b", "ä", long.as_str()] {
            assert!(label_value(value).is_err(), "{value}");
        }
    }

    #[test]
    fn names_of_variables_do_not_begin_with_a_digit() {
        for good in ["A", "_x", ".x", "-x", "a.b-c_1"] {
            assert!(environment_name(good).is_ok(), "{good}");
        }
        for bad in ["", "1x", ".", "..", "..x", "a b", "a=b"] {
            assert!(environment_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn resources_are_known_or_have_a_domain() {
        for good in [
            "cpu",
            "memory",
            "ephemeral-storage",
            "hugepages-2Mi",
            "nvidia.com/gpu",
        ] {
            assert!(container_resource(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "gpu",
            "pods",
            "hugepages-x",
            "kubernetes.io/x",
            "requests.a/b",
            "x/",
        ] {
            assert!(container_resource(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_path_climbs() {
        for bad in ["", "/a", "../a", "a/../b", "a/.."] {
            assert!(inner_path(bad).is_err(), "{bad}");
        }
        assert!(inner_path("a/..b").is_ok());
        assert!(machine_path("/var/lib").is_ok());
        assert!(machine_path("/var/../etc").is_err());
    }
}
