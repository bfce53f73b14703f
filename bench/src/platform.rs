//! The platform under measurement: a real process on free ports.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use crate::load::{self, Until, Whole as _};

/// A running platform; killed when dropped.
#[derive(Debug)]
pub(crate) struct Platform {
    child: Child,
    /// The control API.
    pub(crate) control: SocketAddr,
    /// The invocation gateway.
    pub(crate) gateway: SocketAddr,
    /// From the start of the process until it was ready.
    pub(crate) ready: Duration,
}

/// A process that is killed when nobody needs it any more.
#[derive(Debug)]
pub(crate) struct Helper(pub(crate) Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended, and there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The longest that a start may take.
const PATIENCE: Duration = Duration::from_mins(1);

impl Platform {
    /// Starts `binary` on `data` with functions below `code`, and waits until it is ready.
    pub(crate) fn start(binary: &Path, data: &Path, code: &Path) -> anyhow::Result<Self> {
        Self::start_with(binary, data, code, &[])
    }

    /// The same with these values of the configuration, as `section.key=value`.
    pub(crate) fn start_with(
        binary: &Path,
        data: &Path,
        code: &Path,
        configuration: &[&str],
    ) -> anyhow::Result<Self> {
        let endpoints = data.join("endpoints.json");
        match std::fs::remove_file(&endpoints) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let begin = Instant::now();
        let child = Command::new(binary)
            .args([
                "serve",
                "--control-listen",
                "127.0.0.1:0",
                "--gateway-listen",
                "127.0.0.1:0",
            ])
            .arg("--data-dir")
            .arg(data)
            .arg("--code-root")
            .arg(code)
            .args(configuration.iter().flat_map(|value| ["--set", value]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(data.with_extension("log"))?)
            .spawn()
            .with_context(|| binary.display().to_string())?;
        let mut platform = Self {
            child,
            control: ([127, 0, 0, 1], 0).into(),
            gateway: ([127, 0, 0, 1], 0).into(),
            ready: Duration::ZERO,
        };
        platform.wait_until_ready(&endpoints, begin)?;
        Ok(platform)
    }

    fn wait_until_ready(&mut self, endpoints: &Path, begin: Instant) -> anyhow::Result<()> {
        loop {
            ensure!(
                begin.elapsed() < PATIENCE,
                "the platform was not ready in {PATIENCE:?}"
            );
            ensure!(
                self.child.try_wait()?.is_none(),
                "the platform ended while it started"
            );
            if let Ok(text) = std::fs::read_to_string(endpoints) {
                let value: serde_json::Value = serde_json::from_str(&text)?;
                let address = |key: &str| -> anyhow::Result<SocketAddr> {
                    Ok(value[key]
                        .as_str()
                        .context("an endpoint is missing")?
                        .parse()?)
                };
                self.control = address("control")?;
                self.gateway = address("gateway")?;
                break;
            }
            pause();
        }
        let request = load::request(self.control, "/readyz", None);
        while load::once(self.control, &request).map_or(0, |(status, _)| status) != 200 {
            ensure!(
                begin.elapsed() < PATIENCE,
                "the platform was not ready in {PATIENCE:?}"
            );
            pause();
        }
        self.ready = begin.elapsed();
        Ok(())
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Registers a Python function whose code is `folder`, and returns the path of its invocation.
    pub(crate) fn register(&self, name: &str, folder: &Path) -> anyhow::Result<String> {
        self.register_with(name, folder, &serde_json::json!({}))
    }

    /// The same with these fields.
    pub(crate) fn register_with(
        &self,
        name: &str,
        folder: &Path,
        fields: &serde_json::Value,
    ) -> anyhow::Result<String> {
        let body = registration_with(name, folder, fields)?;
        let request = load::request(self.control, "/serverless/v1/functions", Some(&body));
        let (status, answer) = load::once(self.control, &request)?;
        ensure!(
            status == 200,
            "registering {name} was answered with {status}: {answer}"
        );
        Ok(invocation(name))
    }

    /// Registers `0@bench@{name}-0` and so on, all with the code in `folder`.
    pub(crate) fn register_many(
        &self,
        count: usize,
        name: &str,
        folder: &Path,
    ) -> anyhow::Result<()> {
        self.register_many_with(count, name, folder, &serde_json::json!({}))
    }

    /// The same with these fields.
    pub(crate) fn register_many_with(
        &self,
        count: usize,
        name: &str,
        folder: &Path,
        fields: &serde_json::Value,
    ) -> anyhow::Result<()> {
        let control = self.control;
        let pattern = registration_with("0@bench@NAME", folder, fields)?;
        let name = name.to_owned();
        let until = Until::Sent(u64::try_from(count)?);
        let round = load::closed_loop(control, 64, until, move |number| {
            let body = pattern.replace("NAME", &format!("{name}-{number}"));
            load::request(control, "/serverless/v1/functions", Some(&body))
        })?;
        round.whole().map(|_| ())
    }

    /// The value of one of the platform's metrics; 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let request = load::request(self.control, "/metrics", None);
        let (_, text) = load::once(self.control, &request)?;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.map(str::parse).transpose()?.unwrap_or(0.0))
    }

    /// Waits until `look` says so.
    pub(crate) fn wait(
        &self,
        what: &str,
        mut look: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        while !look(self)? {
            ensure!(begin.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
            pause();
        }
        Ok(())
    }
}

/// The path of a function's invocation.
pub(crate) fn invocation(name: &str) -> String {
    format!("/serverless/v1/functions/sn:cn:yrk:default:function:{name}:latest/invocations")
}

impl Drop for Platform {
    fn drop(&mut self) {
        // The process may have ended by itself; there is nothing else to do about either failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The smallest wait between two looks at something that takes milliseconds.
pub(crate) fn pause() {
    wait(Duration::from_micros(500));
}

/// A wait between two looks, which bounds their precision.
pub(crate) fn wait(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "no runtime here")]
    std::thread::sleep(time);
}

/// The body of a registration.
pub(crate) fn registration(name: &str, folder: &Path) -> String {
    serde_json::json!({
        "name": name, "runtime": python().runtime, "kind": "faas", "handler": "handler.handler",
        "cpu": 500, "memory": 256, "timeout": 60, "storageType": "local", "codePath": folder,
        "concurrentNum": "100", "minInstance": "0", "maxInstance": "1",
    })
    .to_string()
}

fn registration_with(
    name: &str,
    folder: &Path,
    fields: &serde_json::Value,
) -> anyhow::Result<String> {
    let mut body: serde_json::Value = serde_json::from_str(&registration(name, folder))?;
    for (field, value) in fields.as_object().into_iter().flatten() {
        body[field] = value.clone();
    }
    Ok(body.to_string())
}

/// The machine's `python3`.
#[derive(Debug)]
pub(crate) struct Python {
    /// The program itself, not what a version manager puts before it.
    pub(crate) program: PathBuf,
    runtime: String,
}

/// The machine's `python3`, which the peers use as well; asked once.
pub(crate) fn python() -> &'static Python {
    static PYTHON: OnceLock<Python> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let print = "import sys; print(sys.executable); print('python3.%d' % sys.version_info[1])";
        let output = Command::new("python3").args(["-c", print]).output();
        let text = output
            .ok()
            .and_then(|output| String::from_utf8(output.stdout).ok());
        let mut lines = text.as_deref().unwrap_or_default().lines();
        Python {
            program: lines.next().unwrap_or("python3").into(),
            runtime: lines.next().unwrap_or("python3.11").to_owned(),
        }
    })
}

/// Folders for one scenario: the platform's data and the functions' code.
#[derive(Debug)]
pub(crate) struct Folders {
    // Removed when dropped.
    _root: TempDir,
    /// For the platform.
    pub(crate) data: PathBuf,
    /// For the functions.
    pub(crate) code: PathBuf,
}

impl Folders {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let root = tempfile::tempdir()?;
        let (data, code) = (root.path().join("data"), root.path().join("code"));
        std::fs::create_dir(&data)?;
        std::fs::create_dir(&code)?;
        Ok(Self {
            _root: root,
            data,
            code,
        })
    }

    /// A folder with the trivial handler.
    pub(crate) fn function(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.function_with(
            name,
            "def handler(event, context):\n    return {'ok': True}\n",
        )
    }

    /// A folder with this handler.
    pub(crate) fn function_with(&self, name: &str, handler: &str) -> anyhow::Result<PathBuf> {
        let folder = self.code.join(name);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("handler.py"), handler)?;
        Ok(folder)
    }
}
