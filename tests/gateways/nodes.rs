//! Several gateways that share nodes: what is warm outlives the gateway that started it.

use std::time::Duration;

use bugle_testkit::{
    FunctionSpec, Node, Platform, Registered, StartOptions, eventually, node_token,
    until_node_lives, with_nodes,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::gates::{BOUND, Gates, Referee, owner, until_members};

/// How soon a dead gateway's functions are another's.
const TAKEN_OVER: Duration = Duration::from_secs(3);

/// Answers which instance it is, which process, and how many calls that has had.
const COUNTS: &str = r"
import os, socket, time
calls = 0
def handler(event, context):
    global calls
    calls += 1
    event = event or {}
    if 'referee' in event:
        with socket.create_connection(('127.0.0.1', event['referee'])) as referee:
            referee.recv(1)
            time.sleep(event.get('seconds', 0))
            referee.sendall(b'e')
            referee.recv(1)
    else:
        time.sleep(event.get('seconds', 0))
    return [context.get_instance_id(), os.getpid(), calls]
";

fn options(gates: &Gates) -> StartOptions {
    with_nodes(gates.options())
}

/// So many gateways, and a node of so many thousandths of a core that joined through the first.
async fn shared(count: usize, cpu: &str) -> (Gates, Vec<Platform>, Node) {
    let gates = Gates::new(count).await;
    let mut platforms = Vec::new();
    for number in 0..count {
        let mut platform = gates.start_with(number, &options(&gates)).await;
        // What is killed here is missed.
        platform.tolerate("a gateway");
        platforms.push(platform);
    }
    until_members(&platforms.iter().collect::<Vec<_>>()).await;
    let (token, address) = node_token(&platforms[0]).await;
    let join = ["--join", &address, "--token", &token, "--cpu", cpu];
    let command = tokio::process::Command::new(bugle_testkit::binary());
    let node = Node::run(command, gates.site(0), "one", &join);
    for platform in &platforms {
        until_node_lives(platform, "one").await;
    }
    (gates, platforms, node)
}

async fn function(gates: &Gates, platform: &Platform, name: &str, max: &str) -> Registered {
    let code = gates.site(0).write_code(name, "index.py", COUNTS);
    let spec = FunctionSpec::python(&format!("0@test@{name}"), &code).with("maxInstance", max);
    platform.register(&spec).await
}

/// Which instance, process and call answered.
async fn answer(platform: &Platform, function: &Registered) -> (Value, Value, u64) {
    let answer = platform.invoke(function, "{}").await.expect(200).json();
    let calls = answer[2].as_u64().expect("a count");
    (answer[0].clone(), answer[1].clone(), calls)
}

/// What a gateway says of the node.
async fn node(platform: &Platform) -> Value {
    named(platform, "one").await
}

/// What a gateway says of the node with this name.
async fn named(platform: &Platform, name: &str) -> Value {
    let list = platform.control.get("/bugle/v1/nodes").await;
    let list = list.expect(200).json();
    let mut nodes = list["nodes"].as_array().expect("a list").iter();
    let found = nodes.find(|node| node["name"] == name);
    found.cloned().unwrap_or_default()
}

/// The gateway that has the function, and the others.
async fn split(mut platforms: Vec<Platform>, function: &Registered) -> (Platform, Vec<Platform>) {
    let number = owner(&platforms.iter().collect::<Vec<_>>(), function).await;
    let owner = platforms.remove(number);
    (owner, platforms)
}

async fn finish(platforms: Vec<Platform>, node: Node) {
    for platform in platforms {
        platform.finish().await;
    }
    // Its instances are nobody's now.
    node.kill().await;
}

#[tokio::test]
async fn an_instance_on_a_node_outlives_the_gateway_that_is_killed() {
    let (gates, platforms, node) = shared(3, "8000").await;
    let function = function(&gates, &platforms[0], "warm", "1").await;
    let (victim, others) = split(platforms, &function).await;
    let before = answer(&others[0], &function).await;
    victim.kill().await;
    let killed = Instant::now();
    let after = answer(&others[1], &function).await;
    println!("answered again after {:?}", killed.elapsed());
    assert!(killed.elapsed() < TAKEN_OVER, "{:?}", killed.elapsed());
    assert_eq!(
        (&after.0, &after.1, after.2),
        (&before.0, &before.1, before.2 + 1),
        "the same instance, the same process, with what it remembers"
    );
    finish(others, node).await;
}

#[tokio::test]
async fn an_instance_that_runs_a_call_of_a_killed_gateway_is_not_called_before_that_has_ended() {
    let (gates, platforms, node) = shared(3, "8000").await;
    let function = function(&gates, &platforms[0], "busy", "1").await;
    let referee = Referee::new().await;
    let (victim, others) = split(platforms, &function).await;
    let before = answer(&others[0], &function).await;
    let event = referee.event(5.0);
    let running = others[0].invoke(&function, &event);
    let kill = async {
        eventually("the call runs", BOUND, || async {
            (referee.seen() == 1)
                .then_some(())
                .ok_or_else(|| "not yet".to_owned())
        })
        .await;
        victim.kill().await;
        let event = referee.event(0.1);
        let answers = (0..3).map(|_| others[1].invoke(&function, &event));
        join_all(answers).await
    };
    let (lost, answers) = tokio::join!(running, kill);
    assert_eq!(lost.status, 502, "{}", lost.text());
    assert!(lost.text().contains("node lost"), "{}", lost.text());
    for answer in answers {
        let answer = answer.expect(200).json();
        assert_eq!((&answer[0], &answer[1]), (&before.0, &before.1));
    }
    assert_eq!(referee.most(), 1, "one instance with one call at a time");
    assert_eq!(referee.seen(), 4);
    finish(others, node).await;
}

#[tokio::test]
async fn an_instance_on_a_node_is_handed_over_by_a_gateway_that_ends_or_joins() {
    let (gates, mut platforms, node) = shared(2, "8000").await;
    let mut before = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let function = function(&gates, &platforms[0], name, "1").await;
        before.push((answer(&platforms[0], &function).await, function));
    }
    let leaver = platforms.remove(1);
    leaver.finish().await;
    for ((instance, process, calls), function) in &mut before {
        let now = answer(&platforms[0], function).await;
        assert_eq!((&now.0, &now.1), (&*instance, &*process), "it moved warm");
        *calls += 1;
        assert_eq!(now.2, *calls);
    }
    platforms.push(gates.start_with(1, &options(&gates)).await);
    until_members(&platforms.iter().collect::<Vec<_>>()).await;
    until_node_lives(&platforms[1], "one").await;
    let mut kept = 0;
    for ((instance, _, _), function) in &before {
        kept += usize::from(answer(&platforms[1], function).await.0 == *instance);
    }
    assert_eq!(kept, before.len(), "and back, where they moved at all");
    finish(platforms, node).await;
}

