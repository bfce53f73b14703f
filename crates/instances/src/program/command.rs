//! Which file of a function is its program, and how that is run.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::Access;

/// The file that is run where the handler names none.
const BOOTSTRAP: &str = "bootstrap";

/// The command line of the program in `code` that `handler` names.
///
/// The handler is a file, or a folder with a `bootstrap`; `bootstrap` itself when it is empty, or a
/// path to call (which begins with a slash), or names nothing that is there.
///
/// # Errors
///
/// What was looked for, and what to do.
pub(super) fn find(code: &Path, handler: &str) -> Result<Vec<OsString>, String> {
    let file = file(code, handler)?;
    let shown = file.display();
    let mut start = Vec::new();
    File::open(&file)
        .and_then(|open| open.take(4).read_to_end(&mut start))
        .map_err(|error| format!("the program {shown} cannot be read: {error}"))?;
    let is_binary = start == b"\x7fELF";
    let is_executable = rustix::fs::access(&file, Access::EXEC_OK).is_ok();
    if is_executable && (is_binary || start.starts_with(b"#!")) {
        return Ok(vec![file.into()]);
    }
    if is_binary {
        return Err(format!(
            "the program {shown} may not be executed; run chmod +x on it"
        ));
    }
    Ok(vec!["bash".into(), file.into()])
}

fn file(code: &Path, handler: &str) -> Result<PathBuf, String> {
    let bootstrap = code.join(BOOTSTRAP);
    let names_a_file = !handler.is_empty() && !handler.starts_with('/');
    if names_a_file {
        if !Path::new(handler)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            return Err(format!(
                "the handler {handler:?} leaves the code's folder; give the name of a file in it"
            ));
        }
        let named = code.join(handler);
        if named.is_file() {
            return Ok(named);
        }
        if named.join(BOOTSTRAP).is_file() {
            return Ok(named.join(BOOTSTRAP));
        }
    }
    if bootstrap.is_file() {
        return Ok(bootstrap);
    }
    let or_named = if names_a_file {
        format!(" nor a file {handler}, which is the handler")
    } else {
        String::new()
    };
    Err(format!(
        "there is no program to run: {} has no file {BOOTSTRAP}{or_named}",
        code.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn folder(files: &[(&str, &str, u32)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, mode) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).unwrap();
        }
        folder
    }

    /// The command line, with the folder left out.
    fn found(files: &[(&str, &str, u32)], handler: &str) -> Result<String, String> {
        let folder = folder(files);
        let line = find(folder.path(), handler)?;
        let line = line.join(std::ffi::OsStr::new(" ")).into_string().unwrap();
        Ok(line.replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn the_handler_is_a_file_or_a_folder_and_otherwise_bootstrap_is_run() {
        let files = [
            ("bootstrap", "#!/bin/sh\n", 0o755),
            ("bin/server", "\x7fELF…", 0o755),
            ("deep/bootstrap", "#!/bin/sh\n", 0o755),
        ];
        for (handler, line) in [
            ("", "bootstrap"),
            ("bootstrap", "bootstrap"),
            ("/api/call", "bootstrap"),
            ("index.handler", "bootstrap"),
            ("bin/server", "bin/server"),
            ("./bin/server", "./bin/server"),
            ("deep", "deep/bootstrap"),
        ] {
            assert_eq!(found(&files, handler).unwrap(), line, "{handler}");
        }
    }

    #[test]
    fn a_script_that_cannot_be_executed_is_run_by_bash() {
        for (text, mode) in [("#!/bin/sh\n", 0o644), ("echo\n", 0o755), ("", 0o644)] {
            let line = found(&[("bootstrap", text, mode)], "").unwrap();
            assert_eq!(line, "bash bootstrap");
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_reason() {
        let binary = [("server", "\x7fELF…", 0o644)];
        assert!(found(&binary, "server").unwrap_err().contains("chmod"));
        let missing = found(&binary, "serve").unwrap_err();
        assert!(missing.contains("bootstrap") && missing.contains("serve,"));
        let outside = found(&binary, "../../bin/sh").unwrap_err();
        assert!(outside.contains("leaves"), "{outside}");
    }
}
