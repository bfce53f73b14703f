//! Versions of a function (contract 2.8): the draft, which changes, and published ones, which do not.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{is_framed, text_type};
use crate::{Kind, ParseError};

/// The label of a published version: one letter or digit, or up to 42 of `A-Z a-z 0-9 . _ -` with a
/// letter or digit at both ends. `latest` is reserved for the draft.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct VersionLabel(Box<str>);
text_type!(VersionLabel);

impl FromStr for VersionLabel {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text != "latest" && is_framed(text, 42, |c| matches!(c, b'-' | b'_' | b'.')) {
            return Ok(Self(text.into()));
        }
        Err(ParseError::new(
            "version",
            text,
            "1 to 42 letters, digits, '.', '_' or '-', first and last a letter or digit",
        ))
    }
}

/// A version of a function.
///
/// `latest` and `$latest` both name the draft wherever a version is looked up; which of the two is
/// *shown* depends on the kind, see [`Version::shown`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// The one version that an update changes.
    Draft,
    /// A published version; it never changes.
    Published(VersionLabel),
}

impl Version {
    /// The text under which this version is stored and shown for functions of `kind`.
    pub fn shown(&self, kind: Kind) -> &str {
        match self {
            Self::Draft => kind.draft(),
            Self::Published(label) => label.as_str(),
        }
    }
}

impl FromStr for Version {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "latest" | "$latest" => Ok(Self::Draft),
            label => label.parse().map(Self::Published),
        }
    }
}

impl fmt::Display for Version {
    /// The draft as `latest`; use [`Version::shown`] where the kind is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draft => f.write_str("latest"),
            Self::Published(label) => label.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_the_draft() {
        assert_eq!("latest".parse(), Ok(Version::Draft));
        assert_eq!("$latest".parse(), Ok(Version::Draft));
        assert_eq!(Version::Draft.shown(Kind::Faas), "latest");
        assert_eq!(Version::Draft.shown(Kind::Yrlib), "$latest");
    }

    #[test]
    fn labels_are_framed_by_letters_or_digits() {
        for good in ["1", "v1", "V1", "a.b_c-d", "v20260101-120000"] {
            assert!(good.parse::<VersionLabel>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "latest", "$latest", &"x".repeat(43)] {
            assert!(bad.parse::<VersionLabel>().is_err(), "{bad}");
        }
    }
}
