//! Somebody at a terminal: a folder to work in, and what the commands there said.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use bugle_testkit::{Platform, Site, binary, eventually, interrupt, processes_using};
use serde_json::Value;
use tokio::process::{Child, Command};

/// No command of these tests takes longer, on any machine.
const LONGEST: Duration = Duration::from_mins(1);
/// The discard port, which is reserved and on which nothing listens.
const NOBODY: &str = "http://127.0.0.1:9";

pub(crate) struct Console {
    pub(crate) site: Site,
    server: String,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A command that goes on.
pub(crate) struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Console {
    /// On a machine on which no platform runs.
    pub(crate) fn new() -> Self {
        Self {
            site: Site::new(),
            server: NOBODY.to_owned(),
        }
    }

    /// Beside a platform of its own.
    pub(crate) async fn with_platform() -> (Self, Platform) {
        let mut console = Self::new();
        let platform = console.site.start().await;
        console.server = platform.control.url("");
        (console, platform)
    }

    /// The folder in which commands run.
    pub(crate) fn folder(&self) -> PathBuf {
        self.site.code_root()
    }

    /// Makes a function's folder whose handler is `index.handler`, and deploys it.
    pub(crate) async fn deploy(&self, name: &str, source: &str) -> Said {
        self.write(name, source);
        self.run(["deploy", name]).await.expect(0)
    }

    /// Makes a function's folder whose handler is `index.handler`.
    pub(crate) fn write(&self, name: &str, source: &str) -> PathBuf {
        let manifest = format!("name = \"{name}\"\nhandler = \"index.handler\"\n");
        let folder = self.site.write_code(name, "index.py", source);
        std::fs::write(folder.join("function.toml"), manifest).unwrap();
        folder
    }

    /// Runs `bugle` to its end.
    pub(crate) async fn run<const N: usize>(&self, arguments: [&str; N]) -> Said {
        self.end(self.command(binary()).args(arguments)).await
    }

    /// Runs a line of shell to its end.
    pub(crate) async fn shell(&self, line: &str) -> Said {
        self.end(self.command("bash").args(["-c", line])).await
    }

    /// Runs `bugle` with variables to its end.
    pub(crate) async fn run_with<const N: usize>(
        &self,
        variables: &[(&str, &str)],
        arguments: [&str; N],
    ) -> Said {
        let mut command = self.command(binary());
        let command = command.envs(variables.iter().copied()).args(arguments);
        self.end(command).await
    }

    /// Starts `bugle`.
    pub(crate) fn start<const N: usize>(&self, arguments: [&str; N]) -> Running {
        let (out, err) = (self.site.path().join("out"), self.site.path().join("err"));
        let file = |path: &Path| File::create(path).expect("the site is writable");
        let mut command = self.command(binary());
        let command = command
            .args(arguments)
            .stdout(file(&out))
            .stderr(file(&err));
        let child = command.spawn().expect("the binary can be run");
        Running { child, out, err }
    }

    /// Waits until no process that was started here is left, except those of `platform`.
    pub(crate) async fn is_left_alone(&self) {
        eventually("no process is left", LONGEST, || async {
            match processes_using(self.site.path()).as_slice() {
                [] => Ok(()),
                left => Err(format!("{left:?}")),
            }
        })
        .await;
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let binary = binary();
        let programs = binary.parent().expect("the binary lies in a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .current_dir(self.folder())
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("HOME", self.site.home())
            .env("BUGLE_SERVER", &self.server)
            .env_remove("BUGLE_GATEWAY")
            .env_remove("BUGLE_TENANT")
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn end(&self, command: &mut Command) -> Said {
        let output = tokio::time::timeout(LONGEST, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{command:?} does not end"));
        Said::from(output.expect("the program can be run"))
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: code(output.status),
            out: text(&output.stdout),
            err: text(&output.stderr),
            bytes: output.stdout,
        }
    }
}

impl Said {
    /// The same, if the command ended with this code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// The same, if standard error contains `text` and standard output is empty.
    #[track_caller]
    pub(crate) fn complains(self, text: &str) -> Self {
        assert!(self.err.contains(text), "no {text:?} in: {}", self.err);
        assert_eq!(self.out, "", "an error is no answer");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {}", self.out))
    }
}

impl Running {
    /// Standard error so far.
    pub(crate) fn err(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// Standard output so far.
    pub(crate) fn out(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Where its standard output goes.
    pub(crate) fn out_path(&self) -> PathBuf {
        self.out.clone()
    }

    /// Waits until `text` was said `times`, on either output.
    pub(crate) async fn says(&mut self, text: &str, times: usize) {
        eventually(&format!("{text:?} is said"), LONGEST, || {
            let said = format!("{}{}", self.out(), self.err());
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended with {ended:?}: {said}");
            let enough = said.matches(text).count() >= times;
            async move { if enough { Ok(()) } else { Err(said) } }
        })
        .await;
    }

    /// Ctrl-C, and the exit code.
    pub(crate) async fn interrupt(self) -> i32 {
        interrupt(self.child.id().expect("it runs"));
        self.end().await
    }

    /// Waits for its end, for its exit code.
    pub(crate) async fn end(mut self) -> i32 {
        let ended = tokio::time::timeout(LONGEST, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("it does not end: {}", self.err()));
        code(ended.unwrap())
    }
}

#[track_caller]
fn code(ended: ExitStatus) -> i32 {
    ended
        .code()
        .unwrap_or_else(|| panic!("the command was ended by a signal: {ended}"))
}
