//! What a creation means, and what is refused.

use serde_json::{Value, json};

use super::request::{CreateRequest, current};
use super::{GraphFunction, Refusal, request};
use crate::{ContainerObject, FunctionObject, FunctionRequest};

/// The contract's example.
fn example() -> Value {
    json!({"func_name": "thumb", "package": "default", "runtime": "Custom Image", "handler": "-",
        "code_type": "Custom-Image-Swr", "memory_size": 512, "timeout": 30, "type": "v2",
        "xrole": "pull-agency", "initializer_handler": "-", "initializer_timeout": 30,
        "custom_image": {"enabled": true, "image": "registry.example/team/thumb:1.4.2",
            "command": "/bin/sh", "args": "-c,exec /srv/app", "working_dir": "/srv",
            "uid": "1003", "gid": "1003"},
        "user_data": "{\"LOG_LEVEL\":\"info\"}",
        "encrypted_user_data": "{\"password\":\"1234\"}"})
}

fn create(body: Value) -> Result<FunctionRequest, Refusal> {
    let create: CreateRequest = serde_json::from_value(body).unwrap();
    let request = create.into_request()?;
    request::check(&request)?;
    Ok(request)
}

fn with(pointer: &str, value: Value) -> Value {
    let mut body = example();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[name] = value;
    body
}

#[test]
fn the_contracts_example_is_the_registration_of_the_other_interface() {
    let request = create(example()).unwrap();
    assert_eq!(request.name.as_deref(), Some("0@default@thumb"));
    assert_eq!(request.runtime.as_deref(), Some("custom image"));
    assert_eq!((request.memory, request.cpu), (Some(512), Some(600)));
    let settings = request.extended_meta_data.unwrap();
    let image = &settings.custom_container_config;
    assert_eq!(image.command.as_deref().unwrap(), ["/bin/sh"]);
    assert_eq!(image.args.as_deref().unwrap(), ["-c", "exec /srv/app"]);
    assert_eq!((image.uid, image.gid), (1003, 1003));
    assert_eq!(settings.secret_variables, ["password"]);
    let variables = request.environment.unwrap();
    assert_eq!(
        (&*variables["LOG_LEVEL"], &*variables["password"]),
        ("info", "1234")
    );
    assert_eq!(request.extended_handler.unwrap()["initializer"], "-");
    assert_eq!(request.extended_timeout.unwrap()["initializer"], 30);
}

#[test]
fn what_is_left_out_has_the_contracts_defaults() {
    let request = create(
        json!({"func_name": "f", "runtime": "http", "memory_size": 128,
        "code_type": "Custom-Image-Swr", "custom_image": {"image": "r.example/a"}}),
    )
    .unwrap();
    assert_eq!(request.timeout, Some(3));
    assert_eq!(request.cpu, Some(300));
    assert_eq!(request.max_instance.as_deref(), Some("400"));
    assert_eq!(request.concurrent_num.as_deref(), Some("1"));
    assert_eq!(request.runtime.as_deref(), Some("http"));
}

