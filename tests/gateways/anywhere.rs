//! What clients and operators do at a gateway that does not have the function.

use std::os::unix::fs::PermissionsExt as _;

use bugle_testkit::{FunctionSpec, Platform, Registered, eventually, within};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::finish;
use crate::gates::{BOUND, Gates, metric, owner, until_members};

/// A web server that agrees to another protocol, and says everything in capitals from then on.
const SERVER: &str = r#"#!/usr/bin/env python3
import asyncio, os

AGREED = (b"HTTP/1.1 101 Said\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
          b"Sec-WebSocket-Accept: yes\r\n\r\nhello ")

async def serve(reader, writer):
    try:
        while True:
            text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            if "/socket" not in text.split("\r\n")[0]:
                writer.write(b"HTTP/1.1 200 Said\r\nContent-Length: 5\r\n\r\nplain")
                await writer.drain()
                continue
            asked = "upgrade: websocket" in text and "sec-websocket-key: abc" in text
            writer.write(AGREED if asked else b"HTTP/1.1 400 Said\r\nContent-Length: 0\r\n\r\n")
            while data := await reader.read(65536):
                writer.write(data.upper())
                await writer.drain()
            writer.close()
            return
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    await (await asyncio.start_server(serve, "127.0.0.1", int(os.environ["PORT"]))).serve_forever()

asyncio.run(main())
"#;

const WRITES: &str = r"
def handler(event, context):
    print('the event is', event)
    return event
";

/// Runs for a minute once it has noted that it does.
const LONG: &str = r#"
import time
def handler(event, context):
    open(event["note"], "w").close()
    time.sleep(60)
"#;

/// Two gateways: the one that has the function, and another.
async fn apart<'a>(all: &[&'a Platform], function: &Registered) -> (&'a Platform, &'a Platform) {
    let has = owner(all, function).await;
    (all[has], all[1 - has])
}

async fn until(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut piece = [0; 4096];
            match stream.read(&mut piece).await {
                Ok(count @ 1..) => seen.extend_from_slice(&piece[..count]),
                end => panic!(
                    "{end:?} before {text:?}: {:?}",
                    String::from_utf8_lossy(&seen)
                ),
            }
        }
    };
    within(text, BOUND, reading).await;
    String::from_utf8_lossy(&seen).into_owned()
}

