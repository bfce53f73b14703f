//! Where code may be.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Error;

/// The directories below which functions may have their code. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CodeRoots {
    roots: Arc<[PathBuf]>,
}

impl CodeRoots {
    /// The given roots.
    ///
    /// # Errors
    ///
    /// [`Error::Root`] for a root that does not exist or is no directory.
    pub fn new(roots: &[PathBuf]) -> Result<Self, Error> {
        let canonical = roots.iter().map(|root| {
            let found = root.canonicalize().and_then(|path| {
                if path.is_dir() {
                    Ok(path)
                } else {
                    Err(io::ErrorKind::NotADirectory.into())
                }
            });
            found.map_err(|source| Error::Root {
                path: root.clone(),
                source,
            })
        });
        Ok(Self {
            roots: canonical.collect::<Result<_, _>>()?,
        })
    }

    /// The roots, with their links followed.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// The directory that is meant by `path`, with its links followed. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error`] says what to change.
    pub fn directory(&self, path: &str) -> Result<PathBuf, Error> {
        if !Path::new(path).is_absolute() {
            return Err(Error::Relative {
                path: path.to_owned(),
            });
        }
        let unreadable = |source| Error::Unreadable {
            path: path.to_owned(),
            source,
        };
        let found = Path::new(path).canonicalize();
        // Outside of the roots nothing is told about what is there.
        let shown = found.as_deref().unwrap_or_else(|_| Path::new(path));
        if !self.roots.iter().any(|root| shown.starts_with(root)) {
            return Err(Error::Outside {
                path: path.into(),
                roots: self.roots.to_vec(),
            });
        }
        let found = found.map_err(unreadable)?;
        if !found.metadata().map_err(unreadable)?.is_dir() {
            return Err(Error::NotADirectory {
                path: path.to_owned(),
            });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        roots: CodeRoots,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            fs::create_dir_all(root.join("hello")).unwrap();
            fs::write(root.join("hello/main.py"), "1").unwrap();
            fs::create_dir(dir.path().join("secret")).unwrap();
            let roots = CodeRoots::new(&[root]).unwrap();
            Self { dir, roots }
        }

        fn path(&self, name: &str) -> String {
            self.dir.path().join(name).to_str().unwrap().to_owned()
        }

        fn local(&self, name: &str) -> Result<PathBuf, Error> {
            self.roots.directory(&self.path(name))
        }
    }

    #[test]
    fn a_directory_below_a_root_is_used_in_place() {
        let fixture = Fixture::new();
        assert_eq!(
            fixture.local("root/hello").unwrap(),
            fixture.dir.path().join("root/hello")
        );
    }

    #[test]
    fn nothing_outside_of_the_roots_is_reached() {
        let fixture = Fixture::new();
        symlink(fixture.path("secret"), fixture.path("root/link")).unwrap();
        for path in ["secret", "root/../secret", "root/link", "missing"] {
            let error = fixture.local(path).unwrap_err();
            assert!(matches!(error, Error::Outside { .. }), "{path}: {error}");
            assert!(error.to_string().contains("--code-root"), "{error}");
        }
    }

    #[test]
    fn a_path_that_is_no_directory_is_told_apart() {
        let fixture = Fixture::new();
        let error = fixture.local("root/hello/main.py").unwrap_err();
        assert!(matches!(error, Error::NotADirectory { .. }));
        let root = fixture.path("root");
        let missing = format!("{root}/nothing");
        let error = fixture.roots.directory(&missing).unwrap_err();
        assert!(
            matches!(error, Error::Unreadable { .. } | Error::Outside { .. }),
            "{error}"
        );
        let error = fixture.roots.directory("hello").unwrap_err();
        assert!(matches!(error, Error::Relative { .. }));
    }

    #[test]
    fn a_root_that_does_not_exist_is_refused_at_start() {
        let error = CodeRoots::new(&["/no/such/dir".into()]).unwrap_err();
        assert!(matches!(error, Error::Root { .. }));
    }
}
