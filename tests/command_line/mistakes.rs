//! Whoever is wrong hears what is wrong, why, and what to do next; scripts see it in the exit code.

use std::net::TcpListener;

use bugle_testkit::StartOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::console::Console;

const FINE: &str = "def handler(event, context):\n    return 1\n";

#[tokio::test]
async fn each_documented_exit_code_is_given() {
    let slow = "import time\ndef handler(event, context):\n    time.sleep(event)\n";
    let (console, mut platform) = Console::with_platform().await;
    platform.tolerate("deadline");
    let documented = console.run(["--help"]).await.expect(0).out;
    console.run(["list"]).await.expect(0);
    console
        .deploy("broken", "def handler(event, context):\n    1 / 0\n")
        .await;
    console.run(["invoke", "broken"]).await.expect(1);
    console.run(["invoke"]).await.expect(2);
    console
        .run(["list", "--server", "127.0.0.1:9"])
        .await
        .expect(3);
    console
        .run(["list", "--server", &forbidding().await])
        .await
        .expect(4);
    console.run(["describe", "nothing"]).await.expect(5);
    console.run(["publish", "broken", "v1"]).await.expect(0);
    console.run(["publish", "broken", "v1"]).await.expect(6);
    console
        .run(["update", "broken", "--max-instances", "0"])
        .await
        .expect(0);
    console.run(["invoke", "broken"]).await.expect(7);
    console
        .run(["config", "check", "--set", "x.y=1"])
        .await
        .expect(64);
    console.deploy("slow", slow).await;
    console
        .run(["invoke", "slow", "60", "--timeout", "1"])
        .await
        .expect(124);
    let folder = console.write("limited", slow);
    let manifest = "name = \"limited\"\nhandler = \"index.handler\"\ntimeout = 1\n";
    std::fs::write(folder.join("function.toml"), manifest).unwrap();
    console.run(["deploy", "limited"]).await.expect(0);
    console.run(["invoke", "limited", "60"]).await.expect(124);
    let mut waiting = console.start(["logs", "-f", "broken"]);
    waiting.says("ZeroDivisionError", 1).await;
    assert_eq!(waiting.interrupt().await, 130);
    for code in [0, 1, 2, 3, 4, 5, 6, 7, 64, 124, 130] {
        assert!(
            documented
                .split_whitespace()
                .any(|word| word == code.to_string()),
            "{code} is not in the help"
        );
    }
    platform.kill().await;
}

/// The address of a program that allows nothing.
async fn forbidding() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        let answer = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    address.to_string()
}

#[tokio::test]
async fn where_no_platform_runs_one_hears_how_to_start_it() {
    let console = Console::new();
    for command in [
        "list",
        "invoke hello",
        "logs hello",
        "describe hello",
        "delete hello",
    ] {
        let said = console.shell(&format!("bugle {command}")).await.expect(3);
        let said = said.complains("nothing answers at http://127.0.0.1:9");
        assert!(said.err.contains("bugle serve"), "{}", said.err);
        assert!(said.err.contains("--server"), "{}", said.err);
    }
}

#[tokio::test]
async fn a_mistyped_function_is_answered_with_the_nearest_name() {
    let (console, platform) = Console::with_platform().await;
    let empty = console.run(["invoke", "thumbnail"]).await.expect(5);
    empty.complains("bugle deploy");
    console.deploy("thumbnail", FINE).await;
    for command in [
        "invoke thubmnail",
        "describe thumbnial",
        "logs -f thumbnai",
        "publish tumbnail",
        "update thumbnails --memory 256",
        "delete 0@images@thumbnail",
        "reserve list thumb-nail",
    ] {
        let said = console.shell(&format!("bugle {command}")).await.expect(5);
        said.complains("did you mean thumbnail?");
    }
    let said = console.run(["invoke", "other"]).await.expect(5);
    said.complains("`bugle list` shows");
    let said = console
        .run(["invoke", "thumbnail", "--version", "v9"])
        .await;
    said.expect(5).complains("versions of thumbnail: latest");
    platform.finish().await;
}

#[tokio::test]
async fn an_event_that_is_no_json_needs_a_content_type() {
    let source = "def handler(event, context):\n    return str(event)\n";
    let (console, platform) = Console::with_platform().await;
    console.deploy("show", source).await;
    std::fs::write(console.folder().join("event"), "{'a': 1}").unwrap();
    for event in ["'{\"a\"'", "hello", "@event", "- <event"] {
        let said = console.shell(&format!("bugle invoke show {event}")).await;
        let said = said.expect(2).complains("the event is not JSON");
        assert!(said.err.contains("-H 'content-type"), "{}", said.err);
    }
    let typed = ["invoke", "show", "hello", "-H", "content-type: text/plain"];
    assert_eq!(console.run(typed).await.expect(0).json(), "b'hello'");
    let said = console.run(["invoke", "show", "@nothing"]).await.expect(1);
    said.complains("nothing: No such file");
    platform.finish().await;
}

