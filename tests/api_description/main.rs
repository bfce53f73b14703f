//! The description of the control API: it is checked in, it is whole, and every answer that it
//! describes is given and looks like that.
#![cfg(test)]

mod client;
mod images;
mod nodes;
mod packages;
mod schema;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bugle_testkit::{Endpoint, FunctionSpec, Site, StartOptions, eventually};
use client::Client;
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
    for (method, path, operation) in client::operations(&document) {
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
        for (status, response) in responses {
            let said = response["description"].as_str().unwrap_or_default();
            assert!(
                !said.is_empty(),
                "{which}: OpenAPI wants {status} described"
            );
            let media = response["content"].as_object();
            let json = media.and_then(|media| media.get("application/json"));
            let described = json.is_none_or(|json| json["schema"].is_object());
            assert!(
                described,
                "{which}: the body with {status} is not described"
            );
            let plain = path.ends_with('z') || path == "/metrics";
            let empty = plain || status == "204" || method == "head";
            assert!(media.is_some() || empty, "{which}: {status} has no body");
        }
        for name in path.split('/').filter_map(|part| part.strip_prefix('{')) {
            let name = name.trim_end_matches('}');
            let parameters = operation["parameters"].as_array().unwrap();
            let described = parameters
                .iter()
                .any(|parameter| parameter["name"] == name && parameter["in"] == "path");
            assert!(described, "{which}: {name} is not described");
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
async fn every_described_answer_is_given_and_is_as_described() {
    let document: Value = serde_json::from_slice(&std::fs::read(file()).unwrap()).unwrap();
    let site = Site::new();
    let registry = images::registry();
    let rule = format!("http://{registry}");
    let options = StartOptions::default()
        .config("addresses", "allowed", &rule)
        .config("nodes", "listen", "127.0.0.1:0");
    let mut platform = site.start_with(&options).await;
    // The node that is removed may be back before it is killed.
    platform.tolerate("a node was refused");
    let code = site.write_code(
        "f",
        "index.py",
        "def handler(event, context):\n    print('hello')\n    return 1\n",
    );
    let spec = FunctionSpec::python("0@test@f", &code).with("runtime", platform.python().await);
    let mut client = Client::new(&document, platform.control);
    functions(&mut client, &spec.body()).await;
    reservations(&mut client).await;
    pools(&mut client, platform.control).await;
    graph(&mut client).await;
    let function = platform.register(&spec).await;
    let _ = platform.invoke(&function, "{}").await.expect(200);
    operation(&mut client).await;
    images::images(&mut client, &registry).await;
    packages::packages(&mut client).await;
    nodes::nodes(&mut client, &site).await;
    assert_eq!(client.not_seen(), NOT_HERE, "and nothing else is left out");
    platform.finish().await;
}

/// What no test of this kind brings about: the platform must be starting or broken for it, or the
/// client sends so much that the answer may be lost, or an instance must run from an image.
const NOT_HERE: [&str; 30] = [
    "create_pools 413",
    "create_reservation 413",
    "delete_function 500",
    "delete_reservation 413",
    "delete_reservation 500",
    "download_package 500",
    "drain_node 500",
    "graph_cancel 200",
    "list_nodes 500",
    "list_packages 500",
    "list_reservations 413",
    "list_reservations 500",
    "load_images 413",
    "look_for_package 500",
    "make_token 409",
    "make_token 500",
    "publish_version 413",
    "put_package 413",
    "put_package 500",
    "ready 503",
    "register_function 413",
    "remove_image 409",
    "remove_node 500",
    "remove_package 500",
    "resume_node 500",
    "update_function 413",
    "update_pool 413",
    "update_reservation 413",
    "upload_package 413",
    "upload_package 500",
];

/// F1 to F7, with what each is refused for.
async fn functions(client: &mut Client<'_>, body: &Value) {
    client.send("register_function", "", &json!({}), 400).await;
    let registered = client.send("register_function", "", body, 200).await;
    client.send("register_function", "", body, 500).await;
    let revision = &registered["function"]["revisionId"];
    let publish = json!({"revisionId": revision, "versionNumber": "v1", "kind": "faas"});
    client
        .send("publish_version", "0@test@f", &publish, 200)
        .await;
    client
        .send("publish_version", "0@test@f", &publish, 500)
        .await;
    let mut update = body.clone();
    update["revisionId"].clone_from(revision);
    client
        .send("update_function", "0@test@f", &update, 200)
        .await;
    client
        .send("update_function", "0@test@f", &update, 500)
        .await;
    client.ask("get_function", "0@test@f", 200).await;
    client
        .ask("get_function", "0@test@f?versionNumber=v1", 200)
        .await;
    client.ask("get_function", "0@test@x", 404).await;
    client
        .ask("get_function", "0@test@f?qualifier=-", 500)
        .await;
    client.ask("get_function", "%ff", 500).await;
    client.ask("list_versions", "0@test@f", 200).await;
    client.ask("list_versions", "0@test@none", 200).await;
    client
        .ask("list_versions", "0@test@f?pageSize=0", 500)
        .await;
    client.ask("list_functions", "", 200).await;
    client.ask("list_functions", "?pageSize=0", 200).await;
    client.as_tenant("a/b").ask("list_functions", "", 500).await;
    client
        .as_tenant("")
        .ask("delete_function", "a_b", 400)
        .await;
    client
        .ask("delete_function", "0@test@f?versionNumber=v2", 404)
        .await;
    client
        .ask("delete_function", "0@test@f?versionNumber=v1", 200)
        .await;
}

/// R1 to R4, with what each is refused for.
async fn reservations(client: &mut Client<'_>) {
    let label = json!({
        "funcName": "0@test@f", "version": "latest", "instanceLabel": "gold",
        "instanceConfigInfos": [{"clusterId": "cluster001", "minInstance": 0, "maxInstance": 1}],
    });
    let with = |name: &str, value: Value| {
        let mut label = label.clone();
        label[name] = value;
        label
    };
    let nowhere = with("version", json!("v9"));
    let misnamed = with("funcName", json!("f"));
    let elsewhere = with("instanceConfigInfos", json!([{"clusterId": "moon"}]));
    for operation in ["create_reservation", "update_reservation"] {
        client.send(operation, "", &label, 200).await;
        client.send(operation, "", &elsewhere, 500).await;
    }
    for operation in [
        "create_reservation",
        "update_reservation",
        "list_reservations",
        "delete_reservation",
    ] {
        client.send(operation, "", &misnamed, 400).await;
        client.send(operation, "", &nowhere, 404).await;
    }
    client.send("list_reservations", "", &label, 200).await;
    client.send("delete_reservation", "", &label, 200).await;
    client.send("list_reservations", "", &label, 200).await;
    client.ask("delete_function", "0@test@f", 200).await;
}

/// P1 to P4, with what each is refused for.
async fn pools(client: &mut Client<'_>, control: Endpoint) {
    let amounts = json!({"cpu": "100m"});
    let pool = json!({
        "id": "p", "resources": {"requests": amounts, "limits": amounts},
    });
    let both = json!({"pools": [pool, {"id": "P"}]});
    client.send("create_pools", "", &both, 200).await;
    client.send("create_pools", "", &both, 500).await;
    client.ask("list_pools", "?limit=x", 500).await;
    // It begins to run when somebody has looked at it.
    eventually("the pool runs", Duration::from_mins(1), async || {
        let list = control.get("/serverless/v1/podpools").await.json();
        let pool = &list["result"]["pools"][0];
        if pool["status"] == 4 {
            Ok(())
        } else {
            Err(pool.to_string())
        }
    })
    .await;
    client.ask("list_pools", "", 200).await;
    client.send("update_pool", "p", &json!({}), 500).await;
    client
        .send("update_pool", "q", &json!({"size": 0}), 404)
        .await;
    client
        .send("update_pool", "p", &json!({"size": 0}), 200)
        .await;
    client.ask("delete_pools", "", 500).await;
    client.ask("delete_pools", "?id=q", 404).await;
    client.ask("delete_pools", "?id=p", 200).await;
}

/// FunctionGraph's routes, with what each is refused for.
async fn graph(client: &mut Client<'_>) {
    let body = json!({"func_name": "thumb", "runtime": "Custom Image", "memory_size": 128,
        "custom_image": {"image": "registry.invalid/thumb:1"}});
    client.send("graph_create", "", &json!({}), 400).await;
    client.send("graph_create", "", &body, 200).await;
    client.send("graph_create", "", &body, 409).await;
    client.ask("graph_list", "", 200).await;
    client.ask("graph_list", "?marker=x", 400).await;
    let version = json!({"version": "v1"});
    client.send("graph_publish", "thumb", &version, 200).await;
    client.send("graph_publish", "thumb", &version, 409).await;
    client.send("graph_publish", "nobody", &version, 404).await;
    for operation in ["graph_get_code", "graph_get_config", "graph_versions"] {
        client.ask(operation, "thumb", 200).await;
        client.ask(operation, "nobody", 404).await;
    }
    let code = json!({"custom_image": {"image": "registry.invalid/thumb:2"}});
    let config = json!({"memory_size": 256});
    let reserve = json!({"count": 0});
    for (operation, good, bad) in [
        ("graph_update_code", code, json!({})),
        ("graph_update_config", config, json!({"memory_size": 1})),
        ("graph_reserve", reserve, json!({"count": -1})),
    ] {
        client.send(operation, "thumb", &good, 200).await;
        client.send(operation, "thumb", &bad, 400).await;
        client.send(operation, "nobody", &good, 404).await;
    }
    let cancel = json!({"request_id": "none"});
    for (operation, good, bad) in [
        (
            "graph_set_async",
            json!({}),
            json!({"max_async_retry_attempts": 4}),
        ),
        ("graph_cancel", json!({}), json!({"type": "soft"})),
    ] {
        client.send(operation, "thumb", &bad, 400).await;
        client.send(operation, "nobody", &good, 404).await;
    }
    client
        .send("graph_set_async", "thumb", &json!({}), 200)
        .await;
    client.send("graph_cancel", "thumb", &cancel, 404).await;
    client.ask("graph_get_async", "thumb", 200).await;
    client.ask("graph_get_async", "nobody", 404).await;
    client.ask("graph_unset_async", "thumb", 204).await;
    client.ask("graph_unset_async", "nobody", 404).await;
    client.ask("graph_async_invocations", "thumb", 200).await;
    client.ask("graph_async_invocations", "nobody", 404).await;
    let when = "thumb?query_begin_time=yesterday";
    client.ask("graph_async_invocations", when, 400).await;
    client.ask("graph_delete", "thumb", 204).await;
    client.ask("graph_delete", "thumb", 404).await;
}

/// Bugle's own routes.
async fn operation(client: &mut Client<'_>) {
    for operation in ["health", "ready", "metrics", "info"] {
        client.ask(operation, "", 200).await;
    }
    client.ask("status", "0@test@f", 200).await;
    client.ask("logs", "0@test@f?tail=1", 200).await;
    for operation in ["status", "logs"] {
        client.ask(operation, "0@test@x", 404).await;
        client.ask(operation, "%ff", 400).await;
    }
    client.ask("logs", "0@test@f?tail=some", 400).await;
}
