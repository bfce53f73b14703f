//! What each command does, from a template to the end of a function.

use serde_json::json;

use crate::console::Console;

const TEMPLATES: [&str; 6] = ["hello", "http", "stream", "async", "node", "shell"];

#[tokio::test]
async fn each_template_can_be_deployed_and_called_as_its_readme_says() {
    let (console, platform) = Console::with_platform().await;
    let wrong = console.run(["new", "x", "--template", "nothing"]).await;
    let offered = wrong.expect(2).err;
    let offer = format!("[possible values: {}]", TEMPLATES.join(", "));
    assert!(
        offered.contains(&offer),
        "a template is not tested: {offered}"
    );
    for template in TEMPLATES {
        let made = console.run(["new", template, "-t", template]).await;
        made.expect(0).complains(&format!("bugle dev {template}"));
        console.run(["deploy", template]).await.expect(0);
        let readme = console.folder().join(template).join("README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let mut lines = readme.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with("bugle invoke"));
        let said = console.shell(line.unwrap()).await.expect(0);
        assert!(!said.out.is_empty(), "{template}");
    }
    platform.finish().await;
}

#[tokio::test]
async fn nothing_that_exists_is_overwritten() {
    let console = Console::new();
    std::fs::create_dir(console.folder().join("mine")).unwrap();
    let said = console.run(["new", "mine"]).await.expect(6);
    said.complains("mine exists already; choose another with --dir");
    assert_eq!(
        std::fs::read_dir(console.folder().join("mine"))
            .unwrap()
            .count(),
        0
    );
    console
        .run(["new", "mine", "--dir", "other"])
        .await
        .expect(0);
    assert!(console.folder().join("other/function.toml").is_file());
    let said = console.run(["new", "no name"]).await.expect(2);
    said.complains("for instance hello");
}

#[tokio::test]
async fn a_function_lives_from_its_deployment_to_its_deletion() {
    let source = "
import os
def handler(event, context):
    return [context.getUserData('GREETING') or 'none', context.getMemorySize()]
";
    let (console, platform) = Console::with_platform().await;
    let urn = "sn:cn:yrk:default:function:0@default@f";
    let deployed = console.deploy("f", source).await;
    assert_eq!(deployed.out, format!("{urn}:latest\n"));
    assert_eq!(deployed.err, "registered 0@default@f\n");
    let again = console.run(["deploy", "f"]).await.expect(0);
    assert_eq!(again.err, "updated 0@default@f\n");

    let published = console.run(["publish", "f", "v1"]).await.expect(0);
    assert_eq!(published.out, format!("{urn}:v1\n"));
    let update = [
        "update",
        "f",
        "--memory",
        "300",
        "--env",
        "GREETING=it's=me",
    ];
    assert_eq!(
        console.run(update).await.expect(0).out,
        format!("{urn}:latest\n")
    );
    console.run(["update", "f", "--cpu", "400"]).await.expect(0);
    for (arguments, answer) in [
        (&["invoke", "f"][..], json!(["it's=me", 300])),
        (&["invoke", "f", "--version", "v1"], json!(["none", 256])),
        (&["invoke", &format!("{urn}:v1")], json!(["none", 256])),
        (&["invoke", urn, "--version", "v1"], json!(["none", 256])),
    ] {
        let line = format!("bugle {}", arguments.join(" "));
        assert_eq!(
            console.shell(&line).await.expect(0).json(),
            answer,
            "{line}"
        );
    }
    let update = ["update", "f", "--env", "GREETING"];
    console.run(update).await.expect(2).complains("NAME=VALUE");

    let said = console.run(["update", "f"]).await.expect(2);
    said.complains("there is nothing to change");

    let shown = console.run(["describe", "f"]).await.expect(0).out;
    for part in ["400m CPU, 300 MB", "latest, v1", "1 success", "ready"] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let listed = console.run(["list"]).await.expect(0).out;
    assert_eq!(listed.lines().count(), 3, "{listed}");
    let part = console.run(["list", "nothing"]).await.expect(0).out;
    assert_eq!(part.lines().count(), 1, "{part}");
    let page = console.run(["list", "--page-size", "1"]).await.expect(0);
    assert!(page.err.contains("1 of 2"), "{}", page.err);

    let draft = console.run(["delete", "f", "--version", "latest"]).await;
    draft
        .expect(2)
        .complains("`bugle delete 0@default@f` deletes it with all versions");
    let deleted = console.run(["delete", "f", "--version", "v1"]).await;
    assert_eq!(deleted.expect(0).err, "deleted 0@default@f v1\n");
    console.run(["publish", "f", "v2"]).await.expect(0);
    let deleted = console.run(["delete", &format!("{urn}:v2")]).await;
    assert_eq!(deleted.expect(0).err, format!("deleted {urn} v2\n"));
    let draft = console.run(["delete", &format!("{urn}:latest")]).await;
    draft.expect(2);
    console.run(["delete", "f"]).await.expect(0);
    console.run(["delete", "f"]).await.expect(5);
    platform.finish().await;
}

#[tokio::test]
async fn instances_are_kept_for_a_label() {
    let source = "def handler(event, context):\n    return 1\n";
    let (console, platform) = Console::with_platform().await;
    console.deploy("f", source).await;
    let set = ["reserve", "set", "f", "gold", "--min", "1", "--max", "2"];
    assert_eq!(
        console.run(set).await.expect(0).out,
        "gold: 1 to 2 instances\n"
    );
    let list = console.run(["reserve", "list", "f"]).await.expect(0).out;
    assert!(list.contains("gold"), "{list}");
    let call = ["invoke", "f", "-H", "X-Instance-Label: gold"];
    console.run(call).await.expect(0);
    let other = ["invoke", "f", "-H", "X-Instance-Label: silver"];
    console.run(other).await.expect(5);
    console
        .run(["reserve", "delete", "f", "gold"])
        .await
        .expect(0);
    let list = console.run(["reserve", "list", "f"]).await.expect(0).out;
    assert!(!list.contains("gold"), "{list}");
    platform.finish().await;
}

#[tokio::test]
async fn completion_scripts_are_scripts_of_their_shells() {
    let console = Console::new();
    for (shell, beginning) in [
        ("bash", "_bugle()"),
        ("zsh", "#compdef bugle"),
        ("fish", "# Print an optspec"),
    ] {
        let script = console.run(["completion", shell]).await.expect(0).out;
        assert!(script.starts_with(beginning), "{shell}: {script}");
        for command in ["serve", "invoke", "completion"] {
            assert!(script.contains(command), "{shell} lacks {command}");
        }
        let check = format!(
            "command -v {shell} >{shell}.is || exit 0; bugle completion {shell} | {shell} -n"
        );
        let said = console.shell(&check).await.expect(0);
        assert_eq!(said.err, "", "{shell}");
    }
}
