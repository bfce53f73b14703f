//! Where code comes from, without a store.

use std::fs;
use std::io::Cursor;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    packages: Packages,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("hello")).unwrap();
        fs::write(root.join("hello/main.py"), "1").unwrap();
        let foundation = Foundation {
            roots: CodeRoots::new(&[root]).unwrap(),
            cache: dir.path().join("cache"),
            uploads: dir.path().join("uploads"),
            addresses: address::Config::default(),
            environment: Vec::new(),
        };
        let packages = Packages::open(config, foundation).unwrap();
        Self { dir, packages }
    }

    async fn ready(
        &self,
        location: &CodeLocation,
        generation: &str,
    ) -> Result<PathBuf, Arc<Error>> {
        let generation = Generation(generation.into());
        let code = self
            .packages
            .ready(&tenant("one"), location, &generation)
            .await?;
        Ok(code.directory()?)
    }

    async fn upload(&self, tenant: &TenantId, bytes: &[u8]) -> Result<Uploaded, Error> {
        let chunks: Vec<_> = bytes
            .chunks(100)
            .map(|chunk| Ok::<_, Broken>(Bytes::copy_from_slice(chunk)))
            .collect();
        self.packages
            .uploads()
            .put(tenant, None, stream::iter(chunks))
            .await
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        crate::make_writable(&self.dir.path().join("cache"));
    }
}

use crate::Uploaded;
use crate::receive::Broken;

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn package() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("main.py", options).unwrap();
    std::io::Write::write_all(&mut zip, b"x = 1\n").unwrap();
    zip.finish().unwrap().into_inner()
}

fn uploaded(sha512: &Sha512) -> CodeLocation {
    CodeLocation::S3 {
        bucket: crate::UPLOADED_BUCKET.to_owned(),
        object: sha512.to_string(),
        endpoint: UPLOADED.to_owned(),
        sha512: sha512.to_string(),
    }
}

fn s3(endpoint: &str, bucket: &str) -> CodeLocation {
    CodeLocation::S3 {
        bucket: bucket.to_owned(),
        object: "package.zip".to_owned(),
        endpoint: endpoint.to_owned(),
        sha512: String::new(),
    }
}

#[tokio::test]
async fn a_copy_does_not_follow_its_directory_until_the_next_generation() {
    let fixture = Fixture::new();
    let source = fixture.dir.path().join("root/hello");
    let location = CodeLocation::Copy(source.to_str().unwrap().to_owned());
    let first = fixture.ready(&location, "1").await.unwrap();
    fs::write(source.join("main.py"), "2").unwrap();
    assert_eq!(fixture.ready(&location, "1").await.unwrap(), first);
    assert_eq!(fs::read_to_string(first.join("main.py")).unwrap(), "1");
    let second = fixture.ready(&location, "2").await.unwrap();
    assert_eq!(fs::read_to_string(second.join("main.py")).unwrap(), "2");
}

#[tokio::test]
async fn compiled_code_goes_beside_its_source_and_nowhere_else() {
    let fixture = Fixture::new();
    let source = fixture.dir.path().join("root/hello");
    fs::create_dir(source.join("lib")).unwrap();
    fs::write(source.join("lib/part.py"), "x = 1\n").unwrap();
    std::os::unix::fs::symlink("lib", source.join("link")).unwrap();
    let location = CodeLocation::Copy(source.to_str().unwrap().to_owned());
    let packages = &fixture.packages;
    let (one, generation) = (tenant("one"), Generation("1".into()));
    let code = packages.ready(&one, &location, &generation).await.unwrap();
    let compilation = code.compile_for("python3.11").unwrap();
    assert!(code.compile_for("python3.11").is_none());
    let put = |name: &str| compilation.put(name, "cpython-311", b"code");
    put("main.py").unwrap();
    put("lib/part.py").unwrap();
    put("lib/part.py").unwrap();
    for name in [
        "missing.py",
        "../main.py",
        "lib/../main.py",
        "/etc/x.py",
        "link/part.py",
        "lib",
        ".py",
        "",
        "lib//part.py",
        "lib/part.py/",
    ] {
        put(name).unwrap_err();
    }
    compilation.put("main.py", "../x", b"code").unwrap_err();
    let folder = code.directory().unwrap();
    let compiled = fs::read(folder.join("lib/__pycache__/part.cpython-311.pyc")).unwrap();
    assert_eq!(compiled, b"code");
    compilation.finish();
    for name in [
        "",
        "lib",
        "lib/__pycache__",
        "__pycache__/main.cpython-311.pyc",
    ] {
        let mode = fs::metadata(folder.join(name)).unwrap().permissions();
        assert!(mode.readonly(), "{name}");
    }
}

