//! Packages that are more than they look.

use super::*;

fn small() -> Limits {
    Limits {
        max_package_bytes: 1 << 20,
        max_files: 10,
        max_unpacked_bytes: 100_000,
        max_file_bytes: 60_000,
        max_ratio: 100,
    }
}

#[track_caller]
fn refused(package: &[u8], limits: &Limits) -> (u32, String) {
    let error = Fixture::new().unpack_with(package, limits).unwrap_err();
    let code = error.code().map_or(0, bugle_types::Code::number);
    (code, error.to_string())
}

/// A zip whose entries say, in both places, that they are as long as `length`.
fn with_length(mut package: Vec<u8>, length: u32) -> Vec<u8> {
    for (signature, offset) in [(b"PK\x03\x04", 22), (b"PK\x01\x02", 24)] {
        for at in find_all(&package, signature) {
            package[at + offset..at + offset + 4].copy_from_slice(&length.to_le_bytes());
        }
    }
    package
}

#[test]
fn too_many_files_are_4127() {
    let names: Vec<String> = (0..11).map(|number| format!("f{number}")).collect();
    let in_zip: Vec<_> = names.iter().map(|name| (&**name, &b""[..])).collect();
    let in_tar: Vec<_> = names.iter().map(|name| Entry::file(name, b"")).collect();
    for package in [zip_of(&in_zip), tar_of(&in_tar)] {
        let (code, text) = refused(&package, &small());
        assert_eq!(code, 4127);
        assert!(
            text.starts_with("zip file count [11] is larger than 10"),
            "{text}"
        );
        assert!(text.contains("packages.max_files"), "{text}");
    }
}

#[test]
fn directories_that_a_name_implies_are_counted() {
    let (code, _) = refused(&zip_of(&[("1/2/3/4/5/6/7/8/9/10/11", b"")]), &small());
    assert_eq!(code, 4127);
}

#[test]
fn more_entries_than_allowed_are_refused_by_their_directory() {
    let names: Vec<String> = (0..12_000).map(|number| format!("{number}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (&**name, &b""[..])).collect();
    let (code, text) = refused(&zip_of(&entries), &Limits::default());
    assert_eq!(code, 4127, "{text}");
}

#[test]
fn one_file_or_all_that_are_too_large_are_4129() {
    // Noise, so that nothing is refused for its ratio.
    let noise = noise(70_000);
    let one = [("a", &noise[..])];
    let two = [("a", &noise[..55_000]), ("b", &noise[..55_000])];
    for (entries, limit) in [
        (&one[..], "max_file_bytes"),
        (&two[..], "max_unpacked_bytes"),
    ] {
        let in_tar: Vec<_> = entries
            .iter()
            .map(|(name, content)| Entry::file(name, content))
            .collect();
        for package in [zip_of(entries), tar_of(&in_tar)] {
            let (code, text) = refused(&package, &small());
            assert_eq!(code, 4129, "{text}");
            assert!(
                text.starts_with("zip file unzip size is larger than "),
                "{text}"
            );
            assert!(text.contains(limit), "{text}");
        }
    }
}

#[test]
fn a_package_that_is_too_large_is_4130() {
    let limits = Limits {
        max_package_bytes: 100,
        ..small()
    };
    let package = zip_of(&[("a", b"x")]);
    let (code, text) = refused(&package, &limits);
    assert_eq!(code, 4130);
    let length = package.len();
    assert!(
        text.starts_with(&format!("zip file size [{length}] is larger than 100")),
        "{text}"
    );
}

#[test]
fn a_stream_that_does_not_end_is_refused_while_it_is_read() {
    let fixture = Fixture::new();
    let endless = Cursor::new(gz(&plain_tar(&[]))).chain(io::repeat(7));
    let unpacked = unpack_tar(Format::TarGz, endless, &fixture.target(), &small());
    assert!(unpacked.is_err());
    let zeros = gz(&vec![0; 4 << 20]);
    let members = zeros.repeat(100);
    let unpacked = unpack_tar(Format::TarGz, &*members, &fixture.target(), &small());
    assert!(
        matches!(unpacked, Err(Error::Damaged { .. })),
        "{unpacked:?}"
    );
}

#[test]
fn a_ratio_beyond_the_limit_stops_after_ten_mebibytes() {
    let zeros = vec![0; 13 << 20];
    let entry = [Entry::file("zeros", &zeros)];
    let packages = [
        tar_of(&entry),
        zstd::encode_all(&*plain_tar(&entry), 3).unwrap(),
        zip_of(&[("zeros", &zeros)]),
    ];
    for package in packages {
        let fixture = Fixture::new();
        let limits = Limits {
            max_ratio: 50,
            ..Limits::default()
        };
        let error = fixture.unpack_with(&package, &limits).unwrap_err();
        assert_eq!(error.code().unwrap().number(), 4129);
        assert!(error.to_string().contains("max_ratio"), "{error}");
        let written = fs::metadata(fixture.target().join("zeros")).unwrap().len();
        assert!(written < 12 << 20, "{written}");
    }
}

#[test]
fn what_compresses_well_is_no_bomb_while_it_is_small() {
    let zeros = vec![0; 9 << 20];
    Fixture::new()
        .unpack(&zip_of(&[("zeros", &zeros)]))
        .unwrap();
}

#[test]
fn a_length_that_is_a_lie_is_found_out() {
    let zeros = vec![0; 50_000];
    let package = zip_of(&[("zeros", &zeros)]);
    for length in [0, 1, 49_999, 50_001, u32::MAX - 1] {
        let (code, text) = refused(&with_length(package.clone(), length), &small());
        assert_ne!(code, 0, "{text}");
    }
}

#[test]
fn counts_and_places_that_are_lies_are_found_out() {
    let package = zip_of(&[("a", b"1"), ("b", b"2")]);
    let end = find_all(&package, b"PK\x05\x06")[0];
    // The number of entries twice, the length of the directory, and its place.
    for offset in [8, 10, 12, 16] {
        for value in [[0, 0], [1, 0], [3, 0], [0xff, 0xff]] {
            let mut lie = package.clone();
            if lie[end + offset..end + offset + 2] == value {
                continue;
            }
            lie[end + offset..end + offset + 2].copy_from_slice(&value);
            let fixture = Fixture::new();
            // Some readers pass over some of these fields; what must not be is that other files
            // come out than those that the archive has.
            if fixture.unpack(&lie).is_ok() {
                assert_eq!(contents(&fixture.target()).len(), 2, "{offset} {value:?}");
            }
        }
    }
}

#[test]
fn lengths_of_64_bits_that_are_lies_are_found_out() {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().large_file(true);
    zip.start_file("large", options).unwrap();
    zip.write_all(&[1; 1000]).unwrap();
    let package = zip.finish().unwrap().into_inner();
    Fixture::new().unpack(&package).unwrap();
    let sizes = find_all(&package, &1000_u64.to_le_bytes());
    assert!(!sizes.is_empty());
    for lie in [0, 999, 1001, 1 << 40, u64::MAX] {
        let mut package = package.clone();
        for at in &sizes {
            package[*at..*at + 8].copy_from_slice(&lie.to_le_bytes());
        }
        let (code, text) = refused(&package, &Limits::default());
        assert_ne!(code, 0, "{text}");
    }
}

#[test]
fn a_window_beyond_the_memory_that_is_allowed_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder
        .write_all(&plain_tar(&[Entry::file("a", &[0; 4000])]))
        .unwrap();
    let package = encoder.finish().unwrap();
    let error = Fixture::new().unpack(&package).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
}
