//! How programs fail and end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bugle_testkit::{Platform, Registered, Site, children_of, eventually, is_running};
use serde_json::json;

use crate::{BOUND, send, server};

async fn until_gone(pids: &[u32]) {
    eventually("the processes are gone", BOUND, || async {
        let left: Vec<_> = pids.iter().filter(|pid| is_running(**pid)).collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?} run"))
        }
    })
    .await;
}

/// A process that the program started, and the program itself.
async fn family(platform: &Platform, function: &Registered) -> [u32; 2] {
    let child = send(platform, function, &json!({"do": "child"})).await;
    let _ = child.expect(200);
    let program = platform.instance_pids(function).await[0];
    let pids = [children_of(program)[0], program];
    assert!(pids.iter().all(|pid| is_running(*pid)));
    pids
}

#[tokio::test]
async fn a_crash_is_told_with_its_exit_code_and_the_next_call_runs() {
    let site = Site::new();
    let mut platform = site.start().await;
    platform.tolerate("instance");
    let function = platform.register(&server(&site)).await;
    let pids = family(&platform, &function).await;
    let answer = send(&platform, &function, &json!({"do": "exit"})).await;
    assert_eq!(answer.header("x-inner-code"), "1007", "{}", answer.text());
    assert_eq!(answer.expect(502).json()["cause"], "exit 3");
    let _ = send(&platform, &function, &json!({})).await.expect(200);
    until_gone(&pids).await;
    platform.finish().await;
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_is_an_error_of_the_function() {
    let site = Site::new();
    let platform = site.start().await;
    let function = platform.register(&server(&site)).await;
    let before = send(&platform, &function, &json!({})).await.expect(200);
    let answer = send(&platform, &function, &json!({"do": "hang_up"})).await;
    assert_eq!(answer.header("x-inner-code"), "4002", "{}", answer.text());
    assert!(answer.text().contains("closed the connection"));
    let after = send(&platform, &function, &json!({})).await.expect(200);
    assert_eq!(before.json()["instance"], after.json()["instance"]);
    platform.finish().await;
}

#[tokio::test]
async fn answers_have_a_largest_size() {
    let site = Site::new();
    let platform = site.start().await;
    let function = platform.register(&server(&site)).await;
    let largest = json!({"do": "large", "size": 6_291_456});
    let answer = send(&platform, &function, &largest).await.expect(200);
    assert_eq!(answer.body.len(), 6_291_456);
    let larger = json!({"do": "large", "size": 6_291_457});
    let answer = send(&platform, &function, &larger).await.expect(502);
    assert_eq!(answer.header("x-inner-code"), "4004");
    assert!(answer.text().contains("6291457"), "{}", answer.text());
    platform.finish().await;
}

#[tokio::test]
async fn an_overdue_call_ends_its_program() {
    let site = Site::new();
    let mut platform = site.start().await;
    platform.tolerate("instance");
    let function = platform.register(&server(&site).with("timeout", 1)).await;
    let pids = family(&platform, &function).await;
    let hang = json!({"do": "sleep", "seconds": 60});
    let answer = send(&platform, &function, &hang).await.expect(504);
    assert_eq!(answer.header("x-inner-code"), "4010");
    until_gone(&pids).await;
    let _ = send(&platform, &function, &json!({})).await.expect(200);
    platform.finish().await;
}

#[tokio::test]
async fn a_deleted_functions_processes_are_gone() {
    let site = Site::new();
    let platform = site.start().await;
    let function = platform.register(&server(&site)).await;
    let pids = family(&platform, &function).await;
    let path = format!("/serverless/v1/functions/{}", function.name);
    let _ = platform.control.delete(&path).await.expect(200);
    until_gone(&pids).await;
    platform.finish().await;
}

#[tokio::test]
async fn a_platform_that_stops_or_is_killed_leaves_no_program() {
    let site = Site::new();
    let platform = site.start().await;
    let function = platform.register(&server(&site)).await;
    let pids = family(&platform, &function).await;
    platform.kill().await;
    until_gone(&pids).await;

    let platform = site.start().await;
    let pids = family(&platform, &function).await;
    platform.finish().await;
    until_gone(&pids).await;
}

#[tokio::test]
async fn an_update_under_load_loses_no_call() {
    let site = Site::new();
    let platform = Arc::new(site.start().await);
    let spec = |version: &str| {
        server(&site)
            .with("maxInstance", "3")
            .with("environment", json!({"VERSION": version}))
    };
    let mut function = platform.register(&spec("0")).await;
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (platform, function) = (Arc::clone(&platform), function.clone());
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                let sleep = json!({"do": "sleep", "seconds": 0.02});
                while !over.load(Ordering::Relaxed) {
                    let _ = send(&platform, &function, &sleep).await.expect(200);
                }
            })
        })
        .collect();
    for version in ["1", "2"] {
        platform.update(&mut function, &spec(version)).await;
        eventually("the new program answers", BOUND, || async {
            let sleep = json!({"do": "sleep", "seconds": 0});
            let answer = send(&platform, &function, &sleep).await.expect(200).json();
            (answer["version"] == version)
                .then_some(())
                .ok_or_else(|| answer.to_string())
        })
        .await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no call was lost");
    }
    let platform = Arc::into_inner(platform).expect("all clients have ended");
    platform.finish().await;
}