#[tokio::test]
async fn a_function_without_code_is_told_what_to_set() {
    let error = Fixture::new()
        .ready(&CodeLocation::None, "1")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("codePath"), "{error}");
}

#[tokio::test]
async fn what_was_uploaded_runs_and_can_be_had_again() {
    let fixture = Fixture::new();
    let sent = fixture.upload(&tenant("one"), &package()).await.unwrap();
    assert_eq!(sent.bytes, package().len() as u64);
    let folder = fixture.ready(&uploaded(&sent.sha512), "1").await.unwrap();
    assert_eq!(
        fs::read_to_string(folder.join("main.py")).unwrap(),
        "x = 1\n"
    );
    let uploads = fixture.packages.uploads();
    let (bytes, chunks) = uploads.get(&tenant("one"), &sent.sha512).await.unwrap();
    let chunks: Vec<_> = chunks.map(Result::unwrap).collect().await;
    assert_eq!(chunks.concat(), package());
    assert_eq!(bytes, package().len() as u64);
    assert_eq!(uploads.list(&tenant("one")).await.unwrap(), [sent]);
}

#[tokio::test]
async fn a_tenant_never_gets_the_package_of_another() {
    let fixture = Fixture::new();
    let sent = fixture.upload(&tenant("two"), &package()).await.unwrap();
    // It is unpacked already, for its owner.
    fixture
        .packages
        .check_upload(&tenant("two"), &sent.sha512)
        .await
        .unwrap();
    let error = fixture
        .ready(&uploaded(&sent.sha512), "1")
        .await
        .unwrap_err();
    assert!(matches!(*error, Error::NotUploaded { .. }), "{error}");
    let uploads = fixture.packages.uploads();
    assert!(uploads.get(&tenant("one"), &sent.sha512).await.is_err());
    assert!(uploads.delete(&tenant("one"), &sent.sha512).await.is_err());
    assert!(uploads.list(&tenant("one")).await.unwrap().is_empty());
    uploads.find(&tenant("two"), &sent.sha512).await.unwrap();
}