#[test]
fn arguments_with_commas_come_as_a_json_list() {
    let request = create(with("/custom_image/args", json!(r#"["-c","a,b"]"#))).unwrap();
    let settings = request.extended_meta_data.unwrap();
    assert_eq!(
        settings.custom_container_config.args.unwrap(),
        ["-c", "a,b"]
    );
    assert!(create(with("/custom_image/args", json!("[a,b"))).is_err());
}

#[test]
fn each_mistake_has_its_code() {
    for (pointer, value, code) in [
        ("/func_name", json!("1x"), "FSS.1002"),
        ("/func_name", json!("x-"), "FSS.1002"),
        ("/package", json!("a-b"), "FSS.1002"),
        ("/runtime", json!("Node.js14.18"), "FSS.1003"),
        ("/code_type", json!("zip"), "FSS.0400"),
        ("/memory_size", json!(100), "FSS.1007"),
        ("/memory_size", json!(null), "FSS.1007"),
        ("/timeout", json!(2), "FSS.1006"),
        ("/custom_image", json!(null), "FSS.1034"),
        ("/custom_image/enabled", json!(false), "FSS.1034"),
        ("/custom_image/image", json!("a b"), "FSS.1034"),
        ("/custom_image/uid", json!("0"), "FSS.1075"),
        ("/custom_image/uid", json!("1000"), "FSS.1075"),
        ("/custom_image/gid", json!("1002"), "FSS.1075"),
        ("/custom_image/gid", json!("65535"), "FSS.1075"),
        ("/custom_image/uid", json!("x"), "FSS.1075"),
        ("/custom_image/working_dir", json!("srv"), "FSS.0400"),
        ("/custom_image/args", json!("x".repeat(5121)), "FSS.0400"),
        ("/initializer_timeout", json!(301), "FSS.1405"),
        ("/user_data", json!("[]"), "FSS.1009"),
        ("/user_data", json!("{\"1\":\"\"}"), "FSS.1009"),
        ("/user_data", json!("{\"RUNTIME_X\":\"\"}"), "FSS.1009"),
        (
            "/user_data",
            json!(format!("{{\"A\":\"{}\"}}", "x".repeat(4096))),
            "FSS.1018",
        ),
        ("/ephemeral_storage", json!(100), "FSS.0400"),
        ("/strategy_config", json!({"concurrency": 1001}), "FSS.0400"),
        ("/description", json!("x".repeat(513)), "FSS.1019"),
    ] {
        let refusal = create(with(pointer, value.clone())).unwrap_err();
        assert_eq!(refusal.code, code, "{pointer} {value}: {}", refusal.message);
    }
    let many: std::collections::BTreeMap<String, String> =
        (0..21).map(|n| (format!("A{n}"), String::new())).collect();
    let many = serde_json::to_string(&many).unwrap();
    assert_eq!(
        create(with("/user_data", json!(many))).unwrap_err().code,
        "FSS.1017"
    );
}

fn registered(request: &FunctionRequest) -> FunctionObject {
    FunctionObject {
        name: request.name.clone().unwrap(),
        tenant_id: "p1".to_owned(),
        version_number: "latest".to_owned(),
        runtime: request.runtime.clone().unwrap(),
        kind: "faas".to_owned(),
        environment: request.environment.clone().unwrap(),
        container: Some(ContainerObject {
            settings: request.extended_meta_data.clone().unwrap(),
            ..ContainerObject::default()
        }),
        ..FunctionObject::default()
    }
}

#[test]
fn a_function_is_shown_without_its_secrets() {
    let object = registered(&create(example()).unwrap());
    let shown = GraphFunction::of(&object, "local");
    assert_eq!(
        shown.func_urn,
        "urn:fss:local:p1:function:default:thumb:latest"
    );
    assert_eq!(shown.runtime, "Custom Image");
    assert_eq!(shown.user_data, r#"{"LOG_LEVEL":"info"}"#);
    assert_eq!(shown.encrypted_user_data, r#"{"password":""}"#);
    assert_eq!(shown.custom_image.args.as_deref(), Some("-c,exec /srv/app"));
    assert_eq!(shown.custom_image.uid, Some(json!("1003")));
}

#[test]
fn an_update_of_one_kind_of_variables_leaves_the_other() {
    let object = registered(&create(example()).unwrap());
    let mut request = current(&object);
    let update: super::ConfigUpdate =
        serde_json::from_value(json!({"user_data": "{\"B\":\"2\"}"})).unwrap();
    update.apply(&mut request).unwrap();
    let variables = request.environment.clone().unwrap();
    assert_eq!(variables.keys().collect::<Vec<_>>(), ["B", "password"]);
    let update: super::ConfigUpdate =
        serde_json::from_value(json!({"encrypted_user_data": ""})).unwrap();
    update.apply(&mut request).unwrap();
    let variables = request.environment.unwrap();
    assert_eq!(variables.keys().collect::<Vec<_>>(), ["B"]);
}
