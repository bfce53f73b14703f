//! What an entry of a layer may be called, and what its name means.
//!
//! A layer marks what it takes away from the layers below by names that begin with `.wh.`. Such a
//! name is never made as a file; and a name that only looks like one (`.wh..`, which would take the
//! parent away) is refused.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

/// The prefix of whiteouts, and the name that hides a whole directory's lower contents.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Notes that an old file system left for itself.
const NOTES: &[u8] = b".wh..wh.";

/// The longest path that the kernel takes.
const LONGEST_PATH: usize = 4096;

/// What an entry's name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// The layer's own root.
    Root,
    /// Something called `name` in `parent`.
    Plain { parent: &'a [u8], name: &'a OsStr },
    /// `name` in `parent` is taken away from the layers below.
    Whiteout { parent: &'a [u8], name: &'a OsStr },
    /// Everything in `parent` is taken away from the layers below.
    Opaque { parent: &'a [u8] },
    /// Nothing of the image.
    Nothing,
}

/// Brings a path into the form `a/b/c`; the root becomes empty.
///
/// A leading `/` means the layer's root, as everywhere in a container.
pub(super) fn normal(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    if path.len() > LONGEST_PATH {
        return Err("its path is longer than 4096 bytes");
    }
    if path.contains(&0) {
        return Err("its path has a zero byte");
    }
    let mut normal = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its path goes upwards"),
            part => {
                if !normal.is_empty() {
                    normal.push(b'/');
                }
                normal.extend_from_slice(part);
            }
        }
    }
    Ok(normal)
}

/// Reads the meaning of a path in normal form.
pub(super) fn place(path: &[u8]) -> Result<Place<'_>, &'static str> {
    if path.is_empty() {
        return Ok(Place::Root);
    }
    let (parent, name) = split(path);
    if parent
        .split(|byte| *byte == b'/')
        .any(|part| part.starts_with(WHITEOUT))
    {
        return Err("it lies in a directory that is a mark of deletion");
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else {
        let name = OsStr::from_bytes(name);
        return Ok(Place::Plain { parent, name });
    };
    match hidden {
        _ if name == OPAQUE => Ok(Place::Opaque { parent }),
        _ if name.starts_with(NOTES) => Ok(Place::Nothing),
        b"" | b"." | b".." => Err("it would take its own directory away"),
        hidden => Ok(Place::Whiteout {
            parent,
            name: OsStr::from_bytes(hidden),
        }),
    }
}

/// Parent and last part of a path in normal form that is not the root.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Whether an extended attribute of a layer is kept.
///
/// `trusted.overlay.*` and `user.overlay.*` would speak to overlayfs in the layer's name (a
/// redirection leads anywhere), `security.capability` would give powers to a program, and the others
/// of `trusted.`, `security.` and `system.` are not the image's to decide.
pub(super) fn keeps_attribute(name: &str) -> bool {
    name.strip_prefix("user.")
        .is_some_and(|rest| !rest.is_empty() && rest != "overlay" && !rest.starts_with("overlay."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_of_the_layers_root_however_they_are_written() {
        assert_eq!(normal(b"./a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(normal(b"/etc/passwd").unwrap(), b"etc/passwd");
        assert_eq!(normal(b"./").unwrap(), b"");
        for path in [&b"../a"[..], b"a/../../b", b"a/..", b"a\0b"] {
            assert!(normal(path).is_err());
        }
        assert!(normal(&[b'a'; 5000]).is_err());
    }

    #[test]
    fn marks_of_deletion_are_read() {
        let name = OsStr::new("b");
        assert_eq!(
            place(b"a/.wh.b"),
            Ok(Place::Whiteout { parent: b"a", name })
        );
        assert_eq!(place(b".wh..wh..opq"), Ok(Place::Opaque { parent: b"" }));
        assert_eq!(place(b"a/.wh..wh.plnk"), Ok(Place::Nothing));
        assert_eq!(place(b"b"), Ok(Place::Plain { parent: b"", name }));
        assert_eq!(place(b""), Ok(Place::Root));
    }

    #[test]
    fn marks_that_would_take_their_own_directory_away_are_refused() {
        for path in [
            &b"a/.wh."[..],
            b"a/.wh..",
            b"a/.wh...",
            b".wh.a/b",
            b"x/.wh..wh..opq/b",
        ] {
            assert!(place(path).is_err(), "{}", path.escape_ascii());
        }
    }

    #[test]
    fn attributes_that_speak_to_the_kernel_are_dropped() {
        assert!(keeps_attribute("user.comment"));
        for name in [
            "trusted.overlay.redirect",
            "user.overlay.whiteout",
            "user.overlay",
            "user.",
            "security.capability",
            "system.posix_acl_access",
            "trusted.overlay.opaque",
        ] {
            assert!(!keeps_attribute(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_root(path in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(normal) = normal(&path) {
                prop_assert!(!normal.starts_with(b"/"));
                prop_assert!(normal.split(|b| *b == b'/').all(|part| part != b".."));
            }
        }
    }
}
