//! A platform and nodes as processes of their own: placement, death, drain, restart, who may join.
#![cfg(test)]

mod packages;
mod upgrades;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bugle_testkit::{
    FunctionSpec, Node, Platform, Registered, Site, StartOptions, eventually, node_token,
    until_node_lives, with_nodes,
};
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};

const BOUND: Duration = Duration::from_mins(1);

fn options() -> StartOptions {
    with_nodes(StartOptions::default())
}

/// Answers the instance it runs in, after as many seconds as the event says.
const WHO: &str = r"
import time
def handler(event, context):
    time.sleep(event or 0)
    return context.get_instance_id()
";

async fn function(site: &Site, platform: &Platform, name: &str, max: &str) -> Registered {
    let code = site.write_code(name, "index.py", WHO);
    let spec = FunctionSpec::python(&format!("0@test@{name}"), &code)
        .with("concurrentNum", "1")
        .with("maxInstance", max);
    platform.register(&spec).await
}

/// The nodes by name: their state, and how many instances they have.
async fn nodes(platform: &Platform) -> BTreeMap<String, (String, u64)> {
    let list = platform
        .control
        .get("/bugle/v1/nodes")
        .await
        .expect(200)
        .json();
    let nodes = list["nodes"].as_array().expect("a list").iter();
    nodes
        .map(|node| {
            let text = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
            let instances = node["instances"].as_u64().unwrap_or_default();
            (text("name"), (text("state"), instances))
        })
        .collect()
}

#[tokio::test]
async fn instances_are_spread_over_the_nodes() {
    let site = Site::new();
    let platform = site.start_with(&options()).await;
    let one = Node::join(&site, &platform, "one").await;
    let two = Node::join(&site, &platform, "two").await;
    let who = function(&site, &platform, "who", "8").await;
    // Longer than the first starts of two nodes take.
    let calls = (0..4).map(|_| platform.invoke(&who, "3"));
    let answers = join_all(calls).await.into_iter();
    let ids: BTreeSet<String> = answers.map(|answer| answer.expect(200).text()).collect();
    assert_eq!(ids.len(), 4, "each call had an instance of its own");
    let seen = nodes(&platform).await;
    assert_eq!(seen["one"], ("live".to_owned(), 2));
    assert_eq!(seen["two"], ("live".to_owned(), 2));
    platform.finish().await;
    one.finish().await;
    two.finish().await;
}

/// Calls until it is told to stop; how often each status came.
async fn load(
    platform: &Platform,
    function: &Registered,
    stop: &AtomicBool,
) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let answer = platform.invoke(function, "0.02").await;
        *statuses.entry(answer.status).or_insert(0) += 1;
    }
    statuses
}

async fn under_load(
    platform: &Platform,
    function: &Registered,
    event: impl Future<Output = ()>,
) -> BTreeMap<u16, usize> {
    let stop = Arc::new(AtomicBool::new(false));
    let callers = join_all((0..4).map(|_| load(platform, function, &stop)));
    let event = async {
        sleep(Duration::from_millis(500)).await;
        event.await;
        stop.store(true, Ordering::Relaxed);
    };
    let (all, ()) = tokio::join!(callers, event);
    let mut statuses = BTreeMap::new();
    for (status, count) in all.into_iter().flatten() {
        *statuses.entry(status).or_insert(0) += count;
    }
    statuses
}

