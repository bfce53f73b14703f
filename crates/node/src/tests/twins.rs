//! Two processes that both are the same node.

use super::membership::issued_long_ago;
use super::*;

/// A copy of what a node keeps in its folder.
fn copy(folder: &std::path::Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["node.key", "node.json"] {
        std::fs::copy(folder.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

/// A process whose identity is that of a folder.
fn started(folder: tempfile::TempDir) -> Node {
    let identity = Identity::load(folder.path()).unwrap().unwrap();
    Node::run(folder, identity)
}

#[tokio::test]
async fn a_process_with_the_identity_of_a_node_that_is_connected_is_refused_until_that_ends() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let first = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    let second = started(copy(first.folder.path()));
    let identity = Identity::load(second.folder.path()).unwrap().unwrap();
    let refused = once(&identity, &second.host, &platform.address).await;
    let Err(IdentityError::Twin(reason)) = refused else {
        panic!("{refused:?}");
    };
    let cause = format!("{} is connected as node a already", first.host.process());
    assert!(reason.contains(&cause), "{reason}");
    assert!(reason.contains("an empty data folder"), "{reason}");
    assert_eq!(json(&instance.call(call("1")).await.unwrap()), b"1");
    let Node { stop, serving, .. } = first;
    drop((stop, serving));
    eventually(|| second.host.is_connected()).await;
    let Started { instance, .. } = platform.start_one(2).await.unwrap();
    assert_eq!(json(&instance.call(call("2")).await.unwrap()), b"2");
    assert_eq!(second.driver.started(), 1);
}

#[tokio::test]
async fn a_refused_process_does_not_take_the_certificate_of_the_node_away() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let copy = copy(node.folder.path());
    let due = issued_long_ago(copy.path());
    let second = Node::run(copy, due.clone());
    let refused = once(&due, &second.host, &platform.address).await;
    assert!(
        matches!(refused, Err(IdentityError::Twin(_))),
        "{refused:?}"
    );
    let identity = Identity::load(node.folder.path()).unwrap().unwrap();
    assert!(!identity.is_refused(&platform.address).await);
    // The node itself gets another.
    let due = issued_long_ago(node.folder.path());
    due.renew_when_due(&platform.address, node.host.process())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_that_fell_silent_and_started_again_comes_back_before_that_is_noticed() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let (folder, identity) = platform.join("a").await;
    let name: NodeId = "a".parse().unwrap();
    // It answers nothing from now on, as one whose machine is gone.
    let _silent = hostility::misbehaving(&platform, &identity, |path, respond| {
        (path == "/news").then(|| hostility::hello(respond))
    })
    .await;
    platform.until(&name, Health::Live).await;
    let node = started(folder);
    eventually(|| platform.fleet.nodes()[0].view.capacity.cpu == 4000).await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    assert_eq!(json(&instance.call(call("1")).await.unwrap()), b"1");
    assert_eq!(node.driver.started(), 1);
}

#[tokio::test]
async fn a_new_connection_of_the_same_process_stands_in_for_its_former_one() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let Node { host, folder, .. } = platform.node("a").await;
    eventually(|| platform.fleet.nodes().is_empty()).await;
    let identity = Identity::load(folder.path()).unwrap().unwrap();
    let connect = || Box::pin(once(&identity, &host, &platform.address));
    let one_ends = async {
        tokio::select! {
            ended = connect() => ended,
            ended = connect() => ended,
        }
    };
    // The process believes that the other one broke: none is refused, and the later one stays.
    let ended = timeout(BOUND, one_ends).await.unwrap();
    assert!(ended.is_ok(), "{ended:?}");
}
