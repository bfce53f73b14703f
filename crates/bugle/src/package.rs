//! Packs a function's folder into one file that the platform unpacks.
//!
//! The same folder makes the same bytes: entries are sorted, without times and owners, so that a
//! package that was sent once is not sent again. What a function does not need at run time stays
//! here; `.bugleignore` says what else does.

mod ignore;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha512};

use crate::failure::{Failure, Outcome, exit};
use ignore::Ignore;

/// The file that names what is left out.
pub(crate) const IGNORE: &str = ".bugleignore";

/// How much zstd tries; more takes longer than it saves on the way to a platform nearby.
const LEVEL: i32 = 3;

/// The most directories in each other; the platform unpacks no more.
const MAX_DEPTH: usize = 64;

/// A package, in a file that is removed with it.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) file: File,
    pub(crate) bytes: u64,
    /// Files, directories and links in it.
    pub(crate) entries: usize,
    /// What `sha512sum` prints of it.
    pub(crate) sha512: String,
}

/// What is packed under a name.
enum Entry {
    Directory,
    File { path: PathBuf, mode: u32 },
    Link(PathBuf),
}

/// Packs `folder`.
pub(crate) fn pack(folder: &Path) -> Outcome<Package> {
    let ignore = Ignore::read(folder)?;
    let mut entries = BTreeMap::new();
    collect(folder, "", &ignore, 0, &mut entries)?;
    let count = entries.len();
    let failed = |error: io::Error| Failure::file(folder, &error);
    let digested = Digested {
        file: tempfile::tempfile().map_err(failed)?,
        digest: Sha512::new(),
        bytes: 0,
    };
    let encoder = zstd::Encoder::new(digested, LEVEL).map_err(failed)?;
    let mut tar = tar::Builder::new(encoder);
    for (name, entry) in &entries {
        append(&mut tar, name, entry).map_err(|error| Failure::file(&folder.join(name), &error))?;
    }
    let encoder = tar.into_inner().map_err(failed)?;
    let mut digested = encoder.finish().map_err(failed)?;
    digested.file.rewind().map_err(failed)?;
    Ok(Package {
        bytes: digested.bytes,
        entries: count,
        sha512: hex(&digested.digest.finalize()),
        file: digested.file,
    })
}

/// Takes the digest of what is written.
struct Digested {
    file: File,
    digest: Sha512,
    bytes: u64,
}

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Everything in `folder` that is not left out, by its path in the package.
fn collect(
    folder: &Path,
    prefix: &str,
    ignore: &Ignore,
    depth: usize,
    entries: &mut BTreeMap<String, Entry>,
) -> Outcome {
    if depth > MAX_DEPTH {
        let text = format!("{} is deeper than {MAX_DEPTH} folders", folder.display());
        return Err(Failure::new(exit::REFUSED, text));
    }
    let failed = |error: io::Error| Failure::file(folder, &error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let metadata = entry
            .metadata()
            .map_err(|error| Failure::file(&path, &error))?;
        let Some(name) = entry
            .file_name()
            .to_str()
            .map(|name| format!("{prefix}{name}"))
        else {
            let text = format!("the name {} is not UTF-8", path.display());
            return Err(Failure::new(exit::REFUSED, text));
        };
        if ignore.leaves_out(&name, metadata.is_dir()) {
            continue;
        }
        if metadata.is_dir() {
            entries.insert(name.clone(), Entry::Directory);
            collect(&path, &format!("{name}/"), ignore, depth + 1, entries)?;
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).map_err(|error| Failure::file(&path, &error))?;
            entries.insert(name, Entry::Link(target));
        } else if metadata.is_file() {
            let mode = metadata.permissions().mode();
            entries.insert(name, Entry::File { path, mode });
        } else {
            let text = format!(
                "{} is neither a file nor a folder nor a link",
                path.display()
            );
            return Err(Failure::new(exit::REFUSED, text).hint(format!("name it in {IGNORE}")));
        }
    }
    Ok(())
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, entry: &Entry) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    match entry {
        Entry::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            tar.append_data(&mut header, format!("{name}/"), io::empty())
        }
        Entry::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, name, target)
        }
        Entry::File { path, mode } => {
            let file = File::open(path)?;
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(if mode & 0o111 == 0 { 0o644 } else { 0o755 });
            header.set_size(file.metadata()?.len());
            tar.append_data(&mut header, name, file)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("lib/__pycache__")).unwrap();
        fs::create_dir(folder.path().join(".git")).unwrap();
        for name in [
            "main.py",
            "lib/a.py",
            "lib/__pycache__/a.pyc",
            ".git/config",
            "notes.txt",
        ] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let run = folder.path().join("run");
        fs::write(&run, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
        symlink("lib/a.py", folder.path().join("link.py")).unwrap();
        fs::write(folder.path().join(IGNORE), "*.txt\n").unwrap();
        folder
    }

    #[test]
    fn a_package_has_what_a_function_needs_and_nothing_else() {
        let package = pack(folder().path()).unwrap();
        let mut tar = tar::Archive::new(zstd::Decoder::new(package.file).unwrap());
        let entries: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let name = entry.path().unwrap().to_str().unwrap().to_owned();
                (name, header.mode().unwrap(), header.mtime().unwrap())
            })
            .collect();
        let expected = [
            ("lib/", 0o755),
            ("lib/a.py", 0o644),
            ("link.py", 0o777),
            ("main.py", 0o644),
            ("run", 0o755),
        ];
        assert_eq!(
            entries,
            expected.map(|(name, mode)| (name.to_owned(), mode, 0))
        );
        assert_eq!(package.entries, 5);
    }

    #[test]
    fn the_same_folder_makes_the_same_bytes() {
        let (one, other) = (folder(), folder());
        // Neither the order nor the time in which files were made counts.
        fs::remove_file(other.path().join("main.py")).unwrap();
        fs::write(other.path().join("main.py"), "main.py").unwrap();
        let (one, other) = (pack(one.path()).unwrap(), pack(other.path()).unwrap());
        assert_eq!((one.sha512, one.bytes), (other.sha512, other.bytes));
    }
}
