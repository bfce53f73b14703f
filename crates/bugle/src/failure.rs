//! How commands fail: a text for people, a code for scripts.

use std::io::Write as _;

use bugle_client::Error;
use bugle_types::{Code, report};

/// What a command comes to.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command ends before its end; hardly ever because all is well.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
    /// What to do next.
    hint: Option<String>,
    /// The platform has no function of the name that was given.
    pub(crate) is_unknown_function: bool,
}

/// Exit codes; `--help` lists them too.
pub(crate) mod exit {
    /// The platform or the function said no.
    pub(crate) const REFUSED: u8 = 1;
    /// The command was not understood.
    pub(crate) const USAGE: u8 = 2;
    /// Nobody answers.
    pub(crate) const NETWORK: u8 = 3;
    /// Not allowed.
    pub(crate) const AUTHENTICATION: u8 = 4;
    /// It does not exist.
    pub(crate) const NOT_FOUND: u8 = 5;
    /// It exists already, or somebody was faster.
    pub(crate) const CONFLICT: u8 = 6;
    /// Too much at the moment.
    pub(crate) const THROTTLED: u8 = 7;
    /// The configuration cannot be used.
    pub(crate) const CONFIGURATION: u8 = 64;
    /// It took too long.
    pub(crate) const TIMEOUT: u8 = 124;
    /// Ctrl-C.
    pub(crate) const INTERRUPTED: u8 = 130;
}

impl Failure {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            hint: None,
            is_unknown_function: false,
        }
    }

    /// Nothing is left to do, and nothing went wrong.
    pub(crate) fn done() -> Self {
        Self::new(0, "")
    }

    /// Ctrl-C; whoever pressed it knows.
    pub(crate) fn interrupted() -> Self {
        Self::new(exit::INTERRUPTED, "")
    }

    /// Says what to do next.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The command makes no sense.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(exit::USAGE, text)
    }

    /// A file or folder cannot be used.
    pub(crate) fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(exit::REFUSED, format!("{}: {error}", path.display()))
    }

    /// A call that was answered with a failure.
    pub(crate) fn answered(status: u16, code: u32, text: impl Into<String>) -> Self {
        Self {
            is_unknown_function: is_one_of(
                code,
                &[Code::FunctionNotFound, Code::FunctionMetadataNotFound],
            ),
            ..Self::new(exit_code(status, code), text)
        }
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Prints the text and the hint, unless there is none: then everything was said already.
    pub(crate) fn print(&self) {
        let mut shown = String::new();
        if !self.text.is_empty() {
            shown = format!("bugle: {}\n", self.text);
        }
        if let Some(hint) = &self.hint {
            shown.push_str("  → ");
            shown.push_str(hint);
            shown.push('\n');
        }
        // Nobody is left to tell if this fails.
        let _ = anstream::stderr().write_all(shown.as_bytes());
    }
}

fn is_one_of(code: u32, codes: &[Code]) -> bool {
    codes.iter().any(|known| known.number() == code)
}

/// The exit code for an answer with this status and inner code.
fn exit_code(status: u16, code: u32) -> u8 {
    let is = |codes| is_one_of(code, codes);
    if is(&[
        Code::FunctionNotFound,
        Code::FunctionVersionNotFound,
        Code::FunctionMetadataNotFound,
        Code::InstanceLabelNotFound,
    ]) {
        return exit::NOT_FOUND;
    }
    if is(&[
        Code::FunctionNameExist,
        Code::RepeatedPublishmentError,
        Code::RevisionIDError,
    ]) {
        return exit::CONFLICT;
    }
    match status {
        401 | 403 => exit::AUTHENTICATION,
        404 => exit::NOT_FOUND,
        409 => exit::CONFLICT,
        429 | 503 => exit::THROTTLED,
        408 | 504 => exit::TIMEOUT,
        _ => exit::REFUSED,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = report(&error);
        match &error {
            Error::Address { .. } | Error::Request(_) => Self::usage(text),
            Error::Connect { .. } => Self::new(exit::NETWORK, text).hint(
                "start the platform with `bugle serve`, or name the one to talk to with --server",
            ),
            Error::Broken { .. } => Self::new(exit::NETWORK, text),
            Error::Timeout { .. } => Self::new(exit::TIMEOUT, text),
            Error::Refused { status, code, .. } => Self::answered(*status, *code, text),
            Error::Unexpected { status, .. } => {
                let code = match status {
                    401 | 403 => exit::AUTHENTICATION,
                    _ => exit::REFUSED,
                };
                Self::new(code, text).hint(
                    "--server is the address of a platform's control API, by default \
                     http://127.0.0.1:31182",
                )
            }
            _ => Self::new(exit::REFUSED, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_can_tell_failures_apart() {
        for (status, code, expected) in [
            (500, 4101, exit::CONFLICT),
            (500, 4134, exit::CONFLICT),
            (500, 4115, exit::NOT_FOUND),
            (404, 150_424, exit::NOT_FOUND),
            (429, 150_429, exit::THROTTLED),
            (503, 150_430, exit::THROTTLED),
            (504, 4010, exit::TIMEOUT),
            (502, 4002, exit::REFUSED),
            (403, 0, exit::AUTHENTICATION),
            (400, 4104, exit::REFUSED),
        ] {
            assert_eq!(exit_code(status, code), expected, "{status} {code}");
        }
    }
}
