//! Functions that take events, called over HTTP: the event of an API gateway and its response
//! structure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bugle_testkit::{FunctionSpec, Platform, Site};
use bytes::Bytes;
use http::Request;
use serde_json::json;

const HANDLER: &str = r#"
import base64
import json

def handler(event, context):
    body = base64.b64decode(event["body"]) if event["isBase64Encoded"] else event["body"]
    if event["path"] == "/plain":
        return "Hello"
    if event["path"] == "/raise":
        raise ValueError("no")
    if event["path"] == "/bad":
        return {"statusCode": 200, "isBase64Encoded": True, "body": "{"}
    if event["path"] == "/bytes":
        return {"statusCode": 200, "isBase64Encoded": True, "headers": {"x-a": "1"},
                "body": base64.b64encode(body).decode()}
    event["body"] = body.decode()
    return {"statusCode": 201, "headers": {"content-type": "application/json"},
            "body": json.dumps(event)}
"#;

/// Answers with the body of the event, as a program of the runtime that takes events.
const PROGRAM: &str = r#"#!/usr/bin/env python3
import base64, json, os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Program(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = base64.b64decode(event["body"])
        fails = event["path"] == "/fail"
        answer = json.dumps({"statusCode": 202, "isBase64Encoded": True,
                             "headers": {"x-kind": self.headers["Content-Type"]},
                             "body": base64.b64encode(body[::-1]).decode()}).encode()
        self.send_response(500 if fails else 200)
        self.end_headers()
        self.wfile.write(b"it went wrong" if fails else answer)

HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Program).serve_forever()
"#;

async fn handler(site: &Site) -> Platform {
    let code = site.write_code("events", "index.py", HANDLER);
    let platform = site.start().await;
    let spec = FunctionSpec::python("0@web@events", &code);
    let _ = platform.register(&spec).await;
    platform
}

#[tokio::test]
async fn a_handler_gets_the_request_as_an_event() {
    let site = Site::new();
    let platform = handler(&site).await;
    let sent = Request::put("/functions/default/web/events/shop/7?a=1&b=2&b=3")
        .header("content-type", "text/csv")
        .header("x-trace-id", "trace-1")
        .header("x-mine", "1");
    let sent = sent.body(Bytes::from_static(b"body")).unwrap();
    let event = platform
        .gateway
        .send(sent)
        .await
        .unwrap()
        .expect(201)
        .json();
    assert_eq!(event["httpMethod"], "PUT");
    assert_eq!(event["path"], "/shop/7");
    assert_eq!(
        event["queryStringParameters"],
        json!({"a": "1", "b": ["2", "3"]})
    );
    assert_eq!(event["body"], "body");
    assert_eq!(event["headers"]["content-type"], "text/csv");
    assert_eq!(event["headers"]["x-mine"], "1");
    assert_eq!(event["requestContext"]["requestId"], "trace-1");
    assert_eq!(event["requestContext"]["sourceIp"], "127.0.0.1");
    platform.finish().await;
}

#[tokio::test]
async fn every_byte_survives_both_ways() {
    let site = Site::new();
    let platform = handler(&site).await;
    let bytes: Bytes = (0..=255).collect();
    let sent = Request::post("/functions/default/web/events/bytes").body(bytes.clone());
    let answer = platform
        .gateway
        .send(sent.unwrap())
        .await
        .unwrap()
        .expect(200);
    assert_eq!(answer.body, bytes);
    assert_eq!(answer.header("x-a"), "1");
    platform.finish().await;
}

#[tokio::test]
async fn a_result_that_is_no_structure_is_the_functions_mistake() {
    let site = Site::new();
    let platform = handler(&site).await;
    let at = |path: &str| format!("/functions/default/web/events{path}");
    let answer = platform.gateway.get(&at("/plain")).await.expect(500);
    assert_eq!(answer.json()["error_code"], "FSS.1202", "{}", answer.text());
    let answer = platform.gateway.get(&at("/bad")).await.expect(500);
    assert!(!answer.header("x-func-err-code").is_empty());
    let answer = platform.gateway.get(&at("/raise")).await.expect(500);
    assert!(answer.text().contains("no"), "{}", answer.text());
    assert_ne!(answer.header("x-func-err-code"), "0");
    platform.finish().await;
}

#[tokio::test]
async fn a_program_that_takes_events_answers_with_the_structure() {
    let site = Site::new();
    let code = site.write_program("program", PROGRAM);
    let platform = site.start().await;
    let spec = FunctionSpec::program("0@web@program", "posix-custom-runtime", &code);
    let _ = platform.register(&spec).await;
    let sent =
        Request::post("/functions/default/web/program/a").header("content-type", "image/png");
    let sent = sent.body(Bytes::from_static(b"\xff\x00a")).unwrap();
    let answer = platform.gateway.send(sent).await.unwrap().expect(202);
    assert_eq!(answer.body, &b"a\x00\xff"[..]);
    assert_eq!(answer.header("x-kind"), "application/json");
    assert!(BASE64.encode(&answer.body).len() > 1);

    let answer = platform
        .gateway
        .get("/functions/default/web/program/fail")
        .await
        .expect(500);
    assert_eq!(answer.header("x-func-err-code"), "4002");
    assert!(answer.text().contains("it went wrong"), "{}", answer.text());
    platform.finish().await;
}
