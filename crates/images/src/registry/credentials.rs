//! Names and passwords for registries.
//!
//! They come from two places: files in the form of docker's `config.json`, which the operator names
//! and manages, and a file of our own that `bugle login` writes, sealed and readable by its owner
//! alone. They are found by the registry's host, go to that registry, and are never shown.

mod docker;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use docker::DockerConfig;

/// The name that stands for a password which is an identity token, as docker and its helpers have it.
const IDENTITY: &str = "<token>";

/// The most registries that one can be logged in to.
const MOST: usize = 1000;

/// The longest name, and the longest password: some registries give out tokens of some kilobytes.
const LONGEST: usize = 16 << 10;

/// A name and a password for one registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password, or a token in its place.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, …)", self.username)
    }
}

/// Seals what lies on disk. The texts of its errors may be shown.
pub trait Vault: fmt::Debug + Send + Sync {
    /// Makes a text unreadable for those who do not have the key.
    ///
    /// # Errors
    ///
    /// Why it cannot be sealed.
    fn seal(&self, text: &str) -> Result<String, String>;

    /// Makes it readable again.
    ///
    /// # Errors
    ///
    /// Why it cannot be opened, for instance because the key is another one.
    fn open(&self, sealed: &str) -> Result<String, String>;
}

/// Why credentials cannot be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file cannot be read or written.
    #[error("the credentials in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} does not hold credentials: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without any of it.
        reason: String,
    },
    /// A name or a password that no registry could take.
    #[error("{0}")]
    Refused(&'static str),
}

/// All credentials.
#[derive(Debug)]
pub struct Credentials {
    /// The file of our own.
    path: PathBuf,
    vault: Arc<dyn Vault>,
    own: Mutex<BTreeMap<String, Login>>,
    /// The operator's files, read whenever they are needed: secrets that are mounted change.
    files: Vec<PathBuf>,
}

