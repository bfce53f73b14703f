//! `--curl` shows the request of every command, in words that a shell understands, and sends none.

use serde_json::{Value, json};

use crate::console::Console;

const ECHO: &str = "def handler(event, context):\n    return event\n";

#[tokio::test]
async fn a_shown_call_survives_the_shell() {
    let (console, platform) = Console::with_platform().await;
    console.deploy("echo", ECHO).await;
    let odd = json!({"text": "it's \"$HOME\" `id` \\ ü\n%41 ! @x <&>; #", "'": [null, 1.5]});
    for event in [odd.to_string(), "\"@file\"".to_owned(), " [ ] ".to_owned()] {
        let shown = console.run(["invoke", "echo", &event, "--curl"]).await;
        let shown = shown.expect(0);
        assert_eq!(shown.err, "");
        let said = console
            .shell(&format!("{} --silent", shown.out.trim_end()))
            .await;
        let sent: Value = serde_json::from_str(&event).unwrap();
        assert_eq!(said.expect(0).json(), sent);
    }
    platform.finish().await;
}

#[tokio::test]
async fn what_a_shown_call_says_in_its_headers_arrives() {
    let source = "
def handler(event, context):
    return [context.get_header('x-odd'), context.get_header('x-none')]
";
    let (console, platform) = Console::with_platform().await;
    console.deploy("headers", source).await;
    let arguments = [
        "invoke",
        "headers",
        "-H",
        "x-odd: it's $HOME;",
        "-H",
        "x-none:",
    ];
    let direct = console.run(arguments).await.expect(0).json();
    assert_eq!(direct, json!(["it's $HOME;", ""]));
    let line = "$(bugle invoke headers -H \"x-odd: it's \\$HOME;\" -H x-none: --curl)";
    let said = console.shell(&format!("eval \"{line} --silent\"")).await;
    assert_eq!(said.expect(0).json(), direct);
    platform.finish().await;
}

/// Each command is shown first, which changes nothing; then what was shown is run.
#[tokio::test]
async fn every_command_can_be_carried_out_by_curl() {
    let (console, platform) = Console::with_platform().await;
    console.write("echo", ECHO);
    let exists = async || !console.run(["list", "-o", "json"]).await.json()[0].is_null();
    for (step, command) in [
        "deploy echo",
        "deploy echo",
        "list",
        "list 'e ch&o'",
        "describe echo",
        "update echo --description \"it's\"",
        "publish echo v1",
        "describe echo --version v1",
        "reserve set echo gold --max 1",
        "reserve list echo",
        "reserve delete echo gold",
        "logs echo --request 'a b'",
        "delete echo --version v1",
        "delete echo",
    ]
    .into_iter()
    .enumerate()
    {
        let shown = console.shell(&format!("bugle {command} --curl")).await;
        let shown = shown.expect(0).out;
        assert!(shown.starts_with("curl -X "), "{command}: {shown}");
        assert_eq!(exists().await, step > 0, "{command} --curl did it");
        let line = format!(
            "{} --silent --show-error --fail-with-body",
            shown.trim_end()
        );
        let _ = console.shell(&line).await.expect(0);
    }
    assert!(!exists().await);
    platform.finish().await;
}
