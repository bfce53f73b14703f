//! Limits, and clients that do not keep to them.

use std::time::Duration;

use bugle_gateway::Config;
use bugle_instances::{CallRequest, ReplyBody};

use crate::platform::{Platform, answering, json, replied, script, spec};

const PATH: &str = "POST /invocations/default/svc/hello/ HTTP/1.1\r\nhost: x\r\n";

async fn platform(config: Config) -> Platform {
    Platform::with(config, answering(|| json("1")), [spec()]).await
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_before_it_is_read() {
    let platform = platform(Config::default()).await;
    let mut client = platform.client().await;
    let declared: u64 = (6 << 20) + 1;
    client
        .send(format!("{PATH}content-length: {declared}\r\n\r\n"))
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.verdict(), (413, "4140"));
    assert_eq!(answer.header("connection"), "close");
    let message = answer.json()["message"].to_string();
    assert!(
        message.contains("6291457") && message.contains("6291456"),
        "{message}"
    );
}

#[tokio::test]
async fn a_client_that_sends_a_large_body_without_waiting_still_gets_its_answer() {
    let platform = platform(Config::default()).await;
    let mut client = platform.client().await;
    let body = vec![b'x'; 16 << 20];
    client
        .send(format!("{PATH}content-length: {}\r\n\r\n", body.len()))
        .await;
    client.send(body).await;
    assert_eq!(client.answer().await.verdict(), (413, "4140"));
}

#[tokio::test]
async fn the_limit_itself_is_allowed() {
    let config = Config {
        max_request_body_bytes: 1000,
        ..Config::default()
    };
    let length = script(|request: CallRequest| async move {
        replied(ReplyBody::Json(request.body.len().to_string().into()))
    });
    let platform = Platform::with(config, length, [spec()]).await;
    for (size, status) in [(999, 200), (1000, 200), (1001, 413)] {
        let mut client = platform.client().await;
        client.call(&[], vec![b'x'; size]).await;
        assert_eq!(client.answer().await.status, status, "{size}");
        let mut client = platform.client().await;
        client
            .send(format!("{PATH}transfer-encoding: chunked\r\n\r\n"))
            .await;
        let chunk = format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
        client.send(chunk).await;
        assert_eq!(client.answer().await.status, status, "{size} chunked");
    }
}

#[tokio::test]
async fn an_endless_chunked_body_is_refused_while_it_comes() {
    let platform = platform(Config::default()).await;
    let mut client = platform.client().await;
    client
        .send(format!("{PATH}transfer-encoding: chunked\r\n\r\n"))
        .await;
    for _ in 0..100 {
        client
            .send(format!("10000\r\n{}\r\n", "x".repeat(1 << 16)))
            .await;
    }
    let answer = client.answer().await;
    assert_eq!(answer.verdict(), (413, "4140"));
}

#[tokio::test]
async fn all_bodies_together_are_bounded() {
    let config = Config {
        max_body_bytes_in_flight: 1000,
        ..Config::default()
    };
    let (open, gate) = tokio::sync::watch::channel(false);
    let held = script(move |_| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|is_open| *is_open).await.unwrap();
            replied(json("1"))
        }
    });
    let platform = Platform::with(config, held, [spec()]).await;
    let mut first = platform.client().await;
    first.call(&[], "x".repeat(600)).await;
    platform.running.becomes(1).await;
    let mut second = platform.client().await;
    second.call(&[], "x".repeat(600)).await;
    let answer = second.answer().await;
    assert_eq!(answer.verdict(), (503, "214503"));
    assert_ne!(answer.header("retry-after"), "");
    open.send(true).unwrap();
    assert_eq!(first.answer().await.status, 200);
    let mut third = platform.client().await;
    third.call(&[], "x".repeat(600)).await;
    assert_eq!(third.answer().await.status, 200);
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_refused() {
    let config = Config {
        body_grace_seconds: 1,
        min_body_bytes_per_second: 100,
        ..Config::default()
    };
    let platform = platform(config).await;
    let mut client = platform.client().await;
    client
        .send(format!("{PATH}content-length: 1000\r\n\r\nxxx"))
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.verdict(), (408, "200400"));
    assert_eq!(answer.header("connection"), "close");
}

