//! What an image is for: a function that answers, whichever way it became known.

use std::path::PathBuf;
use std::process::Command as Compiler;

use bugle_testkit::{FunctionSpec, Platform, Registered, eventually};
use bytes::Bytes;
use http::Request;

use super::*;

/// The server, which is its image's only file.
fn server(greeting: &str) -> Image {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("app");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("images/server.c");
    let compiled = Compiler::new("gcc")
        .args(["-O1", "-static", "-o"])
        .args([&program, &source])
        .status();
    assert!(compiled.expect("gcc is installed").success());
    let program = std::fs::read(program).unwrap();
    let layer = Layer::new()
        .file("app", &program)
        .file("greeting", greeting.as_bytes());
    Image::new(vec![layer], Packed::Gzip)
}

fn of_image(name: &str, runtime: &str, image: &str) -> FunctionSpec {
    FunctionSpec::python(name, Path::new(""))
        .with("runtime", runtime)
        .with("handler", "-")
        .with("storageType", Value::Null)
        .with("codePath", Value::Null)
        .with("environment", json!({"GREETING": "Welcome"}))
        .with(
            "extendedMetaData",
            json!({"custom_container_config": {"image": image}}),
        )
}

async fn called(platform: &Platform, function: &Registered, body: &str) -> String {
    platform.invoke(function, body).await.expect(200).text()
}

