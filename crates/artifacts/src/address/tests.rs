use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn policy(allowed: &[&str]) -> Policy {
    let allowed = allowed.iter().map(|&text| text.to_owned()).collect();
    Policy::new(&Config {
        allowed,
        ..Config::default()
    })
    .unwrap()
}

fn target(url: &str) -> Target {
    Policy::target(&url.parse().unwrap()).unwrap()
}

fn check(policy: &Policy, url: &str, address: &str) -> Result<(), Refused> {
    policy.check(&target(url), address.parse().unwrap())
}

/// Every kind of address that leads back inside.
const INSIDE: &[&str] = &[
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2002:c0a8:1::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
];

#[test]
fn nothing_inside_is_reached_by_any_dress_of_its_address() {
    let policy = policy(&[]);
    for address in INSIDE {
        for url in ["https://store.example", "http://store.example:9000"] {
            let refused = check(&policy, url, address).unwrap_err();
            assert!(
                matches!(refused, Refused::Special { .. }),
                "{url} {address}: {refused}"
            );
            assert!(
                refused.to_string().contains("addresses.allowed"),
                "{refused}"
            );
        }
    }
}

#[test]
fn what_is_public_is_reached_with_encryption() {
    let policy = policy(&[]);
    for address in [
        "1.1.1.1",
        "172.32.0.1",
        "100.128.0.1",
        "2606:4700::1",
        "64:ff9b::101:101",
    ] {
        check(&policy, "https://store.example", address).unwrap();
        check(&policy, "https://store.example:9000", address).unwrap();
        let plain = check(&policy, "http://store.example", address).unwrap_err();
        assert!(matches!(plain, Refused::Unencrypted { .. }), "{plain}");
    }
}

#[test]
fn a_port_of_the_system_is_refused_without_a_rule() {
    let url = "https://store.example:25";
    let refused = check(&policy(&[]), url, "1.1.1.1").unwrap_err();
    assert!(
        matches!(refused, Refused::Port { port: 25, .. }),
        "{refused}"
    );
    check(&policy(&["store.example:25"]), url, "1.1.1.1").unwrap();
}

#[test]
fn a_rule_allows_what_it_names_and_nothing_beside() {
    let networks = policy(&["10.1.0.0/16", "[fd00::5]:9000"]);
    check(&networks, "https://a", "10.1.255.1").unwrap();
    check(&networks, "https://a", "::ffff:10.1.0.1").unwrap();
    check(&networks, "https://a", "10.2.0.1").unwrap_err();
    check(&networks, "https://a:9000", "fd00::5").unwrap();
    check(&networks, "https://a", "fd00::5").unwrap_err();
    check(&networks, "http://a", "10.1.0.1").unwrap_err();

    let below = policy(&["*.internal:9000"]);
    check(&below, "https://a.b.internal:9000", "10.0.0.1").unwrap();
    check(&below, "https://internal:9000", "10.0.0.1").unwrap_err();
    check(&below, "https://ainternal:9000", "10.0.0.1").unwrap_err();
    check(&below, "https://.internal:9000", "10.0.0.1").unwrap_err();

    let names = policy(&["http://MinIO.internal:9000"]);
    check(&names, "http://minio.INTERNAL:9000", "10.0.0.1").unwrap();
    check(&names, "https://minio.internal:9000", "10.0.0.1").unwrap();
    check(&names, "http://minio.internal:9001", "10.0.0.1").unwrap_err();
    check(&names, "http://other.internal:9000", "10.0.0.1").unwrap_err();
    check(&names, "http://minio.internal.example:9000", "10.0.0.1").unwrap_err();
}

#[test]
fn addresses_that_say_more_than_where_are_malformed() {
    let urls = [
        "ftp://store.example",
        "file:///etc/passwd",
        "gopher://127.0.0.1:70",
        "https://user@store.example",
        "https://1.1.1.1@127.0.0.1",
        "https://user:secret@store.example",
        "store.example",
        "/relative",
    ];
    for url in urls {
        let Ok(url) = url.parse() else { continue };
        let refused = Policy::target(&url).unwrap_err();
        assert!(matches!(refused, Refused::Malformed { .. }), "{refused}");
    }
}

#[test]
fn a_rule_that_cannot_be_read_is_refused_with_its_text() {
    for text in [
        "",
        "10.0.0.0/33",
        "1.2.3",
        "a b",
        "host:port",
        "[::1",
        "http://",
        "0x7f.1/8",
        "*.",
        "*.*",
        "*",
    ] {
        let allowed = vec![text.to_owned()];
        let config = Config {
            allowed,
            ..Config::default()
        };
        let error = Policy::new(&config).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn numbers_that_the_resolver_understands_are_checked_after_it() {
    let policy = policy(&[]);
    for host in [
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "localhost",
        "[::1]",
        "0",
    ] {
        let refused = policy.resolve(&target(&format!("https://{host}"))).await;
        let refused = refused.unwrap_err();
        assert!(
            matches!(
                refused,
                Refused::Special { .. } | Refused::Unresolved { .. }
            ),
            "{host}: {refused}"
        );
    }
}

#[tokio::test]
async fn the_client_reaches_what_is_listed_and_follows_no_redirect() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await.unwrap();
        let answer =
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let url = format!("http://127.0.0.1:{port}/x");
    let get = |policy: &Policy| {
        let client = client::<http_body_util::Empty<bytes::Bytes>>(policy, &Config::default());
        client.unwrap().get(url.parse().unwrap())
    };
    let refused = get(&policy(&[])).await.unwrap_err();
    let text = bugle_types::report(&refused);
    assert!(text.contains("the platform's own machine"), "{text}");
    let answer = get(&policy(&[&format!("http://127.0.0.1:{port}")]))
        .await
        .unwrap();
    assert_eq!(answer.status(), 302);
    server.await.unwrap();
}
