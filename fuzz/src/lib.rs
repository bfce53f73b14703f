//! What the targets share: a folder to unpack into, and a look around it afterwards.

use std::fs;
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bugle_artifacts::archive::{Limits, unpack};

/// Small enough that a run takes microseconds, and every limit is met.
const LIMITS: Limits = Limits {
    max_package_bytes: 1 << 20,
    max_files: 64,
    max_unpacked_bytes: 1 << 20,
    max_file_bytes: 1 << 19,
    max_ratio: 100,
};

/// Unpacks `package`, whatever it is.
///
/// # Panics
///
/// If anything was made outside of the folder, or is in it that is more than it may be.
pub fn unpack_and_look(package: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let target = dir.path().join("target");
    fs::create_dir(&target).expect("a folder");
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(package).expect("a written file");
    file.rewind().expect("a file that can be read again");
    let unpacked = unpack(&file, &target, &LIMITS);
    let beside = fs::read_dir(dir.path()).expect("the directory").count();
    assert_eq!(beside, 1, "something was made beside the folder");
    let mut bytes = 0;
    let mut entries = 0;
    look(&target, &target, unpacked.is_ok(), &mut entries, &mut bytes);
    assert!(entries <= LIMITS.max_files && bytes <= LIMITS.max_unpacked_bytes);
    make_writable(&target);
}

fn look(root: &Path, folder: &Path, finished: bool, entries: &mut u64, bytes: &mut u64) {
    for entry in fs::read_dir(folder).expect("a folder that can be read") {
        let path = entry.expect("an entry").path();
        let metadata = fs::symlink_metadata(&path).expect("what it is");
        *entries += 1;
        if metadata.is_symlink() {
            // What was refused halfway is removed and never looked at.
            if finished {
                let end = path.canonicalize().expect("a link that leads somewhere");
                assert!(end.starts_with(root.canonicalize().expect("the folder")));
            }
            continue;
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            assert!(!finished || mode == 0o555, "{mode:o}");
            look(root, &path, finished, entries, bytes);
        } else {
            assert!(metadata.is_file(), "neither file, directory nor link");
            assert!(mode == 0o444 || mode == 0o555, "{mode:o}");
            *bytes += metadata.len();
        }
    }
}

fn make_writable(folder: &Path) {
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

/// The bytes as a gzip stream. With them inside of it a fuzzer reaches the reader of the tar, which
/// it would hardly do through a checksum.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// Gives every block that could be a tar's header the checksum that it needs.
pub fn with_checksums(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    for header in tar.as_chunks_mut::<512>().0 {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        let text = format!("{sum:06o}\0 ");
        header[148..156].copy_from_slice(text.as_bytes());
    }
    tar
}
