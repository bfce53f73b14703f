//! Which file of an image is run, and why it cannot be.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// Where programs are looked for if the image does not say.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file that `argv` names; a name without a slash is looked for in `path`.
///
/// # Errors
///
/// What was looked for, and what to do.
pub(super) fn find(argv: &[String], path: &str, directory: &str) -> Result<PathBuf, String> {
    let Some(name) = argv.first().filter(|name| !name.is_empty()) else {
        return Err(NOTHING.to_owned());
    };
    if name.contains('/') {
        let program = Path::new(directory).join(name);
        return match std::fs::metadata(&program) {
            Ok(found) if found.is_dir() => {
                Err(format!("the program {name} of the image is a directory"))
            }
            Ok(_) => Ok(program),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!(
                "the image has no program {name}; check its entrypoint and the function's command"
            )),
            Err(error) => Err(format!("the program {name} of the image: {error}")),
        };
    }
    let mut found = None;
    for folder in path.split(':').filter(|folder| !folder.is_empty()) {
        let program = Path::new(directory).join(folder).join(name);
        if !program.is_file() {
            continue;
        }
        if rustix::fs::access(&program, Access::EXEC_OK).is_ok() {
            return Ok(program);
        }
        // Told only if there is no better one.
        found = found.or(Some(program));
    }
    found.ok_or_else(|| {
        format!(
            "the image has no program {name} in its PATH ({path}); check its entrypoint and the \
             function's command"
        )
    })
}

/// What is said of an image and a function that name no program.
pub(super) const NOTHING: &str = "there is no program to run: the image has neither an entrypoint \
                                  nor a command; give the function a command";

/// Why the kernel did not execute a file, for who built the image.
pub(super) fn explain(program: &Path, uid: u32, error: &io::Error) -> String {
    let shown = program.display();
    // First of all: a machine may hand it to an emulator, which is then what is not there.
    if let Some(built) = foreign(program) {
        let here = std::env::consts::ARCH;
        return format!(
            "the program {shown} was built for {built}, and this machine is {here}; use an image for \
             this machine"
        );
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "the program {shown} may not be executed by user {uid}: {error}; check its mode and \
             its folders', or set uid"
        ),
        io::ErrorKind::NotFound => format!(
            "the program {shown} needs an interpreter or a dynamic loader that the image does not \
             have: {error}"
        ),
        _ => format!("the program {shown} cannot be run: {error}"),
    }
}

/// The processor that an executable was built for, if it is not this one.
fn foreign(program: &Path) -> Option<&'static str> {
    let mut head = [0; 20];
    File::open(program).ok()?.read_exact(&mut head).ok()?;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let [low, high] = [head[18], head[19]];
    let little = head[5] == 1;
    let machine = if little {
        u16::from_le_bytes([low, high])
    } else {
        u16::from_be_bytes([low, high])
    };
    let name = match machine {
        3 => "x86",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        _ => "another processor",
    };
    (name != std::env::consts::ARCH).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn image(files: &[(&str, &[u8], u32)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, mode) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).unwrap();
        }
        folder
    }

    fn found(folder: &tempfile::TempDir, name: &str) -> Result<String, String> {
        let directory = folder.path().to_str().unwrap();
        let program = find(&[name.to_owned()], "first:second:", directory)?;
        let program = program.strip_prefix(folder.path()).unwrap();
        Ok(program.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_bare_name_is_looked_for_in_the_path_and_others_from_the_working_directory() {
        let image = image(&[
            ("first/tool", b"x", 0o644),
            ("second/tool", b"x", 0o755),
            ("second/only", b"x", 0o755),
            ("app/server", b"x", 0o755),
        ]);
        assert_eq!(found(&image, "tool").unwrap(), "second/tool");
        assert_eq!(found(&image, "only").unwrap(), "second/only");
        assert_eq!(found(&image, "app/server").unwrap(), "app/server");
        let missing = found(&image, "server").unwrap_err();
        assert!(
            missing.contains("no program server") && missing.contains("first:second"),
            "{missing}"
        );
        let missing = found(&image, "./server").unwrap_err();
        assert!(missing.contains("entrypoint"), "{missing}");
        assert!(found(&image, "./app").unwrap_err().contains("directory"));
        assert!(
            find(&[], "", "/")
                .unwrap_err()
                .contains("neither an entrypoint")
        );
    }

    #[test]
    fn a_program_of_another_processor_is_told_from_a_broken_one() {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        let other: u16 = if std::env::consts::ARCH == "aarch64" {
            62
        } else {
            183
        };
        elf[18..20].copy_from_slice(&other.to_le_bytes());
        let image = image(&[("foreign", &elf, 0o755), ("broken", b"text", 0o755)]);
        let error = || io::Error::from_raw_os_error(8);
        let foreign = explain(&image.path().join("foreign"), 1003, &error());
        assert!(foreign.contains("was built for"), "{foreign}");
        let broken = explain(&image.path().join("broken"), 1003, &error());
        assert!(broken.contains("cannot be run"), "{broken}");
    }
}
