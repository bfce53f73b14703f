//! Workers are real: they take instances, they are full, they die and are replaced.

use std::time::Duration;

use bugle_testkit::{
    FunctionSpec, Node, Platform, Site, StartOptions, children_of, eventually, is_running, kill,
    with_nodes,
};
use futures_util::future::join_all;
use serde_json::json;

use crate::support::{POOLS, created, goes, pool, runs};

/// Answers with its process, after as long as it is told.
const PROCESS: &str = "
import os, time
def handler(event, context):
    time.sleep(event.get('sleep', 0))
    return os.getpid()
";

#[tokio::test]
async fn an_instance_becomes_the_process_that_waits_on_its_worker() {
    let site = Site::new();
    let platform = site.start().await;
    let python = platform.python().await;
    let options = StartOptions::default().config("pools", "runtime", &python);
    platform.finish().await;
    let platform = site.start_with(&options).await;
    created(&platform, &[pool("p", json!({}))]).await;
    runs(&platform, "p", 1).await;
    let waiting = waiting(&platform, 1).await;
    let code = site.write_code("process", "index.py", PROCESS);
    let function = FunctionSpec::python("0@test@process", &code).with("poolId", "p");
    let function = platform.register(&function).await;
    let answer = platform.invoke(&function, "{}").await.expect(200);
    assert!(answer.text().parse::<u32>().is_ok());
    // In a namespace of its own it does not know its number outside, but it was there before.
    let still: Vec<u32> = waiting
        .iter()
        .copied()
        .filter(|pid| is_running(*pid))
        .collect();
    assert!(!still.is_empty(), "{waiting:?} were waiting");
    runs(&platform, "p", 1).await;
    platform.finish().await;
}

