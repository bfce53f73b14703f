//! Functions are invoked, at either listener.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bugle_testkit::{FunctionSpec, Site};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::{FUNCTIONS, invoke, running};

#[tokio::test]
async fn the_result_is_the_body_and_the_headers_say_how_it_went() {
    let site = Site::new();
    let platform = running(&site).await;
    for endpoint in [platform.gateway, platform.control] {
        let headers = [("x-cff-request-id", "chosen-1")];
        let answer = invoke(endpoint, "echo", &json!({"a": 1}), &headers)
            .await
            .expect(200);
        assert_eq!(answer.json(), json!({"a": 1}));
        assert_eq!(answer.header("x-cff-request-id"), "chosen-1");
        assert_eq!(answer.header("x-func-err-code"), "0");
        assert_eq!(answer.header("x-is-func-err"), "false");
        assert_eq!(answer.header("x-cff-response-version"), "v0");
        assert_eq!(answer.header("x-cff-function-log"), "");
        let summary: Value = serde_json::from_str(answer.header("x-cff-invoke-summary")).unwrap();
        let keys: Vec<_> = summary.as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            keys,
            ["billingDuration", "duration", "memorySize", "memoryUsed"]
        );
        assert_eq!(summary["memorySize"], 128);
        assert!(summary["memoryUsed"].as_f64().unwrap() > 1.0);
    }
    let urn = "urn:fss:local:default:function:default:echo:latest";
    let answer = invoke(platform.gateway, urn, &json!({"do": "text"}), &[])
        .await
        .expect(200);
    assert_eq!(answer.json(), "Hello invoke\n");
    let bad_id = [("x-cff-request-id", "not an id")];
    let answer = invoke(platform.gateway, "echo", &json!({}), &bad_id)
        .await
        .expect(200);
    assert_ne!(answer.header("x-cff-request-id"), "not an id");
    platform.finish().await;
}

#[tokio::test]
async fn the_envelope_has_result_and_log() {
    let site = Site::new();
    let platform = running(&site).await;
    let headers = [("x-cff-request-version", "v1"), ("x-cff-log-type", "tail")];
    let answer = invoke(platform.control, "echo", &json!({"a": 1}), &headers)
        .await
        .expect(200);
    let body = answer.json();
    let result: Value = serde_json::from_str(body["result"].as_str().unwrap()).unwrap();
    assert_eq!(result, json!({"a": 1}));
    assert_eq!(body["status"], 200);
    assert_eq!(body["request_id"], answer.header("x-cff-request-id"));
    let log = body["log"].as_str().unwrap();
    assert!(log.contains("Start invoke request"), "{log}");
    assert!(log.contains("said on stdout"), "{log}");
    assert!(log.contains("Finish invoke request"), "{log}");
    let header = BASE64.decode(answer.header("x-cff-function-log")).unwrap();
    assert!(
        String::from_utf8(header)
            .unwrap()
            .contains("said on stdout")
    );
    platform.finish().await;
}

#[tokio::test]
async fn what_the_function_does_wrong_is_a_result() {
    let site = Site::new();
    let platform = running(&site).await;
    let headers = [("x-cff-request-version", "v1")];
    for (event, code, kind) in [
        (json!({"do": "raise"}), 4002, "ValueError"),
        (
            json!({"do": "sleep", "seconds": 60}),
            4010,
            "FunctionTimeout",
        ),
        (
            json!({"do": "large", "bytes": 6 << 20}),
            4004,
            "FunctionResponseTooLarge",
        ),
    ] {
        let answer = invoke(platform.gateway, "echo", &event, &headers)
            .await
            .expect(200);
        assert_eq!(
            answer.header("x-func-err-code"),
            code.to_string(),
            "{}",
            answer.text()
        );
        assert_eq!(answer.header("x-is-func-err"), "true");
        let body = answer.json();
        assert_eq!(body["status"], 500);
        assert_eq!(body["error_code"], code);
        let error: Value = serde_json::from_str(body["result"].as_str().unwrap()).unwrap();
        assert_eq!(error["errorType"], kind);
        assert!(error["stackTrace"].is_array());
    }
    platform.finish().await;
}

