//! Bodies: streamed both ways, huge, broken off, too large.

use std::time::Duration;

use bugle_testkit::{Site, StartOptions, eventually, within};
use bytes::Bytes;
use http::Method;

use crate::{AT, BOUND, Raw, folder, get, request, running, server, streams};

#[tokio::test]
async fn the_answer_streams_while_the_request_is_still_being_sent() {
    let site = Site::new();
    let platform = running(&site).await;
    let head =
        format!("POST {AT}/pieces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut raw = Raw::open(&platform, &head).await;
    for piece in ["one", "two", "three"] {
        raw.say(&format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        // The next piece is not sent before this one has come back.
        let _ = raw.until(&format!("got {piece}")).await;
    }
    raw.say("0\r\n\r\n").await;
    let _ = raw.until("0\r\n\r\n").await;
    platform.finish().await;
}

#[tokio::test]
async fn events_come_as_the_server_sends_them() {
    let site = Site::new();
    let platform = running(&site).await;
    let go_on = folder(&site).join("go-on");
    let path = format!("/events?until={}", go_on.display());
    let sent = request(Method::GET, &path).body(Bytes::new()).unwrap();
    let mut stream = platform.gateway.open(sent).await.unwrap();
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    let first = within("the first event", BOUND, stream.until("\n\n")).await;
    assert_eq!(first.unwrap(), "data: first\n\n");
    std::fs::write(&go_on, "").unwrap();
    assert_eq!(stream.until("\n\n").await.unwrap(), "data: last\n\n");
    assert_eq!(stream.next().await.unwrap(), None);
    platform.finish().await;
}

#[tokio::test]
async fn a_caller_that_leaves_a_stream_is_told_to_the_server_and_frees_the_slot() {
    let site = Site::new();
    let platform = site.start().await;
    let one = server(&site)
        .with("concurrentNum", "2")
        .with("maxInstance", "1");
    let _ = platform.register(&one).await;
    let path = format!("/events?until={}", folder(&site).join("never").display());
    let sent = request(Method::GET, &path).body(Bytes::new()).unwrap();
    let mut stream = platform.gateway.open(sent).await.unwrap();
    let _ = stream.until("first").await.unwrap();
    assert_eq!(streams(&platform).await, (1, 0));
    drop(stream);
    eventually("the server knows", BOUND, || async {
        let now = streams(&platform).await;
        (now == (0, 1))
            .then_some(())
            .ok_or_else(|| format!("{now:?}"))
    })
    .await;
    platform.finish().await;
}

#[tokio::test]
async fn bodies_larger_than_any_call_pass_in_both_directions() {
    let site = Site::new();
    let platform = running(&site).await;
    let body = Bytes::from(vec![7; 40 << 20]);
    let sent = request(Method::PUT, "/digest").body(body).unwrap();
    let answer = platform
        .gateway
        .send(sent)
        .await
        .unwrap()
        .expect(200)
        .json();
    assert_eq!(answer["size"], 40 << 20);
    for chunked in ["", "&chunked"] {
        let answer = get(&platform, &format!("/size?bytes={}{chunked}", 40 << 20)).await;
        assert_eq!(answer.expect(200).body.len(), 40 << 20);
    }
    platform.finish().await;
}

#[tokio::test]
async fn what_exceeds_the_limit_is_refused_or_broken_off() {
    let site = Site::new();
    let options = StartOptions::default().config("gateway", "max_http_body_bytes", "1000000");
    let mut platform = site.start_with(&options).await;
    platform.tolerate("program takes no connections");
    let _ = platform.register(&server(&site)).await;
    let exact = request(Method::POST, "/digest").body(Bytes::from(vec![1; 1_000_000]));
    let exact = platform.gateway.send(exact.unwrap()).await.unwrap();
    assert_eq!(exact.expect(200).json()["size"], 1_000_000);
    let declared = request(Method::POST, "/digest").body(Bytes::from(vec![1; 1_000_001]));
    let refused = platform
        .gateway
        .send(declared.unwrap())
        .await
        .unwrap()
        .expect(413);
    assert_eq!(refused.json()["error_code"], "FSS.0413");
    assert_eq!(refused.header("x-inner-code"), "4140");

    let head =
        format!("POST {AT}/digest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut raw = Raw::open(&platform, &head).await;
    raw.say(&format!("{:x}\r\n{}\r\n", 600_000, "x".repeat(600_000)))
        .await;
    raw.say(&format!("{:x}\r\n{}\r\n", 600_000, "x".repeat(600_000)))
        .await;
    let answer = raw.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    let answer = get(&platform, "/size?bytes=1000000").await.expect(200);
    assert_eq!(answer.body.len(), 1_000_000);
    let answer = get(&platform, "/size?bytes=1000001").await.expect(500);
    assert_eq!(answer.header("x-func-err-code"), "4004");
    // The head has gone out when it shows that there is too much.
    let sent = request(Method::GET, "/size?bytes=2000000&chunked").body(Bytes::new());
    let broken = platform.gateway.send(sent.unwrap()).await.unwrap_err();
    assert!(broken.contains("broke off"), "{broken}");
    let _ = get(&platform, "/").await.expect(200);
    platform.finish().await;
}

#[tokio::test]
async fn an_answer_without_its_end_never_looks_whole() {
    let site = Site::new();
    let platform = running(&site).await;
    let sent = request(Method::GET, "/short").body(Bytes::new()).unwrap();
    let broken = platform.gateway.send(sent).await.unwrap_err();
    assert!(broken.contains("broke off"), "{broken}");

    let answer = get(&platform, "/nonsense").await.expect(500);
    assert_eq!(answer.header("x-func-err-code"), "4002");
    assert!(answer.text().contains("not HTTP"), "{}", answer.text());
    let _ = get(&platform, "/").await.expect(200);
    platform.finish().await;
}

#[tokio::test]
async fn a_server_may_answer_before_it_has_read_the_request() {
    let site = Site::new();
    let platform = running(&site).await;
    let head = format!("POST {AT}/early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
    let mut raw = Raw::open(&platform, &head).await;
    let answer = raw.until("no thanks").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let _ = get(&platform, "/").await.expect(200);
    platform.finish().await;
}

#[tokio::test]
async fn a_caller_that_breaks_off_its_request_frees_the_slot() {
    let site = Site::new();
    let platform = site.start().await;
    let one = server(&site)
        .with("concurrentNum", "1")
        .with("maxInstance", "1");
    let _ = platform.register(&one).await;
    let head =
        format!("POST {AT}/digest HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\npart");
    let raw = Raw::open(&platform, &head).await;
    eventually("the request has begun", BOUND, || async {
        let log = platform
            .control
            .get("/bugle/v1/functions/0@web@server/logs")
            .await;
        log.text()
            .contains("/digest")
            .then_some(())
            .ok_or_else(|| log.text())
    })
    .await;
    drop(raw);
    let _ = within(
        "the slot is free",
        Duration::from_secs(10),
        get(&platform, "/"),
    )
    .await
    .expect(200);
    platform.finish().await;
}

#[tokio::test]
async fn a_caller_that_sends_a_short_body_slowly_takes_no_slot_for_it() {
    let site = Site::new();
    let platform = site.start().await;
    let one = server(&site)
        .with("concurrentNum", "1")
        .with("maxInstance", "1");
    let _ = platform.register(&one).await;
    let head = format!("POST {AT}/digest HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\npart");
    let mut slow = Raw::open(&platform, &head).await;
    let _ = get(&platform, "/").await.expect(200);
    slow.say("rest").await;
    let answer = slow.until("}").await;
    assert!(answer.contains("\"size\": 8"), "{answer}");
    platform.finish().await;
}

#[tokio::test]
async fn lines_that_the_server_writes_are_those_of_the_request() {
    let site = Site::new();
    let platform = running(&site).await;
    let sent = request(Method::GET, "/a").header("x-trace-id", "trace-7");
    let sent = sent.body(Bytes::new()).unwrap();
    let _ = platform.gateway.send(sent).await.unwrap().expect(200);
    eventually("the line has the request's id", BOUND, || async {
        let log = platform
            .control
            .get("/bugle/v1/functions/0@web@server/logs")
            .await
            .text();
        let told = log
            .lines()
            .any(|line| line.contains("serving /a") && line.contains("trace-7"));
        told.then_some(()).ok_or(log)
    })
    .await;
    platform.finish().await;
}