#[tokio::test]
async fn an_image_that_was_pushed_answers_calls() {
    let registry = Registry::open().await;
    let site = Site::new();
    let platform = start(&site, &registry).await;
    registry.push("team/hello:1", &server("")).await;
    let image = registry.reference("team/hello:1");
    let hello = platform
        .register(&of_image("0@test@hello", "custom image", &image))
        .await;
    let answer = called(&platform, &hello, r#"{"a":1}"#).await;
    assert_eq!(answer, "Welcome invoke {\"a\":1}\n");
    platform.finish().await;
}

#[tokio::test]
async fn an_image_is_a_web_server_for_its_callers() {
    let registry = Registry::open().await;
    let site = Site::new();
    let platform = start(&site, &registry).await;
    registry.push("team/shop:1", &server("")).await;
    let image = registry.reference("team/shop:1");
    let _ = platform
        .register(&of_image("0@test@shop", "http", &image))
        .await;
    let get = |path: &str| {
        let path = format!("/functions/default/test/shop{path}");
        let gateway = platform.gateway;
        async move { gateway.get(&path).await }
    };
    let answer = get("/orders/7?full=1").await.expect(200).text();
    assert_eq!(answer, "Welcome at /orders/7?full=1\n");
    let _ = get("/init").await.expect(404);
    let _ = get("/invoke").await.expect(404);
    platform.finish().await;
}

#[tokio::test]
async fn an_invocation_of_a_web_server_is_the_request_that_its_event_describes() {
    let registry = Registry::open().await;
    let site = Site::new();
    let platform = start(&site, &registry).await;
    registry.push("team/shop:1", &server("")).await;
    let image = registry.reference("team/shop:1");
    let shop = platform
        .register(&of_image("0@test@shop", "http", &image))
        .await;
    let event = json!({"httpMethod": "GET", "path": "/orders/7",
        "queryStringParameters": {"full": "1"}, "isBase64Encoded": false, "body": ""});
    let answer = platform.invoke(&shop, &event.to_string()).await.expect(200);
    assert_eq!(answer.text(), "Welcome at /orders/7?full=1\n");
    assert_eq!(answer.header("content-type"), "text/html");
    assert_eq!(answer.header("x-inner-code"), "0");
    // The platform's own paths cannot be reached in this way either.
    let invoke = json!({"path": "/invoke"}).to_string();
    let _ = platform.invoke(&shop, &invoke).await.expect(404);
    let none = platform.invoke(&shop, "no event").await.expect(400);
    assert!(
        none.text().contains("not an API gateway event"),
        "{}",
        none.text()
    );
    platform.finish().await;
}

#[tokio::test]
async fn what_only_a_file_had_stays_while_a_function_needs_it() {
    let site = Site::new();
    let platform = site.start().await;
    let archive = site.path().join("hello.tar");
    std::fs::write(&archive, server("").docker_archive("team/hello:1")).unwrap();
    let archive = archive.to_str().unwrap();
    bugle(&platform, &["image", "load", archive], b"")
        .await
        .expect(0);
    let function = platform
        .register(&of_image("0@test@hello", "custom image", "team/hello:1"))
        .await;
    bugle(&platform, &["image", "prune", "--all"], b"")
        .await
        .expect(0);
    assert_eq!(images(&platform).await.len(), 1);
    let said = bugle(&platform, &["image", "rm", "team/hello:1"], b"")
        .await
        .expect(6);
    assert!(
        said.err.contains("0@test@hello") && said.err.contains("came from a file"),
        "{}",
        said.err
    );
    assert_eq!(
        called(&platform, &function, "1").await,
        "Welcome invoke 1\n"
    );
    let path = format!("/serverless/v1/functions/{}", function.name);
    let _ = platform.control.delete(&path).await.expect(200);
    eventually("nothing runs from it", BOUND, async || {
        let said = bugle(&platform, &["image", "prune", "--all"], b"")
            .await
            .expect(0);
        let left = images(&platform).await;
        if left.is_empty() {
            Ok(())
        } else {
            Err(said.out)
        }
    })
    .await;
    platform.finish().await;
}

#[tokio::test]
async fn a_functions_status_tells_how_far_its_image_is() {
    let registry = slow::Slow::start(&server("")).await;
    let site = Site::new();
    let options = StartOptions::default().config("addresses", "allowed", &registry.rule());
    let platform = site.start_with(&options).await;
    let image = registry.reference("team/slow:1");
    let function = platform
        .register(&of_image("0@test@slow", "custom image", &image))
        .await;
    let call = platform.invoke(&function, "1");
    let look = async {
        let pull = eventually("half of a layer is here", BOUND, async || {
            let pull = platform.status(&function).await["pull"].clone();
            let layer = &pull["layers"][0];
            let fetched = layer["fetched"].as_u64().unwrap_or(0);
            if fetched > 0 && fetched < layer["size"].as_u64().unwrap_or(0) {
                Ok(pull)
            } else {
                Err(pull.to_string())
            }
        })
        .await;
        assert!(
            pull["reference"].as_str().unwrap().contains("team/slow"),
            "{pull}"
        );
        let said = bugle(&platform, &["describe", "0@test@slow"], b"")
            .await
            .expect(0);
        assert!(
            said.out.contains("pulling") && said.out.contains("0 of 1 layers ready"),
            "{}",
            said.out
        );
        registry.go_on();
    };
    let (answer, ()) = tokio::join!(call, look);
    assert_eq!(answer.expect(200).text(), "Welcome invoke 1\n");
    assert_eq!(platform.status(&function).await["pull"], Value::Null);
    platform.finish().await;
}

#[tokio::test]
async fn functiongraphs_clients_make_and_call_an_image() {
    let registry = Registry::open().await;
    let site = Site::new();
    let platform = start(&site, &registry).await;
    registry.push("team/thumb:1", &server("")).await;
    let create = json!({"func_name": "thumb", "package": "default", "runtime": "Custom Image",
        "handler": "-", "code_type": "Custom-Image-Swr", "memory_size": 128, "timeout": 30,
        "custom_image": {"enabled": true, "image": registry.reference("team/thumb:1")}});
    let post = |path: &str, body: &Value| {
        let request = Request::post(format!("/v2/default/fgs/functions{path}"))
            .header("content-type", "application/json")
            .body(Bytes::from(body.to_string()))
            .unwrap();
        let control = platform.control;
        async move { control.send(request).await.unwrap() }
    };
    let made = post("", &create).await.expect(200).json();
    let urn = made["func_urn"].as_str().unwrap();
    let answer = post(&format!("/{urn}/invocations"), &json!({"width": 3})).await;
    assert_eq!(answer.expect(200).text(), "Hello invoke {\"width\":3}\n");
    platform.finish().await;
}

#[tokio::test]
async fn a_tag_that_is_pushed_again_changes_no_function() {
    let registry = Registry::open().await;
    let site = Site::new();
    let platform = start(&site, &registry).await;
    let first = server("one");
    registry.push("team/moving:1", &first).await;
    let image = registry.reference("team/moving:1");
    let function = platform
        .register(&of_image("0@test@moving", "custom image", &image))
        .await;
    registry.push("team/moving:1", &server("two")).await;
    called(&platform, &function, "").await;
    let digests: Vec<_> = images(&platform)
        .await
        .iter()
        .map(|image| image["digest"].clone())
        .collect();
    assert_eq!(digests, [json!(first.digest())]);
    platform.finish().await;
}

/// Runs an archive with an event on a platform of its own; yields the answer and what was shown.
async fn run(site: &Site, archive: &Path, event: &str) -> (String, String) {
    let output = Command::new(binary())
        .args(["run", "--invoke", event, "--once", "-e", "GREETING=Hi"])
        .arg("--data-dir")
        .arg(site.data_dir())
        .args(["--control-listen", "127.0.0.1:0"])
        .args(["--gateway-listen", "127.0.0.1:0"])
        // Nobody answers there, so it starts a platform.
        .args(["--server", "http://127.0.0.1:9"])
        .arg(archive)
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{out}{err}");
    (out, err)
}

/// Builds the example of this name, with its own script.
async fn built(site: &Site, example: &str) -> PathBuf {
    let archive = site.path().join(format!("{example}.tar"));
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/images");
    let script = examples.join(example).join("build.sh");
    let output = Command::new(script).arg(&archive).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example}: {said}");
    archive
}

