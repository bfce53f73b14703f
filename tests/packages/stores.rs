//! A store as it should be.

use bugle_testkit::{Site, StartOptions, eventually};
use serde_json::json;

use super::*;
use crate::moto::Moto;

#[tokio::test]
async fn a_package_in_a_bucket_runs_after_one_registration() {
    let site = Site::new();
    let mut store = Moto::start();
    let zip = package(&site, "zip", "zipped");
    let tar = package(&site, "gztar", "tarred");
    store.put("functions/hello.zip", &zip);
    store.put("functions/hello.tar.gz", &tar);
    let platform = site.start_with(&store.options()).await;
    for (name, file, found) in [("zip", &zip, "zipped"), ("tar.gz", &tar, "tarred")] {
        let place = object(
            "code",
            &format!("functions/hello.{name}"),
            "",
            &sha512(file),
        );
        let function = function(&format!("0@test@{}", name.replace('.', "")), &place);
        let function = platform.register(&function).await;
        let answer = call(&platform, &function).await;
        assert_eq!(answer["part"], found);
        assert_eq!(answer["written"], false, "a package is read-only");
    }
    platform.finish().await;
}

#[tokio::test]
async fn the_key_may_come_from_the_usual_variables() {
    let site = Site::new();
    let mut store = Moto::start();
    store.put("hello.zip", &package(&site, "zip", "variables"));
    let mut options = StartOptions::default();
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", &store.key),
        ("AWS_SECRET_ACCESS_KEY", &store.secret),
        (
            "BUGLE_PACKAGES__S3_ENDPOINT",
            &format!("http://127.0.0.1:{}", store.port),
        ),
    ] {
        options.environment.push((name.to_owned(), value.clone()));
    }
    let platform = site.start_with(&options).await;
    let function = platform
        .register(&function(
            "0@test@hello",
            &object("code", "hello.zip", "", ""),
        ))
        .await;
    assert_eq!(call(&platform, &function).await["part"], "variables");
    platform.finish().await;
}

#[tokio::test]
async fn wrong_keys_and_missing_objects_are_told_apart() {
    let site = Site::new();
    let mut store = Moto::start();
    store.put("hello.zip", &package(&site, "zip", "hello"));
    let wrong = store
        .options()
        .config("packages", "s3_secret_access_key", "wrong");
    let platform = site.start_with(&wrong).await;
    let place = object("code", "hello.zip", "", "");
    let refused = platform.register(&function("0@test@refused", &place)).await;
    let answer = platform.invoke(&refused, "{}").await;
    assert!(answer.status >= 400);
    assert!(
        answer.text().contains("does not allow it"),
        "{}",
        answer.text()
    );
    assert!(
        !answer.text().contains(&store.key) && !answer.text().contains("SignatureDoesNotMatch")
    );
    platform.kill().await;

    let platform = site.start_with(&store.options()).await;
    let place = object("code", "nothing.zip", "", "");
    let missing = platform.register(&function("0@test@missing", &place)).await;
    let answer = platform.invoke(&missing, "{}").await;
    assert!(
        answer.text().contains("there is no such object"),
        "{}",
        answer.text()
    );
    platform.kill().await;
}

#[tokio::test]
async fn a_package_is_compiled_for_its_interpreter_and_survives_a_restart() {
    let site = Site::new();
    let mut store = Moto::start();
    let zip = package(&site, "zip", "compiled");
    store.put("hello.zip", &zip);
    let platform = site.start_with(&store.options()).await;
    let place = object("code", "hello.zip", "", &sha512(&zip));
    let function = platform.register(&function("0@test@hello", &place)).await;
    let _ = call(&platform, &function).await;
    let cache = site.data_dir().join("cache/code");
    let compiled = || {
        let cache = cache.clone();
        async move {
            let folders = std::fs::read_dir(&cache)
                .unwrap()
                .flatten()
                .map(|entry| entry.path());
            let found = folders.filter(|folder| folder.join("lib/__pycache__").is_dir());
            let names: Vec<_> = found
                .flat_map(|folder| {
                    std::fs::read_dir(folder.join("lib/__pycache__"))
                        .unwrap()
                        .flatten()
                })
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect();
            if names.iter().any(|name| name.starts_with("part.cpython-")) {
                Ok(())
            } else {
                Err(format!("{names:?}"))
            }
        }
    };
    eventually("the package is compiled", BOUND, compiled).await;
    platform.finish().await;
    // The store is gone, and nobody misses it.
    drop(store);
    let platform = site.start().await;
    let answer = call(&platform, &function).await;
    assert_eq!(answer["part"], "compiled");
    platform.finish().await;
}

