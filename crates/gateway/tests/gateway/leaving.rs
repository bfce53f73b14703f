//! Clients that go away.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::CallRequest;
use tokio::sync::Semaphore;

use crate::platform::{Platform, Script, json, replied, script};

/// Calls end one by one, when the test lets them.
fn held() -> (Script, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let script = script(move |_| {
        let opened = Arc::clone(&opened);
        async move {
            opened.acquire().await.unwrap().forget();
            replied(json("1"))
        }
    });
    (script, gate)
}

#[tokio::test]
async fn a_queued_call_is_forgotten() {
    let (script, gate) = held();
    let platform = Platform::start(script).await;
    let mut first = platform.client().await;
    first.call(&[], "").await;
    platform.running.becomes(1).await;

    let mut leaving = platform.client().await;
    leaving.call(&[], "").await;
    let mut last = platform.client().await;
    last.call(&[], "").await;
    // Both are in the queue once the gateway has read them.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(leaving);
    tokio::time::sleep(Duration::from_millis(100)).await;

    gate.add_permits(2);
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(last.answer().await.status, 200);
    assert_eq!(platform.running.ever(), 2);
}

#[tokio::test]
async fn a_call_that_runs_keeps_its_slot_until_it_ends() {
    let (script, gate) = held();
    let platform = Platform::start(script).await;
    let mut leaving = platform.client().await;
    leaving.call(&[], "").await;
    platform.running.becomes(1).await;
    drop(leaving);

    let mut next = platform.client().await;
    next.call(&[], "").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((platform.running.now(), platform.running.ever()), (1, 1));

    gate.add_permits(1);
    platform.running.becomes(1).await;
    gate.add_permits(1);
    assert_eq!(next.answer().await.status, 200);
    assert_eq!(platform.running.ever(), 2);
}

#[tokio::test]
async fn a_call_left_alone_still_has_its_deadline() {
    let mut function = crate::platform::spec();
    function.timeout = Duration::from_millis(300);
    let quick_or_hanging = script(|request: CallRequest| async move {
        if request.body == "hang" {
            std::future::pending::<()>().await;
        }
        replied(json("1"))
    });
    let config = bugle_gateway::Config::default();
    let platform = Platform::with(config, quick_or_hanging, [function]).await;
    let mut leaving = platform.client().await;
    leaving.call(&[], "hang").await;
    platform.running.becomes(1).await;
    drop(leaving);
    let mut next = platform.client().await;
    next.call(&[], "").await;
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn many_clients_that_leave_take_nothing_with_them() {
    const CLIENTS: u64 = 16;
    const CALLS: u64 = 50;
    let mut function = crate::platform::spec();
    function.concurrency = NonZeroU32::new(4).unwrap();
    let short = script(|_| async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        replied(json("1"))
    });
    let config = bugle_gateway::Config::default();
    let platform = Platform::with(config, short, [function]).await;
    let clients = (0..CLIENTS).map(|number| {
        let address = platform.address;
        tokio::spawn(async move {
            for call in 0..CALLS {
                let mut client = crate::client::Client::connect(address).await;
                client.call(&[], "").await;
                // About a third leaves, some before and some after their call was sent on.
                if (number + call) % 3 == 0 {
                    tokio::time::sleep(Duration::from_millis(call % 7)).await;
                    continue;
                }
                assert_eq!(client.answer().await.status, 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    platform.running.becomes(0).await;
    assert!(platform.running.most() <= 4, "{}", platform.running.most());
    let mut last = platform.client().await;
    last.call(&[], "").await;
    assert_eq!(last.answer().await.status, 200);
    // A client that left before its call was looked at made no call.
    let counts = platform.counts();
    let of = |outcome| counts.iter().find(|(name, _)| *name == outcome);
    let (_, answered) = of("success").unwrap();
    let (_, abandoned) = of("abandoned").unwrap();
    assert!(answered + abandoned <= CLIENTS * CALLS + 1, "{counts:?}");
    assert_eq!(counts.len(), 2, "{counts:?}");
}
