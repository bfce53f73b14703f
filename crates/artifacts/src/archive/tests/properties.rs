//! What holds for every package.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// Names that are files, so that none is a directory of another: the last part tells.
fn tree() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
    let name = "([a-zä]{1,3}/){0,3}[A-Z]{1,3}\\.py";
    btree_map(name, vec(any::<u8>(), 0..400), 0..12)
}

fn packages(tree: &BTreeMap<String, Vec<u8>>) -> [Vec<u8>; 3] {
    let in_zip: Vec<_> = tree
        .iter()
        .map(|(name, content)| (&**name, &**content))
        .collect();
    let in_tar: Vec<_> = tree
        .iter()
        .map(|(name, content)| Entry::file(name, content))
        .collect();
    let tar = plain_tar(&in_tar);
    [
        zip_of(&in_zip),
        gz(&tar),
        zstd::encode_all(&*tar, 1).unwrap(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_packed_comes_out_again(tree in tree()) {
        for package in packages(&tree) {
            let fixture = Fixture::new();
            let unpacked = fixture.unpack(&package).unwrap();
            prop_assert_eq!(&contents(&fixture.target()), &tree);
            let bytes: usize = tree.values().map(Vec::len).sum();
            prop_assert_eq!(unpacked.bytes, bytes as u64);
        }
    }

    #[test]
    fn a_package_with_wrong_bytes_stays_in_its_folder(
        tree in tree(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        for mut package in packages(&tree) {
            for (place, byte) in &changes {
                let place = place.index(package.len());
                package[place] = *byte;
            }
            // `unpack` of the fixture looks at what is beside the folder.
            let _ = Fixture::new().unpack(&package);
        }
    }

    #[test]
    fn a_tar_with_wrong_bytes_inside_stays_in_its_folder(
        tree in tree(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let entries: Vec<_> = tree.iter().map(|(name, content)| Entry::file(name, content)).collect();
        let mut tar = plain_tar(&entries);
        for (place, byte) in &changes {
            let place = place.index(tar.len());
            tar[place] = *byte;
        }
        for header in (0..tar.len()).step_by(512) {
            let mut right = tar::Header::from_byte_slice(&tar[header..header + 512]).clone();
            right.set_cksum();
            tar[header..header + 512].copy_from_slice(right.as_bytes());
        }
        let _ = Fixture::new().unpack(&gz(&tar));
    }

    #[test]
    fn a_name_is_plain_or_refused(name in "\\PC{0,40}|([./\\\\a:]){0,12}") {
        if let Ok(Some(path)) = path::EntryPath::parse(name.as_bytes()) {
            let parts: Vec<_> = Path::new(path.as_str()).components().collect();
            prop_assert!(parts.iter().all(|part| matches!(part, std::path::Component::Normal(_))));
            prop_assert!(!path.as_str().contains('\\'));
        }
    }
}
