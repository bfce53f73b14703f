//! Functions that are web servers: any method and path, both bodies streamed, upgrades; and what
//! callers cannot do.
#![cfg(test)]

mod bodies;
mod ends;
mod events;
mod upgrades;

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bugle_testkit::{Answer, FunctionSpec, Platform, Site};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const BOUND: Duration = Duration::from_secs(30);

/// Where the function of most tests is.
const AT: &str = "/functions/default/web/server";

const SERVER: &str = include_str!("server.py");

fn server(site: &Site) -> FunctionSpec {
    let code = site.write_program("server", SERVER);
    FunctionSpec::program("0@web@server", "http", &code).with("concurrentNum", "100")
}

async fn running(site: &Site) -> Platform {
    let platform = site.start().await;
    let _ = platform.register(&server(site)).await;
    platform
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("{AT}{path}"))
}

async fn get(platform: &Platform, path: &str) -> Answer {
    let request = request(Method::GET, path).body(Bytes::new()).unwrap();
    platform.gateway.send(request).await.unwrap()
}

/// A header that the server saw; all of its values.
fn seen<'a>(shown: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = shown["headers"].as_array().unwrap();
    let pairs = headers.iter().map(|pair| (&pair[0], &pair[1]));
    pairs
        .filter(|(known, _)| known.as_str().unwrap().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str().unwrap())
        .collect()
}

/// A connection on which a test says every byte itself.
struct Raw(TcpStream);

impl Raw {
    async fn open(platform: &Platform, text: &str) -> Self {
        let mut stream = TcpStream::connect(platform.gateway.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        Self(stream)
    }

    async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until `text` has come; what was read.
    async fn until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let reading = async {
            while !String::from_utf8_lossy(&seen).contains(text) {
                let mut piece = [0; 4096];
                match self.0.read(&mut piece).await {
                    Ok(count @ 1..) => seen.extend_from_slice(&piece[..count]),
                    end => return Err(end),
                }
            }
            Ok(())
        };
        let ended = bugle_testkit::within(text, BOUND, reading).await;
        let seen = String::from_utf8_lossy(&seen).into_owned();
        assert!(ended.is_ok(), "{ended:?} before {text:?}: {seen:?}");
        seen
    }

    /// Reads to the end, however the connection ends.
    async fn rest(&mut self) -> String {
        let mut seen = Vec::new();
        let reading = self.0.read_to_end(&mut seen);
        let _ = bugle_testkit::within("the end", BOUND, reading).await;
        String::from_utf8_lossy(&seen).into_owned()
    }
}

/// How many streams the server has open, and how many were left.
async fn streams(platform: &Platform) -> (u64, u64) {
    let shown = get(platform, "/").await.expect(200).json();
    let number = |name: &str| shown[name].as_u64().unwrap();
    (number("open"), number("gone"))
}

fn folder(site: &Site) -> PathBuf {
    site.code_root().join("server")
}

#[tokio::test]
async fn every_method_path_and_query_reaches_the_server_as_it_is() {
    let site = Site::new();
    let platform = running(&site).await;
    for method in [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE",
    ] {
        let method: Method = method.parse().unwrap();
        let path = "/a//b%2Fc/%C3%BC?x=1&x=%20&y";
        let body = if method == Method::GET || method == Method::TRACE {
            Bytes::new()
        } else {
            Bytes::from_static(b"\x00\xff body")
        };
        let sent = request(method.clone(), path).body(body.clone()).unwrap();
        let shown = platform
            .gateway
            .send(sent)
            .await
            .unwrap()
            .expect(200)
            .json();
        assert_eq!(shown["method"], method.as_str());
        assert_eq!(shown["target"], path);
        assert_eq!(shown["body"], BASE64.encode(&body), "{method}");
    }
    for (path, target) in [
        ("", "/"),
        ("/", "/"),
        ("?a", "/?a"),
        ("/init.html", "/init.html"),
    ] {
        assert_eq!(
            get(&platform, path).await.expect(200).json()["target"],
            target
        );
    }
    let head = request(Method::HEAD, "/").body(Bytes::new()).unwrap();
    let head = platform.gateway.send(head).await.unwrap().expect(200);
    assert!(head.body.is_empty());
    let length: usize = head.header("content-length").parse().unwrap();
    assert!(length > 100, "{length}");
    platform.finish().await;
}

#[tokio::test]
async fn status_and_headers_of_the_server_come_back_and_those_of_its_connection_do_not() {
    let site = Site::new();
    let platform = running(&site).await;
    for status in [201, 204, 302, 304, 404, 418, 500, 503] {
        let answer = get(&platform, &format!("/?status={status}")).await;
        assert_eq!(answer.status, status);
        let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(answer.header("server"), "bare");
        assert_eq!(answer.header("x-hop"), "");
        assert_eq!(
            answer.header("x-inner-code"),
            "",
            "only the platform sets it"
        );
        assert!(!answer.header("x-cff-request-id").is_empty());
    }
    platform.finish().await;
}

