//! Server-sent events.
#![cfg(test)]

use std::time::Duration;

use bugle_testkit::{FunctionSpec, Site, eventually, within};
use serde_json::json;

const SSE: [(&str, &str); 1] = [("accept", "text/event-stream")];
const BOUND: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_write_is_an_event_and_the_result_is_the_last() {
    let source = r#"
def handler(event, context):
    stream = context.get_stream()
    for number in range(event):
        stream.write("write %d" % number)
    return {"writes": event}
"#;
    let site = Site::new();
    let code = site.write_code("count", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@count", &code))
        .await;
    let answer = platform
        .try_invoke(&function, "3", &SSE)
        .await
        .unwrap()
        .expect(200);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("cache-control"), "no-cache");
    let text = answer.text();
    let events: Vec<&str> = text
        .split("\n\n")
        .filter(|event| !event.is_empty())
        .collect();
    assert_eq!(
        events[..3],
        ["data: write 0", "data: write 1", "data: write 2"]
    );
    assert_eq!(events[3].replace(' ', ""), r#"data:{"writes":3}"#);
    assert_eq!(events[4..], ["data: [DONE]"]);
    platform.finish().await;
}

#[tokio::test]
async fn an_event_arrives_while_the_handler_still_runs() {
    let source = r#"
import os, time
def handler(event, context):
    context.get_stream().write("first")
    while not os.path.exists(event):
        time.sleep(0.005)
    return "end"
"#;
    let site = Site::new();
    let code = site.write_code("wait", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@wait", &code))
        .await;
    let flag = code.join("go-on");
    let request = function.request(&json!(flag).to_string(), &SSE);
    let mut answer = platform.gateway.open(request).await.unwrap();
    let first = within("the first event", BOUND, answer.until("data: first\n\n")).await;
    assert!(!first.unwrap().contains("end"));
    std::fs::write(&flag, "").unwrap();
    let rest = within("the end", BOUND, answer.until("data: [DONE]\n\n"))
        .await
        .unwrap();
    assert!(rest.contains("data: \"end\"\n\n"), "{rest}");
    platform.finish().await;
}

#[tokio::test]
async fn a_client_that_did_not_ask_gets_the_result_alone() {
    let source = r#"
def handler(event, context):
    context.get_stream().write("unheard")
    return "result"
"#;
    let site = Site::new();
    let code = site.write_code("quiet", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@quiet", &code))
        .await;
    assert_eq!(
        platform.invoke(&function, "{}").await.expect(200).json(),
        json!("result")
    );
    platform.finish().await;
}

#[tokio::test]
async fn an_error_behind_the_first_event_is_an_event() {
    let source = r#"
def handler(event, context):
    context.get_stream().write("so far so good")
    raise RuntimeError("then it broke")
"#;
    let site = Site::new();
    let code = site.write_code("break", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@break", &code))
        .await;
    let answer = platform
        .try_invoke(&function, "{}", &SSE)
        .await
        .unwrap()
        .expect(200);
    let text = answer.text();
    assert!(text.starts_with("data: so far so good\n\n"), "{text}");
    assert!(
        text.contains("4002") && text.contains("then it broke"),
        "{text}"
    );
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    platform.finish().await;
}

#[tokio::test]
async fn logs_can_be_followed() {
    let source = "def handler(event, context):\n    print('said', event)\n";
    let site = Site::new();
    let code = site.write_code("said", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@said", &code))
        .await;
    let path = "/bugle/v1/functions/0@test@said/logs";
    let _ = platform.invoke(&function, "1").await.expect(200);
    eventually("the line is kept", BOUND, || async {
        let log = platform.control.get(path).await.text();
        log.contains("said 1").then_some(()).ok_or(log)
    })
    .await;

    let request = http::Request::get(format!("{path}?follow=true"))
        .header("accept", "text/event-stream")
        .body(bytes::Bytes::new())
        .unwrap();
    let mut follow = platform.control.open(request).await.unwrap();
    let _ = platform.invoke(&function, "2").await.expect(200);
    within("the new line", BOUND, follow.until("said 2"))
        .await
        .unwrap();
    drop(follow);
    platform.finish().await;
}