#[tokio::test]
async fn a_folder_that_is_no_function_is_explained() {
    let (console, platform) = Console::with_platform().await;
    let said = console.run(["deploy"]).await.expect(1);
    said.complains("`bugle new NAME`");
    let said = console.run(["deploy", "nowhere"]).await.expect(1);
    said.complains("nowhere/function.toml: No such file");

    let folder = console.write("odd", FINE);
    let manifest = |text: &str| std::fs::write(folder.join("function.toml"), text).unwrap();
    manifest("name = \"odd\"\nhandler = \"missing.handler\"\n");
    let said = console.run(["deploy", "odd"]).await.expect(1);
    said.complains("there is no missing.py in ");
    manifest("name = \"odd\"\nhandlr = \"index.handler\"\n");
    let said = console.run(["deploy", "odd"]).await.expect(1);
    let said = said.complains("odd/function.toml: TOML parse error at line 2");
    assert!(said.err.contains("did you mean handler?"), "{}", said.err);
    manifest("name = \"odd\"\nhandler = \"index.handler\"\nruntime = \"python2.7\"\n");
    let said = console.run(["deploy", "odd"]).await.expect(1);
    let said = said.complains("runtime python2.7 is not valid");
    let here = format!("which has: {}", platform.python().await);
    assert!(
        said.err.contains("which has: python3."),
        "{here}: {}",
        said.err
    );

    let outside = console.site.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("index.py"), FINE).unwrap();
    std::fs::write(
        outside.join("function.toml"),
        "name = \"outside\"\nhandler = \"index.handler\"\n",
    )
    .unwrap();
    // Code that the platform does not see is sent to it.
    let said = console.run(["deploy", "../outside"]).await.expect(0);
    assert!(said.err.contains("sent "), "{}", said.err);
    platform.finish().await;
}

#[tokio::test]
async fn an_address_that_is_none_of_the_platform_is_explained() {
    let (console, platform) = Console::with_platform().await;
    console.deploy("fine", FINE).await;
    for address in ["nonsense", "https://localhost:1", "http://localhost"] {
        let said = console.run(["list", "--server", address]).await.expect(2);
        said.complains("is not an address like http://127.0.0.1:31182");
    }
    let gateway = platform.gateway.url("");
    let said = console.run(["list", "--server", &gateway]).await.expect(1);
    said.complains("not of the control API");
    let said = console
        .run(["invoke", "fine", "--gateway", "127.0.0.1:9"])
        .await;
    said.expect(3).complains("--gateway names another");
    let said = console.run(["invoke", "fine", "-H", "x"]).await.expect(2);
    said.complains("`name: value` is expected");
    let said = console.run(["invoke", "not a name"]).await.expect(1);
    said.complains("\"0@default@not a name\" is not valid");
    platform.finish().await;
}

#[tokio::test]
async fn what_is_in_use_is_named_with_the_way_out() {
    let (console, platform) = Console::with_platform().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for (control, gateway, option) in [
        (&*taken, free, "--control-listen"),
        (free, &*taken, "--gateway-listen"),
    ] {
        let listen = ["--control-listen", control, "--gateway-listen", gateway];
        let said = console
            .shell(&format!("bugle serve {}", listen.join(" ")))
            .await;
        let said = said.expect(1).complains(&taken);
        assert!(said.err.contains(option), "{}", said.err);
    }
    let data = console.site.data_dir();
    let data = data.to_string_lossy();
    let line = format!("bugle serve --data-dir {data} --control-listen {free}");
    let said = console.shell(&line).await.expect(1).complains(&data);
    assert!(said.err.contains("--data-dir"), "{}", said.err);
    assert!(said.err.contains(&platform.pid.to_string()), "{}", said.err);
    platform.finish().await;
}

#[tokio::test]
async fn listening_beyond_this_machine_needs_insistence() {
    let console = Console::new();
    for option in ["--control-listen", "--gateway-listen"] {
        let said = console.run(["serve", option, "0.0.0.0:0"]).await;
        let said = said.expect(64).complains("0.0.0.0:0");
        assert!(
            said.err
                .contains("--insecure-listen-without-authentication"),
            "{}",
            said.err
        );
    }
    let insist = ["--insecure-listen-without-authentication"];
    let options = StartOptions::default().arguments(insist);
    console.site.start_with(&options).await.finish().await;
}
