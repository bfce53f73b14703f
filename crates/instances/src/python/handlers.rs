//! Compiled forms of handlers whose folders are not the platform's.
//!
//! A package is compiled where it lies. A folder that an operator's machine just has is not written
//! to: what its handler compiles to is kept here, in memory, and goes to instances with their START
//! frame. It counts for the file as it was, so whoever changes the file is served the change.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bugle_artifacts::open_directory;
use bugle_types::PythonVersion;
use bytes::{BufMut as _, Bytes, BytesMut};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

/// The largest source that is compiled, and the largest compiled form that is kept.
const MAX_SOURCE: u64 = 256 * 1024;
const MAX_COMPILED: usize = 256 * 1024;

/// What is kept of all of them, and how many files are known at all. When there is more, all are
/// forgotten: who is still in use is back with the second start.
const MAX_BYTES: usize = 32 << 20;
const MAX_FILES: usize = 16 * 1024;

/// The header of a compiled file: four bytes of the interpreter, how it is checked, and by what.
const MARK: usize = 4;
const HEADER: usize = 16;

/// The compiled handlers of one platform.
#[derive(Debug, Default)]
pub(super) struct Handlers {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    files: HashMap<(PathBuf, PythonVersion), Handler>,
    bytes: usize,
}

#[derive(Debug)]
struct Handler {
    stamp: Stamp,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// One start has used it. Most are never used again.
    Source,
    /// Somebody compiles it, or has found that it cannot be compiled.
    Claimed,
    Compiled(Bytes),
}

/// By what a file is recognized as the one that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            length: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// What a start finds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The compiled form; empty where there is none.
    pub(super) compiled: Bytes,
    /// The duty to compile the source once the start is over.
    pub(super) claim: Option<Claim>,
}

/// The duty to compile a source. Nobody else does it.
#[derive(Debug)]
pub(super) struct Claim {
    handlers: Arc<Handlers>,
    file: (PathBuf, PythonVersion),
    stamp: Stamp,
}

impl Handlers {
    /// Looks for the compiled form of the file of `handler` in the folder `code`. Blocks for a look
    /// at the file.
    pub(super) fn find(
        self: &Arc<Self>,
        code: &Path,
        handler: &str,
        version: PythonVersion,
    ) -> Found {
        // As in `loader.py`: what is in a package of modules is left to the import system.
        let Some((module, _)) = handler
            .rsplit_once('.')
            .filter(|(module, _)| !module.contains(['.', '/']))
        else {
            return Found::default();
        };
        let path = code.join(format!("{module}.py"));
        match open(&path, OFlags::PATH).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_SOURCE => {
                self.look_up((path, version), Stamp::of(&metadata))
            }
            _ => Found::default(),
        }
    }

    fn look_up(self: &Arc<Self>, file: (PathBuf, PythonVersion), stamp: Stamp) -> Found {
        let mut known = self.known.lock();
        match known.files.get_mut(&file) {
            Some(handler) if handler.stamp == stamp => match &handler.form {
                Form::Compiled(compiled) => Found {
                    compiled: compiled.clone(),
                    claim: None,
                },
                Form::Claimed => Found::default(),
                Form::Source => {
                    handler.form = Form::Claimed;
                    let handlers = Arc::clone(self);
                    Found {
                        compiled: Bytes::new(),
                        claim: Some(Claim {
                            handlers,
                            file,
                            stamp,
                        }),
                    }
                }
            },
            _ => {
                known.put(file, stamp, Form::Source);
                Found::default()
            }
        }
    }
}

impl Known {
    fn put(&mut self, file: (PathBuf, PythonVersion), stamp: Stamp, form: Form) {
        let size = |form: &Form| match form {
            Form::Compiled(compiled) => compiled.len(),
            Form::Source | Form::Claimed => 0,
        };
        if self.files.len() >= MAX_FILES || self.bytes + size(&form) > MAX_BYTES {
            self.files.clear();
            self.bytes = 0;
        }
        self.bytes += size(&form);
        if let Some(before) = self.files.insert(file, Handler { stamp, form }) {
            self.bytes -= size(&before.form);
        }
    }
}

impl Claim {
    /// For which interpreter.
    pub(super) fn version(&self) -> PythonVersion {
        self.file.1
    }

