//! Where a platform of a test lives: temporary directories that outlive a restart.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Platform, Refused};

/// A data directory and a folder for functions' code, removed at the end of the test.
#[derive(Debug)]
pub struct Site {
    root: TempDir,
}

/// What differs from the usual start.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    /// Further arguments of `bugle serve`.
    pub arguments: Vec<String>,
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
    /// Whether the platform runs as a user without rights.
    pub nobody: bool,
}

impl StartOptions {
    /// Has the platform run as a user without rights, who owns the site. Only root can do that.
    #[must_use]
    pub fn as_nobody(mut self) -> Self {
        self.nobody = true;
        self
    }

    /// Adds arguments of `bugle serve`.
    #[must_use]
    pub fn arguments<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(str::to_owned));
        self
    }

    /// Sets a configuration key, as the environment variable that overrides it.
    #[must_use]
    pub fn config(mut self, section: &str, key: &str, value: &str) -> Self {
        let name = format!("BUGLE_{section}__{key}").to_uppercase();
        self.environment.push((name, value.to_owned()));
        self
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// An empty site.
    ///
    /// # Panics
    /// When the machine has no place for temporary files.
    pub fn new() -> Self {
        let root = tempfile::Builder::new()
            .prefix("bugle-test-")
            .tempdir()
            .expect("a temporary directory can be made");
        for folder in ["data", "code", "home"] {
            std::fs::create_dir(root.path().join(folder)).expect("a new directory is writable");
        }
        Self { root }
    }

    /// The directory that holds everything of this site.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// The platform's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Takes over the key of another site, as platforms on one store need.
    ///
    /// # Panics
    /// When that has none yet.
    pub fn take_key_of(&self, other: &Self) {
        let key = |site: &Self| site.data_dir().join("environment.key");
        std::fs::copy(key(other), key(self)).expect("a platform has started there");
    }

    /// The folder below which functions' code lives.
    pub fn code_root(&self) -> PathBuf {
        self.root.path().join("code")
    }

    /// A home directory without any configuration of the person who runs the tests.
    pub fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.path().join("server.log")
    }

    /// Writes a file of a function and returns the function's folder.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_code(&self, function: &str, file: &str, text: &str) -> PathBuf {
        let folder = self.code_root().join(function);
        std::fs::create_dir_all(&folder).expect("the code root is writable");
        std::fs::write(folder.join(file), text).expect("the function's folder is writable");
        folder
    }

    /// Writes the `bootstrap` of a function, which may be executed, and returns the function's folder.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_program(&self, function: &str, text: &str) -> PathBuf {
        let folder = self.write_code(function, "bootstrap", text);
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.join("bootstrap"), executable)
            .expect("the owner of a file may change its mode");
        folder
    }

    /// Gives the site to another user, with a copy of the binary, whose folder may be closed to that
    /// user. Returns the copy's path.
    pub(crate) fn give_to(&self, user: u32) -> PathBuf {
        let copy = self.root.path().join("bugle");
        std::fs::copy(binary(), &copy).expect("there is room for the binary");
        for path in [
            self.path().to_owned(),
            self.data_dir(),
            self.home(),
            self.log(),
        ] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).expect("root gives files away");
        }
        copy
    }

    /// Starts the platform and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(&self) -> Platform {
        self.start_with(&StartOptions::default()).await
    }

    /// Starts the platform with `options` and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    #[expect(
        clippy::panic,
        reason = "a platform that does not start fails the test"
    )]
    pub async fn start_with(&self, options: &StartOptions) -> Platform {
        match self.try_start(options).await {
            Ok(platform) => platform,
            Err(refused) => panic!(
                "bugle serve ended with {}:\n{}",
                refused.status, refused.log
            ),
        }
    }

    /// Starts the platform and waits until it is ready or has ended.
    ///
    /// # Errors
    /// When it ended before it was ready: its exit status and what it said.
    ///
    /// # Panics
    /// When it neither becomes ready nor ends.
    pub async fn try_start(&self, options: &StartOptions) -> Result<Platform, Refused> {
        Platform::start(self, options).await
    }
}

/// The `bugle` binary under test.
///
/// # Panics
/// When it was not built.
#[expect(clippy::panic, reason = "without a binary there is nothing to test")]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("BUGLE_BIN") {
        return path.into();
    }
    // target/{profile}/deps/{test}-{hash}, and target/{profile}/{other program}
    let test = std::env::current_exe().expect("a running program has a path");
    for folder in test.ancestors().skip(1).take(2) {
        let candidate = folder.join("bugle");
        if candidate.is_file() {
            return candidate;
        }
    }
    panic!(
        "no bugle binary beside {}: run `cargo build -p bugle` first",
        test.display()
    );
}
