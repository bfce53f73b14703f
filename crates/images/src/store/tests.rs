//! The store with real files: archives in, layers out.

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::path::Path;

use serde_json::json;

use super::*;
use crate::testing::{configuration, tar};

fn blob_path(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

/// What `skopeo copy … oci-archive:` writes, roughly.
fn oci_archive(layers: &[Vec<u8>], name: Option<&str>) -> (File, Digest) {
    let config = configuration(layers);
    let descriptor = |bytes: &[u8]| json!({"digest": Digest::of(bytes), "size": bytes.len()});
    let descriptors: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
    let manifest = json!({"config": descriptor(&config), "layers": descriptors}).to_string();
    let mut entry = descriptor(manifest.as_bytes());
    if let Some(name) = name {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    let index = json!({"manifests": [entry]}).to_string();
    let mut files: Vec<(String, &[u8])> = vec![
        ("index.json".to_owned(), index.as_bytes()),
        (blob_path(&config), &config),
        (blob_path(manifest.as_bytes()), manifest.as_bytes()),
    ];
    files.extend(layers.iter().map(|layer| (blob_path(layer), &**layer)));
    (as_file(&files), Digest::of(manifest.as_bytes()))
}

/// What `docker save` writes, roughly.
fn docker_archive(layers: &[Vec<u8>], name: &str) -> File {
    let config = configuration(layers);
    let paths: Vec<_> = (0..layers.len())
        .map(|number| format!("{number}/layer.tar"))
        .collect();
    let manifest = json!([{"Config": "c.json", "RepoTags": [name], "Layers": paths}]).to_string();
    let mut files: Vec<(String, &[u8])> = vec![
        ("manifest.json".to_owned(), manifest.as_bytes()),
        ("c.json".to_owned(), &config),
    ];
    files.extend(paths.into_iter().zip(layers.iter().map(|layer| &**layer)));
    as_file(&files)
}

fn as_file(files: &[(String, &[u8])]) -> File {
    let files: Vec<_> = files
        .iter()
        .map(|(path, data)| (path.as_str(), *data))
        .collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&tar(&files)).unwrap();
    file.rewind().unwrap();
    file
}

fn open(folder: &Path) -> ImageStore {
    open_with(folder, Config::default())
}

fn open_with(folder: &Path, config: Config) -> ImageStore {
    let network = crate::testing::network(folder, &[]);
    ImageStore::open(folder, config, network).unwrap()
}

fn read(image: &ReadyImage, layer: usize, path: &str) -> String {
    fs::read_to_string(image.layers[layer].join(path)).unwrap()
}

#[tokio::test]
async fn an_image_of_a_file_is_ready_by_its_name_and_by_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let layers = [tar(&[("a", b"low")]), tar(&[("b", b"high")])];
    let (file, digest) = oci_archive(&layers, Some("example.com/app:1"));
    let loaded = store.load(file, None).await.unwrap();
    assert_eq!(loaded[0].references, ["example.com/app:1"]);
    assert!(store.pulls().is_empty());

    let image = store.ready("example.com/app:1", None).await.unwrap();
    assert_eq!(image.digest, digest);
    assert_eq!(
        (read(&image, 0, "a"), read(&image, 1, "b")),
        ("low".into(), "high".into())
    );
    assert_eq!(image.config.cmd, ["/app"]);
    let pinned = store
        .ready("example.com/app:9", Some(&digest.to_string()))
        .await
        .unwrap();
    assert_eq!(pinned.digest, digest);
    assert!(store.list()[0].in_use);
    drop((image, pinned));
    assert!(!store.list()[0].in_use);
}

#[tokio::test]
async fn docker_archives_are_read_also_when_they_are_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut plain = docker_archive(&[tar(&[("a", b"x")])], "app:2");
    let mut encoder =
        flate2::write::GzEncoder::new(tempfile::tempfile().unwrap(), flate2::Compression::fast());
    std::io::copy(&mut plain, &mut encoder).unwrap();
    let mut packed = encoder.finish().unwrap();
    packed.rewind().unwrap();
    store.load(packed, None).await.unwrap();
    let image = store.ready("app:2", None).await.unwrap();
    assert_eq!(read(&image, 0, "a"), "x");
}

