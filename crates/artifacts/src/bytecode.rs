//! Compiled Python beside its sources.
//!
//! Who compiles is elsewhere; here is where it goes. An interpreter looks for the compiled form of
//! `x.py` in `__pycache__`, and what it finds there counts without a look at the source: sources in
//! the cache do not change.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::cache::Hold;
use crate::copy::open_directory;

/// What all compiled files of a package may hold together.
const MAX_BYTES: u64 = 256 << 20;

/// The right to compile a package for an interpreter, once.
#[derive(Debug)]
pub struct Compilation {
    hold: Arc<Hold>,
    interpreter: String,
    bytes: AtomicU64,
}

impl Compilation {
    pub(crate) fn claim(hold: &Arc<Hold>, interpreter: &str) -> Option<Self> {
        hold.claim(interpreter).then(|| Self {
            hold: Arc::clone(hold),
            interpreter: interpreter.to_owned(),
            bytes: AtomicU64::new(0),
        })
    }

    /// The package.
    pub fn directory(&self) -> PathBuf {
        self.hold.path()
    }

    /// Puts the compiled form of `source`, a path inside the package that ends with `.py`, where the
    /// interpreter with this tag (`cpython-311`) finds it. Blocks.
    ///
    /// # Errors
    ///
    /// The source is not one of the package, there is too much, or the disk.
    pub fn put(&self, source: &str, tag: &str, compiled: &[u8]) -> io::Result<()> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let (folder, name) = source.rsplit_once('/').unwrap_or((".", source));
        let name = name.strip_suffix(".py").filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| invalid("it is no source"))?;
        let plain = |part: &str| !part.is_empty() && part != ".." && part != ".";
        let inside = folder == "." || folder.split('/').all(plain);
        let of_tag = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !inside || !tag.bytes().all(of_tag) {
            return Err(invalid("it is not a path of the package"));
        }
        let bytes = compiled.len() as u64;
        if self.bytes.fetch_add(bytes, Relaxed) + bytes > MAX_BYTES {
            return Err(invalid("the compiled files are too large"));
        }
        let folder = open_directory(&self.hold.path().join(folder))?;
        // It must be a source that is there, and nothing that looks like one.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = rustix::fs::openat(&folder, format!("{name}.py"), flags, Mode::empty())?;
        drop(source);
        let cache = cache_of(&folder)?;
        write(&cache, &format!("{name}.{tag}.pyc"), compiled)
    }

    /// Everything that can be compiled has been. Blocks.
    pub fn finish(self) {
        let bytes = self.bytes.load(Relaxed);
        self.hold.compiled(&self.interpreter, bytes);
    }
}

/// Rights of a directory that nobody but the platform writes to, and those it needs to do so where
/// it is not root.
const SEALED: Mode = Mode::from_raw_mode(0o555);
const OPEN: Mode = Mode::from_raw_mode(0o755);

fn cache_of(folder: &OwnedFd) -> io::Result<OwnedFd> {
    const NAME: &str = "__pycache__";
    rustix::fs::fchmod(folder, OPEN)?;
    let made = rustix::fs::mkdirat(folder, NAME, SEALED);
    rustix::fs::fchmod(folder, SEALED)?;
    match made {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, NAME, flags, Mode::empty())?)
}

/// Writes a file that is whole as soon as it has its name.
fn write(folder: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let unfinished = format!(".tmp-{name}");
    rustix::fs::fchmod(folder, OPEN)?;
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let written = rustix::fs::openat(folder, &*unfinished, flags, Mode::from_raw_mode(0o644))
        .map_err(io::Error::from)
        .and_then(|file| {
            let mut file = std::fs::File::from(file);
            file.write_all(bytes)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444))?;
            Ok(rustix::fs::renameat(folder, &*unfinished, folder, name)?)
        });
    rustix::fs::fchmod(folder, SEALED)?;
    written
}
