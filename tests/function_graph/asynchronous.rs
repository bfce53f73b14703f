//! Invocations that nobody waits for: accepted, delivered, retried, cancelled, and kept over a crash.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bugle_testkit::{Answer, FunctionSpec, Platform, Site, eventually};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::{BOUND, FUNCTIONS};

/// Notes each attempt in the folder that the event names, then does what the event says.
const HANDLER: &str = r#"
import os, time

def handler(event, context):
    folder = event["folder"]
    number = len(os.listdir(folder))
    open(os.path.join(folder, str(number)), "w").close()
    if number < event.get("fails", 0):
        raise ValueError("not yet")
    time.sleep(event.get("seconds", 0))
    return number
"#;

/// A folder that functions may write into.
fn notes(site: &Site, name: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = site.path().join(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

fn attempts(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// A platform on which what a handler notes outlives its instance.
async fn started(site: &Site) -> Platform {
    let options = bugle_testkit::StartOptions::default().config("confinement", "enabled", "false");
    let mut platform = site.start_with(&options).await;
    platform.tolerate("instances are not confined");
    platform
}

async fn running(site: &Site) -> Platform {
    let code = site.write_code("later", "index.py", HANDLER);
    let platform = started(site).await;
    let spec = FunctionSpec::python("0@default@later", &code).with("timeout", 20);
    let _ = platform.register(&spec).await;
    let config = json!({"enable_async_status_log": true, "max_async_retry_attempts": 1});
    let path = format!("{FUNCTIONS}/later/async-invoke-config");
    let _ = platform.control.put(&path, &config).await.expect(200);
    platform
}

async fn send(platform: &Platform, id: &str, event: &Value) -> Answer {
    let request = Request::post(format!("{FUNCTIONS}/later/invocations-async"))
        .header("x-cff-request-id", id)
        .body(Bytes::from(event.to_string()));
    platform.gateway.send(request.unwrap()).await.unwrap()
}

async fn record(platform: &Platform, id: &str) -> Value {
    let path = format!("{FUNCTIONS}/later/async-invocations?request_id={id}");
    let list = platform.control.get(&path).await.expect(200).json();
    list["invocations"][0].clone()
}

async fn ends_as(platform: &Platform, id: &str, status: &str) -> Value {
    eventually(status, BOUND, || async {
        let record = record(platform, id).await;
        if record["status"] == status {
            Ok(record)
        } else {
            Err(record.to_string())
        }
    })
    .await
}

#[tokio::test]
async fn an_event_is_accepted_and_delivered_and_its_record_kept() {
    let site = Site::new();
    let platform = running(&site).await;
    let folder = notes(&site, "notes");
    let answer = send(&platform, "r-1", &json!({"folder": folder}))
        .await
        .expect(202);
    assert_eq!(answer.json(), json!({"request_id": "r-1"}));
    let record = ends_as(&platform, "r-1", "SUCCESS").await;
    assert_eq!(record["error_code"], 0);
    assert!(!record["end_time"].as_str().unwrap().is_empty());
    assert_eq!(attempts(&folder), 1);
    // The same again is the same one.
    let _ = send(&platform, "r-1", &json!({"folder": folder}))
        .await
        .expect(202);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(attempts(&folder), 1);
    platform.finish().await;
}

#[tokio::test]
async fn a_failure_is_tried_again_until_the_attempts_run_out() {
    let site = Site::new();
    let platform = running(&site).await;
    let (once, always) = (notes(&site, "once"), notes(&site, "always"));
    let _ = send(&platform, "once", &json!({"folder": once, "fails": 1}))
        .await
        .expect(202);
    let _ = send(&platform, "always", &json!({"folder": always, "fails": 99}))
        .await
        .expect(202);
    ends_as(&platform, "once", "SUCCESS").await;
    assert_eq!(attempts(&once), 2);
    let record = ends_as(&platform, "always", "FAIL").await;
    assert_eq!(record["error_code"], 4002);
    assert!(
        record["error_message"]
            .as_str()
            .unwrap()
            .contains("not yet")
    );
    assert_eq!(attempts(&always), 2);
    platform.finish().await;
}

#[tokio::test]
async fn one_that_runs_is_cancelled_with_its_instance() {
    let site = Site::new();
    let mut platform = running(&site).await;
    platform.tolerate("instance");
    let folder = notes(&site, "notes");
    let event = json!({"folder": folder, "seconds": 60});
    let _ = send(&platform, "long", &event).await.expect(202);
    eventually("it runs", BOUND, || async {
        (attempts(&folder) == 1)
            .then_some(())
            .ok_or_else(String::new)
    })
    .await;
    let cancel = json!({"request_id": "long", "type": "force"});
    let path = format!("{FUNCTIONS}/later/cancel");
    let _ = platform.control.post(&path, &cancel).await.expect(200);
    let record = ends_as(&platform, "long", "DISCARD").await;
    assert_eq!(record["error_code"], 4208);
    let _ = platform.control.post(&path, &cancel).await.expect(404);
    platform.finish().await;
}

#[tokio::test]
async fn what_was_accepted_is_delivered_after_a_crash() {
    let site = Site::new();
    let platform = running(&site).await;
    let folder = notes(&site, "notes");
    let event = json!({"folder": folder, "fails": 1, "seconds": 0});
    let _ = send(&platform, "kept", &event).await.expect(202);
    platform.kill().await;
    let platform = started(&site).await;
    ends_as(&platform, "kept", "SUCCESS").await;
    assert!(attempts(&folder) >= 2);
    platform.finish().await;
}

#[tokio::test]
async fn what_cannot_be_delivered_is_refused() {
    let site = Site::new();
    let platform = running(&site).await;
    let large = json!({"a": "x".repeat(256 << 10)});
    let refused = send(&platform, "large", &large).await.expect(413).json();
    assert_eq!(refused["error_code"], "FSS.0413");
    let code = site.write_program("server", "#!/bin/sh\nexit 1\n");
    let server = FunctionSpec::program("0@default@server", "http", &code);
    let _ = platform.register(&server).await;
    let request = Request::post(format!("{FUNCTIONS}/server/invocations-async"));
    let request = request.body(Bytes::from_static(b"{}")).unwrap();
    let refused = platform
        .gateway
        .send(request)
        .await
        .unwrap()
        .expect(400)
        .json();
    assert_eq!(refused["error_code"], "FSS.0426");
    let nobody = Request::post(format!("{FUNCTIONS}/nobody/invocations-async"));
    let nobody = nobody.body(Bytes::from_static(b"{}")).unwrap();
    let _ = platform.gateway.send(nobody).await.unwrap().expect(404);
    platform.finish().await;
}
