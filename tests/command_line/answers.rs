//! Standard output carries the answer and nothing else; standard error the rest.

use serde_json::{Value, json};

use crate::console::Console;

const ECHO: &str = "def handler(event, context):\n    return event\n";

/// Answers with every byte that came.
const BYTES: &str = "
import base64
def handler(event, context):
    return {
        'statusCode': 200,
        'headers': {'content-type': 'application/octet-stream'},
        'body': base64.b64encode(event).decode(),
        'isBase64Encoded': True,
    }
";

#[tokio::test]
async fn an_answer_goes_to_standard_output_and_its_summary_to_standard_error() {
    let (console, platform) = Console::with_platform().await;
    console.deploy("echo", ECHO).await;
    for start in ["cold", "warm"] {
        let said = console.run(["invoke", "echo", r#"{"a": 1}"#]).await;
        let said = said.expect(0);
        assert_eq!(said.out, r#"{"a": 1}"#);
        is_summary(said.err.trim_end(), "200", start);
    }
    let quiet = console.run(["invoke", "-q", "echo"]).await.expect(0);
    assert_eq!((&*quiet.out, &*quiet.err), ("{}", ""));
    platform.finish().await;
}

/// `request id · 200 · 3.1 ms (queue 0, start 1.9, run 0.4) · cold · 9 MB`.
#[track_caller]
fn is_summary(line: &str, status: &str, start: &str) {
    let parts: Vec<&str> = line.split(" · ").collect();
    let [id, said_status, times, said_start, memory] = parts[..] else {
        panic!("five parts are expected: {line}");
    };
    assert!(!id.is_empty() && !id.contains(' '), "{line}");
    assert_eq!((said_status, said_start), (status, start), "{line}");
    assert!(is_number(memory.strip_suffix(" MB").unwrap()), "{line}");
    let (total, rest) = times.split_once(" ms (").unwrap();
    let phases: Vec<&str> = rest.strip_suffix(')').unwrap().split(", ").collect();
    let [queue, started, run] = phases[..] else {
        panic!("three phases are expected: {line}");
    };
    for (phase, name) in [(queue, "queue "), (started, "start "), (run, "run ")] {
        let time = phase.strip_prefix(name).unwrap();
        assert!(is_number(time), "{line}");
        assert_ne!(time, "0.0", "{line}");
    }
    assert!(is_number(total), "{line}");
    assert_eq!(started == "start 0", start == "warm", "{line}");
    let sum: f64 = phases.iter().map(|phase| number(phase)).sum();
    // Each of them may have been rounded up.
    assert!(sum <= total.parse::<f64>().unwrap() + 0.2, "{line}");
}

fn number(phase: &str) -> f64 {
    phase.rsplit(' ').next().unwrap().parse().unwrap()
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(|number| number >= 0.0)
}

#[tokio::test]
async fn bytes_pass_through_as_they_are() {
    let (console, platform) = Console::with_platform().await;
    console.deploy("bytes", BYTES).await;
    let sent: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    std::fs::write(console.folder().join("sent"), &sent).unwrap();
    let typed = "-H 'content-type: application/octet-stream'";
    let piped = format!("cat sent | bugle invoke bytes - {typed} | cat");
    let file = format!("bugle invoke bytes @sent {typed}");
    let shown = format!("eval \"$(bugle invoke bytes @sent --curl {typed}) --silent\"");
    let shown_pipe = format!("cat sent | eval \"$(bugle invoke bytes - --curl {typed}) -s\"");
    for line in [piped, file, shown, shown_pipe] {
        let said = console.shell(&line).await.expect(0);
        assert!(said.bytes == sent, "{line}: {} bytes", said.bytes.len());
    }
    let line = format!("printf '\\377\\0' | bugle invoke bytes - {typed} -o json");
    let shown = console.shell(&line).await.expect(0).json();
    assert_eq!(shown["body_base64"], "/wA=");
    platform.finish().await;
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let (console, platform) = Console::with_platform().await;
    let big = "def handler(event, context):\n    return 'x' * 5_000_000\n";
    console.deploy("big", big).await;
    for (command, first) in [
        ("bugle invoke big", "\"xxxx"),
        ("bugle list", "NAME "),
        ("bugle invoke big -o json", "{\n  \""),
        ("bugle completion bash", "_bugl"),
        ("bugle config dump", "[addr"),
    ] {
        let line = format!("{command} | head -c 5; echo; echo ${{PIPESTATUS[0]}}");
        let said = console.shell(&line).await.expect(0);
        assert_eq!(said.out, format!("{first}\n0\n"), "{command}");
        assert!(!said.err.contains("bugle:"), "{command}: {}", said.err);
    }
    platform.finish().await;
}

#[tokio::test]
async fn what_a_command_shows_is_json_and_yaml_on_demand() {
    let (console, platform) = Console::with_platform().await;
    console.deploy("echo", ECHO).await;
    let parse_yaml = |text: &str| serde_yaml_ng::from_str::<Value>(text).unwrap();
    for command in [
        "list",
        "describe echo",
        "deploy echo",
        "invoke echo [1]",
        "update echo --memory 300",
        // A label of its own for each, since a version is published once.
        "publish echo $RANDOM",
        "reserve set echo gold --max 1",
        "reserve list echo",
        "config dump",
        "doctor",
    ] {
        let line = format!("bugle {command} -q -o");
        let json = console.shell(&format!("{line} json")).await.expect(0);
        let yaml = console.shell(&format!("{line} yaml")).await.expect(0);
        let (json, yaml) = (json.json(), parse_yaml(&yaml.out));
        assert_eq!(json.is_object(), yaml.is_object(), "{line}");
        assert_eq!(keys(&json), keys(&yaml), "{line}");
        let table = console.shell(&format!("{line} table")).await.expect(0);
        assert!(!table.out.starts_with('{'), "{line}: {}", table.out);
    }
    let answer = console.run(["invoke", "echo", "[1]", "-o", "json"]).await;
    let answer = answer.expect(0).json();
    assert_eq!(answer["status"], 200);
    assert_eq!(answer["body"], json!([1]));
    assert_eq!(answer["headers"]["content-type"], "application/json");
    platform.finish().await;
}

/// The names in a document, or how many entries it has.
fn keys(document: &Value) -> Vec<String> {
    match document {
        Value::Object(fields) => fields.keys().cloned().collect(),
        Value::Array(entries) => (0..entries.len()).map(|index| index.to_string()).collect(),
        other => panic!("{other} is no document"),
    }
}

#[tokio::test]
async fn lines_of_a_log_are_json_and_yaml_on_demand() {
    let source = "def handler(event, context):\n    print('one: 1')\n    print('- two')\n";
    let (console, platform) = Console::with_platform().await;
    console.deploy("talk", source).await;
    console.run(["invoke", "talk"]).await.expect(0);
    let logs = console.run(["logs", "talk", "-o", "json"]).await.expect(0);
    let texts: Vec<Value> = logs
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].clone())
        .collect();
    assert_eq!(texts, ["one: 1", "- two"]);
    let logs = console.run(["logs", "talk", "-o", "yaml"]).await.expect(0);
    let documents = logs.out.split("---\n").skip(1);
    let texts: Vec<Value> = documents
        .map(|document| serde_yaml_ng::from_str::<Value>(document).unwrap()["text"].clone())
        .collect();
    assert_eq!(texts, ["one: 1", "- two"]);
    platform.finish().await;
}

#[tokio::test]
async fn a_failure_of_the_function_is_an_error_with_its_trace() {
    let source = "def handler(event, context):\n    raise ValueError('no such luck')\n";
    let (console, platform) = Console::with_platform().await;
    console.deploy("unlucky", source).await;
    let said = console.run(["invoke", "unlucky"]).await.expect(1);
    let said = said.complains("no such luck");
    assert!(said.err.contains("line 2, in handler"), "{}", said.err);
    is_summary(said.err.lines().next().unwrap(), "502", "cold");
    platform.finish().await;
}

#[tokio::test]
async fn a_stream_is_printed_as_it_comes() {
    let source = "
import os, time
def handler(event, context):
    context.get_stream().write('first')
    while not os.path.exists(event):
        time.sleep(0.01)
    return 'last'
";
    let (console, platform) = Console::with_platform().await;
    console.deploy("teller", source).await;
    let flag = console.site.code_root().join("teller/go-on");
    let event = json!(flag).to_string();
    let mut running = console.start(["invoke", "teller", &event, "--stream"]);
    running.says("first", 1).await;
    assert!(!running.out().contains("last"));
    std::fs::write(&flag, "").unwrap();
    let out = console.site.path().join("out");
    assert_eq!(running.end().await, 0);
    assert!(std::fs::read_to_string(out).unwrap().contains("last"));
    platform.finish().await;
}
