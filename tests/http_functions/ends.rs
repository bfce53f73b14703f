//! Time limits, and the end of instances.

use std::time::Duration;

use bugle_testkit::{Site, StartOptions, eventually};
use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use crate::{AT, BOUND, Raw, get, request, running, server};

#[tokio::test]
async fn a_server_that_does_not_answer_in_time_is_replaced() {
    let site = Site::new();
    let platform = site.start().await;
    let short = server(&site).with("concurrentNum", "1").with("timeout", 1);
    let _ = platform.register(&short).await;
    let first = get(&platform, "/").await.expect(200).json()["instance"].clone();
    let begin = Instant::now();
    let answer = get(&platform, "/sleep?seconds=60").await.expect(504);
    let took = begin.elapsed();
    assert!((1.0..2.0).contains(&took.as_secs_f64()), "{took:?}");
    assert_eq!(answer.header("x-func-err-code"), "4010");
    assert_eq!(answer.json()["error_code"], "APIG.0201");
    let second = get(&platform, "/").await.expect(200).json()["instance"].clone();
    assert_ne!(first, second);
    platform.finish().await;
}

#[tokio::test]
async fn an_answer_that_takes_too_long_breaks_off() {
    let site = Site::new();
    let platform = site.start().await;
    let _ = platform.register(&server(&site).with("timeout", 1)).await;
    let _ = get(&platform, "/").await.expect(200);
    let sent = request(Method::GET, "/sleep?head&seconds=60").body(Bytes::new());
    let begin = Instant::now();
    let broken = platform.gateway.send(sent.unwrap()).await.unwrap_err();
    assert!(broken.contains("broke off"), "{broken}");
    let took = begin.elapsed();
    assert!((1.0..2.5).contains(&took.as_secs_f64()), "{took:?}");
    platform.finish().await;
}

#[tokio::test]
async fn a_caller_that_reads_nothing_holds_its_slot_no_longer_than_the_timeout() {
    let site = Site::new();
    let platform = site.start().await;
    let one = server(&site)
        .with("concurrentNum", "1")
        .with("maxInstance", "1")
        .with("timeout", 2);
    let _ = platform.register(&one).await;
    let _ = get(&platform, "/").await.expect(200);
    let head = format!("GET {AT}/size?bytes=100000000 HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut raw = Raw::open(&platform, &head).await;
    let _ = raw.until("HTTP/1.1 200").await;
    // It stays open, and nothing more is read.
    let begin = Instant::now();
    let _ = get(&platform, "/").await.expect(200);
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    drop(raw);
    platform.finish().await;
}

#[tokio::test]
async fn a_caller_that_sends_its_head_slowly_is_cut_off_without_a_slot() {
    let site = Site::new();
    let options = StartOptions::default().config("gateway", "header_seconds", "1");
    let platform = site.start_with(&options).await;
    let _ = platform.register(&server(&site)).await;
    let mut raw = Raw::open(&platform, &format!("GET {AT}/a HTTP/1.1\r\nHost: ")).await;
    assert_eq!(raw.rest().await, "");
    platform.finish().await;
}

#[tokio::test]
async fn a_crash_during_an_answer_breaks_it_off_and_the_next_caller_is_served() {
    let site = Site::new();
    let mut platform = site.start().await;
    platform.tolerate("instance");
    let function = platform.register(&server(&site)).await;
    let _ = get(&platform, "/").await.expect(200);
    let pid = platform.instance_pids(&function).await[0];
    let sent = request(Method::GET, "/sleep?head&seconds=60").body(Bytes::new());
    let mut stream = platform.gateway.open(sent.unwrap()).await.unwrap();
    let _ = stream.until("a").await.unwrap();
    let waiting = get(&platform, "/sleep?seconds=60");
    let killed = async {
        // Its head has arrived when the program says so.
        eventually("both are served", BOUND, || async {
            let log = platform
                .control
                .get("/bugle/v1/functions/0@web@server/logs")
                .await
                .text();
            let count = log.matches("serving /sleep").count();
            (count == 2).then_some(()).ok_or(log)
        })
        .await;
        bugle_testkit::kill(pid);
    };
    let (answer, ()) = tokio::join!(waiting, killed);
    assert_eq!(answer.expect(500).header("x-func-err-code"), "1007");
    assert!(stream.next().await.is_err());
    let _ = get(&platform, "/").await.expect(200);
    platform.finish().await;
}

#[tokio::test]
async fn a_function_that_is_not_there_or_does_not_start_is_told_so() {
    let site = Site::new();
    let platform = running(&site).await;
    let answer = platform
        .gateway
        .get("/functions/default/web/nobody/a")
        .await
        .expect(404);
    assert_eq!(answer.json()["error_code"], "FSS.1051");
    let answer = platform
        .gateway
        .get("/functions/default/w_b/nobody/a")
        .await;
    assert_eq!(answer.expect(400).json()["error_code"], "FSS.0400");

    let code = site.write_program("broken", "#!/bin/sh\nexit 3\n");
    let broken = bugle_testkit::FunctionSpec::program("0@web@broken", "http", &code);
    let _ = platform.register(&broken).await;
    let answer = platform
        .gateway
        .get("/functions/default/web/broken/a")
        .await
        .expect(500);
    assert_eq!(answer.header("x-func-err-code"), "4201");
    platform.finish().await;
}
