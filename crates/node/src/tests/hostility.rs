//! Nodes, and others on the port of nodes, that do what they should not.

use h2::SendStream;
use h2::server::SendResponse;
use tokio::net::TcpStream;

use crate::parts::{Kind, json_part, part};
use crate::wire::{Found, Hello, PROTOCOL, StartOrder};

use super::*;

/// A node that has joined and then does what it should not.
async fn hostile(
    platform: &Platform,
    name: &str,
    misbehave: impl Fn(&str, SendResponse<Bytes>) -> Option<SendStream<Bytes>> + Send + 'static,
) -> AbortOnDropHandle<()> {
    let (_folder, identity) = platform.join(name).await;
    misbehaving(platform, &identity, misbehave).await
}

/// A process of a node that does what it should not.
pub(super) async fn misbehaving(
    platform: &Platform,
    identity: &Identity,
    misbehave: impl Fn(&str, SendResponse<Bytes>) -> Option<SendStream<Bytes>> + Send + 'static,
) -> AbortOnDropHandle<()> {
    let stream = identity.connect(&platform.address).await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let serving = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(Ok((request, respond))) = connection.accept().await {
            let open = misbehave(request.uri().path(), respond);
            kept.push((request, open));
        }
    });
    AbortOnDropHandle::new(serving)
}

/// What it gives stays open for as long as it is kept.
pub(super) fn hello(mut respond: SendResponse<Bytes>) -> SendStream<Bytes> {
    let hello = Hello {
        protocol: PROTOCOL,
        build: "test".to_owned(),
        process: String::new(),
        cpu: 9000,
        memory: 9000,
        custom: BTreeMap::new(),
        labels: BTreeMap::new(),
        pool: None,
        group: None,
    };
    let mut stream = respond
        .send_response(http::Response::new(()), false)
        .unwrap();
    stream
        .send_data(json_part(Kind::Hello, &hello), false)
        .unwrap();
    stream
}

fn answer(mut respond: SendResponse<Bytes>, bytes: Bytes) -> Option<SendStream<Bytes>> {
    let mut stream = respond
        .send_response(http::Response::new(()), false)
        .unwrap();
    // Whoever has gone by then has seen enough.
    let _ = stream.send_data(bytes, true);
    None
}

#[tokio::test]
async fn a_node_that_breaks_the_protocol_is_given_up_and_harms_nobody() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let _good = platform.node("good").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    let garbage: [(&str, Bytes); 4] = [
        ("noise", Bytes::from_static(&[0xff; 64])),
        ("huge", Bytes::from_static(&[3, 0xff, 0xff, 0xff, 0xff, 0])),
        ("short", part(Kind::Reply, &[b"x"])),
        (
            "endless",
            Bytes::from(part(Kind::Message, &[&[0; 100]]).repeat(1000)),
        ),
    ];
    for (name, bytes) in garbage {
        let _bad = hostile(&platform, name, move |path, respond| match path {
            "/news" => Some(hello(respond)),
            "/start" => answer(respond, Bytes::from_static(br#"{"Ok":{"pid":1,"phases":{"process":{"secs":0,"nanos":0},"load":{"secs":0,"nanos":0},"init":{"secs":0,"nanos":0}}}}"#)),
            "/call" => answer(respond, bytes.clone()),
            _ => None,
        })
        .await;
        platform.until(&name.parse().unwrap(), Health::Live).await;
        // The larger node takes it.
        let Started { instance: bad, .. } = platform.start_one(2).await.unwrap();
        assert_eq!(bad.node(), Some(name));
        let answered = timeout(BOUND, bad.call(call("1"))).await.unwrap();
        assert!(
            matches!(answered, Err(CallError::Protocol(_))),
            "{name}: {answered:?}"
        );
        let exit = timeout(BOUND, bad.exited()).await.unwrap();
        assert_eq!(exit.cause, ExitCause::NodeLost { node: name.into() });
        eventually(|| platform.fleet.nodes().len() == 1).await;
        let reply = instance.call(call("1")).await.unwrap();
        assert_eq!(json(&reply), b"1", "the good node does not notice");
    }
}

#[tokio::test]
async fn a_node_that_offers_what_was_never_ordered_is_given_up() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let liar = hostile(&platform, "liar", |path, respond| match path {
        "/news" => {
            let spec = spec("bank", "1", 1, 0, 9);
            let order = StartOrder {
                id: InstanceId(7),
                resources: spec.resources.clone(),
                spec,
                label: None,
                alone: false,
                mark: "0".repeat(64),
            };
            let found = Found {
                order,
                pid: None,
                busy: false,
            };
            let mut stream = hello(respond);
            let offer = json_part(Kind::Found, &found);
            stream.send_data(offer, false).unwrap();
            Some(stream)
        }
        "/take" => answer(respond, Bytes::from_static(&[1])),
        _ => None,
    })
    .await;
    let connection = timeout(BOUND, liar).await;
    assert!(connection.is_ok(), "it is cut off");
    assert!(
        platform.adopted.lock().is_empty(),
        "nobody's calls go there"
    );
}

#[tokio::test]
async fn a_flood_of_connections_keeps_no_node_away() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let mut flood = Vec::new();
    for _ in 0..600 {
        flood.push(TcpStream::connect(&platform.address).await.unwrap());
    }
    let joined = timeout(Duration::from_secs(5), platform.node("a")).await;
    assert!(joined.is_ok(), "it waits for none of them");
}

#[tokio::test]
async fn a_node_of_another_build_or_without_a_word_is_not_taken_in() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let _news = hostile(&platform, "odd", |path, respond| {
        if path == "/news" {
            return answer(respond, json_part(Kind::Hello, &"nonsense"));
        }
        None
    })
    .await;
    let _other = hostile(&platform, "other", |path, respond| {
        if path == "/news" {
            let hello = serde_json::json!({"protocol": PROTOCOL, "build": "another", "cpu": 1, "memory": 1,
                "custom": {}, "labels": {}, "pool": null, "group": null});
            return answer(respond, json_part(Kind::Hello, &hello));
        }
        None
    })
    .await;
    sleep(Duration::from_millis(300)).await;
    assert!(platform.fleet.nodes().is_empty());
}
