//! Encryption at rest: AES-256-GCM with a key of this deployment.
//!
//! The key is a file of its own, made at first start and readable by its owner alone; the store and
//! its backups are worthless without it. What is sealed is bound to the tenant and the function, so
//! that a sealed text that is moved to another function cannot be opened there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugle_types::{FunctionName, SealedEnvironment, TenantId};

const KEY_BYTES: usize = 32;

/// The key of this deployment.
pub struct Keyring {
    key: LessSafeKey,
    fingerprint: String,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(…)")
    }
}

/// Why there is no key, or why something does not open with it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key file cannot be read or made.
    #[error("key file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others may read the key file.
    #[error(
        "key file {} has mode {mode:o}: others may have read the key. If they have not, \
         `chmod 600` it",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key file does not hold a key.
    #[error("key file {} does not hold a key of 32 bytes; restore it from a backup", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A sealed text was made with another key, for another function, or was changed.
    #[error("the encrypted variables do not open with this deployment's key")]
    Unopenable,
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl Keyring {
    /// Reads the key `environment.key` in `folder`, or makes it with mode 0600.
    ///
    /// # Errors
    ///
    /// [`Error`] when the file cannot be used. It is never overwritten.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("environment.key");
        let bytes = match File::open(&path) {
            Ok(file) => read(&path, file)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(folder, &path)?,
            Err(source) => return Err(Error::Io { path, source }),
        };
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| Error::NoKey { path })?;
        Ok(Self {
            key: LessSafeKey::new(key),
            fingerprint: fingerprint(&bytes),
        })
    }

    /// A word that tells this key from others, and nothing of the key itself.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Encrypts the variables of a function; without variables there is nothing to hide.
    pub(crate) fn seal(
        &self,
        tenant: &TenantId,
        name: &FunctionName,
        variables: &BTreeMap<String, String>,
    ) -> Result<SealedEnvironment, Error> {
        if variables.is_empty() {
            return Ok(SealedEnvironment::default());
        }
        let text = serde_json::to_string(variables).expect("texts can be written as JSON");
        self.seal_text(tenant, name, &text).map(SealedEnvironment)
    }

    /// Decrypts the variables of a function.
    ///
    /// # Errors
    ///
    /// [`Error::Unopenable`].
    pub fn open_environment(
        &self,
        tenant: &TenantId,
        name: &FunctionName,
        sealed: &SealedEnvironment,
    ) -> Result<BTreeMap<String, String>, Error> {
        if sealed.0.is_empty() {
            return Ok(BTreeMap::new());
        }
        if sealed.is_clear() {
            return serde_json::from_str(&sealed.0).map_err(|_| Error::Unopenable);
        }
        let text = self.open_text(tenant, name, &sealed.0)?;
        serde_json::from_str(&text).map_err(|_| Error::Unopenable)
    }

    /// Encrypts one text; the empty one stays empty.
    pub(crate) fn seal_text(
        &self,
        tenant: &TenantId,
        name: &FunctionName,
        text: &str,
    ) -> Result<String, Error> {
        if text.is_empty() {
            return Ok(String::new());
        }
        self.seal_for(owner(tenant, name), text)
    }

    /// Encrypts something of the platform's own, which opens for the same purpose only.
    ///
    /// # Errors
    ///
    /// [`Error::NoRandomness`].
    pub fn seal_secret(&self, purpose: &str, text: &str) -> Result<String, Error> {
        self.seal_for(own(purpose), text)
    }

    /// Decrypts something of the platform's own.
    ///
    /// # Errors
    ///
    /// [`Error::Unopenable`].
    pub fn open_secret(&self, purpose: &str, sealed: &str) -> Result<String, Error> {
        self.open_for(own(purpose), sealed)
    }

    fn seal_for(&self, owner: Vec<u8>, text: &str) -> Result<String, Error> {
        let mut sealed = random::<NONCE_LEN>()?.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| Error::NoRandomness)?;
        let mut bytes = text.as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(owner), &mut bytes)
            .map_err(|_| Error::NoRandomness)?;
        sealed.append(&mut bytes);
        Ok(STANDARD.encode(sealed))
    }

    fn open_text(
        &self,
        tenant: &TenantId,
        name: &FunctionName,
        sealed: &str,
    ) -> Result<String, Error> {
        self.open_for(owner(tenant, name), sealed)
    }

    fn open_for(&self, owner: Vec<u8>, sealed: &str) -> Result<String, Error> {
        let sealed = STANDARD.decode(sealed).map_err(|_| Error::Unopenable)?;
        let (nonce, bytes) = sealed
            .split_at_checked(NONCE_LEN)
            .ok_or(Error::Unopenable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Unopenable)?;
        let mut bytes = bytes.to_vec();
        let text = self
            .key
            .open_in_place(nonce, Aad::from(owner), &mut bytes)
            .map_err(|_| Error::Unopenable)?;
        String::from_utf8(text.to_vec()).map_err(|_| Error::Unopenable)
    }
}

