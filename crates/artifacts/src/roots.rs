//! Where code may be.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bugle_types::{CodeLocation, Generation};
use sha2::{Digest, Sha256};

use crate::copy::{self, CopyError};

/// The directories below which functions may have their code. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CodeRoots {
    roots: Arc<[PathBuf]>,
    cache: Arc<Path>,
}

/// Why there is no directory with the code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A root that the operator listed cannot be used.
    #[error("the code root {} cannot be used", path.display())]
    Root {
        /// The root.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is not below any root.
    #[error(
        "the code path {} is not below {}; start the platform with --code-root set to a \
         directory above it",
        path.display(),
        list(roots)
    )]
    Outside {
        /// The path, with its links followed.
        path: PathBuf,
        /// The roots.
        roots: Vec<PathBuf>,
    },
    /// The path is not an absolute one.
    #[error("the code path {path:?} is not absolute; give the full path of the directory")]
    Relative {
        /// The path.
        path: String,
    },
    /// The path cannot be read.
    #[error("the code path {path} cannot be read")]
    Unreadable {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The path is a file.
    #[error(
        "the code path {path} is not a directory; give the directory that holds the handler's file"
    )]
    NotADirectory {
        /// The path.
        path: String,
    },
    /// The code cannot be copied.
    #[error("the code path {path} cannot be copied")]
    Copy {
        /// The path.
        path: String,
        /// Why.
        source: CopyError,
    },
    /// The code is in an object store.
    #[error(
        "the code is the object {object} of the bucket {bucket}, and this build takes no code from \
         object storage; register the function with storageType local and a codePath"
    )]
    ObjectStorage {
        /// The bucket.
        bucket: String,
        /// The object.
        object: String,
    },
    /// The function has no code.
    #[error("the function has no code; update it with storageType local and a codePath")]
    NoCode,
}

fn list(roots: &[PathBuf]) -> String {
    if roots.is_empty() {
        return "any code root, because none is set".to_owned();
    }
    let roots: Vec<String> = roots
        .iter()
        .map(|root| root.display().to_string())
        .collect();
    format!("a code root ({})", roots.join(", "))
}

impl CodeRoots {
    /// The given roots; `cache` is where copies of code are kept.
    ///
    /// # Errors
    ///
    /// [`Error::Root`] for a root that does not exist or is no directory.
    pub fn new(roots: &[PathBuf], cache: PathBuf) -> Result<Self, Error> {
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
            cache: cache.into(),
        })
    }

    /// The roots, with their links followed.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Where copies of code are.
    pub fn copies(&self) -> PathBuf {
        self.cache.join("code")
    }

    /// The directory with the code at `location`, for instances of `generation`.
    ///
    /// Blocks: it reads directories, and copies them where the function wants that.
    ///
    /// # Errors
    ///
    /// [`Error`] says what to change.
    pub fn resolve(
        &self,
        location: &CodeLocation,
        generation: &Generation,
    ) -> Result<PathBuf, Error> {
        match location {
            CodeLocation::Local(path) => self.directory(path),
            CodeLocation::Copy(path) => {
                let source = self.directory(path)?;
                let target = self.copies().join(key(&source, generation));
                copy::once(&source, &target).map_err(|source| Error::Copy {
                    path: path.clone(),
                    source,
                })?;
                Ok(target)
            }
            CodeLocation::S3 { bucket, object, .. } => Err(Error::ObjectStorage {
                bucket: bucket.clone(),
                object: object.clone(),
            }),
            // An image is no directory, and no driver of one asks for it here.
            CodeLocation::Image(_) | CodeLocation::None => Err(Error::NoCode),
        }
    }

    fn directory(&self, path: &str) -> Result<PathBuf, Error> {
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

/// The name of the copy: another one for each generation, so that an update takes new code.
fn key(source: &Path, generation: &Generation) -> String {
    let mut digest = Sha256::new();
    digest.update(source.as_os_str().as_encoded_bytes());
    digest.update([0]);
    digest.update(generation.0.as_bytes());
    let mut name = String::with_capacity(32);
    for byte in &digest.finalize()[..16] {
        name.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        name.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    name
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
            let roots = CodeRoots::new(&[root], dir.path().join("cache")).unwrap();
            Self { dir, roots }
        }

        fn path(&self, name: &str) -> String {
            self.dir.path().join(name).to_str().unwrap().to_owned()
        }

        fn local(&self, name: &str) -> Result<PathBuf, Error> {
            self.roots
                .resolve(&CodeLocation::Local(self.path(name)), &generation("1"))
        }
    }

    fn generation(text: &str) -> Generation {
        Generation(text.into())
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
        let missing = CodeLocation::Local(format!("{root}/nothing"));
        let error = fixture
            .roots
            .resolve(&missing, &generation("1"))
            .unwrap_err();
        assert!(
            matches!(error, Error::Unreadable { .. } | Error::Outside { .. }),
            "{error}"
        );
        let relative = CodeLocation::Local("hello".to_owned());
        let error = fixture
            .roots
            .resolve(&relative, &generation("1"))
            .unwrap_err();
        assert!(matches!(error, Error::Relative { .. }));
    }

    #[test]
    fn a_copy_does_not_follow_its_directory_until_the_next_generation() {
        let fixture = Fixture::new();
        let location = CodeLocation::Copy(fixture.path("root/hello"));
        let resolve = |text| fixture.roots.resolve(&location, &generation(text)).unwrap();
        let first = resolve("1");
        fs::write(fixture.path("root/hello/main.py"), "2").unwrap();
        assert_eq!(resolve("1"), first);
        assert_eq!(fs::read_to_string(first.join("main.py")).unwrap(), "1");
        assert_eq!(
            fs::read_to_string(resolve("2").join("main.py")).unwrap(),
            "2"
        );
    }

    #[test]
    fn a_function_without_code_is_told_what_to_set() {
        let fixture = Fixture::new();
        let error = fixture
            .roots
            .resolve(&CodeLocation::None, &generation("1"))
            .unwrap_err();
        assert!(error.to_string().contains("codePath"));
    }

    #[test]
    fn a_root_that_does_not_exist_is_refused_at_start() {
        let error = CodeRoots::new(&["/no/such/dir".into()], "/tmp".into()).unwrap_err();
        assert!(matches!(error, Error::Root { .. }));
    }
}
