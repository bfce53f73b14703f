//! Streams of events.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bugle_gateway::Config;
use bugle_instances::{CallError, CallRequest, ExitCause, ReplyBody, StreamPart};
use bytes::Bytes;

use crate::client::{Answer, Client};
use crate::platform::{Outcome, Platform, Script, json, replied, script, spec};

const EVENTS: &str = "accept: text/event-stream";

fn message(text: &'static str) -> StreamPart {
    StreamPart::Message(Bytes::from_static(text.as_bytes()))
}

/// Writes these texts, then ends like this.
fn writing(writes: &'static [&'static str], end: fn() -> Outcome) -> Script {
    script(move |request: CallRequest| async move {
        if let Some(stream) = request.stream {
            for write in writes {
                stream.send(message(write)).await.unwrap();
            }
        }
        end()
    })
}

async fn answer(script: Script, header: &str) -> Answer {
    let platform = Platform::start(script).await;
    let mut client = platform.client().await;
    client.call(&[header, "x-trace-id: t1"], "").await;
    client.answer().await
}

#[tokio::test]
async fn writes_result_and_end_come_as_events() {
    let script = writing(&["one", "two\nlines"], || replied(json(r#""done""#)));
    let answer = answer(script, EVENTS).await;
    assert_eq!(answer.verdict(), (200, "0"));
    assert_eq!(
        answer.text(),
        "data: one\n\ndata: two\ndata: lines\n\ndata: \"done\"\n\ndata: [DONE]\n\n"
    );
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("connection", "keep-alive"),
        ("x-accel-buffering", "no"),
        ("transfer-encoding", "chunked"),
        ("x-trace-id", "t1"),
    ] {
        assert_eq!(answer.header(name), value);
    }
}

#[tokio::test]
async fn without_the_header_writes_go_nowhere() {
    let script = script(|request: CallRequest| async move {
        assert!(request.stream.is_none());
        replied(json("1"))
    });
    assert_eq!(answer(script, "accept: */*").await.text(), "1");
}

#[tokio::test]
async fn a_call_that_wrote_nothing_has_its_result_as_the_only_event() {
    let answer = answer(writing(&[], || replied(json("1"))), EVENTS).await;
    assert_eq!(answer.text(), "data: 1\n\ndata: [DONE]\n\n");
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("x-billing-duration"), "3.214");
}

#[tokio::test]
async fn a_composed_answer_of_a_call_that_wrote_nothing_is_sent_as_it_is() {
    let composed = || {
        replied(ReplyBody::Http {
            status: 201,
            headers: vec![("Content-Type".into(), "text/csv".into())],
            body: "a,b".into(),
        })
    };
    let plain = answer(writing(&[], composed), EVENTS).await;
    assert_eq!((plain.status, plain.text()), (201, "a,b"));
    assert_eq!(plain.header("content-type"), "text/csv");
    let late = answer(writing(&["w"], composed), EVENTS).await;
    assert_eq!(late.text(), "data: w\n\ndata: a,b\n\ndata: [DONE]\n\n");
}

#[tokio::test]
async fn a_failure_keeps_its_status_until_something_was_written() {
    fn crash() -> Outcome {
        Err(CallError::Exited(ExitCause::Signal(9)))
    }
    let early = answer(writing(&[], crash), EVENTS).await;
    assert_eq!(early.verdict(), (502, "1007"));
    assert!(early.text().starts_with("data: {\"code\":1007,"));
    assert!(early.text().ends_with("}\n\ndata: [DONE]\n\n"));

    let late = answer(writing(&["w"], crash), EVENTS).await;
    assert_eq!(late.verdict(), (200, "0"));
    assert!(late.text().starts_with("data: w\n\ndata: {\"code\":1007,"));
    assert!(late.text().ends_with("}\n\ndata: [DONE]\n\n"));

    let refused = answer(
        writing(&[], || replied(json("1"))),
        "accept: text/event-stream\r\nx-instance-cpu: x",
    )
    .await;
    assert_eq!(refused.verdict(), (400, "200400"));
    assert!(refused.text().starts_with("data: {\"code\":200400,"));
}

#[tokio::test]
async fn an_overdue_stream_ends_with_the_failure() {
    let mut function = spec();
    function.timeout = Duration::from_millis(200);
    let hanging = script(|request: CallRequest| async move {
        request.stream.unwrap().send(message("w")).await.unwrap();
        std::future::pending().await
    });
    let platform = Platform::with(Config::default(), hanging, [function]).await;
    let mut client = platform.client().await;
    client.call(&[EVENTS], "").await;
    let answer = client.answer().await;
    assert!(
        answer.text().contains("data: {\"code\":4010,"),
        "{}",
        answer.text()
    );
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn each_write_is_sent_at_once_and_silence_is_filled() {
    let (go_on, gate) = tokio::sync::watch::channel(false);
    let waiting = script(move |request: CallRequest| {
        let mut gate = gate.clone();
        async move {
            request.stream.unwrap().send(message("w")).await.unwrap();
            gate.wait_for(|is_open| *is_open).await.unwrap();
            replied(json("1"))
        }
    });
    let config = Config {
        event_keep_alive_seconds: 1,
        ..Config::default()
    };
    let platform = Platform::with(config, waiting, [spec()]).await;
    let mut client = platform.client().await;
    client.call(&[EVENTS], "").await;
    assert_eq!(client.head().await.0, 200);
    assert_eq!(client.chunk().await.unwrap(), b"data: w\n\n");
    assert_eq!(client.chunk().await.unwrap(), b": keep-alive\n\n");
    go_on.send(true).unwrap();
    assert_eq!(
        client.chunk().await.unwrap(),
        b"data: 1\n\ndata: [DONE]\n\n"
    );
    assert_eq!(client.chunk().await, None);
    // The connection is as good as before.
    client.call(&["accept: application/json"], "").await;
}

/// Writes large texts for ever, and counts them.
fn flooding() -> (Script, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let script = script(move |request: CallRequest| {
        let count = Arc::clone(&count);
        async move {
            let stream = request.stream.unwrap();
            let write = StreamPart::Message(vec![b'x'; 64 << 10].into());
            while stream.send(write.clone()).await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
            replied(json("1"))
        }
    });
    (script, written)
}

async fn steady(count: &AtomicUsize) -> usize {
    loop {
        let before = count.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
        if before > 0 && count.load(Ordering::SeqCst) == before {
            return before;
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_handler() {
    let (script, written) = flooding();
    let platform = Platform::start(script).await;
    let mut client = platform.client().await;
    client.call(&[EVENTS], "").await;
    let waiting = steady(&written).await;
    // What the kernel and the gateway buffer for one connection is bounded.
    assert!(waiting < 400, "{waiting} writes of 64 KiB");
    read_some(&mut client, 100).await;
    assert!(steady(&written).await > waiting);
    drop(client);
    // The handler's next write fails, so it ends and gives its slot back.
    platform.running.becomes(0).await;
}

async fn read_some(client: &mut Client, chunks: usize) {
    client.head().await;
    for _ in 0..chunks {
        client.chunk().await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_reader_does_not_stop_the_deadline() {
    let mut function = spec();
    function.timeout = Duration::from_millis(700);
    let (script, written) = flooding();
    let platform = Platform::with(Config::default(), script, [function]).await;
    let mut client = platform.client().await;
    client.call(&[EVENTS], "").await;
    steady(&written).await;
    platform.running.becomes(0).await;
}

/// A program that begins to answer with an event stream, sends these pieces of it, and ends like
/// this.
fn program(pieces: &'static [&'static str], end: fn() -> Outcome) -> Script {
    script(move |request: CallRequest| async move {
        let stream = request.stream.unwrap();
        let head = [("x-model", "small"), ("keep-alive", "timeout=5")];
        let head = head.map(|(name, value)| (name.to_owned(), value.to_owned()));
        stream.send(StreamPart::Head(head.into())).await.unwrap();
        for piece in pieces {
            let piece = StreamPart::Events(Bytes::from_static(piece.as_bytes()));
            stream.send(piece).await.unwrap();
        }
        end()
    })
}

#[tokio::test]
async fn a_programs_own_events_pass_as_they_are() {
    let pieces = &["event: token\nid: 1\nda", "ta: a\n\n", ": end\n\n"];
    let answer = answer(program(pieces, || replied(ReplyBody::Streamed)), EVENTS).await;
    assert_eq!(answer.verdict(), (200, "0"));
    assert_eq!(answer.text(), pieces.concat());
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("x-model"), "small");
}

#[tokio::test]
async fn a_program_that_ends_within_an_event_gets_the_failure_behind_it() {
    let crashed = || Err(CallError::Exited(ExitCause::Code(3)));
    let answer = answer(program(&["data: a"], crashed), EVENTS).await;
    let text = answer.text();
    assert!(
        text.starts_with("data: a\n\ndata: {\"code\":1007,"),
        "{text}"
    );
}
