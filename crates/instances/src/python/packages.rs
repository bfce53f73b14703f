//! The packages that the operator lets every function import.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bugle_types::PythonVersion;
use parking_lot::Mutex;

/// What stands for the version of the interpreter in a configured path.
const VERSION: &str = "{version}";

/// The packages of the interpreters.
#[derive(Debug)]
pub(super) struct Packages {
    configured: Vec<PathBuf>,
    listings: Mutex<HashMap<PythonVersion, Arc<Listing>>>,
}

/// What one interpreter can import from the operator's directories.
#[derive(Debug, Default)]
pub(super) struct Listing {
    folders: Vec<PathBuf>,
    modified: Vec<Option<SystemTime>>,
    names: HashSet<String>,
    /// How often the contents have changed before.
    pub(super) age: u64,
}

impl Packages {
    pub(super) fn new(configured: &[PathBuf]) -> Self {
        Self {
            configured: configured.to_owned(),
            listings: Mutex::default(),
        }
    }

    /// The directories for `version`, in order.
    ///
    /// # Errors
    ///
    /// One of them that is meant for every version is not a directory.
    pub(super) fn folders(&self, version: PythonVersion) -> Result<Vec<PathBuf>, String> {
        let short = format!("3.{}", version.0);
        let mut folders = Vec::new();
        for configured in &self.configured {
            let text = configured.to_string_lossy();
            let folder = PathBuf::from(text.replace(VERSION, &short));
            // A link may lead to a place that instances do not see.
            let real = folder.canonicalize().ok();
            let real = real.filter(|real| folder.is_absolute() && real.is_dir());
            if let Some(real) = real {
                folders.push(real);
            } else if !text.contains(VERSION) {
                return Err(format!("python.packages: {text} is not a directory"));
            }
        }
        Ok(folders)
    }

    /// What is in them, or none where there are none. Blocks: it asks when they have changed, and
    /// reads those that have.
    pub(super) fn listing(&self, version: PythonVersion) -> Option<Arc<Listing>> {
        if self.configured.is_empty() {
            return None;
        }
        // What is wrong is told by the start of the parent.
        let folders = self.folders(version).ok()?;
        if folders.is_empty() {
            return None;
        }
        let modified: Vec<_> = folders.iter().map(|folder| modified(folder)).collect();
        let mut listings = self.listings.lock();
        let age = match listings.get(&version) {
            Some(known) if known.folders == folders && known.modified == modified => {
                return Some(Arc::clone(known));
            }
            Some(known) => known.age + 1,
            None => 0,
        };
        let mut names = HashSet::new();
        for folder in &folders {
            names.extend(module_names(folder, usize::MAX).ok()?);
        }
        let listing = Arc::new(Listing {
            folders,
            modified,
            names,
            age,
        });
        listings.insert(version, Arc::clone(&listing));
        Some(listing)
    }
}

impl Listing {
    /// Adds the part of the dotted `name` that exists here, with the packages it is in.
    pub(super) fn add(&self, name: &str, modules: &mut BTreeSet<String>) {
        let top = name.split('.').next().unwrap_or(name);
        if !self.names.contains(top) {
            return;
        }
        let mut path = PathBuf::new();
        let mut end = 0;
        for part in name.split('.') {
            path.push(part);
            if end > 0 && !self.folders.iter().any(|folder| is_module(folder, &path)) {
                return;
            }
            end = if end == 0 {
                part.len()
            } else {
                end + 1 + part.len()
            };
            modules.insert(name[..end].to_owned());
        }
    }

    #[cfg(test)]
    pub(super) fn of(folder: &Path) -> Self {
        Self {
            folders: vec![folder.to_owned()],
            names: module_names(folder, usize::MAX).unwrap(),
            ..Self::default()
        }
    }
}

fn modified(folder: &Path) -> Option<SystemTime> {
    folder.metadata().and_then(|data| data.modified()).ok()
}

fn is_module(folder: &Path, path: &Path) -> bool {
    let path = folder.join(path);
    path.is_dir() || path.with_extension("py").is_file()
}

/// The names under which the contents of `folder` can be imported, and maybe some under which they
/// cannot: every directory counts.
///
/// # Errors
///
/// The directory cannot be read, or has more than `limit` entries.
pub(super) fn module_names(folder: &Path, limit: usize) -> io::Result<HashSet<String>> {
    let mut names = HashSet::new();
    for (number, entry) in folder.read_dir()?.enumerate() {
        if number >= limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // A compiled module has a name such as `name.cpython-311-x86_64-linux-gnu.so`.
        let (stem, end) = name.split_once('.').unwrap_or((&name, ""));
        let is_file = [".py", ".pyc", ".so"]
            .iter()
            .any(|kind| name.ends_with(kind));
        let is_directory = end.is_empty();
        if is_identifier(stem) && (is_file || is_directory) {
            names.insert(stem.to_owned());
        }
    }
    Ok(names)
}

/// Whether `text` can be the name of a module.
pub(super) fn is_identifier(text: &str) -> bool {
    let mut characters = text.chars();
    characters
        .next()
        .is_some_and(|first| first.is_alphabetic() || first == '_')
        && characters.all(|one| one.is_alphanumeric() || one == '_')
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_directory_is_one_interpreters_own_by_its_version() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("3.11")).unwrap();
        let packages = Packages::new(&[dir.path().join("{version}")]);
        let found = packages.folders(PythonVersion(11)).unwrap();
        assert_eq!(found, [dir.path().join("3.11")]);
        assert!(packages.folders(PythonVersion(9)).unwrap().is_empty());
        assert!(packages.listing(PythonVersion(9)).is_none());
        let wrong = Packages::new(&[dir.path().join("none")]);
        let error = wrong.folders(PythonVersion(9)).unwrap_err();
        assert!(error.contains("python.packages"), "{error}");
    }

    #[test]
    fn what_is_installed_later_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let packages = Packages::new(&[dir.path().to_owned()]);
        let version = PythonVersion(11);
        let before = packages.listing(version).unwrap();
        assert!(Arc::ptr_eq(&before, &packages.listing(version).unwrap()));
        let old = SystemTime::UNIX_EPOCH;
        fs::write(dir.path().join("late.py"), "").unwrap();
        fs::File::open(dir.path())
            .unwrap()
            .set_modified(old)
            .unwrap();
        let after = packages.listing(version).unwrap();
        assert!(after.names.contains("late"));
        assert_eq!(after.age, before.age + 1);
    }

    #[test]
    fn only_what_exists_is_added() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("web/parts")).unwrap();
        fs::write(dir.path().join("web/parts/one.py"), "").unwrap();
        fs::write(dir.path().join("fast.cpython-311-x86_64-linux-gnu.so"), "").unwrap();
        fs::create_dir_all(dir.path().join("web-1.0.dist-info")).unwrap();
        let listing = Listing::of(dir.path());
        let mut modules = BTreeSet::new();
        for name in ["web.parts.one.attribute", "fast", "absent", "web-1"] {
            listing.add(name, &mut modules);
        }
        let modules: Vec<_> = modules.into_iter().collect();
        assert_eq!(modules, ["fast", "web", "web.parts", "web.parts.one"]);
    }
}
