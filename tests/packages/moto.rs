//! A store that other people wrote, with keys that are checked.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use bugle_testkit::StartOptions;
use serde_json::Value;

/// What is installed at first use.
const PACKAGE: &str = "moto[server]==5.2.5";

/// The running store; it ends with its standard input.
pub(crate) struct Moto {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What it shows, where it speaks TLS.
    certificate: Option<PathBuf>,
    pub(crate) port: u64,
    pub(crate) key: String,
    pub(crate) secret: String,
}

/// The interpreter that has the store's packages.
fn python() -> PathBuf {
    let target = std::path::absolute("../target/tests").unwrap();
    std::fs::create_dir_all(&target).unwrap();
    let folder = target.join("moto");
    let python = folder.join("bin/python");
    // Tests run at the same time, in processes of their own.
    let lock = File::create(target.join("moto.lock")).unwrap();
    lock.lock().unwrap();
    let done = folder.join("installed");
    if std::fs::read_to_string(&done).is_ok_and(|text| text == PACKAGE) {
        return python;
    }
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
    };
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&folder));
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        PACKAGE,
    ];
    run(Command::new(&python).args(pip));
    std::fs::write(done, PACKAGE).unwrap();
    python
}

impl Moto {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one that speaks TLS, with a certificate of its own in this folder.
    pub(crate) fn encrypted(folder: &Path) -> Self {
        let (certificate, key) = (folder.join("store.pem"), folder.join("store.key"));
        let settings = folder.join("store.cnf");
        let text = "[req]\ndistinguished_name=name\nx509_extensions=more\nprompt=no\n\
                    [name]\nCN=store\n[more]\nbasicConstraints=critical,CA:FALSE\n\
                    subjectAltName=IP:127.0.0.1\n";
        std::fs::write(&settings, text).unwrap();
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-config",
            ])
            .arg(&settings)
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl has to be installed");
        assert!(made.status.success(), "{made:?}");
        let mut store = Self::with(&[&certificate, &key]);
        store.certificate = Some(certificate);
        store
    }

    fn with(arguments: &[&Path]) -> Self {
        let mut child = Command::new(python())
            .arg(std::path::absolute("packages/store.py").unwrap())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).expect("the store tells where it is");
        Self {
            input: child.stdin.take(),
            child,
            certificate: None,
            output,
            port: told["port"].as_u64().unwrap(),
            key: told["key"].as_str().unwrap().to_owned(),
            secret: told["secret"].as_str().unwrap().to_owned(),
        }
    }

    fn tell(&mut self, command: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn put(&mut self, name: &str, file: &Path) {
        let told = self.tell(&format!("put code {name} {}", file.display()));
        assert_eq!(told, "done\n");
    }

    /// The objects in the bucket for uploads.
    pub(crate) fn uploaded(&mut self) -> Vec<String> {
        serde_json::from_str(&self.tell("list uploads-of-bugle")).unwrap()
    }

    /// In how many parts each of them came; empty for one that came in one piece.
    pub(crate) fn parts(&mut self) -> Vec<String> {
        serde_json::from_str(&self.tell("parts uploads-of-bugle")).unwrap()
    }

    /// How the platform is told of the store.
    pub(crate) fn options(&self) -> StartOptions {
        let options = match &self.certificate {
            Some(file) => {
                StartOptions::default().config("addresses", "ca_file", &file.to_string_lossy())
            }
            None => StartOptions::default(),
        };
        let scheme = if self.certificate.is_some() {
            "https"
        } else {
            "http"
        };
        options
            .config(
                "packages",
                "s3_endpoint",
                &format!("{scheme}://127.0.0.1:{}", self.port),
            )
            .config("packages", "s3_access_key_id", &self.key)
            .config("packages", "s3_secret_access_key", &self.secret)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
