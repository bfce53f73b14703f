//! Commands that go on until Ctrl-C: `dev` and `logs -f`.

use crate::console::{Console, Running};

const HELLO: &str = "def handler(event, context):\n    print('called')\n    return 'hello'\n";
const ANYWHERE: [&str; 4] = [
    "--control-listen",
    "127.0.0.1:0",
    "--gateway-listen",
    "127.0.0.1:0",
];

/// The curl command that `dev` has printed.
fn curl_line(running: &Running) -> String {
    let said = running.err();
    let line = said.lines().find(|line| line.starts_with("curl "));
    format!("{} --silent", line.expect("dev says how to call"))
}

/// In a folder below one whose name begins with a dot, which is no reason to overlook a save.
#[tokio::test]
async fn dev_runs_a_platform_where_there_is_none_and_deploys_on_each_save() {
    let console = Console::new();
    let name = ".hidden/hello";
    let folder = console.write(name, HELLO);
    let manifest = "name = \"hello\"\nhandler = \"index.handler\"\n";
    std::fs::write(folder.join("function.toml"), manifest).unwrap();
    let save = |text: &str| std::fs::write(folder.join("index.py"), text).unwrap();

    let [a, b, c, d] = ANYWHERE;
    let mut dev = console.start(["dev", name, a, b, c, d, "--invoke", "{}"]);
    dev.says("watching; save a file", 1).await;
    dev.says("no platform answers; starting one", 1).await;
    assert_eq!(dev.out(), "\"hello\"", "standard output is for answers");
    dev.says("stdout called", 1).await;
    let call = curl_line(&dev);
    assert_eq!(console.shell(&call).await.expect(0).json(), "hello");
    dev.says("stdout called", 2).await;

    save(&HELLO.replace("hello", "bye"));
    dev.says("deployed again", 1).await;
    assert_eq!(console.shell(&call).await.expect(0).json(), "bye");

    save("def handler(:\n");
    dev.says("deployed again", 2).await;
    let answer = console.shell(&call).await.expect(0);
    assert!(answer.out.contains("SyntaxError"), "{}", answer.out);
    dev.says("SyntaxError", 1).await;

    save(&HELLO.replace("hello", "better"));
    dev.says("deployed again", 3).await;
    assert_eq!(console.shell(&call).await.expect(0).json(), "better");

    std::fs::write(folder.join("function.toml"), "name = 'hello'\n").unwrap();
    dev.says("missing field `handler`", 1).await;
    std::fs::write(folder.join("function.toml"), manifest).unwrap();
    dev.says("deployed again", 4).await;

    assert_eq!(dev.interrupt().await, 130);
    console.is_left_alone().await;
}

#[tokio::test]
async fn dev_uses_the_platform_that_runs_and_leaves_it_alone() {
    let (console, platform) = Console::with_platform().await;
    console.write("hello", HELLO);
    let mut dev = console.start(["dev", "hello"]);
    dev.says("watching; save a file", 1).await;
    assert!(!dev.err().contains("no platform answers"), "{}", dev.err());
    let said = console.run(["invoke", "hello"]).await.expect(0);
    assert_eq!(said.json(), "hello");
    dev.says("stdout called", 1).await;
    assert_eq!(dev.interrupt().await, 130);
    console.run(["invoke", "hello"]).await.expect(0);
    platform.finish().await;
}

#[tokio::test]
async fn dev_calls_once_and_ends_where_that_is_wanted() {
    let console = Console::new();
    console.write("hello", HELLO);
    let line = format!(
        "bugle dev hello --once --invoke '[1]' {}",
        ANYWHERE.join(" ")
    );
    assert_eq!(console.shell(&line).await.expect(0).out, "\"hello\"");
    console.write(
        "hello",
        "def handler(event, context):\n    raise ValueError('no')\n",
    );
    console.shell(&line).await.expect(1).complains("ValueError");
    let said = console.run(["dev", "nowhere", "--once"]).await.expect(1);
    let said = said.complains("nowhere/function.toml");
    assert!(!said.err.contains("starting one"), "{}", said.err);
    console.is_left_alone().await;
}

#[tokio::test]
async fn followers_end_with_the_platform() {
    let (console, platform) = Console::with_platform().await;
    console.deploy("hello", HELLO).await;
    console.run(["invoke", "hello"]).await.expect(0);
    let mut logs = console.start(["logs", "-f", "hello"]);
    logs.says("stdout called", 1).await;
    platform.finish().await;
    let err = console.site.path().join("err");
    assert_eq!(logs.end().await, 3);
    let said = std::fs::read_to_string(err).unwrap();
    assert!(said.contains("the platform has stopped"), "{said}");
}

#[tokio::test]
async fn a_log_is_followed_until_it_is_interrupted() {
    let (console, platform) = Console::with_platform().await;
    console.deploy("hello", HELLO).await;
    console.run(["invoke", "hello"]).await.expect(0);
    let mut logs = console.start(["logs", "-f", "hello"]);
    logs.says("stdout called", 1).await;
    console.run(["invoke", "hello"]).await.expect(0);
    logs.says("stdout called", 2).await;
    assert_eq!(logs.err(), "", "a log is the answer");
    assert_eq!(logs.interrupt().await, 130);
    platform.finish().await;
}
