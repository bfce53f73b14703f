//! The Python side, which travels inside the binary.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Every file, by its path below the directory it is written to.
const FILES: &[(&str, &str)] = &[
    (
        "zygote.py",
        include_str!("../../../../runtimes/python/zygote.py"),
    ),
    (
        "_bugle/__init__.py",
        include_str!("../../../../runtimes/python/_bugle/__init__.py"),
    ),
    (
        "_bugle/context.py",
        include_str!("../../../../runtimes/python/_bugle/context.py"),
    ),
    (
        "_bugle/coroutines.py",
        include_str!("../../../../runtimes/python/_bugle/coroutines.py"),
    ),
    (
        "_bugle/frames.py",
        include_str!("../../../../runtimes/python/_bugle/frames.py"),
    ),
    (
        "_bugle/instance.py",
        include_str!("../../../../runtimes/python/_bugle/instance.py"),
    ),
    (
        "_bugle/loader.py",
        include_str!("../../../../runtimes/python/_bugle/loader.py"),
    ),
    (
        "_bugle/output.py",
        include_str!("../../../../runtimes/python/_bugle/output.py"),
    ),
    (
        "_bugle/results.py",
        include_str!("../../../../runtimes/python/_bugle/results.py"),
    ),
    (
        "_bugle/threads.py",
        include_str!("../../../../runtimes/python/_bugle/threads.py"),
    ),
    (
        "_bugle/watcher.py",
        include_str!("../../../../runtimes/python/_bugle/watcher.py"),
    ),
    (
        "_bugle/zygote.py",
        include_str!("../../../../runtimes/python/_bugle/zygote.py"),
    ),
];

/// Writes the files below `dir`, which only the owner can enter, and returns the one to run.
///
/// A file that is the same already is left alone, so that its compiled form stays valid.
pub(super) fn write(dir: &Path) -> io::Result<PathBuf> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir.join("_bugle"))?;
    for (name, text) in FILES {
        let path = dir.join(name);
        if fs::read(&path).is_ok_and(|present| present == text.as_bytes()) {
            continue;
        }
        fs::write(&path, text)?;
    }
    Ok(dir.join("zygote.py"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_runtime_is_in_the_binary() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtimes/python");
        let mut present: Vec<String> = Vec::new();
        for (dir, prefix) in [(root.clone(), ""), (root.join("_bugle"), "_bugle/")] {
            for entry in fs::read_dir(dir).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if Path::new(&name).extension().is_some_and(|end| end == "py") {
                    present.push(format!("{prefix}{name}"));
                }
            }
        }
        present.sort();
        let mut shipped: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        shipped.sort_unstable();
        assert_eq!(shipped, present);
    }

    #[test]
    fn writing_twice_leaves_the_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let script = write(dir.path()).unwrap();
        let written = fs::metadata(&script).unwrap().modified().unwrap();
        write(dir.path()).unwrap();
        assert_eq!(fs::metadata(&script).unwrap().modified().unwrap(), written);
    }
}
