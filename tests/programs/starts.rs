//! How programs start, and what callers are told when they do not.

use std::time::Duration;

use bugle_testkit::{FunctionSpec, Site};
use serde_json::json;
use tokio::time::Instant;

use crate::{SERVER, server};

#[tokio::test]
async fn the_initializer_is_called_once_and_one_that_is_not_there_is_none() {
    let site = Site::new();
    let platform = site.start().await;
    for status in ["204", "404"] {
        let name = format!("0@test@init{status}");
        let spec = server(&site)
            .with("name", name)
            .with("environment", json!({"INIT": status}));
        let function = platform.register(&spec).await;
        for _ in 0..3 {
            let _ = platform.invoke(&function, "{}").await.expect(200);
        }
        let path = format!("/bugle/v1/functions/{}/logs", function.name);
        let log = platform.control.get(&path).await.expect(200).text();
        assert_eq!(log.matches("initializing").count(), 1, "{log}");
    }
    platform.finish().await;
}

#[tokio::test]
async fn an_initializer_that_fails_is_told_with_what_it_said() {
    let site = Site::new();
    let platform = site.start().await;
    let spec = server(&site).with("environment", json!({"INIT": "500"}));
    let function = platform.register(&spec).await;
    let answer = platform.invoke(&function, "{}").await.expect(502);
    assert_eq!(answer.header("x-inner-code"), "4201");
    let text = answer.text();
    assert!(
        text.contains("/init answered 500: the database is away"),
        "{text}"
    );
    platform.finish().await;
}

#[tokio::test]
async fn an_initializer_that_hangs_is_ended_at_its_limit() {
    let site = Site::new();
    let platform = site.start().await;
    let spec = server(&site)
        .with("extendedTimeout", json!({"initializer": 2}))
        .with("environment", json!({"INIT": "hang"}));
    let function = platform.register(&spec).await;
    let answer = platform.invoke(&function, "{}").await.expect(504);
    assert_eq!(answer.header("x-inner-code"), "4211");
    platform.finish().await;
}

#[tokio::test]
async fn a_program_that_does_not_listen_has_three_seconds() {
    let site = Site::new();
    let platform = site.start().await;
    let code = site.write_program("deaf", SERVER);
    let spec = FunctionSpec::program("0@test@deaf", "http", &code)
        .with("environment", json!({"START": "deaf"}));
    let function = platform.register(&spec).await;
    let begin = Instant::now();
    let answer = platform.invoke(&function, "{}").await.expect(504);
    let took = begin.elapsed();
    assert_eq!(answer.header("x-inner-code"), "4211");
    assert!(
        (Duration::from_secs(3)..Duration::from_secs(6)).contains(&took),
        "{took:?}"
    );
    let path = "/bugle/v1/functions/0@test@deaf/logs";
    let log = platform.control.get(path).await.expect(200).text();
    assert!(log.contains("waiting for the program to listen"), "{log}");
    platform.finish().await;
}

#[tokio::test]
async fn a_program_that_ends_before_it_listens_is_told_with_its_last_words() {
    let site = Site::new();
    let platform = site.start().await;
    let spec = server(&site).with("environment", json!({"START": "exit"}));
    let function = platform.register(&spec).await;
    let answer = platform.invoke(&function, "{}").await.expect(502);
    assert_eq!(answer.header("x-inner-code"), "4201");
    let text = answer.text();
    assert!(text.contains("exit code 7"), "{text}");
    assert!(text.contains("no configuration"), "{text}");
    platform.finish().await;
}

#[tokio::test]
async fn a_folder_without_a_program_is_told() {
    let site = Site::new();
    let platform = site.start().await;
    let code = site.write_code("empty", "readme", "");
    let spec = FunctionSpec::program("0@test@empty", "posix-custom-runtime", &code);
    let function = platform.register(&spec).await;
    let answer = platform.invoke(&function, "{}").await.expect(503);
    assert!(
        answer.text().contains("has no file bootstrap"),
        "{}",
        answer.text()
    );
    platform.finish().await;
}

#[tokio::test]
async fn a_bootstrap_without_shebang_is_run_by_bash_and_two_instances_have_two_ports() {
    let site = Site::new();
    let platform = site.start().await;
    site.write_code("plain", "server.py", SERVER);
    let script = "sleep 0.01\n[[ -n $BASH_VERSION ]] && exec python3 server.py\n";
    let code = site.write_code("plain", "bootstrap", script);
    let spec = FunctionSpec::program("0@test@plain", "posix-custom-runtime", &code)
        .with("extendedTimeout", json!({"initializer": 20}))
        .with("extendedHandler", json!({"initializer": "-"}));
    let function = platform.register(&spec).await;
    let sleep = json!({"do": "sleep", "seconds": 1}).to_string();
    let (one, other) = tokio::join!(
        platform.invoke(&function, &sleep),
        platform.invoke(&function, &sleep)
    );
    assert_ne!(
        one.expect(200).json()["instance"],
        other.expect(200).json()["instance"]
    );
    platform.finish().await;
}
