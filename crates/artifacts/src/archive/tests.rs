//! What packages do to get out of their folder, and what comes of it.

mod attacks;
mod bombs;
mod properties;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;

use super::*;

/// A folder to unpack into, with a witness beside it that nobody may touch.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        fs::write(dir.path().join("witness"), "untouched").unwrap();
        Self { dir }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    fn unpack(&self, package: &[u8]) -> Result<Unpacked, Error> {
        self.unpack_with(package, &Limits::default())
    }

    fn unpack_with(&self, package: &[u8], limits: &Limits) -> Result<Unpacked, Error> {
        let path = self.dir.path().join("package");
        fs::write(&path, package).unwrap();
        let unpacked = unpack(&File::open(&path).unwrap(), &self.target(), limits);
        fs::remove_file(path).unwrap();
        self.nothing_else();
        unpacked
    }

    /// Nothing is there beside the folder and the witness.
    fn nothing_else(&self) {
        let mut names: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["target", "witness"]);
        let witness = fs::read_to_string(self.dir.path().join("witness")).unwrap();
        assert_eq!(witness, "untouched");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.target().join(path)).unwrap()
    }

    fn mode(&self, path: &str) -> u32 {
        let metadata = fs::symlink_metadata(self.target().join(path)).unwrap();
        metadata.permissions().mode() & 0o7777
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        crate::remove::make_writable(&self.target());
    }
}

fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        let options = SimpleFileOptions::default().unix_permissions(0o644);
        zip.start_file(*name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// One entry of a tar, without the checks that a builder makes.
struct Entry<'a> {
    name: &'a str,
    kind: tar::EntryType,
    link: &'a str,
    mode: u32,
    content: &'a [u8],
}

impl<'a> Entry<'a> {
    fn new(name: &'a str, kind: tar::EntryType) -> Self {
        Self {
            name,
            kind,
            link: "",
            mode: 0o644,
            content: b"",
        }
    }

    fn file(name: &'a str, content: &'a [u8]) -> Self {
        Self {
            content,
            ..Self::new(name, tar::EntryType::Regular)
        }
    }

    fn link(name: &'a str, kind: tar::EntryType, link: &'a str) -> Self {
        Self {
            link,
            ..Self::new(name, kind)
        }
    }

    fn write(&self, tar: &mut Vec<u8>) {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        header.set_link_name_literal(self.link).unwrap();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.content.len() as u64);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(self.content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
}

fn plain_tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for entry in entries {
        entry.write(&mut tar);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    gz(&plain_tar(entries))
}

/// Every file below `folder` and what is in it.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn the_three_forms_are_told_apart_by_their_bytes_and_unpacked() {
    let entries = [
        Entry::new("./", tar::EntryType::Directory),
        Entry::file("main.py", b"x = 1\n"),
        Entry::file("lib/deep/er.py", b"y = 2\n"),
    ];
    let tar = plain_tar(&entries);
    let zip = zip_of(&[("main.py", b"x = 1\n"), ("lib/deep/er.py", b"y = 2\n")]);
    for package in [zip, gz(&tar), zstd::encode_all(&*tar, 3).unwrap()] {
        let fixture = Fixture::new();
        let unpacked = fixture.unpack(&package).unwrap();
        assert_eq!((unpacked.entries, unpacked.bytes), (4, 12));
        assert_eq!(fixture.read("main.py"), "x = 1\n");
        assert_eq!(fixture.read("lib/deep/er.py"), "y = 2\n");
        assert_eq!(fixture.mode("main.py"), 0o444);
        assert_eq!(fixture.mode("lib/deep"), 0o555);
        assert_eq!(fixture.mode(""), 0o555);
    }
}

#[test]
fn what_is_no_archive_is_told_so() {
    for bytes in [&b""[..], b"P", b"hello world", b"BZh91AY", b"\x7fELF"] {
        let error = Fixture::new().unpack(bytes).unwrap_err();
        assert!(matches!(error, Error::UnknownFormat), "{error}");
    }
}

