//! Functions that are container images (contract `container-image` 2).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bugle_registry::{Config, Resolve, Resolved};
use bugle_store::MemoryStore;
use bugle_types::{
    CodeLocation, ContainerNetwork, ContainerSpec, FunctionSpec, HealthCheck, ImageRuntime,
    Initialization, Mount, Runtime,
};
use serde_json::{Value, json};

use super::{Desk, NAME};

const IMAGE: &str = "registry.example/team/thumb:1.4.2";

fn image(container: Value, more: Value) -> Value {
    let mut config = json!({"image": IMAGE});
    merge(&mut config, container);
    let mut extended = json!({"custom_container_config": config});
    merge(&mut extended, more);
    json!({"runtime": "Custom Image", "kind": "faas", "extendedMetaData": extended})
}

fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else {
        panic!("{from} is an object")
    };
    for (key, value) in from {
        into[key] = value;
    }
}

async fn spec(desk: &Desk, version: &str) -> FunctionSpec {
    let id = desk
        .caller
        .id(NAME.parse().unwrap(), version.parse().unwrap());
    let spec = bugle_registry::specification(&*desk.store, &id).await;
    spec.unwrap().unwrap()
}

fn container(spec: FunctionSpec) -> ContainerSpec {
    let CodeLocation::Image(container) = spec.code else {
        panic!("{:?} is an image", spec.code)
    };
    *container
}

/// A registry that gives another digest each time it is asked.
fn counting() -> Resolve {
    let asked = AtomicUsize::new(0);
    Arc::new(move |_| {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { Resolved::Digest(format!("sha256:{number:064}")) })
    })
}

async fn desk(resolve: Resolve) -> Desk {
    Desk::resolving(Arc::new(MemoryStore::new()), Config::default(), resolve).await
}

#[tokio::test]
async fn an_image_alone_gets_the_contracts_defaults() {
    let desk = Desk::new().await;
    let shown = desk.registered(image(json!({}), json!({}))).await;
    assert_eq!(shown.runtime, "custom image");
    assert_eq!(
        shown
            .container
            .unwrap()
            .settings
            .custom_container_config
            .image,
        IMAGE
    );
    let spec = spec(&desk, "latest").await;
    assert_eq!(spec.runtime, Runtime::Image(ImageRuntime::Event));
    assert_eq!(spec.initializer, None);
    assert_eq!(
        container(spec),
        ContainerSpec {
            image: IMAGE.to_owned(),
            digest: None,
            command: Vec::new(),
            args: Vec::new(),
            working_dir: None,
            uid: 1003,
            gid: 1003,
            initialization: Initialization::Auto,
            network: ContainerNetwork::Nat,
            health: None,
            shutdown: None,
            disk_mib: 512,
            mounts: Vec::new(),
        }
    );
}

#[tokio::test]
async fn every_setting_of_an_image_reaches_who_runs_it() {
    for kind in ["faas", "custom"] {
        let desk = Desk::new().await;
        let mut request = image(
            json!({"command": ["/bin/sh"], "args": ["-c", "exec /srv/app"], "working_dir": "/srv",
                "uid": 2000, "gid": 3000}),
            json!({
                "initializer": {"initializer_handler": "-", "initializer_timeout": 30},
                "custom_health_check": {"timeoutSeconds": 1, "periodSeconds": 5,
                    "failureThreshold": 3},
                "runtime_graceful_shutdown": {"maxShutdownTimeout": 30},
                "network_controller": {"disable_public_network": true},
                "mount_config": {"func_mounts": [{"mount_type": "host", "mount_resource": "data",
                    "local_mount_path": "/mnt/data"}]},
                "ephemeral_storage": 10_240,
            }),
        );
        request["kind"] = json!(kind);
        desk.registered(request).await;
        let spec = spec(&desk, "latest").await;
        let initializer = spec.initializer.as_ref().unwrap();
        assert_eq!(initializer.timeout, Duration::from_secs(30), "{kind}");
        let container = container(spec);
        assert_eq!(container.command, ["/bin/sh"]);
        assert_eq!(container.args, ["-c", "exec /srv/app"]);
        assert_eq!(container.working_dir.as_deref(), Some("/srv"));
        assert_eq!((container.uid, container.gid), (2000, 3000));
        assert_eq!(container.initialization, Initialization::Strict);
        assert_eq!(container.network, ContainerNetwork::None);
        assert_eq!(
            container.health,
            Some(HealthCheck {
                timeout: Duration::from_secs(1),
                period: Duration::from_secs(5),
                failures: 3.try_into().unwrap(),
            })
        );
        assert_eq!(container.shutdown, Some(Duration::from_secs(30)));
        assert_eq!(container.disk_mib, 10_240);
        let data = Mount {
            name: "data".to_owned(),
            target: "/mnt/data".to_owned(),
        };
        assert_eq!(container.mounts, [data]);
    }
}