#[tokio::test]
async fn the_server_sees_who_calls_and_nothing_that_a_caller_made_up() {
    let site = Site::new();
    let platform = running(&site).await;
    let sent = request(Method::POST, "/a")
        .header("host", "shop.example")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("content-type", "text/csv")
        .header("authorization", "Bearer mine")
        .header("x-request-id", "trace-1")
        .header("x-forwarded-for", "198.51.100.7")
        .header("X-CFF-Func-Name", "forged")
        .header("x-cff-auth-token", "forged")
        .header("X-Cff-Request-Id", "forged")
        .header("x-apig-source-ip", "forged")
        .header("x-forwarded-prefix", "/forged")
        .header("connection", "keep-alive, x-mine")
        .header("x-mine", "1")
        .header("proxy-authorization", "secret")
        .header("te", "trailers")
        .header("upgrade", "h2c");
    let shown = platform
        .gateway
        .send(sent.body(Bytes::from_static(b"a,b")).unwrap());
    let shown = shown.await.unwrap().expect(200).json();
    for (name, values) in [
        ("host", vec!["shop.example"]),
        ("cookie", vec!["a=1", "b=2"]),
        ("content-type", vec!["text/csv"]),
        ("content-length", vec!["3"]),
        ("authorization", vec!["Bearer mine"]),
        ("x-cff-func-name", vec!["server"]),
        ("x-cff-package", vec!["web"]),
        ("x-cff-project-id", vec!["default"]),
        ("x-cff-func-version", vec!["latest"]),
        ("x-cff-memory", vec!["128"]),
        ("x-cff-timeout", vec!["30"]),
        ("x-cff-request-id", vec!["trace-1"]),
        ("x-forwarded-for", vec!["198.51.100.7", "127.0.0.1"]),
        ("x-forwarded-prefix", vec![AT]),
        ("x-cff-auth-token", vec![]),
        ("x-apig-source-ip", vec![]),
        ("connection", vec![]),
        ("x-mine", vec![]),
        ("proxy-authorization", vec![]),
        ("te", vec![]),
        ("upgrade", vec![]),
    ] {
        assert_eq!(seen(&shown, name), values, "{name}");
    }
    platform.finish().await;
}

#[tokio::test]
async fn the_platforms_own_paths_cannot_be_called() {
    let site = Site::new();
    let platform = running(&site).await;
    for path in [
        "/init",
        "/invoke",
        "/pre-stop",
        "/shutdown",
        "/INVOKE",
        "/invoke/",
        "//invoke",
        "/./init",
        "/%69nvoke",
        "/x/../invoke",
        "/invoke;a=b",
        "/invoke?a=b",
        "/%2569nit",
    ] {
        for method in [Method::GET, Method::POST] {
            let sent = request(method, path).body(Bytes::new()).unwrap();
            let answer = platform.gateway.send(sent).await.unwrap();
            assert_eq!(answer.header("x-inner-code"), "200404", "{path}");
            let error = answer.expect(404).json();
            assert_eq!(error["error_code"], "FSS.1051", "{path}");
        }
    }
    platform.finish().await;
}

#[tokio::test]
async fn a_host_below_the_domain_names_the_function_as_well() {
    let site = Site::new();
    let platform = running(&site).await;
    let sent = Request::get("/orders?x=1").header("host", "server.web.default.fn.localhost:8888");
    let shown = platform.gateway.send(sent.body(Bytes::new()).unwrap());
    let shown = shown.await.unwrap().expect(200).json();
    assert_eq!(shown["target"], "/orders?x=1");
    assert_eq!(seen(&shown, "x-forwarded-prefix"), [""; 0]);

    let unknown = Request::get("/").header("host", "other.web.default.fn.localhost");
    let answer = platform.gateway.send(unknown.body(Bytes::new()).unwrap());
    let answer = answer.await.unwrap().expect(404);
    assert_eq!(answer.header("x-func-err-code"), "150424");
    platform.finish().await;
}

#[tokio::test]
async fn a_published_version_has_an_address_of_its_own() {
    let site = Site::new();
    let platform = site.start().await;
    let function = platform.register(&server(&site)).await;
    let publish = json!({"kind": "faas", "revisionId": function.revision, "versionNumber": "v1"});
    let path = format!("/serverless/v1/functions/{}/versions", function.name);
    let _ = platform.control.post(&path, &publish).await.expect(200);
    for (path, version) in [(format!("{AT}:v1/a"), "v1"), (format!("{AT}/a"), "latest")] {
        let shown = platform.gateway.get(&path).await.expect(200).json();
        assert_eq!(shown["target"], "/a");
        assert_eq!(seen(&shown, "x-cff-func-version"), [version]);
    }
    let _ = platform
        .gateway
        .get(&format!("{AT}:v2/a"))
        .await
        .expect(404);
    platform.finish().await;
}

#[tokio::test]
async fn a_hundred_callers_at_once_each_get_their_own_answer() {
    let site = Site::new();
    let platform = running(&site).await;
    let _ = get(&platform, "/").await.expect(200);
    let calls = (0..100).map(|number| {
        let body = Bytes::from(format!("caller {number}").repeat(number + 1));
        let sent = request(Method::POST, &format!("/{number}"));
        let sent = sent.body(body.clone()).unwrap();
        let platform = &platform;
        async move {
            let shown = platform
                .gateway
                .send(sent)
                .await
                .unwrap()
                .expect(200)
                .json();
            assert_eq!(shown["target"], format!("/{number}"));
            assert_eq!(shown["body"], BASE64.encode(&body));
        }
    });
    let _ = futures_util::future::join_all(calls).await;
    platform.finish().await;
}

#[tokio::test]
async fn callers_one_after_the_other_share_a_connection_to_the_server() {
    let site = Site::new();
    let platform = running(&site).await;
    for number in 0..50 {
        let body = Bytes::from("x".repeat(number));
        let sent = request(Method::POST, "/").body(body).unwrap();
        let shown = platform
            .gateway
            .send(sent)
            .await
            .unwrap()
            .expect(200)
            .json();
        assert_eq!(shown["connections"], 1);
    }
    platform.finish().await;
}