#[tokio::test]
async fn run_serves_an_archive_and_shows_what_goes_to_and_fro() {
    let site = Site::new();
    let archive = site.path().join("hello.tar");
    std::fs::write(&archive, server("").docker_archive("team/hello:1")).unwrap();
    let (out, err) = run(&site, &archive, "{\"a\":1}").await;
    assert_eq!(out, "Hi invoke {\"a\":1}\n");
    for text in [
        "curl -X POST",
        "> POST /init HTTP/1.1",
        "> POST /invoke HTTP/1.1",
        "> {\"a\":1}",
        "< HTTP/1.1 200 OK",
        "serving as 1003:1003",
    ] {
        assert!(err.contains(text), "{text} is not in {err}");
    }
}

/// Runs `bugle run` with a platform of its own to its failure; yields its exit code and its words.
async fn run_and_fail(site: &Site, user: Option<u32>, arguments: &[&str]) -> (i32, String) {
    let program = site.path().join("bugle-run");
    if !program.is_file() {
        std::fs::copy(binary(), &program).unwrap();
    }
    let data = site.path().join("run-data");
    std::fs::create_dir_all(&data).unwrap();
    let mut command = Command::new(program);
    if let Some(user) = user {
        std::os::unix::fs::chown(site.path(), Some(user), Some(user)).unwrap();
        std::os::unix::fs::chown(&data, Some(user), Some(user)).unwrap();
        command.uid(user).gid(user);
    }
    let output = command
        .arg("run")
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .args(["--control-listen", "127.0.0.1:0"])
        .args(["--gateway-listen", "127.0.0.1:0"])
        .args(["--server", "http://127.0.0.1:9"])
        .env("HOME", site.home())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

#[tokio::test]
async fn a_run_that_cannot_be_says_what_and_why_and_what_to_do() {
    let site = Site::new();
    let text = site.path().join("text.tar");
    std::fs::write(&text, "no archive").unwrap();
    let text = text.to_str().unwrap();
    for (image, parts) in [
        (
            "Not An Image",
            &["not an image reference", "host[:port]/path"][..],
        ),
        ("./absent.tar", &["there is no file", "docker save"]),
        (text, &["the archive cannot be used", "docker save"]),
        (
            "no-such-host.invalid/a:1",
            &["cannot be reached", "check the network"],
        ),
        ("127.0.0.1:9/a:1", &["may not be used", "addresses.allowed"]),
    ] {
        let (code, said) = run_and_fail(&site, None, &[image]).await;
        assert_ne!(code, 0, "{image}");
        for part in parts {
            assert!(said.contains(part), "{image}: {part} is not in {said}");
        }
    }
    let archive = site.path().join("exits.tar");
    std::fs::write(&archive, server("").docker_archive("team/exits:1")).unwrap();
    let exits = [
        archive.to_str().unwrap(),
        "--command",
        "/absent",
        "--invoke",
        "1",
        "--once",
    ];
    let (_, said) = run_and_fail(&site, None, &exits).await;
    assert!(said.contains("has no program /absent"), "{said}");
}

#[tokio::test]
async fn without_root_run_says_so_before_it_fetches_anything() {
    let site = Site::new();
    let (code, said) = run_and_fail(&site, Some(65_534), &["no-such-host.invalid/a:1"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("container images need root"), "{said}");
    assert!(
        said.contains("sudo bugle serve") && said.contains("bugle doctor"),
        "{said}"
    );
    assert!(!said.contains("no-such-host"), "{said}");
    let missing = [
        "a:1",
        "--set",
        "containers.runtime=oci",
        "--set",
        "containers.oci_command=nope",
    ];
    let (code, said) = run_and_fail(&site, None, &missing).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("there is no OCI runtime nope"), "{said}");
    assert!(said.contains("apt-get install runc"), "{said}");
}

#[tokio::test]
async fn a_binary_alone_is_an_image() {
    let site = Site::new();
    let archive = built(&site, "greeter").await;
    let (out, err) = run(&site, &archive, "\"Ada\"").await;
    assert_eq!(out, "Hello, \"Ada\"!\n");
    assert!(
        err.contains("< HTTP/1.1 404 Not Found"),
        "it has no /init: {err}"
    );
}

#[tokio::test]
async fn an_express_server_runs_as_it_is() {
    let site = Site::new();
    let archive = built(&site, "express").await;
    let (out, err) = run(&site, &archive, "{\"a\":1}").await;
    assert_eq!(out, "Hello invoke\n");
    for text in ["initialized as express", "event {\"a\":1}"] {
        assert!(err.contains(text), "{text} is not in {err}");
    }
}

#[tokio::test]
async fn a_web_site_in_an_image_is_used_with_its_own_paths() {
    let site = Site::new();
    let platform = site.start().await;
    let archive = built(&site, "guestbook").await;
    let archive = archive.to_str().unwrap();
    let _ = bugle(&platform, &["image", "load", archive], b"")
        .await
        .expect(0);
    let spec = of_image("0@test@guestbook", "http", "demo/guestbook:1");
    let _ = platform.register(&spec).await;
    let request = |method: &str, path: &str, body: &'static str| {
        let request = Request::builder()
            .method(method)
            .uri(format!("/functions/default/test/guestbook{path}"))
            .body(Bytes::from(body))
            .unwrap();
        let gateway = platform.gateway;
        async move { gateway.send(request).await.unwrap() }
    };
    let added = request("POST", "/entries", "name=Ada+L.").await;
    assert_eq!(added.expect(201).json(), json!(["Ada L."]));
    let page = request("GET", "/", "").await.expect(200).text();
    let action = "action=\"/functions/default/test/guestbook/entries\"";
    assert!(
        page.contains("<li>Ada L.") && page.contains(action),
        "{page}"
    );
    let _ = request("GET", "/nothing", "").await.expect(404);
    platform.finish().await;
}
