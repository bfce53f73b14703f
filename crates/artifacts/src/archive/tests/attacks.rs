//! Entries that want to be elsewhere, or to be read in two ways.

use super::*;

/// Names that lead out of a folder somewhere, or cannot be shown.
const NAMES: &[&str] = &[
    "../witness",
    "../../../../../../../../etc/cron.d/x",
    "a/../../witness",
    "a/../witness",
    "a/b/../../../witness",
    "./../witness",
    "..",
    "../",
    "a/..",
    "/etc/passwd",
    "//etc/passwd",
    "/",
    "..\\witness",
    "a\\..\\..\\witness",
    "\\\\server\\share\\x",
    "C:/windows/x",
    "c:x",
    "C:\\x",
    "a\nb",
    "a\rb",
    "a\u{1b}[2Jb",
    "a\u{7f}b",
    "a\u{85}b",
    "\u{9b}31m",
];

fn refused(package: &[u8]) -> Error {
    let fixture = Fixture::new();
    fixture.unpack(package).unwrap_err()
}

#[track_caller]
fn refused_by_path(package: &[u8]) {
    let error = refused(package);
    assert!(matches!(error, Error::Path { .. }), "{error:?}");
    assert_eq!(error.code().unwrap().number(), 4128);
    let text = error.to_string();
    assert!(
        text.starts_with("zip file path [") && text.contains("] is invalid"),
        "{text}"
    );
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

#[test]
fn names_that_lead_out_are_refused_in_a_tar() {
    for name in NAMES {
        refused_by_path(&tar_of(&[Entry::file(name, b"evil")]));
        refused_by_path(&tar_of(&[Entry::new(name, tar::EntryType::Directory)]));
        let link = Entry::link(name, tar::EntryType::Symlink, "x");
        refused_by_path(&tar_of(&[Entry::file("x", b""), link]));
    }
}

#[test]
fn names_that_lead_out_are_refused_in_a_zip() {
    for name in NAMES {
        // Of the same length, so that it can be put in place of one that the writer takes.
        let harmless = "h".repeat(name.len());
        let mut package = zip_of(&[(&harmless, b"evil")]);
        for at in find_all(&package, harmless.as_bytes()) {
            package[at..at + name.len()].copy_from_slice(name.as_bytes());
        }
        let error = refused(&package);
        // A name that ends with a slash is a directory, which has no content.
        assert!(matches!(error, Error::Path { .. }), "{name:?}: {error:?}");
    }
}

#[test]
fn names_that_lead_out_are_refused_in_descriptions() {
    for name in NAMES {
        let gnu = format!("{name}\0");
        let long = Entry {
            content: gnu.as_bytes(),
            ..Entry::new("././@LongLink", tar::EntryType::GNULongName)
        };
        refused_by_path(&tar_of(&[long, Entry::file("fine", b"evil")]));
    }
}

#[test]
fn names_that_are_no_text_are_refused() {
    let mut tar = plain_tar(&[Entry::file("nameXX", b"x")]);
    tar[4] = 0xff;
    let mut header = tar::Header::from_byte_slice(&tar[..512]).clone();
    header.set_cksum();
    tar[..512].copy_from_slice(header.as_bytes());
    refused_by_path(&gz(&tar));
}

#[test]
fn names_too_long_or_too_deep_are_refused() {
    let component = "n".repeat(256);
    let path = "p/".repeat(600);
    let deep = "d/".repeat(65) + "x";
    for name in [component, path, deep] {
        refused_by_path(&zip_of(&[(&name, b"")]));
    }
}

#[test]
fn links_that_lead_out_are_refused() {
    let targets = [
        "../witness",
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        "../target/../witness",
        "/proc/self/root",
        "nowhere",
        "self",
    ];
    for target in targets {
        let link = Entry::link("self", tar::EntryType::Symlink, target);
        refused_by_path(&tar_of(&[link]));
    }
}

#[test]
fn a_chain_of_links_that_leads_out_is_refused() {
    // Each looks harmless: `up` leads to the folder, and what is above it looks like its sibling.
    refused_by_path(&tar_of(&[
        Entry::new("a/b/c", tar::EntryType::Directory),
        Entry::link("a/b/c/up", tar::EntryType::Symlink, "../../.."),
        Entry::file("a/witness", b""),
        Entry::link("out", tar::EntryType::Symlink, "a/b/c/up/../witness"),
    ]));
}

#[test]
fn nothing_is_written_through_a_link() {
    for target in ["..", "/tmp", "."] {
        refused_by_path(&tar_of(&[
            Entry::link("door", tar::EntryType::Symlink, target),
            Entry::file("door/witness", b"evil"),
        ]));
        refused_by_path(&tar_of(&[
            Entry::file("witness", b""),
            Entry::link("door", tar::EntryType::Symlink, "witness"),
            Entry::file("door", b"evil"),
        ]));
    }
}

#[test]
fn links_in_a_zip_meet_the_same_rules() {
    let with_link = |target: &str| {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.add_symlink("link", target, SimpleFileOptions::default())
            .unwrap();
        zip.start_file("file", SimpleFileOptions::default())
            .unwrap();
        zip.finish().unwrap().into_inner()
    };
    Fixture::new().unpack(&with_link("file")).unwrap();
    for target in ["../witness", "/etc/passwd", "missing", "link"] {
        refused_by_path(&with_link(target));
    }
    refused_by_path(&with_link(&"x".repeat(1025)));
}

#[test]
fn hard_links_devices_and_pipes_are_refused() {
    let kinds = [
        tar::EntryType::Link,
        tar::EntryType::Char,
        tar::EntryType::Block,
        tar::EntryType::Fifo,
    ];
    for kind in kinds {
        let entries = [
            Entry::file("witness", b""),
            Entry::link("entry", kind, "../witness"),
        ];
        refused_by_path(&tar_of(&entries));
    }
    let unknown = tar::EntryType::new(b'Z');
    refused_by_path(&tar_of(&[Entry::new("entry", unknown)]));
}

#[test]
fn devices_pipes_and_sockets_in_a_zip_are_refused() {
    for kind in [0o010_000_u32, 0o020_000, 0o060_000, 0o140_000] {
        let mut package = zip_of(&[("entry", b"")]);
        let record = find_all(&package, b"PK\x01\x02")[0];
        let attributes = (kind | 0o644) << 16;
        package[record + 38..record + 42].copy_from_slice(&attributes.to_le_bytes());
        refused_by_path(&package);
    }
}

#[test]
fn a_name_that_is_there_twice_is_refused() {
    refused_by_path(&tar_of(&[Entry::file("a", b"1"), Entry::file("a", b"2")]));
    refused_by_path(&tar_of(&[Entry::file("a", b"1"), Entry::file("./a", b"2")]));
    refused_by_path(&tar_of(&[Entry::file("a", b"1"), Entry::file("a/b", b"2")]));
    refused_by_path(&tar_of(&[Entry::file("a/b", b"1"), Entry::file("a", b"2")]));
    refused_by_path(&zip_of(&[("a", b"1"), ("./a", b"2")]));
    refused_by_path(&zip_of(&[("a", b"1"), ("a/b", b"2")]));
    let mut package = zip_of(&[("aa", b"1"), ("bb", b"2")]);
    for at in find_all(&package, b"bb") {
        package[at..at + 2].copy_from_slice(b"aa");
    }
    assert!(matches!(refused(&package), Error::Damaged { .. }));
}

#[test]
fn a_description_without_its_entry_is_refused() {
    let long = Entry {
        content: b"name\0",
        ..Entry::new("././@LongLink", tar::EntryType::GNULongName)
    };
    assert!(matches!(refused(&tar_of(&[long])), Error::Damaged { .. }));
}

#[test]
fn two_sizes_for_one_entry_are_refused() {
    let pax = Entry {
        content: b"10 size=0\n",
        ..Entry::new("pax", tar::EntryType::XHeader)
    };
    refused_by_path(&tar_of(&[pax, Entry::file("fine", b"hidden")]));
}

#[test]
fn a_description_that_is_too_long_is_not_read() {
    let long = vec![b'x'; 17 << 10];
    for kind in [
        tar::EntryType::GNULongName,
        tar::EntryType::GNULongLink,
        tar::EntryType::XHeader,
        tar::EntryType::XGlobalHeader,
    ] {
        let entry = Entry {
            content: &long,
            ..Entry::new("long", kind)
        };
        let error = refused(&tar_of(&[entry, Entry::file("fine", b"")]));
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}

#[test]
fn sparse_files_are_refused() {
    let entry = Entry::new("sparse", tar::EntryType::GNUSparse);
    assert!(matches!(
        refused(&tar_of(&[entry])),
        Error::Unsupported { .. }
    ));
    let pax = Entry {
        content: b"22 GNU.sparse.major=1\n",
        ..Entry::new("pax", tar::EntryType::XHeader)
    };
    let error = refused(&tar_of(&[pax, Entry::file("sparse", b"")]));
    assert!(matches!(error, Error::Unsupported { .. }));
}

#[test]
fn what_follows_the_end_is_refused() {
    let entry = [Entry::file("main.py", b"x = 1\n")];
    let mut tar = plain_tar(&entry);
    tar.extend_from_slice(b"more");
    let packages = [
        gz(&tar),
        [tar_of(&entry), b"more".to_vec()].concat(),
        [
            zstd::encode_all(&*plain_tar(&entry), 3).unwrap(),
            b"more".to_vec(),
        ]
        .concat(),
        [zip_of(&[("main.py", b"x")]), b"more".to_vec()].concat(),
        [zip_of(&[("main.py", b"x")]), zip_of(&[("other.py", b"x")])].concat(),
        [b"PK\x03\x04".to_vec(), zip_of(&[("main.py", b"x")])].concat(),
    ];
    for package in packages {
        let error = refused(&package);
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    }
}

#[test]
fn a_package_that_was_cut_off_is_damaged_wherever_it_was() {
    let entries = [Entry::file("a", &[7; 3000]), Entry::file("b", &[8; 100])];
    let noise = noise(3000);
    let packages = [
        tar_of(&entries),
        zstd::encode_all(&*plain_tar(&entries), 3).unwrap(),
        zip_of(&[("a", &noise), ("b", &[8; 100])]),
    ];
    for package in packages {
        for end in (4..package.len()).step_by(7) {
            let error = refused(&package[..end]);
            assert!(!matches!(error, Error::Io { .. }), "at {end}: {error:?}");
        }
    }
}

#[test]
fn an_encrypted_zip_is_told_so() {
    let mut package = zip_of(&[("secret", b"x")]);
    let (local, record) = (0, find_all(&package, b"PK\x01\x02")[0]);
    package[local + 6] |= 1;
    package[record + 8] |= 1;
    let error = refused(&package);
    assert!(error.to_string().contains("encrypted"), "{error}");
}

#[test]
fn a_zip_that_names_an_entry_differently_in_its_directory_is_refused() {
    let mut package = zip_of(&[("harmless", b"x")]);
    let last = *find_all(&package, b"harmless").last().unwrap();
    package[last..last + 8].copy_from_slice(b"otherone");
    assert!(matches!(refused(&package), Error::Damaged { .. }));
}

#[test]
fn entries_that_share_bytes_are_refused() {
    let mut package = zip_of(&[("aa", &[1; 500]), ("bb", &[2; 500])]);
    let records = find_all(&package, b"PK\x01\x02");
    // The second entry points at the first one's place.
    package[records[1] + 42..records[1] + 46].fill(0);
    assert!(matches!(refused(&package), Error::Damaged { .. }));
}

#[test]
fn an_entry_that_the_directory_hides_is_refused() {
    let mut package = zip_of(&[("aa", b"1"), ("bb", b"2")]);
    let records = find_all(&package, b"PK\x01\x02");
    let end = find_all(&package, b"PK\x05\x06")[0];
    let length = u32::try_from(records[1] - records[0]).unwrap();
    package[end + 8..end + 12].copy_from_slice(&[1, 0, 1, 0]);
    package[end + 12..end + 16].copy_from_slice(&length.to_le_bytes());
    package.drain(records[1]..end);
    assert!(matches!(refused(&package), Error::Damaged { .. }));
}

#[test]
fn content_that_is_not_what_its_checksum_says_is_refused() {
    let mut package = zip_of(&[("aa", b"1")]);
    for (signature, offset) in [(b"PK\x03\x04", 14), (b"PK\x01\x02", 16)] {
        let at = find_all(&package, signature)[0] + offset;
        package[at] ^= 1;
    }
    assert!(matches!(refused(&package), Error::Damaged { .. }));
}
