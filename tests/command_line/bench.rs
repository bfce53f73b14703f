//! `bugle bench`: what it measures, and how it ends.

use std::time::Duration;

use bugle_testkit::eventually;
use serde_json::{Value, json};

use crate::console::Console;

const HELLO: &str = "def handler(event, context):\n    return event\n";

#[tokio::test]
async fn a_function_is_measured_at_a_rate() {
    let (console, platform) = Console::with_platform().await;
    console.deploy("f", HELLO).await;
    let said = console
        .shell("bugle bench f '{\"a\": 1}' --rate 50 --duration 2 -o json")
        .await
        .expect(0);
    let Value::Object(report) = said.json() else {
        panic!("{}", said.out);
    };
    assert_eq!(report["mode"], "open");
    assert_eq!(report["asked_per_second"], 50);
    let calls = &report["calls"];
    assert_eq!(
        (&calls["total"], &calls["succeeded"], &calls["unsent"]),
        (&json!(100), &json!(100), &json!(0))
    );
    assert_eq!(report["failures"], json!([]));
    let latency = ["p50", "p90", "p99", "p99_9", "max"].map(|name| {
        let value = report["latency_ms"][name].as_f64();
        value.unwrap_or_else(|| panic!("{name} in {}", said.out))
    });
    assert!(latency[0] > 0.0 && latency.is_sorted(), "{latency:?}");
    // The second of the warm-up took the start.
    let cold = &report["cold_starts"];
    assert_eq!(cold["calls"], 0, "{cold}");
    assert!(cold["in_warm_up"].as_u64().unwrap() >= 1, "{cold}");

    let shown = console
        .run(["bench", "f", "--duration", "1", "--warm-up", "0"])
        .await
        .expect(0)
        .out;
    let starts: Vec<_> = shown
        .lines()
        .filter_map(|line| line.split("  ").next())
        .collect();
    assert_eq!(
        starts,
        ["function", "rate", "calls", "latency", "cold starts"],
        "{shown}"
    );
    assert!(shown.contains("of 100 asked for"), "{shown}");
    platform.finish().await;
}

#[tokio::test]
async fn calls_that_wait_for_their_turn_show_the_most_that_can_be_served() {
    let (console, platform) = Console::with_platform().await;
    console.deploy("f", HELLO).await;
    let closed = ["bench", "f", "--closed", "--connections", "4"];
    let closed = [&closed[..], &["--duration", "1", "-o", "yaml"]].concat();
    let line = format!("bugle {}", closed.join(" "));
    let said = console.shell(&line).await.expect(0);
    let report: Value = serde_yaml_ng::from_str(&said.out).unwrap();
    assert_eq!(report["mode"], "closed");
    assert_eq!(report["asked_per_second"], Value::Null);
    assert!(report["answered_per_second"].as_f64().unwrap() > 10.0);
    assert_eq!(report["client_delay_ms"], Value::Null);
    platform.finish().await;
}

#[tokio::test]
async fn failures_are_counted_by_kind_with_an_example() {
    let source = "
calls = 0
def handler(event, context):
    global calls
    calls += 1
    if event == 'never' or calls % 4 == 0:
        raise ValueError('no more tea')
    if calls % 4 == 1:
        return {'statusCode': 503, 'headers': {}, 'isBase64Encoded': False, 'body': 'asleep'}
    return calls
";
    let (console, platform) = Console::with_platform().await;
    console.deploy("f", source).await;
    let bench = "bugle bench f --rate 40 --duration 1 --warm-up 0 --connections 1";
    let said = console
        .shell(&format!("{bench} -o json"))
        .await
        .expect(0)
        .json();
    assert_eq!(said["calls"]["failed"], 20, "{said}");
    let failures = said["failures"].as_array().unwrap();
    let failure = |status: u16| {
        let found = failures.iter().find(|failure| failure["status"] == status);
        found.unwrap_or_else(|| panic!("no {status} in {said}"))
    };
    let own = failure(503);
    assert_eq!((&own["count"], &own["code"]), (&json!(10), &json!(0)));
    assert_eq!(own["message"], "asleep");
    let thrown = failures.iter().find(|failure| failure["code"] == 4002);
    let thrown = thrown.unwrap_or_else(|| panic!("no code 4002 in {said}"));
    assert_eq!(thrown["count"], 10);
    let message = thrown["message"].as_str().unwrap();
    assert!(message.contains("no more tea"), "{message}");

    let none = console.shell(&format!("{bench} '\"never\"'")).await;
    let none = none.expect(1);
    assert!(none.err.contains("every call failed"), "{}", none.err);
    assert!(none.out.contains("4002") && none.out.contains("no more tea"));
    platform.finish().await;
}

/// Calls of the function `f` that succeeded.
async fn succeeded(console: &Console) -> u64 {
    let said = console.run(["describe", "f", "-o", "json"]).await.expect(0);
    let counts = said.json()["status"]["calls"].clone();
    let counts = counts.as_array().into_iter().flatten();
    let mut succeeded = counts.filter(|count| count["outcome"] == "success");
    succeeded
        .next()
        .map_or(0, |count| count["count"].as_u64().unwrap())
}

#[tokio::test]
async fn an_interrupted_measurement_shows_what_it_has() {
    let (console, platform) = Console::with_platform().await;
    console.deploy("f", HELLO).await;
    for arguments in [
        ["bench", "f", "--warm-up=0", "--duration=3600", "--rate=200"],
        ["bench", "f", "--warm-up=0", "--duration=3600", "--closed"],
    ] {
        let before = succeeded(&console).await;
        let running = console.start(arguments);
        eventually("it is called", Duration::from_secs(30), || async {
            let calls = succeeded(&console).await - before;
            if calls > 100 {
                Ok(())
            } else {
                Err(format!("{calls} calls"))
            }
        })
        .await;
        let out = running.out_path();
        assert_eq!(running.interrupt().await, 130);
        let shown = std::fs::read_to_string(out).unwrap();
        assert!(
            shown.contains("0 failed") && shown.contains("p99.9"),
            "{shown}"
        );
    }
    platform.finish().await;
}

#[tokio::test]
async fn what_cannot_be_measured_is_said_before_it_takes_time() {
    let (console, platform) = Console::with_platform().await;
    console.deploy("hello", HELLO).await;
    let said = console.run(["bench", "helo"]).await.expect(5);
    said.complains("did you mean hello?");
    let said = console.run(["bench", "hello", "--rate", "0"]).await;
    said.expect(2).complains("0 is not in 1..=1000000");
    let both = ["bench", "hello", "--closed", "--rate", "5"];
    console
        .run(both)
        .await
        .expect(2)
        .complains("cannot be used");
    let said = console.run(["bench", "hello", "tea"]).await.expect(2);
    said.complains("the event is not JSON");
    let said = console.run(["bench", "hello", "[1]", "--curl"]).await;
    let said = said.expect(0);
    assert!(said.out.ends_with("--data-raw '[1]'\n"), "{}", said.out);
    platform.finish().await;
    let said = console.run(["bench", "hello"]).await.expect(3);
    said.complains("nothing answers at");
}
