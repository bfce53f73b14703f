//! Names of runtimes as given at registration (`runtimes` contract 1).

use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// A minor version of Python 3: `python3.11` is `PythonVersion(11)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PythonVersion(pub u8);

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "python3.{}", self.0)
    }
}

impl FromStr for PythonVersion {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.strip_prefix("python3.")
            .and_then(|minor| minor.parse().ok())
            .map(Self)
            .ok_or_else(|| ParseError::new("Python runtime", text, "python3.{minor version}"))
    }
}

/// What runs a function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// A Python handler, loaded into a fork of a warm interpreter.
    Python(PythonVersion),
    /// Any other name; this build has no driver for it, and invoking it says so.
    Other(Box<str>),
}

impl Runtime {
    /// The runtime of this name. Whether a name may be registered is the registry's list.
    pub fn from_name(name: &str) -> Self {
        match name.parse() {
            Ok(version) => Self::Python(version),
            Err(_) => Self::Other(name.into()),
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Python(version) => version.fmt(f),
            Self::Other(name) => f.write_str(name),
        }
    }
}
