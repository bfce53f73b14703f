//! What a user would run instead: the same handler in other servers, installed by name.
//!
//! One worker each, called directly: no platform in front, nothing that routes, counts or logs.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

/// Versions are pinned, so that a ratio means the same tomorrow.
const UVICORN: &[&str] = &["uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0"];

/// The same for the others, which need uvicorn too.
const FURTHER: &[&str] = &[
    "fastapi==0.165.0",
    "gunicorn==27.0.1",
    "functions-framework==3.10.2",
];

/// What the functions of `cold_fastapi_p50_ms` import.
const LIBRARIES: &[&str] = &["fastapi==0.165.0", "httpx==0.28.1", "pydantic==2.14.3"];

/// A server with the same handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// uvicorn with uvloop and httptools, a raw ASGI application.
    Uvicorn,
    /// `FastAPI` in the same uvicorn.
    FastApi,
    /// gunicorn with a `gthread` worker, a raw WSGI application. Its default, the `sync` worker,
    /// closes the connection after each answer.
    Gunicorn,
    /// Google's functions-framework as it comes.
    FunctionsFramework,
}

impl Kind {
    /// Those that are measured beside the one whose ratios are judged.
    pub(crate) const FURTHER: [Self; 3] = [Self::FastApi, Self::Gunicorn, Self::FunctionsFramework];

    /// As in the names of figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uvicorn => "uvicorn",
            Self::FastApi => "fastapi",
            Self::Gunicorn => "gunicorn",
            Self::FunctionsFramework => "functions_framework",
        }
    }

    fn application(self) -> &'static str {
        match self {
            Self::Uvicorn => include_str!("peers/asgi.py"),
            Self::FastApi => include_str!("peers/fast.py"),
            Self::Gunicorn => include_str!("peers/wsgi.py"),
            Self::FunctionsFramework => include_str!("peers/framework.py"),
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Uvicorn | Self::FastApi => &[
                "-m",
                "uvicorn",
                "application:app",
                "--loop=uvloop",
                "--http=httptools",
                "--workers=1",
                "--no-access-log",
                "--log-level=warning",
            ],
            Self::Gunicorn => &[
                "-m",
                "gunicorn",
                "application:app",
                "--worker-class=gthread",
                "--workers=1",
                "--threads=4",
                "--keep-alive=75",
                "--log-level=warning",
            ],
            Self::FunctionsFramework => &[
                "-m",
                "functions_framework",
                "--source=application.py",
                "--target=handler",
            ],
        }
    }

    fn listen(self, address: SocketAddr) -> Vec<String> {
        match self {
            Self::Gunicorn => vec![format!("--bind={address}")],
            _ => vec![
                format!("--host={}", address.ip()),
                format!("--port={}", address.port()),
            ],
        }
    }
}

/// A running peer; ended when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// When the process was started.
    pub(crate) begin: Instant,
}

/// The longest that a start may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a peer may take to stop in order.
const GRACE: Duration = Duration::from_secs(3);

impl Peer {
    /// Starts one whose application lies below `folder`.
    pub(crate) fn start(kind: Kind, folder: &Path) -> anyhow::Result<Self> {
        let python = environment(kind)?;
        let folder = folder.join(format!("peer-{}", kind.name()));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("application.py"), kind.application())?;
        let address = free_address()?;
        let begin = Instant::now();
        let child = Command::new(python)
            .args(kind.arguments())
            .args(kind.listen(address))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| kind.name())?;
        let mut peer = Self {
            child,
            address,
            begin,
        };
        while TcpStream::connect(address).is_err() {
            let name = kind.name();
            ensure!(begin.elapsed() < PATIENCE, "{name} does not listen");
            ensure!(
                peer.child.try_wait()?.is_none(),
                "{name} ended while it started"
            );
            pause();
        }
        Ok(peer)
    }

    /// Makes `folder` a function that is this peer.
    pub(crate) fn as_function(kind: Kind, folder: &Path) -> anyhow::Result<()> {
        let python = environment(kind)?;
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("application.py"), kind.application())?;
        let arguments = kind.arguments().join(" ");
        let program = format!(
            "#!/bin/sh\nexec '{}' {arguments} --host=127.0.0.1 --port=\"$PORT\"\n",
            python.display()
        );
        std::fs::write(folder.join("bootstrap"), program)?;
        Ok(())
    }

    /// The process; its workers are its children.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Asked first, because one that is killed leaves its workers behind. As for the platform:
        // it may be gone already.
        let _ = Command::new("kill").arg(self.pid().to_string()).status();
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < GRACE {
            pause();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pause() {
    #[expect(clippy::disallowed_methods, reason = "no runtime here; bounded above")]
    std::thread::sleep(Duration::from_millis(5));
}

/// The interpreter of a virtual environment with the peer, made at first use. Those who measure
/// only uvicorn need not install the rest.
fn environment(kind: Kind) -> anyhow::Result<PathBuf> {
    let (folder, packages) = match kind {
        Kind::Uvicorn => ("target/bench/uvicorn", UVICORN.to_vec()),
        _ => ("target/bench/peers", [UVICORN, FURTHER].concat()),
    };
    let folder = std::path::absolute(folder)?;
    let python = folder.join("bin/python");
    once(&folder, &packages, || {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(pip(&python).args(&packages))
    })?;
    Ok(python)
}

/// The folder of what functions import, installed at first use.
pub(crate) fn libraries() -> anyhow::Result<PathBuf> {
    let folder = std::path::absolute("target/bench/libraries")?;
    let lib = folder.join("lib");
    // The peers' own, which has nothing that these could be in conflict with.
    let python = environment(Kind::FastApi)?;
    once(&folder, LIBRARIES, || {
        run(pip(&python).arg("--target").arg(&lib).args(LIBRARIES))
    })?;
    Ok(lib)
}

/// Fills the folder, unless it holds these packages already.
fn once(
    folder: &Path,
    packages: &[&str],
    fill: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let done = folder.join("installed");
    if std::fs::read_to_string(&done).is_ok_and(|text| text == packages.join("\n")) {
        return Ok(());
    }
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    std::fs::create_dir_all(folder)?;
    fill()?;
    std::fs::write(done, packages.join("\n"))?;
    Ok(())
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
    ]);
    command
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// An address that was free a moment ago: the peers cannot tell which port they took.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
