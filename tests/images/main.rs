//! Container images on their way here: from a real registry, with a login and without, and from
//! files; by the command line and by the interface.
#![cfg(test)]

mod functions;
mod registry;
mod slow;
mod writer;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use bugle_testkit::{Platform, Site, StartOptions, binary};
use serde_json::{Value, json};
use tar::EntryType;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use registry::{LOGIN, Registry, index};
use writer::{Image, Layer, Packed};

/// How long something may take that has to happen.
const BOUND: std::time::Duration = std::time::Duration::from_secs(30);

/// What a command said.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

/// Runs `bugle` beside a platform.
async fn bugle(platform: &Platform, arguments: &[&str], input: &[u8]) -> Said {
    let mut child = Command::new(binary())
        .args(arguments)
        .env("BUGLE_SERVER", platform.control.url(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input closes it.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Said {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

async fn start(site: &Site, registry: &Registry) -> Platform {
    let options = StartOptions::default().config("addresses", "allowed", &registry.rule());
    site.start_with(&options).await
}

/// The images that the platform has, by name.
async fn images(platform: &Platform) -> Vec<Value> {
    let list = platform
        .control
        .get("/bugle/v1/images")
        .await
        .expect(200)
        .json();
    assert_eq!(list["pulls"], json!([]));
    list["images"].as_array().unwrap().clone()
}

/// The directories of all layers.
fn layers(site: &Site) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(site.data_dir().join("images/layers")).unwrap();
    entries
        .map(|entry| entry.unwrap().path().join("fs"))
        .collect()
}

fn has(site: &Site, path: &str, text: &str) -> bool {
    let read = |layer: &Path| std::fs::read_to_string(layer.join(path)).ok();
    layers(site)
        .iter()
        .any(|layer| read(layer).as_deref() == Some(text))
}

#[tokio::test]
async fn an_image_is_pulled_shown_and_removed() {
    let registry = Registry::open().await;
    let site = Site::new();
    let platform = start(&site, &registry).await;
    let layers_of = || {
        vec![
            Layer::new().file("base", b"below").link("sh", "/bin/sh"),
            Layer::new().file("app", b"above").file(".wh.base", b""),
        ]
    };
    let image = Image::new(layers_of(), Packed::Gzip);
    registry.push("team/app:1", &image).await;
    // The same layers, packed in another way, take no further room.
    registry
        .push("team/app:2", &Image::new(layers_of(), Packed::Zstd))
        .await;
    let reference = registry.reference("team/app:1");

    let said = bugle(&platform, &["image", "pull", &reference], b"")
        .await
        .expect(0);
    assert!(
        said.out
            .starts_with(&format!("{reference} {}", image.digest())),
        "{}",
        said.out
    );
    assert!(has(&site, "base", "below") && has(&site, "app", "above"));
    let second = registry.reference("team/app:2");
    bugle(&platform, &["image", "pull", &second], b"")
        .await
        .expect(0);
    assert_eq!(layers(&site).len(), 2);
    let said = bugle(&platform, &["image", "ls"], b"").await.expect(0);
    assert!(
        said.out.contains(&reference) && said.out.contains(&second),
        "{}",
        said.out
    );

    bugle(&platform, &["image", "rm", &reference], b"")
        .await
        .expect(0);
    assert_eq!(layers(&site).len(), 2);
    bugle(&platform, &["image", "prune"], b"").await.expect(0);
    assert_eq!(images(&platform).await.len(), 1);
    let said = bugle(&platform, &["image", "prune", "--all"], b"")
        .await
        .expect(0);
    assert!(said.out.contains("freed "), "{}", said.out);
    assert!(layers(&site).is_empty() && images(&platform).await.is_empty());
    let said = bugle(&platform, &["image", "rm", &reference], b"")
        .await
        .expect(5);
    assert!(said.err.contains("there is no image"), "{}", said.err);
    platform.finish().await;
}

#[tokio::test]
async fn a_private_registry_wants_a_login_which_is_asked_kept_and_forgotten() {
    let registry = Registry::closed().await;
    let site = Site::new();
    let platform = start(&site, &registry).await;
    registry
        .push(
            "team/app:1",
            &Image::new(vec![Layer::new().file("a", b"x")], Packed::Gzip),
        )
        .await;
    let reference = registry.reference("team/app:1");
    let name = registry.name();
    let said = bugle(&platform, &["image", "pull", &reference], b"")
        .await
        .expect(4);
    assert!(
        said.err.contains(&format!("`bugle login {name}`")),
        "{}",
        said.err
    );

    let login = ["login", "--username", LOGIN.0, "--password-stdin", &name];
    let said = bugle(&platform, &login, b"wrong").await.expect(4);
    assert!(
        said.err.contains("does not let user \"someone\""),
        "{}",
        said.err
    );
    bugle(&platform, &login, LOGIN.1.as_bytes()).await.expect(0);
    bugle(&platform, &["image", "pull", &reference], b"")
        .await
        .expect(0);
    let known = platform
        .control
        .get("/bugle/v1/registries")
        .await
        .expect(200)
        .json();
    assert_eq!(known, json!({"registries": [name]}));
    platform.finish().await;

    // It outlives the process, and is nowhere to be read.
    let secret = LOGIN.1.as_bytes();
    for file in [
        "registries.sealed",
        "bugle.db",
        "bugle.db-wal",
        "../server.log",
    ] {
        let bytes = std::fs::read(site.data_dir().join(file)).unwrap_or_default();
        assert!(
            !bytes.windows(secret.len()).any(|window| window == secret),
            "{file}"
        );
    }
    let platform = start(&site, &registry).await;
    bugle(&platform, &["image", "prune", "--all"], b"")
        .await
        .expect(0);
    bugle(&platform, &["image", "pull", &reference], b"")
        .await
        .expect(0);
    bugle(&platform, &["logout", &name], b"").await.expect(0);
    bugle(&platform, &["image", "pull", &reference], b"")
        .await
        .expect(4);
    platform.finish().await;
}

#[tokio::test]
async fn credentials_are_read_from_the_operators_files() {
    let registry = Registry::closed().await;
    let site = Site::new();
    registry
        .push(
            "team/app:1",
            &Image::new(vec![Layer::new().file("a", b"x")], Packed::Gzip),
        )
        .await;
    let file = site.path().join("config.json");
    let auths = json!({"auths": {registry.name(): {"username": LOGIN.0, "password": LOGIN.1}}});
    std::fs::write(&file, auths.to_string()).unwrap();
    let options = StartOptions::default()
        .config("addresses", "allowed", &registry.rule())
        .config("images", "credential_files", &file.to_string_lossy());
    let platform = site.start_with(&options).await;
    let reference = registry.reference("team/app:1");
    bugle(&platform, &["image", "pull", &reference], b"")
        .await
        .expect(0);
    platform.finish().await;
}

#[tokio::test]
async fn archives_are_loaded_without_any_registry() {
    let site = Site::new();
    let platform = site.start().await;
    let image = Image::new(
        vec![
            Layer::new().file("low", b"1"),
            Layer::new().file("high", b"2"),
        ],
        Packed::Gzip,
    );
    let file = site.path().join("image.tar");
    std::fs::write(&file, image.docker_archive("example.com/app:1")).unwrap();
    let file = file.to_string_lossy().into_owned();
    let said = bugle(&platform, &["image", "load", &file], b"")
        .await
        .expect(0);
    assert!(
        said.out.starts_with("example.com/app:1 sha256:"),
        "{}",
        said.out
    );
    assert!(has(&site, "low", "1") && has(&site, "high", "2"));

    let archive = image.oci_archive("latest");
    let said = bugle(&platform, &["image", "load"], &archive)
        .await
        .expect(1);
    assert!(said.err.contains("give it a name"), "{}", said.err);
    let named = ["image", "load", "--name", "example.com/app:2"];
    let said = bugle(&platform, &named, &archive).await.expect(0);
    assert!(said.out.contains(&image.digest()), "{}", said.out);
    assert_eq!(layers(&site).len(), 2);
    bugle(&platform, &["image", "load"], b"no archive")
        .await
        .expect(1);
    // What came from a file is not taken by a clearing that takes only what can be had again.
    bugle(&platform, &["image", "prune"], b"").await.expect(0);
    assert_eq!(images(&platform).await.len(), 2);
    platform.finish().await;
}

#[tokio::test]
async fn an_index_gives_this_machine_its_image_and_names_both_where_there_is_none() {
    let registry = Registry::open().await;
    let site = Site::new();
    let platform = start(&site, &registry).await;
    let mine = Image::new(vec![Layer::new().file("mine", b"x")], Packed::Gzip);
    let other = Image::of(
        "s390x",
        vec![Layer::new().file("other", b"x")],
        Packed::Gzip,
    );
    registry.push("team/app:mine", &mine).await;
    registry.push("team/app:other", &other).await;
    let both = index(&[("s390x", &other), (writer::architecture(), &mine)]);
    registry.push_manifest("team/app", "both", &both).await;
    registry
        .push_manifest("team/app", "foreign", &index(&[("s390x", &other)]))
        .await;

    let reference = registry.reference("team/app:both");
    let said = bugle(&platform, &["image", "pull", &reference], b"")
        .await
        .expect(0);
    assert!(said.out.contains(&writer::digest(&both)), "{}", said.out);
    assert!(has(&site, "mine", "x") && !has(&site, "other", "x"));
    for tag in ["other", "foreign"] {
        let reference = registry.reference(&format!("team/app:{tag}"));
        let said = bugle(&platform, &["image", "pull", &reference], b"")
            .await
            .expect(1);
        let machine = format!("this machine is linux/{}", writer::architecture());
        assert!(said.err.contains("for linux/s390x"), "{}", said.err);
        assert!(said.err.contains(&machine), "{}", said.err);
    }
    platform.finish().await;
}

#[tokio::test]
async fn hostile_layers_are_refused_and_leave_nothing() {
    let registry = Registry::open().await;
    let site = Site::new();
    let platform = start(&site, &registry).await;
    let plain = |path: &str| Layer::new().file(path, b"x");
    let hostile = [
        ("upwards", plain("../../../escaped")),
        ("whiteout", plain("a/.wh..")),
        (
            "hardlink",
            Layer::new().entry(EntryType::Link, "h", "../../escaped", b""),
        ),
        (
            "device",
            Layer::new().entry(EntryType::Block, "disk", "", b""),
        ),
    ];
    for (tag, layer) in hostile {
        let image = Image::new(vec![Layer::new().file("good", b"x"), layer], Packed::Gzip);
        registry.push(&format!("team/bad:{tag}"), &image).await;
        let reference = registry.reference(&format!("team/bad:{tag}"));
        let said = bugle(&platform, &["image", "pull", &reference], b"")
            .await
            .expect(1);
        assert!(said.err.contains("which is refused"), "{tag}: {}", said.err);
        // The good layer may have been finished before, and is good for another image.
        assert!(layers(&site).len() <= 1, "{tag}");
    }
    assert!(images(&platform).await.is_empty());
    bugle(&platform, &["image", "prune"], b"").await.expect(0);
    assert!(layers(&site).is_empty());
    let tmp = std::fs::read_dir(site.data_dir().join("images/tmp")).unwrap();
    assert_eq!(tmp.count(), 0);
    platform.finish().await;
}

#[tokio::test]
async fn an_address_of_this_machine_is_refused_unless_the_operator_lists_it() {
    let registry = Registry::open().await;
    let site = Site::new();
    let platform = site.start().await;
    let reference = registry.reference("team/app:1");
    let said = bugle(&platform, &["image", "pull", &reference], b"")
        .await
        .expect(4);
    assert!(said.err.contains("addresses.allowed"), "{}", said.err);
    platform.finish().await;
}
