//! Variables and tokens are encrypted wherever they are kept.

use std::path::Path;
use std::sync::Arc;

use bugle_registry::{Config, Keyring, KeyringError};
use bugle_store::{Metrics, SqliteStore};
use bugle_types::{FunctionName, SealedEnvironment};
use serde_json::json;

use super::{Desk, small, with};

const CANARY: &str = "a-canary-that-must-not-be-found";

fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    let found = files.filter(|file| {
        let bytes = std::fs::read(file.path()).unwrap();
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    });
    found
        .map(|file| file.file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn no_file_holds_a_variable_or_a_token_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let config = bugle_store::Config::default();
    let store = SqliteStore::open(folder.path(), &config, Metrics::default()).unwrap();
    let desk = Desk::over(Arc::new(store), Config::default()).await;
    let body = with(
        small("0@svc@f"),
        json!({
            "environment": {"SECRET": CANARY}, "description": "not-secret-at-all",
            "storageType": "s3",
            "s3CodePath": {"bucketId": "b", "objectId": "o", "token": CANARY},
        }),
    );
    let draft = desk.register(body).await.unwrap();
    let body = json!({"revisionId": draft.revision_id, "versionNumber": "v1", "kind": "faas"});
    desk.publish("0@svc@f", body).await.unwrap();
    assert!(
        !files_with(folder.path(), "not-secret-at-all").is_empty(),
        "the search finds texts"
    );
    assert_eq!(files_with(folder.path(), CANARY), Vec::<String>::new());
    // Who registered it sees it, as the contract says.
    let function = serde_json::to_value(desk.get("0@svc@f", "v1").await.unwrap()).unwrap();
    assert_eq!(function["environment"]["SECRET"], CANARY);
}

#[tokio::test]
async fn what_is_published_opens_for_its_function_alone() {
    let desk = Desk::new().await;
    let body = with(small("0@svc@f"), json!({"environment": {"SECRET": CANARY}}));
    desk.register(body).await.unwrap();
    let key = "/sn/functions/business/yrk/tenant/default/function/0@svc@f/version/latest";
    let published = desk.stored(key).await.unwrap();
    let sealed = published["envMetaData"]["environment"].as_str().unwrap();
    assert!(!sealed.contains(CANARY));
    assert_ne!(published["envMetaData"]["cryptoAlgorithm"], "NO_CRYPTO");
    let sealed = SealedEnvironment(sealed.to_owned());
    let keyring = Keyring::open(desk.folder.path()).unwrap();
    let open = |tenant: &str, name: &str| {
        let name: FunctionName = name.parse().unwrap();
        keyring.open_environment(&tenant.parse().unwrap(), &name, &sealed)
    };
    assert_eq!(open("default", "0@svc@f").unwrap()["SECRET"], CANARY);
    assert!(open("default", "0@svc@g").is_err());
    assert!(open("other", "0@svc@f").is_err());
    let stranger = tempfile::tempdir().unwrap();
    let stranger = Keyring::open(stranger.path()).unwrap();
    let name: FunctionName = "0@svc@f".parse().unwrap();
    let error = stranger.open_environment(&"default".parse().unwrap(), &name, &sealed);
    assert!(matches!(error, Err(KeyringError::Unopenable)), "{error:?}");
}
