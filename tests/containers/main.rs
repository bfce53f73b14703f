//! Container images as functions, in the running system: loaded, registered and called.
#![cfg(test)]

#[path = "../images/writer.rs"]
#[expect(dead_code, reason = "images are written here in one way only")]
mod writer;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bugle_testkit::{FunctionSpec, Platform, Site, binary, children_of, eventually, is_running};
use serde_json::json;

use writer::{Image, Layer, Packed};

const BOUND: Duration = Duration::from_secs(30);
const IMAGE: &str = "example.com/server:1";

/// An image with a server and a shell, which runs the body of a call as a script.
fn image(site: &Site) -> Image {
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/instances/tests/container/server.c");
    let server = site.path().join("server");
    let built = Command::new("gcc")
        .args(["-O1", "-static", "-o"])
        .args([&server, &source])
        .status();
    assert!(built.unwrap().success(), "gcc has to be installed");
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let busybox = busybox.into_iter().find(|path| path.is_file());
    let busybox = std::fs::read(busybox.expect("busybox-static has to be installed")).unwrap();
    let layer = Layer::new()
        .file("app", &std::fs::read(server).unwrap())
        .file("bin/busybox", &busybox);
    let tools = ["sh", "cat", "id", "head", "tail", "sleep"];
    let layer = tools.iter().fold(layer, |layer, name| {
        layer.link(&format!("bin/{name}"), "busybox")
    });
    Image::new(vec![layer], Packed::Gzip)
}

async fn load(site: &Site, platform: &Platform) {
    let file = site.path().join("image.tar");
    std::fs::write(&file, image(site).docker_archive(IMAGE)).unwrap();
    let loaded = tokio::process::Command::new(binary())
        .args(["image", "load"])
        .arg(&file)
        .env("BUGLE_SERVER", platform.control.url(""))
        .output();
    let loaded = loaded.await.unwrap();
    assert!(loaded.status.success(), "{loaded:?}");
}

fn function(name: &str) -> FunctionSpec {
    FunctionSpec::program(name, "custom image", Path::new("/"))
        .with("handler", "-")
        .with(
            "extendedMetaData",
            json!({"custom_container_config": {"image": IMAGE}}),
        )
}

#[tokio::test]
async fn an_image_is_loaded_registered_and_called_and_initialized_once() {
    let site = Site::new();
    let platform = site.start().await;
    load(&site, &platform).await;
    let spec = function("0@test@image")
        .with("concurrentNum", "10")
        .with("maxInstance", "1");
    let function = platform.register(&spec).await;
    let calls = (0..10).map(|_| platform.invoke(&function, "id -u; cat /tmp/asked"));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.expect(200).text(), "1003\n/init\n");
    }
    platform.finish().await;
}

#[tokio::test]
async fn what_an_image_uses_too_much_of_or_fails_at_is_told() {
    let site = Site::new();
    let platform = site.start().await;
    load(&site, &platform).await;
    let hog = platform.register(&function("0@test@hog")).await;
    let fill = "head -c 300000000 /dev/zero | tail; sleep 10";
    let answer = platform.invoke(&hog, fill).await.expect(502);
    assert_eq!(answer.header("x-inner-code"), "4205");
    let text = answer.text();
    assert!(
        text.contains("memory limit: 128MB") && text.contains("memory used: 12"),
        "{text}"
    );
    let answer = platform.invoke(&hog, "id -u").await.expect(200);
    assert_eq!(answer.text(), "1003\n");

    let spec = function("0@test@exit").with("environment", json!({"EXIT": "3"}));
    let exits = platform.register(&spec).await;
    let answer = platform.invoke(&exits, "").await.expect(502);
    assert_eq!(answer.header("x-inner-code"), "4201");
    let text = answer.text();
    assert!(
        text.contains("exit code 3") && text.contains("no configuration"),
        "{text}"
    );

    let command = json!({"image": IMAGE, "command": ["/absent"]});
    let spec = function("0@test@absent").with(
        "extendedMetaData",
        json!({"custom_container_config": command}),
    );
    let absent = platform.register(&spec).await;
    let answer = platform.invoke(&absent, "").await.expect(502);
    assert_eq!(answer.header("x-inner-code"), "4001");
    assert!(
        answer.text().contains("has no program /absent"),
        "{}",
        answer.text()
    );
    platform.finish().await;
}

#[tokio::test]
async fn a_platform_that_is_killed_leaves_no_container_behind() {
    let site = Site::new();
    let platform = site.start().await;
    load(&site, &platform).await;
    let function = platform.register(&function("0@test@left")).await;
    let stays = "sleep 1000 >/dev/null 2>&1 & id -u";
    let answer = platform.invoke(&function, stays).await.expect(200);
    assert_eq!(answer.text(), "1003\n");
    let pids = platform.instance_pids(&function).await;
    assert!(!pids.is_empty());
    let children = children_of(platform.pid);
    platform.kill().await;
    let all = pids.into_iter().chain(children).collect::<Vec<_>>();
    eventually("no process is left", BOUND, async || {
        let left: Vec<_> = all.iter().filter(|pid| is_running(**pid)).collect();
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    })
    .await;
    let platform = site.start().await;
    let answer = platform.invoke(&function, "id -u").await.expect(200);
    assert_eq!(answer.text(), "1003\n");
    let folders = std::fs::read_dir(site.data_dir().join("containers")).unwrap();
    assert_eq!(folders.count(), 1);
    platform.finish().await;
}
