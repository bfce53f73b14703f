//! Files in the form of docker's `config.json`, which the operator names, and the programs that keep
//! secrets for such a file.
//!
//! A *credential helper* is a program `docker-credential-NAME`. It gets the registry on its standard
//! input and prints a name and a secret. It runs as the platform and with its environment, because
//! the operator's file names it; it has ten seconds, and what it says beside its answer is not shown,
//! for it may be secret.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{CredentialsError, IDENTITY, LONGEST, Login};

/// What docker calls its own registry.
const DOCKER_HUB: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "docker.io"];

/// The address of it that helpers know.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// How long a helper may take: some ask a cloud.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most that is read of what a helper prints.
const MOST: u64 = 4 * LONGEST as u64;

/// docker's `config.json`, as far as it is about logins.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerLogin>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct DockerLogin {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(default)]
    identitytoken: String,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    username: String,
    secret: String,
}

impl DockerConfig {
    pub(super) fn read(path: &Path) -> Result<Self, CredentialsError> {
        let bytes = fs::read(path).map_err(|source| CredentialsError::File {
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|_| CredentialsError::Content {
            path: path.to_owned(),
            reason: "it is not a config.json as docker writes it".to_owned(),
        })
    }

    /// What the file, or a helper that it names, has for a registry.
    ///
    /// Cancel safe: a helper that runs is ended.
    pub(super) async fn find(&self, registry: &str) -> Option<Login> {
        let mut helpers = self.cred_helpers.iter();
        let own = helpers.find(|(key, _)| host_of(key) == registry);
        let helper = own.map_or(&self.creds_store, |(_, helper)| helper);
        if !helper.is_empty() {
            match ask(helper, registry).await {
                Ok(Some(login)) => return Some(login),
                Ok(None) => {}
                Err(error) => {
                    let error = error.to_string();
                    tracing::warn!(helper, registry, error, "a credential helper does not help");
                }
            }
        }
        let mut logins = self.auths.iter();
        let (_, login) = logins.find(|(key, _)| host_of(key) == registry)?;
        login.read()
    }
}

impl DockerLogin {
    fn read(&self) -> Option<Login> {
        if !self.identitytoken.is_empty() {
            return Some(Login {
                username: IDENTITY.to_owned(),
                password: self.identitytoken.clone(),
            });
        }
        if let (Some(username), Some(password)) = (&self.username, &self.password) {
            return Some(Login {
                username: username.clone(),
                password: password.clone(),
            });
        }
        let bytes = STANDARD.decode(self.auth.as_ref()?.trim()).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(Login {
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })
    }
}

/// Asks a helper; nothing if it has nothing for the registry.
async fn ask(helper: &str, registry: &str) -> io::Result<Option<Login>> {
    let is_name = helper
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !is_name {
        let text = "the name of a helper has letters, digits and -_. only";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut command = Command::new(format!("docker-credential-{helper}"));
    command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let asked = tokio::time::timeout(PATIENCE, exchange(&mut command, registry)).await;
    asked.unwrap_or_else(|_| {
        let text = format!("it did not answer within {} s", PATIENCE.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

async fn exchange(command: &mut Command, registry: &str) -> io::Result<Option<Login>> {
    let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
    let mut child = command.spawn()?;
    let mut input = child.stdin.take().ok_or_else(broken)?;
    let output = child.stdout.take().ok_or_else(broken)?;
    let key = match registry {
        "docker.io" => DOCKER_HUB_KEY,
        other => other,
    };
    input.write_all(key.as_bytes()).await?;
    drop(input);
    let mut said = Vec::new();
    output.take(MOST).read_to_end(&mut said).await?;
    let status = child.wait().await?;
    if !status.success() {
        // Helpers of every make say so in these words.
        if String::from_utf8_lossy(&said).contains("credentials not found") {
            return Ok(None);
        }
        return Err(io::Error::other(format!("it failed with {status}")));
    }
    // The parser's words could repeat a secret.
    let Told { username, secret } = serde_json::from_slice(&said)
        .map_err(|_| io::Error::other("it printed something else than a name and a secret"))?;
    Ok(Login::new(username, secret).ok())
}

/// The host that a key of `config.json` is about: `https://index.docker.io/v1/` and plain hosts.
fn host_of(key: &str) -> String {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = key.split_once('/').map_or(key, |(host, _)| host);
    let host = host.to_ascii_lowercase();
    if DOCKER_HUB.contains(&host.as_str()) {
        return "docker.io".to_owned();
    }
    host
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_helper_is_asked_by_name_and_its_words_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let helper = folder.path().join("docker-credential-test");
        let script = r#"#!/bin/sh
            [ "$1" = get ] || exit 2
            read -r registry
            case $registry in
                known.example) echo '{"ServerURL": "x", "Username": "u", "Secret": "s"}' ;;
                https://index.docker.io/v1/) echo '{"Username": "<token>", "Secret": "t"}' ;;
                none.example) echo "credentials not found in native keychain"; exit 1 ;;
                *) echo "my secret is s"; exit 3 ;;
            esac"#;
        fs::write(&helper, script).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let ask = async |registry: &str| {
            let mut command = Command::new(&helper);
            command
                .arg("get")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            exchange(&mut command, registry).await
        };
        let known = ask("known.example").await.unwrap().unwrap();
        assert_eq!((&*known.username, &*known.password), ("u", "s"));
        let token = ask("docker.io").await.unwrap().unwrap();
        assert_eq!(token.identity_token(), Some("t"));
        assert!(ask("none.example").await.unwrap().is_none());
        let failed = ask("other.example").await.unwrap_err().to_string();
        assert!(
            failed.contains("exit status: 3") && !failed.contains("secret"),
            "{failed}"
        );
    }

    #[tokio::test]
    async fn a_helper_is_no_path() {
        let error = super::ask("../../bin/sh", "a.example").await.unwrap_err();
        assert!(error.to_string().contains("letters, digits"), "{error}");
    }

    #[tokio::test]
    async fn a_helper_that_is_not_installed_leaves_what_the_file_has() {
        let config: DockerConfig = serde_json::from_str(
            r#"{"auths": {"a.example": {"username": "u", "password": "p"},
                          "b.example": {"identitytoken": "i", "auth": "dTo="}},
                "credsStore": "no-such-helper", "credHelpers": {"c.example": "nor-this"}}"#,
        )
        .unwrap();
        assert_eq!(config.find("a.example").await.unwrap().username, "u");
        let identity = config.find("b.example").await.unwrap();
        assert_eq!(identity.identity_token(), Some("i"));
        assert!(config.find("c.example").await.is_none());
    }
}