#[tokio::test]
async fn the_runtime_http_is_an_image_only_with_one() {
    let desk = Desk::new().await;
    let mut request = image(json!({}), json!({}));
    request["runtime"] = json!("http");
    desk.registered(request).await;
    let with = spec(&desk, "latest").await;
    assert_eq!(with.runtime, Runtime::Image(ImageRuntime::Http));
    assert_eq!(container(with).initialization, Initialization::Never);

    let desk = Desk::new().await;
    desk.registered(json!({"runtime": "http", "kind": "faas"}))
        .await;
    let without = spec(&desk, "latest").await;
    assert!(matches!(without.runtime, Runtime::Program(_)));
    assert_eq!(without.code, CodeLocation::None);
}

#[tokio::test]
async fn an_image_runtime_without_an_image_is_refused() {
    let desk = Desk::new().await;
    let request = super::small_with(json!({"runtime": "custom image", "kind": "faas"}));
    let error = desk.register(request).await.unwrap_err();
    assert!(
        error.message.contains("custom_container_config.image"),
        "{error}"
    );
}

#[tokio::test]
async fn none_as_initializer_means_that_there_is_none() {
    let desk = Desk::new().await;
    let none = json!({"initializer": {"initializer_handler": "none"}});
    desk.registered(image(json!({}), none)).await;
    let spec = spec(&desk, "latest").await;
    assert_eq!(spec.initializer, None);
    assert_eq!(container(spec).initialization, Initialization::Never);
}

#[tokio::test]
async fn a_published_version_keeps_its_digest_when_the_tag_moves() {
    let desk = desk(counting()).await;
    desk.registered(image(json!({}), json!({}))).await;
    let digest = |number: usize| Some(format!("sha256:{number:064}"));
    assert_eq!(container(spec(&desk, "latest").await).digest, digest(0));
    desk.published(["v1"]).await;
    desk.updated(image(json!({}), json!({}))).await.unwrap();
    assert_eq!(container(spec(&desk, "latest").await).digest, digest(1));
    assert_eq!(container(spec(&desk, "v1").await).digest, digest(0));
}

#[tokio::test]
async fn an_update_that_does_not_speak_of_the_image_keeps_its_settings() {
    let desk = Desk::new().await;
    desk.registered(image(json!({"uid": 2000}), json!({})))
        .await;
    desk.updated(json!({"kind": "faas", "memory": 256}))
        .await
        .unwrap();
    assert_eq!(container(spec(&desk, "latest").await).uid, 2000);
}

#[tokio::test]
async fn only_an_image_that_is_certainly_missing_is_refused() {
    let missing: Resolve =
        Arc::new(|_| Box::pin(async { Resolved::Missing("404 Not Found".to_owned()) }));
    let refusing = desk(missing).await;
    let request = super::small_with(image(json!({}), json!({})));
    let error = refusing.register(request).await.unwrap_err();
    assert!(
        error.message.starts_with("The image does not exist."),
        "{error}"
    );

    let unreachable = Desk::new().await;
    let digest = format!("sha256:{:064}", 7);
    let named = json!({"image": format!("{IMAGE}@{digest}")});
    unreachable.registered(image(named, json!({}))).await;
    assert_eq!(
        container(spec(&unreachable, "latest").await).digest,
        Some(digest)
    );
}