    /// The path, which the compiled form names, and the source. Blocks.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not the one any more that was to be compiled.
    pub(super) fn source(&self) -> io::Result<(String, Vec<u8>)> {
        let path = &self.file.0;
        let name = path.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
        let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let mut source = Vec::new();
        (&file).take(MAX_SOURCE + 1).read_to_end(&mut source)?;
        if Stamp::of(&file.metadata()?) != self.stamp {
            return Err(io::Error::other("the source has changed"));
        }
        Ok((name.to_owned(), source))
    }

    /// Takes what the source was compiled to.
    pub(super) fn keep(self, compiled: &[u8]) {
        if compiled.len() < HEADER || compiled.len() > MAX_COMPILED {
            return;
        }
        // The interpreter is told to look at the time and the length of its source, as it would with
        // a compiled file that it has written itself. Both are cut to four bytes there.
        let mut checked = BytesMut::with_capacity(compiled.len());
        checked.put_slice(&compiled[..MARK]);
        checked.put_u32_le(0);
        checked.put_slice(&self.stamp.modified.0.to_le_bytes()[..4]);
        checked.put_slice(&self.stamp.length.to_le_bytes()[..4]);
        checked.put_slice(&compiled[HEADER..]);
        let mut known = self.handlers.known.lock();
        let is_of_now = |handler: &Handler| handler.stamp == self.stamp;
        if known.files.get(&self.file).is_some_and(is_of_now) {
            known.put(self.file, self.stamp, Form::Compiled(checked.freeze()));
        }
    }
}

/// Opens a file, or a link itself, without following links on the way: what lies below a root is not
/// what lies elsewhere, whoever changes folders meanwhile.
fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let folder = open_directory(folder)?;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
    Ok(File::from(file))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const VERSION: PythonVersion = PythonVersion(11);

    fn folder(source: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("main.py"), source).unwrap();
        dir
    }

    fn compiled(text: &str) -> Vec<u8> {
        [&[0; HEADER], text.as_bytes()].concat()
    }

    #[test]
    fn a_file_is_compiled_by_its_second_start_and_found_by_the_third() {
        let (handlers, code) = (Arc::new(Handlers::default()), folder("x = 1"));
        let find = || handlers.find(code.path(), "main.handler", VERSION);
        assert!(find().claim.is_none());
        let claim = find().claim.unwrap();
        assert!(find().claim.is_none(), "one is enough");
        assert_eq!(claim.source().unwrap().1, b"x = 1");
        claim.keep(&compiled("code"));
        let found = find();
        assert!(found.claim.is_none());
        assert_eq!(&found.compiled[HEADER..], b"code");
        assert_eq!(found.compiled[12], 5, "the length of the source");
    }

    #[test]
    fn a_file_that_changes_is_another_one() {
        let (handlers, code) = (Arc::new(Handlers::default()), folder("x = 1"));
        let find = || handlers.find(code.path(), "main.handler", VERSION);
        find();
        let claim = find().claim.unwrap();
        fs::write(code.path().join("main.py"), "x = 22").unwrap();
        claim.source().unwrap_err();
        find();
        claim.keep(&compiled("old"));
        assert!(find().compiled.is_empty());
    }

    #[test]
    fn only_plain_files_of_the_folder_itself_are_taken() {
        let (handlers, code) = (Arc::new(Handlers::default()), folder("x = 1"));
        std::os::unix::fs::symlink("main.py", code.path().join("link.py")).unwrap();
        for handler in [
            "link.handler",
            "app.main.handler",
            "../main.handler",
            "main",
            "none.h",
        ] {
            for _ in 0..3 {
                let found = handlers.find(code.path(), handler, VERSION);
                assert!(found.claim.is_none(), "{handler}");
            }
        }
    }

    #[test]
    fn a_folder_that_becomes_a_link_leads_nowhere() {
        let (handlers, code) = (Arc::new(Handlers::default()), folder("x = 1"));
        let elsewhere = folder("secret = 2");
        let inside = code.path().join("app");
        std::os::unix::fs::symlink(elsewhere.path(), &inside).unwrap();
        for _ in 0..3 {
            assert!(
                handlers
                    .find(&inside, "main.handler", VERSION)
                    .claim
                    .is_none()
            );
        }
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let mut known = Known::default();
        let stamp = Stamp::of(&fs::metadata("/").unwrap());
        let compiled = Bytes::from(vec![0; MAX_COMPILED]);
        for number in 0..=MAX_BYTES / MAX_COMPILED {
            let file = (PathBuf::from(number.to_string()), VERSION);
            known.put(file, stamp, Form::Compiled(compiled.clone()));
            assert!(known.bytes <= MAX_BYTES);
        }
        assert_eq!(known.files.len(), 1);
    }
}
