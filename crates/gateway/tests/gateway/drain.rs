//! The end of a gateway.

use std::time::Duration;

use bugle_gateway::Config;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::platform::{Platform, Script, json, replied, script, spec};

fn held() -> (Script, watch::Sender<bool>) {
    let (open, gate) = watch::channel(false);
    let script = script(move |_| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|is_open| *is_open).await.unwrap();
            replied(json("1"))
        }
    });
    (script, open)
}

#[tokio::test]
async fn running_and_queued_calls_finish_and_new_ones_are_refused() {
    let (script, open) = held();
    let platform = Platform::start(script).await;
    let mut running = platform.client().await;
    running.call(&[], "").await;
    platform.running.becomes(1).await;
    let mut queued = platform.client().await;
    queued.call(&[], "").await;
    let mut late = platform.client().await;
    late.send("POST /invocations/default/svc/hello/ HTTP/1.1\r\n")
        .await;
    let mut health = platform.client().await;
    health.send("GET /healthz HTTP/1.1\r\n").await;
    let mut idle = platform.client().await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    platform.shutdown.cancel();
    assert!(idle.is_closed().await);
    late.send("host: x\r\n\r\n").await;
    let refused = late.answer().await;
    assert_eq!(refused.verdict(), (503, "150431"));
    assert_ne!(refused.header("retry-after"), "");
    assert_eq!(refused.header("connection"), "close");
    health.send("host: x\r\n\r\n").await;
    assert_eq!(health.answer().await.status, 503);
    assert!(TcpStream::connect(platform.address).await.is_err());

    open.send(true).unwrap();
    for client in [&mut running, &mut queued] {
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection"), "close");
        assert!(client.is_closed().await);
    }
    timeout(Duration::from_secs(5), platform.gateway)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn calls_that_take_too_long_to_drain_are_answered() {
    let config = Config {
        drain_seconds: 1,
        ..Config::default()
    };
    let (script, _open) = held();
    let platform = Platform::with(config, script, [spec()]).await;
    let mut running = platform.client().await;
    running.call(&[], "").await;
    platform.running.becomes(1).await;
    let mut queued = platform.client().await;
    queued.call(&[], "").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    platform.shutdown.cancel();
    assert_eq!(running.answer().await.verdict(), (502, "1007"));
    assert_eq!(queued.answer().await.verdict(), (503, "150431"));
    timeout(Duration::from_secs(5), platform.gateway)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn without_connections_a_gateway_ends_at_once() {
    let (script, _open) = held();
    let platform = Platform::start(script).await;
    platform.shutdown.cancel();
    timeout(Duration::from_secs(1), platform.gateway)
        .await
        .unwrap()
        .unwrap();
}
