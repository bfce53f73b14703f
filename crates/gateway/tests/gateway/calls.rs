//! What a call asks and what it gets back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bugle_gateway::Config;
use bugle_instances::{CallError, CallRequest, ExitCause, ReplyBody, StartError};
use bugle_types::{FunctionId, Scale};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::client::Answer;
use crate::platform::{Platform, Script, ScriptedDriver, answering, json, replied, script, spec};

const URN: &str =
    "/serverless/v1/functions/sn:cn:yrk:default:function:0@svc@hello:latest/invocations";

async fn called(script: Script) -> Answer {
    let platform = Platform::start(script).await;
    let mut client = platform.client().await;
    client.call(&["x-trace-id: t1"], "{}").await;
    client.answer().await
}

#[tokio::test]
async fn a_result_comes_back_as_it_is_with_how_it_was_served() {
    let platform = Platform::start(answering(|| json(r#""hello""#))).await;
    let mut client = platform.client().await;
    for start in ["cold", "warm"] {
        client.call(&["x-trace-id: t1"], r#"{"name":"x"}"#).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.verdict(), answer.text()),
            ((200, "0"), r#""hello""#)
        );
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("x-trace-id"), "t1");
        assert_eq!(answer.header("x-billing-duration"), "3.214");
        assert_eq!(answer.header("x-log-result"), BASE64.encode("hello log\n"));
        let summary: Value = serde_json::from_str(answer.header("x-invoke-summary")).unwrap();
        assert_eq!(summary["start"], start);
        assert_eq!(summary["version"], "latest");
        assert_eq!(summary["run_ms"], 3.214);
        assert_eq!(summary["peak_memory_mb"], 9);
        assert_eq!(summary["init_ms"], if start == "cold" { 1.5 } else { 0.0 });
        assert_eq!(summary["instance"].as_str().unwrap().len(), 32);
    }
}

/// A script that tells what it was asked.
fn listening() -> (Script, mpsc::Receiver<CallRequest>) {
    let (tell, heard) = mpsc::channel(16);
    let listening = script(move |request| {
        let tell = tell.clone();
        async move {
            tell.send(request).await.unwrap();
            replied(json("1"))
        }
    });
    (listening, heard)
}

#[tokio::test]
async fn the_function_sees_body_headers_and_query() {
    let (script, mut heard) = listening();
    let platform = Platform::start(script).await;
    let mut client = platform.client().await;
    client
        .send(format!(
            "POST {URN}?a=1 HTTP/1.1\r\nhost: x\r\nX-Custom: one\r\nx-custom: two\r\n\
             content-type: image/png\r\nx-request-id: r1\r\ncontent-length: 3\r\n\r\n\x01\x02\x03"
        ))
        .await;
    assert_eq!(client.answer().await.status, 200);
    let request = heard.recv().await.unwrap();
    assert_eq!(
        (&*request.request, &request.body[..]),
        ("r1", &[1, 2, 3][..])
    );
    assert!(!request.json);
    let meta: Value = serde_json::from_slice(&request.meta).unwrap();
    assert_eq!(
        meta,
        json!({
            "headers": {
                "host": "x", "x-custom": "one", "content-type": "image/png",
                "x-request-id": "r1", "content-length": "3",
            },
            "method": "POST", "path": URN, "query": "a=1", "content_type": "image/png",
            "traceparent": null,
        })
    );
}

#[tokio::test]
async fn a_body_without_a_telling_content_type_may_be_json() {
    let (script, mut heard) = listening();
    let platform = Platform::start(script).await;
    let mut client = platform.client().await;
    for (headers, is_json) in [
        (&[][..], true),
        (&["content-type: application/x-www-form-urlencoded"], true),
        (&["content-type: application/octet-stream"], false),
    ] {
        client.call(headers, "{}").await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(heard.recv().await.unwrap().json, is_json, "{headers:?}");
    }
}

#[tokio::test]
async fn a_chunked_body_arrives_whole() {
    let (script, mut heard) = listening();
    let platform = Platform::start(script).await;
    let mut client = platform.client().await;
    let head = format!("POST {URN} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(head).await;
    for _ in 0..3 {
        client.send("4\r\nabcd\r\n").await;
        tokio::task::yield_now().await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(heard.recv().await.unwrap().body, "abcdabcdabcd");
}

#[tokio::test]
async fn an_exception_is_told_with_type_and_trace() {
    let answer = called(answering(|| ReplyBody::Error {
        code: 4002,
        message: "boom".into(),
        kind: Some("ValueError".into()),
        trace: Some("line 1".into()),
    }))
    .await;
    assert_eq!(answer.verdict(), (502, "4002"));
    assert_eq!(
        answer.json(),
        json!({
            "code": 4002, "message": "boom", "trace_id": "t1",
            "error": {"type": "ValueError", "trace": "line 1"},
        })
    );
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-billing-duration"), "3.214");
    assert_eq!(answer.header("x-log-result"), BASE64.encode("hello log\n"));
}

fn composing(status: u16, headers: &[(&str, &str)]) -> Script {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    answering(move || ReplyBody::Http {
        status,
        headers: headers.clone(),
        body: vec![0, 255, 1].into(),
    })
}

#[tokio::test]
async fn a_handler_may_compose_the_http_answer() {
    let answer = called(composing(
        418,
        &[
            ("Content-Type", "image/png"),
            ("X-Own", "1"),
            ("X-Own", "2"),
            ("Content-Length", "1000"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "close"),
            ("X-Inner-Code", "4711"),
            ("X-Trace-Id", "forged"),
        ],
    ))
    .await;
    assert_eq!(answer.verdict(), (418, "0"));
    assert_eq!(answer.body, [0, 255, 1]);
    assert_eq!(answer.header("content-type"), "image/png");
    assert_eq!(answer.header("x-own"), "2");
    assert_eq!(answer.header("x-trace-id"), "t1");
    assert_eq!(answer.header("connection"), "");
}

#[tokio::test]
async fn an_answer_that_cannot_be_sent_is_the_functions_fault() {
    let many = [("a", "b"); 101];
    let long = "x".repeat(70_000);
    for (status, headers) in [
        (101, &[][..]),
        (600, &[]),
        (200, &[("bad name", "x")]),
        (200, &[("", "x")]),
        (200, &[("name", "line\r\nset-cookie: x")]),
        (200, &many),
        (200, &[("name", &*long)]),
    ] {
        let answer = called(composing(status, headers)).await;
        assert_eq!(
            answer.verdict(),
            (502, "4007"),
            "{status} {:?}",
            answer.text()
        );
        assert!(!answer.headers.contains_key("set-cookie"));
    }
}

#[tokio::test]
async fn a_call_whose_instance_ended_says_how_and_is_not_repeated() {
    for (cause, verdict, word) in [
        (ExitCause::Code(3), (502, "1007"), "exit 3"),
        (ExitCause::Signal(9), (502, "1007"), "signal 9"),
        (
            ExitCause::OutOfMemory {
                limit_mib: 128,
                used_bytes: 1 << 27,
            },
            (502, "4205"),
            "oom",
        ),
    ] {
        let platform = Platform::start(script(move |_| {
            let cause = cause.clone();
            async { Err(CallError::Exited(cause)) }
        }))
        .await;
        let mut client = platform.client().await;
        client.call(&[], "").await;
        let answer = client.answer().await;
        assert_eq!(answer.verdict(), verdict);
        assert_eq!(answer.json()["cause"], word);
        assert_eq!(platform.running.ever(), 1);
    }
}

fn gone_before(times: usize) -> (Script, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let script = script(move |_| {
        let attempt = count.fetch_add(1, Ordering::SeqCst);
        async move {
            if attempt < times {
                return Err(CallError::NotSent(ExitCause::Signal(9)));
            }
            replied(json("1"))
        }
    });
    (script, asked)
}

#[tokio::test]
async fn a_call_that_never_reached_its_instance_goes_to_another_one() {
    let (script, asked) = gone_before(2);
    assert_eq!(called(script).await.verdict(), (200, "0"));
    assert_eq!(asked.load(Ordering::SeqCst), 3);

    let (script, asked) = gone_before(100);
    let answer = called(script).await;
    assert_eq!(answer.verdict(), (503, "150431"));
    assert_ne!(answer.header("retry-after"), "");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_overdue_call_is_answered_at_its_deadline() {
    let mut function = spec();
    function.timeout = Duration::from_millis(100);
    let hanging = script(|_| std::future::pending());
    let platform = Platform::with(Config::default(), hanging, [function]).await;
    let mut client = platform.client().await;
    client.call(&[], "").await;
    let answer = client.answer().await;
    assert_eq!(answer.verdict(), (504, "4010"));
    assert!(answer.json()["message"].as_str().unwrap().contains("0.1 s"));
}

#[tokio::test]
async fn failed_starts_say_why() {
    let cases = [
        (
            StartError::Initialization {
                message: "ImportError: no numpy".into(),
                trace: Some("line 1".into()),
            },
            (502, "4201"),
        ),
        (
            StartError::InitializationTimeout {
                limit: Duration::from_secs(3),
            },
            (504, "4211"),
        ),
        (StartError::Exited(ExitCause::Signal(11)), (502, "4201")),
        (
            StartError::Unsupported("no python3.6 in /usr/bin".into()),
            (503, "150431"),
        ),
    ];
    for (error, verdict) in cases {
        let mut driver = ScriptedDriver::new(answering(|| json("1")));
        driver.start_error = Some(error.clone());
        let nothing = Arc::new(
            |_: &FunctionId| -> bugle_instances::BoxFuture<'static, ()> { Box::pin(async {}) },
        );
        let platform = Platform::over(Config::default(), driver, [spec()], nothing).await;
        let mut client = platform.client().await;
        client.call(&[], "").await;
        let answer = client.answer().await;
        assert_eq!(answer.verdict(), verdict, "{error}");
    }
}

#[tokio::test]
async fn what_no_scheduler_can_serve_has_its_own_answers() {
    let mut disabled = spec();
    disabled.id.name = "0@svc@disabled".parse().unwrap();
    disabled.scale = Scale { min: 0, max: 0 };
    let script = answering(|| json("1"));
    let platform = Platform::with(Config::default(), script, [spec(), disabled]).await;
    let mut client = platform.client().await;
    let call = |name: &str, header: &str| {
        format!("POST /invocations/default/svc/{name} HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n")
    };
    for (request, verdict) in [
        (call("hello", "a: b"), (200, "0")),
        (call("hello:latest", "a: b"), (200, "0")),
        (call("hello:$latest", "a: b"), (200, "0")),
        (call("other", "a: b"), (404, "150424")),
        (call("hello:v1", "a: b"), (404, "150424")),
        (call("hello:!alias", "a: b"), (404, "150424")),
        (call("disabled", "a: b"), (429, "150429")),
        (call("hello", "x-instance-label: none"), (400, "150444")),
        (call("hello", "x-instance-label: a b"), (400, "150444")),
        (call("hello", "x-instance-cpu: 0"), (400, "200400")),
        (call("hello", "x-instance-memory: lots"), (400, "200400")),
        (
            call("hello", "x-instance-custom-resource: ["),
            (400, "200400"),
        ),
        (call("hello", "x-instance-session: {"), (400, "200400")),
        (
            call("hello", r#"x-instance-session: {"sessionID":""}"#),
            (400, "4037"),
        ),
        (
            call(
                "hello",
                r#"x-instance-session: {"sessionID":"a","concurrency":2}"#,
            ),
            (400, "4037"),
        ),
        (
            call("hello", r#"x-instance-session: {"sessionID":"a"}"#),
            (200, "0"),
        ),
        (call("hello", "x-invoke-type: async"), (400, "200400")),
        (
            "POST /serverless/v1/functions/hello/invocations HTTP/1.1\r\nhost: x\r\n\r\n".into(),
            (400, "200400"),
        ),
    ] {
        client.send(&request).await;
        let answer = client.answer().await;
        assert_eq!(answer.verdict(), verdict, "{request}");
        if answer.status != 200 {
            assert_eq!(answer.json()["code"].to_string(), verdict.1);
            assert_eq!(answer.json()["trace_id"], answer.header("x-trace-id"));
        }
        assert_eq!(answer.headers.contains_key("retry-after"), verdict.0 == 429);
    }
}

#[tokio::test]
async fn a_function_that_nobody_has_called_is_loaded() {
    let known = Arc::new(AtomicBool::new(false));
    let driver = ScriptedDriver::new(answering(|| json("1")));
    let (tell, mut asked) = mpsc::channel(1);
    let load = {
        let known = Arc::clone(&known);
        Arc::new(
            move |_: &FunctionId| -> bugle_instances::BoxFuture<'static, ()> {
                let (tell, known) = (tell.clone(), Arc::clone(&known));
                Box::pin(async move {
                    let (done, wait) = tokio::sync::oneshot::channel();
                    tell.send(done).await.unwrap();
                    wait.await.unwrap();
                    known.store(true, Ordering::SeqCst);
                })
            },
        )
    };
    let platform = Platform::over(Config::default(), driver, [], load).await;
    let mut client = platform.client().await;
    client.call(&[], "").await;
    let done: tokio::sync::oneshot::Sender<()> = asked.recv().await.unwrap();
    platform.scheduler.upsert(spec());
    done.send(()).unwrap();
    assert_eq!(client.answer().await.verdict(), (200, "0"));
    assert!(known.load(Ordering::SeqCst));
}

#[tokio::test]
async fn the_fixed_routes_answer() {
    let platform = Platform::start(answering(|| json("1"))).await;
    let mut client = platform.client().await;
    for (request, status, body) in [
        ("GET /healthz", 200, ""),
        ("GET /serverless/v1/componentshealth", 200, ""),
        (
            "GET /serverless/v1/capabilities",
            200,
            r#"{"dataSystem":{"dataSystemDeployed":false,"bypassDataSystem":false}}"#,
        ),
        ("GET /", 404, "404 page not found"),
        (
            "GET /serverless/v1/functions/f/invocations",
            404,
            "404 page not found",
        ),
        ("DELETE /healthz", 404, "404 page not found"),
    ] {
        client
            .send(format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (status, body), "{request}");
    }
}

#[tokio::test]
async fn pipelined_calls_are_answered_in_order() {
    let echo = script(|request: CallRequest| async move { replied(ReplyBody::Json(request.body)) });
    let platform = Platform::start(echo).await;
    let mut client = platform.client().await;
    for number in 0..40 {
        client.call(&[], number.to_string()).await;
    }
    for number in 0..40 {
        assert_eq!(client.answer().await.text(), number.to_string());
    }
}

#[tokio::test]
async fn every_call_of_a_function_is_counted_once_by_how_it_ended() {
    let mut function = spec();
    function.timeout = Duration::from_millis(100);
    let as_told = script(|request: CallRequest| async move {
        match &request.body[..] {
            b"crash" => return Err(CallError::Exited(ExitCause::Signal(9))),
            b"hang" => std::future::pending().await,
            b"raise" => {
                return replied(ReplyBody::Error {
                    code: 4002,
                    message: "boom".into(),
                    kind: None,
                    trace: None,
                });
            }
            _ => {}
        }
        replied(json("1"))
    });
    let platform = Platform::with(Config::default(), as_told, [function]).await;
    let mut client = platform.client().await;
    for (header, body, status) in [
        ("a: b", "", 200),
        ("accept: text/event-stream", "", 200),
        ("a: b", "crash", 502),
        ("a: b", "hang", 504),
        ("accept: text/event-stream", "raise", 502),
        ("x-instance-label: none", "", 400),
    ] {
        client.call(&[header], body).await;
        assert_eq!(client.answer().await.status, status, "{header} {body}");
    }
    assert_eq!(
        platform.counts(),
        [
            ("success", 2),
            ("function_error", 1),
            ("timeout", 1),
            ("crash", 1),
            ("rejected", 1),
        ]
    );
}
