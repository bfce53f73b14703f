//! The names of entries.

use super::Error;

/// The longest name of a file, a limit of Linux's file systems.
const MAX_COMPONENT: usize = 255;

/// The longest path inside a package, in bytes; a quarter of what Linux takes at once.
const MAX_PATH: usize = 1024;

/// The most directories in each other.
const MAX_DEPTH: usize = 64;

/// A path inside of the folder: relative, of plain names only, without any that lead elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryPath(String);

impl EntryPath {
    /// Takes the name of an entry apart; nothing where it is the folder itself.
    pub(super) fn parse(name: &[u8]) -> Result<Option<Self>, Error> {
        let refuse = |why| {
            Err(Error::Path {
                path: printable(&String::from_utf8_lossy(name)),
                why,
            })
        };
        let Ok(text) = str::from_utf8(name) else {
            return refuse("it is not UTF-8");
        };
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > MAX_PATH {
            return refuse("it is longer than 1024 bytes");
        }
        if text.chars().any(char::is_control) {
            return refuse("it has control characters");
        }
        if text.starts_with('/') {
            return refuse("it is absolute");
        }
        if text.contains('\\') {
            return refuse("it has a backslash; make the package with / between names");
        }
        if let [drive, b':', ..] = name
            && drive.is_ascii_alphabetic()
        {
            return refuse("it begins with a drive");
        }
        let mut clean = String::with_capacity(text.len());
        let mut depth = 0;
        for part in text.split('/') {
            match part {
                "" | "." => continue,
                ".." => return refuse("it leads upwards"),
                _ if part.len() > MAX_COMPONENT => {
                    return refuse("a name in it is longer than 255 bytes");
                }
                _ => {}
            }
            depth += 1;
            if depth > MAX_DEPTH {
                return refuse("it is deeper than 64 directories");
            }
            if !clean.is_empty() {
                clean.push('/');
            }
            clean.push_str(part);
        }
        Ok((!clean.is_empty()).then_some(Self(clean)))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory it is in; nothing for the folder itself.
    pub(super) fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/')?;
        Some(Self(parent.to_owned()))
    }

    pub(super) fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// The refusal of the entry of this name.
    pub(super) fn refuse(&self, why: &'static str) -> Error {
        Error::Path {
            path: printable(&self.0),
            why,
        }
    }
}

/// A text of the archive as it may be shown: one line, not too long, nothing that moves a cursor.
pub(super) fn printable(text: &str) -> String {
    let shown = text.chars().take(200);
    shown
        .map(|sign| if sign.is_control() { '\u{fffd}' } else { sign })
        .collect()
}