#[tokio::test]
async fn a_full_pool_refuses_and_a_pool_that_grows_takes_more() {
    let site = Site::new();
    let platform = site.start().await;
    let growing = json!({"size": 0, "max_size": 2, "idle_recycle_time": {"scaled": 1}});
    created(
        &platform,
        &[pool("fixed", json!({})), pool("growing", growing)],
    )
    .await;
    runs(&platform, "fixed", 1).await;
    runs(&platform, "growing", 0).await;
    let code = site.write_code("process", "index.py", PROCESS);
    let on = |name: &str, pool: &str| {
        FunctionSpec::python(name, &code)
            .with("poolId", pool)
            .with("idleTime", 1)
    };
    let first = platform.register(&on("0@test@first", "fixed")).await;
    let second = platform.register(&on("0@test@second", "fixed")).await;
    let _ = platform.invoke(&first, "{}").await.expect(200);
    let refused = platform.invoke(&second, "{}").await;
    assert_eq!(refused.status, 503);
    let text = refused.text();
    assert!(
        text.contains("no worker of fixed has 300m CPU and 128 MiB left"),
        "{text}"
    );
    let grown = platform.register(&on("0@test@grown", "growing")).await;
    let (one, two) = tokio::join!(
        platform.invoke(&grown, r#"{"sleep": 0.5}"#),
        platform.invoke(&grown, r#"{"sleep": 0.5}"#)
    );
    let _ = one.expect(200);
    let _ = two.expect(200);
    // Instances go after a second without a call, and so do their workers.
    runs(&platform, "growing", 0).await;
    platform.finish().await;
}

#[tokio::test]
async fn what_names_a_pool_runs_there_one_after_the_other_although_a_node_has_room() {
    let site = Site::new();
    let options = with_nodes(StartOptions::default()).config("nodes", "local", "true");
    let platform = site.start_with(&options).await;
    let node = Node::join(&site, &platform, "one").await;
    created(&platform, &[pool("fixed", json!({}))]).await;
    runs(&platform, "fixed", 1).await;
    let code = site.write_code("process", "index.py", PROCESS);
    let function = FunctionSpec::python("0@test@process", &code)
        .with("poolId", "fixed")
        .with("concurrentNum", "1");
    let function = platform.register(&function).await;
    // There is room for one instance: it serves whoever finds none.
    let calls = (0..3).map(|_| platform.invoke(&function, r#"{"sleep": 0.2}"#));
    for answer in join_all(calls).await {
        let _ = answer.expect(200);
    }
    let list = platform.control.get("/bugle/v1/nodes").await.expect(200);
    let list = list.json();
    let of_node = list["nodes"].as_array().expect("a list").iter();
    let mut of_node = of_node.filter(|listed| listed["name"] == "one");
    assert_eq!(of_node.next().expect("the node")["instances"], 0);
    platform.finish().await;
    node.finish().await;
}

#[tokio::test]
async fn groups_choose_workers_and_an_unknown_group_is_refused() {
    let site = Site::new();
    let platform = site.start().await;
    created(&platform, &[pool("p", json!({"group": "fast"}))]).await;
    runs(&platform, "p", 1).await;
    let code = site.write_code("process", "index.py", PROCESS);
    let of = |name: &str, group: &str| {
        let selectors = json!([{"group": group, "priority": 1}]);
        FunctionSpec::python(name, &code).with("resourceAffinitySelectors", selectors)
    };
    let function = platform.register(&of("0@test@chosen", "fast")).await;
    let _ = platform.invoke(&function, "{}").await.expect(200);
    let function = platform.register(&of("0@test@nowhere", "slow")).await;
    let refused = platform.invoke(&function, "{}").await;
    assert!(
        refused
            .text()
            .contains("there is no pool of the groups slow"),
        "{}",
        refused.text()
    );
    platform.finish().await;
}

#[tokio::test]
async fn processes_that_die_are_replaced_and_the_count_stays_true() {
    let site = Site::new();
    let platform = site.start().await;
    created(&platform, &[pool("p", json!({"size": 3}))]).await;
    runs(&platform, "p", 3).await;
    let dead = waiting(&platform, 3).await;
    for pid in &dead {
        kill(*pid);
    }
    let replaced = eventually("three others wait", Duration::from_mins(1), async || {
        let found = processes(&platform);
        let living = found.iter().filter(|pid| !dead.contains(pid)).count();
        if living >= 3 {
            Ok(living)
        } else {
            Err(format!("{found:?}"))
        }
    });
    replaced.await;
    runs(&platform, "p", 3).await;
    let _ = platform
        .control
        .delete(&format!("{POOLS}?id=p"))
        .await
        .expect(200);
    goes(&platform, "p").await;
    let ended = eventually(
        "their processes are gone",
        Duration::from_mins(1),
        async || {
            let found = processes(&platform);
            if found.is_empty() {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        },
    );
    ended.await;
    platform.finish().await;
}

#[tokio::test]
async fn a_deleted_pool_ends_its_instances_when_their_time_is_over() {
    let site = Site::new();
    let options = StartOptions::default().config("pools", "drain_seconds", "1");
    let platform = site.start_with(&options).await;
    created(&platform, &[pool("p", json!({}))]).await;
    runs(&platform, "p", 1).await;
    let code = site.write_code("process", "index.py", PROCESS);
    let function = FunctionSpec::python("0@test@f", &code).with("poolId", "p");
    let function = platform.register(&function).await;
    let _ = platform.invoke(&function, "{}").await.expect(200);
    let _ = platform
        .control
        .delete(&format!("{POOLS}?id=p"))
        .await
        .expect(200);
    goes(&platform, "p").await;
    // Without a pool of that name the machine itself takes it.
    let _ = platform.invoke(&function, "{}").await.expect(200);
    platform.finish().await;
}

/// The processes that wait, once there are as many. A worker is ready once its process is ordered, which
/// takes whatever comes as soon as it is forked.
async fn waiting(platform: &Platform, count: usize) -> Vec<u32> {
    let look = async || {
        let found = processes(platform);
        if found.len() >= count {
            Ok(found)
        } else {
            Err(format!("{found:?}"))
        }
    };
    eventually("each worker has its process", Duration::from_mins(1), look).await
}

/// The processes that wait or run instances: children of a Python that the platform has started.
fn processes(platform: &Platform) -> Vec<u32> {
    let mut found = Vec::new();
    descend(platform.pid, false, &mut found);
    found
}

fn descend(pid: u32, below_python: bool, found: &mut Vec<u32>) {
    if below_python && is_running(pid) {
        found.push(pid);
    }
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let is_python = command.starts_with("python");
    for child in children_of(pid) {
        descend(child, is_python && !below_python, found);
    }
}
