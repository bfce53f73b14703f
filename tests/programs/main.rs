//! Functions that are programs of their own, which serve HTTP.
#![cfg(test)]

mod ends;
mod starts;

use std::time::Duration;

use bugle_testkit::{Answer, FunctionSpec, Platform, Registered, Site, eventually, within};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tokio::time::Instant;

const BOUND: Duration = Duration::from_secs(30);

/// Does what the body of a call says.
const SERVER: &str = include_str!("server.py");

fn server(site: &Site) -> FunctionSpec {
    let code = site.write_program("server", SERVER);
    FunctionSpec::program("0@test@server", "posix-custom-runtime", &code)
        .with("extendedTimeout", json!({"initializer": 20}))
        .with("extendedHandler", json!({"initializer": "-"}))
}

async fn send(platform: &Platform, function: &Registered, what: &Value) -> Answer {
    platform.invoke(function, &what.to_string()).await
}

#[tokio::test]
async fn status_headers_and_bytes_of_the_answer_come_through() {
    let site = Site::new();
    let platform = site.start().await;
    let function = platform.register(&server(&site)).await;
    let what = json!({"do": "answer", "status": 418, "headers": [
        ["X-Tea", "green"], ["Set-Cookie", "a=1"], ["Set-Cookie", "b=2"],
        ["Connection", "keep-alive, X-Hop"], ["X-Hop", "1"], ["Keep-Alive", "timeout=5"],
    ]});
    let answer = send(&platform, &function, &what).await.expect(418);
    assert_eq!(answer.text(), "teapot");
    assert_eq!(answer.header("content-type"), "text/plain");
    assert_eq!(answer.header("x-tea"), "green");
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    for hop in ["x-hop", "keep-alive"] {
        assert_eq!(answer.header(hop), "", "{hop}");
    }

    let bytes: Bytes = (0..=255).cycle().take(100_000).collect();
    let request = Request::post(function.path()).header("content-type", "application/octet-stream");
    let request = request.body(bytes.clone()).unwrap();
    let answer = platform.gateway.send(request).await.unwrap().expect(200);
    assert_eq!(answer.body, bytes);
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    platform.finish().await;
}

#[tokio::test]
async fn a_call_is_a_post_with_the_callers_body_and_headers_and_those_of_the_platform() {
    let site = Site::new();
    let platform = site.start().await;
    let spec = server(&site).with("environment", json!({"greeting": "hello"}));
    let function = platform.register(&spec).await;
    let request = Request::post(format!("{}?a=1&b=%20", function.path()))
        .header("content-type", "text/plain")
        .header("x-mine", "kept")
        .header("x-trace-id", "trace-1")
        .header("x-cff-func-name", "forged");
    let request = request.body(Bytes::from_static(b"{\"n\": 1}")).unwrap();
    let seen = platform.gateway.send(request).await.unwrap();
    let seen = seen.expect(200).json();
    assert_eq!(seen["path"], "/invoke?a=1&b=%20");
    assert_eq!(seen["body"], "{\"n\": 1}");
    for (name, value) in [
        ("content-type", "text/plain"),
        ("x-mine", "kept"),
        ("x-trace-id", "trace-1"),
        ("x-cff-request-id", "trace-1"),
        ("x-cff-func-name", "server"),
        ("x-cff-func-version", "latest"),
        ("x-cff-project-id", "default"),
        ("x-cff-package", "test"),
        ("x-cff-memory", "128"),
        ("x-cff-timeout", "30"),
    ] {
        assert_eq!(seen["headers"][name], value, "{name}");
    }
    let folder = site.code_root().join("server");
    assert_eq!(seen["cwd"], *folder.to_string_lossy());
    assert_eq!(seen["environment"]["greeting"], "hello");
    assert_eq!(seen["environment"]["RUNTIME_FUNC_NAME"], "server");
    assert_eq!(
        seen["headers"]["host"],
        format!(
            "127.0.0.1:{}",
            seen["environment"]["PORT"].as_str().unwrap()
        )
    );
    platform.finish().await;
}

