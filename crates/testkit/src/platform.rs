//! A running platform.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::log::{self, Tolerated};
use crate::{Endpoint, Site, StartOptions, binary, eventually, process};

/// Generous, because CI machines are slow and shared. How fast a start really is has its own test.
const LONGEST_START: Duration = Duration::from_mins(1);
/// The user without rights, who has this number everywhere.
const NOBODY: u32 = 65_534;
/// Draining may take as long as the calls of a test.
const LONGEST_STOP: Duration = Duration::from_mins(1);

/// A running `bugle serve`. Dropping it kills it without looking at its log.
#[derive(Debug)]
pub struct Platform {
    /// The listener for functions and operators.
    pub control: Endpoint,
    /// The listener for calls.
    pub gateway: Endpoint,
    /// The server's process.
    pub pid: u32,
    tolerated: Tolerated,
    log: PathBuf,
    child: Child,
}

/// A start that ended before the platform was ready.
#[derive(Debug)]
pub struct Refused {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub log: String,
}

impl Platform {
    pub(crate) async fn start(site: &Site, options: &StartOptions) -> Result<Self, Refused> {
        let endpoints = site.data_dir().join("endpoints.json");
        let log = site.log();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the site is writable");
        let mut command = Command::new(if options.nobody {
            site.give_to(NOBODY)
        } else {
            binary()
        });
        if options.nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command
            .arg("serve")
            // A path that only this folder makes sense of, as people type them.
            .args(["--data-dir", "data"])
            .current_dir(site.path())
            .arg("--code-root")
            .arg(site.code_root())
            .args([
                "--control-listen",
                "127.0.0.1:0",
                "--gateway-listen",
                "127.0.0.1:0",
            ])
            .args(&options.arguments)
            .env("HOME", site.home())
            .envs(options.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary can be run");
        let pid = child.id().expect("a new process has an id");

        let found = eventually("the platform is ready", LONGEST_START, || {
            let ended = child.try_wait().expect("our own child can be waited for");
            let found = std::fs::read(&endpoints)
                .ok()
                .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
                .filter(|found| found["pid"] == pid);
            let seen = || {
                Err(format!(
                    "no endpoints of process {pid}:\n{}",
                    log::read(&log)
                ))
            };
            let outcome = match (ended, found) {
                (Some(status), _) => Ok(Err(status)),
                (None, Some(found)) => Ok(Ok(found)),
                (None, None) => seen(),
            };
            async { outcome }
        })
        .await;
        let found = found.map_err(|status| Refused {
            status,
            log: log::read(&log),
        })?;
        Ok(Self {
            control: endpoint(&found["control"]),
            gateway: endpoint(&found["gateway"]),
            pid,
            tolerated: Tolerated::default(),
            log,
            child,
        })
    }

    /// Accepts warnings and errors in the server's log whose line contains `text`.
    pub fn tolerate(&mut self, text: &str) {
        self.tolerated.add(text);
    }

    /// The server's log so far, with that of earlier starts in the same site.
    pub fn log(&self) -> String {
        log::read(&self.log)
    }

    /// How the server ended by itself; none while it runs.
    ///
    /// # Panics
    /// When the system does not tell.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let ended = self.child.try_wait();
        ended.expect("our own child can be waited for")
    }

    /// Kills the server as a power cut would, and waits until it is gone.
    pub async fn kill(mut self) {
        process::kill(self.pid);
        self.child
            .wait()
            .await
            .expect("our own child can be waited for");
    }

    /// Asks the server to stop and waits for it.
    ///
    /// # Panics
    /// When it does not stop, ends with an error, or its log has a warning or an error that was
    /// not tolerated.
    pub async fn finish(mut self) {
        process::terminate(self.pid);
        let ended = tokio::time::timeout(LONGEST_STOP, self.child.wait())
            .await
            .expect("the server stops when it is asked to")
            .expect("our own child can be waited for");
        assert!(
            ended.success(),
            "the server ended with {ended}:\n{}",
            self.log()
        );
        let complaints = log::complaints(&self.log, &self.tolerated);
        assert!(
            complaints.is_empty(),
            "the server complained, and no test expected it:\n{}",
            complaints.join("\n")
        );
    }
}

impl Drop for Platform {
    #[expect(clippy::print_stderr, reason = "the log explains why the test failed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let skipped = log.lines().count().saturating_sub(40);
            eprintln!("--- end of the server's log");
            for line in log.lines().skip(skipped) {
                eprintln!("{line}");
            }
        }
    }
}

fn endpoint(value: &Value) -> Endpoint {
    let address = value.as_str().unwrap_or("").parse();
    Endpoint {
        address: address.expect("endpoints.json holds addresses"),
    }
}
