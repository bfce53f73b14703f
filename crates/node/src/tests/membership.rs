//! Who is a node of the platform: joining, being removed, and what a node alone may have.

use tokio::sync::mpsc;

use crate::identity::KNOWN;
use crate::joined::may_be_removed;

use super::hostility::{hello, misbehaving};
use super::*;

#[tokio::test]
async fn a_removed_node_is_cut_off_and_does_not_come_back() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    platform.hub.remove(&"a".parse().unwrap()).await.unwrap();
    eventually(|| platform.fleet.nodes().is_empty()).await;
    let identity = Identity::load(node.folder.path()).unwrap().unwrap();
    let again = once(&identity, &node.host, &platform.address).await;
    assert!(again.is_err(), "it tries, and is refused");
    assert!(platform.fleet.nodes().is_empty());
    let refused = identity
        .packages()
        .open(&"t".parse().unwrap(), "known")
        .await;
    assert!(matches!(refused, Err(IdentityError::Refused(_))));
}

#[tokio::test]
async fn a_node_that_is_removed_before_it_says_what_it_is_is_not_taken_in() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let (_folder, identity) = platform.join("a").await;
    let (asked, mut asks) = mpsc::channel(1);
    let connection = misbehaving(&platform, &identity, move |path, respond| {
        assert_eq!(path, "/news");
        asked.try_send(respond).unwrap();
        None
    })
    .await;
    let respond = asks.recv().await.unwrap();
    platform.hub.remove(&"a".parse().unwrap()).await.unwrap();
    let _news = hello(respond);
    timeout(BOUND, connection).await.unwrap().unwrap();
    assert!(platform.fleet.nodes().is_empty());
}

#[tokio::test]
async fn a_node_that_is_removed_while_it_is_taken_in_does_not_stay() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let Node { host, folder, .. } = platform.node("a").await;
    eventually(|| platform.fleet.nodes().is_empty()).await;
    let identity = Identity::load(folder.path()).unwrap().unwrap();
    let name = "a".parse().unwrap();
    let (asked, mut asks) = mpsc::channel(1);
    // Its former process, which is asked whether it lives.
    let _former = misbehaving(&platform, &identity, move |path, respond| match path {
        "/news" => Some(hello(respond)),
        "/alive" => {
            asked.try_send(respond).unwrap();
            None
        }
        _ => None,
    })
    .await;
    platform.until(&name, Health::Live).await;
    let removal = async {
        let _unanswered = asks.recv().await.unwrap();
        platform.hub.remove(&name).await.unwrap();
    };
    let connected = once(&identity, &host, &platform.address);
    let (connected, ()) = tokio::join!(timeout(BOUND, connected), removal);
    assert!(connected.is_ok(), "it is cut off");
    eventually(|| platform.fleet.nodes().is_empty()).await;
}

#[tokio::test]
async fn a_removed_node_learns_that_it_was_removed_also_when_its_certificate_is_due() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let identity = Identity::load(node.folder.path()).unwrap().unwrap();
    assert!(!identity.is_refused(&platform.address).await);
    platform.hub.remove(&"a".parse().unwrap()).await.unwrap();
    let broken = once(&identity, &node.host, &platform.address).await;
    let broken = broken.unwrap_err();
    assert!(matches!(broken, IdentityError::Broken(_)), "{broken:?}");
    assert!(may_be_removed(&broken));
    assert!(identity.is_refused(&platform.address).await);
    let identity = issued_long_ago(node.folder.path());
    let refused = once(&identity, &node.host, &platform.address).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, IdentityError::Refused(_)), "{refused:?}");
    assert!(may_be_removed(&refused));
    assert!(identity.is_refused(&platform.address).await);
}

/// What a node has in its folder, with a certificate that is to be renewed.
pub(super) fn issued_long_ago(folder: &std::path::Path) -> Identity {
    let path = folder.join("node.json");
    let mut record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["issued"] = 0.into();
    std::fs::write(&path, record.to_string()).unwrap();
    Identity::load(folder).unwrap().unwrap()
}