#[tokio::test]
async fn an_http_function_gets_the_event_of_an_api_gateway_unless_it_wants_the_body() {
    let site = Site::new();
    let platform = site.start().await;
    let code = site.write_program("event", SERVER);
    let spec = FunctionSpec::program("0@test@event", "http", &code)
        .with("handler", "/api/orders")
        .with("extendedTimeout", json!({"initializer": 20}))
        .with("extendedHandler", json!({"initializer": "-"}));
    let mut function = platform.register(&spec).await;
    let request = Request::post(format!("{}?tag=a&tag=b+c&n=1", function.path()))
        .header("content-type", "text/plain")
        .header("x-trace-id", "trace-1");
    let request = request.body(Bytes::from_static(b"body")).unwrap();
    let seen = platform.gateway.send(request.clone()).await.unwrap();
    let seen = seen.expect(200).json();
    assert_eq!(seen["path"], "/api/orders");
    assert_eq!(seen["headers"]["content-type"], "application/json");
    let event: Value = serde_json::from_str(seen["body"].as_str().unwrap()).unwrap();
    assert_eq!(event["httpMethod"], "POST");
    assert_eq!(event["body"], "body");
    assert_eq!(event["isBase64Encoded"], false);
    assert_eq!(event["headers"]["content-type"], "text/plain");
    assert_eq!(
        event["queryStringParameters"],
        json!({"tag": ["a", "b c"], "n": "1"})
    );
    assert_eq!(event["requestContext"]["requestId"], "trace-1");

    let raw = spec.with("environment", json!({"DISABLE_APIG_FORMAT": "true"}));
    platform.update(&mut function, &raw).await;
    let request = function.request(r#"{"n": 1}"#, &[]);
    eventually("the update is seen", BOUND, || async {
        let seen = platform.gateway.send(request.clone()).await.unwrap();
        let seen = seen.expect(200).json();
        (seen["body"] == r#"{"n": 1}"#)
            .then_some(())
            .ok_or_else(|| seen.to_string())
    })
    .await;
    platform.finish().await;
}

#[tokio::test]
async fn calls_one_after_the_other_use_one_connection() {
    let site = Site::new();
    let platform = site.start().await;
    let function = platform.register(&server(&site)).await;
    for _ in 0..50 {
        let seen = send(&platform, &function, &json!({})).await.expect(200);
        assert_eq!(seen.json()["connections"], 1);
    }
    platform.finish().await;
}

#[tokio::test]
async fn one_program_serves_as_many_calls_at_once_as_it_may() {
    let site = Site::new();
    let platform = site.start().await;
    let spec = server(&site)
        .with("concurrentNum", "8")
        .with("maxInstance", "1");
    let function = platform.register(&spec).await;
    let _ = send(&platform, &function, &json!({})).await.expect(200);
    let begin = Instant::now();
    let what = json!({"do": "sleep", "seconds": 0.5});
    let calls = (0..8).map(|_| send(&platform, &function, &what));
    let answers = futures_util::future::join_all(calls).await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let first = answers[0].json();
    assert!(answers.iter().all(|answer| answer.json() == first));
    platform.finish().await;
}

#[tokio::test]
async fn an_event_stream_is_forwarded_as_it_comes_if_the_caller_takes_one() {
    let site = Site::new();
    let platform = site.start().await;
    let function = platform.register(&server(&site)).await;
    let go_on = site.code_root().join("server/go-on");
    let what = json!({"do": "events", "until": go_on}).to_string();
    let request = function.request(&what, &[("accept", "text/event-stream")]);
    let mut stream = platform.gateway.open(request).await.unwrap();
    assert_eq!(stream.status, 200);
    assert_eq!(stream.headers["x-model"], "small");
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    let first = "event: token\nid: 1\ndata: a\n\n";
    let seen = within("the first event", BOUND, stream.until("data: a\n\n")).await;
    assert_eq!(seen.unwrap(), first);
    std::fs::write(&go_on, "").unwrap();
    assert_eq!(stream.until("b\n\n").await.unwrap(), "data: b\n\n");
    assert_eq!(stream.next().await.unwrap(), None);

    let whole = platform.invoke(&function, &what).await.expect(200);
    assert_eq!(whole.text(), format!("{first}data: b\n\n"));
    platform.finish().await;
}

#[tokio::test]
async fn what_a_program_writes_is_in_its_log_and_in_that_of_the_call() {
    use base64::Engine as _;
    let site = Site::new();
    let platform = site.start().await;
    let function = platform.register(&server(&site)).await;
    let what = json!({"do": "print"}).to_string();
    let answer = platform
        .try_invoke(&function, &what, &[("x-trace-id", "trace-1")])
        .await;
    let answer = answer.unwrap().expect(200);
    let tail = base64::engine::general_purpose::STANDARD.decode(answer.header("x-log-result"));
    let tail = String::from_utf8(tail.unwrap()).unwrap();
    for line in ["said on stdout", "said on stderr"] {
        assert!(tail.contains(line), "{tail}");
    }
    let path = "/bugle/v1/functions/0@test@server/logs";
    eventually("the lines are in the log", BOUND, || async {
        let log = platform.control.get(path).await.expect(200).text();
        let is_there = |text: &str, stream: &str| {
            log.lines().any(|line| {
                line.contains(text) && line.contains(stream) && line.contains("trace-1")
            })
        };
        (is_there("said on stdout", "stdout") && is_there("said on stderr", "stderr"))
            .then_some(())
            .ok_or(log)
    })
    .await;
    platform.finish().await;
}