fn fingerprint(key: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(b"bugle environment key");
    context.update(key);
    let digest = context.finish();
    let word = digest.as_ref().iter().take(8);
    word.fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn owner(tenant: &TenantId, name: &FunctionName) -> Vec<u8> {
    // Neither may hold a slash, so the two cannot be confused.
    format!("{tenant}/{name}").into_bytes()
}

fn own(purpose: &str) -> Vec<u8> {
    // No tenant is empty.
    format!("/{purpose}").into_bytes()
}

fn read(path: &Path, mut file: File) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() != KEY_BYTES {
        return Err(Error::NoKey {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

/// Random numbers of the system's: the library's own take 50 ms to come up.
fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
    Ok(bytes)
}

/// Makes the key. It is on disk under its name, whole, before anything is encrypted with it: a crash
/// in between leaves no key that something depends on.
fn make(folder: &Path, path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = random::<KEY_BYTES>()?;
    let draft = folder.join(".environment.key.new");
    let write = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> (TenantId, FunctionName) {
        (TenantId::default(), "0@svc@f".parse().unwrap())
    }

    #[test]
    fn what_was_sealed_opens_after_a_restart_and_for_its_function_only() {
        let folder = tempfile::tempdir().unwrap();
        let (tenant, name) = names();
        let variables = BTreeMap::from([("KEY".to_owned(), "canary".to_owned())]);
        let sealed = Keyring::open(folder.path())
            .unwrap()
            .seal(&tenant, &name, &variables)
            .unwrap();
        assert!(!sealed.0.contains("canary"));
        let keyring = Keyring::open(folder.path()).unwrap();
        assert_eq!(
            keyring.open_environment(&tenant, &name, &sealed).unwrap(),
            variables
        );
        let other = "0@svc@g".parse().unwrap();
        assert!(keyring.open_environment(&tenant, &other, &sealed).is_err());
        let again = keyring.seal(&tenant, &name, &variables).unwrap();
        assert_ne!(again, sealed, "a nonce is used once");
    }

    #[test]
    fn a_secret_of_the_platform_opens_for_its_purpose_only() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(folder.path()).unwrap();
        let sealed = keyring.seal_secret("a purpose", "secret").unwrap();
        assert!(!sealed.contains("secret"));
        assert_eq!(keyring.open_secret("a purpose", &sealed).unwrap(), "secret");
        assert!(keyring.open_secret("another", &sealed).is_err());
    }

    #[test]
    fn the_key_file_is_private_and_an_exposed_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        Keyring::open(folder.path()).unwrap();
        let path = folder.path().join("environment.key");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Keyring::open(folder.path()),
            Err(Error::Exposed { mode: 0o644, .. })
        ));
    }

    #[test]
    fn a_damaged_key_file_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("environment.key");
        std::fs::write(&path, "short").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            Keyring::open(folder.path()),
            Err(Error::NoKey { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
    }
}
