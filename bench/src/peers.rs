//! What a user would run instead: the same handler in a bare server, installed by name.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

/// Versions are pinned, so that a ratio means the same tomorrow.
const PACKAGES: &[&str] = &["uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0"];

/// The handler as a raw ASGI application: the least a Python HTTP server can do.
const APPLICATION: &str = r#"import json

HEADERS = [(b"content-type", b"application/json")]


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    json.loads(body)
    answer = json.dumps({"ok": True}).encode()
    headers = HEADERS + [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
"#;

/// A running peer; killed when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Peer {
    /// Starts uvicorn with one worker, uvloop and httptools.
    pub(crate) fn uvicorn(folder: &Path) -> anyhow::Result<Self> {
        let python = environment()?;
        std::fs::write(folder.join("app.py"), APPLICATION)?;
        let address = free_address()?;
        let child = Command::new(python)
            .args([
                "-m",
                "uvicorn",
                "app:app",
                "--loop",
                "uvloop",
                "--http",
                "httptools",
            ])
            .args([
                "--workers",
                "1",
                "--no-access-log",
                "--log-level",
                "warning",
            ])
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("uvicorn")?;
        let mut peer = Self { child, address };
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(
                begin.elapsed() < Duration::from_secs(30),
                "uvicorn does not listen"
            );
            ensure!(
                peer.child.try_wait()?.is_none(),
                "uvicorn ended while it started"
            );
            #[expect(clippy::disallowed_methods, reason = "no runtime here; bounded above")]
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // As for the platform: it may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The interpreter of the peers' virtual environment, made at first use.
fn environment() -> anyhow::Result<PathBuf> {
    let folder = std::path::absolute("target/bench/peers")?;
    let python = folder.join("bin/python");
    let done = folder.join("installed");
    if std::fs::read_to_string(&done).is_ok_and(|text| text == PACKAGES.join("\n")) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(PACKAGES))?;
    std::fs::write(done, PACKAGES.join("\n"))?;
    Ok(python)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// An address that was free a moment ago: uvicorn cannot tell which port it took.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
