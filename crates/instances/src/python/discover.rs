//! Finding the interpreters of this machine.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bugle_types::PythonVersion;

use super::Config;

/// The minor versions that the runtime is tested on.
const MINORS: std::ops::RangeInclusive<u8> = 6..=13;

/// Prints the version and the path of the interpreter that runs it.
const PROBE: &str = "import sys; print('.'.join(map(str, sys.version_info[:3]))); \
                     print(sys.implementation.name); print(sys.executable); \
                     print(sys.base_prefix)";

/// An interpreter that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// The runtime it serves.
    pub version: PythonVersion,
    /// Where it is.
    pub path: PathBuf,
    /// The folder it is installed in; its library is below.
    pub prefix: PathBuf,
    /// Its version in full, such as `3.11.7`; empty when it could not be run.
    pub full_version: String,
    /// Why it cannot be used, if so.
    pub problem: Option<String>,
}

/// Where interpreters are looked for: the configured directories, `PATH`, and the usual places.
pub(super) fn places(config: &Config) -> Vec<PathBuf> {
    let mut places = config.search_paths.clone();
    if let Some(path) = std::env::var_os("PATH") {
        places.extend(std::env::split_paths(&path).flat_map(|place| behind(&place)));
    }
    places.extend(["/usr/bin", "/usr/local/bin", "/opt/bin"].map(PathBuf::from));
    places.extend(bin_dirs_below(Path::new("/opt")));
    places.extend(bin_dirs_below(Path::new("/opt/python")));
    if let Some(home) = std::env::var_os("HOME") {
        places.extend(bin_dirs_below(&Path::new(&home).join(".pyenv/versions")));
    }
    let mut seen = std::collections::HashSet::new();
    places.retain(|place| place.is_absolute() && seen.insert(place.clone()));
    places
}

/// Where the interpreters of a directory are. pyenv's launchers are slow scripts, one for each version
/// that it ever installed, which end with an error unless theirs is selected: those that are, are
/// taken without them. Where a folder's own selection may count, or the selection is not understood,
/// the launchers stay.
fn behind(place: &Path) -> Vec<PathBuf> {
    let as_it_is = || vec![place.to_owned()];
    let root = match place.parent() {
        Some(root) if place.ends_with("shims") && root.join("versions").is_dir() => root,
        _ => return as_it_is(),
    };
    let here = std::env::current_dir().unwrap_or_default();
    if here
        .ancestors()
        .any(|dir| dir.join(".python-version").is_file())
    {
        return as_it_is();
    }
    let selected = match std::env::var("PYENV_VERSION") {
        Ok(selected) => selected,
        Err(_) => std::fs::read_to_string(root.join("version")).unwrap_or_default(),
    };
    selected_by_pyenv(root, &selected).unwrap_or_else(as_it_is)
}

/// The directories of the versions that a text selects, which separates them by blanks or colons; none
/// if one is no folder of its name.
fn selected_by_pyenv(root: &Path, selected: &str) -> Option<Vec<PathBuf>> {
    selected
        .split(|c: char| c == ':' || c.is_whitespace())
        // The system's are looked for anyway.
        .filter(|name| !name.is_empty() && *name != "system")
        .map(|name| {
            let bin = root.join("versions").join(name).join("bin");
            bin.is_dir().then_some(bin)
        })
        .collect()
}

/// `dir/*/bin`, in order of name.
fn bin_dirs_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.is_dir())
        .collect();
    found.sort();
    found
}

/// The first interpreter of `version` that can be run; else the first that cannot, with the reason.
pub(super) fn find(version: PythonVersion, places: &[PathBuf]) -> Option<Interpreter> {
    let mut failed = None;
    for place in places {
        let path = place.join(version.to_string());
        if !path.is_file() {
            continue;
        }
        let found = probe(version, &path);
        if found.problem.is_none() {
            return Some(found);
        }
        failed.get_or_insert(found);
    }
    failed
}