#[tokio::test]
async fn what_the_platform_refuses_has_a_status_and_a_code() {
    let site = Site::new();
    let platform = running(&site).await;
    let send = |body: Bytes, function: &str| {
        let request = Request::post(format!("{FUNCTIONS}/{function}/invocations"));
        platform.gateway.send(request.body(body).unwrap())
    };
    for (body, function, status, code) in [
        (Bytes::from_static(b"{"), "echo", 406, "FSS.0406"),
        (Bytes::from_static(b"plain"), "echo", 406, "FSS.0406"),
        (Bytes::from_static(b"{}"), "nobody", 404, "FSS.1051"),
        (Bytes::from_static(b"{}"), "echo:!live", 404, "FSS.1051"),
        (
            Bytes::from_static(b"{}"),
            "other:default:echo",
            403,
            "FSS.0403",
        ),
        (Bytes::from_static(b"{}"), "1echo", 400, "FSS.0400"),
        (
            Bytes::from(vec![b'1'; (6 << 20) + 1]),
            "echo",
            413,
            "FSS.0413",
        ),
    ] {
        let answer = send(body, function).await.unwrap().expect(status);
        assert_eq!(answer.json()["error_code"], code);
        assert_eq!(answer.header("x-is-func-err"), "false");
    }
    // The longest that is taken.
    let mut longest = vec![b' '; 6 << 20];
    longest[..2].copy_from_slice(b"{}");
    assert_eq!(
        send(longest.into(), "echo")
            .await
            .unwrap()
            .expect(200)
            .json(),
        json!({})
    );
    assert_eq!(
        send(Bytes::new(), "echo").await.unwrap().expect(200).json(),
        json!({})
    );
    platform.finish().await;
}

#[tokio::test]
async fn a_response_structure_of_a_handler_is_the_result_itself() {
    let site = Site::new();
    let platform = running(&site).await;
    let event = json!({"do": "structure"});
    let structure = invoke(platform.gateway, "echo", &event, &[])
        .await
        .expect(200)
        .json();
    assert_eq!(structure["statusCode"], 201);
    assert_eq!(structure["headers"]["x-a"], "1");
    assert_eq!(
        BASE64.decode(structure["body"].as_str().unwrap()).unwrap(),
        b"made"
    );
    platform.finish().await;
}

#[tokio::test]
async fn a_web_server_gets_the_request_that_the_event_describes() {
    let site = Site::new();
    let code = site.write_program("server", include_str!("../http_functions/server.py"));
    let platform = site.start().await;
    let spec = FunctionSpec::program("0@default@server", "http", &code);
    let _ = platform.register(&spec).await;
    let event = json!({"httpMethod": "PATCH", "path": "/shop/7", "isBase64Encoded": true,
        "body": "/wA=", "headers": {"x-mine": "1", "x-cff-memory": "9", "cookie": ["a", "b"]},
        "queryStringParameters": {"a": "1", "b": ["2", "x y"], "status": "418"}});
    let answer = invoke(platform.control, "server", &event, &[])
        .await
        .expect(200)
        .json();
    assert_eq!(answer["statusCode"], 418);
    assert_eq!(answer["isBase64Encoded"], true);
    assert_eq!(
        answer["headers"]["Set-Cookie".to_lowercase()],
        json!(["a=1", "b=2"])
    );
    let body = BASE64.decode(answer["body"].as_str().unwrap()).unwrap();
    let seen: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(seen["method"], "PATCH");
    assert_eq!(seen["body"], "/wA=");
    assert_eq!(seen["query"]["b"], "x y");
    let headers = seen["headers"].as_array().unwrap();
    assert!(
        headers.contains(&json!(["x-cff-memory", "128"])),
        "{headers:?}"
    );
    assert!(headers.contains(&json!(["x-mine", "1"])), "{headers:?}");

    let hidden = json!({"path": "/invoke"});
    let _ = invoke(platform.control, "server", &hidden, &[])
        .await
        .expect(404);
    let wrong = json!(["no", "event"]);
    let wrong = invoke(platform.control, "server", &wrong, &[])
        .await
        .expect(400)
        .json();
    assert_eq!(wrong["error_code"], "FSS.0406");
    platform.finish().await;
}
