//! Container images as functions, in the running system: loaded, registered and called.
#![cfg(test)]

#[path = "../images/writer.rs"]
#[expect(dead_code, reason = "images are written here in one way only")]
mod writer;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bugle_testkit::{
    FunctionSpec, Platform, Registered, Site, StartOptions, binary, children_of, eventually,
    is_running,
};
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
async fn encrypted_configuration_and_mounts_reach_the_container_and_nobody_else() {
    let site = Site::new();
    let models = site.path().join("models");
    std::fs::create_dir(&models).unwrap();
    std::fs::write(models.join("one"), "weights").unwrap();
    let config = site.path().join("bugle.toml");
    let text = format!(
        "[containers.mounts.models]\npath = {:?}\n",
        models.display().to_string()
    );
    std::fs::write(&config, text).unwrap();
    let options = StartOptions::default().arguments(["--config", config.to_str().unwrap()]);
    let platform = site.start_with(&options).await;
    load(&site, &platform).await;
    let create = json!({"func_name": "secret", "runtime": "Custom Image", "handler": "-",
        "code_type": "Custom-Image-Swr", "memory_size": 128, "timeout": 30,
        "custom_image": {"enabled": true, "image": IMAGE},
        "user_data": "{\"SHOWN\": \"for all\"}",
        "encrypted_user_data": "{\"PASSWORD\": \"correct horse\"}",
        "mount_config": {"func_mounts": [{"mount_type": "host", "mount_resource": "models",
            "local_mount_path": "/mnt/models"}]}});
    let functions = "/v2/default/fgs/functions";
    let made = platform.control.post(functions, &create).await.expect(200);
    assert!(!made.text().contains("correct horse"), "{}", made.text());
    let urn = made.json()["func_urn"].as_str().unwrap().to_owned();
    let config = format!("{functions}/{urn}/config");
    let config = platform.control.get(&config).await.expect(200).text();
    assert!(
        config.contains("PASSWORD") && !config.contains("correct horse"),
        "{config}"
    );
    assert!(config.contains("for all"), "{config}");
    let registered = Registered {
        name: "0@default@secret".to_owned(),
        urn: "sn:cn:yrk:default:function:0@default@secret:latest".to_owned(),
        revision: String::new(),
    };
    let script = "echo $PASSWORD; echo $SHOWN; cat /mnt/models/one; echo; echo x >/mnt/models/two";
    let said = platform
        .invoke(&registered, script)
        .await
        .expect(200)
        .text();
    assert!(
        said.starts_with("correct horse\nfor all\nweights\n"),
        "{said}"
    );
    assert!(said.contains("Read-only file system"), "{said}");
    platform.finish().await;
    for file in ["bugle.db", "bugle.db-wal"] {
        let bytes = std::fs::read(site.data_dir().join(file)).unwrap_or_default();
        let secret = b"correct horse";
        assert!(
            !bytes.windows(secret.len()).any(|window| window == secret),
            "{file}"
        );
    }
}

#[tokio::test]
async fn reserved_instances_are_there_before_a_call_and_come_back() {
    let site = Site::new();
    let platform = site.start().await;
    load(&site, &platform).await;
    let spec = function("0@test@kept").with("minInstance", "2");
    let function = platform.register(&spec).await;
    let two = async || {
        let pids = platform.instance_pids(&function).await;
        if pids.len() == 2 {
            Ok(pids)
        } else {
            Err(format!("{pids:?}"))
        }
    };
    let first = eventually("two instances are there", BOUND, two).await;
    bugle_testkit::kill(first[0]);
    eventually("the one that was killed is replaced", BOUND, async || {
        let pids = two().await?;
        if pids.contains(&first[0]) {
            Err(format!("{pids:?}"))
        } else {
            Ok(())
        }
    })
    .await;
    let answer = platform
        .invoke(&function, "cat /tmp/asked")
        .await
        .expect(200);
    assert_eq!(answer.text(), "/init\n");
    platform.finish().await;
}

#[tokio::test]
async fn a_stop_lets_the_call_finish_and_gives_the_function_a_last_word() {
    let site = Site::new();
    let platform = site.start().await;
    load(&site, &platform).await;
    let spec = function("0@test@ends")
        .with("extendedHandler", json!({"pre_stop": "-"}))
        .with("extendedTimeout", json!({"pre_stop": 5}))
        .with(
            "extendedMetaData",
            json!({"custom_container_config": {"image": IMAGE},
                "runtime_graceful_shutdown": {"maxShutdownTimeout": 20}}),
        );
    let function = platform.register(&spec).await;
    let gateway = platform.gateway;
    let long = gateway.send(function.request("sleep 2; echo done", &[]));
    let stop = async {
        platform.until_called(&function, 1).await;
        // A platform that stops ends its instances as a scale-down does.
        platform.finish().await;
    };
    let (answer, ()) = tokio::join!(long, stop);
    assert_eq!(answer.unwrap().expect(200).text(), "done\n");
    let written = bugle_testkit::processes_using(&site.data_dir().join("containers"));
    assert!(written.is_empty(), "{written:?}");
    let texts = logged(&site);
    let at = |text: &str| {
        texts
            .find(text)
            .unwrap_or_else(|| panic!("{text} is not in {texts}"))
    };
    assert!(at("asked to prepare with {}") < at("asked to shut down"));
    assert!(at("asked to shut down") < at("terminated"));
}

/// All that functions wrote, from the files of their logs.
fn logged(site: &Site) -> String {
    let mut folders = vec![site.data_dir().join("logs")];
    let mut texts = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                texts.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    texts
}

#[tokio::test]
async fn without_root_an_image_says_what_it_lacks() {
    let site = Site::new();
    let platform = site.start_with(&StartOptions::default().as_nobody()).await;
    let nobody = platform.register(&function("0@test@nobody")).await;
    let answer = platform.invoke(&nobody, "").await;
    assert!(answer.status >= 500, "{answer:?}");
    let text = answer.text();
    assert!(text.contains("root"), "{text}");
    platform.kill().await;
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