/// Every interpreter of this machine, in order of version.
pub(super) fn find_all(config: &Config) -> Vec<Interpreter> {
    let places = places(config);
    let found = MINORS.filter_map(|minor| {
        let found = find(PythonVersion(minor), &places)?;
        Some((minor, found))
    });
    found.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// How a shell, and so a launcher written for one, says that there is no such command.
const NOT_FOUND: i32 = 127;

/// Runs the interpreter once: a file with the right name may be a launcher for another version, or
/// lack its libraries.
fn probe(version: PythonVersion, path: &Path) -> Interpreter {
    let problem = |problem: String| Interpreter {
        version,
        path: path.to_owned(),
        prefix: PathBuf::new(),
        full_version: String::new(),
        problem: Some(problem),
    };
    let output = Command::new(path)
        .args(["-I", "-S", "-B", "-c", PROBE])
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            // An interpreter ends with what went wrong; a launcher that found none begins with it.
            let said = match output.status.code() {
                Some(NOT_FOUND) => said.lines().next(),
                _ => said.lines().next_back(),
            };
            let said = said.unwrap_or("no message");
            return problem(format!("{}: {said}", output.status));
        }
        Err(error) => return problem(error.to_string()),
    };
    let text = String::from_utf8_lossy(&output);
    let mut lines = text.lines();
    let (Some(full), Some(name), Some(real)) = (lines.next(), lines.next(), lines.next()) else {
        return problem("it does not answer like an interpreter".to_owned());
    };
    if name != "cpython" {
        return problem(format!("it is {name}, not cpython"));
    }
    if !full.starts_with(&format!("3.{}.", version.0)) {
        return problem(format!("it is Python {full}"));
    }
    // A launcher costs time at every start; the interpreter itself is run from now on.
    let path = if real.is_empty() {
        path.as_os_str()
    } else {
        OsStr::new(real)
    };
    Interpreter {
        version,
        path: path.into(),
        prefix: lines.next().unwrap_or_default().into(),
        full_version: full.to_owned(),
        problem: None,
    }
}

/// Why there is no interpreter for `version`, and what to do.
pub(super) fn missing(version: PythonVersion, places: &[PathBuf]) -> String {
    let looked: Vec<String> = places
        .iter()
        .map(|place| place.display().to_string())
        .collect();
    format!(
        "there is no interpreter for {version} on this machine: {version} was looked for in {}; \
         install it, or add its directory to python.search_paths",
        looked.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn an_interpreter_that_does_not_run_is_passed_over() {
        let (broken, good) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        script(
            broken.path(),
            "python3.9",
            "echo no such version >&2; echo and what to do about it >&2; exit 127",
        );
        script(
            good.path(),
            "python3.9",
            "printf '3.9.4\\ncpython\\n/real/python\\n'",
        );
        let both = [broken.path().to_owned(), good.path().to_owned()];
        let found = find(PythonVersion(9), &both).unwrap();
        assert_eq!(found.problem, None);
        assert_eq!(found.path, Path::new("/real/python"));
        let found = find(PythonVersion(9), &both[..1]).unwrap();
        assert!(found.problem.unwrap().contains("no such version"));
    }

    #[test]
    fn what_pyenv_selects_is_taken_without_its_launchers() {
        let root = tempfile::tempdir().unwrap();
        let bin = |name: &str| root.path().join("versions").join(name).join("bin");
        for name in ["3.9.1", "3.11.7"] {
            std::fs::create_dir_all(bin(name)).unwrap();
        }
        let selected = |text| selected_by_pyenv(root.path(), text);
        let both = Some(vec![bin("3.11.7"), bin("3.9.1")]);
        assert_eq!(selected("3.11.7:system:3.9.1"), both);
        assert_eq!(selected("3.11.7\n3.9.1\n"), both);
        assert_eq!(selected(""), Some(Vec::new()));
        // A part of a name is for pyenv to understand.
        assert_eq!(selected("3.11"), None);
    }

    #[test]
    fn a_launcher_of_another_version_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        script(
            dir.path(),
            "python3.9",
            "printf '3.10.1\\ncpython\\n/real/python\\n'",
        );
        let found = find(PythonVersion(9), &[dir.path().to_owned()]).unwrap();
        assert_eq!(found.problem.as_deref(), Some("it is Python 3.10.1"));
    }

    #[test]
    fn a_missing_interpreter_is_told_with_the_places() {
        let places = [PathBuf::from("/usr/bin")];
        assert_eq!(find(PythonVersion(42), &places), None);
        let text = missing(PythonVersion(42), &places);
        assert!(
            text.contains("python3.42") && text.contains("/usr/bin"),
            "{text}"
        );
    }
}