#[test]
fn programs_stay_programs_and_all_other_bits_are_dropped() {
    let fixture = Fixture::new();
    let with_mode = |name, mode| Entry {
        mode,
        ..Entry::file(name, b"#!")
    };
    let package = tar_of(&[
        with_mode("run", 0o4755),
        with_mode("group", 0o2070),
        with_mode("sticky", 0o1777),
        with_mode("open", 0o666),
        with_mode("closed", 0o000),
    ]);
    fixture.unpack(&package).unwrap();
    let modes = ["run", "group", "sticky", "open", "closed"].map(|name| fixture.mode(name));
    assert_eq!(modes, [0o555, 0o555, 0o555, 0o444, 0o444]);
}

#[test]
fn a_zip_without_modes_gets_them_from_what_its_files_are() {
    let fixture = Fixture::new();
    let mut package = zip_of(&[("bootstrap", b"#!/bin/sh\n"), ("data", b"x")]);
    // The system that made an entry is in its record of the directory.
    let records = find_all(&package, b"PK\x01\x02");
    for record in records {
        package[record + 5] = 0;
        package[record + 38..record + 42].fill(0);
    }
    fixture.unpack(&package).unwrap();
    assert_eq!(fixture.mode("bootstrap"), 0o555);
    assert_eq!(fixture.mode("data"), 0o444);
}

#[test]
fn links_inside_of_the_package_work() {
    let fixture = Fixture::new();
    let package = tar_of(&[
        Entry::link("bin/tool", tar::EntryType::Symlink, "../lib/tool.py"),
        Entry::link("current", tar::EntryType::Symlink, "lib"),
        Entry::file("lib/tool.py", b"tool"),
    ]);
    fixture.unpack(&package).unwrap();
    assert_eq!(fixture.read("bin/tool"), "tool");
    assert_eq!(fixture.read("current/tool.py"), "tool");
}

#[test]
fn names_that_differ_in_case_alone_are_two_files() {
    let fixture = Fixture::new();
    let package = zip_of(&[
        ("Read.me", b"1"),
        ("read.me", b"2"),
        ("DIR/a", b"3"),
        ("dir/a", b"4"),
    ]);
    fixture.unpack(&package).unwrap();
    let all = ["Read.me", "read.me", "DIR/a", "dir/a"].map(|name| fixture.read(name));
    assert_eq!(all, ["1", "2", "3", "4"]);
}

#[test]
fn names_longer_than_a_header_come_from_descriptions() {
    let long = format!("{}/file.py", "d".repeat(200));
    let pax = {
        let record = format!("path={long}\n");
        let length = record.len() + 4;
        format!("{length} {record}")
    };
    let gnu = format!("{long}\0");
    let of_gnu = [
        Entry {
            content: gnu.as_bytes(),
            ..Entry::new("././@LongLink", tar::EntryType::GNULongName)
        },
        Entry::file("short", b"x"),
    ];
    let of_pax = [
        Entry {
            content: pax.as_bytes(),
            ..Entry::new("pax", tar::EntryType::XHeader)
        },
        Entry::file("short", b"x"),
    ];
    for entries in [of_gnu, of_pax] {
        let fixture = Fixture::new();
        fixture.unpack(&tar_of(&entries)).unwrap();
        assert_eq!(fixture.read(&long), "x");
    }
}

#[test]
fn what_git_writes_before_its_entries_is_passed_over() {
    let fixture = Fixture::new();
    let package = tar_of(&[
        Entry {
            content: b"19 comment=0123456\n",
            ..Entry::new("pax_global_header", tar::EntryType::XGlobalHeader)
        },
        Entry::file("main.py", b"x"),
    ]);
    fixture.unpack(&package).unwrap();
    assert_eq!(contents(&fixture.target()).len(), 1);
}

#[test]
fn many_files_are_unpacked_by_several_threads_all_the_same() {
    let files: Vec<(String, Vec<u8>)> = (0_u32..600)
        .map(|number| {
            let content = number.to_le_bytes().repeat(number as usize);
            (format!("d{}/f{number}", number % 17), content)
        })
        .collect();
    let entries: Vec<_> = files
        .iter()
        .map(|(name, content)| (&**name, &**content))
        .collect();
    let fixture = Fixture::new();
    fixture.unpack(&zip_of(&entries)).unwrap();
    assert_eq!(contents(&fixture.target()), files.into_iter().collect());
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

fn find_all(bytes: &[u8], pattern: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(pattern.len()).enumerate();
    windows
        .filter(|(_, window)| *window == pattern)
        .map(|(at, _)| at)
        .collect()
}
