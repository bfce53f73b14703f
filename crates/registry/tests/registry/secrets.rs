//! Variables and keys of functions: on disk and in logs there is nothing of them (contract 7.3, 10.9).

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use bugle_store::{SqliteStore, Store};
use bugle_types::{Code, FunctionName, SealedEnvironment};
use parking_lot::Mutex;
use serde_json::{Value, json};

use bugle_registry::{Config, Keyring, KeyringError};

use super::{Desk, NAME, refusal, small, small_with, with};

/// A word that is nowhere else.
const CANARY: &str = "canary-8d1f0c";

/// The same in Base64 at each of the three offsets, without the ends that depend on neighbours.
const ENCODED: [&str; 3] = ["Y2FuYXJ5LThkMWYw", "NhbmFyeS04ZDFmMG", "jYW5hcnktOGQxZjBj"];

/// Where log lines go in a test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Collects everything that this thread logs.
fn logged() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}

fn durable(folder: &Path) -> Arc<dyn Store> {
    let metrics = bugle_store::Metrics::default();
    Arc::new(SqliteStore::open(folder, &bugle_store::Config::default(), metrics).unwrap())
}

/// A registry whose store is in `folder`, with a new key that is elsewhere.
async fn over(folder: &Path) -> Desk {
    Desk::over(durable(folder), Config::default()).await
}

/// A function with a secret in every field that can hold one.
fn secretive() -> Value {
    json!({
        "environment": {"K": CANARY, "YR_SSL_PASSPHRASE": CANARY}, "storageType": "s3",
        "s3CodePath": {"bucketId": "b", "objectId": "o", "token": CANARY},
        "rootfs": {"type": "s3", "storageInfo": {"endpoint": "e", "bucket": "b", "object": "o",
            "accessKey": CANARY, "secretKey": CANARY}},
    })
}

fn assert_clean(what: &str, bytes: &[u8]) {
    for word in [&[CANARY][..], &ENCODED].concat() {
        let found = bytes
            .windows(word.len())
            .any(|window| window == word.as_bytes());
        assert!(!found, "{what} holds {word}");
    }
}

fn assert_folder_is_clean(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert_clean(&path.display().to_string(), &std::fs::read(&path).unwrap());
    }
}

#[tokio::test]
async fn no_byte_on_disk_and_no_log_line_holds_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (log, guard) = logged();
    {
        let desk = over(folder.path()).await;
        desk.registered(secretive()).await;
        assert_folder_is_clean(folder.path());
        desk.published(["v1"]).await;
        desk.updated(secretive()).await.unwrap();
        desk.updated(json!({"environment": {"K": format!("{CANARY}-2")}}))
            .await
            .unwrap();
        for refused in [
            desk.updated(with(secretive(), json!({"revisionId": "other"})))
                .await,
            desk.register(small_with(secretive())).await,
            desk.updated(with(secretive(), json!({"cpu": 1}))).await,
        ] {
            assert_clean("an error", format!("{:?}", refused.unwrap_err()).as_bytes());
        }
        assert_clean(
            "the registry as text",
            format!("{:?}", desk.registry).as_bytes(),
        );
        assert_folder_is_clean(folder.path());
        desk.delete(NAME, "latest").await.unwrap();
        desk.close().await;
    }
    drop(guard);
    assert_folder_is_clean(folder.path());
    assert_clean("the log", &log.0.lock());
}

#[tokio::test]
async fn answers_show_variables_but_neither_the_passphrase_nor_keys() {
    let desk = Desk::new().await;
    let registered = desk.registered(secretive()).await;
    for shown in [
        registered,
        desk.get(NAME, "").await.unwrap(),
        desk.updated(secretive()).await.unwrap(),
    ] {
        assert_eq!(shown.environment["K"], CANARY);
        assert_eq!(shown.environment["YR_SSL_PASSPHRASE"], "******");
        let info = &shown.rootfs.storage_info;
        assert_eq!(
            (info.access_key.as_str(), info.secret_key.as_str()),
            ("******", "******")
        );
    }
}

#[tokio::test]
async fn equal_variables_keep_their_sealed_text() {
    let desk = Desk::new().await;
    desk.registered(json!({"environment": {"K": "v"}})).await;
    let key = format!("/sn/functions/business/yrk/tenant/default/function/{NAME}/version/latest");
    let sealed = async || desk.value(&key).await["envMetaData"]["environment"].clone();
    let before = sealed().await;
    for fields in [
        json!({}),
        json!({"environment": null}),
        json!({"environment": {"K": "v"}}),
    ] {
        desk.updated(fields).await.unwrap();
        assert_eq!(sealed().await, before);
    }
    desk.updated(json!({"environment": {"K": "w"}}))
        .await
        .unwrap();
    assert_ne!(sealed().await, before);
    desk.updated(json!({"environment": {}})).await.unwrap();
    assert_eq!(sealed().await, "{}");
}

#[tokio::test]
async fn another_key_is_noticed_and_told() {
    let folder = tempfile::tempdir().unwrap();
    {
        let desk = over(folder.path()).await;
        desk.registered(secretive()).await;
        desk.registered(json!({"name": "plain"})).await;
        desk.close().await;
    }
    let (log, guard) = logged();
    let desk = over(folder.path()).await;
    let (code, message) = refusal(desk.get(NAME, "").await);
    drop(guard);
    assert_eq!(code, Code::UnmarshalFailed);
    assert_eq!(
        message,
        "the encrypted variables do not open with this deployment's key"
    );
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(
        log.contains(NAME) && log.contains("stored variables cannot be read"),
        "{log}"
    );
    assert_clean("the log", log.as_bytes());
    // What needs no key works, and what cannot be read can be replaced.
    assert_eq!(desk.get("plain", "").await.unwrap().name, "plain");
    desk.delete(NAME, "latest").await.unwrap();
    let again = desk.registered(secretive()).await;
    assert_eq!(again.environment["K"], CANARY);
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
