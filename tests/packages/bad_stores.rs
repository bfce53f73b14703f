//! Stores that do what no store should.

use std::sync::Arc;

use bugle_testkit::{Site, StartOptions};
use tokio::sync::Semaphore;

use super::*;
use crate::liar::{Deed, Liar};

/// A platform that may ask the store.
async fn platform(site: &Site, store: &Liar) -> Platform {
    let options = StartOptions::default()
        .config("addresses", "allowed", &store.url())
        .config("packages", "stall_seconds", "1");
    site.start_with(&options).await
}

async fn register(platform: &Platform, store: &Liar, name: &str, sha512: &str) -> Registered {
    let place = object("code", "hello.zip", &store.url(), sha512);
    platform.register(&function(name, &place)).await
}

/// What a call says where the package cannot be had.
async fn refusal(platform: &Platform, function: &Registered) -> String {
    let answer = platform.invoke(function, "{}").await;
    assert!(answer.status >= 400, "{}", answer.text());
    answer.text()
}

fn bytes(site: &Site, form: &str, name: &str) -> (Arc<Vec<u8>>, String) {
    let file = package(site, form, name);
    (Arc::new(std::fs::read(&file).unwrap()), sha512(&file))
}

/// A package that is long enough to break in the middle.
fn long(site: &Site, form: &str) -> (Arc<Vec<u8>>, String) {
    let folder = site.path().join("source-long");
    std::fs::create_dir_all(folder.join("lib")).unwrap();
    std::fs::write(folder.join("index.py"), SOURCE).unwrap();
    std::fs::write(folder.join("lib/part.py"), "NAME = 'long'\n").unwrap();
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    std::fs::write(
        folder.join("noise"),
        noise.take(1 << 20).collect::<Vec<u8>>(),
    )
    .unwrap();
    let file = archive(site, &folder, form, "long");
    (Arc::new(std::fs::read(&file).unwrap()), sha512(&file))
}

#[tokio::test]
async fn fifty_cold_starts_at_once_download_once() {
    let site = Site::new();
    let (object, sha512) = bytes(&site, "zip", "many");
    let gate = Arc::new(Semaphore::new(0));
    let open = Arc::clone(&gate);
    let store = Liar::start(move |_| (Deed::Wait(Arc::clone(&gate)), Arc::clone(&object))).await;
    let platform = platform(&site, &store).await;
    let mut functions = Vec::new();
    for number in 0..50 {
        functions
            .push(register(&platform, &store, &format!("0@test@many-{number}"), &sha512).await);
    }
    let calls = functions.iter().map(|function| call(&platform, function));
    let calls = futures_util::future::join_all(calls);
    let release = async {
        // One request is enough to begin; whoever else wants one has the time to ask for it.
        while store.requests() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        open.add_permits(1000);
    };
    let (answers, ()) = tokio::join!(calls, release);
    assert!(answers.iter().all(|answer| answer["part"] == "many"));
    assert_eq!(store.requests(), 1);
    let entries = std::fs::read_dir(site.data_dir().join("cache/code")).unwrap();
    assert_eq!(entries.count(), 2, "one entry with its marker");
    platform.finish().await;
}

#[tokio::test]
async fn a_download_that_breaks_or_stalls_goes_on_where_it_was() {
    for form in ["zip", "gztar"] {
        let site = Site::new();
        let (object, sha512) = long(&site, form);
        let store = Liar::start(move |number| {
            let deed = match number {
                0 => Deed::Break(300_000),
                1 => Deed::Stall(200_000),
                _ => Deed::Whole,
            };
            (deed, Arc::clone(&object))
        })
        .await;
        let platform = platform(&site, &store).await;
        let function = register(&platform, &store, "0@test@long", &sha512).await;
        assert_eq!(call(&platform, &function).await["part"], "long");
        assert_eq!(store.requests(), 3);
        platform.finish().await;
    }
}

#[tokio::test]
async fn other_bytes_than_those_registered_are_not_run() {
    for form in ["zip", "gztar"] {
        let site = Site::new();
        let (object, _) = bytes(&site, form, "other");
        let store = Liar::start(move |_| (Deed::Whole, Arc::clone(&object))).await;
        let platform = platform(&site, &store).await;
        let wrong = "0".repeat(128);
        let function = register(&platform, &store, "0@test@wrong", &wrong).await;
        let text = refusal(&platform, &function).await;
        assert!(text.contains("is not what was registered"), "{text}");
        assert!(text.contains("nothing of it was run"), "{text}");
        let entries = std::fs::read_dir(site.data_dir().join("cache/code")).unwrap();
        assert_eq!(entries.count(), 0, "nothing of it is kept");
        platform.kill().await;
    }
}