#[tokio::test]
async fn a_node_that_is_killed_under_load_is_replaced_within_three_seconds() {
    let site = Site::new();
    let mut platform = site.start_with(&options()).await;
    platform.tolerate("connection");
    let one = Node::join(&site, &platform, "one").await;
    let two = Node::join(&site, &platform, "two").await;
    let who = function(&site, &platform, "who", "4").await;
    // Interpreters are warm on both nodes, as they are after the first calls.
    let calls = (0..4).map(|_| platform.invoke(&who, "1"));
    for answer in join_all(calls).await {
        let _ = answer.expect(200);
    }
    eventually("the library is warm on both nodes", BOUND, || async {
        let warm = |node: &Node| node.said().contains("the library is warm");
        let both = warm(&one) && warm(&two);
        both.then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let kill = async {
        one.kill().await;
        let killed = Instant::now();
        let calls = (0..4).map(|_| platform.invoke(&who, "0.02"));
        while !join_all(calls.clone())
            .await
            .iter()
            .all(|answer| answer.status == 200)
        {
            assert!(
                killed.elapsed() < Duration::from_secs(3),
                "it is not replaced"
            );
        }
        let after = killed.elapsed();
        assert!(after < Duration::from_secs(3), "it took {after:?}");
        sleep(Duration::from_millis(500)).await;
    };
    let statuses = under_load(&platform, &who, kill).await;
    // Each call has one answer: that of its instance, or that its node was lost.
    assert!(statuses[&200] > 20, "{statuses:?}");
    let lost: usize = statuses
        .iter()
        .filter(|(status, _)| **status != 200)
        .map(|(_, n)| n)
        .sum();
    assert!(
        lost <= 8,
        "no more than the calls that ran there: {statuses:?}"
    );
    assert_eq!(nodes(&platform).await["one"].0, "gone");
    platform.finish().await;
    two.finish().await;
}

#[tokio::test]
async fn a_call_whose_node_is_killed_is_told_so() {
    let site = Site::new();
    let platform = site.start_with(&options()).await;
    let one = Node::join(&site, &platform, "one").await;
    let who = function(&site, &platform, "who", "4").await;
    let _ = platform.invoke(&who, "0").await.expect(200);
    let running = platform.invoke(&who, "30");
    let kill = async {
        platform.until_called(&who, 1).await;
        one.kill().await;
    };
    let begin = Instant::now();
    let (answer, ()) = tokio::join!(running, kill);
    assert!(begin.elapsed() < Duration::from_secs(4));
    assert!(answer.status >= 500, "{answer:?}");
    assert!(
        answer.text().contains("node one was lost"),
        "{}",
        answer.text()
    );
    platform.finish().await;
}

#[tokio::test]
async fn a_drain_moves_everything_without_a_failed_call() {
    let site = Site::new();
    let platform = site.start_with(&options()).await;
    let one = Node::join(&site, &platform, "one").await;
    let who = function(&site, &platform, "who", "8").await;
    let _ = platform.invoke(&who, "0").await.expect(200);
    let two = Node::join(&site, &platform, "two").await;
    let drain = async {
        let path = "/bugle/v1/nodes/one/drain";
        let _ = platform.control.post(path, &json!({})).await.expect(204);
        eventually("the drained node is empty", BOUND, || async {
            match nodes(&platform).await.remove("one") {
                Some((state, 0)) if state == "draining" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        sleep(Duration::from_millis(300)).await;
    };
    let statuses = under_load(&platform, &who, drain).await;
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
    // The same when the node is asked to end.
    let resumed = platform.control.delete("/bugle/v1/nodes/one/drain").await;
    let _ = resumed.expect(204);
    let statuses = under_load(&platform, &who, two.finish()).await;
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
    platform.finish().await;
    one.finish().await;
}

#[tokio::test]
async fn warm_instances_survive_a_crash_of_the_platform() {
    let site = Site::new();
    let listen = options().config("nodes", "listen", "127.0.0.1:0");
    let platform = site.start_with(&listen).await;
    let address = node_token(&platform).await.1;
    platform.kill().await;
    // On a port that stays the same.
    let fixed = options().config("nodes", "listen", &address);
    let platform = site.start_with(&fixed).await;
    let one = Node::join(&site, &platform, "one").await;
    let who = function(&site, &platform, "who", "4").await;
    let before = platform.invoke(&who, "0").await.expect(200).text();
    platform.kill().await;
    let platform = site.start_with(&fixed).await;
    until_node_lives(&platform, "one").await;
    eventually("the instance is known again", BOUND, || async {
        match nodes(&platform).await["one"].1 {
            1 => Ok(()),
            other => Err(format!("{other} instances")),
        }
    })
    .await;
    let after = platform.invoke(&who, "0").await.expect(200).text();
    assert_eq!(before, after, "the same instance");
    platform.finish().await;
    one.finish().await;
}

#[tokio::test]
async fn a_token_is_good_once_and_a_removed_node_is_refused() {
    let site = Site::new();
    let mut platform = site.start_with(&options()).await;
    platform.tolerate("a node was refused");
    let (token, address) = node_token(&platform).await;
    let one = Node::start(&site, "one", &["--join", &address, "--token", &token]);
    until_node_lives(&platform, "one").await;
    let again = Node::start(&site, "two", &["--join", &address, "--token", &token]);
    let said = again.refused().await;
    assert!(said.contains("the token was used"), "{said}");
    let removed = platform.control.delete("/bugle/v1/nodes/one").await;
    let _ = removed.expect(204);
    eventually("the removed node is cut off", BOUND, || async {
        match nodes(&platform).await.get("one") {
            None => Ok(()),
            Some(node) => Err(format!("{node:?}")),
        }
    })
    .await;
    eventually("the removed node says why", BOUND, || async {
        let said = one.said();
        if said.contains("the platform does not know this node any more") {
            return Ok(());
        }
        Err(said)
    })
    .await;
    assert!(nodes(&platform).await.is_empty(), "it does not come back");
    platform.finish().await;
    one.finish().await;
}

#[tokio::test]
async fn a_node_that_has_joined_keeps_its_name_and_says_so_when_given_another() {
    let site = Site::new();
    let platform = site.start_with(&options()).await;
    let one = Node::join(&site, &platform, "one").await;
    one.finish().await;
    let folder = |name: &str| site.path().join(format!("node-{name}"));
    std::fs::rename(folder("one"), folder("two")).unwrap();
    let two = Node::start(&site, "two", &[]);
    until_node_lives(&platform, "one").await;
    let said = two.said();
    assert!(said.contains("keeps its name"), "{said}");
    platform.finish().await;
    two.finish().await;
}

#[tokio::test]
async fn a_second_process_in_a_nodes_folder_is_refused_and_takes_no_call_away() {
    let site = Site::new();
    let platform = site.start_with(&options()).await;
    let one = Node::join(&site, &platform, "one").await;
    let who = function(&site, &platform, "who", "1").await;
    let call = platform.invoke(&who, "2");
    let again = async {
        platform.until_called(&who, 1).await;
        Node::start(&site, "one", &[]).refused().await
    };
    let (answer, said) = tokio::join!(call, again);
    let _ = answer.expect(200);
    let holder = format!("is in use by process {}", one.pid());
    assert!(said.contains(&holder), "{said}");
    platform.finish().await;
    one.finish().await;
}

#[tokio::test]
async fn a_node_from_a_copied_folder_is_refused_and_takes_no_call_away() {
    let site = Site::new();
    let mut platform = site.start_with(&options()).await;
    platform.tolerate("two processes have the identity of one node");
    let one = Node::join(&site, &platform, "one").await;
    let who = function(&site, &platform, "who", "1").await;
    let before = platform.invoke(&who, "0").await.expect(200).text();
    let call = platform.invoke(&who, "2");
    let folder = |name: &str| site.path().join(format!("node-{name}"));
    std::fs::create_dir(folder("copy")).unwrap();
    for file in ["node.key", "node.json"] {
        std::fs::copy(folder("one").join(file), folder("copy").join(file)).unwrap();
    }
    let copied = async {
        platform.until_called(&who, 1).await;
        let copy = Node::start(&site, "copy", &[]);
        eventually("the copy says why", BOUND, || async {
            let said = copy.said();
            let cause = format!("process {}", one.pid());
            let told = said.contains("is connected as node one already") && said.contains(&cause);
            told.then_some(()).ok_or(said)
        })
        .await;
        copy
    };
    let (answer, copy) = tokio::join!(call, copied);
    assert_eq!(answer.expect(200).text(), before);
    let said = platform.log();
    let told = said.matches("two processes have the identity").count();
    assert_eq!(told, 1, "{said}");
    assert!(!one.said().contains("ended"), "{}", one.said());
    // As soon as the first one is gone, the other is the node.
    one.kill().await;
    until_node_lives(&platform, "one").await;
    copy.finish().await;
    platform.finish().await;
}

#[tokio::test]
async fn a_platform_that_takes_no_nodes_says_how_it_would() {
    let site = Site::new();
    let platform = site.start().await;
    let answer = platform
        .control
        .post("/bugle/v1/nodes/tokens", &json!({}))
        .await
        .expect(409);
    assert!(answer.text().contains("nodes.listen"), "{}", answer.text());
    let list = platform
        .control
        .get("/bugle/v1/nodes")
        .await
        .expect(200)
        .json();
    assert_eq!(list, json!({"nodes": []}));
    platform.finish().await;
}