#[tokio::test]
async fn an_upload_that_is_not_what_was_said_is_not_kept() {
    let fixture = Fixture::new();
    let other: Sha512 = "0".repeat(128).parse().unwrap();
    let body = stream::iter([Ok::<_, Broken>(Bytes::from(package()))]);
    let uploads = fixture.packages.uploads();
    let error = uploads
        .put(&tenant("one"), Some(&other), body)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    let broken = stream::iter([Ok(Bytes::from_static(b"PK")), Err(Broken)]);
    uploads.put(&tenant("one"), None, broken).await.unwrap_err();
    assert!(uploads.list(&tenant("one")).await.unwrap().is_empty());
    assert_eq!(
        fs::read_dir(fixture.dir.path().join("uploads"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn uploads_are_bounded_one_by_one_and_together() {
    let length = package().len() as u64;
    let one = Fixture::with(Config {
        max_package_bytes: length - 1,
        ..Config::default()
    });
    let error = one.upload(&tenant("one"), &package()).await.unwrap_err();
    assert_eq!(error.code().unwrap().number(), 4130);
    let all = Fixture::with(Config {
        store_bytes: length,
        ..Config::default()
    });
    let first = all.upload(&tenant("one"), &package()).await.unwrap();
    all.upload(&tenant("one"), &package()).await.unwrap();
    let error = all.upload(&tenant("two"), &package()).await.unwrap_err();
    assert!(
        error.to_string().contains("packages.store_bytes"),
        "{error}"
    );
    all.packages
        .uploads()
        .delete(&tenant("one"), &first.sha512)
        .await
        .unwrap();
    all.upload(&tenant("two"), &package()).await.unwrap();
}

#[tokio::test]
async fn a_package_that_no_version_uses_goes_after_a_while() {
    let fixture = Fixture::new();
    let uploads = fixture.packages.uploads();
    let one = tenant("one");
    let sent = fixture.upload(&one, &package()).await.unwrap().sha512;
    let used = std::collections::BTreeSet::from([(one.clone(), sent.clone())]);
    let none = std::collections::BTreeSet::new();
    let start = Instant::now();
    let day = Duration::from_hours(24);
    assert_eq!(uploads.sweep(&used, start + 10 * day).await.unwrap(), 0);
    assert_eq!(uploads.sweep(&none, start + 11 * day).await.unwrap(), 0);
    // It was used once more in between, so the time begins anew.
    assert_eq!(uploads.sweep(&used, start + 11 * day).await.unwrap(), 0);
    assert_eq!(uploads.sweep(&none, start + 12 * day).await.unwrap(), 0);
    assert_eq!(uploads.sweep(&none, start + 13 * day).await.unwrap(), 1);
    assert!(uploads.find(&one, &sent).await.is_err());
}

#[tokio::test]
async fn of_packages_that_can_be_had_again_those_used_last_stay() {
    let fixture = Fixture::new();
    let uploads = fixture.packages.uploads();
    let (day, now) = (Duration::from_hours(24), SystemTime::now());
    let tenant = tenant("t");
    let mut kept = Vec::new();
    for (text, age) in [("first", 3), ("second", 2), ("third", 1)] {
        let package = [package(), text.as_bytes().to_vec()].concat();
        let stored = fixture.upload(&tenant, &package).await.unwrap();
        uploads
            .touch(&tenant, &stored.sha512, now - day * age)
            .await;
        kept.push(stored);
    }
    let all: u64 = kept.iter().map(|stored| stored.bytes).sum();
    assert_eq!(uploads.trim(all, now).await.unwrap(), 0);
    // The first is used again.
    uploads.touch(&tenant, &kept[0].sha512, now).await;
    assert_eq!(uploads.trim(all - 1, now).await.unwrap(), 1);
    assert!(uploads.find(&tenant, &kept[1].sha512).await.is_err());
    assert_eq!(uploads.trim(0, now).await.unwrap(), 1);
    let first = uploads.find(&tenant, &kept[0].sha512).await;
    assert!(first.is_ok(), "it was used within the last minute");
}

#[tokio::test]
async fn an_address_inside_is_refused_and_says_who_can_allow_it() {
    let fixture = Fixture::new();
    for endpoint in [
        "https://127.0.0.1:9000",
        "http://169.254.169.254",
        "https://[::1]",
        "localhost",
    ] {
        let error = fixture
            .ready(&s3(endpoint, "bucket"), "1")
            .await
            .unwrap_err();
        let text = bugle_types::report(&*error);
        assert!(text.contains("addresses.allowed"), "{endpoint}: {text}");
    }
}

#[tokio::test]
async fn names_that_are_none_of_a_bucket_are_refused() {
    let fixture = Fixture::new();
    for bucket in [
        "",
        "ab",
        "../x",
        "a/b",
        "UPPER",
        "a..b",
        "-ab",
        "evil.example#",
        "a@b",
        "a?b",
    ] {
        let error = fixture.ready(&s3("", bucket), "1").await.unwrap_err();
        assert!(matches!(*error, Error::Name { .. }), "{bucket}: {error}");
    }
    let mut location = s3("", "bucket");
    if let CodeLocation::S3 { sha512, .. } = &mut location {
        *sha512 = "abc".to_owned();
    }
    let error = fixture.ready(&location, "1").await.unwrap_err();
    assert!(matches!(*error, Error::Sha512 { .. }), "{error}");
}

#[tokio::test]
async fn the_bucket_of_the_uploads_is_reached_by_no_other_name() {
    let fixture = Fixture::with(Config {
        s3_endpoint: "http://127.0.0.1:1".to_owned(),
        upload_bucket: "mine".to_owned(),
        ..Config::default()
    });
    for endpoint in [
        "",
        "http://127.0.0.1:1",
        "http://127.0.0.1:1/",
        "http://mine.127.0.0.1:1",
    ] {
        let error = fixture.ready(&s3(endpoint, "mine"), "1").await.unwrap_err();
        assert!(
            matches!(*error, Error::OwnBucket { .. }),
            "{endpoint}: {error}"
        );
    }
}
