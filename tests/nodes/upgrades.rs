//! Web servers on nodes: their upgraded connections.

use bugle_testkit::{FunctionSpec, Node, Platform, Site, eventually, within};
use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::BOUND;
use crate::options;

const SERVER: &str = include_str!("../http_functions/server.py");

const AT: &str = "/functions/default/web/server";

async fn register(site: &Site, platform: &Platform) {
    let code = site.write_program("server", SERVER);
    let server = FunctionSpec::program("0@web@server", "http", &code);
    let server = server.with("concurrentNum", "1").with("maxInstance", "1");
    let _registered = platform.register(&server).await;
}

/// Asks for another protocol at this path.
async fn upgrade(platform: &Platform, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(platform.gateway.address).await.unwrap();
    let request = format!(
        "GET {AT}{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn until(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = String::new();
    let reading = async {
        while !seen.contains(text) {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).await.unwrap();
            assert_ne!(count, 0, "the connection ended after {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    };
    within(text, BOUND, reading).await;
    seen
}

async fn get(platform: &Platform, path: &str) -> u16 {
    let request = http::Request::get(format!("{AT}{path}"));
    let request = request.body(Bytes::new()).unwrap();
    platform.gateway.send(request).await.unwrap().status
}

/// Calls of the server that run.
async fn running(platform: &Platform) -> u64 {
    let path = "/bugle/v1/functions/0@web@server/status";
    let status = platform.control.get(path).await.expect(200).json();
    let instances = status["instances"].as_array().into_iter().flatten();
    instances
        .filter_map(|one: &Value| one["in_flight"].as_u64())
        .sum()
}

#[tokio::test]
async fn a_websocket_of_a_server_on_a_node_carries_bytes_both_ways() {
    let site = Site::new();
    let platform = site.start_with(&options()).await;
    let node = Node::join(&site, &platform, "one").await;
    register(&site, &platform).await;
    let mut socket = upgrade(&platform, "/socket").await;
    let head = until(&mut socket, "hello ").await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");
    for text in ["first", "second"] {
        socket.write_all(text.as_bytes()).await.unwrap();
        until(&mut socket, &text.to_uppercase()).await;
    }
    // More than any window holds, in one go.
    let large = "x".repeat(3 << 20);
    let (mut from, mut to) = socket.split();
    let echoed = async {
        let mut back = vec![0; large.len()];
        from.read_exact(&mut back).await.unwrap();
        assert!(back.iter().all(|byte| *byte == b'X'));
    };
    let sent = async { to.write_all(large.as_bytes()).await.unwrap() };
    within("all of it came back", BOUND, async {
        tokio::join!(sent, echoed)
    })
    .await;
    assert_eq!(running(&platform).await, 1, "it holds its slot");
    drop(socket);
    eventually("the server's side has ended", BOUND, || async {
        let open = running(&platform).await;
        (open == 0)
            .then_some(())
            .ok_or_else(|| format!("{open} open"))
    })
    .await;
    assert_eq!(get(&platform, "/").await, 200);
    platform.finish().await;
    node.finish().await;
}

#[tokio::test]
async fn a_server_on_a_node_that_does_not_change_the_protocol_answers_as_ever() {
    let site = Site::new();
    let platform = site.start_with(&options()).await;
    let node = Node::join(&site, &platform, "one").await;
    register(&site, &platform).await;
    let mut refused = upgrade(&platform, "/").await;
    let head = until(&mut refused, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    drop(refused);
    assert_eq!(get(&platform, "/").await, 200);
    platform.finish().await;
    node.finish().await;
}