async fn ask(platform: &Platform, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(platform.gateway.address).await.unwrap();
    let request = format!(
        "GET /functions/default/web/server{path} HTTP/1.1\r\nHost: x\r\n\
         Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: abc\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_websocket_through_any_gateway_carries_bytes_both_ways() {
    let gates = Gates::new(2).await;
    let platforms = gates.start_all().await;
    let code = gates.site(0).write_program("server", SERVER);
    let server = FunctionSpec::program("0@web@server", "http", &code).with("concurrentNum", "10");
    let _ = platforms[0].register(&server).await;
    for platform in &platforms {
        let mut stream = ask(platform, "/socket").await;
        let head = until(&mut stream, "hello ").await.to_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("upgrade: websocket"), "{head}");
        assert!(head.contains("sec-websocket-accept: yes"), "{head}");
        assert!(!head.contains("bugle-"), "{head}");
        for text in ["first", "second"] {
            stream.write_all(text.as_bytes()).await.unwrap();
            let _ = until(&mut stream, &text.to_uppercase()).await;
        }
        let long = "x".repeat(1 << 20);
        let (mut from, mut to) = stream.split();
        let writing = async {
            to.write_all(long.as_bytes()).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut back = String::new();
        let reading = from.read_to_string(&mut back);
        let ((), read) = within("a long text", BOUND, async {
            tokio::join!(writing, reading)
        })
        .await;
        assert_eq!((read.unwrap(), back), (1 << 20, long.to_uppercase()));
        // A server may answer as if nothing had been asked.
        let mut stream = ask(platform, "/other").await;
        let answer = until(&mut stream, "plain").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let mut forwarded = 0;
    for platform in &platforms {
        forwarded += metric(platform, "bugle_gateway_forwarded_total").await;
    }
    assert_eq!(forwarded, 2, "one of the gateways does not have it");
    finish(platforms).await;
}

/// The texts of a function's log.
async fn logged(platform: &Platform, query: &str) -> Vec<String> {
    let path = format!("/bugle/v1/functions/0@test@writes/logs?{query}");
    let text = platform.control.get(&path).await.expect(200).text();
    let entries = text.lines().map(|line| serde_json::from_str(line).unwrap());
    entries
        .map(|entry: Value| entry["text"].as_str().unwrap().to_owned())
        .filter(|text| text.contains("the event is"))
        .collect()
}

#[tokio::test]
async fn a_log_is_shown_and_followed_whichever_gateway_is_asked() {
    let gates = Gates::new(2).await;
    let platforms = gates.start_all().await;
    let all: Vec<&Platform> = platforms.iter().collect();
    let code = gates.site(0).write_code("writes", "index.py", WRITES);
    let spec = FunctionSpec::python("0@test@writes", &code);
    let writes = all[0].register(&spec).await;
    let (has, other) = apart(&all, &writes).await;
    let _ = has.invoke(&writes, "\"one\"").await.expect(200);
    for platform in [has, other] {
        eventually("the line is shown", BOUND, || async {
            let lines = logged(platform, "tail=9").await;
            let has = lines.iter().any(|line| line.ends_with("one"));
            has.then_some(()).ok_or_else(|| format!("{lines:?}"))
        })
        .await;
    }
    assert_eq!(logged(has, "tail=9").await, logged(other, "tail=9").await);
    let none = other.control.get("/bugle/v1/functions/0@test@nothing/logs");
    let _ = none.await.expect(404);
    let mut follower = TcpStream::connect(other.control.address).await.unwrap();
    let request = "GET /bugle/v1/functions/0@test@writes/logs?follow=true HTTP/1.1\r\n\
                   Host: x\r\n\r\n";
    follower.write_all(request.as_bytes()).await.unwrap();
    let _ = until(&mut follower, "the event is one").await;
    let _ = has.invoke(&writes, "\"two\"").await.expect(200);
    let _ = until(&mut follower, "the event is two").await;
    drop(follower);
    finish(platforms).await;
}

#[tokio::test]
async fn an_invocation_that_nobody_waits_for_is_cancelled_at_any_gateway() {
    let gates = Gates::new(2).await;
    let options = gates.options().config("confinement", "enabled", "false");
    let mut platforms = Vec::new();
    for number in 0..2 {
        let mut platform = gates.start_with(number, &options).await;
        platform.tolerate("instances are not confined");
        platform.tolerate("instance");
        platforms.push(platform);
    }
    let all: Vec<&Platform> = platforms.iter().collect();
    until_members(&all).await;
    let code = gates.site(0).write_code("later", "index.py", LONG);
    let spec = FunctionSpec::python("0@default@later", &code).with("timeout", 90);
    let _ = all[0].register(&spec).await;
    let functions = "/v2/default/fgs/functions/later";
    let notes = gates.site(0).path().join("notes");
    std::fs::create_dir(&notes).unwrap();
    std::fs::set_permissions(&notes, std::fs::Permissions::from_mode(0o777)).unwrap();
    for (number, platform) in all.iter().enumerate() {
        let note = notes.join(number.to_string());
        let id = format!("long{number}");
        let request = Request::post(format!("{functions}/invocations-async"))
            .header("x-cff-request-id", &id)
            .body(Bytes::from(json!({"note": note}).to_string()));
        // Accepted at one, and cancelled at the other: one of the two does not have the function.
        let _ = platform
            .gateway
            .send(request.unwrap())
            .await
            .unwrap()
            .expect(202);
        eventually("it runs", BOUND, || async {
            note.is_file().then_some(()).ok_or_else(String::new)
        })
        .await;
        let cancel = json!({"request_id": id, "type": "force"});
        let path = format!("{functions}/cancel");
        let other = &all[1 - number].control;
        let _ = other.post(&path, &cancel).await.expect(200);
        eventually("it is cancelled", BOUND, || async {
            let answer = other.post(&path, &cancel).await;
            (answer.status == 404)
                .then_some(())
                .ok_or_else(|| answer.status.to_string())
        })
        .await;
    }
    finish(platforms).await;
}

#[tokio::test]
async fn a_gateway_says_how_many_share_the_functions() {
    let gates = Gates::new(2).await;
    let mut platforms = gates.start_all().await;
    for platform in &platforms {
        let ready = platform.control.get("/readyz").await.expect(200).text();
        assert_eq!(ready, "ready, one of 2 gateways\n");
    }
    platforms.remove(1).finish().await;
    until_members(&[&platforms[0]]).await;
    let ready = platforms[0].control.get("/readyz").await.expect(200).text();
    assert_eq!(ready, "ready, the only gateway\n");
    finish(platforms).await;
}
