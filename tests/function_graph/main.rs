//! FunctionGraph's own interface: functions that are images are made and changed there, and every
//! function is invoked there.
#![cfg(test)]

mod asynchronous;
mod invocations;
mod management;

use std::time::Duration;

use bugle_testkit::{Answer, Endpoint, FunctionSpec, Platform, Site};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(30);

/// Where the project of tests has its functions.
const FUNCTIONS: &str = "/v2/default/fgs/functions";

const HANDLER: &str = r#"
import time

def handler(event, context):
    what = event.get("do")
    if what == "raise":
        raise ValueError("no luck")
    if what == "sleep":
        time.sleep(event["seconds"])
    if what == "text":
        return "Hello invoke\n"
    if what == "structure":
        return {"statusCode": 201, "headers": {"x-a": "1"}, "body": "made"}
    if what == "large":
        return "x" * event["bytes"]
    print("said on stdout")
    return event
"#;

/// A platform with the handler as `0@default@echo`.
async fn running(site: &Site) -> Platform {
    let code = site.write_code("echo", "index.py", HANDLER);
    let platform = site.start().await;
    let spec = FunctionSpec::python("0@default@echo", &code).with("timeout", 2);
    let _ = platform.register(&spec).await;
    platform
}

/// Invokes a function at one of the listeners.
async fn invoke(
    endpoint: Endpoint,
    function: &str,
    event: &Value,
    headers: &[(&str, &str)],
) -> Answer {
    let mut request = Request::post(format!("{FUNCTIONS}/{function}/invocations"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Bytes::from(event.to_string());
    endpoint.send(request.body(body).unwrap()).await.unwrap()
}

fn thumb() -> Value {
    json!({"func_name": "thumb_1", "package": "default", "runtime": "Custom Image", "handler": "-",
        "code_type": "Custom-Image-Swr", "memory_size": 512, "timeout": 30, "type": "v2",
        "xrole": "pull-agency", "initializer_handler": "-", "initializer_timeout": 30,
        "custom_image": {"enabled": true, "image": "registry.invalid/team/thumb:1.4.2",
            "command": "/bin/sh", "args": "-c,exec /srv/app", "working_dir": "/srv",
            "uid": "1003", "gid": "1003"},
        "user_data": "{\"LOG_LEVEL\":\"info\"}",
        "encrypted_user_data": "{\"password\":\"1234\"}"})
}