impl Credentials {
    /// Opens the file of our own, which need not be there, and takes note of the operator's files.
    ///
    /// # Errors
    ///
    /// [`CredentialsError`] when a file cannot be used.
    pub fn open(
        path: &Path,
        vault: Arc<dyn Vault>,
        files: &[PathBuf],
    ) -> Result<Self, CredentialsError> {
        let own = match fs::read_to_string(path) {
            Ok(sealed) => read_own(path, &*vault, &sealed)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => {
                return Err(CredentialsError::File {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        for file in files {
            DockerConfig::read(file)?;
        }
        Ok(Self {
            path: path.to_owned(),
            vault,
            own: Mutex::new(own),
            files: files.to_vec(),
        })
    }

    /// What is to be sent to a registry. What `bugle login` was told comes first.
    ///
    /// Cancel safe.
    pub(crate) async fn find(&self, registry: &str) -> Option<Login> {
        let own = self.own.lock().get(registry).cloned();
        if own.is_some() {
            return own;
        }
        for file in &self.files {
            let path = file.clone();
            let read = tokio::task::spawn_blocking(move || DockerConfig::read(&path)).await;
            let found = match read {
                Ok(Ok(config)) => config.find(registry).await,
                Ok(Err(error)) => {
                    tracing::warn!(error = bugle_types::report(&error), "a file of credentials");
                    None
                }
                // The platform stops.
                Err(_) => None,
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The registries for which there are credentials of our own.
    pub fn registries(&self) -> Vec<String> {
        self.own.lock().keys().cloned().collect()
    }

    /// Keeps credentials for a registry, in place of those before.
    ///
    /// # Errors
    ///
    /// [`CredentialsError`]; then the former ones are still there.
    pub(crate) fn set(&self, registry: &str, login: Login) -> Result<(), CredentialsError> {
        let mut own = self.own.lock();
        let mut changed = own.clone();
        changed.insert(registry.to_owned(), login);
        if changed.len() > MOST {
            return Err(CredentialsError::Refused(
                "there are credentials for 1000 registries; log out of some",
            ));
        }
        self.write(&changed)?;
        *own = changed;
        Ok(())
    }

    /// Forgets the credentials for a registry, and says whether there were any.
    pub(crate) fn remove(&self, registry: &str) -> Result<bool, CredentialsError> {
        let mut own = self.own.lock();
        let mut changed = own.clone();
        if changed.remove(registry).is_none() {
            return Ok(false);
        }
        self.write(&changed)?;
        *own = changed;
        Ok(true)
    }

    fn write(&self, logins: &BTreeMap<String, Login>) -> Result<(), CredentialsError> {
        let text = serde_json::to_string(logins).expect("logins are made of texts");
        let sealed = self
            .vault
            .seal(&text)
            .map_err(|reason| CredentialsError::Content {
                path: self.path.clone(),
                reason,
            })?;
        let folder = self.path.parent().unwrap_or(&self.path);
        let write = || {
            // Made with mode 0600.
            let mut file = NamedTempFile::new_in(folder)?;
            file.write_all(sealed.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().map_err(|source| CredentialsError::File {
            path: self.path.clone(),
            source,
        })
    }
}

impl Login {
    /// The token that is exchanged for the right to read, where it is one and no password.
    pub(crate) fn identity_token(&self) -> Option<&str> {
        (self.username == IDENTITY).then_some(&self.password)
    }

    /// A name and a password that can be sent.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::Refused`] for an empty name, a colon in it, or a length that is none.
    pub fn new(username: String, password: String) -> Result<Self, CredentialsError> {
        let refuse = |why| Err(CredentialsError::Refused(why));
        if username.is_empty() || password.is_empty() {
            return refuse("the name or the password is empty");
        }
        if username.contains(':') || username.contains(char::is_control) {
            return refuse("the name has a colon or a control character in it");
        }
        if username.len() > LONGEST || password.len() > LONGEST {
            return refuse("the name or the password is longer than 16 KiB");
        }
        Ok(Self { username, password })
    }
}

fn read_own(
    path: &Path,
    vault: &dyn Vault,
    sealed: &str,
) -> Result<BTreeMap<String, Login>, CredentialsError> {
    let content = |reason: String| CredentialsError::Content {
        path: path.to_owned(),
        reason,
    };
    let text = vault.open(sealed).map_err(content)?;
    // The parser's words could repeat a password.
    serde_json::from_str(&text).map_err(|_| content("it is not what bugle wrote".to_owned()))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::testing::Turned;

    fn login(name: &str) -> Login {
        Login::new(name.to_owned(), "secret".to_owned()).unwrap()
    }

    #[tokio::test]
    async fn logins_are_kept_sealed_and_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let open = || Credentials::open(&path, Arc::new(Turned), &[]).unwrap();
        open().set("example.com", login("me")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("secret"));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let credentials = open();
        assert_eq!(credentials.find("example.com").await, Some(login("me")));
        assert_eq!(credentials.find("example.com:5000").await, None);
        assert!(!format!("{credentials:?}").contains("secret"));
        assert!(credentials.remove("example.com").unwrap());
        assert!(!credentials.remove("example.com").unwrap());
        assert!(open().registries().is_empty());
    }

    #[tokio::test]
    async fn files_of_docker_are_read_and_what_login_was_told_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        let text = format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{}"}},
                "A.example": {{"username": "a", "password": "p"}}, "b.example": {{}}}},
                "credsStore": "desktop"}}"#,
            STANDARD.encode("hub:pass:word")
        );
        fs::write(&file, text).unwrap();
        let own = folder.path().join("own");
        let credentials = Credentials::open(&own, Arc::new(Turned), &[file]).unwrap();
        let found = credentials.find("docker.io").await.unwrap();
        assert_eq!((&*found.username, &*found.password), ("hub", "pass:word"));
        assert_eq!(credentials.find("a.example").await.unwrap().username, "a");
        assert_eq!(credentials.find("b.example").await, None);
        credentials.set("a.example", login("other")).unwrap();
        assert_eq!(
            credentials.find("a.example").await.unwrap().username,
            "other"
        );
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        fs::write(&file, r#"{"auths": {"x": {"auth": 12345}}}"#).unwrap();
        let own = folder.path().join("own");
        let error = Credentials::open(&own, Arc::new(Turned), std::slice::from_ref(&file));
        let text = bugle_types::report(&error.unwrap_err());
        assert!(
            text.contains("config.json") && !text.contains("12345"),
            "{text}"
        );
        fs::write(&own, "nonsense").unwrap();
        assert!(Credentials::open(&own, Arc::new(Turned), &[]).is_err());
    }

    #[test]
    fn names_that_cannot_be_sent_are_refused() {
        for (name, password) in [("", "p"), ("a", ""), ("a:b", "p"), ("a\n", "p")] {
            assert!(Login::new(name.to_owned(), password.to_owned()).is_err());
        }
    }
}
