//! The Python side, which travels inside the binary.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Every file, by its path below the directory it is written to.
macro_rules! files {
    ($($name:literal,)*) => {
        const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../../runtimes/python/", $name)))),*];
    };
}

files! {
    "zygote.py",
    "_bugle/__init__.py",
    "_bugle/compiling.py",
    "_bugle/confine.py",
    "_bugle/context.py",
    "_bugle/coroutines.py",
    "_bugle/frames.py",
    "_bugle/growth.py",
    "_bugle/heap.py",
    "_bugle/instance.py",
    "_bugle/loader.py",
    "_bugle/memory.py",
    "_bugle/output.py",
    "_bugle/rehearsal.py",
    "_bugle/results.py",
    "_bugle/threads.py",
    "_bugle/watcher.py",
    "_bugle/zygote.py",
    "rehearsal/function.py",
}

/// Writes the files below `dir`, which only the owner can enter, and returns the one to run.
///
/// A file that is the same already is left alone, so that its compiled form stays valid.
pub(super) fn write(dir: &Path) -> io::Result<PathBuf> {
    let private = |dir: &Path| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
    };
    for (name, text) in FILES {
        let path = dir.join(name);
        private(path.parent().unwrap_or(dir))?;
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
        for prefix in ["", "_bugle/", "rehearsal/"] {
            for entry in fs::read_dir(root.join(prefix)).unwrap() {
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
