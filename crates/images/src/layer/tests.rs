//! Layers as tools write them, and as attackers do, unpacked for real.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::{Limits, Source, Unpacked, unpack};
use crate::{Digest, ImageError};

/// A layer under construction.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// An entry with any name, which the builder's own methods would refuse.
    fn entry(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        self.0
            .append(&header(kind, path, link, data.len() as u64), data)
            .unwrap();
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, path, "", data.as_bytes())
    }

    fn directory(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, b"")
    }

    fn attribute(mut self, name: &str, value: &[u8]) -> Self {
        let key = format!("SCHILY.xattr.{name}");
        self.0
            .append_pax_extensions([(key.as_str(), value)])
            .unwrap();
        self
    }

    fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn header(kind: EntryType, path: &str, link: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    header
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct Tried {
    folder: TempDir,
    result: Result<Unpacked, ImageError>,
}

impl Tried {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("outside/layer").join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn error(self) -> String {
        self.result.unwrap_err().to_string()
    }
}

/// Unpacks a blob that is what it says, two folders below one that shall stay as it is.
fn try_blob(blob: &[u8], tar: &[u8]) -> Tried {
    let promised = Some((Digest::of(blob), blob.len() as u64));
    try_source(blob, promised, Digest::of(tar), 1 << 30)
}

fn try_source(
    bytes: &[u8],
    blob: Option<(Digest, u64)>,
    diff_id: Digest,
    most_inflated: u64,
) -> Tried {
    let folder = tempfile::tempdir().unwrap();
    let layer = folder.path().join("outside/layer");
    fs::create_dir_all(&layer).unwrap();
    fs::write(folder.path().join("outside/witness"), "untouched").unwrap();
    let limits = Limits {
        inflated: &AtomicU64::new(0),
        most_inflated,
        most_entries: 1000,
        progress: &AtomicU64::new(0),
    };
    let source = Source {
        bytes,
        blob,
        diff_id,
    };
    let directory = fs::File::open(&layer).unwrap().into();
    let result = unpack(source, directory, &limits);
    let witness = fs::read_to_string(folder.path().join("outside/witness")).unwrap();
    assert_eq!(witness, "untouched");
    assert_eq!(
        fs::read_dir(folder.path().join("outside")).unwrap().count(),
        2
    );
    Tried { folder, result }
}

fn try_layer(layer: Layer) -> Tried {
    let tar = layer.tar();
    try_blob(&tar, &tar)
}

#[test]
fn a_layer_is_the_same_however_it_is_compressed() {
    let layer = || Layer::new().directory("bin/").file("bin/app", "program");
    let tar = layer().tar();
    let zstd = zstd::stream::encode_all(&*tar, 3).unwrap();
    let twice = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    for blob in [tar.clone(), gzip(&tar), zstd, twice] {
        let tried = try_blob(&blob, &tar);
        tried.result.as_ref().unwrap();
        assert_eq!(tried.read("bin/app"), "program");
        let modified = fs::metadata(tried.path("bin")).unwrap().mtime();
        assert_eq!(modified, 1_000_000_000);
    }
}

#[test]
fn files_keep_what_they_are_like() {
    let mut set_user = header(EntryType::Regular, "su", "", 1);
    set_user.set_mode(0o4755);
    set_user.set_uid(70_000);
    set_user.set_gid(80_000);
    set_user.set_cksum();
    let mut layer = Layer::new()
        .attribute("user.note", b"a\nb")
        .attribute("user.note", b"c\nd")
        .file("noted", "x");
    layer.0.append(&set_user, &b"x"[..]).unwrap();
    let layer = layer
        .attribute(
            "security.capability",
            b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        )
        .file("capable", "x")
        .hard_link("again", "su")
        .entry(EntryType::Fifo, "pipe", "", b"");
    let tried = try_layer(layer);
    tried.result.as_ref().unwrap();
    let file = fs::metadata(tried.path("su")).unwrap();
    assert_eq!(file.permissions().mode() & 0o7777, 0o4755);
    assert_eq!(file.nlink(), 2);
    if rustix::process::geteuid().is_root() {
        assert_eq!((file.uid(), file.gid()), (70_000, 80_000));
    }
    assert!(
        fs::metadata(tried.path("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(tried.path("noted"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"c\nd");
    let capability = rustix::fs::getxattr(tried.path("capable"), "security.capability", &mut value);
    assert!(capability.is_err());
}

fn is_whiteout(path: &Path) -> bool {
    let entry = fs::symlink_metadata(path).unwrap();
    entry.file_type().is_char_device() && entry.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| {
            rustix::fs::getxattr(path, *name, &mut value)
                .is_ok_and(|length| &value[..length] == b"y")
        })
}

#[test]
fn deletions_become_those_of_overlayfs() {
    let layer = Layer::new()
        .directory("a/")
        .file("a/.wh.gone", "")
        .file("b/.wh..wh..opq", "")
        .file("b/new", "x")
        .file(".wh..wh.plnk", "")
        .file("c/d/.wh.e", "");
    let tried = try_layer(layer);
    tried.result.as_ref().unwrap();
    assert!(is_whiteout(&tried.path("a/gone")) && is_whiteout(&tried.path("c/d/e")));
    assert!(is_opaque(&tried.path("b")) && !is_opaque(&tried.path("a")));
    assert!(!tried.path(".wh..wh.plnk").try_exists().unwrap());
}

#[test]
fn what_was_deleted_and_made_again_does_not_show_what_lies_below() {
    let layer = Layer::new()
        .file(".wh.a", "")
        .directory("a/")
        .directory("b/")
        .file(".wh.b", "")
        .file("f", "new")
        .file(".wh.f", "")
        .file(".wh.c", "")
        .file("c/x", "implied");
    let tried = try_layer(layer);
    tried.result.as_ref().unwrap();
    assert!(is_opaque(&tried.path("a")) && is_opaque(&tried.path("b")));
    assert!(is_opaque(&tried.path("c")));
    assert_eq!(tried.read("f"), "new");
}

#[test]
fn a_layer_that_hides_everything_says_so() {
    let tried = try_layer(Layer::new().file(".wh..wh..opq", "").file("a", ""));
    assert!(tried.result.unwrap().opaque);
}

#[test]
fn the_last_of_entries_with_one_name_counts() {
    let layer = Layer::new()
        .file("a", "first")
        .file("a", "second")
        .directory("b/")
        .file("b/c", "")
        .file("b", "file")
        .symlink("l", "b")
        .directory("l/")
        .file("l/x", "in a real directory");
    let tried = try_layer(layer);
    tried.result.as_ref().unwrap();
    assert_eq!(tried.read("a"), "second");
    assert_eq!(tried.read("b"), "file");
    assert_eq!(tried.read("l/x"), "in a real directory");
}

#[test]
fn links_lead_to_places_in_the_layer_and_nowhere_else() {
    let layer = Layer::new()
        .directory("usr/lib/")
        .symlink("lib", "usr/lib")
        .file("lib/a", "through a link")
        .symlink("up", "../../..")
        .file("up/witness", "inside")
        .symlink("root", "/")
        .file("root/absolute", "inside")
        .symlink("shadow", "/etc/passwd");
    let tried = try_layer(layer);
    tried.result.as_ref().unwrap();
    assert_eq!(tried.read("usr/lib/a"), "through a link");
    assert_eq!(tried.read("witness"), "inside");
    assert_eq!(tried.read("absolute"), "inside");
    assert_eq!(
        fs::read_link(tried.path("shadow")).unwrap(),
        Path::new("/etc/passwd")
    );
}

#[test]
fn a_file_replaces_a_link_and_does_not_go_through_it() {
    let layer = Layer::new()
        .symlink("f", "../witness")
        .file("f", "own")
        .symlink("g", "/etc/hostname")
        .hard_link("h", "g");
    let tried = try_layer(layer);
    tried.result.as_ref().unwrap();
    assert_eq!(tried.read("f"), "own");
    assert!(fs::symlink_metadata(tried.path("h")).unwrap().is_symlink());
}

#[test]
fn entries_that_would_leave_the_layer_or_trick_the_overlay_are_refused() {
    let magic = || Layer::new().symlink("p", "/proc/self/root");
    let hostile = [
        Layer::new().file("../witness", "x"),
        Layer::new().file("a/../../witness", "x"),
        Layer::new().hard_link("h", "../witness"),
        Layer::new().hard_link("h", "/../witness"),
        Layer::new().hard_link("h", "missing"),
        Layer::new().directory("d/").hard_link("h", "d"),
        Layer::new().file(".wh.w", "").hard_link("h", "w"),
        Layer::new().hard_link("h", ".wh.w"),
        Layer::new()
            .symlink("up", "../..")
            .hard_link("h", "up/witness"),
        magic().hard_link("h", "p/etc/passwd"),
        Layer::new().file("a/.wh.", ""),
        Layer::new().file("a/.wh..", ""),
        Layer::new().file("a/.wh...", ""),
        Layer::new().file(".wh.a/b", ""),
        Layer::new().file("./", "x").file("/", "root"),
        Layer::new().symlink("/", "elsewhere"),
        Layer::new().entry(EntryType::Char, "null", "", b""),
        Layer::new().entry(EntryType::Block, "disk", "", b""),
        Layer::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/c", ""),
        Layer::new().entry(EntryType::GNUSparse, "s", "", b""),
    ];
    for (number, layer) in hostile.into_iter().enumerate() {
        let tried = try_layer(layer);
        let error = tried.error();
        assert!(
            error.contains("refused") || error.contains("cannot be used"),
            "{number}: {error}"
        );
    }
}

#[test]
fn devices_that_a_containers_own_dev_hides_are_left_out() {
    let tried = try_layer(Layer::new().entry(EntryType::Char, "dev/console", "", b""));
    tried.result.as_ref().unwrap();
    assert!(!tried.path("dev/console").try_exists().unwrap());
}

#[test]
fn attributes_of_the_overlay_itself_do_not_come_in() {
    let layer = Layer::new()
        .attribute("trusted.overlay.opaque", b"y")
        .directory("d/")
        .attribute("trusted.overlay.redirect", b"/etc")
        .directory("e/")
        .attribute("user.overlay.whiteout", b"")
        .file("f", "");
    let tried = try_layer(layer);
    tried.result.as_ref().unwrap();
    assert!(!is_opaque(&tried.path("d")));
    for name in ["d", "e", "f"] {
        let mut names = [0; 512];
        let length = rustix::fs::listxattr(tried.path(name), &mut names).unwrap();
        let names = String::from_utf8_lossy(&names[..length]).into_owned();
        assert!(!names.contains("overlay"), "{names}");
    }
}

#[test]
fn bytes_that_are_not_those_that_were_promised_are_refused() {
    let tar = Layer::new().file("a", "x").tar();
    let blob = gzip(&tar);
    let (length, good) = (blob.len() as u64, Digest::of(&tar));
    let mut flipped = blob.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let other = Digest::of(b"other");
    let tries = [
        (
            try_source(&blob, Some((other, length)), good, 1 << 20),
            "has the digest",
        ),
        (
            try_source(&blob, Some((Digest::of(&blob), length)), other, 1 << 20),
            "has the digest",
        ),
        (
            try_source(&blob, Some((Digest::of(&blob), length - 1)), good, 1 << 20),
            "has not the",
        ),
        (
            try_source(&blob, Some((Digest::of(&blob), length + 1)), good, 1 << 20),
            "has not the",
        ),
        (try_blob(&flipped, &tar), "cannot be used"),
        (try_blob(&blob[..blob.len() / 2], &tar), "cannot be used"),
        (try_blob(&tar[..512], &tar[..512]), "cannot be used"),
    ];
    for (number, (tried, words)) in tries.into_iter().enumerate() {
        let error = tried.error();
        assert!(error.contains(words), "{number}: {error}");
    }
}

#[test]
fn a_bomb_ends_at_the_limit_and_takes_no_more_disk() {
    let zeroes = vec![0; 64 << 20];
    let tar = Layer::new()
        .entry(EntryType::Regular, "bomb", "", &zeroes)
        .tar();
    let blob = zstd::stream::encode_all(&*tar, 3).unwrap();
    assert!(blob.len() < 100_000);
    let promised = Some((Digest::of(&blob), blob.len() as u64));
    let tried = try_source(&blob, promised, Digest::of(&tar), 4 << 20);
    assert!(fs::metadata(tried.path("bomb")).unwrap().len() <= 4 << 20);
    let error = tried.error();
    assert!(
        error.contains("unpacked layers of more than 4 MiB"),
        "{error}"
    );
}

#[test]
fn too_many_entries_and_long_headers_are_refused() {
    let mut many = Layer::new();
    for number in 0..1001 {
        many = many.file(&format!("f{number}"), "");
    }
    let error = try_layer(many).error();
    assert!(error.contains("images.max_layer_entries"), "{error}");
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
    ] {
        let layer = Layer::new()
            .entry(kind, "x", "", &vec![b'a'; 2 << 20])
            .file("a", "");
        let error = try_layer(layer).error();
        assert!(error.contains("larger than 1 MiB"), "{error}");
    }
}

#[test]
fn numbers_that_are_left_empty_are_0() {
    let mut bare = header(EntryType::Regular, "a", "", 1);
    let fields = bare.as_old_mut();
    (fields.uid, fields.gid, fields.mtime) = ([0; 8], [b' '; 8], [0; 12]);
    bare.set_cksum();
    let mut layer = Layer::new();
    layer.0.append(&bare, &b"x"[..]).unwrap();
    let tried = try_layer(layer);
    tried.result.as_ref().unwrap();
    let file = fs::metadata(tried.path("a")).unwrap();
    assert_eq!((file.mtime(), file.len()), (0, 1));
}

#[test]
fn names_longer_than_a_header_are_read() {
    let mut layer = Layer::new();
    let path = format!("{}/{}", "d".repeat(120), "f".repeat(150));
    let mut head = header(EntryType::Regular, "", "", 1);
    layer.0.append_data(&mut head, &path, &b"x"[..]).unwrap();
    let tried = try_layer(layer);
    tried.result.as_ref().unwrap();
    assert_eq!(tried.read(&path), "x");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_stream_panics_or_leaves_its_directory(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        start in 0_usize..3,
    ) {
        let tar = Layer::new().file("a", "x").symlink("b", "..").hard_link("c", "a").tar();
        match start {
            0 => bytes = [&tar[..512], &bytes].concat(),
            1 => bytes = [&[0x1f, 0x8b, 8, 0][..], &bytes].concat(),
            _ => {}
        }
        let _ = try_blob(&bytes, &bytes).result;
    }

    #[test]
    fn no_changed_header_panics_or_leaves_its_directory(
        changes in proptest::collection::vec((0_usize..1536, any::<u8>()), 1..6),
    ) {
        let mut tar = Layer::new().symlink("b", "..").hard_link("c", "b").file("b/a", "x").tar();
        for (at, byte) in changes {
            tar[at] = byte;
        }
        for header in tar[..1536].chunks_exact_mut(512) {
            let mut changed = Header::from_byte_slice(header).clone();
            changed.set_cksum();
            header.copy_from_slice(changed.as_bytes());
        }
        let _ = try_blob(&tar, &tar).result;
    }
}
