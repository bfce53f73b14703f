//! Names of tenants, products, functions and instance labels (`meta-service` contract, 2.6–2.8).

use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// Generates the boilerplate of a validated text: `FromStr`, `Display`, `as_str`, serde.
macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseError;

            fn try_from(text: String) -> Result<Self, ParseError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }
    };
}
pub(crate) use text_type;

/// A tenant: 1–64 of `A-Z a-z 0-9 _ -`.
///
/// The reference accepts anything, which corrupts keys and URNs (contract 2.6 `[rec]`).
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Box<str>);
text_type!(TenantId);

impl Default for TenantId {
    /// The tenant of a request that names none.
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for TenantId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if is_identifier(text, 64) {
            return Ok(Self(text.into()));
        }
        Err(ParseError::new(
            "tenant",
            text,
            "1 to 64 letters, digits, '_' or '-'",
        ))
    }
}

/// A product inside a tenant; unused in practice, kept because it is part of keys and URNs.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct ProductId(Box<str>);
text_type!(ProductId);

impl FromStr for ProductId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if is_identifier(text, 64) {
            return Ok(Self(text.into()));
        }
        Err(ParseError::new(
            "product",
            text,
            "1 to 64 letters, digits, '_' or '-'",
        ))
    }
}

/// The name of a function: `0@service@name`, `0-service-name` or a bare name.
///
/// The wide grammar of the running reference (contract 2.8 `[wire]`, D5): the service is 1–16
/// letters and digits; the name is 1–128 of `A-Z a-z 0-9 . -`, its first and last not `-`. The
/// documented narrow form is a subset. A name of FunctionGraph, which may have a `_` inside, is one
/// in the `0@service@name` form. A name without a service keeps its whole text as short name.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionName(Box<str>);
text_type!(FunctionName);

/// The path segment under which reserved instances live; a function of this name could not be
/// reached (contract 2.1 `[rec]`).
const RESERVED: &str = "reserve-instance";

impl FunctionName {
    /// The service, empty for a bare name and for a name of the `0-service-name` form, which the
    /// reference cuts at `@` only (contract 2.8).
    pub fn service(&self) -> &str {
        self.split_at_signs().0
    }

    /// The name without `0@service@`; the whole name in the other forms.
    pub fn short(&self) -> &str {
        self.split_at_signs().1
    }

    /// The function part of any form: `fn` of `0@svc@fn` and of `0-svc-fn`.
    pub fn base(&self) -> &str {
        match dashed(&self.0) {
            Some((_, base)) => base,
            None => self.short(),
        }
    }

    fn split_at_signs(&self) -> (&str, &str) {
        match self
            .0
            .strip_prefix("0@")
            .and_then(|rest| rest.split_once('@'))
        {
            Some((service, short)) => (service, short),
            None => ("", &self.0),
        }
    }
}

fn dashed(text: &str) -> Option<(&str, &str)> {
    let (service, base) = text.strip_prefix("0-")?.split_once('-')?;
    (is_service(service) && is_base_name(base)).then_some((service, base))
}

impl FromStr for FunctionName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let well_formed = match text
            .strip_prefix("0@")
            .and_then(|rest| rest.split_once('@'))
        {
            Some((service, base)) => {
                is_service(service) && (is_base_name(base) || is_graph_name(base))
            }
            None => dashed(text).is_some() || is_base_name(text),
        };
        if well_formed && text != RESERVED {
            return Ok(Self(text.into()));
        }
        Err(ParseError::new(
            "function name",
            text,
            "0@{service}@{name} or 0-{service}-{name}",
        ))
    }
}

/// The label of a set of reserved instances: 1–63 letters, digits, `-`, `_`, `.`, its first and
/// last a letter or digit (contract 4).
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceLabel(Box<str>);
text_type!(InstanceLabel);

impl FromStr for InstanceLabel {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if is_framed(text, 63, |c| matches!(c, b'-' | b'_' | b'.')) {
            return Ok(Self(text.into()));
        }
        Err(ParseError::new(
            "instance label",
            text,
            "1 to 63 letters, digits, '-', '_' or '.', first and last a letter or digit",
        ))
    }
}

fn is_identifier(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'))
}

fn is_service(text: &str) -> bool {
    (1..=16).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric())
}

fn is_base_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A name of FunctionGraph (`container-image` contract 2.1): 1–60 of `A-Z a-z 0-9 _ -`, the first a
/// letter, the last a letter or digit.
pub(crate) fn is_graph_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && is_framed(text, 60, |c| matches!(c, b'-' | b'_'))
}

/// Whether `text` has 1 to `longest` letters, digits and `inner` bytes, and a letter or digit at
/// both ends.
pub(crate) fn is_framed(text: &str, longest: usize, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    (1..=longest).contains(&bytes.len())
        && bytes.iter().all(|&c| c.is_ascii_alphanumeric() || inner(c))
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_name_splits_into_service_and_name() {
        let name: FunctionName = "0@svc@hello-1".parse().unwrap();
        assert_eq!(
            (name.service(), name.short(), name.base()),
            ("svc", "hello-1", "hello-1")
        );
        let name: FunctionName = "0-svc-hello".parse().unwrap();
        assert_eq!(
            (name.service(), name.short(), name.base()),
            ("", "0-svc-hello", "hello")
        );
        let name: FunctionName = "Bare.1".parse().unwrap();
        assert_eq!(
            (name.service(), name.short(), name.base()),
            ("", "Bare.1", "Bare.1")
        );
    }

    #[test]
    fn the_wide_grammar_of_the_reference_is_accepted_and_no_more() {
        for good in [
            "a",
            "0@S@F",
            "0-s-1.x",
            "0@svc@..",
            "A1",
            "0-a",
            "0@svc@a_b",
        ] {
            assert!(good.parse::<FunctionName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "0@s_@f",
            "0@svc@f_",
            "0@svc@_f",
            "0@svc@1_f",
            "a_b",
            "0@svc@",
            "0@@f",
            "a/b",
            "a:b",
            "0@toolongserviceName1@f",
        ] {
            assert!(bad.parse::<FunctionName>().is_err(), "{bad}");
        }
        assert!("reserve-instance".parse::<FunctionName>().is_err());
        assert!("x".repeat(129).parse::<FunctionName>().is_err());
    }

    #[test]
    fn a_tenant_cannot_break_a_key_or_a_urn() {
        for bad in ["", "a/b", "a:b", "a b", "ä"] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad}");
        }
        assert!(
            "d41d8cd98f00b204e9800998ecf8427e"
                .parse::<TenantId>()
                .is_ok()
        );
    }
}
