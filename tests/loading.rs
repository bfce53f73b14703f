//! The platform knows only the functions that are in use, and nobody notices.
#![cfg(test)]

use std::time::Duration;

use bugle_testkit::{FunctionSpec, Platform, Registered, Site, eventually};
use serde_json::json;

const BOUND: Duration = Duration::from_secs(30);

const VERSION: &str = "def handler(event, context):\n    return context.getVersion()\n";

async fn ready_instances(platform: &Platform, function: &Registered) -> Result<(), String> {
    let status = platform.status(function).await.to_string();
    if status.contains("\"ready\"") {
        Ok(())
    } else {
        Err(status)
    }
}

#[tokio::test]
async fn after_a_restart_what_keeps_instances_runs_and_everything_else_answers_when_called() {
    let site = Site::new();
    let code = site.write_code("version", "index.py", VERSION);
    let platform = site.start().await;
    let idle = platform
        .register(&FunctionSpec::python("0@test@idle", &code))
        .await;
    let minimum = FunctionSpec::python("0@test@minimum", &code).with("minInstance", "1");
    let minimum = platform.register(&minimum).await;
    let labelled = platform
        .register(&FunctionSpec::python("0@test@labelled", &code))
        .await;
    let body = json!({"funcName": labelled.name, "version": "latest", "instanceLabel": "mine",
        "instanceConfigInfos": [{"minInstance": 1, "maxInstance": 1}]});
    let reserve = "/serverless/v1/functions/reserve-instance";
    let _ = platform.control.post(reserve, &body).await.expect(200);
    for function in [&minimum, &labelled] {
        eventually("an instance is ready", BOUND, || {
            ready_instances(&platform, function)
        })
        .await;
    }
    platform.kill().await;

    let platform = site.start().await;
    for function in [&minimum, &labelled] {
        eventually("an instance is ready again", BOUND, || {
            ready_instances(&platform, function)
        })
        .await;
    }
    let status = platform.status(&idle).await;
    assert_eq!(status["instances"], json!([]));
    assert_eq!(status["revision_id"], idle.revision.as_str());
    let answer = platform.invoke(&idle, "{}").await.expect(200);
    assert_eq!(answer.json(), "latest");
    platform.finish().await;
}

#[tokio::test]
async fn a_deletion_wins_over_the_first_call_that_races_with_it() {
    let site = Site::new();
    let code = site.write_code("version", "index.py", VERSION);
    let platform = site.start().await;
    for round in 0..40 {
        let spec = FunctionSpec::python(&format!("0@test@raced-{round}"), &code);
        let function = platform.register(&spec).await;
        let path = format!("/serverless/v1/functions/{}", function.name);
        let (_, deleted) = tokio::join!(
            platform.invoke(&function, "{}"),
            platform.control.delete(&path)
        );
        let _ = deleted.expect(200);
        let _ = platform.invoke(&function, "{}").await.expect(404);
        let _ = platform
            .control
            .get(&format!("/bugle/v1/functions/{}/status", function.name))
            .await
            .expect(404);
    }
    platform.finish().await;
}