#[tokio::test]
async fn the_store_is_the_same_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (file, digest) = oci_archive(&[tar(&[("a", b"x")])], Some("example.com/app:1"));
    open(folder.path()).load(file, None).await.unwrap();
    fs::create_dir_all(folder.path().join("tmp/half/fs")).unwrap();
    fs::create_dir_all(folder.path().join("layers/nonsense")).unwrap();
    let store = open(folder.path());
    let image = store.ready("example.com/app:1", None).await.unwrap();
    assert_eq!((image.digest, read(&image, 0, "a")), (digest, "x".into()));
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(
        fs::read_dir(folder.path().join("layers")).unwrap().count(),
        1
    );
}

#[tokio::test]
async fn a_layer_that_a_crash_of_the_machine_may_have_torn_is_thrown_away() {
    let folder = tempfile::tempdir().unwrap();
    let this_boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let boots = [
        None,
        Some(this_boot.trim().to_owned()),
        Some("another".to_owned()),
    ];
    let path = |number: usize| {
        let name = Digest::of(&[u8::try_from(number).unwrap()]).hex();
        folder.path().join("layers").join(name)
    };
    for (number, unsynced_since_boot) in boots.into_iter().enumerate() {
        fs::create_dir_all(path(number).join("fs")).unwrap();
        let record = LayerRecord {
            bytes: 1,
            inflated: 1,
            opaque: false,
            unsynced_since_boot,
        };
        let text = serde_json::to_vec(&record).unwrap();
        fs::write(path(number).join("layer.json"), text).unwrap();
    }
    open(folder.path());
    let kept: Vec<_> = (0..3).map(|number| path(number).is_dir()).collect();
    assert_eq!(kept, [true, true, false]);
}

#[tokio::test]
async fn images_share_layers_and_the_last_one_takes_them_away() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (base, top) = (tar(&[("base", b"x")]), tar(&[("top", b"x")]));
    let (one, _) = oci_archive(std::slice::from_ref(&base), Some("example.com/one:1"));
    let (two, _) = oci_archive(&[base, top], Some("example.com/two:1"));
    store.load(one, None).await.unwrap();
    store.load(two, None).await.unwrap();
    let layers = || fs::read_dir(folder.path().join("layers")).unwrap().count();
    assert_eq!(layers(), 2);
    let image = store.ready("example.com/two:1", None).await.unwrap();
    let error = store
        .remove("example.com/two:1", &Needed::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Conflict);
    store
        .remove("example.com/one:1", &Needed::default())
        .await
        .unwrap();
    assert_eq!(layers(), 2);
    assert_eq!(read(&image, 0, "base"), "x");
    drop(image);
    let pruned = store
        .prune(Prune::Unused, &Needed::default())
        .await
        .unwrap();
    assert!(pruned.images.len() == 1 && pruned.bytes > 0);
    assert_eq!(layers(), 0);
    assert!(store.list().is_empty());
}

#[tokio::test]
async fn an_archive_that_is_not_what_it_says_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let good = tar(&[("a", b"x")]);
    let other = tar(&[("a", b"y")]);
    let lie = {
        let config = configuration(&[good]);
        let manifest = json!([{"Config": "c", "RepoTags": ["app:1"], "Layers": ["l"]}]).to_string();
        as_file(&[
            ("manifest.json".to_owned(), manifest.as_bytes()),
            ("c".to_owned(), &config),
            ("l".to_owned(), &other),
        ])
    };
    let error = store.load(lie, None).await.unwrap_err();
    assert!(error.to_string().contains("has the digest"), "{error}");
    for file in [
        as_file(&[("x".to_owned(), b"no image")]),
        as_file(&[("manifest.json".to_owned(), b"[]")]),
        as_file(&[(
            "manifest.json".to_owned(),
            br#"[{"Config": "../c", "Layers": []}]"#,
        )]),
        as_file(&[("index.json".to_owned(), br#"{"manifests": []}"#)]),
        oci_archive(&[tar(&[])], None).0,
        oci_archive(&[], Some("app:1")).0,
    ] {
        let error = store.load(file, None).await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unusable, "{error}");
    }
    assert!(store.list().is_empty());
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_image_above_the_limit_is_refused_before_and_while_it_is_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        max_image_mib: 1,
        ..Config::default()
    };
    let store = open_with(folder.path(), config);
    let half = tar(&[("a", &vec![1; 700 << 10])]);
    let rest = tar(&[("b", &vec![2; 700 << 10])]);
    let (file, _) = oci_archive(&[half, rest], Some("app:1"));
    let error = store.load(file, None).await.unwrap_err();
    assert!(
        error.to_string().contains("layers of more than 1 MiB"),
        "{error}"
    );
}
