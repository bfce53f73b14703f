//! Side by side with an openYuanrong cluster: what its meta service wrote is found here, and what is
//! registered here can be read there.

use std::collections::BTreeMap;

use bugle_registry::{Config, Keyring, PublishedEnvironment, specification};
use bugle_store::{Op, Txn};
use bugle_types::FunctionId;
use serde_json::{Value, json};

use super::{Desk, NAME, with};

fn version(kind: &str) -> Value {
    let version = json!({
            "Package": {"StorageType": "local", "CodeUploadType": "", "Signature": "", "Size": 0,
                "BucketID": "", "ObjectID": "", "BucketUrl": "", "Token": "", "CodePath": "/code"},
            "RevisionID": "20260301093328978", "Handler": "h.main", "CPU": 600, "Memory": 512,
            "Runtime": "python3.9", "Timeout": 600, "Version": "latest",
            "Environment": "{\"K\":\"theirs\"}", "CustomResources": "{\"ssd\":1.5}",
            "Description": "latest", "StatefulFlag": 0, "PublishTime": "", "MinInstance": 0,
            "MaxInstance": 10, "ConcurrentNum": 2, "Status": "", "Kind": kind, "FunctionType": "",
            "FuncName": "f", "Service": "svc", "IsBridgeFunction": false,
            "EnableAuthInHeader": false, "InstanceNum": 0, "HookHandler": null
    });
    with(
        version,
        json!({
                "ExtendedHandler": {"initializer": "h.init"}, "ExtendedTimeout": {"initializer": 5},
                "CacheInstance": 0, "Device": {"unheard": {"of": 1}, "count": "two"}, "PoolLabel": "",
                "PoolID": "", "EnableMetrics": false, "IdleTime": 0,
                "AutoScaleConfig": {"SLAQuota": 7, "ScaleDownTime": -1, "BurstScaleNum": -1},
                "WarmupType": "", "RootfsSpecMeta": null, "CustomContainerConfig": null,
                "CustomHealthCheck": null, "IsFuncPublic": false, "SandboxType": ""
        }),
    )
}

/// A record as a meta service writes it.
fn record(kind: &str) -> Value {
    json!({
        "Function": {"Name": NAME, "ReversedConcurrency": 0, "Version": "", "Description": "theirs",
            "Tag": null, "CreateTime": "2026-03-01 09:33:28.978 UTC", "UpdateTime": ""},
        "FunctionVersion": version(kind),
        "FunctionLayer": [],
    })
}

fn record_key() -> String {
    format!("/repo/FunctionVersion/yrk/default//{NAME}/latest/")
}

fn published_key(root: &str, version: &str) -> String {
    format!("/{root}/functions/business/yrk/tenant/default/function/{NAME}/version/{version}")
}

async fn write(desk: &Desk, key: &str, value: &Value) {
    let then = vec![Op::Put(key.to_owned().into(), value.to_string().into())];
    let when = Vec::new();
    desk.store.txn(Txn { when, then }).await.unwrap();
}

fn id() -> FunctionId {
    FunctionId {
        tenant: "default".parse().unwrap(),
        product: None,
        name: NAME.parse().unwrap(),
        version: "latest".parse().unwrap(),
    }
}

/// The variables with which an instance would start.
async fn variables(desk: &Desk) -> BTreeMap<String, String> {
    let spec = specification(&*desk.store, &id()).await.unwrap().unwrap();
    let keyring = Keyring::open(desk.folder.path()).unwrap();
    let id = &spec.id;
    let opened = keyring.open_environment(&id.tenant, &id.name, &spec.environment);
    opened.unwrap()
}

#[tokio::test]
async fn a_record_of_a_meta_service_is_shown_and_changed_like_any_other() {
    let desk = Desk::new().await;
    write(&desk, &record_key(), &record("faas")).await;
    let shown = desk.get(NAME, "latest").await.unwrap();
    assert_eq!(shown.description, "theirs");
    assert_eq!(shown.environment["K"], "theirs");
    assert_eq!(
        (shown.cpu, shown.memory, shown.max_instance),
        (600, 512, 10)
    );
    assert_eq!(json!(shown.custom_resources), json!({"ssd": 1.5}));

    desk.published(["v1"]).await;
    let version = desk.value(&published_key("sn", "v1")).await;
    assert_eq!(version["funcMetaData"]["autoScaleConfig"]["slaQuota"], 7);
    let updated = desk.updated(json!({"description": "ours"})).await.unwrap();
    assert_eq!(updated.description, "ours");
    let value = desk.value(&published_key("sn", "latest")).await;
    assert_eq!(value["funcMetaData"]["description"], "ours");
    desk.delete(NAME, "").await.unwrap();
    assert_eq!(desk.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_record_without_a_kind_is_of_the_default_kind() {
    let desk = Desk::new().await;
    let mut record = record("");
    record["FunctionVersion"]["Version"] = "$latest".into();
    let key = record_key().replace("/latest/", "/$latest/");
    write(&desk, &key, &record).await;
    assert_eq!(desk.get(NAME, "").await.unwrap().kind, "yrlib");
}

#[tokio::test]
async fn what_a_meta_service_published_runs_with_its_variables() {
    for (root, kind, named) in [("sn", "faas", "K"), ("yr", "yrlib", "func-K")] {
        let desk = Desk::new().await;
        desk.registered(json!({"kind": kind, "environment": {"K": "ours"}}))
            .await;
        let version = if kind == "faas" { "latest" } else { "$latest" };
        let key = published_key(root, version);
        let mut value = desk.value(&key).await;
        // It says so although it encrypts nothing.
        value["envMetaData"] = json!({"environment": json!({named: "theirs"}).to_string(),
            "encrypted_user_data": "", "cryptoAlgorithm": "GCM", "envKey": "00"});
        write(&desk, &key, &value).await;
        let theirs = BTreeMap::from([("K".to_owned(), "theirs".to_owned())]);
        assert_eq!(variables(&desk).await, theirs, "{kind}");
    }
}

#[tokio::test]
async fn variables_are_published_in_clear_only_where_that_is_wanted() {
    for (root, kind, named) in [("sn", "faas", "K"), ("yr", "yrlib", "func-K")] {
        let config = Config {
            publish_environment: PublishedEnvironment::Clear,
            ..Config::default()
        };
        let desk = Desk::with(config).await;
        desk.registered(with(
            json!({"kind": kind}),
            json!({"environment": {"K": "v"}}),
        ))
        .await;
        let version = if kind == "faas" { "latest" } else { "$latest" };
        let published = desk.value(&published_key(root, version)).await;
        let environment = &published["envMetaData"];
        assert_eq!(environment["cryptoAlgorithm"], "NO_CRYPTO");
        let text = environment["environment"].as_str().unwrap();
        assert_eq!(text, json!({named: "v"}).to_string(), "{kind}");
        let own = desk.value(&record_key().replace("latest", version)).await;
        assert!(
            !own.to_string().contains("\"v\""),
            "our own record is encrypted"
        );
        let opened = variables(&desk).await;
        assert_eq!(opened["K"], "v", "{kind}");
    }
}
