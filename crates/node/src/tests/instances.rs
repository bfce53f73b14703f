//! Instances on a node: starts, calls, ends, and what happens to them with the node or the platform.

use super::*;

#[tokio::test]
async fn instances_start_answer_and_stop_on_a_node() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    assert_eq!(instance.node(), Some("a"));
    for size in [0, 10, 20_000, 5_000_000] {
        let body = vec![b'x'; size];
        let reply = instance.call(call(body.clone())).await.unwrap();
        assert!(json(&reply) == body, "{size} bytes go there and come back");
    }
    let calls = (0..50).map(|_| instance.call(call("1")));
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!(json(&reply.unwrap()), b"1");
    }
    let exit = instance.stop(Duration::from_secs(5)).await;
    assert_eq!(exit.cause, ExitCause::Stopped);
    eventually(|| node.host.count() == 0).await;
    let late = instance.call(call("1")).await;
    assert!(matches!(late, Err(CallError::NotSent(_))), "{late:?}");
}

#[tokio::test]
async fn an_instance_that_dies_is_told_with_its_cause() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    let running = instance.call(call("5000"));
    let dies = async {
        sleep(Duration::from_millis(50)).await;
        node.driver.living()[0].crash(ExitCause::Signal(9));
    };
    let (answer, ()) = tokio::join!(running, dies);
    assert_eq!(answer.unwrap_err(), CallError::Exited(ExitCause::Signal(9)));
    assert_eq!(instance.exited().await.cause, ExitCause::Signal(9));
}

#[tokio::test]
async fn a_start_that_fails_on_a_node_fails_here_in_the_same_words() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let error = StartError::NotRunnable("no such file".to_owned());
    node.driver.fail_with(Some(error.clone()));
    assert_eq!(platform.start_one(1).await.unwrap_err(), error);
    node.driver.fail_with(None);
    assert!(platform.start_one(2).await.is_ok());
}

#[tokio::test]
async fn the_death_of_a_node_ends_its_calls_and_its_instances_at_once() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    let begin = Instant::now();
    let running = instance.call(call("60000"));
    let dies = async {
        sleep(Duration::from_millis(50)).await;
        drop(node);
    };
    let (answer, ()) = tokio::join!(running, dies);
    let cause = ExitCause::NodeLost { node: "a".into() };
    assert_eq!(answer.unwrap_err(), CallError::Exited(cause.clone()));
    assert_eq!(instance.exited().await.cause, cause);
    assert!(begin.elapsed() < Duration::from_secs(3));
    assert!(platform.fleet.nodes().is_empty());
    drop(instance);
    // Elsewhere there is room.
    let _other = platform.node("b").await;
    let Started { instance, .. } = platform.start_one(2).await.unwrap();
    assert_eq!(instance.node(), Some("b"));
}

#[tokio::test]
async fn a_platform_that_comes_back_takes_in_what_runs_and_keeps_it_warm() {
    let store = store();
    let platform = Platform::start(&store, "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(7).await.unwrap();
    let address = platform.address.clone();
    let hub = platform.hub.clone();
    drop(platform);
    hub.let_go();
    drop(instance);
    let platform = Platform::start(&store, &address).await;
    eventually(|| platform.adopted.lock().len() == 1).await;
    let instance = Arc::clone(&platform.adopted.lock()[0]);
    assert_eq!(instance.id(), InstanceId(7));
    let reply = instance.call(call("3")).await.unwrap();
    assert_eq!(json(&reply), b"3");
    assert_eq!(node.driver.started(), 1, "nothing was started anew");
    assert_eq!(platform.fleet.nodes()[0].instances, 1, "it is counted");
}

#[tokio::test]
async fn a_node_that_ends_waits_until_its_instances_are_moved() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    let running = instance.call(call("300"));
    node.stop.cancel();
    let moved = async {
        instance.leaving().await;
        platform
            .until(&"a".parse().unwrap(), Health::Draining)
            .await;
        let waits = platform.start_one(2);
        assert!(
            timeout(Duration::from_millis(100), waits).await.is_err(),
            "it gets nothing more"
        );
    };
    let (answer, ()) = tokio::join!(running, moved);
    assert_eq!(json(&answer.unwrap()), b"300", "what runs finishes");
    instance.stop(Duration::from_secs(5)).await;
    timeout(BOUND, node.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn lines_of_user_code_come_to_the_platform() {
    let platform = Platform::start(&store(), "127.0.0.1:0").await;
    let node = platform.node("a").await;
    let Started { instance, .. } = platform.start_one(1).await.unwrap();
    let line = |function: &str, text: &str| LogLine {
        function: Arc::new(spec(function, "1", 1, 0, 1).id),
        instance: instance.id(),
        request: None,
        stream: bugle_instances::LogStream::Stdout,
        text: text.to_owned(),
    };
    node.news.line(line("bank", "forged"));
    node.news.line(line("f", "hello"));
    eventually(|| !platform.lines.0.lock().is_empty()).await;
    let lines = platform.lines.0.lock().clone();
    assert_eq!(
        lines,
        ["hello"],
        "no line of a function that it does not run"
    );
}