#[tokio::test]
async fn clients_that_dawdle_are_cut_off() {
    let config = Config {
        header_seconds: 0,
        idle_seconds: 0,
        ..Config::default()
    };
    let platform = platform(config).await;
    let mut silent = platform.client().await;
    let mut halfway = platform.client().await;
    halfway.send(PATH).await;
    let mut idle = platform.client().await;
    idle.call(&[], "").await;
    assert_eq!(idle.answer().await.status, 200);
    assert!(silent.is_closed().await);
    assert!(halfway.is_closed().await);
    assert!(idle.is_closed().await);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off() {
    let config = Config {
        write_stall_seconds: 1,
        ..Config::default()
    };
    let large = answering(|| ReplyBody::Json(vec![b'x'; 32 << 20].into()));
    let platform = Platform::with(config, large, [spec()]).await;
    let mut client = platform.client().await;
    client.call(&[], "").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    // What was buffered still comes, the rest does not.
    client.head().await;
    let mut read = 0;
    while !client.is_closed().await {
        read += client.unread();
    }
    assert!(read < 32 << 20, "{read}");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let config = Config {
        max_connections: 2,
        ..Config::default()
    };
    let platform = platform(config).await;
    let mut first = platform.client().await;
    let mut second = platform.client().await;
    for client in [&mut first, &mut second] {
        client.call(&[], "").await;
        assert_eq!(client.answer().await.status, 200);
    }
    let mut third = platform.client().await;
    let answer = third.answer().await;
    assert_eq!(answer.verdict(), (503, "214503"));
    assert_eq!(answer.json()["code"], 214_503);
    assert!(third.is_closed().await);
    drop(first);
    for _ in 0..100 {
        let mut next = platform.client().await;
        next.call(&[], "").await;
        if next.answer().await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place was not given back");
}

#[tokio::test]
async fn heads_are_bounded() {
    let platform = platform(Config::default()).await;
    let header = |size: usize| format!("{PATH}x-long: {}\r\n\r\n", "x".repeat(size));
    let many = |count: usize| format!("{PATH}{}\r\n", "a: b\r\n".repeat(count));
    let path = format!(
        "POST /invocations/default/svc/hello/?{} HTTP/1.1\r\nhost: x\r\n\r\n",
        "x".repeat(8 << 10)
    );
    for (request, status) in [
        (header(60 << 10), 200),
        (header(70 << 10), 431),
        (many(90), 200),
        (many(110), 431),
        (path, 414),
    ] {
        let mut client = platform.client().await;
        client.send(&request).await;
        assert_eq!(
            client.answer().await.status,
            status,
            "{} bytes",
            request.len()
        );
    }
}

#[tokio::test]
async fn malformed_requests_are_refused_and_harm_nobody() {
    let platform = platform(Config::default()).await;
    for request in [
        "GARBAGE\r\n\r\n".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
        "POST / HTTP/9.9\r\n\r\n".to_owned(),
        format!("{PATH}content-length: x\r\n\r\n"),
        format!("{PATH}content-length: -1\r\n\r\n"),
        format!("{PATH}content-length: 99999999999999999999\r\n\r\n"),
        format!("{PATH}content-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
        format!("{PATH}content-length: 3\r\ntransfer-encoding: gzip\r\n\r\nabc"),
        format!("{PATH}transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        format!("{PATH}transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"),
        format!("{PATH}transfer-encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n"),
        format!("{PATH}transfer-encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n"),
        format!("{PATH}bad header: x\r\n\r\n"),
        format!("{PATH}x: a\0b\r\n\r\n"),
        format!("{PATH}x: y\r\n z\r\n\r\n"),
        format!("{PATH} folded: x\r\n\r\n"),
    ] {
        let mut client = platform.client().await;
        client.send(&request).await;
        let status = client.answer().await.status;
        assert!((400..500).contains(&status), "{status}: {request:?}");
        assert!(client.is_closed().await, "{request:?}");
    }
    // HTTP/2 without TLS is not spoken, and there is no answer a client of it would understand.
    let mut client = platform.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(client.is_closed().await);
    // Both length headers at once: chunked wins and the connection takes no second request, so
    // nothing can be smuggled behind the first (RFC 9112, 6.1).
    let mut client = platform.client().await;
    client
        .send(format!(
            "{PATH}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\
             GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
        ))
        .await;
    let status = client.answer().await.status;
    assert!(status == 400 || client.is_closed().await, "{status}");
    let mut client = platform.client().await;
    client.call(&[], "").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_body_that_ends_early_reaches_no_function() {
    let platform = platform(Config::default()).await;
    let mut client = platform.client().await;
    client
        .send(format!("{PATH}content-length: 10\r\n\r\nabc"))
        .await;
    drop(client);
    let mut client = platform.client().await;
    client.call(&[], "").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(platform.running.ever(), 1);
}

#[tokio::test]
async fn an_unknown_route_with_a_body_does_not_confuse_the_connection() {
    let platform = platform(Config::default()).await;
    let mut client = platform.client().await;
    client
        .send("POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
        .await;
    assert_eq!(client.answer().await.status, 404);
    assert!(client.is_closed().await);
}