#[tokio::test]
async fn a_large_package_goes_in_parts_over_tls_and_comes_back() {
    let site = Site::new();
    let mut store = Moto::encrypted(site.path());
    let options = store
        .options()
        .config("packages", "upload_bucket", "uploads-of-bugle");
    let platform = site.start_with(&options).await;
    let folder = site.path().join("source-large");
    std::fs::create_dir_all(&folder).unwrap();
    let mut noise = vec![0; 20 << 20];
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut random, &mut noise).unwrap();
    std::fs::write(folder.join("noise"), noise).unwrap();
    let zip = package(&site, "zip", "large");
    let package = std::fs::read(&zip).unwrap();
    let uploaded = uploads::upload(&platform, "default", &package).await;
    let uploaded = uploaded.expect(201).json();
    // 20 MiB in parts of 8.
    assert_eq!(store.parts(), ["3"]);
    let function = platform
        .register(&function("0@test@large", &uploaded["s3CodePath"]))
        .await;
    assert_eq!(call(&platform, &function).await["part"], "large");
    platform.finish().await;
    // Nobody whom the operator has not named is taken for the store.
    let stranger = StartOptions::default()
        .config(
            "packages",
            "s3_endpoint",
            &format!("https://127.0.0.1:{}", store.port),
        )
        .config("packages", "upload_bucket", "uploads-of-bugle");
    let mut platform = site.start_with(&stranger).await;
    platform.tolerate("a package cannot be stored");
    let refused = uploads::upload(&platform, "default", b"PK").await;
    assert!(refused.status >= 400, "{refused:?}");
    platform.kill().await;
}

#[tokio::test]
async fn uploads_go_to_the_bucket_that_the_operator_configured() {
    let site = Site::new();
    let mut store = Moto::start();
    let options = store
        .options()
        .config("packages", "upload_bucket", "uploads-of-bugle");
    let platform = site.start_with(&options).await;
    let zip = package(&site, "zip", "bucket");
    let digest = sha512(&zip);
    let uploaded = uploads::upload(&platform, "default", &std::fs::read(&zip).unwrap())
        .await
        .expect(201)
        .json();
    assert_eq!(uploaded["sha512"], digest.as_str());
    assert_eq!(
        store.uploaded(),
        [format!("bugle-packages/default/{digest}")]
    );
    let function = platform
        .register(&function("0@test@hello", &uploaded["s3CodePath"]))
        .await;
    assert_eq!(call(&platform, &function).await["part"], "bucket");
    let read = platform
        .control
        .get(&format!("/bugle/v1/packages/{digest}"))
        .await
        .expect(200);
    assert_eq!(read.body, std::fs::read(&zip).unwrap());
    // By its name in the bucket nobody gets at it, not even its owner.
    let place = object(
        "uploads-of-bugle",
        &format!("bugle-packages/default/{digest}"),
        "",
        "",
    );
    let around = platform
        .register(&super::function("0@test@around", &place))
        .await;
    let answer = platform.invoke(&around, "{}").await;
    assert!(
        answer.text().contains("reached by their sha512 alone"),
        "{}",
        answer.text()
    );
    let listed = platform
        .control
        .get("/bugle/v1/packages")
        .await
        .expect(200)
        .json();
    assert_eq!(listed["packages"], json!([uploaded]));
    platform.kill().await;
}