#[tokio::test]
async fn a_store_that_lies_about_the_length_is_not_believed() {
    for more in [1000, -100] {
        let site = Site::new();
        let (object, sha512) = bytes(&site, "zip", "lie");
        let store = Liar::start(move |_| (Deed::Lie(more), Arc::clone(&object))).await;
        let platform = platform(&site, &store).await;
        let function = register(&platform, &store, "0@test@lie", &sha512).await;
        refusal(&platform, &function).await;
        let entries = std::fs::read_dir(site.data_dir().join("cache/code")).unwrap();
        assert_eq!(entries.count(), 0);
        platform.kill().await;
    }
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_fetched_is_refused() {
    let site = Site::new();
    let (one, _) = long(&site, "zip");
    let (other, _) = bytes(&site, "zip", "other");
    let padded = Arc::new([other.as_slice(), &vec![0; 2 << 20]].concat());
    let store = Liar::start(move |number| match number {
        0 => (Deed::Break(300_000), Arc::clone(&one)),
        _ => (Deed::Whole, Arc::clone(&padded)),
    })
    .await;
    let platform = platform(&site, &store).await;
    let function = register(&platform, &store, "0@test@change", "").await;
    let text = refusal(&platform, &function).await;
    assert!(text.contains("cannot be fetched"), "{text}");
    platform.kill().await;
}

#[tokio::test]
async fn a_store_that_says_nothing_is_given_up() {
    let site = Site::new();
    let (object, sha512) = long(&site, "zip");
    let store = Liar::start(move |_| (Deed::Stall(100), Arc::clone(&object))).await;
    let platform = platform(&site, &store).await;
    let function = register(&platform, &store, "0@test@stall", &sha512).await;
    let text = refusal(&platform, &function).await;
    assert!(text.contains("has sent nothing for 1 seconds"), "{text}");
    platform.kill().await;
}

#[tokio::test]
async fn no_redirect_is_followed_and_no_words_of_the_store_are_passed_on() {
    let site = Site::new();
    for target in [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:1/",
        "https://example.org/",
    ] {
        let head = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n"
        );
        let store = Liar::start(move |_| (Deed::Head(head.clone()), Arc::default())).await;
        let platform = platform(&site, &store).await;
        let function = register(&platform, &store, "0@test@redirect", "").await;
        let text = refusal(&platform, &function).await;
        assert!(text.contains("a redirect is not followed"), "{text}");
        assert!(
            !text.contains("169.254") && !text.contains("example.org"),
            "{text}"
        );
        platform
            .control
            .delete("/serverless/v1/functions/0@test@redirect")
            .await;
        platform.kill().await;
    }
    let head = "HTTP/1.1 403 Forbidden\r\ncontent-length: 7\r\n\r\nSECRETS".to_owned();
    let store = Liar::start(move |_| (Deed::Head(head.clone()), Arc::default())).await;
    let platform = platform(&site, &store).await;
    let function = register(&platform, &store, "0@test@forbidden", "").await;
    let text = refusal(&platform, &function).await;
    assert!(
        text.contains("does not allow it") && !text.contains("SECRETS"),
        "{text}"
    );
    platform.kill().await;
}

#[tokio::test]
async fn addresses_inside_are_not_asked() {
    let site = Site::new();
    let store = Liar::start(|_| (Deed::Whole, Arc::default())).await;
    let platform = site.start().await;
    let port = store.address.port();
    for (number, url) in [
        store.url(),
        format!("https://localhost:{port}"),
        format!("http://2130706433:{port}"),
        format!("http://[::ffff:127.0.0.1]:{port}"),
        "http://169.254.169.254".to_owned(),
        format!("https://user@127.0.0.1:{port}"),
        "file:///etc/passwd".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let place = object("code", "hello.zip", &url, "");
        let function = function(&format!("0@test@inside-{number}"), &place);
        let function = platform.register(&function).await;
        let text = refusal(&platform, &function).await;
        assert!(
            text.contains("addresses.allowed") || text.contains("is not an address"),
            "{url}: {text}"
        );
    }
    assert_eq!(store.requests(), 0);
    platform.kill().await;
}