#[tokio::test]
async fn three_gateways_place_no_more_on_a_node_than_it_has() {
    // Room for four instances of 300.
    let (gates, platforms, node_process) = shared(3, "1200").await;
    let referee = Referee::new().await;
    let mut functions = Vec::new();
    for number in 0..8 {
        let name = format!("f{number}");
        functions.push(function(&gates, &platforms[number % 3], &name, "3").await);
    }
    let event = referee.event(0.3);
    let calls = join_all(
        (0..24).map(|number| platforms[number % 3].invoke(&functions[number % 8], &event)),
    );
    let answers = calls.await;
    let mut answered = 0;
    for answer in answers {
        match answer.status {
            200 => answered += 1,
            // It waited for room as long as it may.
            _ => assert!(answer.text().contains("room"), "{}", answer.text()),
        }
    }
    assert!(answered >= 4, "{answered}");
    assert!(referee.most() <= 4, "{} ran at once", referee.most());
    for platform in &platforms {
        eventually("each knows what all have", BOUND, || async {
            let node = node(platform).await;
            let used = node["cpuUsed"].as_u64().unwrap_or(u64::MAX);
            (used <= 1200).then_some(()).ok_or_else(|| node.to_string())
        })
        .await;
    }
    finish(platforms, node_process).await;
}

#[tokio::test]
async fn a_node_is_drained_and_removed_through_any_gateway() {
    let (mut gates, mut platforms, node_process) = shared(2, "8000").await;
    platforms.push({
        let options = options(&gates);
        gates.start_another(options).await
    });
    until_node_lives(&platforms[2], "one").await;
    let function = function(&gates, &platforms[0], "warm", "1").await;
    let _ = answer(&platforms[1], &function).await;
    for platform in &platforms {
        eventually("each gateway knows what runs there", BOUND, || async {
            let node = node(platform).await;
            (node["instances"] == 1)
                .then_some(())
                .ok_or_else(|| node.to_string())
        })
        .await;
    }
    let drain = "/bugle/v1/nodes/one/drain";
    let _ = platforms[2]
        .control
        .post(drain, &json!({}))
        .await
        .expect(204);
    for platform in &platforms {
        eventually(
            "it is emptied by whoever has something there",
            BOUND,
            || async {
                let node = node(platform).await;
                let empty = node["state"] == "draining" && node["instances"] == 0;
                empty.then_some(()).ok_or_else(|| node.to_string())
            },
        )
        .await;
    }
    let _ = platforms[1].control.delete(drain).await.expect(204);
    for platform in &mut platforms {
        until_node_lives(platform, "one").await;
        platform.tolerate("a node was refused");
    }
    let remove = "/bugle/v1/nodes/one";
    let _ = platforms[0].control.delete(remove).await.expect(204);
    for platform in &platforms {
        eventually("it is gone everywhere", BOUND, || async {
            let node = node(platform).await;
            node.is_null().then_some(()).ok_or_else(|| node.to_string())
        })
        .await;
    }
    finish(platforms, node_process).await;
}

#[tokio::test]
async fn a_damaged_record_is_shown_told_once_and_removed_while_other_nodes_are_followed() {
    let (gates, mut platforms, node_process) = shared(2, "8000").await;
    let told = "a node's record cannot be read";
    for platform in &mut platforms {
        platform.tolerate(told);
    }
    let record = "/bugle/nodes/members/bad";
    gates.etcd.control(&["put", record, "x"]).unwrap();
    for platform in &platforms {
        eventually("it is shown", BOUND, || async {
            let node = named(platform, "bad").await;
            (node["state"] == "unreadable")
                .then_some(())
                .ok_or_else(|| node.to_string())
        })
        .await;
    }
    let drain = "/bugle/v1/nodes/one/drain";
    let _ = platforms[0]
        .control
        .post(drain, &json!({}))
        .await
        .expect(204);
    eventually("the other gateway follows", BOUND, || async {
        let node = node(&platforms[1]).await;
        (node["state"] == "draining")
            .then_some(())
            .ok_or_else(|| node.to_string())
    })
    .await;
    let remove = "/bugle/v1/nodes/bad";
    let _ = platforms[1].control.delete(remove).await.expect(204);
    for platform in &platforms {
        eventually("it is gone everywhere", BOUND, || async {
            let node = named(platform, "bad").await;
            node.is_null().then_some(()).ok_or_else(|| node.to_string())
        })
        .await;
        assert_eq!(platform.log().matches(told).count(), 1);
    }
    finish(platforms, node_process).await;
}
