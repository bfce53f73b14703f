//! Instances come and go with the calls.
#![cfg(test)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bugle_testkit::{FunctionSpec, Platform, Registered, Site, StartOptions, eventually};
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

const BOUND: Duration = Duration::from_secs(30);

/// Answers the instance it runs in, after as many seconds as the event says.
const WHO: &str = r"
import time
def handler(event, context):
    time.sleep(event or 0)
    return context.get_instance_id()
";

async fn instances(platform: &Platform, function: &Registered) -> usize {
    platform.status(function).await["instances"]
        .as_array()
        .map_or(0, Vec::len)
}

async fn callers(
    platform: &Platform,
    function: &Registered,
    calls: usize,
    event: &str,
) -> Vec<String> {
    let calls = (0..calls).map(|_| platform.invoke(function, event));
    join_all(calls)
        .await
        .into_iter()
        .map(|answer| answer.expect(200).text())
        .collect()
}

#[tokio::test]
async fn an_idle_function_goes_down_to_zero_and_comes_back() {
    let site = Site::new();
    let code = site.write_code("who", "index.py", WHO);
    let platform = site.start().await;
    let spec = FunctionSpec::python("0@test@who", &code).with("idleTime", 1);
    let function = platform.register(&spec).await;
    let first = platform.invoke(&function, "0").await.expect(200).json();
    assert_eq!(instances(&platform, &function).await, 1);
    eventually("the idle instance is gone", BOUND, || async {
        match instances(&platform, &function).await {
            0 => Ok(()),
            some => Err(format!("{some} instances")),
        }
    })
    .await;
    let second = platform.invoke(&function, "0").await.expect(200).json();
    assert_ne!(first, second, "a new instance");
    platform.finish().await;
}

