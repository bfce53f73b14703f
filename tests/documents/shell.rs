//! The machine on which a document's commands run: a folder with the repository's examples, a
//! platform's data of its own, and free ports in place of the default ones.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bugle_testkit::{Site, binary, eventually};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::script::{Step, matches};

/// Long enough to build a release binary, which the front page's first command does.
const LONGEST_COMMAND: Duration = Duration::from_mins(20);
const LONGEST_START: Duration = Duration::from_mins(1);
/// The ports that documents speak of.
const GATEWAY: &str = "127.0.0.1:8888";
const CONTROL: &str = "127.0.0.1:31182";
/// The discard port, which is reserved and on which nothing listens.
const NOBODY: &str = "127.0.0.1:9";

pub(crate) struct Shell {
    site: Site,
    repository: PathBuf,
    folder: PathBuf,
    running: Vec<Child>,
}

impl Shell {
    /// A folder with the files of the repository that documents speak of.
    pub(crate) fn new(repository: &Path) -> Self {
        let site = Site::new();
        let folder = site.code_root();
        let shell = Self {
            site,
            repository: repository.to_owned(),
            folder,
            running: Vec::new(),
        };
        let mut list = std::process::Command::new("git");
        list.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
        let list = list
            .args(["examples", "README.md"])
            .current_dir(repository)
            .output();
        let list = list.expect("git lists the files of the repository");
        for file in String::from_utf8(list.stdout)
            .expect("paths are text")
            .lines()
        {
            let target = shell.folder.join(file);
            std::fs::create_dir_all(target.parent().expect("a file has a folder")).unwrap();
            std::fs::copy(repository.join(file), target).unwrap();
        }
        shell.choose_interpreter();
        shell
    }

    /// On a machine without the interpreter that the examples name, they name the one it has.
    fn choose_interpreter(&self) {
        const NAMED: &str = "python3.11";
        if succeeds(&format!("{NAMED} -m pip --version")) {
            return;
        }
        let print = "import sys; print('python3.%d' % sys.version_info[1])";
        let output = std::process::Command::new("python3")
            .args(["-c", print])
            .output();
        let output = output.expect("these tests need Python 3").stdout;
        let there = String::from_utf8(output).expect("a version is text");
        for entry in std::fs::read_dir(self.folder.join("examples"))
            .unwrap()
            .flatten()
        {
            let file = entry.path().join("function.toml");
            if let Ok(text) = std::fs::read_to_string(&file) {
                std::fs::write(file, text.replace(NAMED, there.trim())).unwrap();
            }
        }
    }

    /// Runs a step to its end, or to the moment when its platform is ready, and compares its output.
    pub(crate) async fn run(&mut self, step: &Step) {
        let where_ = format!("line {}: {}", step.line, step.command);
        println!("{where_}");
        let log = self.site.path().join(format!("step-{}.log", step.line));
        let mut child = self.spawn(step, &log);
        if step.background {
            self.wait_until_ready(&mut child, &where_, &log).await;
            eventually(
                &format!("the output of {where_}"),
                LONGEST_START,
                || async {
                    let output = self.as_documented(&log);
                    if step.output.is_empty() || matches(&step.output, &output) {
                        Ok(())
                    } else {
                        Err(output)
                    }
                },
            )
            .await;
            self.running.push(child);
            return;
        }
        let ended = tokio::time::timeout(LONGEST_COMMAND, child.wait()).await;
        let ended = ended
            .unwrap_or_else(|_| panic!("{where_} does not end"))
            .unwrap();
        let output = self.as_documented(&log);
        assert!(ended.success(), "{where_} ended with {ended}:\n{output}");
        assert!(
            step.output.is_empty() || matches(&step.output, &output),
            "{where_}\n--- shown:\n{}\n--- printed:\n{output}",
            step.output
        );
    }

    /// Ends what still runs in the background.
    pub(crate) async fn finish(mut self) {
        for mut child in std::mem::take(&mut self.running) {
            if let Some(pid) = child.id() {
                bugle_testkit::terminate(pid);
            }
            let ended = tokio::time::timeout(LONGEST_START, child.wait()).await;
            ended
                .expect("a background command ends when it is asked to")
                .unwrap();
        }
    }

    fn spawn(&self, step: &Step, log: &Path) -> Child {
        let command = &step.command;
        let here = self.site.path().join("here");
        // Cargo works on the repository itself; everything else on the copy, where each command
        // starts in the folder in which the one before it ended.
        let (folder, remember) = if command.starts_with("cargo ") {
            (self.repository.clone(), String::new())
        } else {
            let last = std::fs::read_to_string(&here).ok();
            let last = last.map_or_else(|| self.folder.clone(), |text| text.trim_end().into());
            (last, format!("\npwd >{}", here.display()))
        };
        let command = self.on_real_ports(command);
        let script = if step.background {
            // In the shell's place, so that whoever ends the shell ends the command.
            format!("exec {command}")
        } else {
            format!("{command}{remember}")
        };
        let file = File::create(log).expect("the site is writable");
        let programs = binary()
            .parent()
            .expect("the binary lies in a folder")
            .to_owned();
        let path = format!(
            "{}:{}",
            programs.display(),
            std::env::var("PATH").unwrap_or_default()
        );
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(folder)
            .env("PATH", path)
            .env("HOME", self.site.home())
            // Before a platform runs, nothing answers, and certainly none of another's.
            .env(
                "BUGLE_SERVER",
                format!(
                    "http://{}",
                    self.endpoint("control")
                        .unwrap_or_else(|| NOBODY.to_owned())
                ),
            )
            .env("BUGLE_SERVER__DATA_DIR", self.site.data_dir())
            .env("BUGLE_SERVER__CONTROL_LISTEN", "127.0.0.1:0")
            .env("BUGLE_SERVER__GATEWAY_LISTEN", "127.0.0.1:0")
            .env(
                "BUGLE_SERVER__CODE_ROOTS",
                format!("{},{}", self.folder.display(), self.repository.display()),
            )
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("bash can be run")
    }

    /// Waits for the endpoints of the platform that a background command starts.
    async fn wait_until_ready(&self, child: &mut Child, where_: &str, log: &Path) {
        eventually(&format!("{where_} is ready"), LONGEST_START, || {
            let ended = child.try_wait().unwrap();
            let output = std::fs::read_to_string(log).unwrap_or_default();
            assert!(ended.is_none(), "{where_} ended with {ended:?}:\n{output}");
            let ready = self.endpoint("control").is_some();
            async move { if ready { Ok(()) } else { Err(output) } }
        })
        .await;
    }

    fn endpoint(&self, name: &str) -> Option<String> {
        let text = std::fs::read(self.site.data_dir().join("endpoints.json")).ok()?;
        let endpoints: Value = serde_json::from_slice(&text).ok()?;
        Some(endpoints[name].as_str()?.to_owned())
    }

    fn on_real_ports(&self, command: &str) -> String {
        let mut command = command.to_owned();
        for (documented, name) in [(GATEWAY, "gateway"), (CONTROL, "control")] {
            if let Some(real) = self.endpoint(name) {
                command = command.replace(documented, &real);
            }
        }
        command
    }

    fn as_documented(&self, log: &Path) -> String {
        let mut output = std::fs::read_to_string(log).unwrap_or_default();
        for (documented, name) in [(GATEWAY, "gateway"), (CONTROL, "control")] {
            if let Some(real) = self.endpoint(name) {
                output = output.replace(&real, documented);
            }
        }
        output
    }
}

fn succeeds(command: &str) -> bool {
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", command])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    bash.status().is_ok_and(|status| status.success())
}
