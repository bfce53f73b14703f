//! Connections that become something else than HTTP.

use std::time::Duration;

use bugle_testkit::{Site, StartOptions, eventually, within};
use tokio::time::Instant;

use crate::{AT, BOUND, Raw, get, server, streams};

fn upgrade() -> String {
    format!(
        "GET {AT}/socket HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
}

#[tokio::test]
async fn a_websocket_carries_bytes_both_ways_until_the_caller_ends_it() {
    let site = Site::new();
    let platform = crate::running(&site).await;
    let mut raw = Raw::open(&platform, &upgrade()).await;
    let head = raw.until("hello ").await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");
    for text in ["first", "second", "third"] {
        raw.say(text).await;
        let _ = raw.until(&text.to_uppercase()).await;
    }
    assert_eq!(streams(&platform).await.0, 1);
    drop(raw);
    eventually("the server's side has ended", BOUND, || async {
        let open = streams(&platform).await.0;
        (open == 0)
            .then_some(())
            .ok_or_else(|| format!("{open} open"))
    })
    .await;
    platform.finish().await;
}

#[tokio::test]
async fn a_websocket_holds_its_slot_until_it_ends() {
    let site = Site::new();
    let platform = site.start().await;
    let one = server(&site)
        .with("concurrentNum", "1")
        .with("maxInstance", "1");
    let _ = platform.register(&one).await;
    let mut raw = Raw::open(&platform, &upgrade()).await;
    let _ = raw.until("hello ").await;
    let mut waiting = Box::pin(get(&platform, "/"));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "the slot was given twice");
    drop(raw);
    let _ = within("the slot is free", BOUND, waiting).await.expect(200);
    platform.finish().await;
}

#[tokio::test]
async fn a_websocket_on_which_nothing_moves_is_closed() {
    let site = Site::new();
    let options = StartOptions::default().config("gateway", "tunnel_idle_seconds", "1");
    let platform = site.start_with(&options).await;
    let _ = platform.register(&server(&site).with("timeout", 1)).await;
    let mut raw = Raw::open(&platform, &upgrade()).await;
    let _ = raw.until("hello ").await;
    // What moves keeps it, also past the function's timeout.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        raw.say("x").await;
        let _ = raw.until("X").await;
    }
    let begin = Instant::now();
    assert_eq!(raw.rest().await, "");
    assert!(begin.elapsed() < Duration::from_secs(5));
    platform.finish().await;
}

#[tokio::test]
async fn a_websocket_has_an_end_in_any_case() {
    let site = Site::new();
    let options = StartOptions::default().config("gateway", "tunnel_seconds", "2");
    let platform = site.start_with(&options).await;
    let _ = platform.register(&server(&site)).await;
    let mut raw = Raw::open(&platform, &upgrade()).await;
    let _ = raw.until("hello ").await;
    let begin = Instant::now();
    assert_eq!(raw.rest().await, "");
    let took = begin.elapsed();
    assert!((1.0..6.0).contains(&took.as_secs_f64()), "{took:?}");
    platform.finish().await;
}

#[tokio::test]
async fn a_websocket_does_not_keep_the_platform_from_stopping() {
    let site = Site::new();
    let options = StartOptions::default().config("gateway", "drain_seconds", "1");
    let mut platform = site.start_with(&options).await;
    platform.tolerate("calls did not finish");
    let _ = platform.register(&server(&site)).await;
    let mut raw = Raw::open(&platform, &upgrade()).await;
    let _ = raw.until("hello ").await;
    let (rest, ()) = tokio::join!(raw.rest(), platform.finish());
    assert_eq!(rest, "");
}

#[tokio::test]
async fn other_protocols_are_not_changed_to() {
    let site = Site::new();
    let platform = crate::running(&site).await;
    let text = format!(
        "GET {AT}/a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    );
    let mut raw = Raw::open(&platform, &text).await;
    let head = raw.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    platform.finish().await;
}