#[tokio::test]
async fn a_call_that_finds_the_queue_full_is_told_when_to_come_back() {
    let site = Site::new();
    let code = site.write_code("who", "index.py", WHO);
    let few = StartOptions::default().config("scheduler", "queue_limit", "2");
    let platform = site.start_with(&few).await;
    let spec = FunctionSpec::python("0@test@who", &code)
        .with("maxInstance", "1")
        .with("concurrentNum", "1");
    let function = platform.register(&spec).await;
    let _ = platform.invoke(&function, "0").await.expect(200);
    let calls = (0..8).map(|_| platform.invoke(&function, "0.3"));
    let answers = join_all(calls).await;
    let (served, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!((served.len(), refused.len()), (3, 5));
    for answer in refused {
        assert_eq!(answer.header("x-inner-code"), "150500");
        let seconds: u32 = answer.header("retry-after").parse().unwrap();
        assert!((1..=3).contains(&seconds));
        let _ = answer.expect(429);
    }
    platform.finish().await;
}

#[tokio::test]
async fn a_herd_starts_one_instance_for_each_call_up_to_the_maximum() {
    let site = Site::new();
    let code = site.write_code("who", "index.py", WHO);
    let platform = site.start().await;
    let spec = FunctionSpec::python("0@test@who", &code).with("maxInstance", "4");
    let function = platform.register(&spec).await;
    let answers = callers(&platform, &function, 12, "0.2").await;
    let distinct: BTreeSet<_> = answers.iter().collect();
    assert_eq!(distinct.len(), 4, "{answers:?}");
    assert_eq!(instances(&platform, &function).await, 4);
    platform.finish().await;
}

#[tokio::test]
async fn one_instance_serves_as_many_calls_at_once_as_the_function_says() {
    let source = r"
import threading
barrier = threading.Barrier(8)
def handler(event, context):
    barrier.wait(20)
    return context.get_instance_id()
";
    let site = Site::new();
    let code = site.write_code("together", "index.py", source);
    let platform = site.start().await;
    let spec = FunctionSpec::python("0@test@together", &code)
        .with("concurrentNum", "8")
        .with("maxInstance", "1");
    let function = platform.register(&spec).await;
    let answers = callers(&platform, &function, 8, "{}").await;
    assert_eq!(
        answers.iter().collect::<BTreeSet<_>>().len(),
        1,
        "{answers:?}"
    );
    platform.finish().await;
}

#[tokio::test]
async fn the_minimum_runs_without_a_call_and_comes_back_when_killed() {
    let site = Site::new();
    let code = site.write_code("who", "index.py", WHO);
    let mut platform = site.start().await;
    platform.tolerate("instance");
    let spec = FunctionSpec::python("0@test@who", &code).with("minInstance", "2");
    let function = platform.register(&spec).await;
    let two = || async {
        let pids = platform.instance_pids(&function).await;
        let status = platform.status(&function).await;
        let ready = status.to_string().matches("\"ready\"").count();
        if pids.len() == 2 && ready == 2 {
            Ok(pids)
        } else {
            Err(status.to_string())
        }
    };
    let before = eventually("two instances are ready", BOUND, two).await;
    bugle_testkit::kill(before[0]);
    eventually("the killed one is replaced", BOUND, || async {
        let pids = two().await?;
        if pids.contains(&before[0]) {
            Err(format!("{pids:?}"))
        } else {
            Ok(())
        }
    })
    .await;
    platform.finish().await;
}

#[tokio::test]
async fn a_maximum_of_zero_refuses_calls() {
    let site = Site::new();
    let code = site.write_code("who", "index.py", WHO);
    let platform = site.start().await;
    let spec = FunctionSpec::python("0@test@who", &code).with("maxInstance", "0");
    let function = platform.register(&spec).await;
    let answer = platform.invoke(&function, "0").await.expect(429);
    assert_eq!(answer.header("x-inner-code"), "150429");
    platform.finish().await;
}

#[tokio::test]
async fn an_update_under_load_loses_no_call_and_older_code_answers_for_a_second_at_most() {
    const UPDATES: usize = 6;
    // `scheduler.switch_millis`, and what a busy machine adds.
    const SWITCH: Duration = Duration::from_millis(1500);
    let site = Site::new();
    let platform = Arc::new(site.start().await);
    let spec = |number: usize| {
        let source = format!(
            "import time\ndef handler(event, context):\n    time.sleep(0.01)\n    return {number}\n"
        );
        let code = site.write_code(&format!("v{number}"), "index.py", &source);
        FunctionSpec::python("0@test@rolling", &code).with("maxInstance", "4")
    };
    let mut function = platform.register(&spec(0)).await;
    // When each version had been acknowledged.
    let acknowledged = Arc::new(Mutex::new(vec![Instant::now()]));
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (platform, function) = (Arc::clone(&platform), function.clone());
            let (acknowledged, over) = (Arc::clone(&acknowledged), Arc::clone(&over));
            tokio::spawn(async move {
                let mut calls = 0;
                while !over.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let newest = acknowledged
                        .lock()
                        .unwrap()
                        .iter()
                        .rposition(|at| *at + SWITCH < begin)
                        .unwrap_or(0);
                    let version = platform.invoke(&function, "{}").await.expect(200).json();
                    assert!(
                        version.as_u64() >= Some(newest as u64),
                        "{version} after {newest}"
                    );
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    for number in 1..=UPDATES {
        // Some follow each other faster than the switch, some slower.
        tokio::time::sleep(Duration::from_millis(if number % 2 == 0 {
            100
        } else {
            1700
        }))
        .await;
        platform.update(&mut function, &spec(number)).await;
        acknowledged.lock().unwrap().push(Instant::now());
    }
    tokio::time::sleep(SWITCH + Duration::from_millis(200)).await;
    over.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for client in clients {
        calls += client.await.expect("no call was lost");
    }
    assert!(calls > 100, "only {calls} calls ran beside the updates");
    eventually("instances of older code are gone", BOUND, || async {
        let status = platform.status(&function).await.to_string();
        if status.contains("draining") {
            Err(status)
        } else {
            Ok(())
        }
    })
    .await;
    Arc::into_inner(platform)
        .expect("all clients have ended")
        .finish()
        .await;
}

#[tokio::test]
async fn a_label_has_instances_of_its_own() {
    let site = Site::new();
    let code = site.write_code("who", "index.py", WHO);
    let platform = site.start().await;
    let function = platform
        .register(&FunctionSpec::python("0@test@who", &code))
        .await;
    let reserve = json!({
        "funcName": "0@test@who", "version": "latest", "instanceLabel": "blue",
        "instanceConfigInfos": [{"minInstance": 1, "maxInstance": 2}],
    });
    let path = "/serverless/v1/functions/reserve-instance";
    let _ = platform.control.post(path, &reserve).await.expect(200);

    let reserved = eventually("the label's minimum is ready", BOUND, || async {
        let status = platform.status(&function).await;
        let instances = status["instances"].as_array().cloned().unwrap_or_default();
        let blue = instances
            .iter()
            .find(|instance| instance["label"] == "blue");
        blue.and_then(|instance| instance["id"].as_str().map(str::to_owned))
            .ok_or_else(|| status.to_string())
    })
    .await;

    let label = [("X-Instance-Label", "blue")];
    let labelled = platform
        .try_invoke(&function, "0", &label)
        .await
        .unwrap()
        .expect(200);
    assert_eq!(labelled.json(), json!(reserved));
    let plain = platform.invoke(&function, "0").await.expect(200);
    assert_ne!(plain.json(), json!(reserved));
    let unknown = [("X-Instance-Label", "green")];
    let answer = platform
        .try_invoke(&function, "0", &unknown)
        .await
        .unwrap()
        .expect(400);
    assert_eq!(answer.header("x-inner-code"), "150444");
    platform.finish().await;
}

#[tokio::test]
async fn a_client_that_goes_away_gives_up_its_place_in_the_queue() {
    let site = Site::new();
    let code = site.write_code("who", "index.py", WHO);
    let platform = site.start().await;
    let spec = FunctionSpec::python("0@test@who", &code).with("maxInstance", "1");
    let function = platform.register(&spec).await;
    let _ = platform.invoke(&function, "0").await.expect(200);
    let running = platform.gateway.open(function.request("2", &[]));
    let waiting = platform.gateway.open(function.request("2", &[]));
    let queued = |wanted: u64| {
        let (platform, function) = (&platform, &function);
        move || async move {
            let status = platform.status(function).await;
            if status["queued"] == wanted {
                Ok(())
            } else {
                Err(status.to_string())
            }
        }
    };
    {
        let (running, waiting) = (Box::pin(running), Box::pin(waiting));
        let both = futures_util::future::join(running, waiting);
        let seen = Box::pin(eventually("one call waits", BOUND, queued(1)));
        let futures_util::future::Either::Right(_) = futures_util::future::select(both, seen).await
        else {
            panic!("both calls were answered before one was seen waiting");
        };
    }
    eventually("nobody waits", BOUND, queued(0)).await;
    platform.finish().await;
}