#[tokio::test]
async fn a_gateway_that_is_gone_or_silent_is_not_asked_and_holds_nobody_up() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let identity = Identity::load(node.folder.path()).unwrap().unwrap();
    node.serving.abort();
    platform.hub.remove(&"a".parse().unwrap()).await.unwrap();
    let silent = bound("127.0.0.1:0").await;
    let address = silent.local_addr().unwrap().to_string();
    // The clock jumps to the next timer when there is nothing else to do.
    tokio::time::pause();
    let error = once(&identity, &node.host, &address).await.unwrap_err();
    assert!(matches!(error, IdentityError::Connect { .. }), "{error:?}");
    assert!(!may_be_removed(&error));
    let begin = Instant::now();
    assert!(!identity.is_refused(&address).await);
    assert!(begin.elapsed() < KNOWN + Duration::from_millis(100));
    drop(silent);
    let error = once(&identity, &node.host, &address).await.unwrap_err();
    assert!(!may_be_removed(&error), "{error:?}");
}

#[tokio::test]
async fn a_wrong_token_and_another_platforms_are_refused() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let other = Platform::start(&store(), "127.0.0.1:0").await;
    let folder = tempfile::tempdir().unwrap();
    let name: NodeId = "a".parse().unwrap();
    let foreign = other.token().await;
    let joined = Identity::join(folder.path(), &platform.address, &foreign, &name, None).await;
    // The node notices first: it is not the platform that its token names.
    assert!(
        matches!(joined, Err(IdentityError::Stranger { .. })),
        "{joined:?}"
    );
    let token = platform.token().await;
    Identity::join(folder.path(), &platform.address, &token, &name, None)
        .await
        .unwrap();
    let again = Identity::join(folder.path(), &platform.address, &token, &name, None).await;
    assert!(matches!(again, Err(IdentityError::Refused(_))), "{again:?}");
    // A certificate of another platform.
    let node = Identity::load(folder.path()).unwrap().unwrap();
    assert!(matches!(
        node.connect(&other.address).await,
        Err(IdentityError::Connect { .. })
    ));
}

#[tokio::test]
async fn keys_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    for entry in std::fs::read_dir(node.folder.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn packages_come_over_the_same_port_for_nodes_alone() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let identity = Identity::load(node.folder.path()).unwrap().unwrap();
    let source = identity.packages();
    let tenant = "t".parse().unwrap();
    let mut package = source.open(&tenant, "known").await.unwrap();
    let mut bytes = 0;
    while let Some(chunk) = package.next().await.unwrap() {
        bytes += chunk.len();
    }
    assert_eq!(bytes, 3_000_003);
    let unknown = source.open(&tenant, "unknown").await;
    assert!(matches!(unknown, Err(IdentityError::Refused(reason)) if reason == "no such package"));
}

#[tokio::test]
async fn a_pod_joins_as_what_the_cluster_says_it_is_and_its_stolen_token_is_worth_nothing() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let token = platform.hub.pool_token("pool1");
    let join = async |name: &str, uid: &str| {
        let (folder, name) = (tempfile::tempdir().unwrap(), name.parse().unwrap());
        let address = &platform.address;
        let joined = Identity::join(folder.path(), address, &token, &name, Some(uid)).await;
        (folder, joined)
    };
    for (name, uid) in [("pod-1", "uid-2"), ("pod-2", "uid-1")] {
        let (_, refused) = join(name, uid).await;
        let Err(IdentityError::Refused(reason)) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("the cluster has no Pod"), "{reason}");
    }
    let (folder, joined) = join("pod-1", "uid-1").await;
    let node = Node::run(folder, joined.unwrap());
    let id: NodeId = "pod-1".parse().unwrap();
    platform.until(&id, Health::Live).await;
    assert_eq!(
        platform.fleet.nodes()[0].view.pool.as_deref(),
        Some("pool1")
    );
    let (_, again) = join("pod-1", "uid-1").await;
    assert!(matches!(again, Err(IdentityError::Refused(_))), "{again:?}");
    drop(node);
}
