//! Nodes that belong to several gateways.

use super::*;

/// Two gateways of one store, the first of which has the functions, and a node that joined through it.
async fn pair() -> (Members, Platform, Platform, Node) {
    let (store, members) = (store(), Members::new());
    members.change(|seen| seen.owner = "one");
    let one = Platform::start_as(&store, "127.0.0.1:0", Some((&members, "one"))).await;
    let two = Platform::start_as(&store, "127.0.0.1:0", Some((&members, "two"))).await;
    let node = one.node("a").await;
    two.until(&"a".parse().unwrap(), Health::Live).await;
    (members, one, two, node)
}

/// The gateway dies: its connections break.
fn dies(platform: Platform) {
    let Platform { hub, .. } = platform;
    hub.let_go();
}

fn goes(members: &Members, gone: &'static str, owner: &'static str) {
    members.change(|seen| {
        seen.addresses.remove(gone);
        seen.owner = owner;
    });
}

#[tokio::test]
async fn a_node_that_joins_knows_all_gateways_and_one_that_comes_later_too() {
    let (store, members) = (store(), Members::new());
    let one = Platform::start_as(&store, "127.0.0.1:0", Some((&members, "one"))).await;
    let two = Platform::start_as(&store, "127.0.0.1:0", Some((&members, "two"))).await;
    let node = two.node("a").await;
    let name: NodeId = "a".parse().unwrap();
    one.until(&name, Health::Live).await;
    let three = Platform::start_as(&store, "127.0.0.1:0", Some((&members, "three"))).await;
    three.until(&name, Health::Live).await;
    // It finds the others again when the one that it has joined through is gone for good.
    dies(two);
    goes(&members, "two", "one");
    let folder = node.folder;
    node.serving.abort();
    _ = node.serving.await;
    eventually(|| one.fleet.nodes().is_empty()).await;
    let identity = Identity::load(folder.path()).unwrap().unwrap();
    let _node = Node::run(folder, identity);
    one.until(&name, Health::Live).await;
    three.until(&name, Health::Live).await;
}

#[tokio::test]
async fn an_instance_of_a_dead_gateway_is_taken_by_the_one_that_has_its_function_then() {
    let (members, one, two, node) = pair().await;
    let Started { instance, .. } = one.start_one(7).await.unwrap();
    eventually(|| two.fleet.nodes()[0].instances == 1).await;
    drop(instance);
    let Started { instance, .. } = one.start_one(8).await.unwrap();
    dies(one);
    drop(instance);
    eventually(|| two.counted.lock().get(&None) == Some(&1)).await;
    assert!(two.adopted.lock().is_empty(), "the function is not its own");
    goes(&members, "one", "two");
    eventually(|| two.adopted.lock().len() == 1).await;
    let instance = Arc::clone(&two.adopted.lock()[0]);
    assert_eq!(instance.id(), InstanceId(8));
    assert_eq!(json(&instance.call(call("3")).await.unwrap()), b"3");
    assert_eq!(node.driver.started(), 2, "nothing was started anew");
    eventually(|| two.counted.lock().is_empty()).await;
}

#[tokio::test]
async fn an_instance_that_runs_a_call_is_nobodys_until_that_has_ended() {
    let (members, one, two, _node) = pair().await;
    let Started { instance, .. } = one.start_one(7).await.unwrap();
    let running = tokio::spawn({
        let instance = Arc::clone(&instance);
        async move { instance.call(call("400")).await }
    });
    sleep(Duration::from_millis(50)).await;
    dies(one);
    goes(&members, "one", "two");
    let lost = running.await.unwrap();
    let cause = ExitCause::NodeLost { node: "a".into() };
    assert_eq!(lost.unwrap_err(), CallError::Exited(cause));
    eventually(|| two.counted.lock().get(&None) == Some(&1)).await;
    assert!(two.adopted.lock().is_empty(), "it counts, and runs a call");
    eventually(|| two.adopted.lock().len() == 1).await;
}

#[tokio::test]
async fn a_gateway_that_is_no_member_any_more_may_not_use_what_it_had() {
    let (members, one, two, _node) = pair().await;
    let Started { instance, .. } = one.start_one(7).await.unwrap();
    goes(&members, "one", "two");
    eventually(|| two.adopted.lock().len() == 1).await;
    let late = instance.call(call("1")).await;
    assert!(matches!(late, Err(CallError::NotSent(_))), "{late:?}");
    instance.kill();
    drop(instance);
    let taken = Arc::clone(&two.adopted.lock()[0]);
    assert_eq!(json(&taken.call(call("3")).await.unwrap()), b"3");
}

#[tokio::test]
async fn an_instance_is_handed_over_warm() {
    let (members, one, two, node) = pair().await;
    let Started { instance, .. } = one.start_one(7).await.unwrap();
    members.change(|seen| seen.owner = "two");
    assert!(instance.hand_over().await);
    assert_eq!(instance.exited().await.cause, ExitCause::Stopped);
    drop(instance);
    eventually(|| two.adopted.lock().len() == 1).await;
    eventually(|| one.counted.lock().is_empty()).await;
    let taken = Arc::clone(&two.adopted.lock()[0]);
    assert_eq!(json(&taken.call(call("3")).await.unwrap()), b"3");
    assert_eq!(node.driver.started(), 1);
}

#[tokio::test]
async fn gateways_together_get_no_more_of_a_node_than_it_has() {
    let (_members, one, two, _node) = pair().await;
    let here = one.fleet.nodes()[0].view.capacity.clone();
    let starts = (0..8).map(|number| {
        let platform = [&one, &two][number % 2];
        timeout(Duration::from_secs(2), platform.start_one(number as u128))
    });
    let started = futures_util::future::join_all(starts).await;
    let up: Vec<_> = started.into_iter().flatten().flatten().collect();
    assert_eq!(
        up.len() as u64,
        here.cpu / 1000,
        "as many as there are cores"
    );
    for platform in [&one, &two] {
        eventually(|| platform.fleet.nodes()[0].cpu_used == here.cpu).await;
    }
    drop(up);
    eventually(|| two.fleet.nodes()[0].cpu_used == 0).await;
}

#[tokio::test]
async fn a_drain_and_a_removal_are_known_to_every_gateway() {
    let (_members, one, two, _node) = pair().await;
    let name: NodeId = "a".parse().unwrap();
    two.hub.drain(&name, true).await.unwrap();
    one.until(&name, Health::Draining).await;
    one.hub.drain(&name, false).await.unwrap();
    two.until(&name, Health::Live).await;
    two.hub.remove(&name).await.unwrap();
    eventually(|| one.fleet.nodes().is_empty() && two.fleet.nodes().is_empty()).await;
}

#[tokio::test]
async fn a_node_is_closed_for_every_gateway_and_only_while_none_has_anything_there() {
    let (_members, one, two, _node) = pair().await;
    let name: NodeId = "a".parse().unwrap();
    let Started { instance, .. } = one.start_one(7).await.unwrap();
    assert!(!two.hub.close(&name).await, "the other one uses it");
    two.until(&name, Health::Live).await;
    instance.kill();
    drop(instance);
    eventually(|| two.fleet.nodes()[0].instances == 0).await;
    assert!(two.hub.close(&name).await);
    one.until(&name, Health::Draining).await;
    two.hub.open_again(&name).await;
    one.until(&name, Health::Live).await;
    two.until(&name, Health::Live).await;
    assert!(one.start_one(8).await.is_ok());
    assert!(!one.hub.close(&"b".parse().unwrap()).await);
}
