//! Machines whose clocks differ, and certificates that get old.

use crate::joined::{renew, unknown};

use super::*;

#[tokio::test]
async fn a_node_whose_clock_is_hours_behind_joins() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let (_folder, identity) = platform.join("a").await;
    for hours in [-20, 0, 20] {
        let connected = identity.connect_at(&platform.address, hours).await;
        assert!(connected.is_ok(), "{hours}: {connected:?}");
    }
}

#[tokio::test]
async fn a_node_whose_clock_is_days_behind_says_that_it_is_the_clock() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let (_folder, identity) = platform.join("a").await;
    let refused = identity.connect_at(&platform.address, -72).await;
    let refused = bugle_types::report(&refused.unwrap_err());
    assert!(refused.contains("set the clocks of both"), "{refused}");
    let again = identity.connect_at(&platform.address, -71).await;
    let again = bugle_types::report(&again.unwrap_err());
    assert_eq!(again, refused, "it is no news");
}

#[tokio::test]
async fn a_node_that_stays_connected_gets_a_new_certificate_in_time() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let (folder, identity) = platform.join("a").await;
    let node = Node::run(folder, identity.clone());
    platform.until(&"a".parse().unwrap(), Health::Live).await;
    let before = identity.certificate();
    renew(&identity, &node.host).await;
    assert_eq!(identity.certificate(), before, "it is not due");
    assert_eq!(unknown(&identity, &platform.address).await, None);
    identity.make_due();
    let why = unknown(&identity, &platform.address).await.unwrap();
    assert!(why.contains("has expired"), "{why}");
    renew(&identity, &node.host).await;
    assert_ne!(identity.certificate(), before);
    assert!(!identity.is_refused(&platform.address).await);
    assert!(node.host.is_connected());
}
