//! Compiles packages and handlers for an interpreter, so that their next start need not.
//!
//! The sources are read here and sent to a process that can do nothing but compile
//! (`runtimes/python/_bugle/compiling.py`); what it sends back is written here. It takes the time
//! that nobody else wants: the first instance of a package does not wait for it.

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bugle_artifacts::Compilation;
use bugle_types::PythonVersion;
use tokio::runtime::Handle;

use super::handlers::Claim;
use super::parents::Parents;

/// The first interpreter that takes compiled code without a look at its source.
const FIRST: PythonVersion = PythonVersion(7);

/// How long it may take; the process limits its own time of the processor.
const LIMIT: Duration = Duration::from_mins(10);

/// The largest source that is compiled ahead; what is larger is data in most cases.
const MAX_SOURCE: u64 = 4 << 20;

/// The largest compiled form of one.
const MAX_COMPILED: usize = 16 << 20;

/// The longest path of a source.
const MAX_NAME: usize = 4096;

/// The most sources of a package, and directories in each other.
const MAX_SOURCES: usize = 20_000;
const MAX_DEPTH: usize = 64;

/// Compiles the package in the background.
pub(super) fn begin(parents: &Arc<Parents>, version: PythonVersion, compilation: Compilation) {
    if version.0 < FIRST.0 {
        return;
    }
    let parents = Arc::clone(parents);
    Handle::current().spawn(async move {
        let Ok(started) = parents.compiler(version).await else {
            // Whatever is wrong with the interpreter is told to those who call the function.
            return;
        };
        let compiled = tokio::task::spawn_blocking(move || {
            let root = compilation.directory();
            let names = sources(&root).into_iter();
            let sources =
                names.filter_map(move |name| Some((fs::read(root.join(&name)).ok()?, name)));
            let mut count = 0;
            let compiled = run(started, sources, |name, tag, compiled| {
                count += 1;
                compilation.put(name, tag, compiled)
            });
            compilation.finish();
            compiled.map(|()| count)
        });
        match compiled.await {
            Ok(Ok(files)) => tracing::debug!(runtime = %version, files, "a package is compiled"),
            Ok(Err(error)) => {
                tracing::info!(runtime = %version, %error, "a package is not compiled as a whole");
            }
            Err(error) => tracing::warn!(%error, "a package is not compiled"),
        }
    });
}

/// Compiles a handler in the background.
pub(super) fn begin_handler(parents: &Arc<Parents>, claim: Claim) {
    if claim.version().0 < FIRST.0 {
        return;
    }
    let parents = Arc::clone(parents);
    Handle::current().spawn(async move {
        let Ok(started) = parents.compiler(claim.version()).await else {
            return;
        };
        let compiled = tokio::task::spawn_blocking(move || {
            let (name, source) = claim.source()?;
            let mut kept = None;
            run(
                started,
                std::iter::once((source, name)),
                |_, _, compiled| {
                    kept = Some(compiled.to_owned());
                    Ok(())
                },
            )?;
            if let Some(compiled) = kept {
                claim.keep(&compiled);
            }
            io::Result::Ok(())
        });
        match compiled.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a handler is not compiled"),
            Err(error) => tracing::warn!(%error, "a handler is not compiled"),
        }
    });
}

/// The process that compiles.
pub(super) fn command(interpreter: &Path, script: &Path) -> Command {
    let mut command = Command::new(interpreter);
    command
        .args(["-I", "-S", "-B"])
        .arg(script)
        .env_clear()
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Ends the process when nobody waits for it any more, or it takes too long.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It has ended by itself, then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends the sources, each with its name, and gives what comes back to `put`: the name, the
/// interpreter's tag, and the compiled form.
fn run(
    child: Child,
    sources: impl Iterator<Item = (Vec<u8>, String)> + Send + 'static,
    put: impl FnMut(&str, &str, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut child = Ended(child);
    let gone = || io::Error::other("the process has no standard input or output");
    let input = child.0.stdin.take().ok_or_else(gone)?;
    let output = child.0.stdout.take().ok_or_else(gone)?;
    // It ends when the process has read everything, or has ended.
    let sending = std::thread::Builder::new()
        .name("bugle-sources".to_owned())
        .spawn(move || send(BufWriter::new(input), sources))?;
    let received = receive(BufReader::new(output), put);
    drop(child);
    let _ = sending.join();
    received
}

fn send(mut input: impl Write, sources: impl Iterator<Item = (Vec<u8>, String)>) -> io::Result<()> {
    for (source, name) in sources {
        let lengths = [name.len(), source.len()].map(|length| u32::try_from(length).unwrap_or(0));
        input.write_all(&lengths[0].to_be_bytes())?;
        input.write_all(&lengths[1].to_be_bytes())?;
        input.write_all(name.as_bytes())?;
        input.write_all(&source)?;
    }
    input.flush()
}

fn receive(
    mut output: impl Read,
    mut put: impl FnMut(&str, &str, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let deadline = std::time::Instant::now() + LIMIT;
    let Some((tag, _)) = frame(&mut output)? else {
        return Err(io::Error::other("the compiler has ended before it began"));
    };
    while let Some((name, compiled)) = frame(&mut output)? {
        put(&name, &tag, &compiled)?;
        if std::time::Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// One frame; nothing at the end. What the process sends is not to be trusted.
fn frame(output: &mut impl Read) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut first = [0; 4];
    match output.read_exact(&mut first) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut second = [0; 4];
    output.read_exact(&mut second)?;
    let length = |bytes| usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX);
    let (name, compiled) = (length(first), length(second));
    if name > MAX_NAME || compiled > MAX_COMPILED {
        return Err(io::Error::other("the compiler sent what makes no sense"));
    }
    let mut bytes = vec![0; name];
    output.read_exact(&mut bytes)?;
    let name = String::from_utf8(bytes).map_err(io::Error::other)?;
    let mut bytes = vec![0; compiled];
    output.read_exact(&mut bytes)?;
    Ok(Some((name, bytes)))
}

/// The paths of all sources below a folder that have no links on their way.
fn sources(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::new(), 0)];
    while let Some((folder, depth)) = open.pop() {
        for entry in fs::read_dir(root.join(&folder))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let path = folder.join(entry.file_name());
            if kind.is_dir() && depth < MAX_DEPTH && entry.file_name() != "__pycache__" {
                open.push((path, depth + 1));
                continue;
            }
            let is_source = path.extension().is_some_and(|ending| ending == "py");
            let fits = || {
                entry
                    .metadata()
                    .is_ok_and(|found| found.len() <= MAX_SOURCE)
            };
            if kind.is_file()
                && is_source
                && fits()
                && let Some(name) = path.to_str()
            {
                found.push(name.to_owned());
            }
            if found.len() >= MAX_SOURCES {
                return found;
            }
        }
    }
    found
}
