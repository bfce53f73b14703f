//! The description of the control API: it is checked in, it is whole, and answers are as it says.
#![cfg(test)]

mod schema;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bugle_testkit::{FunctionSpec, Site};
use serde_json::{Value, json};

/// Set to write the file instead of comparing it.
const UPDATE: &str = "BUGLE_UPDATE";

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi/bugle.json")
}

async fn served() -> String {
    let site = Site::new();
    let platform = site.start().await;
    let text = platform
        .control
        .get("/openapi.json")
        .await
        .expect(200)
        .text();
    platform.finish().await;
    text
}

#[tokio::test]
async fn the_checked_in_description_is_what_the_server_serves() {
    let served = served().await;
    let served = served.trim_end().to_owned() + "\n";
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(file(), served).unwrap();
        return;
    }
    let known = std::fs::read_to_string(file()).unwrap();
    assert!(
        known == served,
        "the control API has changed. If that is meant, look at what \
         `{UPDATE}=1 cargo test -p bugle-tests --test api_description` does to {}",
        file().display()
    );
}

#[test]
fn every_operation_is_named_and_every_reference_leads_somewhere() {
    let document: Value = serde_json::from_slice(&std::fs::read(file()).unwrap()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut ids = BTreeSet::new();
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations += 1;
            let which = format!("{method} {path}");
            let id = operation["operationId"].as_str().unwrap_or_default();
            assert!(
                !id.is_empty() && ids.insert(id),
                "{which} has the id {id:?}"
            );
            assert!(
                !operation["summary"].as_str().unwrap_or_default().is_empty(),
                "{which} does not say what it does"
            );
            let responses = operation["responses"].as_object().unwrap();
            assert!(!responses.is_empty(), "{which} is never answered");
            for name in path.split('/').filter_map(|part| part.strip_prefix('{')) {
                let name = name.trim_end_matches('}');
                let parameters = operation["parameters"].as_array().unwrap();
                let described = parameters
                    .iter()
                    .any(|parameter| parameter["name"] == name && parameter["in"] == "path");
                assert!(described, "{which}: {name} is not described");
            }
        }
    }
    assert!(operations >= 15, "only {operations} operations");
    let mut references = BTreeSet::new();
    collect(&document, &mut references);
    assert!(references.len() > 10, "{references:?}");
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("nothing is elsewhere");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect(value: &Value, references: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                references.insert(reference.to_owned());
            }
            object.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

#[tokio::test]
async fn answers_are_as_described() {
    const FUNCTIONS: &str = "/serverless/v1/functions";
    const RESERVED: &str = "/serverless/v1/functions/reserve-instance";
    let document: Value = serde_json::from_slice(&std::fs::read(file()).unwrap()).unwrap();
    let site = Site::new();
    let platform = site.start().await;
    let code = site.write_code(
        "f",
        "index.py",
        "def handler(event, context):\n    return 1\n",
    );
    let body = FunctionSpec::python("0@test@f", &code)
        .with("runtime", platform.python().await)
        .body();
    let label = json!({
        "funcName": "0@test@f", "version": "latest", "instanceLabel": "gold",
        "instanceConfigInfos": [{"clusterId": "cluster001", "minInstance": 0, "maxInstance": 1}],
    });
    let check = |method: &str, path: &str, answer: bugle_testkit::Answer| {
        let described = schema::of_answer(&document, method, path, answer.status)
            .unwrap_or_else(|| panic!("{method} {path} with {}: not described", answer.status));
        let mut wrong = Vec::new();
        schema::check(&document, described, &answer.json(), "", &mut wrong);
        assert!(
            wrong.is_empty(),
            "{method} {path}: {wrong:#?}\n{}",
            answer.text()
        );
    };

    let registered = platform.control.post(FUNCTIONS, &body).await.expect(200);
    let revision = registered.json()["function"]["revisionId"].clone();
    check("post", FUNCTIONS, registered);
    check(
        "post",
        FUNCTIONS,
        platform.control.post(FUNCTIONS, &body).await.expect(500),
    );
    check(
        "post",
        FUNCTIONS,
        platform
            .control
            .post(FUNCTIONS, &json!({}))
            .await
            .expect(400),
    );
    let one = format!("{FUNCTIONS}/0@test@f");
    let named = "/serverless/v1/functions/{name}";
    check("get", named, platform.control.get(&one).await.expect(200));
    check(
        "get",
        named,
        platform
            .control
            .get(&format!("{FUNCTIONS}/0@test@x"))
            .await
            .expect(404),
    );
    check(
        "get",
        FUNCTIONS,
        platform.control.get(FUNCTIONS).await.expect(200),
    );
    let versions = format!("{one}/versions");
    let publish = json!({"revisionId": revision, "versionNumber": "v1", "kind": "faas"});
    let path = "/serverless/v1/functions/{name}/versions";
    check(
        "post",
        path,
        platform.control.post(&versions, &publish).await.expect(200),
    );
    check(
        "get",
        path,
        platform.control.get(&versions).await.expect(200),
    );
    let mut update = body.clone();
    update["revisionId"] = revision;
    check(
        "put",
        named,
        platform.control.put(&one, &update).await.expect(200),
    );
    check(
        "put",
        named,
        platform.control.put(&one, &update).await.expect(500),
    );
    check(
        "post",
        RESERVED,
        platform.control.post(RESERVED, &label).await.expect(200),
    );
    check(
        "put",
        RESERVED,
        platform.control.put(RESERVED, &label).await.expect(200),
    );
    let info = "/bugle/v1/info";
    check("get", info, platform.control.get(info).await.expect(200));
    let status = "/bugle/v1/functions/{name}/status";
    let of = "/bugle/v1/functions/0@test@f/status";
    check("get", status, platform.control.get(of).await.expect(200));
    let deleted = platform.control.delete(&one).await.expect(200);
    assert_eq!(deleted.json(), json!({}));
    check(
        "delete",
        named,
        platform.control.delete(&one).await.expect(404),
    );
    platform.finish().await;
}
