//! Names of runtimes as given at registration (`runtimes` contract 1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ParseError;

/// A minor version of Python 3: `python3.11` is `PythonVersion(11)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

/// How the platform speaks with a function that is a program of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProgramRuntime {
    /// Gets the body of a call as it came.
    Posix,
    /// Gets each call as the JSON event of an API gateway, unless the function wants it raw.
    Http,
}

impl fmt::Display for ProgramRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Posix => "posix-custom-runtime",
            Self::Http => "http",
        })
    }
}

/// What a function that is an image is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ImageRuntime {
    /// Events, at `POST /invoke`.
    Event,
    /// The caller's own requests, at the caller's paths.
    Http,
}

impl fmt::Display for ImageRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event => CUSTOM_IMAGE,
            Self::Http => "http",
        })
    }
}

/// The name of the runtime of images that take events.
const CUSTOM_IMAGE: &str = "custom image";

/// What runs a function.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Runtime {
    /// A Python handler, loaded into a fork of a warm interpreter.
    Python(PythonVersion),
    /// A program in any language that serves HTTP.
    Program(ProgramRuntime),
    /// A container that serves HTTP.
    Image(ImageRuntime),
    /// Any other name; this build has no driver for it, and invoking it says so.
    Other(Box<str>),
}

impl Runtime {
    /// The runtime of this name. Whether a name may be registered is the registry's list.
    pub fn from_name(name: &str) -> Self {
        if name.trim().eq_ignore_ascii_case(CUSTOM_IMAGE) {
            return Self::Image(ImageRuntime::Event);
        }
        match name {
            "posix-custom-runtime" => return Self::Program(ProgramRuntime::Posix),
            "http" => return Self::Program(ProgramRuntime::Http),
            _ => {}
        }
        match name.parse() {
            Ok(version) => Self::Python(version),
            Err(_) => Self::Other(name.into()),
        }
    }

    /// The runtime of this name for a function whose code is an image: `http` names a program's
    /// and an image's runtime.
    pub fn of_image(name: &str) -> Self {
        match Self::from_name(name) {
            Self::Program(ProgramRuntime::Http) => Self::Image(ImageRuntime::Http),
            other => other,
        }
    }

    /// Whether callers reach the server of the function itself, with a method and a path of their
    /// own, rather than a handler.
    pub fn serves_http(&self) -> bool {
        matches!(
            self,
            Self::Program(ProgramRuntime::Http) | Self::Image(ImageRuntime::Http)
        )
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Python(version) => version.fmt(f),
            Self::Program(program) => program.fmt(f),
            Self::Image(image) => image.fmt(f),
            Self::Other(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_runtime_is_shown_by_the_name_it_was_given() {
        for (name, runtime) in [
            ("python3.11", Runtime::Python(PythonVersion(11))),
            (
                "posix-custom-runtime",
                Runtime::Program(ProgramRuntime::Posix),
            ),
            ("http", Runtime::Program(ProgramRuntime::Http)),
            ("custom image", Runtime::Image(ImageRuntime::Event)),
            ("java11", Runtime::Other("java11".into())),
        ] {
            assert_eq!(Runtime::from_name(name), runtime);
            assert_eq!(runtime.to_string(), name);
        }
    }

    #[test]
    fn the_image_runtime_is_known_in_any_case_and_padding() {
        for name in ["Custom Image", " custom image ", "CUSTOM IMAGE"] {
            assert_eq!(
                Runtime::from_name(name),
                Runtime::Image(ImageRuntime::Event)
            );
        }
    }

    #[test]
    fn http_with_an_image_is_the_image_runtime() {
        assert_eq!(
            Runtime::of_image("http"),
            Runtime::Image(ImageRuntime::Http)
        );
        assert_eq!(
            Runtime::of_image("Custom Image"),
            Runtime::Image(ImageRuntime::Event)
        );
    }
}
