//! Registering functions and calling them.
#![cfg(test)]

use std::time::Duration;

use base64::Engine as _;
use bugle_testkit::{FunctionSpec, Site, eventually};
use bytes::Bytes;
use http::Request;
use serde_json::json;

const ECHO: &str = r"
def handler(event, context):
    return event
";

#[tokio::test]
async fn a_registered_function_answers() {
    let site = Site::new();
    let code = site.write_code("echo", "index.py", ECHO);
    let platform = site.start().await;
    let echo = platform
        .register(&FunctionSpec::python("0@test@echo", &code))
        .await;
    assert_eq!(echo.urn, "sn:cn:yrk:default:function:0@test@echo:latest");

    let answer = platform
        .invoke(&echo, r#"{"name":"x","nested":[1,2.5,null,"ä"]}"#)
        .await
        .expect(200);

    assert_eq!(
        answer.json(),
        json!({"name": "x", "nested": [1, 2.5, null, "ä"]})
    );
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-inner-code"), "0");
    assert!(!answer.header("x-trace-id").is_empty());
    platform.finish().await;
}

#[tokio::test]
async fn an_empty_body_is_an_empty_event() {
    let site = Site::new();
    let code = site.write_code("echo", "index.py", ECHO);
    let platform = site.start().await;
    let echo = platform
        .register(&FunctionSpec::python("0@test@echo", &code))
        .await;
    assert_eq!(
        platform.invoke(&echo, "").await.expect(200).json(),
        json!({})
    );
    assert_eq!(
        platform.invoke(&echo, "null").await.expect(200).json(),
        json!({})
    );
    platform.finish().await;
}

#[tokio::test]
async fn every_address_of_a_function_reaches_it() {
    let site = Site::new();
    let code = site.write_code("echo", "index.py", ECHO);
    let platform = site.start().await;
    platform
        .register(&FunctionSpec::python("0@test@echo", &code))
        .await;
    let base = "/serverless/v1/functions/sn:cn:yrk:default:function:0@test@echo";
    for path in [
        format!("{base}/invocations"),
        format!("{base}:latest/invocations"),
        format!("{base}:$latest/invocations"),
        "/invocations/default/test/echo/".to_owned(),
        "/invocations/default/test/echo:latest/".to_owned(),
    ] {
        let answer = platform.gateway.post(&path, &json!(path)).await;
        assert_eq!(answer.expect(200).json(), json!(path));
    }
    platform.finish().await;
}

#[tokio::test]
async fn bytes_that_are_no_json_reach_the_handler_as_they_are() {
    let site = Site::new();
    let source = "def handler(event, context):\n    return [type(event).__name__, list(event)]\n";
    let code = site.write_code("bytes", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@bytes", &code))
        .await;
    let body: Vec<u8> = (0..=255).collect();
    let request = Request::post(function.path())
        .header("content-type", "application/octet-stream")
        .body(Bytes::from(body.clone()))
        .unwrap();
    let answer = platform.gateway.send(request).await.unwrap().expect(200);
    assert_eq!(answer.json(), json!(["bytes", body]));
    platform.finish().await;
}

#[tokio::test]
async fn a_handler_may_choose_status_headers_and_bytes() {
    let source = r#"
import base64
def handler(event, context):
    return {
        "statusCode": 418,
        "headers": {"Content-Type": "image/x-teapot", "X-Cups": "2"},
        "isBase64Encoded": True,
        "body": base64.b64encode(bytes(range(256))).decode(),
    }
"#;
    let site = Site::new();
    let code = site.write_code("teapot", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@teapot", &code))
        .await;
    let answer = platform.invoke(&function, "{}").await.expect(418);
    assert_eq!(answer.header("content-type"), "image/x-teapot");
    assert_eq!(answer.header("x-cups"), "2");
    assert_eq!(&answer.body[..], (0..=255).collect::<Vec<u8>>());
    platform.finish().await;
}

#[tokio::test]
async fn the_context_knows_the_function_and_the_call() {
    let source = r#"
def handler(event, context):
    return {
        "request": context.getRequestID(),
        "tenant": context.getTenantID(),
        "package": context.getPackage(),
        "function": context.getFunctionName(),
        "version": context.getVersion(),
        "memory": context.getMemorySize(),
        "cpu": context.getCPUNumber(),
        "timeout": context.getRunningTimeInSeconds(),
        "remaining": 0 < context.getRemainingTimeInMilliSeconds() <= 30000,
        "colour": context.getUserData("colour"),
        "missing": context.getUserData("missing", "none"),
    }
"#;
    let site = Site::new();
    let code = site.write_code("context", "index.py", source);
    let platform = site.start().await;
    let spec = FunctionSpec::python("0@test@context", &code)
        .with("environment", json!({"colour": "blue"}));
    let function = platform.register(&spec).await;
    let headers = [("X-Trace-Id", "trace-7")];
    let answer = platform
        .try_invoke(&function, "{}", &headers)
        .await
        .unwrap()
        .expect(200);
    assert_eq!(answer.header("x-trace-id"), "trace-7");
    assert_eq!(
        answer.json(),
        json!({
            "request": "trace-7", "tenant": "default", "package": "test", "function": "context",
            "version": "latest", "memory": 128, "cpu": 300, "timeout": 30, "remaining": true,
            "colour": "blue", "missing": "none",
        })
    );
    platform.finish().await;
}

#[tokio::test]
async fn the_environment_is_encrypted_at_rest_and_open_to_the_function() {
    let source = "import os\ndef handler(event, context):\n    return os.environ['PASSWORD']\n";
    let site = Site::new();
    let code = site.write_code("secret", "index.py", source);
    let platform = site.start().await;
    let spec = FunctionSpec::python("0@test@secret", &code).with(
        "environment",
        json!({"PASSWORD": "correct-horse-battery-staple"}),
    );
    let function = platform.register(&spec).await;
    let answer = platform.invoke(&function, "{}").await.expect(200);
    assert_eq!(answer.json(), json!("correct-horse-battery-staple"));
    platform.finish().await;

    let mut files = 0;
    for entry in std::fs::read_dir(site.data_dir()).unwrap().flatten() {
        if !entry.path().is_file() {
            continue;
        }
        files += 1;
        let bytes = std::fs::read(entry.path()).unwrap();
        let found = bytes
            .windows(28)
            .any(|window| window == b"correct-horse-battery-staple");
        assert!(
            !found,
            "the value is in clear in {}",
            entry.path().display()
        );
    }
    assert!(files > 0, "the platform kept nothing");
}

#[tokio::test]
async fn an_async_handler_runs_as_a_coroutine() {
    let source = r"
import asyncio
async def double(n):
    await asyncio.sleep(0.01)
    return 2 * n
async def handler(event, context):
    return await asyncio.gather(*(double(n) for n in event))
";
    let site = Site::new();
    let code = site.write_code("double", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@double", &code))
        .await;
    assert_eq!(
        platform
            .invoke(&function, "[1,2,3]")
            .await
            .expect(200)
            .json(),
        json!([2, 4, 6])
    );
    platform.finish().await;
}

#[tokio::test]
async fn a_call_tells_what_it_cost_and_what_it_said() {
    let source = r#"
import time
def handler(event, context):
    print("spoken by the handler")
    time.sleep(0.05)
    return None
"#;
    let site = Site::new();
    let code = site.write_code("talk", "index.py", source);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@talk", &code))
        .await;
    let cold = platform.invoke(&function, "{}").await.expect(200);
    let warm = platform.invoke(&function, "{}").await.expect(200);
    assert_eq!(cold.text(), r#""""#);

    for (answer, start) in [(&cold, "cold"), (&warm, "warm")] {
        let billed: f64 = answer.header("x-billing-duration").parse().unwrap();
        assert!((50.0..5000.0).contains(&billed), "{billed} ms of user time");
        let summary = answer.header("x-invoke-summary");
        assert!(summary.contains(start), "a {start} start: {summary}");
        assert_eq!(
            decode_base64(answer.header("x-log-result")).trim(),
            "spoken by the handler"
        );
    }
    platform.finish().await;
}

#[tokio::test]
async fn a_change_of_an_idle_function_is_seen_by_the_next_call() {
    let site = Site::new();
    let platform = site.start().await;
    let mut function = platform.register(&versioned(&site, 0)).await;
    for number in 1..=3 {
        platform
            .update(&mut function, &versioned(&site, number))
            .await;
    }
    assert_eq!(
        platform.invoke(&function, "{}").await.expect(200).json(),
        json!(3)
    );
    platform.finish().await;
}

#[tokio::test]
async fn a_change_of_a_running_function_is_seen_within_a_second() {
    // `scheduler.switch_millis`, and what a busy machine adds.
    const SWITCH: Duration = Duration::from_millis(1500);
    let site = Site::new();
    let platform = site.start().await;
    let mut function = platform.register(&versioned(&site, 0)).await;
    for number in 1..=5 {
        let _ = platform.invoke(&function, "{}").await.expect(200);
        platform
            .update(&mut function, &versioned(&site, number))
            .await;
        eventually("the new code answers", SWITCH, || async {
            let answer = platform.invoke(&function, "{}").await.expect(200).json();
            if answer == json!(number) {
                Ok(())
            } else {
                Err(answer.to_string())
            }
        })
        .await;
    }
    platform.finish().await;
}

/// A function whose code answers `number`.
fn versioned(site: &Site, number: u32) -> FunctionSpec {
    let source = format!("def handler(event, context):\n    return {number}\n");
    let code = site.write_code(&format!("v{number}"), "index.py", &source);
    FunctionSpec::python("0@test@versioned", &code)
}

#[tokio::test]
async fn a_published_version_stays_as_it_was() {
    let site = Site::new();
    let platform = site.start().await;
    let mut draft = platform.register(&versioned(&site, 1)).await;
    let publish = json!({"revisionId": draft.revision, "versionNumber": "v1", "kind": "faas"});
    let path = "/serverless/v1/functions/0@test@versioned/versions";
    let published = platform
        .control
        .post(path, &publish)
        .await
        .expect(200)
        .json();
    let urn = published["function"]["functionVersionUrn"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(urn.ends_with(":v1"), "{urn}");

    platform.update(&mut draft, &versioned(&site, 2)).await;

    let path = format!("/serverless/v1/functions/{urn}/invocations");
    assert_eq!(
        platform
            .gateway
            .post(&path, &json!({}))
            .await
            .expect(200)
            .json(),
        json!(1)
    );
    assert_eq!(
        platform.invoke(&draft, "{}").await.expect(200).json(),
        json!(2)
    );
    platform.finish().await;
}

#[tokio::test]
async fn a_deleted_function_is_not_found() {
    let site = Site::new();
    let code = site.write_code("echo", "index.py", ECHO);
    let platform = site.start().await;
    let echo = platform
        .register(&FunctionSpec::python("0@test@echo", &code))
        .await;
    let _ = platform.invoke(&echo, "{}").await.expect(200);
    let _ = platform
        .control
        .delete("/serverless/v1/functions/0@test@echo")
        .await
        .expect(200);
    let answer = platform.invoke(&echo, "{}").await.expect(404);
    assert_eq!(answer.header("x-inner-code"), "150424");
    assert_eq!(answer.json()["code"], 150_424);
    assert_eq!(answer.json()["trace_id"], answer.header("x-trace-id"));
    platform.finish().await;
}

#[tokio::test]
async fn of_sixteen_updates_from_one_revision_exactly_one_wins() {
    let site = Site::new();
    let code = site.write_code("echo", "index.py", ECHO);
    let platform = site.start().await;
    let echo = platform
        .register(&FunctionSpec::python("0@test@echo", &code))
        .await;
    let updates = (0..16).map(|number| {
        let spec = FunctionSpec::python("0@test@echo", &code)
            .with("description", format!("update {number}"))
            .with("revisionId", echo.revision.clone());
        let control = platform.control;
        async move {
            control
                .put("/serverless/v1/functions/0@test@echo", &spec.body())
                .await
        }
    });
    let answers = futures_util::future::join_all(updates).await;
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    let lost = answers
        .iter()
        .filter(|answer| answer.json()["code"] == 4134)
        .count();
    assert_eq!((won, lost), (1, 15));
    platform.finish().await;
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let site = Site::new();
    let code = site.write_code("echo", "index.py", ECHO);
    let platform = site.start().await;
    let runtime = platform.python().await;
    let spec = FunctionSpec::python("0@test@echo", &code).with("runtime", runtime);
    for tenant in ["red", "blue"] {
        let request = Request::post("/serverless/v1/functions")
            .header("content-type", "application/json")
            .header("x-tenant-id", tenant)
            .body(Bytes::from(spec.body().to_string()))
            .unwrap();
        let answer = platform
            .control
            .send(request)
            .await
            .unwrap()
            .expect(200)
            .json();
        let urn = format!("sn:cn:yrk:{tenant}:function:0@test@echo:latest");
        assert_eq!(answer["function"]["functionVersionUrn"], urn);
    }
    let request = Request::delete("/serverless/v1/functions/0@test@echo")
        .header("x-tenant-id", "red")
        .body(Bytes::new())
        .unwrap();
    let _ = platform.control.send(request).await.unwrap().expect(200);
    let call = |tenant: &str| format!("/invocations/{tenant}/test/echo/");
    let _ = platform
        .gateway
        .post(&call("red"), &json!(1))
        .await
        .expect(404);
    let _ = platform
        .gateway
        .post(&call("blue"), &json!(1))
        .await
        .expect(200);
    platform.finish().await;
}

#[tokio::test]
async fn a_missing_interpreter_is_named_with_the_places_that_were_searched() {
    let site = Site::new();
    let code = site.write_code("old", "index.py", ECHO);
    let platform = site.start().await;
    let installed = platform
        .control
        .get("/bugle/v1/info")
        .await
        .expect(200)
        .text();
    let missing = ["python3.6", "python3.7", "python3.8", "python3.9"]
        .into_iter()
        .find(|name| !installed.contains(name))
        .expect("no machine has every old Python");
    let spec = FunctionSpec::python("0@test@old", &code).with("runtime", missing);
    let function = platform.register(&spec).await;
    let answer = platform.invoke(&function, "{}").await;
    assert!(answer.status >= 400, "{}", answer.text());
    assert!(answer.text().contains(missing), "{}", answer.text());
    assert!(
        answer.text().contains('/'),
        "the searched places: {}",
        answer.text()
    );
    platform.finish().await;
}

fn decode_base64(text: &str) -> String {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .expect("base64");
    String::from_utf8(bytes).expect("UTF-8")
}
